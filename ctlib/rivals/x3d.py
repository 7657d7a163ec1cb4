"""X3D (Feichtenhofer, CVPR 2020): a narrow and deep network, whose size was expanded one axis at a time.

Its blocks convolve 3 x 3 x 3 positions of each channel for itself, which lets neighbouring frames talk. So does the
stem, over five frames. Every other block weighs its channels by their means over the clip. The number of frames stays
to the end, where they are averaged before the last hidden layer.
"""

from functools import partial
from math import ceil

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models._utils import _make_divisible

from ctlib.backbones import VideoBackbone
from ctlib.rivals.parts import Residual, conv_bn, conv_bn_relu

eights = partial(_make_divisible, divisor=8)  # the nearest multiple of 8, or the next if that takes away over a tenth


class SqueezeExcitation(nn.Module):
    """Clips (N, C, T, H, W) -> the same: each channel times a number in (0, 1), from the means of all over the clip."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = eights(channels / 16)
        self.reduce, self.expand = nn.Conv3d(channels, hidden, 1), nn.Conv3d(hidden, channels, 1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        means = clips.mean((2, 3, 4), keepdim=True)
        return clips * self.expand(F.relu(self.reduce(means))).sigmoid()


class Block(Residual):
    """1x1x1, 3x3x3 of each channel for itself, 1x1x1. Its last batch norm starts at zero.

    Between are 2.25 times as many channels as come out. If it `excites`, it weighs them.
    Shape: (N, channels, T, H, W) -> (N, out, T, H / stride, W / stride).
    """

    def __init__(self, channels: int, out: int, stride: int, excites: bool):
        wide, strides = int(2.25 * out), (1, stride, stride)
        same = channels == out and stride == 1
        residual = nn.Sequential(
            *conv_bn_relu(channels, wide, 1),
            *conv_bn(wide, wide, 3, strides, groups=wide),
            SqueezeExcitation(wide) if excites else nn.Identity(),
            nn.SiLU(inplace=True),
            *conv_bn(wide, out, 1),
        )
        nn.init.zeros_(residual[-1].weight)
        super().__init__(nn.Identity() if same else conv_bn(channels, out, 1, strides), residual)


def x3d(width: float, depth: float, hidden: int = 2048) -> VideoBackbone:
    """An X3D, with so many `hidden` units before the classifier.

    It has `width` times 12, 12, 24, 48 and 96 channels, of the stem and the stages, and `depth` times 1, 2, 5 and 3
    blocks in the stages.
    """
    channels = eights(12 * width)
    in_space = nn.Conv3d(3, channels, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
    body = nn.Sequential(in_space, *conv_bn_relu(channels, channels, (5, 1, 1), groups=channels))
    for blocks, base in ((1, 12), (2, 24), (5, 48), (3, 96)):
        out = eights(base * width)
        for index in range(ceil(blocks * depth)):
            body.append(Block(channels, out, stride=1 if index else 2, excites=index % 2 == 0))
            channels = out
    wide = int(2.25 * channels)
    body.extend([*conv_bn_relu(channels, wide, 1), nn.AdaptiveAvgPool3d(1)])
    body.extend([nn.Conv3d(wide, hidden, 1, bias=False), nn.ReLU(inplace=True)])
    return VideoBackbone(body, hidden, pooled=True)  # the hidden layer sees averages, so features have no positions


# Clips have 16 frames. M is trained at 224 and tested at 256 pixels; L and XL at 312 and 356.
BACKBONES = {
    "x3d_m": lambda: x3d(width=2.0, depth=2.2),
    "x3d_l": lambda: x3d(width=2.0, depth=5.0),
    "x3d_xl": lambda: x3d(width=2.9, depth=5.0),
    "x3d_small": lambda: x3d(width=1.0, depth=0.5, hidden=256),
}
