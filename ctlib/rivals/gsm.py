"""GSM, the Gate-Shift Module (Sudhakaran et al., CVPR 2020): the shift of TSM, where a gate asks for it.

A successor of TSM, and no row of the CT-Net paper's tables. Half of the channels have one gate per position, and the
other half another. What a gate lets through moves to the next frame, or to the one before. The rest stays. GSF, which
followed and joins both with learned weights, is not here.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import ResNetBackbone
from ctlib.rivals.parts import ClipConv2d, bottlenecks


class GateShift(nn.Module):
    """Each half of the channels: what its gate lets through, moved by a frame, and what it holds back.

    The gates are tanh(Conv3d(ReLU(BN(x)))), 3 x 3 x 3, and start at zero: all stays. The halves are then interleaved.
    Shape: (N, C, T, H, W) -> the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm3d(channels)
        self.gate = ZeroConv3d(channels, 2, 3, padding=1, groups=2)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        gates = self.gate(F.relu(self.bn(clips))).tanh()
        first, second = clips.chunk(2, 1)
        passed, passed_back = first * gates[:, :1], second * gates[:, 1:]
        first = first - passed + F.pad(passed[:, :, :-1], (0, 0, 0, 0, 1, 0))
        second = second - passed_back + F.pad(passed_back[:, :, 1:], (0, 0, 0, 0, 0, 1))
        return torch.stack([first, second], 2).flatten(1, 2)


class ZeroConv3d(nn.Conv3d):
    """A convolution that starts at zero."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def gsm(backbone: ResNetBackbone) -> None:
    """Make a backbone GSM's: before each 3x3 convolution."""
    for block in bottlenecks(backbone):
        block.conv2 = ClipConv2d(GateShift(block.conv2.in_channels), block.conv2)
