"""GSM, the Gate-Shift Module (Sudhakaran et al., CVPR 2020): the shift of TSM, where a gate asks for it.

A successor of TSM, and no row of the CT-Net paper's tables. Half of the channels have one gate per position, and the
other half another. What the first lets through comes from the next frame, and of the second from the one before. The
rest stays.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import ResNetBackbone
from ctlib.rivals.parts import SmallStart, before_each


class GateShift(nn.Module):
    """Each half of the channels: what its gate lets through, moved by a frame, and what it holds back.

    The gates are tanh(Conv3d(ReLU(BN(x)))), 3 x 3 x 3, and start at zero: all stays. Then the channels of each half
    are interleaved, those of its own first half with the others.
    Shape: (N, C, T, H, W) -> the same; C is a multiple of 4.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm3d(channels)
        self.gate = SmallStart(channels, 2, 3, padding=1, groups=2, std=0.0)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        gates = self.gate(F.relu(self.bn(clips))).tanh()
        first, second = clips.chunk(2, 1)
        passed, passed_back = first * gates[:, :1], second * gates[:, 1:]
        moved = F.pad(passed[:, :, 1:], (0, 0, 0, 0, 0, 1)), F.pad(passed_back[:, :, :-1], (0, 0, 0, 0, 1, 0))
        joined = self.join(0, moved[0], first - passed), self.join(1, moved[1], second - passed_back)
        return torch.cat([half.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2) for half in joined], 1)

    def join(self, half: int, moved: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """What was moved and what was held back, of the first half (0) or the second (1)."""
        return moved + held


def gsm(backbone: ResNetBackbone) -> None:
    """Make a backbone GSM's."""
    before_each("conv2", backbone, GateShift)
