"""SlowFast (Feichtenhofer et al., ICCV 2019): a wide path on few frames, and a narrow one on all of them.

The fast path sees every frame of the clip with an eighth of the channels. The slow path sees one frame in alpha. After
the stem and after each stage except the last, a convolution in time brings fast features to the slow path.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import VideoBackbone
from ctlib.rivals.parts import R50, R101, Bottleneck3d, conv_bn_relu, pooled_stem


class Path(nn.Module):
    """The stem, of `width` channels, and the four stages of a path. Last batch norms of blocks start at zero.

    `beside` times the stem's channels come in beside the path's own; 0 in the fast path. `stem` and `temporal` are
    kernels in time: of the stem, and of the first convolution of each block, by stage.
    """

    def __init__(self, width: int, beside: int, stem: int, temporal: list[list[int]]):
        super().__init__()
        self.stem, self.stages, channels = pooled_stem(width, stem), nn.ModuleList(), width
        for stage, kernels in enumerate(temporal):
            planes, channels = width * 2**stage, channels + beside * (channels // width)
            blocks = nn.Sequential()
            for index, kernel in enumerate(kernels):
                blocks.append(Bottleneck3d(channels, planes, 2 if stage and not index else 1, kernel))
                nn.init.zeros_(blocks[-1].bn3.weight)
                channels = 4 * planes
            self.stages.append(blocks)


class SlowFast(nn.Module):
    """Clips (N, 3, T, H, W) -> (N, C, T / alpha, H / 32, W / 32): features of both paths, the fast ones averaged.

    The slow path sees one frame in `alpha`, and its stem has `width` channels. A kernel over `lateral` frames brings
    fast features to it. Of the third stage's blocks, the first `temporal_blocks` see neighbouring frames.
    """

    def __init__(self, depths: tuple[int, ...], alpha: int, lateral: int, width: int = 64, temporal_blocks: int = 6):
        super().__init__()
        fast = width // 8
        self.alpha, self.out_channels = alpha, 32 * (width + fast)
        few = [[3 if index < temporal_blocks else 1 for index in range(depths[2])]]
        all_frames = [[3] * depth for depth in depths]
        self.fast = Path(fast, 0, 5, [*all_frames[:2], *few, all_frames[3]])
        self.slow = Path(width, 2 * fast, 1, [[1] * depths[0], [1] * depths[1], *few, [3] * depths[3]])
        self.lateral = nn.ModuleList(
            conv_bn_relu(channels, 2 * channels, (lateral, 1, 1), (alpha, 1, 1))
            for channels in (fast, 4 * fast, 8 * fast, 16 * fast)
        )

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        slow, fast = self.slow.stem(clips[:, :, :: self.alpha]), self.fast.stem(clips)
        for to_slow, slow_stage, fast_stage in zip(self.lateral, self.slow.stages, self.fast.stages, strict=True):
            slow, fast = slow_stage(torch.cat([slow, to_slow(fast)], 1)), fast_stage(fast)
        several, over = divmod(fast.shape[2], slow.shape[2])
        # A mean can be exported, and computed in bfloat16.
        averaged = F.adaptive_avg_pool3d(fast, slow.shape[2:]) if over else fast.unflatten(2, (-1, several)).mean(3)
        return torch.cat([slow, averaged], 1)


# The clip has 32 frames, and 64 for 16x8. A name says how many the slow path sees, and how far apart they are in the
# video. Kernels, and blocks that see neighbouring frames, are those that give the published costs.
BACKBONES = {
    "slowfast_r50_4x16": lambda: VideoBackbone(SlowFast(R50, alpha=8, lateral=5)),
    "slowfast_r50_8x8": lambda: VideoBackbone(SlowFast(R50, alpha=4, lateral=7)),
    "slowfast_r101_8x8": lambda: VideoBackbone(SlowFast(R101, alpha=4, lateral=5)),
    "slowfast_r101_16x8": lambda: VideoBackbone(SlowFast(R101, alpha=4, lateral=5)),
    "slowfast_small": lambda: VideoBackbone(SlowFast((1, 1, 1, 1), alpha=4, lateral=5, width=16)),
}
