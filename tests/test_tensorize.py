import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctlib.tensorize import TensorSeparableConv, channel_shuffle, factor, resolve_dims

GRIDS = [(6,), (4, 4), (8, 4), (4, 3), (4, 3, 2), (2, 5, 3), (4, 2, 2, 2), (7, 1)]


@pytest.mark.parametrize(
    ("channels", "num_dims", "dims"),
    [
        (64, 2, (8, 8)),
        (128, 2, (16, 8)),
        (512, 2, (32, 16)),
        (96, 2, (12, 8)),
        (384, 2, (24, 16)),
        (64, 4, (4, 4, 2, 2)),
        (128, 3, (8, 4, 4)),
        (512, 3, (8, 8, 8)),
        (7, 2, (7, 1)),
        (1, 3, (1, 1, 1)),
    ],
)
def test_factor(channels, num_dims, dims):
    assert factor(channels, num_dims) == dims


@pytest.mark.parametrize("channels", [1, 12, 30, 97, 128, 384])
@pytest.mark.parametrize("num_dims", [1, 2, 3, 4])
def test_factor_multiplies_to_the_channels_larger_first(channels, num_dims):
    dims = factor(channels, num_dims)
    assert len(dims) == num_dims and math.prod(dims) == channels
    assert list(dims) == sorted(dims, reverse=True)


def test_factor_of_two_is_the_paper_s_rounded_middle():
    for channels in range(1, 200):
        largest = max(d for d in range(1, math.isqrt(channels) + 1) if channels % d == 0)
        assert factor(channels, 2)[1] == largest


def test_resolve_dims():
    assert resolve_dims(64, 2) == (8, 8)
    assert resolve_dims(64, (-1, 4)) == (16, 4)
    assert resolve_dims(64, (32, 2)) == (32, 2)
    assert resolve_dims(64, (64, 64)) == (64, 64)  # the paper's R(2+1)D


@pytest.mark.parametrize("dims", [(8, 4), (), (0, 64), (-1, -1), (64, 64, 2), (-1, 5)])
def test_resolve_dims_refuses(dims):
    with pytest.raises(ValueError, match="dims"):
        resolve_dims(64, dims)


@pytest.mark.parametrize("dims", GRIDS)
def test_shuffling_by_every_size_gives_the_tensor_back(dims):
    x = torch.arange(2 * math.prod(dims) * 3).view(2, -1, 3)
    shuffled = x
    for size in dims:
        shuffled = channel_shuffle(shuffled, size)
    assert torch.equal(shuffled, x)


def test_the_channel_shuffle_brings_the_next_sub_dimension_to_the_front():
    # c = c_2 * C_1 + c_1 with C_1 = 3, C_2 = 2: after the shuffle, channels of equal c_1 are neighbours.
    channels = torch.arange(6).view(1, 6, 1, 1, 1)
    assert channel_shuffle(channels, 3).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def naive(x, weight, groups):
    """One output channel at a time, each from the channels of its own group."""
    size, out_size = x.shape[1] // groups, weight.shape[0] // groups
    padding = [k // 2 for k in weight.shape[2:]]
    outs = []
    for channel in range(weight.shape[0]):
        group = channel // out_size
        mixed = x[:, group * size : (group + 1) * size]
        outs.append(F.conv3d(mixed, weight[channel : channel + 1], padding=padding))
    return torch.cat(outs, dim=1)


@pytest.mark.parametrize("kernel", [(1, 1, 1), (1, 3, 3), (3, 1, 1), (3, 3, 3), (1, 5, 3), (5, 1, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("out_channels", [None, 6])
def test_convolution_equals_a_loop_over_groups(kernel, channels_last, out_channels):
    torch.manual_seed(0)
    conv = TensorSeparableConv(12, 4, kernel, out_channels).double()
    x = torch.randn(2, 12, 3, 6, 4, dtype=torch.double)
    if channels_last:
        x = x.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(conv(x), naive(x, conv.weight, 3), rtol=1e-12, atol=1e-12)


def test_one_dimension_is_a_dense_convolution():
    torch.manual_seed(0)
    conv = TensorSeparableConv(6, 6, (3, 3, 3)).double()
    x = torch.randn(1, 6, 4, 6, 6, dtype=torch.double)
    torch.testing.assert_close(conv(x), F.conv3d(x, conv.weight, padding=1))


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1), (3, 3, 3)])
def test_a_changed_channel_changes_its_group_alone(kernel):
    torch.manual_seed(0)
    conv = TensorSeparableConv(12, 4, kernel)
    x = torch.randn(1, 12, 3, 4, 4)
    other = x.clone()
    other[:, 5] += 1  # channel 5 is in the group of channels 4 to 7
    changed = (conv(x) != conv(other)).flatten(2).any(2)[0].nonzero().flatten().tolist()
    assert changed == [4, 5, 6, 7]


def test_the_weight_has_one_kernel_a_group():
    assert TensorSeparableConv(128, 16, (3, 1, 1)).weight.numel() == 128 * 16 * 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((12, 5, (1, 1, 1)), "size must divide the 12 channels, got 5"),
        ((12, 4, (1, 2, 2)), "three odd extents"),
        ((12, 4, (1, 3)), "three odd extents"),
        ((12, 4, (1, 1, 1), 7), "multiple of 3 groups, got 7"),
    ],
)
def test_refusals(arguments, text):
    with pytest.raises(ValueError, match=text):
        TensorSeparableConv(*arguments)


@pytest.mark.parametrize("shape", [(1, 6, 2, 4, 4), (1, 12, 4, 4)])
def test_refuses_another_shape(shape):
    with pytest.raises(ValueError, match=r"input must be \(N, 12, T, H, W\)"):
        TensorSeparableConv(12, 4, (1, 3, 3))(torch.zeros(shape))


def test_a_convolution_takes_a_bias():
    conv = TensorSeparableConv(8, 4, (3, 1, 1))
    x = torch.randn(2, 8, 3, 4, 4)
    before = conv(x)
    conv.bias = nn.Parameter(torch.arange(8.0))
    torch.testing.assert_close(conv(x), before + torch.arange(8.0).view(1, 8, 1, 1, 1))
