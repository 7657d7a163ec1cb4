"""ECO (Zolfaghari et al., ECCV 2018): a 2D network on single frames, and a 3D residual network on what it saw.

BN-Inception up to 28 x 28 pixels sees each frame. Frames talk in the 3x3x3 convolutions of the second half of a
ResNet-18. ECO-Lite is just that; ECO-Full also has the rest of BN-Inception beside it, averaged over the frames.
ECO_EN is an ensemble of four ECO-Lite with 16, 20, 24 and 32 frames: train those, and average their scores.
"""

from functools import partial

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation

from ctlib.backbones import VideoBackbone
from ctlib.kernels.folded import OnFrames
from ctlib.kernels.layout import clips_of, frames_of

conv = partial(Conv2dNormActivation, bias=True)  # on frames: a convolution with a bias, batch norm and ReLU


def halved() -> nn.Sequential:
    """A 3x3 max-pool that halves any size, rounded up; padded with zeros, as what it sees is never negative."""
    return nn.Sequential(nn.ZeroPad2d((0, 2, 0, 2)), nn.MaxPool2d(3, 2))


class Inception(nn.Module):
    """A block of BN-Inception: branches, concatenated.

    `outs` are channels of 1x1; of 1x1 and 3x3; of 1x1 and both 3x3 after it; and after the pool. Without the first and
    the last, the block has a stride of 2, and its pool is `halved`.
    Shape: (N, channels, H, W) -> (N, C, H, W), or with a stride (N, C, H / 2, W / 2).
    """

    def __init__(self, channels: int, outs: tuple[int, int, int, int, int, int], pool: type):
        super().__init__()
        alone, reduced, wide, reduced_twice, wide_twice, pooled = outs
        stride = 1 if alone else 2
        twice = conv(reduced_twice, wide_twice, 3), conv(wide_twice, wide_twice, 3, stride)
        branches = [
            nn.Sequential(conv(channels, reduced, 1), conv(reduced, wide, 3, stride)),
            nn.Sequential(conv(channels, reduced_twice, 1), *twice),
            nn.Sequential(pool(3, 1, 1), conv(channels, pooled, 1)) if alone else halved(),
        ]
        self.branches = nn.ModuleList([conv(channels, alone, 1), *branches] if alone else branches)
        self.out_channels = alone + wide + wide_twice + (pooled or channels)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(frames) for branch in self.branches], 1)


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm3d(channels), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Batch norm and ReLU, and two 3x3x3 convolutions on them, added to what came in.

    With a stride of 2 what came in passes a strided 3x3x3 convolution, after the batch norm and ReLU.
    Shape: (N, channels, T, H, W) -> (N, out, T / stride, H / stride, W / stride).
    """

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.before = _norm(channels)
        first, second = nn.Conv3d(channels, out, 3, stride, 1), nn.Conv3d(out, out, 3, padding=1)
        self.residual = nn.Sequential(first, *_norm(out), second)
        self.shortcut = None if stride == 1 else nn.Conv3d(channels, out, 3, stride, 1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        seen = self.before(clips)
        return self.residual(seen) + (clips if self.shortcut is None else self.shortcut(seen))


# Channels and pools of the blocks of BN-Inception: 3a and 3b, which both networks have, and 3c to 5b, ECO-Full's.
AVERAGE, LARGEST = nn.AvgPool2d, nn.MaxPool2d
SHARED = (64, 64, 64, 64, 96, 32, AVERAGE), (64, 64, 96, 64, 96, 64, AVERAGE)
FULL = (
    (0, 128, 160, 64, 96, 0, LARGEST),
    (224, 64, 96, 96, 128, 128, AVERAGE),
    (192, 96, 128, 96, 128, 128, AVERAGE),
    (160, 128, 160, 128, 160, 128, AVERAGE),
    (96, 128, 192, 160, 192, 128, AVERAGE),
    (0, 128, 192, 192, 256, 0, LARGEST),
    (352, 192, 320, 160, 224, 128, AVERAGE),
    (352, 192, 320, 192, 224, 128, LARGEST),
)


class ECO(nn.Module):
    """Clips (N, 3, T, H, W) -> (N, C, T / 4, H / 32, W / 32): features of the 3D network, and of the 2D one.

    In a `full` one, the 2D network goes on beside the 3D one. Both have one in `share` of the channels.
    """

    def __init__(self, full: bool, share: int = 1):
        super().__init__()
        stem, reduced, wide, c = 64 // share, 96 // share, 192 // share, 128 // share
        self.shared = nn.Sequential(conv(3, stem, 7, 2), halved(), conv(stem, stem, 1), conv(stem, wide, 3), halved())
        channels = _extend(self.shared, wide, SHARED, share)
        self.reduce = nn.Sequential(conv(channels, stem, 1), conv(stem, reduced, 3))
        self.video = nn.Sequential(nn.Conv3d(reduced, c, 3, padding=1), Residual(c, c, 1))
        for width in (c, 2 * c):
            self.video.extend([Residual(width, 2 * width, 2), Residual(2 * width, 2 * width, 1)])
        self.video.append(_norm(4 * c))
        self.images = nn.Sequential() if full else None
        self.out_channels = 4 * c + (_extend(self.images, channels, FULL, share) if full else 0)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        num_frames = clips.shape[2]
        frames = self.shared(frames_of(clips))
        video = self.video(clips_of(self.reduce(frames), num_frames))
        if self.images is None:
            return video
        images = clips_of(self.images(frames), num_frames).mean(2, keepdim=True)
        return torch.cat([video, images.expand(-1, -1, video.shape[2], -1, -1)], 1)


def _extend(network: nn.Sequential, channels: int, blocks: tuple[tuple, ...], share: int) -> int:
    """Append Inception blocks; the number of channels that come out."""
    for *outs, pool in blocks:
        network.append(Inception(channels, tuple(out // share for out in outs), pool))
        channels = network[-1].out_channels
    return channels


def bn_inception() -> VideoBackbone:
    """BN-Inception on single frames, as in the TSN of Table 5."""
    whole = ECO(full=True)
    return VideoBackbone(OnFrames(*whole.shared, *whole.images), out_channels=whole.out_channels - 512)


BACKBONES = {
    "tsn_bn_inception": bn_inception,
    "eco_lite": lambda: VideoBackbone(ECO(full=False)),
    "eco_full": lambda: VideoBackbone(ECO(full=True)),
    "eco_small": lambda: VideoBackbone(ECO(full=False, share=4)),
}
