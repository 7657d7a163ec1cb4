"""CSN (Tran et al., ICCV 2019) and R(2+1)D (Tran et al., CVPR 2018): residual networks on whole clips.

Both are torchvision's `VideoResNet` with convolutions of their own. They start from random weights, and halve the
number of frames three times.

- CSN: in each bottleneck a 3x3x3 convolution of each channel for itself. The interaction-preserved kind (ip) mixes the
  channels right before it, the interaction-reduced kind (ir) only in the block's other convolutions.
- R(2+1)D: each convolution is one in space and one in time. Between them are as many channels as give the weights of a
  3x3x3 convolution, computed for each convolution by itself.
"""

from torch import nn
from torchvision.models.video.resnet import BasicBlock, Bottleneck, Conv2Plus1D, VideoResNet

from ctlib.backbones import VideoBackbone
from ctlib.rivals.parts import conv_bn, conv_bn_relu, pooled_stem


class Depthwise(nn.Conv3d):
    """3 x 3 x 3, each channel for itself."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1):
        super().__init__(in_planes, out_planes, 3, stride, padding=1, groups=in_planes, bias=False)

    get_downsample_stride = staticmethod(Conv2Plus1D.get_downsample_stride)


class PointwiseDepthwise(nn.Sequential):
    """All channels of a position, and then 3 x 3 x 3, each channel for itself."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1):
        super().__init__(*conv_bn(in_planes, out_planes, 1), Depthwise(out_planes, out_planes, midplanes, stride))

    get_downsample_stride = staticmethod(Conv2Plus1D.get_downsample_stride)


class SpaceThenTime(Conv2Plus1D):
    """1 x 3 x 3, and then 3 x 1 x 1."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1):
        between = 27 * in_planes * out_planes // (9 * in_planes + 3 * out_planes)
        super().__init__(in_planes, out_planes, between, stride)


class Network(VideoResNet):
    """torchvision's, with its fixed widths divided."""

    def __init__(self, block: type[nn.Module], divisor: int, *parts):
        self.divisor, self.out_channels = divisor, 512 * block.expansion // divisor
        super().__init__(block, *parts)

    def _make_layer(self, block, convolution, planes: int, blocks: int, stride: int) -> nn.Sequential:
        self.inplanes //= self.divisor if planes == 64 else 1  # of the stem
        return super()._make_layer(block, convolution, planes // self.divisor, blocks, stride)

    def backbone(self) -> VideoBackbone:
        stem_and_stages = list(self.children())[:-2]  # without what pools and classifies
        return VideoBackbone(nn.Sequential(*stem_and_stages), self.out_channels)


def csn(convolution: type[nn.Module], layers: tuple[int, int, int, int], divisor: int = 1) -> VideoBackbone:
    """A CSN of bottlenecks with this convolution."""
    network = Network(Bottleneck, divisor, [convolution] * 4, layers, lambda: pooled_stem(64 // divisor, temporal=3))
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm3d):
            norm.eps = 1e-3
    return network.backbone()


def r2plus1d(layers: tuple[int, int, int, int], divisor: int = 1) -> VideoBackbone:
    """An R(2+1)D of basic blocks."""
    in_space = conv_bn_relu(3, 45 // divisor, (1, 7, 7), (1, 2, 2))
    stem = nn.Sequential(*in_space, *conv_bn_relu(45 // divisor, 64 // divisor, (3, 1, 1)))
    return Network(BasicBlock, divisor, [SpaceThenTime] * 4, layers, lambda: stem).backbone()


BACKBONES = {
    "ir_csn_101": lambda: csn(Depthwise, (3, 4, 23, 3)),
    "ir_csn_152": lambda: csn(Depthwise, (3, 8, 36, 3)),
    "ip_csn_101": lambda: csn(PointwiseDepthwise, (3, 4, 23, 3)),
    "ip_csn_152": lambda: csn(PointwiseDepthwise, (3, 8, 36, 3)),
    "r2plus1d_34": lambda: r2plus1d((3, 4, 6, 3)),
    "ir_csn_small": lambda: csn(Depthwise, (1, 1, 1, 1), 2),
    "ip_csn_small": lambda: csn(PointwiseDepthwise, (1, 1, 1, 1), 2),
    "r2plus1d_small": lambda: r2plus1d((1, 1, 1, 1), 4),
}
