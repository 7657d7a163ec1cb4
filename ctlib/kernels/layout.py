"""Memory layout: channels last, and clips seen as frames or as planes without a copy."""

import torch
from torch import nn

FORMATS = {True: torch.channels_last, False: torch.contiguous_format}


def use_channels_last(model: nn.Module, enabled: bool = True) -> None:
    """Store activations and the weights of 2D convolutions with channels last in memory (the default), or not.

    With channels last, modules on clips need no copy. The layout changes results by rounding only, and no
    name, shape or cost. Weights that are loaded later take the layout of the model.
    """
    model.memory_format = FORMATS[enabled]
    for module in model.modules():  # weight by weight: `Module.to` refuses a module with weights of five axes in it
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=FORMATS[enabled])


def traced_layout(features: torch.Tensor) -> torch.Tensor:
    """Channels last while a graph is traced, where the tracer assumes another layout than convolutions give."""
    return features.contiguous(memory_format=torch.channels_last) if torch.compiler.is_compiling() else features


def frames_of(clips: torch.Tensor) -> torch.Tensor:
    """(N, C, T, H, W) -> (N * T, C, H, W): what a 2D network sees. A view of a channels-last clip."""
    if clips.shape[0] == 1:  # `flatten` may give a lone frame strides that hide its layout
        return clips[0].transpose(0, 1)
    return clips.transpose(1, 2).flatten(0, 1)


def clips_of(frames: torch.Tensor, num_frames: int) -> torch.Tensor:
    """(N * T, C, H, W) -> (N, C, T, H, W), the inverse of `frames_of`; never a copy."""
    if torch.compiler.is_compiling():  # the compiler keeps track of layouts itself
        return frames.unflatten(0, (-1, num_frames)).transpose(1, 2)
    return frames.movedim(1, -1).unflatten(0, (-1, num_frames)).movedim(-1, 1)


def planes_of(clips: torch.Tensor) -> torch.Tensor:
    """(N, C, T, H, W) -> (N, C, T, H * W); never a copy.

    Channels are moved last before axes are split or merged, here and in `clips_of`. Otherwise a single clip or
    frame, whose first stride is arbitrary, gets one that hides its layout, and convolutions copy it.
    """
    if torch.compiler.is_compiling():
        return clips.flatten(3)
    return clips.movedim(1, -1).flatten(2, 3).movedim(-1, 1)


def clips_of_planes(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, C, T, H * W) and (H, W) -> (N, C, T, H, W), the inverse of `planes_of`; never a copy."""
    if torch.compiler.is_compiling():
        return planes.unflatten(3, size)
    return planes.movedim(1, -1).unflatten(2, size).movedim(-1, 1)


class ClipBatchNorm(nn.BatchNorm3d):
    """`nn.BatchNorm3d` computed on planes: on a GPU, PyTorch's fast kernels know channels last for four axes only."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips_of_planes(super().forward(planes_of(clips)), clips.shape[3:])

    def _check_input_dim(self, planes: torch.Tensor) -> None:
        pass  # `planes_of` has seen the five axes
