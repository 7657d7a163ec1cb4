"""CorrNet (Wang et al., CVPR 2020), our reading: an R(2+1)D network that matches each frame with the one before.

After three of its stages, and once more in the middle of the third of CorrNet-101, each position is compared with those
around it in the frame before. No code is released, and we could not read the whole paper. The published 115 and 224
GFLOPs of the two networks fit no reading that we know. This one was chosen to come near 115: it gives 114.3 and 185.2
at 224 pixels, without batch norms.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import VideoBackbone
from ctlib.rivals.parts import Residual, conv_bn, conv_bn_relu

KERNEL, DILATION = 7, 2  # 7 x 7 positions around each, every second one, so that they span 13 x 13


class Correlation(nn.Module):
    """How well each position matches those around it in the frame before; the first frame is matched with itself.

    For each group of channels and displacement: the mean over the group of weight * this frame * the frame before.
    Weights are of a channel, frame and displacement, and start at one: a plain correlation.
    Shape: (N, C, T, H, W) -> (N, groups * 49, T, H, W).
    """

    def __init__(self, channels: int, num_frames: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(channels, num_frames, KERNEL, KERNEL))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def dynamic_products(self, out: torch.Tensor) -> int:
        """Multiply-accumulates of single elements, which `cost.breakdown` asks for: C * T * 49 * H * W of a clip."""
        return len(out) * self.weight.numel() * out[0, 0, 0].numel()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        height, width = clips.shape[3:]
        before = F.pad(torch.cat([clips[:, :, :1], clips[:, :, :-1]], 2), [DILATION * (KERNEL // 2)] * 4)
        steps = [DILATION * step for step in range(KERNEL)]
        beside = torch.stack([before[..., x : x + width] for x in steps], 1)
        weights = self.weight.to(clips.dtype).permute(2, 3, 0, 1)[..., None, None]  # (row, column, C, T, 1, 1)
        maps = []  # a row at a time, as all at once would need 49 times the memory of the clip
        for y, row in zip(steps, weights, strict=True):
            products = clips[:, None] * row * beside[..., y : y + height, :]
            maps.append(products.unflatten(2, (self.groups, -1)).mean(3))
        return torch.cat(maps, 1).transpose(1, 2).flatten(1, 2)


def correlation_sum(channels: int, num_frames: int, groups: int) -> Residual:
    """A correlation at a quarter of the channels, brought back to all of them group by group, and added."""
    few = channels // 4
    restore = conv_bn(groups * KERNEL**2, channels, 1, groups=groups)
    layers = *conv_bn_relu(channels, few, 1), Correlation(few, num_frames, groups), *restore
    return Residual(nn.Identity(), nn.Sequential(*layers))


def bottleneck(channels: int, width: int, time: int, space: int) -> Residual:
    """A bottleneck with 1 x 3 x 3 and then 3 x 1 x 1, all of the same width; its strides in time and space."""
    in_space = conv_bn_relu(width, width, (1, 3, 3), (1, space, space))
    in_time = conv_bn_relu(width, width, (3, 1, 1), (time, 1, 1))
    residual = nn.Sequential(*conv_bn_relu(channels, width, 1), *in_space, *in_time, *conv_bn(width, 4 * width, 1))
    same = channels == 4 * width and time == space == 1
    shortcut = nn.Sequential() if same else conv_bn(channels, 4 * width, 1, (time, space, space))
    return Residual(shortcut, residual)


class CorrNet(nn.Sequential):
    """Clips (N, 3, T, H, W) -> (N, 32 * width, T / 4, H / 32, W / 32), rounded up, for one T."""

    def __init__(self, depths: tuple[int, ...], num_frames: int = 32, width: int = 64, groups: int = 32):
        super().__init__(*conv_bn_relu(3, width, (1, 7, 7), (1, 2, 2)))
        self.num_frames, self.out_channels = num_frames, 32 * width
        channels, frames = width, num_frames
        for stage, (depth, stride) in enumerate(zip(depths, (1, 1, 2, 2), strict=True)):
            frames = -(-frames // stride)
            for index in range(depth):
                self.append(bottleneck(channels, width << stage, *((1, 1) if index else (stride, 2))))
                channels = 4 * width << stage
                ends, middle = stage < 3 and index == depth - 1, depth == 23 and index == 11
                if ends or middle:
                    self.append(correlation_sum(channels, frames, groups))


BACKBONES = {
    "corrnet_50": lambda: VideoBackbone(CorrNet((3, 4, 6, 3)), num_frames=32),
    "corrnet_101": lambda: VideoBackbone(CorrNet((3, 4, 23, 3)), num_frames=32),
    "corrnet_small": lambda: VideoBackbone(CorrNet((1, 1, 1, 1), 8, width=16, groups=4), num_frames=8),
}
