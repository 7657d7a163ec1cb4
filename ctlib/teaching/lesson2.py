"""Lesson 2, interaction: which channels and positions reach one output (explorers, figures, exercises)."""

import copy
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from scipy.signal import convolve
from torch import nn

from ctlib import cost
from ctlib.config import check_choice
from ctlib.ct_module import CONNECTIONS, SPECIAL_CASES, CTModule, Kernel
from ctlib.teaching.exercise import NotYet, expect, given, plain, solved_by
from ctlib.teaching.lesson1 import reached_channels
from ctlib.teaching.shell import SHADES, View, by, canvas
from ctlib.tensorize import resolve_dims

# ---------------------------------------------------------------- explorers


def paths(kernels: tuple[Kernel, ...], connection: str = "parallel") -> np.ndarray:
    """How many paths lead from each input position to one output, through successive sub-operations.

    A parallel sub-operation has a plane of h x w and a line of t, which meet in the middle (two paths). Coupling and
    serial ones have one path from each of t x h x w positions. Successive steps convolve.

    Returns:
        int64 (t, h, w): the bounding box of the field, 0 where no path leads.
    """
    check_choice("connection", connection, CONNECTIONS)
    total = np.ones((1, 1, 1), dtype=np.int64)
    for t, h, w in kernels:
        if min(t, h, w) < 1 or not t % 2 == h % 2 == w % 2 == 1:
            raise ValueError(f"kernels need odd extents (t, h, w), got {(t, h, w)}")
        step = np.zeros((t, h, w), dtype=np.int64)
        if connection == "parallel":
            step[t // 2] += 1
            step[:, h // 2, w // 2] += 1
        else:
            step[:] = 1
        total = convolve(total, step, method="direct")
    return total


MODULES = {"CT-Module": "ct", "C3D": "c3d", "R(2+1)D": "r2plus1d", "CSN": "csn"}  # names of `ct_module.SPECIAL_CASES`


def special_case(module: str, channels: int, kernel: Kernel) -> tuple[tuple[int, ...], tuple[Kernel, ...]]:
    """The dims and kernels that make a CT-Module "C3D", "R(2+1)D" or "CSN" (section 3.3), with another kernel."""
    dims, kernels = SPECIAL_CASES[MODULES[module]]
    dims = tuple(channels if size == "C" else size for size in dims)
    return dims, tuple(
        tuple(1 if extent == 1 else wanted for extent, wanted in zip(one, kernel, strict=True)) for one in kernels
    )


def interaction(
    num_dims: int,
    after: int,
    kernel: Kernel = (3, 3, 3),
    connection: str = "parallel",
    channels: int = 64,
    module: str = "CT-Module",
) -> View:
    """Which channels and positions reach one output after some of K sub-operations.

    Args:
        num_dims: K of the CT-Module; the others ignore it and `connection`.
        after: sub-operations (or convolutions) done; more than K count as K.
        kernel: (t, h, w) of each.
        module: one of `MODULES`.

    Raises:
        ValueError: an unknown module or connection, or an even kernel.
    """
    check_choice("module", module, MODULES)
    if module == "CT-Module":
        dims = resolve_dims(channels, num_dims)
        kernels, name = (tuple(kernel),) * num_dims, f"CT-Module, K = {num_dims}, {connection}"
    else:
        (dims, kernels), connection, name = special_case(module, channels, kernel), "coupling", module
    after = min(after, len(dims))
    ways = paths(kernels[:after], connection)
    box = tuple(1 + sum(extents) - len(dims) for extents in zip(*kernels, strict=True))
    reached, positions = reached_channels(dims, after, channels=channels), int((ways > 0).sum())
    middle = ways[tuple(extent // 2 for extent in ways.shape)]
    figure = field_views(ways, box, reached, f"{name}: after {after} of {len(dims)}")
    numbers = {
        f"channels after {after} of {len(dims)}": f"{reached.sum()} of {channels}",
        "box (t x h x w)": by(ways.shape),
        "positions inside it": f"{positions} of {ways.size}",
        "paths through the centre": f"{100 * middle / ways.sum():.1f} % of {ways.sum():,}",
    }
    alt = (
        f"Interact field of {name}, after {after} of {len(dims)}: {reached.sum()} of {channels} channels, and "
        f"{positions} of the {ways.size} positions of a box of {by(ways.shape)}, from the front, from above and in "
        "three dimensions."
    )
    return View(figure, numbers, alt)


def fields(module: CTModule, channels: int, size: int = 11) -> list[cost.InteractField]:
    """What reaches one output after 0, 1, 2, ..., K sub-operations, each measured by gradient.

    The input has `size` frames and `size` x `size` pixels; a field is cut off at its border.
    """
    measured = []
    for after in range(len(module.sub_operations) + 1):
        partial = copy.deepcopy(module)
        partial.sub_operations, partial.dims = partial.sub_operations[:after], partial.dims[:after]
        partial.pointwise = partial.pointwise[: max(after - 1, 0)]  # one between two sub-operations
        measured.append(cost.interact_field(partial, size, size, channels))
    return measured


def table_1(measured: dict[str, list[cost.InteractField]], after: int) -> View:
    """Modules side by side, from their `fields`: what reaches one output after some (at most all) sub-operations."""
    shown, numbers = {}, {}
    for name, steps in measured.items():
        last = len(steps) - 1
        field = steps[min(after, last)]
        shown[f"{name}\n{min(after, last)} of {last}"] = field.reached.numpy()
        numbers[name] = f"channels: {field.channels}, positions: {field.positions}, box {by(field.box)}"
    widest = max(max(steps[-1].box) for steps in measured.values())
    described = "; ".join(f"{name}: {value}" for name, value in numbers.items())
    alt = f"What reaches one output after {after}: {described}."
    return View(measured_fields(shown, widest), numbers, alt)


def manner(part: nn.Module, channels: int = 16) -> str:
    """What one sub-operation lets interact, measured: letters of "STC", the "interact manner" of Table 1.

    S: pixels around the output. T: frames around it. C: other channels.
    """
    field = cost.interact_field(part, channels=channels)
    t, h, w = field.box
    reached = {"S": max(h, w) > 1, "T": t > 1, "C": field.channels > 1}
    return "".join(letter for letter in reached if reached[letter])


# ---------------------------------------------------------------- figures


def field_views(ways: np.ndarray, box: tuple[int, int, int], reached: np.ndarray, title: str) -> Figure:
    """A field, from `paths`, in four panels with the number of paths to each position. Other arguments: `_draw`."""
    figure = canvas(11.5, 3.5, left=0.03, right=0.96, top=0.8, wspace=0.3)
    figure.suptitle(f"{title} (darker: more paths)", y=0.97)
    channels, front, above, space = _axes(figure, 1, 4)
    _draw((channels, front, above, space), reached, ways, box)
    channels.set_title(f"channels: {reached.sum()} of {len(reached)}", fontsize="medium")
    for axes, counts in ((front, ways.sum(0)), (above, ways.sum(1))):
        for (row, column), count in np.ndenumerate(counts) if counts.size <= 49 else ():
            where = column - counts.shape[1] // 2, row - counts.shape[0] // 2
            color = "white" if count > 0.6 * counts.max() else "black"
            axes.text(*where, str(count or ""), ha="center", va="center", fontsize=7, color=color)
    front.set_title("front: summed over time", fontsize="medium")
    front.set(xlabel="width, pixels", ylabel="height, pixels")
    above.set_title("above: summed over height", fontsize="medium")
    above.set(xlabel="width, pixels", ylabel="time, frames")
    space.set(xlabel="time", ylabel="width", zlabel="height")
    space.set_box_aspect(None, zoom=0.85)  # else the figure's edge cuts off the height
    space.set_title(f"{(ways > 0).sum()} positions", fontsize="medium")
    return figure


def field_steps(steps: dict[str, np.ndarray]) -> Figure:
    """How a field grows: the positions of each step, from `paths`, from the front (top row) and above (bottom row)."""
    reach = max(max(ways.shape) for ways in steps.values()) / 2 + 0.5
    figure = canvas(2.5 * len(steps) + 1, 5.4, left=0.07, right=0.9, bottom=0.09, top=0.92, wspace=0.12, hspace=0.18)
    ticks = np.arange(-int(reach) // 2 * 2 + 2, reach, 2)
    grid = figure.subplots(2, len(steps), sharex=True, sharey=True, squeeze=False)
    for column, (title, ways) in enumerate(steps.items()):
        for axes, seen in zip(grid[:, column], (ways.sum(0), ways.sum(1)), strict=True):
            mesh = _side(axes, 100 * seen / seen.sum(), 20, reach, reach)
            axes.set(xticks=ticks, yticks=ticks)
        grid[0, column].set_title(f"{title}\n{(ways > 0).sum()} of {ways.size} positions", fontsize="medium")
        grid[1, column].set_xlabel("width, pixels")
    grid[0, 0].set_ylabel("front: height, pixels")
    grid[1, 0].set_ylabel("above: time, frames")
    scale = figure.add_axes((0.92, 0.2, 0.014, 0.6))
    figure.colorbar(mesh, cax=scale, extend="max", ticks=range(0, 21, 5), label="share of all paths, %")
    scale.set_ylim(0, 20)
    return figure


def measured_fields(shown: dict[str, np.ndarray], widest: int) -> Figure:
    """One column per module: channels, the field from the front and from above, its positions in space.

    `shown` has the inputs that reach the output (channel 0, in the middle), bool (C, T, H, W), by title.
    """
    figure = canvas(1.75 * len(shown) + 0.9, 7.8, left=0.06, right=0.92, bottom=0.02, top=0.9, wspace=0.14, hspace=0.28)
    grid = np.reshape(_axes(figure, 4, len(shown)), (4, len(shown)))
    for column, (title, reached) in enumerate(shown.items()):
        channels, front, above, space = grid[:, column]
        positions, met = reached.any(0), reached.any((1, 2, 3))
        mesh = _draw(grid[:, column], met, positions.astype(int), (widest + 1,) * 3, widest, 9)
        channels.set_title(title, fontsize="medium")
        channels.set_xlabel(f"{met.sum()} of {len(met)}", fontsize="small")
        for axes in (front, above):
            axes.tick_params(labelsize="small", labelleft=column == 0)
        above.set_xlabel("width, pixels", fontsize="small")
        space.patch.set_visible(False)  # it would cover the label above it
        space.set(xticks=[], yticks=[], zticks=[])
        space.set_xlabel("time", labelpad=-14, fontsize="small")
        space.set_ylabel("width", labelpad=-14, fontsize="small")
        space.set_title(f"{positions.sum()} positions", fontsize="medium", y=-0.12)
    for axes, label in zip(grid[:3, 0], ("channels", "front: height, pixels", "above: time, frames"), strict=True):
        axes.set_ylabel(label)
    grid[3, 0].text2D(-0.2, 0.5, "in space", transform=grid[3, 0].transAxes, rotation=90, va="center")
    scale = figure.add_axes((0.94, 0.3, 0.012, 0.38))
    figure.colorbar(mesh, cax=scale, label="positions behind one another")
    scale.set_ylim(0, widest)
    return figure


def _axes(figure: Figure, rows: int, columns: int) -> list[Axes]:
    """Axes in a grid, row by row; those of the last row or, in a single row, the last one are in space."""
    flat = rows * columns - (columns if rows > 1 else 1)
    kinds = [None] * flat + ["3d"] * (rows * columns - flat)
    return [figure.add_subplot(rows, columns, at, projection=kind) for at, kind in enumerate(kinds, start=1)]


def _draw(
    panels: Sequence[Axes], reached: np.ndarray, ways: np.ndarray, box: Sequence[int], most: float = 0, dot: float = 28
) -> QuadMesh:
    """Draw a field into four axes: its channels, its positions from the front, from above and in space.

    Args:
        reached: bool (C,), as coloured squares; channel 0, the output, is darkest.
        ways: int (t, h, w), paths to each position.
        box: extents of the axes, (t, h, w).
        most: paths of the darkest colour; 0 for the most in each panel.
    """
    channels, front, above, space = panels
    rows = max(row for row in range(1, int(len(reached) ** 0.5) + 1) if len(reached) % row == 0)
    shade = reached.astype(int)
    shade[0] = 2
    channels.pcolormesh(shade.reshape(rows, -1), cmap=SHADES, vmin=0, vmax=2, edgecolors="white", lw=0.8)
    channels.set(xticks=[], yticks=[], aspect="equal")
    channels.invert_yaxis()
    channels.grid(False)
    t, h, w = (extent / 2 for extent in box)
    for axes, seen, height in ((front, ways.sum(0), h), (above, ways.sum(1), t)):
        mesh = _side(axes, seen, most or 1.1 * seen.max(), w, height)
    at = [place - extent // 2 for place, extent in zip(ways.nonzero(), ways.shape, strict=True)]
    shades = {"cmap": "Blues", "vmin": -0.4, "vmax": 1.2, "edgecolors": "0.25", "lw": 0.3}
    space.scatter(at[0], at[2], at[1], c=ways[ways.nonzero()] / ways.max(), marker="s", s=dot, **shades)
    space.set(xlim=(-t, t), ylim=(-w, w), zlim=(-h, h))
    space.view_init(22, -52)
    return mesh


def _side(axes: Axes, seen: np.ndarray, most: float, width: float, height: float) -> QuadMesh:
    """A field from one side, centred on 0, darkest at `most`; squares of 0 stay white. The axes reach both ways."""
    y, x = (np.arange(extent + 1) - extent / 2 for extent in seen.shape)
    axes.set_facecolor("white")
    style = {"cmap": "Blues", "vmin": -0.15 * most, "vmax": most, "edgecolors": "0.85", "lw": 0.3}
    mesh = axes.pcolormesh(x, y, np.where(seen > 0, seen, np.nan), **style)
    axes.set(aspect="equal", xlim=(-width, width), ylim=(-height, height))
    axes.grid(False)
    return mesh


# ---------------------------------------------------------------- exercises


@solved_by("""
def extent(num_dims, kernel):
    return num_dims * (kernel - 1) + 1  # to fill in
""")
def _check_2_1(answers: dict) -> str:
    extent = answers["extent"]
    for num_dims, kernel in ((1, 3), (2, 3), (4, 3), (2, 5), (3, 1)):
        expect(
            extent(num_dims, kernel), num_dims * (kernel - 1) + 1,
            {num_dims * kernel: f"K = {num_dims}, kernel {kernel}: K * kernel counts the middle {num_dims} times"},
            f"K = {num_dims}, kernel {kernel}: {num_dims * (kernel - 1) + 1} positions, your function says {{value}}",
        )  # fmt: skip
    return "Each sub-operation adds (kernel - 1) / 2 on either side; with 3 that is the paper's 2K + 1."


@solved_by("""
positions = 65  # to fill in
""")
def _check_2_2(answers: dict) -> str:
    expect(
        answers["positions"], 65,
        {
            45: "That is for kernels of 3 x 3 x 3: here the line has 5 frames",
            225: "That is the whole box, 9 x 5 x 5: a plane and a line do not fill it",
            26: "2 * 13: but the second sub-operation starts from each of the 13 positions of the first",
            169: "13 * 13 counts paths, and many end at the same position",
        },
        "Not {value}. Two planes give a plane (5 x 5), two lines a line; a plane and a line give a thick plane",
    )  # fmt: skip
    return "25 in the middle plane, 9 in each of the 4 planes beside it, 1 in each of the 4 beyond: 25 + 4 * 9 + 4 * 1."


@solved_by("""
def reached(steps, times):
    positions = {(0, 0, 0)}
    for _ in range(times):
        positions = {tuple(map(sum, zip(a, b))) for a in positions for b in steps}  # to fill in
    return positions
""")
def _check_2_3(answers: dict) -> str:
    reached = answers["reached"]
    plane = {(0, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    line = {(t, 0, 0) for t in (-1, 0, 1)}
    for steps in (line, plane | line):
        right = {(0, 0, 0)}
        for times in (1, 2, 3):
            right = {tuple(map(sum, zip(a, b, strict=True))) for a in right for b in steps}
            positions = set(plain(list(given(reached(steps, times)))))
            if (0, 0, 0) not in positions:
                raise NotYet("The output's own position is missing: begin with {(0, 0, 0)}")
            if positions == steps != right:
                raise NotYet(f"After {times} sub-operations you are where one led: continue from what was reached")
            which = f"{times} sub-operations of {len(steps)} steps"
            if len(positions) != len(right):
                raise NotYet(f"{which} reach {len(right)} positions, not {len(positions)}")
            if positions != right:
                raise NotYet(f"{which}: the number is right, but {min(positions - right)} is not reached")
    return "A sum of sets (a Minkowski sum). Counted with multiplicity, it is a convolution."


@solved_by("""
c3d = ["STC"]  # to fill in
r2plus1d = ["SC", "TC"]  # to fill in
csn = ["C", "ST"]  # to fill in
ct = ["STC", "STC"]  # to fill in
manner = {"C3D": c3d, "R(2+1)D": r2plus1d, "CSN": csn, "CT-Module": ct}
""")
def _check_2_4(answers: dict) -> str:
    right = {"C3D": ["STC"], "R(2+1)D": ["SC", "TC"], "CSN": ["C", "ST"], "CT-Module": ["STC", "STC"]}
    manners = given(answers["manner"])
    what = {"S": "pixels around", "T": "frames around", "C": "other channels"}
    for name, parts in right.items():
        if name not in manners:
            raise NotYet(f"{name} is not in `manner`")
        mine = given(manners[name])
        mine = [mine] if isinstance(mine, str) else list(mine)
        if len(mine) != len(parts):
            raise NotYet(f"{name} has {len(parts)} convolution(s) or sub-operations, you list {len(mine)}: {mine}")
        for number, (part, theirs) in enumerate(zip(mine, parts, strict=True), start=1):
            letters = {letter.upper() for letter in given(part)}
            if not letters <= what.keys():
                raise NotYet(f"{name}, part {number}: the letters are S, T and C, you have {part!r}")
            for letter, mixed in what.items():
                if letter in theirs and letter not in letters:
                    raise NotYet(f"{name}, part {number}: it mixes {mixed} too, {letter} is missing")
                if letter in letters and letter not in theirs:
                    raise NotYet(f"{name}, part {number}: it does not mix {mixed}, remove {letter}")
    return "Only the CT-Module has all three in every part, without the price of C3D."


@solved_by("""
kernels = ((5, 3, 3), (5, 3, 3))  # to fill in
""")
def _check_2_5(answers: dict) -> str:
    kernels = plain(given(answers["kernels"]))
    shaped = isinstance(kernels, tuple) and [isinstance(kernel, tuple) and len(kernel) for kernel in kernels] == [3, 3]
    if not shaped or any(k < 1 or k % 2 == 0 for kernel in kernels for k in kernel):
        raise NotYet(f"Needed are two kernels (t, h, w) of odd extents, got {kernels}")
    box = [1 + sum(kernel[axis] - 1 for kernel in kernels) for axis in range(3)]
    products = sum(64 * 8 * (h * w + t) for t, h, w in kernels)
    if box[0] < 9 or min(box[1:]) < 5:
        raise NotYet(f"The box is {by(box)}: needed are 9 frames and 5 x 5 pixels")
    if products > 14_400:
        raise NotYet(f"{products:,} products per position: more than 14,400. Frames cost t, pixels h * w")
    return f"{products:,} products per position. Time is the cheap direction: parallel adds t to h * w."
