"""Channel tensorization and the tensor separable convolution (section 3.1 of the paper).

The C channels are read as a grid of K sub-dimensions, C = C_1 x ... x C_K, in which C_1 runs
fastest: for K = 2, channel c = c_2 * C_1 + c_1. A tensor separable convolution mixes the channels
along one sub-dimension only. Here that is always the fastest-running one, so it is a grouped
convolution on neighbouring channels; `rotate` turns the grid to bring the next one to the front,
and after K turns the channels stand where they began.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.kernels.layout import clips_of, clips_of_planes, frames_of, planes_of, traced_layout


def factor(channels: int, num_dims: int) -> tuple[int, ...]:
    """Factor C into K sub-dimensions of the smallest sum, the larger first.

    A tensor separable convolution costs C * C_k products a position, so the smallest sum is the
    lightest module; for K = 2 it makes C_2 the largest divisor of C not above the square root, the
    paper's "rounded middle size" (section 4.1).

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
    """The sizes (C_1, ..., C_K) that `dims` stands for at this number of channels.

    Args:
        channels: C.
        dims: K, to factor C with `factor`; or the sizes themselves, of which one may be -1 and
            then takes what the others leave, as in `Tensor.reshape`. (C, ..., C), every
            sub-operation mixing all channels, is allowed: the paper's R(2+1)D (section 3.3).

    Raises:
        ValueError: the sizes do not multiply to C.

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


def rotate(x: torch.Tensor, size: int) -> torch.Tensor:
    """Turn the channel grid: the fastest-running sub-dimension becomes the slowest.

    Turning by C_1, then by C_2, ..., then by C_K gives back the tensor.

    Args:
        x: (N, C, ...), channels with a sub-dimension of `size` running fastest.
        size: C_k, a divisor of C. 1 and C leave the order as it is.

    Example:
        >>> rotate(torch.arange(6).view(1, 6), 3).tolist()  # (2, 3) grid read by columns
        [[0, 3, 1, 4, 2, 5]]
    """
    if size in (1, x.shape[1]):
        return x
    if x.stride(1) == 1:  # channels last, which they stay
        return x.movedim(1, -1).unflatten(-1, (-1, size)).transpose(-1, -2).flatten(-2).movedim(-1, 1)
    return x.unflatten(1, (-1, size)).transpose(1, 2).flatten(1, 2)


class TensorSeparableConv(nn.Module):
    """Mix the channels of the fastest-running sub-dimension, together with space and time.

    Two channels interact only if they differ in nothing but that sub-dimension: the weight has
    C_out * C_k * t * h * w entries, where a dense 3D kernel has C_out * C * t * h * w.

    Source: Eq. (2); t = 1 gives S-TSConv, Eq. (3); h = w = 1 gives T-TSConv, Eq. (4); all three 1
    gives PW-TSConv, Eq. (8). Each of the C / C_k groups has weights of its own, which is what the
    published parameter counts agree with. No bias (until a batch norm is folded into it), stride 1,
    zero-padded to keep T, H and W.

    The arithmetic runs as a 2D convolution wherever the kernel allows: over the N * T frames when
    t = 1, over (T, H * W) planes when h = w = 1. On a channels-last clip neither needs a copy.

    Args:
        channels: C, channels of the input.
        size: C_k, how many neighbouring channels are mixed; a divisor of C.
        kernel_size: (t, h, w) in frames and pixels, each odd.
        out_channels: C_out, a multiple of the C / C_k groups; C if not given.

    Shape:
        (N, C, T, H, W) -> (N, C_out, T, H, W)

    Raises:
        ValueError: when built, `size` does not divide C, the groups do not divide `out_channels`,
            or a kernel extent is even; when called, another number of channels or of axes.

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
        self.register_parameter("bias", None)  # a batch norm folded into the convolution gives it one
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 5 or x.shape[1] != self.channels:
            raise ValueError(f"input must be (N, {self.channels}, T, H, W), got {tuple(x.shape)}")
        t, h, w = self.kernel_size
        if t == 1:
            frames = F.conv2d(
                frames_of(x), self.weight.squeeze(2), self.bias, padding=(h // 2, w // 2), groups=self.groups
            )
            return clips_of(traced_layout(frames), x.shape[2])
        if h == w == 1:
            planes = F.conv2d(planes_of(x), self.weight.squeeze(4), self.bias, padding=(t // 2, 0), groups=self.groups)
            return clips_of_planes(traced_layout(planes), x.shape[3:])
        return F.conv3d(x, self.weight, self.bias, padding=(t // 2, h // 2, w // 2), groups=self.groups)

    def extra_repr(self) -> str:
        return f"{self.channels}, size={self.size}, kernel_size={self.kernel_size}, out_channels={self.out_channels}"
