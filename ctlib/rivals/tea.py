"""TEA (Li et al., CVPR 2020): motion excitation, and a temporal convolution in each branch of a Res2Net block.

The blocks are those of Res2Net-50 (26w4s). After the first convolution the channels are split into four groups. The
second and the third add what came out of the one before. ImageNet weights of a ResNet do not fit.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck
from torchvision.ops import Conv2dNormActivation

from ctlib.backbones import ClipModule, ResNetBackbone
from ctlib.kernels.layout import clips_of, frames_of
from ctlib.rivals.parts import TemporalConv, replace_each

SAME = ((1, (0.0, 1.0, 0.0)),)
NEXT_AND_LAST = ((1 / 2, (0.0, 0.0, 1.0)), (1 / 2, (1.0, 0.0, 0.0)))


class MotionExcitation(nn.Module):
    """ME: gates of the channels of each frame, from the difference to the next frame.

    x + x * (sigmoid(z) - 1/2), where z are the averages of the difference, at a sixteenth of the channels, expanded.
    Shape: (N, C, T, H, W) -> the same.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.reduce, self.bn = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.moved = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.expand, self.bn_out = nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        num_frames = clips.shape[2]
        reduced = self.bn(self.reduce(frames_of(clips)))
        this, after = clips_of(reduced, num_frames), clips_of(self.moved(reduced), num_frames)
        difference = F.pad(after[:, :, 1:] - this[:, :, :-1], (0, 0, 0, 0, 0, 1))
        averages = frames_of(difference.mean((3, 4), keepdim=True))
        gates = clips_of(self.bn_out(self.expand(averages)).sigmoid() - 0.5, num_frames)
        return clips + clips * gates


class TEABlock(nn.Module):
    """A Res2Net bottleneck with motion excitation and temporal convolutions, in the place of a ResNet's.

    It keeps the shortcut and the shapes of that: frames (N * T, C_in, H, W) -> as the bottleneck's.
    """

    def __init__(self, block: Bottleneck):
        super().__init__()
        planes, out, stride = block.conv2.in_channels, block.conv3.out_channels, block.stride
        width = planes * 26 // 64
        self.first = block.downsample is not None  # of its stage
        self.conv1, self.bn1 = nn.Conv2d(block.conv1.in_channels, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.excitation = ClipModule(MotionExcitation(4 * width))
        starts = SAME, SAME, SAME, NEXT_AND_LAST
        self.temporal = nn.ModuleList(ClipModule(TemporalConv(width, start)) for start in starts)
        self.spatial = nn.ModuleList(Conv2dNormActivation(width, width, 3, stride) for _ in range(3))
        self.pool = nn.AvgPool2d(3, stride, padding=1) if self.first else nn.Identity()
        self.conv3, self.bn3 = nn.Conv2d(4 * width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = block.downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = self.excitation(F.relu(self.bn1(self.conv1(x)))).chunk(4, 1)
        done = []
        for group, temporal, spatial in zip(groups, self.temporal, self.spatial, strict=False):
            done.append(spatial(temporal(group if self.first or not done else group + done[-1])))
        done.append(self.pool(self.temporal[3](groups[3])))
        out = self.bn3(self.conv3(torch.cat(done, 1)))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def tea(backbone: ResNetBackbone) -> None:
    """Make a backbone TEA's."""
    replace_each(backbone, TEABlock)
