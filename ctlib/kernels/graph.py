"""A step of training as one CUDA graph: a small network's step is bound by launching its operations, one by one."""

from collections.abc import Callable

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
        self.inputs = [x.clone() for x in inputs]
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        kept = [*self.model.buffers(), *(parameter.grad for parameter in learned)]
        before = [tensor.clone() for tensor in kept]
        devices = {x.device for x in self.inputs if x.is_cuda}
        with torch.random.fork_rng(devices):  # dropout of the first step is that of a step that is not captured
            self.replay, self.output = capture(lambda: self.step(*self.inputs))
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
    with torch.cuda.graph(graph):
        output = function()
    return graph.replay, output
