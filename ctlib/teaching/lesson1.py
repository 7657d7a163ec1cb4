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
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation

from ctlib.config import check_choice
from ctlib.ct_module import Kernel
from ctlib.display.parameters import one_line_errors
from ctlib.teaching import shell
from ctlib.teaching.exercise import NotYet, expect, given, plain, solved_by
from ctlib.teaching.shell import DARK, PIXEL, SHADES, WIDEST, Explorer, View, by, canvas
from ctlib.tensorize import TensorSeparableConv, channel_shuffle, factor, resolve_dims

LEGIBLE = 16  # rows or columns of a grid that have room for their numbers
OPERATIONS = {"along c_1": (1,), "along c_2": (0,), "both": (1, 0)}  # axes of (C_2, C_1) they mix


def check_parameters(channels: int, num_frames: int, size: int) -> None:
    """Stop the notebook, with one line, for parameters that it cannot run with."""
    with one_line_errors():
        shell.check_minimum(channels=(channels, 4), num_frames=(num_frames, 1), size=(size, 1))
        if factor(channels, 2)[1] == 1:
            raise ValueError(f"channels must not be a prime number, got {channels}: it splits only into 1 x {channels}")


# ---------------------------------------------------------------- explorers


def passing(
    operation: str, channel: int, frame: int, dims: tuple[int, int] = (3, 2), shape: tuple[int, int, int] = (4, 5, 5)
) -> View:
    """A clip as a block (C_1, C_2, T, H, W), and the inputs that one output sums over: its channels, frames, pixels.

    Sub-operations have kernels of 3 x 3 x 3 and are parallel (Eq. 5): a plane of 1 x 3 x 3 and a line of 3 x 1 x 1.

    The output is at `channel`, from 0, and `frame`, from 1, in the middle of the map. `shape` is (T, H, W).
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


def reached_channels(dims: tuple[int, ...], after: int, channels: int | None = None) -> np.ndarray:
    """Which input channels reach output 0 after some sub-operations, without point-wise convolutions: bool (C,).

    After k of them the output has seen the channels that share c_{k+1}, ..., c_K with it (section 3.1). C is `channels`
    where `dims` do not multiply to it, as in R(2+1)D.
    """
    if not 0 <= after <= len(dims):
        raise ValueError(f"after must be 0 to {len(dims)} sub-operations, got {after}")
    return np.arange(channels or math.prod(dims)) < math.prod(dims[:after])


class TensorCost(NamedTuple):  # of K sub-operations, and of a dense 3D convolution in their place
    params: int  # weights and batch norms
    dense_params: int
    gflops: float
    dense_gflops: float
    share: float  # of the dense GFLOPs, percent


def tensor_cost(dims: tuple[int, ...], kernel: Kernel, num_frames: int, size: int) -> TensorCost:
    """Cost by formula: parallel connection, no excitation, no point-wise convolution, T x `size` x `size` features.

    A weight takes one product at each position, and a batch norm has two parameters and two operations per channel. So
    operations are parameters times positions.
    """
    channels, (t, h, w) = math.prod(dims), kernel
    params = sum(channels * c * (h * w + t) + 4 * channels for c in dims)
    dense = channels * channels * t * h * w + 2 * channels
    billions = num_frames * size * size / 1e9
    return TensorCost(params, dense, billions * params, billions * dense, 100 * params / dense)


def tensorization(
    channels: int, dims: tuple[int, ...], after: int, kernel: Kernel = (3, 3, 3), num_frames: int = 8, size: int = 14
) -> View:
    """The channel grid, coloured by what reaches channel 0 after some sub-operations, and its cost.

    One of `dims`, (C_1, ..., C_K), may be -1 and takes the rest of C; ValueError if they do not multiply to it. An
    `after` above K counts as K. The features are T x `size` x `size`.
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
    alt = f"Grid of {channels} channels as {by(dims)}; {reached.sum()} of them reach channel 0 (steps done: {after})."
    return View(channel_grid(dims, reached, after), numbers, alt)


# ---------------------------------------------------------------- figures


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
        step, long, high = shell.draw_block(axes, shade[row, column], corner, **colours)
        across, down = long + 1.6, high + 2.2
        name = f"channel {row * columns + column}: ({column}, {row})"
        below = {"ha": "center", "va": "top", "fontsize": 9.5, "color": "black" if lit else "0.4"}
        axes.text(*corner + (long / 2 - 0.4, -1.4), name, **below)
    above = h + w * PIXEL[1]
    sides = {"H": ((-0.6, 0), (0, h), (-0.9, 0)), "W": ((-0.4, h + 0.5), w * PIXEL, (-0.4, 0.75))}
    sides["T"] = (w * PIXEL[0] + 0.6, above + 0.7), (step * (t - 1.6), -0.34 * (t - 1.6)), (0, 0.75)
    for name, (start, arrow, beside) in sides.items():
        shell.flow_arrow(axes, start, np.add(start, arrow), color="0.3")
        middle = np.add(start, arrow) - np.divide(arrow, 2) + beside
        axes.text(*middle, name, ha="center", va="center", weight="bold")
    axes.set(xlim=(-2, columns * across - 0.8), ylim=(above - rows * down - 0.6, above + 2.2))
    return figure


def channel_grid(dims: Sequence[int], reached: np.ndarray, after: int) -> Figure:
    """The channels as a grid: one column per value of c_1, one row per combination of the other coordinates.

    Channels that are `reached`, bool (C,), are coloured. Channel 0, the output, is darkest.
    """
    columns, rows = dims[0], len(reached) // dims[0]
    shade = reached.astype(int).reshape(rows, columns)
    shade[0, 0] = 2
    figure = canvas(WIDEST, 4.2, left=0.12, right=0.99, bottom=0.13, top=0.9)
    axes = figure.add_subplot()
    legible = max(shade.shape) <= LEGIBLE
    numbers = np.arange(len(reached)).reshape(shade.shape) if legible else False
    style = {"xticklabels": max(1, columns // LEGIBLE), "yticklabels": max(1, rows // LEGIBLE), "cmap": SHADES}
    title = f"What reaches channel 0 (dark) after {after} of {len(dims)}"
    _heatmap(axes, shade, numbers, title, linewidths=0.8 * legible, **style)
    for row in range(dims[1], rows, dims[1]) if len(dims) > 2 else ():
        axes.axhline(row, color="black", lw=min(1.2, 50 / rows))  # no wider than a fifth of a row
    names = ", ".join(f"$c_{k}$" for k in range(2, len(dims) + 1)) or "one row"
    axes.set(xlabel=f"$c_1$, of {columns} (runs fastest)", ylabel=f"{names}, of {rows}")
    return figure


def _heatmap(axes: Axes, values: np.ndarray, numbers: np.ndarray | bool, title: str, size: float = 9, **style) -> None:
    style = {"vmin": 0, "vmax": 2, "linewidths": 0.8, "cbar": False} | style
    sns.heatmap(values, ax=axes, annot=numbers, fmt="g", annot_kws={"fontsize": size}, **style)
    axes.set_title(title, fontsize="medium")
    axes.tick_params(axis="y", rotation=0)


def matrices(shown: dict[str, np.ndarray]) -> Figure:
    """Matrices (output channels, input channels) side by side; entries other than zero are coloured."""
    figure = canvas(2.9 * len(shown) + 0.6, 3.3, left=0.07, bottom=0.18, wspace=0.32)
    for axes, (title, matrix) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        _heatmap(axes, matrix != 0, matrix, title, cmap=SHADES, square=True)
        axes.set_xlabel("input channel")
    figure.axes[0].set_ylabel("output channel")
    return figure


def grids(shown: dict[str, np.ndarray]) -> Figure:
    """Channel grids of integers side by side, one colour per number, so that each channel can be followed."""
    style = {"cmap": "YlGnBu", "vmax": 1.5 * max(int(grid.max()) for grid in shown.values()), "linewidths": 2}
    figure = canvas(2.6 * len(shown), 2.5, left=0.03, bottom=0.05, wspace=0.2)
    for axes, (title, grid) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        _heatmap(axes, grid, grid, title, size=13, square=True, xticklabels=[], yticklabels=[], **style)
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
        (first, second, 3): "It shuffles only at the end, so both sub-operations mix the same neighbours",
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
    seen = f"Output 0 sees {result[:, 0].count_nonzero()} of {channels} channels"
    raise NotYet(f"{seen}. Needed: first sub-operation, shuffle by 4, second sub-operation, shuffle by 3")


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
