"""Tensor Excitation of a sub-operation, Eq. (6) to (8), in six passes over its features, three of them forward.

Features are those of the spatial and of the temporal branch before their ReLU, (N, C, T, H, W) with channels last.
Gates are small: they see averages only. The mean that the channel gate sees is written as that of the gated spatial
features, plus the temporal gate times a mean that is known already.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from ctlib.kernels.choice import kept_by_autograd


class Gate(NamedTuple):
    """Averaged features -> their gate, in (0, 1), of the same shape; and the parameters that it is made with."""

    of: Callable[[torch.Tensor], torch.Tensor]
    parameters: tuple[torch.nn.Parameter, ...] = ()


Gates = tuple[Gate, Gate, Gate]  # of the spatial map (N, C, 1, H, W), of the frames (N, C, T, 1, 1), of their channels


class Passes(NamedTuple):
    """The passes over features, each of which reads every value once."""

    averages: Callable  # of both branches: over frames, and over each frame
    gated_average: Callable  # of the gated spatial branch over each frame
    combine: Callable  # the output
    sums: Callable  # of the output's gradient times each branch over each frame
    map_gradient: Callable  # of the spatial gate
    branch_gradients: Callable  # of both branches


def excite_in_passes(spatial: torch.Tensor, temporal: torch.Tensor, gates: Gates, passes: Passes) -> torch.Tensor:
    """As `gating.excite_plain`, without gradients of gradients."""
    parameters = [parameter for gate in gates for parameter in gate.parameters]
    if torch.is_grad_enabled() and any(x.requires_grad for x in (spatial, temporal, *parameters)):
        return _Excite.apply(spatial, temporal, gates, passes, *parameters)
    map_mean, frame_mean = passes.averages(spatial, temporal)
    map_gate, frame_gate = gates[0].of(map_mean.to(spatial.dtype)), gates[1].of(frame_mean.to(spatial.dtype))
    both_mean = passes.gated_average(spatial, map_gate) + frame_gate * frame_mean
    return passes.combine(spatial, temporal, map_gate, frame_gate, gates[2].of(both_mean.to(spatial.dtype)))


class _Excite(torch.autograd.Function):
    """Autograd sees one operation; within it, the gates have graphs of their own."""

    @staticmethod
    def forward(ctx, spatial, temporal, gates: Gates, passes: Passes, *_parameters):
        map_mean, frame_mean = passes.averages(spatial, temporal)
        dtype = spatial.dtype
        inner = [_Inner(gates[0], map_mean.to(dtype)), _Inner(gates[1], frame_mean.to(dtype))]
        map_gate, frame_gate = (gate.output.detach() for gate in inner)
        both_mean = passes.gated_average(spatial, map_gate) + frame_gate * frame_mean
        inner.append(_Inner(gates[2], both_mean.to(dtype)))
        ctx.save_for_backward(spatial, temporal, map_gate, frame_gate, frame_mean)
        ctx.inner, ctx.passes = inner, passes
        return passes.combine(spatial, temporal, map_gate, frame_gate, inner[2].output.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        spatial, temporal, map_gate, frame_gate, frame_mean = ctx.saved_tensors
        frames, pixels = spatial.shape[2], spatial.shape[3:].numel()
        of_map, of_frames, of_channels = ctx.inner
        channel_gate = of_channels.output.detach()
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        gated_sum, temporal_sum = ctx.passes.sums(gradient, spatial, temporal, map_gate)
        mean_gradient, channel_parameters = of_channels.backward(gated_sum + frame_gate * temporal_sum)
        each = mean_gradient / pixels  # what reaches every value of the sum through the channel gate
        # Gates in the order of the plain way: with batch norms over several processes, all must wait for the same one.
        frame_gradient, frame_parameters = of_frames.backward(channel_gate * temporal_sum + mean_gradient * frame_mean)
        map_gradient, map_parameters = of_map.backward(ctx.passes.map_gradient(gradient, spatial, channel_gate, each))
        branches = ctx.passes.branch_gradients(
            gradient, spatial, temporal, map_gate, frame_gate, channel_gate, each,
            map_gradient / frames, frame_gradient / pixels,
        )  # fmt: skip
        return *branches, None, None, *map_parameters, *frame_parameters, *channel_parameters


class _Inner:
    """A gate's own graph, from the averages to the gate."""

    def __init__(self, gate: Gate, mean: torch.Tensor):
        self.parameters = [parameter for parameter in gate.parameters if parameter.requires_grad]
        self.wanted = [parameter.requires_grad for parameter in gate.parameters]
        # Kept, even where activations are computed again: each gate's backward pass would compute its block anew.
        with torch.enable_grad(), kept_by_autograd():
            self.mean = mean.detach().requires_grad_()
            self.output = gate.of(self.mean)

    def backward(self, gradient: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Of the averages, and of every parameter of the gate."""
        inputs = [self.mean, *self.parameters]
        # Kept for a caller who keeps the whole graph; it is small, and goes with it.
        of_mean, *found = torch.autograd.grad(self.output, inputs, gradient.to(self.output.dtype), retain_graph=True)
        found = iter(found)
        return of_mean, [next(found) if wanted else None for wanted in self.wanted]


# The passes in PyTorch: the plain versions of those in Triton.


def wide(dtype: torch.dtype) -> torch.dtype:
    """Of sums and averages."""
    return torch.promote_types(dtype, torch.float32)


def averages(spatial, temporal) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = wide(spatial.dtype)
    return F.relu(spatial).mean(2, keepdim=True, dtype=dtype), F.relu(temporal).mean((3, 4), keepdim=True, dtype=dtype)


def gated_average(spatial, map_gate) -> torch.Tensor:
    return (F.relu(spatial) * map_gate).mean((3, 4), keepdim=True, dtype=wide(spatial.dtype))


def combine(spatial, temporal, map_gate, frame_gate, channel_gate) -> torch.Tensor:
    return ((F.relu(spatial) * map_gate + F.relu(temporal) * frame_gate) * channel_gate).to(spatial.dtype)


def sums(gradient, spatial, temporal, map_gate) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = wide(spatial.dtype)
    gated = (gradient * F.relu(spatial) * map_gate).sum((3, 4), keepdim=True, dtype=dtype)
    return gated, (gradient * F.relu(temporal)).sum((3, 4), keepdim=True, dtype=dtype)


def map_gradient(gradient, spatial, channel_gate, each) -> torch.Tensor:
    return ((gradient * channel_gate + each) * F.relu(spatial)).sum(2, keepdim=True, dtype=wide(spatial.dtype))


def branch_gradients(
    gradient, spatial, temporal, map_gate, frame_gate, channel_gate, each, of_map, of_frames
) -> tuple[torch.Tensor, torch.Tensor]:
    both = gradient * channel_gate + each
    of_spatial = (both * map_gate + of_map) * (spatial > 0)
    of_temporal = (both * frame_gate + of_frames) * (temporal > 0)
    return of_spatial.to(spatial.dtype), of_temporal.to(temporal.dtype)


PYTORCH = Passes(averages, gated_average, combine, sums, map_gradient, branch_gradients)
