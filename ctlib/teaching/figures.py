"""Figures of the teaching notebooks 1 and 2: each draws what it is given, and changes nothing outside itself."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

PALE, STRONG, DARK = "#e6e6e6", "#8fbfdd", "#0b5b8a"  # lightness falls from one to the next: readable in grey
MOST_NUMBERS = 128  # channels whose numbers can be read in the grid


def canvas(width: float, height: float, **margins: float) -> Figure:
    """An empty figure. Not pyplot's, so it is shown once; without a layout engine, which takes as long as drawing."""
    figure = Figure(figsize=(width, height), layout="none")
    figure.subplots_adjust(**{"left": 0.08, "right": 0.98, "bottom": 0.14, "top": 0.86} | margins)
    return figure


def channel_grid(dims: Sequence[int], reached: np.ndarray, after: int) -> Figure:
    """The channels as a grid: a column each value of c_1, a row each of the other coordinates, lines between c_3, ...

    Args:
        dims: (C_1, ..., C_K).
        reached: bool (C,), which are coloured; channel 0 is the output and darkest.
        after: sub-operations done, for the title.
    """
    columns, channels = dims[0], len(reached)
    rows = channels // columns
    shade = reached.astype(int).reshape(rows, columns)
    shade[0, 0] = 2
    figure = canvas(8.4, 3.9, left=0.09, right=0.99)
    axes = figure.add_subplot()
    axes.pcolormesh(shade, cmap=ListedColormap([PALE, STRONG, DARK]), vmin=0, vmax=2, edgecolors="white", lw=0.8)
    if channels <= MOST_NUMBERS:
        for channel in range(channels):
            row, column = divmod(channel, columns)
            colour = "white" if shade[row, column] == 2 else "black"
            axes.text(column + 0.5, row + 0.5, str(channel), ha="center", va="center", fontsize=8, color=colour)
    for row in range(dims[1], rows, dims[1]) if len(dims) > 2 else ():
        axes.axhline(row, color="black", lw=1.2)
    axes.grid(False)
    axes.invert_yaxis()
    every = max(1, columns // 16), max(1, rows // 16)
    axes.set_xticks(np.arange(0, columns, every[0]) + 0.5, range(0, columns, every[0]))
    axes.set_yticks(np.arange(0, rows, every[1]) + 0.5, range(0, rows, every[1]))
    names = ", ".join(f"$c_{k}$" for k in range(2, len(dims) + 1)) or "one row"
    axes.set(
        title=f"{' x '.join(map(str, dims))} channels: what reaches channel 0 (dark) after {after} of {len(dims)}",
        xlabel=f"$c_1$, of {columns} (runs fastest)",
        ylabel=f"{names}, of {rows}",
    )
    return figure


def matrices(shown: dict[str, np.ndarray], xlabel: str = "input channel", ylabel: str = "output channel") -> Figure:
    """Small matrices side by side, a coloured field for what is not zero, its value written in it.

    Args:
        shown: title -> (rows, columns).
    """
    figure = canvas(2.9 * len(shown) + 0.6, 3.3, left=0.07, wspace=0.32)
    for axes, (title, matrix) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        rows, columns = matrix.shape
        axes.pcolormesh(matrix != 0, cmap=ListedColormap([PALE, STRONG]), vmin=0, vmax=1, edgecolors="white", lw=1)
        for row in range(rows):
            for column in range(columns):
                axes.text(column + 0.5, row + 0.5, f"{matrix[row, column]:g}", ha="center", va="center", fontsize=9)
        axes.set_title(title, fontsize="medium")
        axes.set(xlabel=xlabel, xticks=np.arange(columns) + 0.5, yticks=np.arange(rows) + 0.5, aspect="equal")
        axes.set(xticklabels=range(columns), yticklabels=range(rows))
        axes.grid(False)
        axes.invert_yaxis()
    figure.axes[0].set_ylabel(ylabel)
    return figure


def grids(shown: dict[str, np.ndarray]) -> Figure:
    """Channel grids of integers in turn, so that each permutation can be followed: a colour each number."""
    count = max(int(grid.max()) for grid in shown.values()) + 1
    colours = plt.get_cmap("YlGnBu")(np.linspace(0.05, 0.6, count))
    figure = canvas(2.6 * len(shown), 2.5, left=0.03, bottom=0.05, wspace=0.2)
    for axes, (title, grid) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        axes.pcolormesh(grid, cmap=ListedColormap(colours), vmin=-0.5, vmax=count - 0.5, edgecolors="white", lw=2)
        for (row, column), value in np.ndenumerate(grid):
            axes.text(column + 0.5, row + 0.5, str(value), ha="center", va="center", fontsize=13)
        axes.set_title(title, fontsize="medium")
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.invert_yaxis()
    return figure


def cost_curves(split: dict[str, Sequence[float]], depth: dict[str, Sequence[float]], channels: int) -> Figure:
    """What a position costs: with K = 2 against C_1, and with equal sizes against K.

    Args:
        split: "size" and "products" of real sizes C_1, "whole" and "whole products" of the divisors.
        depth: "K" and "products" of real K, "whole" and "whole products" of the splits that there are.
        channels: C, for the titles.
    """
    figure = canvas(10.5, 3.8, wspace=0.28)
    left, right = figure.subplots(1, 2)
    left.plot(split["size"], split["products"], color="C0")
    left.plot(split["whole"], split["whole products"], "o", color="C0")
    left.axvline(channels**0.5, color="0.3", ls="--", lw=1.2)
    left.set(
        title=f"K = 2: least at $C_1 = \\sqrt{{C}}$ (C = {channels})",
        xlabel="$C_1$ (with $C_2 = C / C_1$); dots: divisors", ylabel="products a position", xscale="log", yscale="log",
    )  # fmt: skip
    right.plot(depth["K"], depth["products"], color="C1")
    right.plot(depth["whole"], depth["whole products"], "s", color="C1")
    right.axvline(np.log(channels), color="0.3", ls="--", lw=1.2)
    right.set(
        title=f"equal sizes $C^{{1/K}}$: least at $K = \\ln C$ = {np.log(channels):.2f}",
        xlabel="K; squares: the splits that there are", ylabel="products a position", yscale="log",
    )  # fmt: skip
    return figure


def field_views(ways: np.ndarray, box: tuple[int, int, int], reached: np.ndarray, title: str) -> Figure:
    """What one output sees: its channels; ways summed over time (front), over height (above); positions in space.

    Args:
        ways: int (t, h, w), from `explorers.paths`.
        box: extents of the frame in which it is drawn, (t, h, w), at least those of `ways`.
        reached: bool (C,); channel 0 is the output.
        title: over it.
    """
    placed = np.zeros(tuple(max(a, b) for a, b in zip(ways.shape, box, strict=True)), dtype=ways.dtype)
    starts = [(wide - extent) // 2 for wide, extent in zip(placed.shape, ways.shape, strict=True)]
    placed[tuple(slice(s, s + e) for s, e in zip(starts, ways.shape, strict=True))] = ways
    figure = canvas(11.5, 3.5, left=0.03, right=0.99, top=0.8, wspace=0.3)
    figure.suptitle(f"{title} (darker: more ways)", y=0.97)
    channels, front, above = (figure.add_subplot(1, 4, column) for column in (1, 2, 3))
    space = figure.add_subplot(1, 4, 4, projection="3d")
    _channels(channels, reached)
    channels.set_title(f"channels: {reached.sum()} of {len(reached)}", fontsize="medium")
    for axes, matrix, seen, ylabel in (
        (front, placed.sum(0), "front: summed over time", "height, pixels"),
        (above, placed.sum(1), "above: summed over height", "time, frames"),
    ):
        rows, columns = matrix.shape
        x, y = np.arange(columns + 1) - columns / 2, np.arange(rows + 1) - rows / 2
        share = np.where(matrix > 0, matrix / matrix.max(), np.nan)
        axes.set_facecolor("white")
        axes.pcolormesh(x, y, share, cmap="Blues", vmin=-0.25, vmax=1.1, edgecolors="0.85", lw=0.5)
        if matrix.size <= 49:
            for (row, column), value in np.ndenumerate(matrix):
                if value:
                    where = column - columns // 2, row - rows // 2
                    colour = "white" if value > 0.6 * matrix.max() else "black"
                    axes.text(*where, str(value), ha="center", va="center", fontsize=7, color=colour)
        axes.set_title(seen, fontsize="medium")
        axes.set(xlabel="width, pixels", ylabel=ylabel, aspect="equal", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        axes.grid(False)
    _in_space(space, placed / placed.max(), [extent / 2 for extent in placed.shape], 28)
    space.set(xlabel="time", ylabel="width", zlabel="height")
    space.set_title(f"{(ways > 0).sum()} positions", fontsize="medium")
    return figure


def _channels(axes, reached: np.ndarray) -> None:
    """C channels in rows, as square a grid as they make, those that reach channel 0 (darkest) coloured."""
    rows = max(row for row in range(1, int(len(reached) ** 0.5) + 1) if len(reached) % row == 0)
    shade = reached.astype(int)
    shade[0] = 2
    shades = ListedColormap([PALE, STRONG, DARK])
    axes.pcolormesh(shade.reshape(rows, -1), cmap=shades, vmin=0, vmax=2, edgecolors="white", lw=0.8)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.invert_yaxis()
    axes.grid(False)


def _in_space(axes, strength: np.ndarray, reach: Sequence[float], size: float) -> None:
    """A square at each position (t, h, w) that is not zero, time running to the right; `reach` each way."""
    t, h, w = (at - extent // 2 for at, extent in zip(strength.nonzero(), strength.shape, strict=True))
    shades = {"cmap": "Blues", "vmin": -0.4, "vmax": 1, "edgecolors": "0.25", "lw": 0.3}
    axes.scatter(t, w, h, c=strength[strength.nonzero()], marker="s", s=size, **shades)
    axes.set(xlim=(-reach[0], reach[0]), ylim=(-reach[2], reach[2]), zlim=(-reach[1], reach[1]))
    axes.view_init(22, -52)


def field_steps(steps: dict[str, np.ndarray]) -> Figure:
    """How a field grows: for each step its positions from the front (above) and from above (below), all on one scale.

    Args:
        steps: title -> ways, int (t, h, w) of odd extents.
    """
    reach = max(max(ways.shape) for ways in steps.values()) / 2 + 0.5
    figure = canvas(2.5 * len(steps) + 1, 5.4, left=0.07, right=0.9, bottom=0.09, top=0.92, wspace=0.12, hspace=0.18)
    grid = figure.subplots(2, len(steps), sharex=True, sharey=True, squeeze=False)
    for column, (title, ways) in enumerate(steps.items()):
        for axes, seen in ((grid[0, column], ways.sum(0)), (grid[1, column], ways.sum(1))):
            rows, columns = seen.shape
            share = np.where(seen > 0, 100 * seen / seen.sum(), np.nan)
            y, x = np.arange(rows + 1) - rows / 2, np.arange(columns + 1) - columns / 2
            mesh = axes.pcolormesh(x, y, share, cmap="Blues", vmin=-2, vmax=20, edgecolors="0.7", lw=0.4)
            axes.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
            axes.grid(False)
        grid[0, column].set_title(f"{title}\n{(ways > 0).sum()} of {ways.size} positions", fontsize="medium")
        grid[1, column].set_xlabel("width, pixels")
    grid[0, 0].set_ylabel("front: height, pixels")
    grid[1, 0].set_ylabel("above: time, frames")
    scale = figure.add_axes((0.92, 0.2, 0.014, 0.6))
    figure.colorbar(mesh, cax=scale, extend="max", ticks=range(0, 21, 5), label="share of all ways that lead there, %")
    scale.set_ylim(0, 20)
    return figure


def measured_fields(shown: dict[str, np.ndarray], widest: int) -> Figure:
    """Modules side by side, a column each: channels, the field from the front and from above, its positions in space.

    Args:
        shown: title -> bool (C, T, H, W), which inputs reach the output (channel 0, in the middle).
        widest: positions along an axis that are drawn.
    """
    reach = widest / 2 + 0.5
    figure = canvas(1.75 * len(shown) + 0.9, 7.8, left=0.06, right=0.92, bottom=0.02, top=0.9, wspace=0.14, hspace=0.28)
    meshes = []
    for column, (title, reached) in enumerate(shown.items(), start=1):
        channels, front, above = (figure.add_subplot(4, len(shown), row * len(shown) + column) for row in range(3))
        space = figure.add_subplot(4, len(shown), 3 * len(shown) + column, projection="3d")
        places = reached.any(0)
        _channels(channels, reached.any((1, 2, 3)))
        channels.set_title(title, fontsize="medium")
        channels.set_xlabel(f"{reached.any((1, 2, 3)).sum()} of {len(reached)}", fontsize="small")
        for axes, seen in ((front, places.sum(0)), (above, places.sum(1))):
            edges = np.arange(len(seen) + 1) - len(seen) / 2
            depth = np.where(seen > 0, seen, np.nan)
            meshes.append(axes.pcolormesh(edges, edges, depth, cmap="Blues", vmin=-1, vmax=widest, ec="0.9", lw=0.3))
            axes.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
            axes.grid(False)
            axes.tick_params(labelsize="small", labelleft=column == 1)
        above.set_xlabel("width, pixels", fontsize="small")
        _in_space(space, places * 0.7, [reach] * 3, 9)
        space.patch.set_visible(False)  # it lies over the label above it
        space.set(xticks=[], yticks=[], zticks=[])
        space.set_xlabel("time", labelpad=-14, fontsize="small")
        space.set_ylabel("width", labelpad=-14, fontsize="small")
        space.set_title(f"{places.sum()} positions", fontsize="medium", y=-0.12)
        if column == 1:
            channels.set_ylabel("channels")
            front.set_ylabel("front: height, pixels")
            above.set_ylabel("above: time, frames")
            space.text2D(-0.2, 0.5, "in space", transform=space.transAxes, rotation=90, va="center")
    scale = figure.add_axes((0.94, 0.3, 0.012, 0.38))
    figure.colorbar(meshes[0], cax=scale, label="positions behind one another")
    scale.set_ylim(0, widest)
    return figure
