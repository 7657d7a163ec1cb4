"""TDN (Wang et al., CVPR 2021): differences of neighbouring frames, and of neighbouring segments, on a 2D ResNet.

A clip has five neighbouring frames for each of its T segments (`data.sampling=neighbours`), and T frames of features
come out. The short-term module brings the differences of the five, as features, to the middle frame: after the stem and
after the first stage. In the other stages the long-term module gates channels by differences between segments, and a
temporal convolution follows.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import ClipLayer, ResNetBackbone, run_block
from ctlib.kernels.layout import clips_of, frames_of
from ctlib.rivals.parts import SHIFT, TemporalConv, before_each

NEIGHBOURS = 5  # frames of a segment


class ShortTerm(ClipLayer):
    """S-TDM: features of the differences of neighbouring frames, by a stem and a first stage of its own.

    Their weights start as the backbone's, the stem's as the mean over the three colours.
    Shape: segments (N * T, 5, 3, H, W) -> (N * T, width, H / 8, W / 8) and (N * T, 4 * width, H / 8, W / 8).
    """

    def __init__(self, backbone: ResNetBackbone):
        super().__init__()
        width, inputs = backbone.conv1.out_channels, 3 * (NEIGHBOURS - 1)
        self.conv, self.bn = nn.Conv2d(inputs, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width)
        with torch.no_grad():
            self.conv.weight.copy_(backbone.conv1.weight.mean(1, keepdim=True).expand_as(self.conv.weight))
        self.maxpool, self.stage = copy.deepcopy(backbone.maxpool), copy.deepcopy(backbone.layer1)

    def forward(self, segments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        differences = halved((segments[:, 1:] - segments[:, :-1]).flatten(1, 2))
        after_stem = self.maxpool(F.relu(self.bn(self.conv(differences))))
        return after_stem, self.stage(after_stem)


class LongTerm(nn.Module):
    """L-TDM: gates of the channels at each position, from the differences to the next and to the last segment.

    x + x * (sigmoid(z) - 1/2), averaged over both. Here z is the difference, at a sixteenth of the channels, seen at
    three scales and expanded. The clip's ends have a difference of zero.
    Shape: (N, C, T, H, W) -> the same.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.reduce, self.bn = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.moved = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.fine, self.bn_fine = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden)
        self.coarse, self.bn_coarse = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden)
        self.expand, self.bn_out = nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        num_frames = clips.shape[2]
        reduced = self.bn(self.reduce(frames_of(clips)))
        this, moved = clips_of(reduced, num_frames), clips_of(self.moved(reduced), num_frames)
        to_next = F.pad(moved[:, :, 1:] - this[:, :, :-1], (0, 0, 0, 0, 0, 1))
        to_last = F.pad(moved[:, :, :-1] - this[:, :, 1:], (0, 0, 0, 0, 1, 0))
        gates = (self._gates(frames_of(to_next)) + self._gates(frames_of(to_last))) / 2
        return clips + clips * clips_of(gates, num_frames)

    def _gates(self, difference: torch.Tensor) -> torch.Tensor:
        coarse = self.bn_coarse(self.coarse(halved(difference)))
        scales = difference + self.bn_fine(self.fine(difference)) + F.interpolate(coarse, difference.shape[2:])
        return self.bn_out(self.expand(scales / 3)).sigmoid() - 0.5


def halved(maps: torch.Tensor) -> torch.Tensor:
    """Means over 2 x 2 pixels; a last odd row or column is left out, unless it is the only one."""
    height, width = maps.shape[2:]
    return F.avg_pool2d(maps, (min(2, height), min(2, width)))


class TDNBackbone(ResNetBackbone):
    """A ResNet with TDN's modules, which sees five frames of each segment.

    Shape: frames (N * 5T, 3, H, W) and 5T -> features (N * T, C, h, w); ValueError for another number.
    """

    shares = 0.5, 0.5  # of the frame and of the differences, where they meet; the release has 3/4 and 1/4 at T = 16

    def check_frames(self, num_frames: int) -> None:
        if num_frames % NEIGHBOURS:
            raise ValueError(
                f"T must be a multiple of 5 (five neighbouring frames a segment), got {num_frames}: for 8 segments set "
                "model.num_frames=40 data.sampling=neighbours"
            )

    def forward(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        self.check_frames(num_frames)
        self.frames_out = num_frames // NEIGHBOURS
        segments = frames.unflatten(0, (-1, NEIGHBOURS))
        after_stem, after_stage = self.short_term(segments)
        stem = self.maxpool(self.relu(self.bn1(self.conv1(segments[:, NEIGHBOURS // 2]))))
        x = self._met(stem, after_stem)
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for stage in self.stages:
            for block in stage:
                x = run_block(block, x, self.frames_out, recompute)
            if stage is self.layer1:
                x = self._met(x, after_stage)
        return x

    def _met(self, x: torch.Tensor, differences: torch.Tensor) -> torch.Tensor:
        of_frame, of_differences = self.shares
        return of_frame * x + of_differences * F.interpolate(differences, x.shape[2:])


def tdn(backbone: ResNetBackbone) -> set[nn.Parameter]:
    """Make a backbone TDN's. Returns the new parameters that start as the backbone's."""
    before_each("conv2", backbone, lambda c: nn.Sequential(LongTerm(c), TemporalConv(c, SHIFT)), slice(1, 4))
    backbone.short_term = ShortTerm(backbone)
    backbone.__class__ = TDNBackbone  # another forward pass on the same layers
    return {backbone.short_term.conv.weight, *backbone.short_term.stage.parameters()}
