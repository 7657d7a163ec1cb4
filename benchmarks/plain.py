"""CT-Net written plainly, as its equations read, to compare the package's own with in value and in time.

Every convolution on clips is a Conv3d over (N, C, T, H, W), every batch norm and gate is separate, and every
channel shuffle is a copy. Weights have the names and shapes of `ctlib.ctnet_r50`, so state dicts are exchangeable.
"""

import torch
from torch import nn
from torchvision.models import resnet50

from ctlib.tensorize import factor

DEPTHS = (3, 4, 6, 3)


class Convolution(nn.Conv3d):
    """A tensor separable convolution along C_k = `size` neighbouring channels."""

    def __init__(self, channels: int, size: int, kernel_size: tuple[int, int, int], out_channels: int | None = None):
        padding = tuple(extent // 2 for extent in kernel_size)
        out_channels = out_channels or channels
        super().__init__(channels, out_channels, kernel_size, padding=padding, groups=channels // size, bias=False)


class Gate(nn.Module):
    """One branch of Tensor Excitation."""

    def __init__(self, channels: int, size: int, pooled: tuple[int, ...], kernel_size: tuple[int, int, int]):
        super().__init__()
        self.pooled = pooled
        self.reduce = Convolution(channels, size, kernel_size, channels // 4)
        self.bn = nn.BatchNorm3d(channels // 4)
        self.relu = nn.ReLU(inplace=True)
        self.expand = Convolution(channels // 4, size // 4, kernel_size, channels)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attention = self.relu(self.bn(self.reduce(x.mean(self.pooled, keepdim=True))))
        return x * self.sigmoid(self.expand(attention))


class Excitation(nn.Module):
    def __init__(self, channels: int, size: int):
        super().__init__()
        self.spatial = Gate(channels, size, (2,), (1, 3, 3))
        self.temporal = Gate(channels, size, (3, 4), (3, 1, 1))
        self.channel = Gate(channels, size, (3, 4), (1, 1, 1))


def activated(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm3d(channels), nn.ReLU(inplace=True))


class SubOperation(nn.Module):
    """Spatial and temporal convolution, excited and added: Eq. (6) to (8)."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.spatial = activated(Convolution(channels, size, (1, 3, 3)), channels)
        self.temporal = activated(Convolution(channels, size, (3, 1, 1)), channels)
        self.excitation = Excitation(channels, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = self.excitation.spatial(self.spatial(x)) + self.excitation.temporal(self.temporal(x))
        return self.excitation.channel(both)


class Module(nn.Module):
    """C = C_1 x C_2: along C_1, the point-wise convolution, along C_2."""

    def __init__(self, channels: int):
        super().__init__()
        self.dims = factor(channels, 2)
        self.sub_operations = nn.ModuleList(SubOperation(channels, size) for size in self.dims)
        self.pointwise = nn.ModuleList([activated(Convolution(channels, channels, (1, 1, 1)), channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, t, h, w = x.shape
        first, second = self.dims
        x = self.pointwise[0](self.sub_operations[0](x))
        x = x.view(n, second, first, t, h, w).permute(0, 2, 1, 3, 4, 5).contiguous().view(n, c, t, h, w)
        x = self.sub_operations[1](x)
        return x.view(n, first, second, t, h, w).permute(0, 2, 1, 3, 4, 5).contiguous().view(n, c, t, h, w)


class Block(nn.Module):
    """A bottleneck of ResNet with the module instead of its 3x3 convolution."""

    def __init__(self, bottleneck: nn.Module, num_frames: int):
        super().__init__()
        self.num_frames = num_frames
        self.conv1, self.bn1 = bottleneck.conv1, bottleneck.bn1
        self.conv2 = Module(bottleneck.conv1.out_channels)
        self.conv3, self.bn3, self.relu = bottleneck.conv3, bottleneck.bn3, bottleneck.relu

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(frames)))
        nt, c, h, w = x.shape
        clips = x.view(nt // self.num_frames, self.num_frames, c, h, w).transpose(1, 2).contiguous()
        x = self.conv2(clips).transpose(1, 2).contiguous().view(nt, c, h, w)
        return self.relu(self.bn3(self.conv3(x)) + frames)


class PlainCTNet(nn.Module):
    """CT-Net on ResNet-50 for clips of T frames: (N, 3, T, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int, num_frames: int, dropout: float = 0.5):
        super().__init__()
        self.num_frames = num_frames
        self.backbone = resnet50()
        self.backbone.fc = nn.Identity()
        for stage, depth in enumerate(DEPTHS, start=1):
            layer = self.backbone.get_submodule(f"layer{stage}")
            for index in range(1, depth, 2):
                layer[index] = Block(layer[index], num_frames)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        n, c, t, h, w = clips.shape
        frames = clips.transpose(1, 2).contiguous().view(n * t, c, h, w)
        return self.fc(self.dropout(self.backbone(frames))).view(n, t, -1).mean(1)
