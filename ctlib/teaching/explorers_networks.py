"""What moves in the teaching notebooks 3 and 5: attention on a clip, and a clip's frames in any order.

Pure functions to a `View`, as in `explorers`, whose shell shows them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ctlib.config import check_choice
from ctlib.cost import eval_with_hooks
from ctlib.ct_module import Parallel
from ctlib.data.transforms import to_pixels
from ctlib.teaching import figures_networks
from ctlib.teaching.explorers import View
from ctlib.tensorize import TensorSeparableConv

# ---------------------------------------------------------------- 3: attention


GATES = ("spatial", "temporal", "channel")
POOLS = {(2,): "T-Pool: mean over T", (3, 4): "S-Pool: mean over H, W"}
Steps = list[tuple[str, tuple[int, ...]]]  # (what is done, the shape (C, T, H, W) that comes out), in order


def excitation_flow(part: Parallel, features: torch.Tensor) -> dict[str, Steps]:
    """What happens in a sub-operation with Tensor Excitation, noted as it runs: Eq. (5) to (8), Figure 4.

    What enters a convolution or a gate is known by its values, not by where it should come from: X is the
    sub-operation's input, X^S and X^T are what its two convolutions put out, U and V what the first two gates make
    of them, and R is U + V.

    Args:
        part: the sub-operation; it is left as it was.
        features: (N, C, T, H, W), at random, so that no two of these are alike.

    Returns:
        Branch ("spatial", "temporal", "channel") -> its steps. The first two begin with what their convolution takes,
        the third with what its gate takes; each ends with its gate's product.
    """
    known, steps, hooks = {"X": features}, {branch: [] for branch in GATES}, {}

    def name_of(value: torch.Tensor) -> str:
        return next(name for name, other in known.items() if value.shape == other.shape and value.equal(other))

    for branch, letter, result in zip(GATES, ("S", "T", "PW"), ("U", "V", "X_k"), strict=True):
        gate = getattr(part.excitation, branch)

        def note(what: str, value: torch.Tensor, noted=steps[branch]) -> None:
            noted.append((what, tuple(value.shape[1:])))

        def named(conv: TensorSeparableConv, letter=letter) -> str:
            return f"{letter}-TSConv {' x '.join(map(str, conv.kernel_size))}, {conv.groups} groups"

        def convolved(layers, inputs, output, note=note, named=named, letter=letter):
            note(f"${name_of(inputs[0])}$", inputs[0])
            known[f"X^{letter}"] = output
            note(f"$X^{letter}$: {named(layers[0])}, BN, ReLU", output)

        def reduced(conv, inputs, output, note=note, named=named, pool=POOLS[gate.pooled]):
            note(pool, inputs[0])
            note(named(conv), output)

        def expanded(conv, _inputs, output, note=note, named=named):
            note(named(conv), output)
            note("Sigmoid", output)

        def gated(_gate, inputs, output, note=note, result=result, noted=steps[branch]):
            entered = name_of(inputs[0])
            if noted[0][0] in POOLS.values():  # no convolution of its own before it
                noted.insert(0, (f"${entered}$", tuple(inputs[0].shape[1:])))
            known[result] = output
            if {"U", "V"} <= known.keys():
                known["R = U + V"] = known["U"] + known["V"]
            note(f"${result} = {entered.split(' ')[0]} \\otimes$ Sigmoid(...)", output)

        if branch != "channel":
            hooks[getattr(part, branch)] = convolved
        hooks |= {gate.reduce: reduced, gate.relu: lambda _relu, _inputs, output, note=note: note("BN, ReLU", output)}
        hooks |= {gate.expand: expanded, gate: gated}
    with torch.no_grad(), eval_with_hooks(part, hooks):
        part(features)
    return steps


@torch.no_grad()
def attention_maps(model: nn.Module, clips: torch.Tensor, module: nn.Module) -> list[dict[str, torch.Tensor]]:
    """The three gates of each sub-operation of a CT-Module, as its network runs on clips; it is left as it was.

    Args:
        model: takes (N, 3, T, H, W).
        clips: such.
        module: the `CTModule` of one of its blocks, with Tensor Excitation.

    Returns:
        For each sub-operation: "spatial" (N, C, 1, H, W), "temporal" and "channel" (N, C, T, 1, 1), in (0, 1).
    """
    maps: list[dict[str, torch.Tensor]] = [{} for _ in module.sub_operations]
    hooks = {}
    for found, part in zip(maps, module.sub_operations, strict=True):
        for branch in GATES:

            def keep(gate, inputs, _output, branch=branch, found=found):
                found[branch] = gate.attention(inputs[0])

            hooks[getattr(part.excitation, branch)] = keep
    with eval_with_hooks(model, hooks):
        model(clips)
    return maps


def attention_over_time(frames: np.ndarray, gates: dict[str, torch.Tensor], channel: int = -1) -> View:
    """A clip and what a sub-operation's gates make of it: the map, and the two curves over time.

    Args:
        frames: uint8 (T, H, W, 3).
        gates: of one clip and sub-operation: "spatial" (C, 1, h, w), "temporal" and "channel" (C, T, 1, 1).
        channel: which channel's gates; -1: the mean of all.
    """
    count = len(gates["spatial"])
    if not -1 <= channel < count:
        raise ValueError(f"channel must be -1 (the mean) to {count - 1}, got {channel}")
    shown = {name: (gate.mean(0) if channel < 0 else gate[channel]).numpy() for name, gate in gates.items()}
    space, time, both = shown["spatial"][0], shown["temporal"][:, 0, 0], shown["channel"][:, 0, 0]
    figure = figures_networks.attention(frames, space, time, both)
    which = f"mean of {count} channels" if channel < 0 else f"channel {channel}"
    numbers = {
        name: f"{values.min():.2f} to {values.max():.2f}"
        for name, values in (
            ("spatial gate, over the map", space),
            ("temporal gate, over the frames", time),
            ("channel gate, over the frames", both),
        )
    }
    alt = (
        f"A clip of {len(frames)} frames; its spatial attention as a map, its temporal and channel attention over the "
        f"frames, {which}."
    )
    return View(figure, {"shown": which} | numbers, alt)


# ---------------------------------------------------------------- 5: clips in any order

ORDERS = ("forwards", "backwards", "shuffled", "one frame, repeated")


def order_of(order: str, num_frames: int, index: int = 0, seed: int = 0) -> np.ndarray:
    """Which frames to show of a clip, and in which order.

    Clip 2i + 1 is clip 2i backwards. Shuffled, a pair has one random permutation, and the reverse its mirror image; of
    one frame, the reverse has the mirrored one. So in these two orders a clip and its reverse are the same input.

    Args:
        order: one of `ORDERS`.
        num_frames: T.
        index: of the clip.
        seed: of the permutations.

    Returns:
        int64 (T,), from 0.
    """
    check_choice("order", order, ORDERS)
    if order == "shuffled":
        chosen = np.random.default_rng((seed, index // 2)).permutation(num_frames)
    elif order == "one frame, repeated":
        chosen = np.full(num_frames, num_frames // 2)
    else:
        return np.arange(num_frames)[:: 1 if order == "forwards" else -1].copy()
    return num_frames - 1 - chosen if index % 2 else chosen


def in_order(clips: torch.Tensor, order: str, seed: int = 0) -> torch.Tensor:
    """Clips in mirrored pairs, (n, 3, T, H, W), their frames as `order_of` has them; the same shape."""
    return torch.stack([clip[:, order_of(order, clips.shape[2], index, seed)] for index, clip in enumerate(clips)])


def browse(
    clips: torch.Tensor,
    truths: Sequence[str],
    index: int,
    order: str,
    scores: dict[str, torch.Tensor],
    classes: Sequence[str],
) -> View:
    """A clip with its frames in some order, and what networks say of it. Nothing is computed, so it follows the hand.

    Args:
        clips: (n, 3, T, H, W), normalised, in mirrored pairs.
        truths: the class of each, shown forwards.
        index: of the clip.
        order: one of `ORDERS`.
        scores: name of a network -> (n, num_classes), what it says of the clips in this order (`in_order`, seed 0).
        classes: names in label order.
    """
    said = {}
    for name, found in scores.items():
        share = found[index].softmax(0)
        said[f"{name} says"] = f"{classes[int(share.argmax())]} ({100 * share.max():.0f} %)"
    clip = clips[index][:, order_of(order, clips.shape[2], index)]
    figure = figures_networks.strip(to_pixels(clip), f"{truths[index]}, {order}")
    alt = f"The {clip.shape[1]} frames of a clip, {order}: {truths[index]}."
    return View(figure, {"clip": f"{index}: {truths[index]}", "order": order} | said, alt)
