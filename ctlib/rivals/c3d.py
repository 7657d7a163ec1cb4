"""C3D (Tran et al., ICCV 2015): VGG-11 with 3x3x3 convolutions, on clips of one fixed size.

Each convolution lets neighbouring frames talk, and each pool but the first halves their number, until one is left. Two
hidden layers then see all positions. There are no batch norms. Of the original's two dropouts only the last is here,
which all networks have before their classifier.
"""

import torch
from torch import nn

from ctlib.backbones import VideoBackbone


class Conv(nn.Conv3d):
    """A convolution that starts at a scale that it keeps, as no batch norm follows."""

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)


class Linear(nn.Linear):
    """A linear layer with the same start."""

    reset_parameters = Conv.reset_parameters


class C3D(nn.Sequential):
    """Convolutions and pools, and two layers of `hidden` units. Clips of another size (T, H, W) are a ValueError.

    `stages` are the channels of the convolutions before each pool. Shape: (N, 3, T, H, W) -> (N, hidden, 1, 1, 1).
    """

    def __init__(self, stages: tuple[tuple[int, ...], ...], hidden: int, size: tuple[int, int, int]):
        super().__init__()
        self.size, channels = size, 3
        for stage, outs in enumerate(stages):
            for out in outs:
                self.extend([Conv(channels, out, 3, padding=1), nn.ReLU(inplace=True)])
                channels = out
            pool, pad = (2 if stage else 1, 2, 2), int(stage == len(stages) - 1)
            padding = (0, pad, pad)  # at the end, where 7 x 7 pixels become 4 x 4
            self.append(nn.MaxPool3d(pool, padding=padding))
            size = [(side + 2 * pad) // extent for side, pad, extent in zip(size, padding, pool, strict=True)]
        self.append(nn.Flatten())
        for units in (channels * size[0] * size[1] * size[2], hidden):
            self.extend([Linear(units, hidden), nn.ReLU(inplace=True)])
        self.append(nn.Unflatten(1, (hidden, 1, 1, 1)))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        if clips.shape[2:] != self.size:
            needed, got = (" x ".join(map(str, size)) for size in (self.size, clips.shape[2:]))
            raise ValueError(f"this C3D needs clips of {needed} (T x H x W), got {got}")
        return super().forward(clips)


VGG_11 = (64,), (128,), (256, 256), (512, 512), (512, 512)
BACKBONES = {  # pooled: features have no positions
    "c3d_vgg": lambda: VideoBackbone(C3D(VGG_11, 4096, (16, 112, 112)), 4096, 16, pooled=True),
    "c3d_vgg_small": lambda: VideoBackbone(C3D(((16,), (32,), (64,), (64, 64)), 128, (8, 32, 32)), 128, 8, pooled=True),
}
