"""STM (Jiang et al., ICCV 2019): in every block, spatio-temporal features and motion features, added.

Both branches stand in place of the 3x3 convolution with its batch norm and ReLU. One lets each channel see its
neighbouring frames before that convolution. The other takes differences of neighbouring frames at a sixteenth of the
channels.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from ctlib.backbones import ClipModule, ResNetBackbone
from ctlib.kernels.layout import clips_of, frames_of
from ctlib.rivals.parts import QUARTERS, ClipConv2d, Taken, TemporalConv, replace_each


class MotionModule(nn.Module):
    """CMM: the difference between the next frame, through a 3x3 convolution of each channel, and this one.

    Shape: (N, C, T, H, W) -> the same; with a stride of 2, half the height and width.
    """

    def __init__(self, channels: int, stride: int, reduction: int = 16):
        super().__init__()
        hidden = channels // reduction
        self.reduce, self.bn = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.moved = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=False)
        self.pool = nn.MaxPool2d(2, stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        num_frames = clips.shape[2]
        reduced = self.bn(self.reduce(frames_of(clips)))
        this, after = clips_of(reduced, num_frames), clips_of(self.moved(reduced), num_frames)
        difference = F.pad(after[:, :, 1:] - this[:, :, :-1], (0, 0, 0, 0, 0, 1))
        return clips_of(self.pool(self.expand(frames_of(difference))), num_frames)


class STMBlock(Taken):
    """A bottleneck whose 3x3 convolution is STM's two branches."""

    def __init__(self, block: Bottleneck):
        super().__init__(block)
        channels = block.conv2.in_channels
        self.conv2 = ClipConv2d(TemporalConv(channels, QUARTERS), block.conv2)
        self.motion = ClipModule(MotionModule(channels, block.stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out))) + self.motion(out)
        return self.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def stm(backbone: ResNetBackbone) -> None:
    """Make a backbone STM's."""
    replace_each(backbone, STMBlock)
