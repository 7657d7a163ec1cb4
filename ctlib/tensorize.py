"""Channel tensorization and the tensor separable convolution (section 3.1 of the paper).

The C channels are read as a grid of K sub-dimensions, C = C_1 x ... x C_K, in which C_1 runs
fastest: for K = 2, channel c = c_2 * C_1 + c_1. A tensor separable convolution mixes the channels
along one sub-dimension. Here that is always the one that runs fastest, so it is a grouped convolution
on neighbouring channels. After a channel shuffle the next sub-dimension runs fastest; after K
shuffles the channels are in their original order.
"""

import math

import torch
from torch import nn

from ctlib.kernels import operations


def factor(channels: int, num_dims: int) -> tuple[int, ...]:
    """Factor C into K sub-dimensions of the smallest sum, the larger first.

    A tensor separable convolution costs C * C_k * t * h * w products per position, so the smallest
    sum is the cheapest module. For K = 2, C_2 is the largest divisor of C up to its square root: the paper's
    "rounded middle size" (section 4.1).

    Raises:
        ValueError: `channels` or `num_dims` is below 1.

    Example:
        >>> factor(128, 2), factor(64, 4)
        ((16, 8), (4, 4, 2, 2))
    """
    if channels < 1 or num_dims < 1:
        raise ValueError(f"channels and num_dims must be at least 1, got {channels} and {num_dims}")

    def splits(rest: int, count: int, largest: int):
        if count == 1:
            if rest <= largest:
                yield (rest,)
            return
        for size in range(min(rest, largest), 0, -1):
            if rest % size == 0:
                for tail in splits(rest // size, count - 1, size):
                    yield (size, *tail)

    return min(splits(channels, num_dims, channels), key=sum)


def resolve_dims(channels: int, dims: int | tuple[int, ...]) -> tuple[int, ...]:
    """The sizes (C_1, ..., C_K) at this number of channels.

    Args:
        channels: C.
        dims: K, to use `factor`; or the sizes, of which one may be -1 as in `Tensor.reshape`.
            (C, ..., C) is allowed too: every sub-operation mixes all channels, as in the paper's
            R(2+1)D (section 3.3).

    Raises:
        ValueError: the sizes neither multiply to C nor are all C.

    Example:
        >>> resolve_dims(64, (-1, 4)), resolve_dims(64, (64, 64))
        ((16, 4), (64, 64))
    """
    if isinstance(dims, int):
        return factor(channels, dims)
    dims = tuple(dims)
    if not dims or any(size < 1 and size != -1 for size in dims) or dims.count(-1) > 1:
        raise ValueError(f"dims must be sizes of at least 1, at most one of them -1, got {dims}")
    if -1 in dims:
        known = -math.prod(dims)
        if channels % known:
            raise ValueError(f"dims {dims} cannot multiply to {channels} channels: {known} does not divide them")
        dims = tuple(channels // known if size == -1 else size for size in dims)
    if math.prod(dims) != channels and any(size != channels for size in dims):
        raise ValueError(f"dims {dims} multiply to {math.prod(dims)}, needed {channels} (the channels)")
    return dims


def channel_shuffle(x: torch.Tensor, size: int) -> torch.Tensor:
    """Let the next sub-dimension run fastest; the one that did becomes the slowest.

    Shuffling by C_1, then by C_2, ..., then by C_K gives back the tensor. The values are those of
    `torch.nn.functional.channel_shuffle` with C / size groups.

    Args:
        x: (N, C, ...), channels with a sub-dimension of `size` running fastest.
        size: C_k, a divisor of C. 1 and C keep the order.

    Example:
        >>> channel_shuffle(torch.arange(6).view(1, 6), 3).tolist()  # the (2, 3) grid, by columns
        [[0, 3, 1, 4, 2, 5]]
    """
    if size in (1, x.shape[1]):
        return x
    return operations.channel_shuffle(x, x.shape[1] // size)


class TensorSeparableConv(nn.Module):
    """Mix the channels of the sub-dimension that runs fastest, together with space and time.

    Two channels interact only if they differ in that sub-dimension alone. So the weight has
    C_out * C_k * t * h * w entries; a dense 3D kernel has C_out * C * t * h * w.

    Source: Eq. (2); t = 1 gives S-TSConv, Eq. (3); h = w = 1 gives T-TSConv, Eq. (4); all three 1
    gives PW-TSConv, Eq. (8). Each of the C / C_k groups has its own weights, as the published
    parameter counts require. Stride 1, zero-padded to keep T, H and W, no bias.

    Args:
        channels: C, channels of the input.
        size: C_k, how many neighbouring channels are mixed; a divisor of C.
        kernel_size: (t, h, w) in frames and pixels, each odd.
        out_channels: C_out, a multiple of the C / C_k groups; C if not given.

    Shape:
        (N, C, T, H, W) -> (N, C_out, T, H, W)

    Raises:
        ValueError: when built, `size` does not divide C, the groups do not divide `out_channels`,
            or a kernel extent is even. When called, another number of channels or of axes.

    Example:
        >>> conv = TensorSeparableConv(128, size=16, kernel_size=(3, 1, 1))
        >>> conv(torch.zeros(2, 128, 8, 14, 14)).shape
        torch.Size([2, 128, 8, 14, 14])
        >>> conv.weight.numel()  # 128 * 16 * 3
        6144
    """

    def __init__(self, channels: int, size: int, kernel_size: tuple[int, int, int], out_channels: int | None = None):
        super().__init__()
        if size < 1 or channels % size:
            raise ValueError(f"size must divide the {channels} channels, got {size}")
        self.groups = channels // size
        self.out_channels = channels if out_channels is None else out_channels
        if self.out_channels < 1 or self.out_channels % self.groups:
            raise ValueError(f"out_channels must be a multiple of {self.groups} groups, got {self.out_channels}")
        if len(kernel_size) != 3 or any(k < 1 or k % 2 == 0 for k in kernel_size):
            raise ValueError(f"kernel_size must be three odd extents (t, h, w), got {tuple(kernel_size)}")
        self.channels, self.size, self.kernel_size = channels, size, tuple(kernel_size)
        self.weight = nn.Parameter(torch.empty(self.out_channels, size, *kernel_size))
        self.register_parameter("bias", None)  # `kernels.folded.fold_batch_norms` sets it
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # The fan ignores the groups, as in torchvision. A batch norm makes up for it, except at the end
        # of a gate.
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 5 or x.shape[1] != self.channels:
            raise ValueError(f"input must be (N, {self.channels}, T, H, W), got {tuple(x.shape)}")
        return operations.convolve(x, self.weight, self.bias, self.groups)

    def extra_repr(self) -> str:
        return f"{self.channels}, size={self.size}, kernel_size={self.kernel_size}, out_channels={self.out_channels}"
