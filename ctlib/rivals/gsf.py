"""GSF, Gate-Shift-Fuse (Sudhakaran et al., TPAMI 2023): GSM, where learned weights join what moved and what stayed.

A successor of GSM, and no row of the CT-Net paper's tables. As in the authors' release, it stands between the last
convolution of each block and its batch norm, sees all channels there, and its gates do not start at zero.
"""

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from ctlib.backbones import ClipModule, ResNetBackbone
from ctlib.rivals.gsm import GateShift
from ctlib.rivals.parts import Taken, replace_each


class GateShiftFuse(GateShift):
    """w * moved + (1 - w) * held, where w is of each channel and frame of a half.

    It is sigmoid(Conv2d(means)), 3 x 3 channels and frames, of the means of both over all positions.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.gate = nn.Conv3d(channels, 2, 3, padding=1, groups=2)
        self.fuse = nn.ModuleList(nn.Conv2d(2, 1, 3, padding=1) for _ in range(2))

    def join(self, half: int, moved: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        means = torch.stack([moved.mean((3, 4)), held.mean((3, 4))], 1)  # (N, 2, C / 2, T)
        weights = self.fuse[half](means).sigmoid().squeeze(1)[..., None, None]
        return weights * moved + (1 - weights) * held


class GSFBlock(Taken):
    """A bottleneck with the module after its last convolution."""

    keeps_batch_norms = ("bn3",)  # it does not follow its convolution

    def __init__(self, block: Bottleneck):
        super().__init__(block)
        self.shift = ClipModule(GateShiftFuse(block.conv3.out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(self.bn3(self.shift(self.conv3(out))) + self.shortcut(x))


def gsf(backbone: ResNetBackbone) -> None:
    """Make a backbone GSF's."""
    replace_each(backbone, GSFBlock)
