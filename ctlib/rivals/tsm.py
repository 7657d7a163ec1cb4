"""TSM, the Temporal Shift Module (Lin et al., ICCV 2019): some channels move to the neighbouring frames.

A block of TSN sees one frame. Here an eighth of its channels come from the next frame, an eighth from the one before,
and the rest from its own. That needs neither parameters nor products. The shift is on the residual branch, before its
first convolution. Of ResNet-101 every second block has one, as in the authors' release.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import ResNetBackbone
from ctlib.rivals.parts import ClipConv2d, resnet_stages


class TemporalShift(nn.Module):
    """Move one in `share` of the channels a frame forward in time and as many backward; zeros where the clip ends.

    A share of 0 moves none, which is TSN. Shape: (N, C, T, H, W) -> the same.
    """

    share = 8

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        fold = clips.shape[1] // self.share if self.share else 0
        from_next = F.pad(clips[:, :fold, 1:], (0, 0, 0, 0, 0, 1))
        from_last = F.pad(clips[:, fold : 2 * fold, :-1], (0, 0, 0, 0, 1, 0))
        return torch.cat([from_next, from_last, clips[:, 2 * fold :]], 1)


def tsm(backbone: ResNetBackbone) -> None:
    """Make a backbone TSM's."""
    for stage in resnet_stages(backbone):
        for block in stage[:: 2 if len(stage) >= 23 else 1]:
            block.conv1 = ClipConv2d(TemporalShift(), block.conv1)
