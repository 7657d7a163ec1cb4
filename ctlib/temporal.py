"""What the CT-Module is compared with in Tables 2a and 7: drop-ins for the same 3x3 convolution.

Each is a special case of the CT-Module (section 3.3, Discussion), written out here; that the module
gives the same with the right hyper-parameters is a test. As the paper counts them, both
convolutions of R(2+1)D and CSN keep C channels, and each has a batch norm and ReLU of its own.
"""

from torch import nn

from ctlib.ct_module import ConvBNReLU


class C3D(nn.Sequential):
    """One dense 3x3x3 convolution (Tran et al., 2015): K = 1.

    Args:
        channels: C of the input.
        out_channels: C of the output; `channels` if not given.

    Shape:
        (N, C, T, H, W) -> (N, C_out, T, H, W)
    """

    def __init__(self, channels: int, out_channels: int | None = None):
        super().__init__(ConvBNReLU(channels, channels, (3, 3, 3), out_channels))


class R2Plus1D(nn.Sequential):
    """A dense 1x3x3 convolution, then a dense 3x1x1 one (Tran et al., 2018): K = 2, C_1 = C_2 = C.

    Arguments and shapes as in `C3D`.
    """

    def __init__(self, channels: int, out_channels: int | None = None):
        wide = channels if out_channels is None else out_channels
        super().__init__(ConvBNReLU(channels, channels, (1, 3, 3), wide), ConvBNReLU(wide, wide, (3, 1, 1)))


class CSN(nn.Sequential):
    """A dense 1x1x1 convolution, then a depth-wise 3x3x3 one (Tran et al., 2019): C x 1.

    Arguments and shapes as in `C3D`.
    """

    def __init__(self, channels: int, out_channels: int | None = None):
        wide = channels if out_channels is None else out_channels
        super().__init__(ConvBNReLU(channels, channels, (1, 1, 1), wide), ConvBNReLU(wide, 1, (3, 3, 3)))


MODULES = {"c3d": C3D, "r2plus1d": R2Plus1D, "csn": CSN}
