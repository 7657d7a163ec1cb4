"""Clips as frames and as planes, without copies, and means that are fast on channels-last memory."""

import torch


def traced_layout(features: torch.Tensor) -> torch.Tensor:
    """Channels last where a graph is traced, which else takes the layout for another than the convolution gives."""
    return features.contiguous(memory_format=torch.channels_last) if torch.compiler.is_compiling() else features


def frames_of(clips: torch.Tensor) -> torch.Tensor:
    """(N, C, T, H, W) -> (N * T, C, H, W): what a 2D network sees. A view of a channels-last clip."""
    if clips.shape[0] == 1:  # where `flatten` may give a lone frame strides that hide its layout
        return clips[0].transpose(0, 1)
    return clips.transpose(1, 2).flatten(0, 1)


def clips_of(frames: torch.Tensor, num_frames: int) -> torch.Tensor:
    """(N * T, C, H, W) -> (N, C, T, H, W), the inverse of `frames_of`; never a copy."""
    if torch.compiler.is_compiling():  # which keeps track of layouts itself
        return frames.unflatten(0, (-1, num_frames)).transpose(1, 2)
    return frames.movedim(1, -1).unflatten(0, (-1, num_frames)).movedim(-1, 1)


def planes_of(clips: torch.Tensor) -> torch.Tensor:
    """(N, C, T, H, W) -> (N, C, T, H * W); never a copy.

    Here and in `clips_of` channels stand last while axes are split or merged: else a single clip or frame, whose
    first stride means nothing, would get one that hides its layout, and convolutions would copy it.
    """
    if torch.compiler.is_compiling():
        return clips.flatten(3)
    return clips.movedim(1, -1).flatten(2, 3).movedim(-1, 1)


def clips_of_planes(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, C, T, H * W) and (H, W) -> (N, C, T, H, W), the inverse of `planes_of`; never a copy."""
    if torch.compiler.is_compiling():
        return planes.unflatten(3, size)
    return planes.movedim(1, -1).unflatten(2, size).movedim(-1, 1)


def average(clips: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """`clips.mean(axes, keepdim=True)` of (N, C, T, H, W).

    On the CPU, over T or over H and W, as a product with a row of 1/n: `mean` takes 10 times as long over these axes
    of a channels-last clip. (A compiler writes its own; in half precision 1/n would be rounded.)
    """
    product = clips.device.type == "cpu" and clips.dtype in (torch.float32, torch.float64)
    if not product or torch.compiler.is_compiling() or axes not in ((2,), (3, 4)):
        return clips.mean(axes, keepdim=True)
    last = clips.movedim(1, -1)  # (N, T, H, W, C), one block of memory
    if axes == (2,):
        mean = _row_of_means(last, last.shape[1]) @ last.flatten(2)
        return mean.unflatten(2, last.shape[2:]).movedim(-1, 1)
    mean = _row_of_means(last, last.shape[2] * last.shape[3]) @ last.flatten(2, 3)
    return mean.movedim(-1, 1).unsqueeze(4)


def _row_of_means(like: torch.Tensor, count: int) -> torch.Tensor:
    return like.new_full((1, count), 1 / count)
