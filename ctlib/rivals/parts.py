"""What several families share: modules on clips in a 2D ResNet, and layers, blocks and the backbone of 3D networks."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck
from torchvision.ops import Conv3dNormActivation

from ctlib.backbones import ClipLayer, ClipModule, ResNetBackbone
from ctlib.kernels import operations

R50, R101 = (3, 4, 6, 3), (3, 4, 23, 3)  # blocks of the stages of ResNet-50 and 101


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


def before_each(name: str, backbone: ResNetBackbone, make_module: Callable[[int], nn.Module], stages=slice(4)) -> None:
    """Put a module on clips, made for its channels, before a convolution of each block in the stages.

    The name is "conv1" for the first convolution of a block's residual branch, or "conv2" for its 3x3 convolution.
    """
    for block in [block for stage in resnet_stages(backbone)[stages] for block in stage]:
        conv = getattr(block, name)
        setattr(block, name, ClipConv2d(make_module(conv.in_channels), conv))


def replace_each(backbone: ResNetBackbone, make_block: Callable[[Bottleneck], nn.Module], stages=slice(4)) -> None:
    """Put another block, made from it, in the place of each in the stages."""
    for stage in resnet_stages(backbone)[stages]:
        for index, block in enumerate(stage):
            stage[index] = make_block(block)


class Taken(ClipLayer):
    """The layers of a bottleneck, by their names, for another pass: (N * T, C_in, H, W) -> as the bottleneck's."""

    def __init__(self, block: Bottleneck):
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.downsample, self.stride = block.downsample, block.stride

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.downsample is None else self.downsample(x)


def resnet_stages(backbone: ResNetBackbone) -> list[nn.Sequential]:
    """The four stages of a ResNet. Raises ValueError for another backbone."""
    if not isinstance(backbone, ResNetBackbone):
        raise ValueError(f"this system sits on a ResNet, got {type(backbone).__name__}")
    return list(backbone.stages)


class SmallStart(nn.Conv3d):
    """A convolution that starts near zero: `std` is that of its first weights."""

    def __init__(self, *shape, std: float = 0.01, **options):
        self.std = std
        super().__init__(*shape, **options)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        nn.init.zeros_(self.bias)


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
