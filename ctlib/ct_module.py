"""The Channel Tensorization Module: K sub-operations, one per sub-dimension (sections 3.1 and 3.2).

A sub-operation convolves along its sub-dimension in space and time. Table 2c compares three
connections of the two; each is a class here. C3D, R(2+1)D and CSN are settings of the module.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ctlib.config import check_choice
from ctlib.excitation import EXCITATIONS
from ctlib.kernels import choice
from ctlib.kernels.gating import excite
from ctlib.kernels.layout import ClipBatchNorm
from ctlib.tensorize import TensorSeparableConv, channel_shuffle, resolve_dims

Kernel = tuple[int, int, int]


class ConvBNReLU(nn.Sequential):
    """ReLU(BN(TSConv(x))). (N, C, T, H, W) -> (N, C_out, T, H, W)."""

    def __init__(self, channels: int, size: int, kernel_size: Kernel, out_channels: int | None = None):
        conv = TensorSeparableConv(channels, size, kernel_size, out_channels)
        # Not in place: of a view, as this batch norm returns, autograd would copy the whole features five times.
        super().__init__(conv, ClipBatchNorm(conv.out_channels), nn.ReLU())


class Parallel(nn.Module):
    """Spatial and temporal convolution side by side, added: Eq. (5); with excitation, Eq. (6)-(8).

    Args:
        channels: C of the input.
        size: C_k.
        kernel_size: (t, h, w); the spatial convolution takes 1 x h x w, the temporal t x 1 x 1.
        excitation: a name of `EXCITATIONS`.
        out_channels: C of the output; `channels` if not given.

    Shape:
        (N, C, T, H, W) -> (N, C_out, T, H, W)
    """

    def __init__(
        self, channels: int, size: int, kernel_size: Kernel, excitation: str = "none", out_channels: int | None = None
    ):
        super().__init__()
        t, h, w = kernel_size
        self.spatial = ConvBNReLU(channels, size, (1, h, w), out_channels)
        self.temporal = ConvBNReLU(channels, size, (t, 1, 1), out_channels)
        self.excitation = _excitation(excitation, self.spatial[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        excitation = self.excitation
        if excitation.gates_branches and choice.applies(x):  # the same, in the fastest way on a GPU
            (conv_s, norm_s, _), (conv_t, norm_t, _) = self.spatial, self.temporal
            return excite(norm_s(conv_s(x)), norm_t(conv_t(x)), excitation.gates())
        return excitation.channel(excitation.spatial(self.spatial(x)) + excitation.temporal(self.temporal(x)))


class Serial(Parallel):
    """The temporal convolution after the spatial one. Arguments and shapes as in `Parallel`.

    The paper shows excitation with the parallel connection only. Here each gate follows its own
    convolution, and the channel gate comes last.
    """

    def __init__(
        self, channels: int, size: int, kernel_size: Kernel, excitation: str = "none", out_channels: int | None = None
    ):
        super().__init__(channels, size, kernel_size, excitation, out_channels)
        conv = self.spatial[0]
        out_channels = conv.out_channels
        # In place of the parallel one, whose random draws belong to what a seed gives.
        self.temporal = ConvBNReLU(out_channels, out_channels // conv.groups, (kernel_size[0], 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        excitation = self.excitation
        return excitation.channel(excitation.temporal(self.temporal(excitation.spatial(self.spatial(x)))))


class Coupling(nn.Module):
    """One t x h x w convolution, Eq. (2). Arguments and shapes as in `Parallel`.

    Raises:
        ValueError: `excitation` needs separate spatial and temporal features.
    """

    def __init__(
        self, channels: int, size: int, kernel_size: Kernel, excitation: str = "none", out_channels: int | None = None
    ):
        super().__init__()
        if EXCITATIONS[excitation].gates_branches:
            raise ValueError(
                f"excitation {excitation!r} needs separate spatial and temporal features: "
                "use connection 'parallel' or 'serial', not 'coupling'"
            )
        self.conv = ConvBNReLU(channels, size, kernel_size, out_channels)
        self.excitation = _excitation(excitation, self.conv[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.excitation.channel(self.conv(x))


CONNECTIONS = {"coupling": Coupling, "serial": Serial, "parallel": Parallel}


def _excitation(name: str, conv: TensorSeparableConv) -> nn.Module:
    """The excitation of what `conv` returns: as many groups, so the size follows the channels."""
    return EXCITATIONS[name](conv.out_channels, conv.out_channels // conv.groups)


def kernel_of_each(kernels: Kernel | Sequence[Kernel], dims: tuple[int, ...]) -> list[Kernel]:
    """One kernel per sub-dimension, from one for all of them or one for each.

    Raises:
        ValueError: another number of kernels than of sub-dimensions, or a kernel of other than three extents.
    """
    each = [kernels] * len(dims) if all(isinstance(extent, int) for extent in kernels) else kernels
    if any(isinstance(kernel, int) or len(kernel) != 3 for kernel in each):
        raise ValueError(f"a kernel has three extents (t, h, w), got {kernels}")
    if len(each) != len(dims):
        raise ValueError(f"{len(dims)} sub-dimensions need as many kernels, got {len(each)}: {kernels}")
    return [tuple(kernel) for kernel in each]


class CTModule(nn.Module):
    """Channel tensorization instead of a 3x3 convolution: (N, C, T, H, W) -> (N, C_out, T, H, W).

    Sub-operation k mixes C_k channels over a spatio-temporal kernel, with stride 1. A channel shuffle
    then lets the next sub-dimension run fastest. After the last shuffle the channels are in their
    original order. All C have interacted, and each sub-operation has widened the receptive field
    (section 3.1).

    Args:
        channels: C of the input.
        dims: K, or the sizes (C_1, ..., C_K), which multiply to C_out or are all C_out; see
            `resolve_dims`.
        kernels: (t, h, w) for all sub-operations, or one for each.
        connection: "parallel", "serial" or "coupling" of space and time.
        pointwise: a dense 1x1x1 convolution after each sub-operation except the last (section 3.3).
        excitation: "te", "se" or "none".
        out_channels: C_out, where the replaced convolution changes the channels. The first
            sub-operation does so. Its C_out / C_1 groups must divide C too.

    Raises:
        ValueError: sizes that neither multiply to C_out nor are all C_out, or groups that do not divide
            C. Another number of kernels than of sizes, or a kernel of other than three extents. An
            unknown connection or excitation, or "te" with "coupling".

    Example:
        >>> module = CTModule(64)
        >>> module.dims, module(torch.zeros(1, 64, 8, 14, 14)).shape
        ((8, 8), torch.Size([1, 64, 8, 14, 14]))
    """

    def __init__(
        self,
        channels: int,
        dims: int | tuple[int, ...] = 2,
        kernels: Kernel | Sequence[Kernel] = (3, 3, 3),
        connection: str = "parallel",
        pointwise: bool = True,
        excitation: str = "te",
        out_channels: int | None = None,
    ):
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        check_choice("connection", connection, CONNECTIONS)
        check_choice("excitation", excitation, EXCITATIONS)
        self.out_channels, self.dims = out_channels, resolve_dims(out_channels, dims)
        kernels = kernel_of_each(kernels, self.dims)
        self.sub_operations = nn.ModuleList()
        for size, kernel in zip(self.dims, kernels, strict=True):
            groups = out_channels // size
            if channels % groups:
                raise ValueError(f"{channels} input channels do not divide into the {groups} groups of {out_channels}")
            self.sub_operations.append(
                CONNECTIONS[connection](channels, channels // groups, kernel, excitation, out_channels)
            )
            channels = out_channels  # the later ones keep them
        between = len(self.dims) - 1 if pointwise else 0
        self.pointwise = nn.ModuleList(ConvBNReLU(out_channels, out_channels, (1, 1, 1)) for _ in range(between))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for k, (sub_operation, size) in enumerate(zip(self.sub_operations, self.dims, strict=True)):
            x = sub_operation(x)
            if k < len(self.pointwise):
                x = self.pointwise[k](x)
            x = channel_shuffle(x, size)
        return x


# What Tables 2a and 7 compare with, as `dims` and `kernels` of the module (section 3.3, Discussion): C3D
# (Tran et al., 2015), R(2+1)D (Tran et al., 2018) and CSN (Tran et al., 2019). As the paper counts them,
# both convolutions of R(2+1)D and CSN keep C channels, and each has its own batch norm and ReLU.
SPECIAL_CASES = {
    "c3d": (("C",), ((3, 3, 3),)),
    "r2plus1d": (("C", "C"), ((1, 3, 3), (3, 1, 1))),
    "csn": (("C", 1), ((1, 1, 1), (3, 3, 3))),
}


def special_case(name: str, channels: int, out_channels: int | None = None) -> CTModule:
    """C3D, R(2+1)D or CSN as a CT-Module: coupled, without point-wise convolutions and excitation.

    Args:
        name: "c3d", "r2plus1d" or "csn".
        channels: C of the input.
        out_channels: C of the output; `channels` if not given.

    Example:
        >>> special_case("csn", 64).dims
        (64, 1)
    """
    check_choice("special case", name, SPECIAL_CASES)
    dims, kernels = SPECIAL_CASES[name]
    out_channels = channels if out_channels is None else out_channels
    dims = tuple(out_channels if size == "C" else size for size in dims)
    return CTModule(channels, dims, kernels, "coupling", pointwise=False, excitation="none", out_channels=out_channels)
