"""Lesson 1, channel tensorization: the channel grid and its cost (explorer, figures, exercises)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import ipywidgets
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation

from ctlib import cost
from ctlib.config import check_choice
from ctlib.ct_module import Kernel, kernel_of_each
from ctlib.display.parameters import one_line_errors
from ctlib.teaching.exercise import NotYet, expect, given, plain, solved_by
from ctlib.teaching.shell import BLUE, DARK, PALE, SHADES, WIDEST, Explorer, View, by, canvas, check_minimum, flow_arrow
from ctlib.tensorize import TensorSeparableConv, channel_shuffle, factor, resolve_dims

LEGIBLE = 16  # rows or columns of a grid that have room for their numbers
OPERATIONS = {"along c_1": (1,), "along c_2": (0,), "both": (1, 0)}  # axes of (C_2, C_1) they mix
PIXEL = np.array((0.42, 0.25))  # how far a pixel lies from the one to its left, as drawn


def check_parameters(channels: int, num_frames: int, size: int) -> None:
    """Stop the notebook, with one line, for parameters that it cannot run with."""
    with one_line_errors():
        check_minimum(channels=(channels, 4), num_frames=(num_frames, 1), size=(size, 1))
        if factor(channels, 2)[1] == 1:
            raise ValueError(f"channels must not be a prime number, got {channels}: it splits only into 1 x {channels}")


# ---------------------------------------------------------------- explorers


def passing(
    operation: str, channel: int, frame: int, dims: tuple[int, int] = (3, 2), shape: tuple[int, int, int] = (4, 5, 5)
) -> View:
    """A clip as a block (C_1, C_2, T, H, W), and the inputs that one output sums over: its channels, frames, pixels.

    Sub-operations have kernels of 3 x 3 x 3 and are parallel (Eq. 5): a plane of 1 x 3 x 3 and a line of 3 x 1 x 1.

    Args:
        operation: one of `OPERATIONS`.
        channel: of the output, from 0; its pixel is in the middle.
        frame: of the output, from 1.
        shape: (T, H, W).
    """
    check_choice("operation", operation, OPERATIONS)
    (c_1, c_2), (t, h, w) = dims, shape
    kernel = np.zeros((1, 1, 3, 3, 3), bool)
    kernel[..., 1, :, :] = kernel[..., 1, 1] = True
    output = (channel // c_1, channel % c_1, frame - 1, h // 2, w // 2)
    reached = np.zeros((c_2, c_1, *shape), bool)
    reached[output] = True
    for axis in OPERATIONS[operation]:
        reached = binary_dilation(reached.any(axis, keepdims=True), kernel) & np.ones((c_2, c_1, 1, 1, 1), bool)
    shade = reached.astype(int)
    shade[output] = 2
    channels, places = reached.any((2, 3, 4)).sum(), reached.any((0, 1)).sum()
    numbers = {
        "C_1 x C_2 x T x H x W": by((c_1, c_2, *shape)),
        "channels summed over": f"{channels} of {c_1 * c_2}",
        "positions summed over": f"{places} of {t * h * w}",
    }
    alt = (
        f"A clip of {c_1 * c_2} channels as a grid of {by(dims)}, each channel as {t} frames in a row. An output in "
        f"channel {channel}, frame {frame} is dark; its inputs, {channels} channels at {places} positions, are blue."
    )
    return View(clip_block(shade), numbers, alt)


def opening() -> Explorer:
    """The explorer of `passing`."""
    operation = ipywidgets.ToggleButtons(options=list(OPERATIONS), description="sub-operation mixes")
    channel, frame = ipywidgets.IntSlider(1, 0, 5), ipywidgets.IntSlider(2, 1, 4)
    return Explorer(passing, play="frame", operation=operation, channel=channel, frame=frame)


def reached_channels(dims: tuple[int, ...], after: int, channel: int = 0, channels: int | None = None) -> np.ndarray:
    """Which input channels reach one output channel after some sub-operations, without point-wise convolutions.

    Channel c has the coordinates (c_1, ..., c_K), c_1 running fastest. Sub-operation k mixes along c_k. After k of
    them the output has seen the channels that share c_{k+1}, ..., c_K with it (section 3.1). C is `channels` where
    `dims` do not multiply to it, as in R(2+1)D.

    Returns:
        Bool (C,).
    """
    channels = math.prod(dims) if channels is None else channels
    if not 0 <= after <= len(dims):
        raise ValueError(f"after must be 0 to {len(dims)} sub-operations, got {after}")
    if not 0 <= channel < channels:
        raise ValueError(f"channel must be 0 to {channels - 1}, got {channel}")
    block = math.prod(dims[:after])
    return np.arange(channels) // block == channel // block


class TensorCost(NamedTuple):
    """Cost of K sub-operations, and of a dense 3D convolution in their place."""

    params: int  # weights and batch norms
    dense_params: int
    gflops: float
    dense_gflops: float

    @property
    def share(self) -> float:
        """GFLOPs in percent of the dense convolution's."""
        return 100 * self.gflops / self.dense_gflops


def tensor_cost(dims: tuple[int, ...], kernels: Kernel | tuple[Kernel, ...], num_frames: int, size: int) -> TensorCost:
    """Cost of K sub-operations by formula: parallel connection, no excitation, no point-wise convolution.

    A sub-operation takes C * C_k * (h * w + t) products per position. A dense convolution with the largest kernel
    takes C * C * t * h * w. Batch norms are counted in both, as in the paper. Features are T x `size` x `size`.
    """
    channels = math.prod(dims)
    each = kernel_of_each(kernels, dims)
    parts = cost.ct_block_formula(channels, (num_frames, size, size), dims, tuple(each), False, "none")
    params = sum(channels * c * (h * w + t) + 4 * channels for c, (t, h, w) in zip(dims, each, strict=True))
    taps = math.prod(max(kernel[axis] for kernel in each) for axis in range(3))
    dense = channels * channels * taps + 2 * channels  # with one batch norm
    positions = num_frames * size * size
    return TensorCost(params, dense, parts["sub-operations"] / 1e9, positions * dense / 1e9)


def tensorization(
    channels: int, dims: tuple[int, ...], after: int, kernel: Kernel = (3, 3, 3), num_frames: int = 8, size: int = 14
) -> View:
    """The channel grid, coloured by what reaches channel 0 after some sub-operations, and its cost.

    Args:
        dims: (C_1, ..., C_K); one may be -1 and takes the rest of C.
        after: sub-operations done; more than K count as K.
        size: pixels, height and width of the features.

    Raises:
        ValueError: sizes that do not multiply to C.
    """
    dims = resolve_dims(channels, tuple(dims))
    after = min(after, len(dims))
    reached = reached_channels(dims, after)
    counted = tensor_cost(dims, kernel, num_frames, size)
    numbers = {
        "C = C_1 x ... x C_K": f"{channels} = {by(dims)}",
        f"channels reached after {after} of {len(dims)}": f"{reached.sum()} of {channels}",
        "parameters": f"{counted.params:,}",
        "parameters, dense 3D": f"{counted.dense_params:,}",
        f"GFLOPs ({num_frames} x {size} x {size})": f"{counted.gflops:.4f}",
        "GFLOPs, dense 3D": f"{counted.dense_gflops:.4f}",
        "share of dense GFLOPs": f"{counted.share:.1f} %",
    }
    alt = (
        f"Grid of {channels} channels as {by(dims)}. After {after} sub-operations {reached.sum()} of them are "
        "highlighted: they reach output channel 0."
    )
    return View(channel_grid(dims, reached, after), numbers, alt)


# ---------------------------------------------------------------- figures


def draw_block(
    axes: Axes, values: np.ndarray, at: Sequence[float], color: str, **colours
) -> tuple[float, float, float]:
    """Draw (T, H, W) values as frames one behind the other, from the lower left corner `at` of the first.

    Returns:
        How far one frame lies from the next, and the width and the height of the whole.
    """
    t, h, w = values.shape
    step = np.array((w * PIXEL[0] + 0.8, -0.34))
    x, y = np.meshgrid(np.arange(w + 1), np.arange(h + 1))
    corners = at + np.array([column * PIXEL + (0, row) for column, row in ((0, 0), (w, 0), (w, h), (0, h), (0, 0))])
    for corner in corners[:4]:
        axes.plot(*zip(corner, corner + (t - 1) * step, strict=True), color=color, lw=0.7, ls=":", zorder=1)
    for frame in range(t):
        left, bottom = at + frame * step
        cells = left + x * PIXEL[0], bottom + h - y + x * PIXEL[1], values[frame]
        axes.pcolormesh(*cells, edgecolors="white" if w < 9 else "none", lw=0.6, zorder=2 + frame, **colours)
        axes.plot(*(corners + frame * step).T, color=color, lw=1, zorder=2 + frame)
    return step[0], (t - 1) * step[0] + w * PIXEL[0], h + w * PIXEL[1] - (t - 1) * step[1]


def clip_block(shade: np.ndarray) -> Figure:
    """Channels in a grid, c_1 to the right and c_2 down, each as its frames one behind the other.

    `shade` holds an index into `SHADES` for each input, int (C_2, C_1, T, H, W).
    """
    rows, columns, t, h, w = shade.shape
    figure = canvas(WIDEST, 3.5, left=0, right=1, bottom=0, top=1)
    axes = figure.add_subplot()
    axes.axis("off")
    across, down = 0.0, 0.0
    for row, column in np.ndindex(rows, columns):
        lit = shade[row, column].any()
        corner = np.array((column * across, -row * down))
        colours = {"color": DARK if lit else "0.6", "cmap": SHADES, "vmin": 0, "vmax": 2}
        step, long, high = draw_block(axes, shade[row, column], corner, **colours)
        across, down = long + 1.6, high + 2.2
        name = f"channel {row * columns + column}: ({column}, {row})"
        below = {"ha": "center", "va": "top", "fontsize": 9.5, "color": "black" if lit else "0.4"}
        axes.text(*corner + (long / 2 - 0.4, -1.4), name, **below)
    above = h + w * PIXEL[1]
    sides = {"H": ((-0.6, 0), (0, h), (-0.9, 0)), "W": ((-0.4, h + 0.5), w * PIXEL, (-0.4, 0.75))}
    sides["T"] = (w * PIXEL[0] + 0.6, above + 0.7), (step * (t - 1.6), -0.34 * (t - 1.6)), (0, 0.75)
    for name, (start, arrow, beside) in sides.items():
        flow_arrow(axes, start, np.add(start, arrow), color="0.3")
        middle = np.add(start, arrow) - np.divide(arrow, 2) + beside
        axes.text(*middle, name, ha="center", va="center", weight="bold")
    axes.set(xlim=(-2, columns * across - 0.8), ylim=(above - rows * down - 0.6, above + 2.2))
    return figure


def channel_grid(dims: Sequence[int], reached: np.ndarray, after: int) -> Figure:
    """The channels as a grid: one column per value of c_1, one row per combination of the other coordinates.

    Channels that are `reached`, bool (C,), are coloured. Channel 0, the output, is darkest.
    """
    columns, channels = dims[0], len(reached)
    rows = channels // columns
    shade = reached.astype(int).reshape(rows, columns)
    shade[0, 0] = 2
    figure = canvas(WIDEST, 4.2, left=0.12, right=0.99, bottom=0.13, top=0.9)
    axes = figure.add_subplot()
    legible = max(columns, rows) <= LEGIBLE
    sns.heatmap(
        shade, ax=axes, cmap=SHADES, vmin=0, vmax=2, cbar=False, linewidths=0.8, fmt="d", annot_kws={"fontsize": 9},
        annot=np.arange(channels).reshape(rows, columns) if legible else False,
        xticklabels=max(1, columns // LEGIBLE), yticklabels=max(1, rows // LEGIBLE),
    )  # fmt: skip
    axes.tick_params(axis="y", rotation=0)
    for row in range(dims[1], rows, dims[1]) if len(dims) > 2 else ():
        axes.axhline(row, color="black", lw=1.2)
    names = ", ".join(f"$c_{k}$" for k in range(2, len(dims) + 1)) or "one row"
    axes.set(
        title=f"What reaches channel 0 (dark) after {after} of {len(dims)}",
        xlabel=f"$c_1$, of {columns} (runs fastest)",
        ylabel=f"{names}, of {rows}",
    )
    return figure


def matrices(shown: dict[str, np.ndarray]) -> Figure:
    """Matrices (output channels, input channels) side by side; entries other than zero are coloured."""
    figure = canvas(2.9 * len(shown) + 0.6, 3.3, left=0.07, bottom=0.18, wspace=0.32)
    for axes, (title, matrix) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        style = {"annot": matrix, "fmt": "g", "annot_kws": {"fontsize": 9}, "cbar": False, "square": True}
        sns.heatmap(matrix != 0, ax=axes, cmap=ListedColormap([PALE, BLUE]), vmin=0, vmax=1, linewidths=1, **style)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("input channel")
        axes.tick_params(axis="y", rotation=0)
    figure.axes[0].set_ylabel("output channel")
    return figure


def grids(shown: dict[str, np.ndarray]) -> Figure:
    """Channel grids of integers side by side, one colour per number, so that each channel can be followed."""
    most = max(int(grid.max()) for grid in shown.values())
    figure = canvas(2.6 * len(shown), 2.5, left=0.03, bottom=0.05, wspace=0.2)
    for axes, (title, grid) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        style = {"annot": True, "annot_kws": {"fontsize": 13}, "cbar": False, "square": True, "linewidths": 2}
        sns.heatmap(grid, ax=axes, cmap="YlGnBu", vmin=0, vmax=1.5 * most, xticklabels=[], yticklabels=[], **style)
        axes.set_title(title, fontsize="medium")
    return figure


def cost_curves(split: tuple[pd.Series, pd.Series], depth: tuple[pd.Series, pd.Series], channels: int) -> Figure:
    """Products per position: against C_1 for K = 2 (`split`), and against K for equal sizes (`depth`).

    Each pair has real sizes first, drawn as a curve, then whole sizes, drawn as markers.
    """
    figure = canvas(9.6, 3.8, left=0.1, wspace=0.28)
    left, right = figure.subplots(1, 2)
    panels = (left, split, "C0", "o", channels**0.5), (right, depth, "C1", "s", np.log(channels))
    for axes, (real, whole), color, marker, least in panels:
        axes.plot(real, color=color)
        axes.plot(whole, marker, color=color)
        axes.axvline(least, color="0.3", ls="--", lw=1.2)
        axes.set(ylabel="products per position", yscale="log")
    left.set(title=f"K = 2: least at $C_1 = \\sqrt{{C}}$ (C = {channels})", xscale="log")
    left.set_xlabel("$C_1$ (with $C_2 = C / C_1$); dots: divisors")
    right.set(title=f"equal sizes $C^{{1/K}}$: least at $K = \\ln C$ = {np.log(channels):.2f}")
    right.set_xlabel("K; squares: splits into whole sizes")
    return figure


# ---------------------------------------------------------------- exercises


@solved_by("""
channel = 2 * 4 + 1  # to fill in
coordinates = (2, 1)  # to fill in
""")
def _check_1_1(answers: dict) -> str:
    expect(
        answers["channel"], 9, {5: "5 = c_1 * C_2 + c_2 has c_2 running fastest; here c_1 does"},
        "{value} is not c_2 * C_1 + c_1 with c_1 = 1, c_2 = 2 and C_1 = 4",
    )  # fmt: skip
    expect(
        answers["coordinates"], (2, 1),
        {(1, 2): "You have c_2 first; the order is (c_1, c_2)", (2, 0): "You divided by C_2, not by C_1 = 4"},
        "{value}: c_2 is the quotient 6 // C_1, c_1 the remainder",
    )  # fmt: skip
    return "divmod(c, C_1) gives (c_2, c_1)."


@solved_by("""
def shuffle(x, size):
    return x.unflatten(1, (-1, size)).transpose(1, 2).flatten(1, 2)  # to fill in
""")
def _check_1_2(answers: dict) -> str:
    shuffle = answers["shuffle"]
    for channels, size, more in ((6, 3, ()), (12, 4, (2, 3, 3)), (24, 2, (1,))):
        x = torch.arange(2.0 * channels * math.prod(more)).view(2, channels, *more)
        result = given(shuffle(x, size))
        if result.shape != x.shape:
            raise NotYet(f"(N, C, ...) = {tuple(x.shape)} became {tuple(result.shape)}: merge the two axes again")
        if torch.equal(result, x):
            raise NotYet("The order has not changed: `unflatten` and `flatten` move nothing, `transpose` does")
        if torch.equal(result, channel_shuffle(x, channels // size)):
            raise NotYet("That shuffles the other way: split C into (C // size, size), not (size, C // size)")
        if not torch.equal(result, channel_shuffle(x, size)):
            raise NotYet(f"With {channels} channels and size {size} the order is not a channel shuffle")
    return "The same as ctlib.tensorize.channel_shuffle."


@solved_by("""
def ct_module(x, convolutions, sizes):
    for conv, size in zip(convolutions, sizes, strict=True):
        x = conv(x)
        x = channel_shuffle(x, size)  # to correct: channel_shuffle(x, size) if conv is convolutions[-1] else x
    return x
""")
def _check_1_3(answers: dict) -> str:
    module, channels, sizes = answers["ct_module"], 12, (4, 3)
    first, second = convolutions = [TensorSeparableConv(channels, size, (1, 1, 1)) for size in sizes]
    x = torch.eye(channels)[:, :, None, None, None]
    known = {  # steps in order; a number is the size of a shuffle
        (first, 4, second, 3): "",
        (first, second): "It never shuffles, so both sub-operations mix the same neighbours",
        (first, second, 3): "It shuffles only at the end. Shuffle after the first sub-operation too, "
        "or both mix the same neighbours",
        (first, 4, second): "All channels interact, but they leave in another order: shuffle once more at the end",
        (first, 3, second, 4): "It shuffles by the wrong size: use the size of the sub-operation just done",
        (4, first, 3, second): "It shuffles before it mixes: the first sub-operation takes the channels in their order",
    }
    with torch.no_grad():
        for conv in convolutions:  # all weights differ, so no two orders of the steps agree
            conv.weight.copy_(torch.linspace(1, 2, conv.weight.numel()).view_as(conv.weight))
        result = given(module(x, convolutions, sizes))
        if result.shape != x.shape:
            raise NotYet(f"(N, C, T, H, W) = {tuple(x.shape)} became {tuple(result.shape)}")
        for steps, why in known.items():
            expected = x
            for step in steps:
                expected = channel_shuffle(expected, step) if isinstance(step, int) else step(expected)
            if torch.allclose(result, expected):
                if why:
                    raise NotYet(why)
                return "One shuffle per sub-operation; the last restores the order, which the residual needs."
    reached = result[:, 0].count_nonzero().item()
    raise NotYet(
        f"Output 0 sees {reached} of {channels} channels. Needed: first sub-operation, shuffle by {sizes[0]}, "
        f"second sub-operation, shuffle by {sizes[1]}"
    )


@solved_by("""
weights = 128 * 16 * 9  # to fill in
share = 100 * 16 / 128  # to fill in
""")
def _check_1_4(answers: dict) -> str:
    expect(
        answers["weights"], 128 * 16 * 9,
        {
            16 * 16 * 9: "That is one group; there are C / C_1 = 8, each with its own weights",
            128 * 128 * 9: "That is the dense convolution: an output mixes C_1 = 16 channels, not 128",
            128 * 8 * 9: "That mixes C_2 = 8 channels: the first sub-operation mixes C_1 = 16",
        },
        "{value}: multiply the inputs of one output channel, its 1 x 3 x 3 positions, and the output channels",
    )  # fmt: skip
    expect(
        answers["share"], 12.5, {0.125: "0.125 is the share itself; give it in percent"},
        "The share of the dense 1 x 3 x 3 convolution is not {value} %: C and the positions cancel",
    )  # fmt: skip
    return "The share is C_1 / C, whatever the kernel."


@solved_by("""
dims = (6, 5, 4)  # to fill in
""")
def _check_1_5(answers: dict) -> str:
    dims = plain(given(answers["dims"]))
    if not isinstance(dims, tuple):
        raise NotYet(f"`dims` are the sizes (C_1, ..., C_K), got {dims!r}")
    try:
        dims = resolve_dims(120, dims)
    except (ValueError, TypeError) as error:
        raise NotYet(str(error)) from None
    if math.prod(dims) != 120 or min(dims) < 4:
        raise NotYet(f"Each size must be at least 4 and their product 120, got {dims}")
    if sum(dims) > 0.7 * 22:
        raise NotYet(f"The sizes add up to {sum(dims)}, more than 70 % of 12 + 10. More sub-dimensions are smaller")
    return f"{' + '.join(map(str, dims))} = {sum(dims)}. Four sizes of at least 4 have a product of 256 or more."
