"""TANet (Liu et al., ICCV 2021): in each block a temporal convolution whose kernels each clip makes for itself.

A successor, and no row of the CT-Net paper's tables. The Temporal Adaptive Module stands before each 3x3 convolution.
A channel's averages over each frame give its kernel over three frames. What makes kernels has weights for each frame,
so that a network is built for a number of frames.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import ResNetBackbone
from ctlib.rivals.parts import before_each


class TemporalAdaptive(nn.Module):
    """TAM: gates of each channel and frame, and then each channel's sum of three frames, weighted by its kernel.

    The sum is elementwise, so that an exported network takes any number of clips.
    Shape: (N, C, T, H, W) -> the same; another T than `num_frames` is a ValueError.
    """

    def __init__(self, channels: int, num_frames: int):
        super().__init__()
        self.num_frames, wide, few = num_frames, 2 * num_frames, channels // 4
        into_kernel = nn.Linear(num_frames, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU(inplace=True)
        self.kernel = nn.Sequential(*into_kernel, nn.Linear(wide, 3, bias=False), nn.Softmax(1))
        reduce = nn.Conv1d(channels, few, 3, padding=1, bias=False), nn.BatchNorm1d(few), nn.ReLU(inplace=True)
        self.gates = nn.Sequential(*reduce, nn.Conv1d(few, channels, 1, bias=False), nn.Sigmoid())

    def dynamic_products(self, out: torch.Tensor) -> int:
        """Multiply-accumulates with kernels that are no weights, which `cost.breakdown` asks for."""
        return 3 * out.numel()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        if clips.shape[2] != self.num_frames:
            raise ValueError(f"this TANet is built for clips of {self.num_frames} frames, got {clips.shape[2]}")
        means = clips.mean((3, 4))
        kernels = self.kernel(means.flatten(0, 1)).to(clips.dtype)  # autocast computes a softmax in float32
        kernels = kernels.unflatten(0, means.shape[:2])[..., None, None, None]
        gated = clips * self.gates(means)[..., None, None]
        padded = F.pad(gated, (0, 0, 0, 0, 1, 1))
        return kernels[:, :, 0] * padded[:, :, :-2] + kernels[:, :, 1] * gated + kernels[:, :, 2] * padded[:, :, 2:]


def tanet(backbone: ResNetBackbone, num_frames: int) -> None:
    """Make a backbone TANet's, for clips of `num_frames` frames."""
    before_each("conv2", backbone, lambda channels: TemporalAdaptive(channels, num_frames))
