"""SmallBigNet (Li et al., CVPR 2020): each convolution also sees the largest values around, with the same weights.

From stage 3 on, each convolution of a block is used twice: on its input (the small view) and on a max-pool of it over
3 x 3 x 3 (the big view), whose batch norm starts at zero. The pool before the last convolution of a block spans the
whole clip. A maximum does not depend on order, so the network gives a clip and its reverse the same scores.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from ctlib.backbones import ResNetBackbone
from ctlib.kernels.layout import clips_of, frames_of
from ctlib.rivals.parts import Taken, replace_each


class SmallBigBlock(Taken):
    """A bottleneck whose convolutions have a small and a big view."""

    keeps_batch_norms = ("bn1", "bn2", "bn3", "big1", "big2", "big3")  # two follow each convolution

    def __init__(self, block: Bottleneck):
        super().__init__(block)
        self.big1, self.big2, self.big3 = (nn.BatchNorm2d(bn.num_features) for bn in (self.bn1, self.bn2, self.bn3))
        for norm in (self.big1, self.big2, self.big3):
            nn.init.zeros_(norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.relu(self.bn1(self.conv1(x))) + self.big1(self.conv1(self.around(x))))
        out = self.relu(self.bn2(self.conv2(out)) + self.big2(self.conv2(self.around(out))))
        big = self.big3(self.conv3(self.of_clip(out))).repeat_interleave(self.num_frames, 0)
        return self.relu(self.bn3(self.conv3(out)) + big + self.shortcut(x))

    def around(self, frames: torch.Tensor) -> torch.Tensor:
        """The largest value of each 3 x 3 x 3 neighbourhood."""
        return frames_of(F.max_pool3d(clips_of(frames, self.num_frames), 3, 1, 1))

    def of_clip(self, frames: torch.Tensor) -> torch.Tensor:
        """That of each T x 3 x 3: one frame for each clip."""
        return F.max_pool2d(clips_of(frames, self.num_frames).amax(2), 3, 1, 1)


def smallbig(backbone: ResNetBackbone) -> None:
    """Make a backbone SmallBigNet's."""
    replace_each(backbone, SmallBigBlock, slice(1, 4))
