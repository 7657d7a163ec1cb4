"""Tensor Excitation (section 3.2), and Squeeze-and-Excitation to compare it with (Table 2g).

An excitation has three gates: `spatial` for the features of the spatial convolution, `temporal`
for those of the temporal one, and `channel` for both together. Each takes and returns
(N, C, T, H, W). The connection that holds an excitation calls the gates: it has no `forward`.
"""

import torch
from torch import nn

from ctlib.kernels.layout import ClipBatchNorm
from ctlib.kernels.operations import average
from ctlib.kernels.passes import Gate, Gates
from ctlib.tensorize import TensorSeparableConv


class NoExcitation(nn.Module):
    """No gates: features pass unchanged."""

    gates_branches = False  # whether `spatial` and `temporal` gate anything

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.spatial, self.temporal, self.channel = nn.Identity(), nn.Identity(), nn.Identity()


def reduction_of(size: int) -> int:
    """By how much a gate reduces the channels: the largest r <= 4 that divides C_k and leaves a group 2 channels.

    It is 4 in every published network, and less in narrow ones: a single channel could be left at zero by ReLU.
    """
    return max(r for r in (1, 2, 3, 4) if r == 1 or (size % r == 0 and size // r >= 2))


class TensorGate(nn.Module):
    """One branch of Tensor Excitation: X * sigmoid(TSConv(ReLU(BN(TSConv(Pool(X)))))).

    Both convolutions mix the sub-dimension of the convolution before them, "essentially different
    from the SE mechanism" (section 3.2). The batch norm is from appendix A.2. The first convolution
    divides C by `reduction_of(C_k)`.

    Args:
        channels: C.
        size: C_k of the sub-operation.
        pooled: axes of (N, C, T, H, W) to average over.
        kernel_size: (t, h, w) of both convolutions.

    Shape:
        (N, C, T, H, W) -> the same
    """

    def __init__(self, channels: int, size: int, pooled: tuple[int, ...], kernel_size: tuple[int, int, int]):
        super().__init__()
        reduction = reduction_of(size)
        hidden = channels // reduction
        self.pooled = pooled
        self.reduce = TensorSeparableConv(channels, size, kernel_size, hidden)
        self.bn = ClipBatchNorm(hidden)
        self.relu = nn.ReLU()  # not in place, as in `ConvBNReLU`
        self.expand = TensorSeparableConv(hidden, size // reduction, kernel_size, channels)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """The gate, in (0, 1): (N, C, T, H, W), with extent 1 along each pooled axis."""
        return self.gate(average(x, self.pooled))

    def gate(self, mean: torch.Tensor) -> torch.Tensor:
        """The same, of features that are averaged already."""
        return self.expand(self.relu(self.bn(self.reduce(mean)))).sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.attention(x)


class TensorExcitation(nn.Module):
    """Spatial, temporal and channel attention along one sub-dimension, Eq. (6), (7) and (8).

    The spatial gate averages over time (kernel 1x3x3), the temporal gate over the feature map
    (3x1x1). The channel gate averages over the feature map of each frame (1x1x1): the paper's S-Pool, which keeps time.

    Args:
        channels: C.
        size: C_k of the sub-operation.
    """

    gates_branches = True

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.spatial = TensorGate(channels, size, pooled=(2,), kernel_size=(1, 3, 3))
        self.temporal = TensorGate(channels, size, pooled=(3, 4), kernel_size=(3, 1, 1))
        self.channel = TensorGate(channels, size, pooled=(3, 4), kernel_size=(1, 1, 1))

    def gates(self) -> Gates:
        """What `kernels.gating` takes in place of the three modules."""
        return tuple(Gate(part.gate, tuple(part.parameters())) for part in (self.spatial, self.temporal, self.channel))


class SqueezeGate(nn.Module):
    """Squeeze-and-Excitation (Hu et al., 2020) on clips: mean over T, H and W, dense C -> C/16 -> C.

    The middle has at least 4 units, because a narrow backbone would get a single one, which
    ReLU can leave at zero.

    Shape:
        (N, C, T, H, W) -> the same
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 16, 4)
        self.reduce = nn.Linear(channels, hidden)
        self.relu = nn.ReLU(inplace=True)
        self.expand = nn.Linear(hidden, channels)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """The gate, in (0, 1): (N, C, 1, 1, 1)."""
        return self.expand(self.relu(self.reduce(x.mean((2, 3, 4))))).sigmoid()[:, :, None, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.attention(x)


class SqueezeExcitation(NoExcitation):
    """SE instead of Tensor Excitation, at the end of the sub-operation: "+SE" of Table 2g."""

    def __init__(self, channels: int, size: int):
        super().__init__(channels, size)
        self.channel = SqueezeGate(channels)


EXCITATIONS = {"none": NoExcitation, "se": SqueezeExcitation, "te": TensorExcitation}
