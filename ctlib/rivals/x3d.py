"""X3D (Feichtenhofer, CVPR 2020): a narrow and deep network, whose size was expanded one axis at a time.

Its blocks convolve 3 x 3 x 3 positions of each channel for itself, which lets neighbouring frames talk. So does the
stem, over five frames. Every other block weighs its channels by their means over the clip. The number of frames stays
to the end, where they are averaged before the last hidden layer.
"""

from collections.abc import Callable
from math import ceil

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.rivals.video_resnet import VideoBackbone


def eights(channels: float) -> int:
    """The nearest multiple of 8 from 8 on, or the next one if that took away more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def _conv(channels: int, out: int, kernel: tuple[int, ...], stride: int = 1, alone: bool = False) -> nn.Conv3d:
    """A convolution with this stride in space; `alone`: each channel for itself."""
    padding, groups = tuple(extent // 2 for extent in kernel), channels if alone else 1
    return nn.Conv3d(channels, out, kernel, (1, stride, stride), padding, groups=groups, bias=False)


ONE, THREE = (1, 1, 1), (3, 3, 3)


class SqueezeExcitation(nn.Module):
    """Weigh each channel by a number in (0, 1), from the means of all channels over the clip.

    Args:
        channels: C.

    Shape:
        (N, C, T, H, W) -> the same
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = eights(channels / 16)
        self.reduce, self.expand = nn.Conv3d(channels, hidden, 1), nn.Conv3d(hidden, channels, 1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        means = clips.mean((2, 3, 4), keepdim=True)
        return clips * self.expand(F.relu(self.reduce(means))).sigmoid()


class Block(nn.Module):
    """1x1x1, 3x3x3 of each channel for itself, 1x1x1. Its last batch norm starts at zero.

    Args:
        channels: of the input.
        out: of the output; between are 2.25 times as many.
        stride: in space.
        excites: whether it weighs its channels.

    Shape:
        (N, channels, T, H, W) -> (N, out, T, H / stride, W / stride)
    """

    def __init__(self, channels: int, out: int, stride: int, excites: bool):
        super().__init__()
        same, wide = channels == out and stride == 1, int(2.25 * out)
        self.shortcut = nn.Identity() if same else nn.Sequential(_conv(channels, out, ONE, stride), nn.BatchNorm3d(out))
        self.residual = nn.Sequential(
            _conv(channels, wide, ONE),
            nn.BatchNorm3d(wide),
            nn.ReLU(inplace=True),
            _conv(wide, wide, THREE, stride, alone=True),
            nn.BatchNorm3d(wide),
            SqueezeExcitation(wide) if excites else nn.Identity(),
            nn.SiLU(inplace=True),
            _conv(wide, out, ONE),
            nn.BatchNorm3d(out),
        )
        nn.init.zeros_(self.residual[-1].weight)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return F.relu(self.residual(clips) + self.shortcut(clips))


def x3d(width: float, depth: float, hidden: int = 2048) -> VideoBackbone:
    """An X3D.

    Args:
        width: what 12, 12, 24, 48 and 96 channels, of the stem and the stages, are multiplied by.
        depth: what 1, 2, 5 and 3 blocks of the stages are multiplied by.
        hidden: units before the classifier.
    """
    channels = eights(12 * width)
    stem = _conv(3, channels, (1, 3, 3), 2), _conv(channels, channels, (5, 1, 1), alone=True)
    body = nn.Sequential(*stem, nn.BatchNorm3d(channels), nn.ReLU(inplace=True))
    for blocks, base in ((1, 12), (2, 24), (5, 48), (3, 96)):
        out = eights(base * width)
        for index in range(ceil(blocks * depth)):
            body.append(Block(channels, out, stride=1 if index else 2, excites=index % 2 == 0))
            channels = out
    wide = int(2.25 * channels)
    body.extend([_conv(channels, wide, ONE), nn.BatchNorm3d(wide), nn.ReLU(inplace=True)])
    body.extend([nn.AdaptiveAvgPool3d(1), _conv(wide, hidden, ONE), nn.ReLU(inplace=True)])
    backbone = VideoBackbone(body, hidden)
    backbone.pooled = True  # the hidden layer sees averages, so features have no positions
    return backbone


# Clips have 16 frames. M is trained at 224 and tested at 256 pixels; L and XL at 312 and 356.
BACKBONES: dict[str, Callable[[], VideoBackbone]] = {
    "x3d_m": lambda: x3d(width=2.0, depth=2.2),
    "x3d_l": lambda: x3d(width=2.0, depth=5.0),
    "x3d_xl": lambda: x3d(width=2.9, depth=5.0),
    "x3d_small": lambda: x3d(width=1.0, depth=0.5, hidden=256),
}
