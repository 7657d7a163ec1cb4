"""Operations on clips (N, C, T, H, W) that are faster on channels-last memory; each has its plain version beside it."""

import torch
from torch.nn import functional as F

from ctlib.kernels.layout import clips_of, clips_of_planes, frames_of, planes_of, traced_layout
from ctlib.kernels.merging import fastest_merge, merged


def convolve_plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int) -> torch.Tensor:
    """A grouped 3D convolution of stride 1, zero-padded to keep T, H and W."""
    return F.conv3d(x, weight, bias, padding=tuple(extent // 2 for extent in weight.shape[2:]), groups=groups)


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int) -> torch.Tensor:
    """`convolve_plain` as a 2D convolution where the kernel allows it; on a GPU, in the fastest way of `merging`.

    A kernel of 1 x h x w runs over the N * T frames, one of t x 1 x 1 over planes (T, H * W).
    """
    merge = fastest_merge(_convolve, x, weight, groups)
    if merge > 1:
        weight, groups = merged(weight, groups, merge), groups // merge
    return _convolve(x, weight, groups, bias)


def _convolve(x: torch.Tensor, weight: torch.Tensor, groups: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    t, h, w = weight.shape[2:]
    if t == 1:
        frames = F.conv2d(frames_of(x), weight.squeeze(2), bias, padding=(h // 2, w // 2), groups=groups)
        return clips_of(traced_layout(frames), x.shape[2])
    if h == w == 1:
        planes = F.conv2d(planes_of(x), weight.squeeze(4), bias, padding=(t // 2, 0), groups=groups)
        return clips_of_planes(traced_layout(planes), x.shape[3:])
    return convolve_plain(x, weight, bias, groups)


def channel_shuffle_plain(x: torch.Tensor, groups: int) -> torch.Tensor:
    """`torch.nn.functional.channel_shuffle`, written out: (N, C, ...) -> the same shape."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """`channel_shuffle_plain` that keeps channels last.

    PyTorch's own function does so on the CPU, in about half the time. Elsewhere it returns contiguous memory.
    """
    if x.device.type == "cpu" and x.ndim > 2 and not torch.compiler.is_compiling():
        return F.channel_shuffle(x, groups)
    if x.stride(1) == 1:
        return x.movedim(1, -1).unflatten(-1, (groups, -1)).transpose(-1, -2).flatten(-2).movedim(-1, 1)
    return channel_shuffle_plain(x, groups)


def average_plain(clips: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """The mean over some axes, which keep extent 1."""
    return clips.mean(axes, keepdim=True)


def average(clips: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """`average_plain`; over T or over H and W on the CPU, as a product with a row of 1/n.

    On channels-last clips `mean` takes 10 times as long. Compilers write their own mean, and 1/n would be rounded
    in half precision.
    """
    product = clips.device.type == "cpu" and clips.dtype in (torch.float32, torch.float64)
    if not product or torch.compiler.is_compiling() or axes not in ((2,), (3, 4)):
        return average_plain(clips, axes)
    last = clips.movedim(1, -1)  # (N, T, H, W, C), one block of memory
    merged = last.flatten(2) if axes == (2,) else last.flatten(2, 3)  # (N, T, H * W * C) or (N, T, H * W, C)
    count = merged.shape[-2]
    mean = last.new_full((1, count), 1 / count) @ merged
    if axes == (2,):
        return mean.unflatten(2, last.shape[2:]).movedim(-1, 1)
    return mean.movedim(-1, 1).unsqueeze(4)
