"""What several families share: a module on clips before a convolution, and a temporal convolution of each channel."""

from collections.abc import Callable

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from ctlib.backbones import ClipLayer, ClipModule, ResNetBackbone
from ctlib.kernels import operations


class ClipConv2d(nn.Conv2d):
    """A 2D convolution on frames, and before it a module on clips; its weights keep their names.

    Args:
        before: (N, C, T, H, W) -> the same.
        conv: gives its weights.

    Shape:
        frames (N * T, C, H, W) -> as those of `conv`
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
    """Put a module on clips before the first convolution of each block, on its residual branch.

    Args:
        backbone: changed in place.
        make_module: called with the channels that come into the block.
    """
    for block in bottlenecks(backbone):
        block.conv1 = ClipConv2d(make_module(block.conv1.in_channels), block.conv1)


class Taken(ClipLayer):
    """The layers of a bottleneck, under their names, for another forward pass.

    Shape:
        (N * T, C_in, H, W) -> as the bottleneck's
    """

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

    Args:
        channels: C.
        start: initial weights of the frame before, the frame itself and the frame after, for some channels each:
            pairs of a share of the channels and three weights.

    Shape:
        (N, C, T, H, W) -> the same
    """

    def __init__(self, channels: int, start: tuple[tuple[float, tuple[float, float, float]], ...]):
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(channels, 1, 3, 1, 1))
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
