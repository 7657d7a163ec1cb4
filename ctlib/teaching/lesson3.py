"""Lesson 3, Tensor Excitation: attention on a clip (explorer, figures, exercises)."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from ctlib.cost import eval_with_hooks
from ctlib.ct_module import CTModule, Parallel
from ctlib.excitation import TensorExcitation
from ctlib.teaching.exercise import NotYet, given, solved_by
from ctlib.teaching.shell import DARK, View, by, canvas, film, flow_arrow, flow_step
from ctlib.tensorize import TensorSeparableConv

GATES = ("spatial", "temporal", "channel")
POOLS = {(2,): "T-Pool: mean over T", (3, 4): "S-Pool: mean over H, W"}
Steps = list[tuple[str, tuple[int, ...]]]  # (what is done, the shape (C, T, H, W) of its output), in order

# ---------------------------------------------------------------- explorer


def excitation_flow(part: Parallel, features: torch.Tensor) -> dict[str, Steps]:
    """The steps of a sub-operation with Tensor Excitation, recorded while it runs: Eq. (5) to (8), Figure 4.

    The input of a convolution or gate is recognised by its values. X is the sub-operation's input, X^S and X^T are
    the outputs of its two convolutions, U and V those of the first two gates, and R = U + V.

    `features`, (N, C, T, H, W), are random, so that no two of these are equal.

    Returns:
        The steps of each branch ("spatial", "temporal", "channel"). The first two begin with the input of their
        convolution, the third with that of its gate. Each ends with its gate's product.
    """
    known, steps, hooks = {"X": features}, {branch: [] for branch in GATES}, {}

    def name_of(value: torch.Tensor) -> str:
        return next(name for name, other in known.items() if value.shape == other.shape and value.equal(other))

    for branch, letter, result in zip(GATES, ("S", "T", "PW"), ("U", "V", "X_k"), strict=True):
        gate, conv = getattr(part.excitation, branch), getattr(part, branch, None)  # the channel gate has none

        def record(layer, inputs, output, gate=gate, conv=conv, letter=letter, result=result, noted=steps[branch]):
            def note(value: torch.Tensor, *lines: str) -> None:
                noted.extend((text, tuple(value.shape[1:])) for text in lines)

            if layer is conv:
                known[f"X^{letter}"] = output
                note(inputs[0], f"${name_of(inputs[0])}$")
                note(output, f"$X^{letter}$: {_named(layer[0], letter)}, BN, ReLU")
            elif layer is gate:
                entered = name_of(inputs[0])
                if conv is None:
                    noted.insert(0, (f"${entered}$", tuple(inputs[0].shape[1:])))
                known[result] = output
                if {"U", "V"} <= known.keys():
                    known["R = U + V"] = known["U"] + known["V"]
                note(output, f"${result} = {entered.split(' ')[0]} \\otimes$ Sigmoid(...)")
            elif layer is gate.reduce:
                note(inputs[0], POOLS[gate.pooled])
                note(output, _named(layer, letter))
            else:
                note(output, *(["BN, ReLU"] if layer is gate.relu else [_named(layer, letter), "Sigmoid"]))

        hooks |= dict.fromkeys(filter(None, (conv, gate, gate.reduce, gate.relu, gate.expand)), record)
    with torch.no_grad(), eval_with_hooks(part, hooks):
        part(features)
    return steps


def _named(conv: TensorSeparableConv, letter: str) -> str:
    return f"{letter}-TSConv {by(conv.kernel_size)}, {conv.groups} groups"


@torch.no_grad()
def attention_maps(model: nn.Module, clips: torch.Tensor, module: CTModule) -> list[dict[str, torch.Tensor]]:
    """The gates of each sub-operation of a CT-Module, with Tensor Excitation, while its network runs on clips.

    Returns:
        For each sub-operation "spatial" (N, C, 1, H, W), "temporal" and "channel" (N, C, T, 1, 1), in (0, 1).
    """
    maps: list[dict[str, torch.Tensor]] = [{} for _ in module.sub_operations]
    hooks = {}
    for gates, part in zip(maps, module.sub_operations, strict=True):
        for branch in GATES:

            def record(gate, inputs, _output, branch=branch, gates=gates):
                gates[branch] = gate.attention(inputs[0])

            hooks[getattr(part.excitation, branch)] = record
    with eval_with_hooks(model, hooks):
        model(clips)
    return maps


def attention_over_time(frames: np.ndarray, gates: dict[str, torch.Tensor], channel: int = -1) -> View:
    """A clip and the gates of one sub-operation: the spatial one as a map, the others as curves over time.

    Args:
        frames: uint8 (T, H, W, 3).
        gates: of one clip and sub-operation: "spatial" (C, 1, h, w), "temporal" and "channel" (C, T, 1, 1).
        channel: whose gates to show; -1 for the mean of all.
    """
    count = len(gates["spatial"])
    if not -1 <= channel < count:
        raise ValueError(f"channel must be -1 (the mean) to {count - 1}, got {channel}")
    shown = {name: (gate.mean(0) if channel < 0 else gate[channel]).numpy() for name, gate in gates.items()}
    space, time, both = shown["spatial"][0], shown["temporal"][:, 0, 0], shown["channel"][:, 0, 0]
    which = f"mean of {count} channels" if channel < 0 else f"channel {channel}"
    ranges = {
        "spatial gate, over the map": space,
        "temporal gate, over the frames": time,
        "channel gate, over the frames": both,
    }
    numbers = {name: f"{values.min():.2f} to {values.max():.2f}" for name, values in ranges.items()}
    alt = (
        f"A clip of {len(frames)} frames; its spatial attention as a map, its temporal and channel attention over the "
        f"frames, {which}."
    )
    return View(attention(frames, space, time, both), {"shown": which} | numbers, alt)


# ---------------------------------------------------------------- figures


def excitation(branches: dict[str, Steps]) -> Figure:
    """A sub-operation with Tensor Excitation as a flow chart, from the steps of `excitation_flow`.

    Two branches lead down from one input; the third leads up from their sum. A line beside each branch takes the
    input of its gate to the product.
    """
    count = len(branches["spatial"]) + 1
    figure = canvas(11.4, 0.66 * count + 0.3, left=0.005, right=0.995, bottom=0.005, top=0.995)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 3.3), ylim=(0, count))
    axes.axis("off")
    top, bottom, half = count - 0.5, 0.5, 0.3  # rows are 1 apart; half the height of a box with its margin
    columns = {"spatial": (0.5, -1, -0.47), "temporal": (1.6, -1, -0.47), "channel": (2.75, 1, 0.42)}
    middle, into = (columns["spatial"][0] + columns["temporal"][0]) / 2, columns["channel"][0]
    flow_step(axes, middle, top, *branches["spatial"][0])
    for name, (x, way, beside) in columns.items():
        steps = branches[name] if way > 0 else branches[name][1:]  # two share one input
        first = bottom if way > 0 else top - 1
        for row, step in enumerate(steps):
            flow_step(axes, x, first + way * row, *step)
            if row:
                flow_arrow(axes, (x, first + way * (row - 1)), (x, first + way * (row - half)))
        last, side = first + way * (len(steps) - 1), x + beside
        flow_arrow(axes, (x, first), (side, first), (side, last), (x + (0.2 if beside > 0 else -0.2), last), color=DARK)
        axes.text(x, top, name, ha="center", va="center", weight="bold", fontsize=10)
        if way < 0:
            flow_arrow(axes, (middle, top), (middle, top - 0.5), (x, top - 0.5), (x, first + half))
            flow_arrow(axes, (x, last), (x, bottom), (into - 0.19, bottom))
    return figure


def attention(frames: np.ndarray, space: np.ndarray, time: np.ndarray, channel: np.ndarray) -> Figure:
    """Frames (T, H, W, 3) on top; below, the spatial gate (h, w) as a map and the others, (T,), over the frames."""
    figure = canvas(9.6, 4.6, left=0.04)
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.6), width_ratios=(1.15, 1, 1), hspace=0.32, wspace=0.34)
    top, below = figure.add_subplot(grid[0, :]), [figure.add_subplot(grid[1, column]) for column in range(3)]
    film(top, frames, "time runs from left to right")
    image = below[0].imshow(space, cmap="magma")
    figure.colorbar(image, ax=below[0], shrink=0.9)
    below[0].set(title="spatial gate, on its own scale", xticks=[], yticks=[])
    for axes, values, title in ((below[1], time, "temporal gate"), (below[2], channel, "channel gate")):
        axes.plot(range(1, len(values) + 1), values, "o-", color="C0")
        axes.set(title=title, xlabel="frame", ylabel="gate", ylim=(0, 1), xticks=range(1, len(values) + 1))
    below[0].grid(False)
    return figure


# ---------------------------------------------------------------- exercises


@solved_by("""
spatial = (8, 1, 6, 6)  # to fill in
temporal = (8, 4, 1, 1)  # to fill in
channel = (8, 4, 1, 1)  # to fill in
squeeze = (8, 1, 1, 1)  # to fill in
shapes = {"spatial": spatial, "temporal": temporal, "channel": channel, "SE": squeeze}
""")
def _check_3_1(answers: dict) -> str:
    right = {"spatial": (8, 1, 6, 6), "temporal": (8, 4, 1, 1), "channel": (8, 4, 1, 1), "SE": (8, 1, 1, 1)}
    shapes = given(answers["shapes"])
    for gate, shape in right.items():
        mine = tuple(given(given(shapes[gate])))
        if len(mine) != 4:
            raise NotYet(f"{gate}: a shape is (C, T, H, W), four numbers, got {mine}")
        for axis, got, needed in zip(("C", "T", "H", "W"), mine, shape, strict=True):
            if got != needed:
                why = "averaged over, so 1 is left" if needed == 1 else "unchanged"
                raise NotYet(f"{gate}: {axis} is {why}; you have {got}")
    return "The channel gate keeps time: the paper's S-Pool averages over H and W only. SE keeps C alone."


@solved_by("""
def spatial_gate(x, attend):
    return x * attend(x.mean(2, keepdim=True)).sigmoid()  # to fill in
""")
def _check_3_2(answers: dict) -> str:
    torch.manual_seed(0)
    gate, x = answers["spatial_gate"], torch.rand(2, 4, 3, 5, 5)
    seen = []

    def attend(pooled):
        seen.append(pooled.clone())
        return pooled - 0.5

    result = given(gate(x.clone(), attend))  # a copy: writing in place is allowed
    if not seen:
        raise NotYet("`attend` (the two convolutions) is never called")
    got, pooled = tuple(seen[0].shape), x.mean(2, keepdim=True)
    if got == tuple(x.shape):
        raise NotYet("`attend` got the whole clip: pool over time first, axis 2 of (N, C, T, H, W)")
    if got != (2, 4, 1, 5, 5):
        raise NotYet(f"`attend` got {got}, needed (2, 4, 1, 5, 5): T-Pool averages axis 2 and keeps it as 1")
    if torch.allclose(seen[0], pooled.sigmoid()):
        raise NotYet("The sigmoid is inside `attend`: apply it to the output of the convolutions, not to their input")
    if not torch.allclose(seen[0], pooled):
        raise NotYet("`attend` got the right shape, but not the mean over time: T-Pool is an average")
    if result.shape == pooled.shape:
        raise NotYet("That is the attention alone: it multiplies the features")
    if torch.allclose(result, x * (pooled - 0.5)):
        raise NotYet("The sigmoid is missing: a gate lies between 0 and 1")
    if result.shape != x.shape or not torch.allclose(result, x * (pooled - 0.5).sigmoid()):
        raise NotYet("Not x * sigmoid(attend(T-Pool(x))): compare with Eq. (6)")
    return "Eq. (6); broadcasting applies the one map to all frames."


@solved_by("""
blind = ["order of frames", "position in the map", "position in the map"]  # to fill in
""")
def _check_3_3(answers: dict) -> str:
    mine = [str(given(part)).strip().lower() for part in given(answers["blind"])]
    right = {"spatial": "order of frames", "temporal": "position in the map", "channel": "position in the map"}
    if len(mine) != 3:
        raise NotYet(f"Give three answers, for the spatial, temporal and channel gate; you give {len(mine)}")
    for (gate, blind), answer in zip(right.items(), mine, strict=True):
        if answer not in right.values():
            raise NotYet(f"The {gate} gate: {answer!r} is neither 'order of frames' nor 'position in the map'")
        if answer != blind:
            raise NotYet(f"The {gate} gate averages over {'T' if gate == 'spatial' else 'H and W'}: what is lost then?")
    return "An average hides the order of what it averages. The experiment below tests the gates themselves."


@solved_by("""
def unseen(x):
    return x + torch.linspace(-1, 1, x.shape[2])[:, None, None] * torch.linspace(-1, 1, x.shape[4])  # to fill in
""")
def _check_3_4(answers: dict) -> str:
    torch.manual_seed(0)
    x, tested = torch.rand(2, 8, 6, 5, 5), TensorExcitation(8, size=4).eval()
    changed = given(answers["unseen"](x.clone()))
    if not isinstance(changed, torch.Tensor) or changed.shape != x.shape:
        raise NotYet(f"Features of the same shape are needed, (N, C, T, H, W) = {tuple(x.shape)}")
    if (changed - x).abs().max() < 0.01:
        raise NotYet("Nothing has changed: the gates must miss a change that is really made")
    means = {"spatial": "for every pixel the mean over T", "temporal": "for every frame the mean over H, W"}
    for name, mean in means.items():
        gate = getattr(tested, name)
        with torch.no_grad():
            if not torch.allclose(gate.attention(x), gate.attention(changed), atol=1e-5):
                raise NotYet(f"The {name} gate sees it: {mean} must not change")
    return (
        "Neither pooling sees it, so no gate does. A moving pattern can be such a change. Only the convolutions "
        "before the gates can see it."
    )
