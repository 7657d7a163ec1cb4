"""A step of training as one CUDA graph: a small network's step is bound by launching its operations, one by one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

WARM_UPS = 3  # calls before the capture, in which libraries choose algorithms and take memory


class StepGraph:
    """A forward and backward pass, captured at the first call and replayed on the inputs of the later ones.

    Gradients are added to those that are there, so they must stay: zero them without setting them to None.

    Args:
        step: of inputs of fixed shapes to a tensor; it adds to the gradients of `model` and may change its buffers.
        model: on a GPU.
    """

    def __init__(self, step: Callable[..., torch.Tensor], model: nn.Module):
        self.step, self.model = step, model
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
        with untouched(self.model):
            self.replay, self.output = capture(lambda: self.step(*own))
        self.inputs = own


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Afterwards buffers, gradients and random numbers are as before; gradients that were None are zeros."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    kept = [*model.buffers(), *(parameter.grad for parameter in learned)]
    before = [tensor.clone() for tensor in kept]
    with torch.random.fork_rng({parameter.device for parameter in learned if parameter.is_cuda}):
        yield
    for tensor, value in zip(kept, before, strict=True):
        tensor.copy_(value)


def capture(function: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """What replays a function, and the tensor that holds its output then. It is called some times before."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # A loader's thread pins memory meanwhile, which "global", the default, would take for a part of the capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = function()
    return graph.replay, output
