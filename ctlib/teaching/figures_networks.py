"""Figures of the teaching notebooks 3 to 5, drawn as those of `figures` are."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ctlib.teaching.anatomy import Part
from ctlib.teaching.figures import DARK, PALE, STRONG, canvas

MOST_INDICES = 24  # parts of a network whose blocks have room for their index


def flow(branches: dict[str, list[tuple[str, tuple[int, ...]]]]) -> Figure:
    """What is done one after the other, a column a branch, a box a step with the shape that comes out of it.

    Args:
        branches: title -> (what is done, its shape), from the top down; as many steps in each.
    """
    count = max(map(len, branches.values()))
    figure = canvas(3.3 * len(branches), 0.72 * count + 0.4, left=0.01, right=0.99, bottom=0.01, top=0.93)
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
    figure = canvas(11.4, 0.66 * count + 0.3, left=0.005, right=0.995, bottom=0.005, top=0.995)
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
    figure = canvas(9.6, 4.6, left=0.04)
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
    figure = canvas(1.15 * len(frames), 1.6, left=0.01, right=0.99, bottom=0.02, top=0.82)
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
    figure = canvas(6.4, 3.6, left=0.12)
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
        plain: of the same backbone with no block replaced, outlined where another block stands.
        module: what the replaced blocks are called.
        title: over it.
    """
    figure = canvas(10, 4.6, left=0.07, right=0.995, bottom=0.08, top=0.93, hspace=0.1)
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
    figure = canvas(10.5, 3.6, left=0.07)
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
