"""Modules rewritten for inference, made of 2D convolutions: what every compiler and runtime knows.

All take and return clips (N, C, T, H, W). Their plain versions are the modules of `ct_module` and `excitation`.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.kernels import BATCH_NORMS, choice
from ctlib.kernels.gating import excite, excite_ways
from ctlib.kernels.layout import clips_of, clips_of_planes, frames_of, planes_of
from ctlib.kernels.merging import fastest_merge, merged
from ctlib.kernels.operations import channel_shuffle
from ctlib.kernels.passes import Gate, Gates


def fold_batch_norms(model: nn.Module) -> None:
    """Put each batch norm into the convolution before it, which is its neighbour in the same parent module.

    It stays where something else stands before it, or where the parent has its name in `keeps_batch_norms`.
    """
    for parent in model.modules():
        conv = None
        for name, child in list(parent.named_children()):
            stays = not hasattr(conv, "weight") or name in getattr(parent, "keeps_batch_norms", ())
            if isinstance(child, BATCH_NORMS) and not stays:
                norm = child.running_mean, child.running_var, child.eps, child.weight, child.bias
                conv.weight, conv.bias = nn.utils.fusion.fuse_conv_bn_weights(conv.weight, conv.bias, *norm)
                setattr(parent, name, nn.Identity())
            conv = child


def frozen(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)


class FrozenConv2d(nn.Conv2d):
    """A grouped convolution of stride 1 that keeps what it merged its groups into (`merging`)."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.kept: dict[int, tuple[tuple, torch.Tensor]] = {}  # merge -> of which weight it is, and the merged one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolve(x, self.bias)

    def convolve(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """With another bias, or none."""
        merge = fastest_merge(self._convolved, x, self.weight, self.groups)
        return self._convolved(x, self.weight if merge == 1 else self._merged(merge), self.groups // merge, bias)

    def _convolved(self, x: torch.Tensor, weight: torch.Tensor, groups: int, bias=None) -> torch.Tensor:
        return F.conv2d(x, weight, bias, padding=self.padding, groups=groups)

    def _merged(self, merge: int) -> torch.Tensor:
        if torch.compiler.is_compiling():  # so that it is a constant of the compiled network
            return merged(self.weight, self.groups, merge)
        version = 0 if self.weight.is_inference() else self.weight._version
        of = self.weight.dtype, self.weight.device, version  # a change makes it anew
        if merge not in self.kept or self.kept[merge][0] != of:
            with torch.inference_mode(False), torch.no_grad():
                # Other merges stay: a CUDA graph of another shape reads them where they lie.
                self.kept[merge] = of, merged(self.weight, self.groups, merge)
        return self.kept[merge][1]


def as_conv2d(weight: torch.Tensor, bias: torch.Tensor | None, groups: int) -> FrozenConv2d:
    """A convolution (C_out, C_in / groups, t, h, w), on frames if t = 1 and otherwise on planes (N, C, T, H * W)."""
    flat = weight.squeeze(2) if weight.shape[2] == 1 else weight.squeeze(4)
    padding = tuple(extent // 2 for extent in flat.shape[2:])
    channels = groups * weight.shape[1]
    conv = FrozenConv2d(  # on "meta", so that no random weights are drawn
        channels, len(weight), flat.shape[2:], padding=padding, groups=groups, bias=False, device="meta"
    )
    conv.weight, conv.bias = frozen(flat), None if bias is None else frozen(bias)
    return conv


class OnFrames(nn.Sequential):
    """2D layers, applied to each frame."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips_of(super().forward(frames_of(clips)), clips.shape[2])


class ChannelShuffle(nn.Module):
    """The channel shuffle as a layer, for where the weights beside it cannot absorb it."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return channel_shuffle(clips, self.groups)


class FoldedGate(nn.Sequential):
    """The gate of averaged features, (N, C, 1, H, W) or (N, C, T, 1, 1), of its two convolutions.

    Args:
        axis: of extent 1, that is left out for 2D convolutions.
        reduce, expand: the convolutions.
    """

    def __init__(self, axis: int, reduce: nn.Conv2d, expand: nn.Conv2d):
        super().__init__(reduce, nn.ReLU(inplace=True), expand, nn.Sigmoid())
        self.axis = axis

    def forward(self, mean: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling() and mean.device.type == "cpu" and self.axis == 4 and len(mean) == 1:
            return self._of_one_clip(mean)
        return super().forward(mean.squeeze(self.axis)).unsqueeze(self.axis)

    def _of_one_clip(self, mean: torch.Tensor) -> torch.Tensor:
        """As a product per group: on a CPU a convolution of so few positions takes several times as long."""
        reduce, _, expand, _ = self
        groups, frames, taps = reduce.groups, mean.shape[2], reduce.kernel_size[0]
        hidden = torch.baddbmm(
            reduce.bias.view(groups, -1, 1),
            reduce.weight.reshape(groups, -1, taps * reduce.weight.shape[1]),
            _taps(mean.view(groups, -1, frames), taps),
        )
        weight = expand.weight.reshape(groups, -1, taps * expand.weight.shape[1])
        return torch.bmm(weight, _taps(hidden.relu_(), taps)).sigmoid_().view(mean.shape)


def _taps(x: torch.Tensor, taps: int) -> torch.Tensor:
    """What each position of a zero-padded convolution sees: (G, C, T) -> (G, C * taps, T)."""
    if taps == 1:
        return x
    return F.pad(x, (taps // 2, taps // 2)).unfold(2, x.shape[2], 1).flatten(1, 2)


class FoldedSubOperation(nn.Module):
    """The parallel sub-operation with Tensor Excitation, Eq. (6) to (8), for inference.

    Args:
        spatial: on frames.
        temporal: on planes.
        gates: spatial, temporal and channel gate: each the convolution that reduces and the one that expands.
    """

    def __init__(self, spatial: nn.Conv2d, temporal: nn.Conv2d, gates: list[tuple[nn.Conv2d, nn.Conv2d]]):
        super().__init__()
        self.spatial, self.temporal = spatial, temporal
        self.gates = nn.ModuleList(FoldedGate(axis, *pair) for axis, pair in zip((2, 4, 4), gates, strict=True))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        chosen = choice.applies(clips) and not torch.compiler.is_compiling()
        biases = (None, None) if chosen else (self.spatial.bias, self.temporal.bias)
        spatial = clips_of(self.spatial.convolve(frames_of(clips), biases[0]), clips.shape[2])
        temporal = clips_of_planes(self.temporal.convolve(planes_of(clips), biases[1]), clips.shape[3:])
        if not chosen:
            return excite(spatial, temporal, self._gates())
        ways = self.ways(torch.is_grad_enabled() and clips.requires_grad)
        operation = f"folded excitation of {self.spatial.groups} groups"  # not all group sizes have the same ways
        return ways[choice.fastest(operation, ways, spatial, temporal)](spatial, temporal)

    def _gates(self) -> Gates:
        return tuple(Gate(gate) for gate in self.gates)

    def ways(self, with_gradients: bool = False) -> dict[str, choice.Way]:
        """Of both branches without their biases to the output, by name."""
        ways = {name: partial(self._biased, way) for name, way in excite_ways().items()}
        if "triton" in ways and not with_gradients:
            ways["one clip"] = self._one_clip
        return ways

    def _biased(self, way: choice.Way, spatial: torch.Tensor, temporal: torch.Tensor) -> torch.Tensor:
        of_spatial, of_temporal = (conv.bias.to(spatial.dtype) for conv in (self.spatial, self.temporal))
        each = (-1, 1, 1, 1)
        return way(spatial + of_spatial.view(each), temporal + of_temporal.view(each), gates=self._gates())

    def _one_clip(self, spatial: torch.Tensor, temporal: torch.Tensor) -> torch.Tensor:
        from ctlib.kernels.one_clip_triton import excite_one_clip  # its import may fail, as a way may

        convolutions = [(gate[0], gate[2]) for gate in self.gates]
        with torch.cuda.device_of(spatial):  # where Triton launches
            return excite_one_clip(spatial, temporal, (self.spatial.bias, self.temporal.bias), convolutions)
