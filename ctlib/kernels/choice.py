"""Which of several equal ways an operation takes on a GPU: the fastest, timed once per shape and precision.

cuDNN's benchmark mode does the same among its own algorithms. On a CPU nothing is timed, and the plain way is taken.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch

from ctlib.config import KERNELS, check_choice
from ctlib.kernels.graph import capture

DEVICES = {"cuda"}  # types of devices on which ways are timed

Way = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Choice:
    way: str
    milliseconds: dict[str, float] = field(default_factory=dict)  # of each way; empty for one that was kept in a record
    failed: dict[str, str] = field(default_factory=dict)  # ways that cannot be had here, and why

    def _replaced(self, way: str) -> "Choice":
        """This way or the plain one, which was timed first."""
        if not self.milliseconds:
            return self
        return replace(self, way=way if way in self.milliseconds else next(iter(self.milliseconds)))


_choices: dict[str, Choice] = {}  # by operation, shapes, precision and whether gradients are asked for
_used: set[str] = set()  # of these, since `begin_record`
_met: set[str] = set()  # shapes without gradients that came once
_tried: set[str] = set()  # choices of a record that run here
GAIN = 0.97  # of the plain way's time: what another way takes at most
_mode = "auto"
_in_graphs = False


def use(mode: str) -> None:
    """Time ways and take the fastest ("auto", the default), or take the plain way everywhere ("plain").

    A training run has a setting of its own, `compute.kernels`. Only the plain way has gradients of gradients.

    Raises:
        ValueError: another mode.
    """
    global _mode
    check_choice("kernels", mode, KERNELS)
    _mode = mode


@contextmanager
def using(mode: str):
    """`use` for a while."""
    before = _mode
    use(mode)
    try:
        yield
    finally:
        use(before)


@contextmanager
def preferring(way: str):
    """Inside, what was timed takes this way where it could be had, and the plain way elsewhere: for benchmarks."""
    global _choices
    before = _choices
    _choices = {key: choice._replaced(way) for key, choice in before.items()}
    try:
        yield
    finally:
        _choices = before


def timed_ways() -> list[str]:
    """The names of all ways that were timed in this process."""
    return list(dict.fromkeys(way for choice in _choices.values() for way in choice.milliseconds))


@contextmanager
def in_graphs():
    """Ways are chosen for a CUDA graph, by the device's time alone.

    Elsewhere the time to launch a way counts too, which is most of it for small inputs.
    """
    global _in_graphs
    before, _in_graphs = _in_graphs, True
    try:
        yield
    finally:
        _in_graphs = before


def applies(x: torch.Tensor) -> bool:
    """Whether ways are chosen for this tensor."""
    return _mode == "auto" and x.device.type in DEVICES


def report() -> str:
    """What was chosen so far in this process: one line per operation, shape and precision."""
    lines = []
    for key, choice in sorted(_choices.items()):
        times = ", ".join(f"{way} {value:.3f} ms" for way, value in choice.milliseconds.items())
        failed = "".join(f"; {way} failed: {why}" for way, why in choice.failed.items())
        lines.append(f"{key}: {choice.way} ({times or 'from a record'}{failed})")
    return "\n".join(lines) or "nothing was chosen: on a CPU, and before the first step, operations are the plain ones"


def begin_record(ways: Mapping[str, str] = MappingProxyType({})) -> None:
    """From here on `recorded` counts. `ways`, of an earlier record, are taken without being timed."""
    for key in [key for key, choice in _choices.items() if not choice.milliseconds]:
        del _choices[key]  # of another run's record
    _used.clear()
    _used.update(ways)  # a run that resumes after its last step meets them no more
    _choices.update({key: Choice(way) for key, way in ways.items()})


def recorded() -> dict[str, str]:
    """The way of each operation, shape and precision that was met since `begin_record`."""
    return {key: _choices[key].way for key in sorted(_used)}


def fastest(operation: str, ways: Mapping[str, Way], *inputs: torch.Tensor) -> str:
    """The name of the fastest way for inputs of these shapes; the first way is the plain one.

    Without gradients the plain way is taken when a shape is met first, and ways are timed when it comes again: the
    last batch of a list has a size of its own. While a graph is compiled or captured nothing can be timed. Then it is
    what was chosen before, or the plain way.

    Args:
        operation: its name.
        ways: of the inputs to one output, all with equal values. What raises here is left out.
        inputs: of the call that waits. They are not changed.
    """
    backward = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    key = _key(operation, inputs, backward)
    plain = next(iter(ways))
    fixed = torch.compiler.is_compiling() or (inputs[0].is_cuda and torch.cuda.is_current_stream_capturing())
    if not fixed and not (key in _choices and (_choices[key].milliseconds or _runs(ways, key, inputs, backward))):
        if not backward and key not in _met:
            _met.add(key)
            return plain
        _choices[key] = _timed(ways, inputs, backward)
    way = _chosen(key)
    return way if way in ways else plain


@torch.compiler.assume_constant_result
def _chosen(key: str) -> str:
    if key not in _choices:
        return ""
    _used.add(key)
    return _choices[key].way


def _key(operation: str, inputs: tuple[torch.Tensor, ...], backward: bool) -> str:
    shapes = " by ".join("x".join(str(int(extent)) for extent in x.shape) for x in inputs)
    device = inputs[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs[0].dtype
    what = ("training" if backward else "inference") + (" in a graph" if _in_graphs else "")
    return f"{operation} {shapes}, {str(dtype).removeprefix('torch.')}, {what}"


def _runs(ways: Mapping[str, Way], key: str, inputs: tuple[torch.Tensor, ...], backward: bool) -> bool:
    """Whether a way that a record asks for can be had here, which is tried once."""
    choice = _choices[key]
    if choice.way in ways and key not in _tried:
        try:
            _milliseconds(ways[choice.way], inputs, backward, rounds=0)
        except Exception:  # as in `_timed`
            return False
        _tried.add(key)
    return choice.way in ways


def _timed(ways: Mapping[str, Way], inputs: tuple[torch.Tensor, ...], backward: bool) -> Choice:
    milliseconds, failed = {}, {}
    plain = next(iter(ways))
    for name, way in ways.items():
        try:
            milliseconds[name] = _milliseconds(way, inputs, backward)
        except Exception as error:  # no compiler, no Triton, no memory: whatever keeps it from running here
            if name == plain:
                raise
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    best = min(milliseconds, key=milliseconds.get)
    if milliseconds[best] > GAIN * milliseconds[plain]:  # noise must not decide
        best = plain
    return Choice(best, milliseconds, failed)


def _milliseconds(way: Way, inputs: tuple[torch.Tensor, ...], backward: bool, rounds: int = 5, calls: int = 3) -> float:
    copies = [x.detach().requires_grad_(backward and x.requires_grad) for x in inputs]

    def call() -> torch.Tensor:
        for _ in range(calls):  # one after another without waiting, as in a network
            out = way(*copies)
            if backward:
                torch.autograd.grad(out, [x for x in copies if x.requires_grad], torch.ones_like(out))
        return out

    times = []
    with kept_by_autograd():
        timed = capture(call, inputs[0].device)[0] if _in_graphs and inputs[0].is_cuda else call
        for number in range(rounds + 1):  # the first warms up
            _wait(inputs[0])
            began = time.perf_counter()
            timed()
            _wait(inputs[0])
            if number:
                times.append(1000 * (time.perf_counter() - began) / calls)
    return statistics.median(times) if times else 0.0


def kept_by_autograd():
    """Inside, what is computed is kept for its backward pass, even where activations are to be computed again."""
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def _wait(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
