"""Non-local blocks on a 2D network (Wang et al., CVPR 2018): each position attends to all others of the clip.

One stands after each of five blocks of ResNet-50: two of stage 3 and three of stage 4. Attention knows no positions, so
a network on single frames with such blocks gives a clip and its reverse the same scores.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from ctlib.backbones import ClipModule, ResNetBackbone
from ctlib.rivals.parts import SmallStart, Taken, resnet_stages


class NonLocal(nn.Module):
    """x + BN(W softmax(theta(x)^T phi(x) / sqrt(C/2)) g(x)), over all positions of a clip.

    phi and g see a max-pool over 2 x 2 pixels. The batch norm starts at zero, and the block as the identity.
    Shape: (N, C, T, H, W) -> the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 2
        self.theta, self.phi, self.g = (SmallStart(channels, hidden, 1) for _ in range(3))
        self.out, self.bn = SmallStart(hidden, channels, 1), nn.BatchNorm3d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        height, width = clips.shape[3:]
        pooled = F.max_pool3d(clips, (1, min(2, height), min(2, width)))
        query, key, value = (part.flatten(2) for part in (self.theta(clips), self.phi(pooled), self.g(pooled)))
        attention = (query.mT @ key / query.shape[1] ** 0.5).softmax(2)  # (N, positions, pooled positions)
        seen = (value @ attention.mT).unflatten(2, clips.shape[2:])
        return clips + self.bn(self.out(seen))


class NonLocalBlock(Taken):
    """A bottleneck, and a non-local block after it."""

    def __init__(self, block: Bottleneck):
        super().__init__(block)
        self.non_local = ClipModule(NonLocal(block.conv3.out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.non_local(Bottleneck.forward(self, x))


def non_local(backbone: ResNetBackbone) -> None:
    """Put non-local blocks after blocks of stages 3 and 4: at most two and three, evenly spaced."""
    for stage, most in zip(resnet_stages(backbone)[1:3], (2, 3), strict=True):
        step = max(2, len(stage) // most)
        for index in range(min(step, len(stage)) - 1, len(stage), step):
            stage[index] = NonLocalBlock(stage[index])
