"""Lesson 3, Tensor Excitation: attention on a clip (explorer, figures, exercises)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from ctlib.config import check_choice
from ctlib.cost import eval_with_hooks
from ctlib.ct_module import Parallel
from ctlib.excitation import TensorExcitation
from ctlib.teaching.exercise import NotYet, given, solved_by
from ctlib.teaching.shell import DARK, WIDEST, View, by, canvas, flow_arrow, flow_step
from ctlib.tensorize import TensorSeparableConv

GATES = ("spatial", "temporal", "channel")
POOLS = {(2,): "T-Pool: mean over T", (3, 4): "S-Pool: mean over H, W"}
Steps = list[tuple[str, tuple[int, ...]]]  # (what is done, the shape (C, T, H, W) of its output), in order

# ---------------------------------------------------------------- explorer


def excitation_flow(part: Parallel, features: tuple[int, int, int, int]) -> dict[str, Steps]:
    """The steps of each of `GATES` in a sub-operation on `features` (C, T, H, W): Eq. (5) to (8), Figure 4.

    X is the input, X^S and X^T come from the two convolutions, U and V from the first two gates, and R = U + V.
    """
    flow, (_, t, h, w) = {}, features
    for branch, letter, result in zip(GATES, ("S", "T", "PW"), ("U", "V", "X_k"), strict=True):
        gate, conv = getattr(part.excitation, branch), getattr(part, branch, [None])[0]  # the channel gate has none
        extents = (1, h, w) if gate.pooled == (2,) else (t, 1, 1)
        full, inner = (gate.expand.out_channels, t, h, w), (gate.reduce.out_channels, *extents)
        pooled = (full[0], *extents)
        entering, source = [("$R = U + V$", full)], "R"
        if conv is not None:
            source = f"X^{letter}"
            entering = [("$X$", features), (f"${source}$: {_named(conv, letter)}, BN, ReLU", full)]
        attending = [(POOLS[gate.pooled], pooled), (_named(gate.reduce, letter), inner), ("BN, ReLU", inner)]
        attending += [(_named(gate.expand, letter), pooled), ("Sigmoid", pooled)]
        flow[branch] = [*entering, *attending, (f"${result} = {source} \\otimes$ Sigmoid(...)", full)]
    return flow


def _named(conv: TensorSeparableConv, letter: str) -> str:
    return f"{letter}-TSConv {by(conv.kernel_size)}, {conv.groups} groups"


# ---------------------------------------------------------------- a task that needs a gate

COLOURS = ("red", "green", "blue")
FILMS = 2  # C_2 of the input; C_1 is the colours
WIDTH = 8  # C_1 of the output
SHAPE = (8, 6, 6)  # T, H, W
FREE, PRICE = 0.4, 0.2


class Films(NamedTuple):
    """Two films of one square each, which jumps and changes colour and brightness. A bar lights up in one frame of one.

    Which colour has the square then? Every film shows every colour in two of its frames 2 to 7. The bar and the square
    are too far apart for one 3 x 3 kernel.
    """

    clips: torch.Tensor  # float (n, 6, 8, 6, 6): channel 3 f + c has colour c of film f
    labels: torch.Tensor  # int64 (n,), indices into `COLOURS`
    film: torch.Tensor  # int64 (n,): where the bar is
    frame: torch.Tensor


def films(count: int, generator: torch.Generator) -> Films:
    """Draw `count` pairs of films."""
    twice = torch.arange(len(COLOURS)).repeat(2)
    colours = twice[torch.rand(count, FILMS, len(twice), generator=generator).argsort(-1)]
    film = torch.randint(0, FILMS, (count,), generator=generator)
    frame = torch.randint(1, 1 + len(twice), (count,), generator=generator)
    top = torch.randint(3, SHAPE[1] - 1, colours.shape, generator=generator)
    left = torch.randint(0, SHAPE[2] - 1, colours.shape, generator=generator)
    clips = torch.zeros(count, FILMS, len(COLOURS), *SHAPE)
    clip, which, time = torch.meshgrid(*map(torch.arange, colours.shape), indexing="ij")
    bright = torch.empty(colours.shape).uniform_(0.3, 1, generator=generator)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        clips[clip, which, colours, time + 1, top + down, left + right] = bright
    each = torch.arange(count)
    clips[each, film, :, frame, 0] = 1
    return Films(clips.flatten(1, 2), colours[each, film, frame - 1], film, frame)


def bar_moved(drawn: Films) -> Films:
    """The same films with the bar one frame later (after frame 7 in frame 2), and the answers to that question."""
    clips, each = drawn.clips.clone(), torch.arange(len(drawn.labels))
    clips[:, :, 1:7, 0] = clips[:, :, 1:7, 0].roll(1, 2)
    frame = drawn.frame % 6 + 1
    square = clips.unflatten(1, (FILMS, -1))[each, drawn.film, :, frame, 1:]
    return Films(clips, square.sum((2, 3)).argmax(1), drawn.film, frame)


class Held(nn.Module):
    """A gate held at 0.5."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


class Watcher(nn.Module):
    """One parallel sub-operation along the colours, the mean over frames and pixels, and a linear layer.

    `excitation` is a name of `excitation.EXCITATIONS`. The gates of Tensor Excitation in `held` are held at 0.5.
    """

    def __init__(self, excitation: str = "te", held: Sequence[str] = ()):
        super().__init__()
        self.part = Parallel(FILMS * len(COLOURS), len(COLOURS), (3, 3, 3), excitation, FILMS * WIDTH)
        for gate in held:
            setattr(self.part.excitation, gate, Held())
        self.head = nn.Linear(FILMS * WIDTH, len(COLOURS))
        self.gates: dict[str, torch.Tensor] = {}  # those of the last pass that are not held
        for name in GATES:
            if last := getattr(getattr(self.part.excitation, name), "expand", None):
                last.register_forward_hook(lambda *passed, name=name: self.gates.update({name: passed[2].sigmoid()}))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.head(self.part(clips).mean((2, 3, 4)))


class Snapshot(NamedTuple):  # of a network in training, on films that it was not trained on
    step: int
    gates: dict[str, torch.Tensor]  # "temporal" and "channel" gate of each pair of films, (n, C, T)
    scores: torch.Tensor  # (n, 3)

    def accuracy(self, labels: torch.Tensor) -> float:
        """In percent."""
        return 100 * (self.scores.argmax(1) == labels).double().mean().item()


def learn(network: Watcher, test: Films, steps: int, seed: int = 0, every: int = 25) -> list[Snapshot]:
    """Train on newly drawn films, 32 pairs in each step, with Adam and one cycle of the learning rate.

    After `FREE` of the steps an open gate costs `PRICE`, so that gates close where the task does not need them. There
    is a snapshot of the network before the training, and one after every `every` steps.
    """
    generator, rate = torch.Generator().manual_seed(seed), 0.1
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, cycle_momentum=False)
    snapshots = [snapshot(network, test, 0)]
    for step in range(1, steps + 1):
        drawn = films(32, generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(drawn.clips), drawn.labels)
        if step > FREE * steps:
            loss = loss + PRICE * sum(gate.mean() for gate in network.gates.values())
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 20)
        optimizer.step()
        schedule.step()
        if step % every == 0:
            snapshots.append(snapshot(network, test, step))
    return snapshots


@torch.no_grad()
def snapshot(network: Watcher, test: Films, step: int) -> Snapshot:
    """The network's scores and gates on `test`, in evaluation mode; its mode is restored."""
    with eval_with_hooks(network):
        scores = network(test.clips)
    gates, size = {}, (len(scores), FILMS * WIDTH, SHAPE[0])
    for name in ("temporal", "channel"):
        gate = network.gates.get(name, torch.full((1, 1, 1), 0.5))
        gates[name] = gate.view(*gate.shape[:2], -1).expand(size)
    return Snapshot(step, gates, scores)


def opening(gate: torch.Tensor, test: Films) -> dict[str, float]:
    """The mean of a gate, (n, C, T): where the bar is lit, in the other film then, and in all other frames."""
    of_film = gate.unflatten(1, (FILMS, -1)).mean(2)
    lit = F.one_hot(test.frame, SHAPE[0]).bool()[:, None].expand_as(of_film)
    own = F.one_hot(test.film, FILMS).bool()[..., None].expand_as(of_film)
    where = {"the bar's film and frame": lit & own, "the other film, that frame": lit & ~own, "other frames": ~lit}
    return {name: of_film[place].mean().item() for name, place in where.items()}


def watched(test: Films, index: int, taken: Snapshot, gate: str) -> View:
    """Pair `index` of films, and their "temporal" or "channel" gate of every channel, at some step of a training."""
    check_choice("gate", gate, taken.gates)
    film, frame, answer = int(test.film[index]), int(test.frame[index]), COLOURS[test.labels[index]]
    predicted = COLOURS[taken.scores[index].argmax()]
    values = taken.gates[gate][index]
    own = values.unflatten(0, (FILMS, -1))[film]
    numbers = {
        "the bar is lit in": f"film {film + 1}, frame {frame + 1}",
        "the square is then": answer,
        "the network says": f"{predicted} ({'right' if predicted == answer else 'WRONG'})",
        f"accuracy on {len(test.labels)} pairs": f"{taken.accuracy(test.labels):.1f} %",
        "mean gate of that film: at the bar": f"{own[:, frame].mean():.2f}",
        "in its other frames": f"{(own.sum() - own[:, frame].sum()) / (own.numel() - len(own)):.2f}",
    }
    alt = f"Two films, each above the {gate} gate of its {WIDTH} channels by frame, after {taken.step} steps. "
    alt += f"The bar is lit in film {film + 1}, frame {frame + 1}."
    return View(films_and_gates(test.clips[index], values, film, frame, f"{gate} gate"), numbers, alt)


# ---------------------------------------------------------------- figures


def excitation(branches: dict[str, Steps]) -> Figure:
    """The steps of `excitation_flow`: two branches lead down from one input, the third leads up from their sum."""
    count = len(branches["spatial"]) + 1
    figure = canvas(9.8, 0.66 * count + 0.3, left=0.005, right=0.995, bottom=0.005, top=0.995)
    axes = figure.add_subplot()
    axes.set(xlim=(-0.05, 3.28), ylim=(0, count))
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


def films_and_gates(clip: torch.Tensor, gate: torch.Tensor, film: int, frame: int, label: str) -> Figure:
    """Each film, from `clip` (6, T, H, W), above the gate of its channels, from (C, T); the bar's frame is outlined."""
    figure = canvas(WIDEST, 3.8, left=0.13, right=0.86, bottom=0.135, top=0.98, hspace=0.12)
    panels = figure.subplots(2 * FILMS, 1, height_ratios=(1.1, 2) * FILMS, sharex=True)
    pictures = clip.numpy().reshape(FILMS, -1, *SHAPE).transpose(0, 2, 3, 4, 1)
    gates = gate.numpy().reshape(FILMS, WIDTH, -1)
    middles, colours = np.arange(1, SHAPE[0] + 1), {"cmap": "cividis", "vmin": 0, "vmax": 1, "ec": "white", "lw": 0.4}
    for number, (above, below) in enumerate(panels.reshape(FILMS, 2)):
        for time, picture in zip(middles, pictures[number], strict=True):
            above.imshow(picture, extent=(time - 0.46, time + 0.46, 0, 1), aspect="auto")
        shown = below.pcolormesh(np.arange(SHAPE[0] + 1) + 0.5, np.arange(WIDTH + 1), gates[number], **colours)
        above.set(yticks=[], ylim=(0, 1), xlim=(0.5, SHAPE[0] + 0.5))
        above.set_ylabel(f"film {number + 1}", rotation=0, ha="right", va="center")
        below.set(yticks=[], ylabel="channels", xticks=middles)
        for axes in (above, below):
            axes.grid(False)
            if number == film:
                axes.axvspan(frame + 0.52, frame + 1.48, fill=False, ec="tab:orange", lw=3, clip_on=False, zorder=3)
    panels[-1].set_xlabel("frame")
    figure.colorbar(shown, cax=figure.add_axes((0.88, 0.135, 0.02, 0.845)), label=label)
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
    return "No gate sees it. A moving pattern can be such a change: only the convolutions before the gates can see it."
