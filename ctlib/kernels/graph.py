"""CUDA graphs of a training step and of inference: small inputs take less time than launching their operations."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ctlib.files import one_line

WARM_UPS = 3  # calls before the capture, in which libraries choose algorithms and take memory


class StepGraph:
    """A forward and backward pass, captured at the first call and replayed on the inputs of the later ones.

    Args:
        step: of inputs of fixed shapes to a tensor; it adds to the gradients of `model` and may change its buffers.
        model: on a GPU.
        adds: a replay adds to the gradients that are there, so zero them without setting them to None. Otherwise it
            writes over them, which takes fewer operations.
    """

    def __init__(self, step: Callable[..., torch.Tensor], model: nn.Module, adds: bool = True):
        self.step, self.model, self.adds = step, model, adds
        self.inputs: list[torch.Tensor] = []

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        if not self.inputs:
            self._capture(inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            if mine.shape != given.shape:
                raise ValueError(f"a graph of inputs of {tuple(mine.shape)} got {tuple(given.shape)}")
            mine.copy_(given)
        self.replay()
        return self.output.clone()

    def _capture(self, inputs: tuple[torch.Tensor, ...]) -> None:
        own = [x.clone() for x in inputs]

        def step() -> torch.Tensor:
            if not self.adds:  # the backward pass then makes gradients anew, within the graph
                self.model.zero_grad(set_to_none=True)
            return self.step(*own)

        with untouched(self.model), _one_line_error():
            self.replay, self.output = capture(step, own[0].device)
        self.inputs = own


class UpdateGraph:
    """The rest of a step, which changes the parameters, captured at the first call.

    Args:
        update: takes no argument; it reads the gradients and may change them.
        optimizer: SGD; its learning rates become tensors, which every call fills.
    """

    def __init__(self, update: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer):
        self.update, self.optimizer = update, optimizer
        self.replay: Callable[[], None] | None = None

    def __call__(self, rates: Iterable[float]) -> None:
        """One update, with these learning rates of the groups."""
        if self.replay is None:
            self._capture()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"].fill_(rate)
        self.replay()

    def _capture(self) -> None:
        groups = self.optimizer.param_groups
        learned = [parameter for group in groups for parameter in group["params"] if parameter.grad is not None]
        for group in groups:
            group["lr"] = torch.tensor(0.0, device=learned[0].device)
        for parameter in learned:  # what a first step would begin with
            self.optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        momentum = [self.optimizer.state[parameter]["momentum_buffer"] for parameter in learned]
        changed = [*learned, *(parameter.grad for parameter in learned), *momentum]
        with torch.no_grad(), restored(changed), _one_line_error():
            self.replay, _ = capture(self.update, learned[0].device)


class InferenceGraph:
    """A network on clips of one shape, captured at the first call and replayed later.

    Args:
        network: on a GPU, in evaluation mode.
    """

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor]):
        self.network = network
        self.clips: torch.Tensor | None = None

    @torch.inference_mode(False)  # or what is captured under it could not be called outside
    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        if self.clips is None:
            own = clips.clone()
            self.replay, self.scores = capture(lambda: self.network(own), own.device)
            self.clips = own
        self.clips.copy_(clips)
        self.replay()
        return self.scores.clone()


@contextmanager
def _one_line_error() -> Iterator[None]:
    """What cannot be captured, such as a step that waits for the GPU, is a ValueError of one line."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(f"a step cannot be a CUDA graph ({one_line(error)}): set compute.graph=false") from error


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Afterwards buffers, gradients and random numbers are as before; gradients that were None are zeros."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    devices = {parameter.device for parameter in learned if parameter.is_cuda}
    kept = [*model.buffers(), *(parameter.grad for parameter in learned)]
    with restored(kept), torch.random.fork_rng(devices):
        yield


@contextmanager
def restored(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Afterwards they hold what they held before."""
    before = [tensor.detach().clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def capture(function: Callable[[], torch.Tensor], device: torch.device) -> tuple[Callable[[], None], torch.Tensor]:
    """What replays a function on a GPU, and the tensor that holds its output then. It is called some times before."""
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                function()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # On the same stream, where autograd has left what adds to gradients. A loader's thread pins memory meanwhile,
        # which "global", the default, would take for a part of the capture.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            output = function()
    return graph.replay, output
