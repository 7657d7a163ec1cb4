"""I3D (Carreira and Zisserman, CVPR 2017): Inception-v1 with every filter and pool inflated into time.

Two variants are published. DeepMind's has 3x3x3 convolutions in both branches of a block that mix neighbours. In the
one that the S3D paper counts (107.9 GFLOPs), the second of them is 1x1x1. Scores are means over all positions here,
where DeepMind's network first pools over windows of two frames. I3D could start from GoogLeNet's weights,
inflated, and does not here.
"""

import torch
from torch import nn

from ctlib.backbones import VideoBackbone
from ctlib.rivals.parts import conv_bn_relu as conv


class Mixed(nn.Module):
    """An Inception block: four branches, concatenated.

    `outs` are channels of 1x1x1; of 1x1x1 and 3x3x3; of 1x1x1 and the second 3x3x3; and after the pool. `second` is the
    kernel of the second 3x3x3 convolution, 3 or 1.
    Shape: (N, channels, T, H, W) -> (N, C, T, H, W).
    """

    def __init__(self, channels: int, outs: tuple[int, int, int, int, int, int], second: int):
        super().__init__()
        alone, reduced, wide, reduced_second, wide_second, pooled = outs
        self.alone = conv(channels, alone, 1)
        self.wide = nn.Sequential(conv(channels, reduced, 1), conv(reduced, wide, 3))
        self.second = nn.Sequential(conv(channels, reduced_second, 1), conv(reduced_second, wide_second, second))
        self.pooled = nn.Sequential(nn.MaxPool3d(3, 1, 1), conv(channels, pooled, 1))
        self.out_channels = alone + wide + wide_second + pooled

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(clips) for branch in self.children()], 1)


# Channels of the blocks of Inception-v1, from 3b on; before each group stands a pool.
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def i3d(second: int, share: int = 1) -> VideoBackbone:
    """An I3D with one in `share` of the channels; `second` is as in `Mixed`."""
    in_space = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
    first, wide = 64 // share, 192 // share
    layers, channels = [conv(3, first, 7, 2), in_space, conv(first, first, 1), conv(first, wide, 3)], wide
    for pool, stage in zip((in_space, nn.MaxPool3d(3, 2, 1), nn.MaxPool3d(2, 2, ceil_mode=True)), STAGES, strict=True):
        layers.append(pool)
        for outs in stage:
            layers.append(Mixed(channels, tuple(max(1, out // share) for out in outs), second))
            channels = layers[-1].out_channels
    return VideoBackbone(nn.Sequential(*layers), channels)


BACKBONES = {
    "i3d_inception": lambda: i3d(second=3),
    "i3d_inception_s3d": lambda: i3d(second=1),
    "i3d_small": lambda: i3d(second=3, share=4),
}
