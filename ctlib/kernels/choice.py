"""Which of several equal ways an operation takes on a GPU: the fastest, timed once per shape and precision.

cuDNN's benchmark mode does the same among its own algorithms. On a CPU nothing is timed, and the plain way is taken.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from ctlib.config import KERNELS, check_choice

DEVICES = {"cuda"}  # types of devices on which ways are timed

Way = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Choice:
    way: str
    milliseconds: dict[str, float] = field(default_factory=dict)  # of each way; empty for one that was kept in a record
    failed: dict[str, str] = field(default_factory=dict)  # ways that cannot be had here, and why


_choices: dict[str, Choice] = {}  # by operation, shapes, precision and whether gradients are asked for
_used: set[str] = set()  # of these, since `begin_record`
_mode = "auto"


def use(mode: str) -> None:
    """Time ways and take the fastest ("auto", the default), or take the plain way everywhere ("plain").

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
    _used.clear()
    _choices.update({key: Choice(way) for key, way in ways.items()})


def recorded() -> dict[str, str]:
    """The way of each operation, shape and precision that was met since `begin_record`."""
    return {key: _choices[key].way for key in sorted(_used)}


def forget() -> None:
    """Time everything again."""
    _choices.clear()
    _used.clear()


def fastest(operation: str, ways: Mapping[str, Way], *inputs: torch.Tensor) -> str:
    """The name of the fastest way for inputs of these shapes; the first way is the plain one.

    While a graph is compiled or captured nothing can be timed: then it is what was chosen before, or the plain way.

    Args:
        operation: its name.
        ways: of the inputs to one output, all with equal values. What raises here is left out.
        inputs: of the call that waits. They are not changed.
    """
    backward = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    key = _key(operation, inputs, backward)
    plain = next(iter(ways))
    if torch.compiler.is_compiling() or (inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()):
        way = _kept(key)
    else:
        if key not in _choices:
            _choices[key] = _timed(ways, inputs, backward)
        _used.add(key)
        way = _choices[key].way
    return way if way in ways else plain


@torch.compiler.assume_constant_result
def _kept(key: str) -> str:
    return _choices[key].way if key in _choices else ""


def _key(operation: str, inputs: tuple[torch.Tensor, ...], backward: bool) -> str:
    shapes = " by ".join("x".join(str(extent) for extent in x.shape) for x in inputs)
    device = inputs[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs[0].dtype
    return f"{operation} {shapes}, {str(dtype).removeprefix('torch.')}, {'training' if backward else 'inference'}"


def _timed(ways: Mapping[str, Way], inputs: tuple[torch.Tensor, ...], backward: bool) -> Choice:
    milliseconds, failed = {}, {}
    for name, way in ways.items():
        try:
            milliseconds[name] = _milliseconds(way, inputs, backward)
        except Exception as error:  # no compiler, no Triton, no memory: whatever keeps it from running here
            if not milliseconds:
                raise  # the plain one
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return Choice(min(milliseconds, key=milliseconds.get), milliseconds, failed)


def _milliseconds(way: Way, inputs: tuple[torch.Tensor, ...], backward: bool, rounds: int = 5, calls: int = 3) -> float:
    copies = [x.detach().requires_grad_(backward and x.requires_grad) for x in inputs]

    def call() -> None:
        out = way(*copies)
        if backward:
            torch.autograd.grad(out, [x for x in copies if x.requires_grad], torch.ones_like(out))

    times = []
    for number in range(rounds + 1):  # the first warms up: it compiles, and cuDNN looks for an algorithm
        _wait(inputs[0])
        began = time.perf_counter()
        for _ in range(calls):  # one after another without waiting, as in a network
            call()
        _wait(inputs[0])
        if number:
            times.append(1000 * (time.perf_counter() - began) / calls)
    return statistics.median(times)


def _wait(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
