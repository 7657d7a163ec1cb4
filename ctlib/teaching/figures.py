"""Figures of the teaching notebooks: each draws what it is given, and changes nothing outside its own figure."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ctlib.teaching.anatomy import Part

PALE, STRONG, DARK = "#e6e6e6", "#8fbfdd", "#0b5b8a"  # lightness falls from one to the next: readable in grey
MOST_NUMBERS = 128  # channels whose numbers can be read in the grid
MOST_INDICES = 24  # parts of a network whose blocks have room for their index


def _figure(width: float, height: float, **margins: float) -> Figure:
    """Not pyplot's, so it is shown once; without a layout engine, which takes as long again as drawing."""
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
    figure = _figure(8.4, 3.9, left=0.09, right=0.99)
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
    figure = _figure(2.9 * len(shown) + 0.6, 3.3, left=0.07, wspace=0.32)
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
    figure = _figure(2.6 * len(shown), 2.5, left=0.03, bottom=0.05, wspace=0.2)
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
    figure = _figure(10.5, 3.8, wspace=0.28)
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
    figure = _figure(11.5, 3.5, left=0.03, right=0.99, top=0.8, wspace=0.3)
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
    figure = _figure(2.5 * len(steps) + 1, 5.4, left=0.07, right=0.9, bottom=0.09, top=0.92, wspace=0.12, hspace=0.18)
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
    figure = _figure(
        1.75 * len(shown) + 0.9, 7.8, left=0.06, right=0.92, bottom=0.02, top=0.9, wspace=0.14, hspace=0.28
    )
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


def flow(branches: dict[str, list[tuple[str, tuple[int, ...]]]]) -> Figure:
    """What is done one after the other, a column a branch, a box a step with the shape that comes out of it.

    Args:
        branches: title -> (what is done, its shape), from the top down; as many steps in each.
    """
    count = max(map(len, branches.values()))
    figure = _figure(3.3 * len(branches), 0.72 * count + 0.4, left=0.01, right=0.99, bottom=0.01, top=0.93)
    for axes, (title, steps) in zip(figure.subplots(1, len(branches), squeeze=False)[0], branches.items(), strict=True):
        for row, (what, shape) in enumerate(steps):
            at = count - row - 0.5
            text = f"{what}\n{' x '.join(map(str, shape))}"
            box = {"boxstyle": "round,pad=0.45", "fc": STRONG if "TSConv" in what else PALE, "ec": "0.3"}
            axes.text(0.5, at, text, ha="center", va="center", fontsize=8.5, bbox=box)
            if row:
                arrow = {"arrowstyle": "->", "color": "0.2"}
                axes.annotate("", (0.5, at + 0.31), (0.5, at + 0.69), arrowprops=arrow)
        axes.set_title(title, fontsize="medium")
        axes.set(xlim=(0, 1), ylim=(0, count))
        axes.axis("off")
    return figure


def excitation(branches: dict[str, Sequence[tuple[str, tuple[int, ...]]]]) -> Figure:
    """A sub-operation with Tensor Excitation: two branches downwards from one input, their sum, the third upwards.

    A line beside a branch takes what enters its gate to the product.

    Args:
        branches: "spatial", "temporal" and "channel" -> (what is done, its shape), as
            `explorers_networks.excitation_flow` notes them.
    """
    count = len(branches["spatial"]) + 1
    figure = _figure(11.4, 0.66 * count + 0.3, left=0.005, right=0.995, bottom=0.005, top=0.995)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 3.3), ylim=(0, count))
    axes.axis("off")
    top, bottom, half = count - 0.5, 0.5, 0.3  # rows are 1 apart; half of a box's height, with its margin
    columns = {"spatial": (0.5, -1, -0.47), "temporal": (1.6, -1, -0.47), "channel": (2.75, 1, 0.42)}

    def box(x: float, y: float, what: str, shape: tuple[int, ...]) -> None:
        style = {"boxstyle": "round,pad=0.4", "fc": STRONG if "TSConv" in what else PALE, "ec": "0.3"}
        axes.text(x, y, f"{what}\n{' x '.join(map(str, shape))}", ha="center", va="center", fontsize=8.5, bbox=style)

    def path(*corners: tuple[float, float], color: str = "0.2") -> None:
        axes.plot(*zip(*corners, strict=True), color=color, lw=1.1, zorder=1)  # boxes lie over it
        arrow = {"arrowstyle": "->", "color": color, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", corners[-1], corners[-2], arrowprops=arrow, zorder=1)

    middle, into = (columns["spatial"][0] + columns["temporal"][0]) / 2, columns["channel"][0]
    box(middle, top, *branches["spatial"][0])
    for name, (x, way, beside) in columns.items():
        steps = branches[name] if way > 0 else branches[name][1:]  # two begin with the one input
        first = bottom if way > 0 else top - 1
        for row, step in enumerate(steps):
            box(x, first + way * row, *step)
            if row:
                path((x, first + way * (row - 1)), (x, first + way * (row - half)))
        last, side = first + way * (len(steps) - 1), x + beside
        path((x, first), (side, first), (side, last), (x + (0.2 if beside > 0 else -0.2), last), color=DARK)
        axes.text(x, top, name, ha="center", va="center", weight="bold", fontsize=10)
        if way < 0:
            path((middle, top), (middle, top - 0.5), (x, top - 0.5), (x, first + half))
            path((x, last), (x, bottom), (into - 0.19, bottom))
    return figure


def attention(frames: np.ndarray, space: np.ndarray, time: np.ndarray, channel: np.ndarray) -> Figure:
    """Frames above; below, the spatial attention as a map, temporal and channel attention as curves over the frames.

    Args:
        frames: uint8 (T, H, W, 3).
        space: (h, w).
        time, channel: (T,).
    """
    figure = _figure(9.6, 4.6, left=0.04)
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.6), width_ratios=(1.15, 1, 1), hspace=0.32, wspace=0.34)
    top, below = figure.add_subplot(grid[0, :]), [figure.add_subplot(grid[1, column]) for column in range(3)]
    top.imshow(np.concatenate(list(frames), axis=1))
    top.set(xticks=[], yticks=[], title="time runs from left to right")
    image = below[0].imshow(space, cmap="magma")
    figure.colorbar(image, ax=below[0], shrink=0.9)
    below[0].set(title="spatial gate, on its own scale", xticks=[], yticks=[])
    for axes, values, title in ((below[1], time, "temporal gate"), (below[2], channel, "channel gate")):
        axes.plot(range(1, len(values) + 1), values, "o-", color="C0")
        axes.set(title=title, xlabel="frame", ylabel="gate", ylim=(0, 1), xticks=range(1, len(values) + 1))
    for axes in (top, below[0]):
        axes.grid(False)
    return figure


def strip(frames: np.ndarray, title: str) -> Figure:
    """Frames side by side; time runs from left to right. uint8 (T, H, W, 3)."""
    figure = _figure(1.15 * len(frames), 1.6, left=0.01, right=0.99, bottom=0.02, top=0.82)
    axes = figure.add_subplot()
    axes.imshow(np.concatenate([np.pad(f, ((0, 0), (1, 1), (0, 0)), constant_values=255) for f in frames], axis=1))
    axes.set(xticks=[], yticks=[], title=title)
    axes.grid(False)
    return figure


def losses(curves: dict[str, Sequence[float]], floor: float, what: str) -> Figure:
    """Training losses by epoch, and a line that some of them cannot pass.

    Args:
        curves: name of the network -> its loss, an epoch each.
        floor: the line.
        what: it is.
    """
    figure = _figure(6.4, 3.6, left=0.12)
    axes = figure.add_subplot()
    for index, (name, values) in enumerate(curves.items()):
        axes.plot(range(1, len(values) + 1), values, f"-{'os^'[index % 3]}", color=f"C{index}", label=name)
    axes.axhline(floor, color="0.3", ls="--", lw=1.2, label=what)
    axes.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy, nats", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small")
    return figure


def network(parts: Sequence[Part], plain: Sequence[Part], module: str, title: str) -> Figure:
    """A network from the stem (left) to the head (right): a box a part, as high as its frames; what each costs below.

    Args:
        parts: of the network.
        plain: of the same trunk with no block replaced, outlined where another block stands.
        module: what the replaced blocks are called.
        title: over it.
    """
    figure = _figure(10, 4.6, left=0.07, right=0.995, bottom=0.08, top=0.93, hspace=0.1)
    boxes, costs = figure.subplots(2, 1, sharex=True, height_ratios=(1.15, 1))
    at, sides = np.arange(len(parts)), np.array([part.shape[2] for part in parts])
    colours = [DARK if part.replaced else PALE if part.stage.startswith("stage") else "white" for part in parts]
    style = {"width": 0.86, "color": colours, "edgecolor": "0.25", "linewidth": 0.8}
    boxes.bar(at, np.log2(sides) + 1, **style)
    costs.bar(at, [part.gflops for part in parts], **style)
    swapped = [index for index, part in enumerate(parts) if part.replaced]
    edges = [
        "white" if parts[index].gflops > plain[index].gflops else "black" for index in swapped
    ]  # on dark, or above
    outline = {"width": 0.86, "facecolor": "none", "edgecolor": edges, "linestyle": "--"}
    costs.bar(swapped, [plain[index].gflops for index in swapped], **outline)
    top = np.log2(sides.max()) + 1.3
    for stage in dict.fromkeys(part.stage for part in parts):
        columns = [index for index, part in enumerate(parts) if part.stage == stage]
        c, t, h, w = parts[columns[-1]].shape
        text = f"{stage}\n{c} x {t}\n{h} x {w}"
        boxes.text(np.mean(columns), top, text, ha="center", va="bottom", fontsize=8, linespacing=1.3)
        if len(columns) > 1:
            boxes.plot((columns[0] - 0.4, columns[-1] + 0.4), (top - 0.1, top - 0.1), color="0.25", lw=1)
            for index in columns if len(parts) <= MOST_INDICES else ():
                colour = "white" if parts[index].replaced else "black"
                number = str(parts[index].index)
                boxes.text(index, 0.45, number, ha="center", va="center", fontsize=8, color=colour)
    marks = sorted(set(sides.tolist()))
    boxes.set_yticks(np.log2(marks) + 1, marks)
    boxes.set(ylabel="H = W, pixels (log)", ylim=(0, top + 2.7), title=title)
    most = max(part.gflops for part in (*parts, *plain))
    costs.set(ylim=(0, 1.25 * most))  # room for the legend
    costs.set(
        ylabel="GFLOPs", xlabel="from the clip to the scores, a bar a block", xticks=[], xlim=(-0.8, len(parts) - 0.2)
    )
    costs.legend(
        handles=[
            Patch(fc=PALE, ec="0.25", label="ResBlock"),
            Patch(fc=DARK, ec="0.25", label=module),
            Patch(fc="none", ec="black", ls="--", label="a ResBlock in its place"),
        ],
        fontsize="small", ncols=3, loc="upper right",
    )  # fmt: skip
    for axes in (boxes, costs):
        axes.grid(axis="x", visible=False)
    return figure


def stage_costs(networks: dict[str, Sequence[Part]], protocol: str) -> Figure:
    """What the stem, each stage and the head cost: a group each, a bar a network, lightness telling them apart.

    Args:
        networks: name -> its parts; at most three.
        protocol: of which clip, for the axis.
    """
    stages = list(dict.fromkeys(part.stage for part in next(iter(networks.values()))))
    figure = _figure(10.5, 3.6, left=0.07)
    axes = figure.add_subplot()
    width, tallest = 0.84 / len(networks), 0.0
    for number, ((name, parts), colour) in enumerate(zip(networks.items(), (PALE, DARK, STRONG), strict=False)):
        summed = [sum(part.gflops for part in parts if part.stage == stage) for stage in stages]
        at, tallest = np.arange(len(stages)) + (number - (len(networks) - 1) / 2) * width, max(tallest, *summed)
        axes.bar(at, summed, 0.94 * width, color=colour, ec="0.25", lw=0.8, label=name)
        for x, value in zip(at, summed, strict=True):
            axes.text(x, value, f"{value:.1f}", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(stages)), stages)
    axes.set(title="What each stage costs", ylabel=f"GFLOPs, {protocol}", ylim=(0, 1.1 * tallest))
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize="small")
    return figure
