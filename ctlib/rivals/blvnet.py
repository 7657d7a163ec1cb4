"""bLVNet-TAM (Fan et al., NeurIPS 2019): a big network on half of the frames, and a little one on the others.

Frames come in pairs. The first of a pair passes a little branch at full resolution, the second a deep one at half of
it, and both get their sum. Before each stage, and in each block of the last, every channel mixes a frame with
the one before and the one after (the Temporal Aggregation Module).
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from ctlib.backbones import VideoBackbone
from ctlib.kernels.folded import OnFrames
from ctlib.rivals.parts import TemporalConv

_conv = partial(Conv2dNormActivation, activation_layer=None)  # a convolution without bias, and batch norm
ALPHA, BETA = 2, 4  # the little branch has one in alpha of the channels, and about one in beta of the blocks


class TemporalAggregation(TemporalConv):
    """TAM: each channel as a weighted sum over three frames, and a ReLU; (N, C, T, H, W) -> the same."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=(2 / len(self.weight)) ** 0.5)  # as three 1x1 convolutions, by their fan-out

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return F.relu(super().forward(clips))


class Bottleneck(nn.Module):
    """A bottleneck whose shortcut averages where it has a stride. Its last batch norm starts at zero.

    If it aggregates, its input passes a TAM. A shortcut without layers takes the input from before it.
    Shape: (N, channels, T, H, W) -> (N, out, T, H, W), with a stride of 2 half the height and width.
    """

    def __init__(self, channels: int, out: int, stride: int = 1, aggregates: bool = False):
        super().__init__()
        self.aggregation = TemporalAggregation(channels) if aggregates else nn.Identity()
        relu, width = nn.ReLU(inplace=True), out // 4
        inner = (*_conv(channels, width, 1), relu, *_conv(width, width, 3, stride), relu, *_conv(width, out, 1))
        nn.init.zeros_(inner[-1].weight)
        self.residual = OnFrames(*inner)
        pool = [nn.AvgPool2d(3, stride, padding=1)] if stride > 1 else []
        self.shortcut = OnFrames(*pool, *(_conv(channels, out, 1) if channels != out else ()))
        self.last = nn.ReLU(inplace=True)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        seen = self.aggregation(clips)
        carried = self.shortcut(seen) if len(self.shortcut) else clips
        return self.last(self.residual(seen) + carried)


def _blocks(channels: int, out: int, depth: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(Bottleneck(channels, out, stride), *(Bottleneck(out, out) for _ in range(depth - 1)))


class BigLittle(nn.Module):
    """A TAM, the little branch on each first frame of a pair, the big one on each second, and what fuses their sum.

    Shape: (N, C_in, 2T, H, W) -> (N, C_out, T, h, w).
    """

    def __init__(self, channels: int, little: nn.Module, big: nn.Module, fusion: nn.Module):
        super().__init__()
        self.aggregation = TemporalAggregation(channels)
        self.little, self.big, self.fusion = little, big, fusion

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        clips = self.aggregation(clips)
        little, big = self.little(clips[:, :, ::2]), self.big(clips[:, :, 1::2])
        return self.fusion(F.relu(F.interpolate(big, little.shape[2:]) + little))


class BLVNet(nn.Module):
    """Clips (N, 3, 2T, H, W) -> (N, 32 * width, T, H / 32, W / 32), rounded up: features of each pair of frames.

    The first three stages need at least 2 blocks: the big branch has all but one, which fuses. The stem has `width`
    channels. An odd number of frames is a ValueError.
    """

    def __init__(self, depths: tuple[int, int, int, int], width: int = 64):
        super().__init__()
        self.out_channels = 32 * width
        relu, small = nn.ReLU(inplace=True), width // ALPHA
        self.first = OnFrames(*_conv(3, width, 7, 2), relu)
        little = (*_conv(width, small, 3), relu, *_conv(small, small, 3, 2), relu, *_conv(small, width, 1))
        fusion = OnFrames(*_conv(width, width, 1), relu)
        self.stem = BigLittle(width, OnFrames(*little), OnFrames(*_conv(width, width, 3, 2)), fusion)
        self.stages, self.last, channels = nn.ModuleList(), nn.Sequential(), width
        for out, depth, stride in zip((4 * width, 8 * width, 16 * width), depths[:3], (2, 2, 1), strict=True):
            few = out // ALPHA
            little = _blocks(channels, few, max(1, depth // BETA - 1)).append(OnFrames(*_conv(few, out, 1)))
            big = _blocks(channels, out, depth - 1, stride=2)
            big[-1].last = nn.Identity()  # its ReLU follows the sum with the little branch
            self.stages.append(BigLittle(channels, little, big, Bottleneck(out, out, stride)))
            channels = out
        for stride in (2, *[1] * (depths[3] - 1)):
            self.last.append(Bottleneck(channels, self.out_channels, stride, aggregates=True))
            channels = self.out_channels

    def check_frames(self, num_frames: int) -> None:
        if num_frames % 2:
            raise ValueError(f"bLVNet takes frames in pairs: their number must be even, got {num_frames}")

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.check_frames(clips.shape[2])
        pairs = self.stem(self.first(clips))
        for stage in self.stages:
            pairs = stage(torch.stack([pairs, pairs], 3).flatten(2, 3))  # the same for both frames
        return self.last(pairs)


BACKBONES = {
    "blvnet_tam_50": lambda: VideoBackbone(BLVNet((3, 4, 6, 3))),
    "blvnet_tam_small": lambda: VideoBackbone(BLVNet((2, 2, 2, 1), width=16)),
}
