"""TEINet (Liu et al., AAAI 2020): enhance the channels that move, then let each channel see its neighbouring frames.

The two modules stand before the first convolution of each block, on its residual branch. We could not read where the
paper puts them; this place gives the published 30.4 million parameters. Before the 3x3 convolution there would be 24.3
million.
"""

import torch
from torch import nn

from ctlib.backbones import ResNetBackbone
from ctlib.rivals.parts import SHIFT, TemporalConv, before_each


class MotionEnhanced(nn.Module):
    """MEM: gates of the channels of each frame, from the difference to the next frame's averages.

    With the means z_t, the gate is sigmoid(W (B z_{t+1} - A z_t)), where A and B reduce the channels to an eighth. The
    last frame has no next one and passes as it is.
    Shape: (N, C, T, H, W) -> the same.
    """

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        hidden = channels // reduction
        self.of_this, self.of_next = nn.Conv1d(channels, hidden, 1), nn.Conv1d(channels, hidden, 1)
        self.expand = nn.Conv1d(hidden, channels, 1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        if clips.shape[2] == 1:
            return clips
        means = clips.mean((3, 4))
        difference = self.of_next(means[:, :, 1:]) - self.of_this(means[:, :, :-1])
        gates = torch.cat([self.expand(difference).sigmoid(), torch.ones_like(means[:, :, :1])], 2)
        return clips * gates[:, :, :, None, None]


def teinet(backbone: ResNetBackbone) -> None:
    """Make a backbone TEINet's. TIM is a temporal convolution that starts as TSM's shift."""
    before_each("conv1", backbone, lambda c: nn.Sequential(MotionEnhanced(c), TemporalConv(c, SHIFT)))
