"""What several families share: modules on clips in a 2D ResNet, and layers, blocks and the backbone of 3D networks."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck
from torchvision.ops import Conv3dNormActivation

from ctlib.backbones import Backbone, ClipLayer, ClipModule, ResNetBackbone
from ctlib.kernels import operations
from ctlib.kernels.layout import clips_of, frames_of


class ClipConv2d(nn.Conv2d):
    """A 2D convolution on frames with the weights of `conv`, under their names, and before it a module on clips.

    The module keeps the shape (N, C, T, H, W). Shape: frames (N * T, C, H, W) -> as those of `conv`.
    """

    def __init__(self, before: nn.Module, conv: nn.Conv2d):
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False, device="meta"
        )
        self.weight = conv.weight
        self.before = ClipModule(before)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return super().forward(self.before(frames))


def before_conv1(backbone: ResNetBackbone, make_module: Callable[[int], nn.Module]) -> None:
    """Put a module on clips, made for its channels, before the first convolution of each block's residual branch."""
    for block in bottlenecks(backbone):
        block.conv1 = ClipConv2d(make_module(block.conv1.in_channels), block.conv1)


class Taken(ClipLayer):
    """The layers of a bottleneck, by their names, for another pass: (N * T, C_in, H, W) -> as the bottleneck's."""

    def __init__(self, block: Bottleneck):
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.downsample, self.stride = block.downsample, block.stride

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.downsample is None else self.downsample(x)


def bottlenecks(backbone: ResNetBackbone) -> list[Bottleneck]:
    """All blocks of a ResNet, in order. Raises ValueError for another backbone."""
    if not isinstance(backbone, ResNetBackbone):
        raise ValueError(f"this system sits on a ResNet, got {type(backbone).__name__}")
    return list(backbone.blocks())


class TemporalConv(nn.Module):
    """A convolution over three frames, each channel for itself, zero-padded, without bias.

    A start is pairs: a share of the channels, and their first weights of the frame before, this and the one after. A
    subclass may have another, in `reset_parameters`.
    Shape: (N, C, T, H, W) -> the same.
    """

    def __init__(self, channels: int, start: tuple[tuple[float, tuple[float, float, float]], ...] = ()):
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.zeros(channels, 1, 3, 1, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        channels, first = len(self.weight), 0
        with torch.no_grad():
            for share, weights in self.start:
                last = channels if (share, weights) == self.start[-1] else first + int(share * channels)
                self.weight[first:last, 0, :, 0, 0] = torch.tensor(weights)
                first = last

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return operations.convolve(clips, self.weight, None, len(self.weight))


# Starts of a temporal convolution.
SHIFT = ((1 / 8, (0.0, 0.0, 1.0)), (1 / 8, (1.0, 0.0, 0.0)), (3 / 4, (0.0, 1.0, 0.0)))  # TSM's
QUARTERS = ((1 / 4, (1.0, 0.0, 0.0)), (1 / 2, (0.0, 1.0, 0.0)), (1 / 4, (0.0, 0.0, 1.0)))


class VideoBackbone(Backbone):
    """A network on clips in the place of a backbone: frames (N * T, 3, H, W) and T -> features (N * t, C, h, w).

    Args:
        body: clips (N, 3, T, H, W) -> (N, C, t, h, w).
        out_channels: C; if not given, the body's attribute of this name.
        num_frames, pooled: as in `Backbone`.
    """

    smallest = 1
    can_recompute = False  # it is one block

    def __init__(self, body: nn.Module, out_channels: int = 0, num_frames: int | None = None, pooled: bool = False):
        super().__init__()
        self.body, self.out_channels = body, out_channels or body.out_channels
        self.num_frames, self.pooled = num_frames, pooled

    def blocks(self) -> list[nn.Module]:
        return [self.body]

    def replace(self, blocks: str | tuple, _make_module) -> None:
        if blocks != "none":
            raise ValueError(f"no block of a network on clips can be replaced: blocks must be 'none', got {blocks!r}")

    def check_frames(self, num_frames: int) -> None:
        getattr(self.body, "check_frames", super().check_frames)(num_frames)

    def forward(self, frames, num_frames: int):
        self.check_frames(num_frames)
        features = self.body(clips_of(frames, num_frames))
        self.frames_out = features.shape[2]
        return frames_of(features)


# From channels in, channels out, kernel and stride: a 3D convolution without bias, batch norm, and maybe a ReLU. It is
# zero-padded, so that a stride of 1 keeps the size.
conv_bn_relu = Conv3dNormActivation
conv_bn = partial(Conv3dNormActivation, activation_layer=None)


def pooled_stem(width: int, temporal: int) -> nn.Sequential:
    """A first convolution over `temporal` frames, and a max-pool; each halves the size in space."""
    pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
    return conv_bn_relu(3, width, (temporal, 7, 7), (1, 2, 2)).append(pool)


class Residual(nn.Module):
    """The ReLU of a residual and its shortcut, on clips."""

    def __init__(self, shortcut: nn.Module, residual: nn.Module):
        super().__init__()
        self.shortcut, self.residual = shortcut, residual

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return F.relu(self.residual(clips) + self.shortcut(clips))


class Bottleneck3d(nn.Module):
    """torchvision's bottleneck on clips, under its names. Its first convolution sees `temporal` frames.

    A module may stand `after` it. Shape: (N, channels, T, H, W) -> (N, 4 * planes, T, H / stride, W / stride).
    """

    def __init__(self, channels: int, planes: int, stride: int, temporal: int, after: nn.Module | None = None):
        super().__init__()
        wide, strides = 4 * planes, (1, stride, stride)
        self.conv1, self.bn1 = conv_bn(channels, planes, (temporal, 1, 1))
        self.conv2, self.bn2 = conv_bn(planes, planes, (1, 3, 3), strides)
        self.conv3, self.bn3 = conv_bn(planes, wide, 1)
        same = channels == wide and stride == 1
        self.downsample = None if same else conv_bn(channels, wide, 1, strides)
        self.after = after or nn.Identity()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(clips)), inplace=True)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)), inplace=True)))
        return self.after(F.relu(out + (clips if self.downsample is None else self.downsample(clips))))
