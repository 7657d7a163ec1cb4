"""Lesson 2, interaction: which channels and positions reach one output (explorers, figures, exercises)."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.signal import convolve
from torch import nn

from ctlib import cost
from ctlib.config import check_choice
from ctlib.ct_module import CONNECTIONS, SPECIAL_CASES, Kernel
from ctlib.display.parameters import one_line_errors
from ctlib.teaching import shell
from ctlib.teaching.exercise import NotYet, expect, given, plain, solved_by
from ctlib.teaching.lesson1 import reached_channels
from ctlib.teaching.shell import DARK, PALE, PIXEL, SHADES, WIDEST, Explorer, View, by, canvas, draw_block
from ctlib.tensorize import factor, resolve_dims


def check_parameters(channels: int, most: int, seeds: int) -> None:
    """Stop the notebook, with one line, for parameters that it cannot run with."""
    with one_line_errors():
        shell.check_minimum(channels=(channels, 4), most=(most, 2), seeds=(seeds, 1))
        if factor(channels, most)[-1] == 1:
            raise ValueError(f"channels must split into {most} sizes above 1, got {channels}: {factor(channels, most)}")


# ---------------------------------------------------------------- explorer


def paths(kernels: tuple[Kernel, ...], connection: str = "parallel") -> np.ndarray:
    """How many paths lead from each input position to one output: int64 (t, h, w), the bounding box of the field.

    A parallel sub-operation has a plane of h x w and a line of t, which meet in the middle (two paths). Coupling and
    serial ones have one path from each of t x h x w positions. Successive steps convolve.
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
    """Which channels and positions reach one output after some of K sub-operations with kernels (t, h, w).

    K and the connection belong to the CT-Module; the others of `MODULES` ignore them. An `after` above K counts as K.
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
    figure = field(ways, box, reached, f"{name}: after {after} of {len(dims)}")
    numbers = {
        f"channels after {after} of {len(dims)}": f"{reached.sum()} of {channels}",
        "box (t x h x w)": by(ways.shape),
        "positions inside it": f"{positions} of {ways.size}",
        "paths through the centre": f"{100 * middle / ways.sum():.1f} % of {ways.sum():,}",
    }
    alt = (
        f"Interact field of {name}, after {after} of {len(dims)}: {reached.sum()} of {channels} channels, and "
        f"{positions} of the {ways.size} positions of a box of {by(ways.shape)}, drawn frame by frame."
    )
    return View(figure, numbers, alt)


def opening() -> Explorer:
    """The explorer of `interaction`."""

    def explored(module: str, connection: str, c: int, k: int, done: int, t: int, hw: int) -> View:
        return interaction(k, done, (t, hw, hw), connection, c, module)

    return Explorer(
        explored,
        play="done",
        module=ipywidgets.ToggleButtons(options=list(MODULES)),
        connection=ipywidgets.ToggleButtons(options=list(CONNECTIONS), value="parallel"),
        c=ipywidgets.SelectionSlider(options=[16, 64, 128, 256], value=64, description="C"),
        k=ipywidgets.IntSlider(2, 1, 4, description="K"),
        done=ipywidgets.IntSlider(1, 0, 4, description="steps done"),
        t=ipywidgets.SelectionSlider(options=[1, 3, 5], value=3, description="kernel t"),
        hw=ipywidgets.SelectionSlider(options=[1, 3, 5], value=3, description="kernel h = w"),
    )


def manner(part: nn.Module, channels: int = 16) -> str:
    """The "interact manner" of Table 1, measured: S for pixels around the output, T for frames, C for channels."""
    field = cost.interact_field(part, channels=channels)
    t, h, w = field.box
    reached = {"S": max(h, w) > 1, "T": t > 1, "C": field.channels > 1}
    return "".join(letter for letter in reached if reached[letter])


# ---------------------------------------------------------------- figures


def field(ways: np.ndarray, box: tuple[int, int, int], reached: np.ndarray, title: str) -> Figure:
    """The channels that are `reached`, bool (C,), beside the positions, from `paths`, in a block of `box` (t, h, w)."""
    figure = canvas(WIDEST, 3.4, left=0.01, right=0.99, bottom=0.06, top=0.84, wspace=0.06)
    figure.suptitle(f"{title} (darker: more paths)", fontsize="medium")
    channels, positions = figure.subplots(1, 2, width_ratios=(1, 2.1))
    rows = max(row for row in range(1, int(len(reached) ** 0.5) + 1) if len(reached) % row == 0)
    shade = reached.astype(int)
    shade[0] = 2
    channels.pcolormesh(shade.reshape(rows, -1), cmap=SHADES, vmin=0, vmax=2, edgecolors="white", lw=0.8)
    channels.set(xticks=[], yticks=[], aspect="equal", xlabel=f"{reached.sum()} of {len(reached)} channels")
    channels.invert_yaxis()
    channels.grid(False)
    margins = [((whole - inner) // 2,) * 2 for whole, inner in zip(box, ways.shape, strict=True)]
    share = np.pad(ways / ways.max(), margins) ** 0.4  # else one path beside many were white
    blues = plt.get_cmap("Blues").with_extremes(under=PALE)
    step, long, high = draw_block(positions, share, (0, 0), DARK, cmap=blues, vmin=1e-9, vmax=1.1)
    for number in range(0, box[0], 1 if box[0] <= 9 else 2):
        label = f"{number - box[0] // 2:+d}" if number != box[0] // 2 else "0"
        positions.text(box[2] * PIXEL[0] / 2 + number * step, -0.3 - 0.34 * number, label, ha="center", va="top")
    positions.set(xlim=(-0.2, long + 0.2), ylim=(box[1] + box[2] * PIXEL[1] + 0.2 - high - 1.2, None), aspect="equal")
    positions.axis("off")
    count = int((ways > 0).sum())
    title = f"{count} position{'s' * (count > 1)} in frames {-(box[0] // 2)} to {box[0] // 2}"
    positions.set_title(title, fontsize="medium")
    return figure


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
