"""The passes of `passes` as Triton kernels, on features with channels last: memory is (N, T, P, C) with P = H * W.

Each reads and writes a value once, and sums in float32 (in float64 for float64). `TRITON_INTERPRET=1`, set before
this module is imported, runs them on a CPU.
"""

import torch
import triton
import triton.language as tl

from ctlib.kernels.passes import Passes, wide

BLOCK = 1024  # values that a program takes at once
PIXELS, CHANNELS = 32, 64  # those of a program that sums over pixels


@triton.jit
def _value(pointer, inside, SUM: tl.constexpr):
    return tl.load(pointer, mask=inside, other=0).to(SUM)


@triton.jit
def _positive(pointer, inside, SUM: tl.constexpr):
    value = _value(pointer, inside, SUM)
    return tl.where(value < 0, 0, value)  # as ReLU, which keeps NaN


@triton.jit
def _average_over_frames(features, out, T, PC, BLOCK: tl.constexpr, SUM: tl.constexpr):
    n = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of a frame's values
    inside = i < PC
    total = tl.zeros((BLOCK,), dtype=SUM)
    for t in range(T):
        total += _positive(features + (n * T + t) * PC + i, inside, SUM)
    tl.store(out + n * PC + i, total / T, mask=inside)


@triton.jit
def _average_over_pixels(
    features, gate, out, T, P, C,
    GATED: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(1).to(tl.int64)  # n * T + t
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((CHANNELS,), dtype=SUM)
    for first in range(0, P, PIXELS):
        p = first + tl.arange(0, PIXELS)
        inside = (p < P)[:, None] & (c < C)[None, :]
        i = p[:, None] * C + c[None, :]
        values = _positive(features + frame * P * C + i, inside, SUM)
        if GATED:
            values *= _value(gate + frame // T * P * C + i, inside, SUM)
        total += tl.sum(values, axis=0)
    tl.store(out + frame * C + c, total / P, mask=c < C)


@triton.jit
def _combine(
    spatial, temporal, map_gate, frame_gate, channel_gate, out, T, PC, C, BLOCK: tl.constexpr, SUM: tl.constexpr
):
    frame = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < PC
    at, row = frame * PC + i, frame * C + i % C
    both = _positive(spatial + at, inside, SUM) * _value(map_gate + frame // T * PC + i, inside, SUM)
    both += _positive(temporal + at, inside, SUM) * _value(frame_gate + row, inside, SUM)
    tl.store(out + at, both * _value(channel_gate + row, inside, SUM), mask=inside)


@triton.jit
def _sums(
    gradient, spatial, temporal, map_gate, out_spatial, out_temporal, T, P, C,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    of_spatial = tl.zeros((CHANNELS,), dtype=SUM)
    of_temporal = tl.zeros((CHANNELS,), dtype=SUM)
    for first in range(0, P, PIXELS):
        p = first + tl.arange(0, PIXELS)
        inside = (p < P)[:, None] & (c < C)[None, :]
        i = p[:, None] * C + c[None, :]
        at = frame * P * C + i
        values = _value(gradient + at, inside, SUM)
        gated = _positive(spatial + at, inside, SUM) * _value(map_gate + frame // T * P * C + i, inside, SUM)
        of_spatial += tl.sum(values * gated, axis=0)
        of_temporal += tl.sum(values * _positive(temporal + at, inside, SUM), axis=0)
    tl.store(out_spatial + frame * C + c, of_spatial, mask=c < C)
    tl.store(out_temporal + frame * C + c, of_temporal, mask=c < C)


@triton.jit
def _map_gradient(gradient, spatial, channel_gate, each, out, T, PC, C, BLOCK: tl.constexpr, SUM: tl.constexpr):
    n = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < PC
    total = tl.zeros((BLOCK,), dtype=SUM)
    for t in range(T):
        at, row = (n * T + t) * PC + i, (n * T + t) * C + i % C
        both = _value(gradient + at, inside, SUM) * _value(channel_gate + row, inside, SUM)
        total += (both + _value(each + row, inside, SUM)) * _positive(spatial + at, inside, SUM)
    tl.store(out + n * PC + i, total, mask=inside)


@triton.jit
def _branch_gradients(
    gradient, spatial, temporal, map_gate, frame_gate, channel_gate, each, of_map, of_frames, out_spatial, out_temporal,
    T, PC, C, BLOCK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < PC
    at, row, pixel = frame * PC + i, frame * C + i % C, frame // T * PC + i
    both = _value(gradient + at, inside, SUM) * _value(channel_gate + row, inside, SUM) + _value(
        each + row, inside, SUM
    )
    of_spatial = both * _value(map_gate + pixel, inside, SUM) + _value(of_map + pixel, inside, SUM)
    of_temporal = both * _value(frame_gate + row, inside, SUM) + _value(of_frames + row, inside, SUM)
    tl.store(out_spatial + at, tl.where(_value(spatial + at, inside, SUM) > 0, of_spatial, 0), mask=inside)
    tl.store(out_temporal + at, tl.where(_value(temporal + at, inside, SUM) > 0, of_temporal, 0), mask=inside)


class _Features:
    """Sizes and grids of features (N, C, T, H, W), and memory for what comes out of a pass."""

    def __init__(self, features: torch.Tensor):
        self.n, self.c, self.t, self.h, self.w = features.shape
        self.p = self.h * self.w
        self.like = features
        sums = tl.float64 if features.dtype == torch.float64 else tl.float32
        self.values = {"BLOCK": BLOCK, "SUM": sums}
        self.over_pixels = {"PIXELS": PIXELS, "CHANNELS": CHANNELS, "SUM": sums}

    def whole(self) -> torch.Tensor:
        return torch.empty_like(self.like)

    def small(self, frames: int, height: int, width: int) -> torch.Tensor:
        """For sums and averages."""
        shape, dtype = (self.n, self.c, frames, height, width), wide(self.like.dtype)
        return torch.empty(shape, dtype=dtype, device=self.like.device, memory_format=torch.channels_last_3d)

    def grid(self, programs: int) -> tuple[int, int]:
        return triton.cdiv(self.p * self.c, BLOCK), programs

    def grid_over_pixels(self) -> tuple[int, int]:
        return triton.cdiv(self.c, CHANNELS), self.n * self.t


def _last(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """With channels last in memory, which those of a network have already."""
    return [tensor.contiguous(memory_format=torch.channels_last_3d) for tensor in tensors]


def averages(spatial, temporal):
    # The second `temporal` stands where a gate would: without `GATED` it is not read.
    spatial, temporal = _last(spatial, temporal)
    f = _Features(spatial)
    of_frames, of_pixels = f.small(1, f.h, f.w), f.small(f.t, 1, 1)
    _average_over_frames[f.grid(f.n)](spatial, of_frames, f.t, f.p * f.c, **f.values)
    _average_over_pixels[f.grid_over_pixels()](
        temporal, temporal, of_pixels, f.t, f.p, f.c, GATED=False, **f.over_pixels
    )
    return of_frames, of_pixels


def gated_average(spatial, map_gate):
    spatial, map_gate = _last(spatial, map_gate)
    f = _Features(spatial)
    out = f.small(f.t, 1, 1)
    _average_over_pixels[f.grid_over_pixels()](spatial, map_gate, out, f.t, f.p, f.c, GATED=True, **f.over_pixels)
    return out


def combine(spatial, temporal, *gates):
    spatial, temporal, *gates = _last(spatial, temporal, *gates)
    f = _Features(spatial)
    out = f.whole()
    _combine[f.grid(f.n * f.t)](spatial, temporal, *gates, out, f.t, f.p * f.c, f.c, **f.values)
    return out


def sums(gradient, spatial, temporal, map_gate):
    features = _last(gradient, spatial, temporal, map_gate)
    f = _Features(spatial)
    out = f.small(f.t, 1, 1), f.small(f.t, 1, 1)
    _sums[f.grid_over_pixels()](*features, *out, f.t, f.p, f.c, **f.over_pixels)
    return out


def map_gradient(gradient, spatial, channel_gate, each):
    features = _last(gradient, spatial, channel_gate, each)
    f = _Features(spatial)
    out = f.small(1, f.h, f.w)
    _map_gradient[f.grid(f.n)](*features, out, f.t, f.p * f.c, f.c, **f.values)
    return out


def branch_gradients(gradient, spatial, temporal, *small):
    features = _last(gradient, spatial, temporal, *small)
    f = _Features(spatial)
    out = f.whole(), f.whole()
    _branch_gradients[f.grid(f.n * f.t)](*features, *out, f.t, f.p * f.c, f.c, **f.values)
    return out


TRITON = Passes(averages, gated_average, combine, sums, map_gradient, branch_gradients)
