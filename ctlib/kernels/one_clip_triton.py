"""Tensor Excitation for inference on few clips, where operations take longer to begin than to run: four Triton kernels.

Groups of channels do not see each other, so a program takes one group, or several where nothing is mixed. Features
come as convolved, without the bias of their batch norm, and with channels last: (N, T, P, C) with P = H * W. Sums over
pixels are written by blocks of pixels, and the next kernel adds them. `TRITON_INTERPRET=1`, set before this module is
imported, runs them on a CPU.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import nn

from ctlib.kernels.passes import wide

CHANNELS = 32  # of a program of `_means`


@triton.jit
def _positive(pointer, bias, inside, SUM: tl.constexpr):
    value = tl.load(pointer, mask=inside, other=0).to(SUM) + bias
    return tl.where(inside, tl.where(value < 0, 0, value), 0)  # as ReLU, which keeps NaN


@triton.jit
def _means(
    spatial, temporal, spatial_bias, temporal_bias, map_mean, frame_sums, T, P, C,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    block, n = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    p = block * PIXELS + tl.arange(0, PIXELS)
    inside = (p < P)[:, None] & (c < C)[None, :]
    i = p[:, None] * C + c[None, :]
    of_spatial = tl.load(spatial_bias + c, mask=c < C, other=0).to(SUM)[None, :]
    of_temporal = tl.load(temporal_bias + c, mask=c < C, other=0).to(SUM)[None, :]
    total = tl.zeros((PIXELS, CHANNELS), dtype=SUM)
    for t in range(T):
        at = (n * T + t) * P * C + i
        total += _positive(spatial + at, of_spatial, inside, SUM)
        sums = tl.sum(_positive(temporal + at, of_temporal, inside, SUM), axis=0)
        tl.store(frame_sums + ((n * tl.num_programs(0) + block) * T + t) * C + c, sums, mask=c < C)
    tl.store(map_mean + n * P * C + i, total / T, mask=inside)


@triton.jit
def _over_maps(
    values, weight, total, n, p, source, target, height, width, channels, so, si, sy, sx,
    SOURCES: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """A 3 x 3 convolution of one group: (PIXELS, sources) to (PIXELS, targets), added to `total`."""
    y, x = p // width, p % width
    for dy in range(3):
        for dx in range(3):
            row, column = y + dy - 1, x + dx - 1
            inside = (p < height * width) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = (n * height * width + row * width + column)[:, None] * channels + source[None, :]
            value = tl.load(values + at, mask=inside[:, None], other=0).to(SUM)
            of_tap = target[:, None] * so + tl.arange(0, SOURCES)[None, :] * si + dy * sy + dx * sx
            total += tl.sum(value[:, None, :] * tl.load(weight + of_tap).to(SUM)[None, :, :], axis=2)
    return total


@triton.jit
def _hidden(
    map_mean, frame_sums, frame_mean, map_hidden, frame_hidden, map_weight, map_bias, frame_weight, frame_bias,
    T, height, width, blocks, mo, mi, my, mx, fo, fi, ft,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, PIXELS: tl.constexpr, FRAMES: tl.constexpr, BLOCKS: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """The first convolution of the map gate; in the last program of a group, of the frame gate."""
    block, g, n = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    groups, pixels = tl.num_programs(1), height * width
    k = tl.arange(0, SIZE)
    c, o = g * SIZE + k, g * HIDDEN + tl.arange(0, HIDDEN)
    if block < tl.num_programs(0) - 1:
        p = block * PIXELS + tl.arange(0, PIXELS)
        total = tl.zeros((PIXELS, HIDDEN), dtype=SUM) + tl.load(map_bias + o).to(SUM)[None, :]
        total = _over_maps(
            map_mean, map_weight, total, n, p, c, o, height, width, groups * SIZE, mo, mi, my, mx, SIZE, SUM
        )  # fmt: skip
        at = (n * pixels + p)[:, None] * groups * HIDDEN + o[None, :]
        tl.store(map_hidden + at, tl.where(total < 0, 0, total), mask=(p < pixels)[:, None])
    else:
        t, j = tl.arange(0, FRAMES), tl.arange(0, BLOCKS)
        of_frame = tl.zeros((FRAMES, HIDDEN), dtype=SUM) + tl.load(frame_bias + o).to(SUM)[None, :]
        for tap in range(3):
            frame = t + tap - 1
            there = (t < T) & (frame >= 0) & (frame < T)
            row = (((n * blocks + j)[:, None] * T + frame[None, :]) * groups * SIZE)[:, :, None] + c[None, None, :]
            of_blocks = tl.load(frame_sums + row, mask=(j < blocks)[:, None, None] & there[None, :, None], other=0)
            mean = tl.sum(of_blocks, axis=0) / pixels
            if tap == 1:
                tl.store(frame_mean + (n * T + t)[:, None] * groups * SIZE + c[None, :], mean, mask=(t < T)[:, None])
            weight = tl.load(frame_weight + o[:, None] * fo + k[None, :] * fi + tap * ft).to(SUM)
            of_frame += tl.sum(mean[:, None, :] * weight[None, :, :], axis=2)
        out = frame_hidden + (n * T + t)[:, None] * groups * HIDDEN + o[None, :]
        tl.store(out, tl.where(of_frame < 0, 0, of_frame), mask=(t < T)[:, None])


@triton.jit
def _gates(
    spatial, spatial_bias, map_hidden, frame_hidden, map_gate, frame_gate, gated_sums, map_weight, frame_weight,
    T, height, width, mo, mi, my, mx, fo, fi, ft,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, PIXELS: tl.constexpr, FRAMES: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The map gate, and sums of what it gates; in the last program of a group, the frame gate."""
    block, g, n = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    groups, pixels, blocks = tl.num_programs(1), height * width, tl.num_programs(0) - 1
    h = tl.arange(0, HIDDEN)
    c, o = g * SIZE + tl.arange(0, SIZE), g * HIDDEN + h
    if block < blocks:
        p = block * PIXELS + tl.arange(0, PIXELS)
        total = tl.zeros((PIXELS, SIZE), dtype=SUM)
        total = _over_maps(
            map_hidden, map_weight, total, n, p, o, c, height, width, groups * HIDDEN, mo, mi, my, mx, HIDDEN, SUM
        )  # fmt: skip
        gate, inside = 1 / (1 + tl.exp(-total)), (p < pixels)[:, None] & (c >= 0)[None, :]
        tl.store(map_gate + (n * pixels + p)[:, None] * groups * SIZE + c[None, :], gate, mask=inside)
        bias = tl.load(spatial_bias + c).to(SUM)[None, :]
        for t in range(T):
            at = ((n * T + t) * pixels + p)[:, None] * groups * SIZE + c[None, :]
            sums = tl.sum(_positive(spatial + at, bias, inside, SUM) * gate, axis=0)
            tl.store(gated_sums + ((n * blocks + block) * T + t) * groups * SIZE + c, sums)
    else:
        each = tl.arange(0, FRAMES)
        of_frame = tl.zeros((FRAMES, SIZE), dtype=SUM)
        for tap in range(3):
            frame = each + tap - 1
            there = (each < T) & (frame >= 0) & (frame < T)
            row = (n * T + frame)[:, None] * groups * HIDDEN + o[None, :]
            hidden = tl.load(frame_hidden + row, mask=there[:, None], other=0)
            weight = tl.load(frame_weight + c[:, None] * fo + h[None, :] * fi + tap * ft).to(SUM)
            of_frame += tl.sum(hidden[:, None, :] * weight[None, :, :], axis=2)
        out = frame_gate + (n * T + each)[:, None] * groups * SIZE + c[None, :]
        tl.store(out, 1 / (1 + tl.exp(-of_frame)), mask=(each < T)[:, None])


@triton.jit
def _combine(
    spatial, temporal, spatial_bias, temporal_bias, map_gate, frame_gate, frame_mean, gated_sums, out,
    reduce, bias, expand, T, P, blocks, ro, ri, eo, ei,
    SIZE: tl.constexpr, HIDDEN: tl.constexpr, PIXELS: tl.constexpr, BLOCKS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The channel gate of a frame, which every program computes for itself, and the output."""
    frame, g = tl.program_id(1).to(tl.int64), tl.program_id(2)
    n, t, channels = frame // T, frame % T, tl.num_programs(2) * SIZE
    k, h, j = tl.arange(0, SIZE), tl.arange(0, HIDDEN), tl.arange(0, BLOCKS)
    c = g * SIZE + k
    at = ((n * blocks + j) * T + t)[:, None] * channels + c[None, :]
    of_frame = tl.load(frame_gate + frame * channels + c)
    mean = tl.sum(tl.load(gated_sums + at, mask=(j < blocks)[:, None], other=0), axis=0) / P
    mean += of_frame * tl.load(frame_mean + frame * channels + c)
    o = g * HIDDEN + h
    weight = tl.load(reduce + o[:, None] * ro + k[None, :] * ri).to(SUM)
    hidden = tl.sum(weight * mean[None, :], axis=1) + tl.load(bias + o).to(SUM)
    hidden = tl.where(hidden < 0, 0, hidden)
    weight = tl.load(expand + c[:, None] * eo + h[None, :] * ei).to(SUM)
    gate = 1 / (1 + tl.exp(-tl.sum(weight * hidden[None, :], axis=1)))

    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = (p < P)[:, None] & (c >= 0)[None, :]
    at = (frame * P + p)[:, None] * channels + c[None, :]
    of_map = tl.load(map_gate + (n * P + p)[:, None] * channels + c[None, :], mask=inside, other=0)
    both = _positive(spatial + at, tl.load(spatial_bias + c).to(SUM)[None, :], inside, SUM) * of_map
    both += _positive(temporal + at, tl.load(temporal_bias + c).to(SUM)[None, :], inside, SUM) * of_frame[None, :]
    tl.store(out + at, both * gate[None, :], mask=inside)


def excite_one_clip(
    spatial: torch.Tensor,
    temporal: torch.Tensor,
    biases: tuple[torch.Tensor, torch.Tensor],
    gates: Sequence[tuple[nn.Conv2d, nn.Conv2d]],
) -> torch.Tensor:
    """`gating.excite_plain` of both branches plus their biases.

    Args:
        spatial, temporal: (N, C, T, H, W).
        biases: of the two branches, (C,).
        gates: of the map, the frames and their channels: the convolution that reduces, with a bias, and the other.

    Raises:
        ValueError: a group, or what a gate makes of it, has a number of channels that is no power of two.
    """
    spatial, temporal = (x.contiguous(memory_format=torch.channels_last_3d) for x in (spatial, temporal))
    n, c, t, height, width = spatial.shape
    (map_reduce, map_expand), (frame_reduce, frame_expand), (reduce, expand) = gates
    size, hidden = map_reduce.weight.shape[1], map_expand.weight.shape[1]
    if size & (size - 1) or hidden & (hidden - 1):
        raise ValueError(f"groups of {size} channels and of {hidden} in a gate are not both powers of two")
    pixels, groups = height * width, c // size
    block = min(128, max(16, triton.next_power_of_2(pixels // 16)))
    blocks = triton.cdiv(pixels, block)
    sums = {"dtype": wide(spatial.dtype), "device": spatial.device}
    map_mean, map_gate = torch.empty(2, n, pixels, c, **sums)
    frame_mean, frame_gate = torch.empty(2, n, t, c, **sums)
    frame_sums, gated_sums = torch.empty(2, n, blocks, t, c, **sums)
    map_hidden, frame_hidden = (torch.empty(n, extent, groups * hidden, **sums) for extent in (pixels, t))
    out = torch.empty_like(spatial)

    number = tl.float64 if spatial.dtype == torch.float64 else tl.float32
    sizes = {"SIZE": size, "HIDDEN": hidden, "PIXELS": block, "SUM": number}
    frames, padded = triton.next_power_of_2(t), triton.next_power_of_2(blocks)
    _means[blocks, triton.cdiv(c, CHANNELS), n](
        spatial, temporal, *biases, map_mean, frame_sums, t, pixels, c, PIXELS=block, CHANNELS=CHANNELS, SUM=number
    )
    _hidden[blocks + 1, groups, n](
        map_mean, frame_sums, frame_mean, map_hidden, frame_hidden,
        map_reduce.weight, map_reduce.bias, frame_reduce.weight, frame_reduce.bias,
        t, height, width, blocks, *map_reduce.weight.stride(), *frame_reduce.weight.stride()[:3],
        FRAMES=frames, BLOCKS=padded, **sizes,
    )  # fmt: skip
    _gates[blocks + 1, groups, n](
        spatial, biases[0], map_hidden, frame_hidden, map_gate, frame_gate, gated_sums,
        map_expand.weight, frame_expand.weight,
        t, height, width, *map_expand.weight.stride(), *frame_expand.weight.stride()[:3], FRAMES=frames, **sizes,
    )  # fmt: skip
    _combine[blocks, n * t, groups](
        spatial, temporal, *biases, map_gate, frame_gate, frame_mean, gated_sums, out,
        reduce.weight, reduce.bias, expand.weight,
        t, pixels, blocks, *reduce.weight.stride()[:2], *expand.weight.stride()[:2], BLOCKS=padded, **sizes,
    )  # fmt: skip
    return out
