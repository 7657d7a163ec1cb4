"""What moves in the teaching notebooks 3 and 5: attention on a clip, and a clip's frames in any order.

Pure functions to a `View`, as in `explorers`, whose shell shows them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from ctlib.config import check_choice
from ctlib.data.transforms import to_pixels
from ctlib.teaching import figures
from ctlib.teaching.explorers import View
from ctlib.tensorize import TensorSeparableConv

# ---------------------------------------------------------------- 3: attention


def excitation_flow(excitation: nn.Module, features: torch.Tensor) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """What happens in each branch of a Tensor Excitation, as the module itself does it: Figure 4.

    Args:
        excitation: `excitation.TensorExcitation`.
        features: (N, C, T, H, W).

    Returns:
        Branch -> (what is done, the shape (C, T, H, W) that comes out), in order.
    """
    found = {}
    for branch in ("spatial", "temporal", "channel"):
        gate = getattr(excitation, branch)
        steps = [("features X", tuple(features.shape[1:]))]

        def note(layer, inputs, output, gate=gate, steps=steps):
            if layer is gate.reduce:
                pooled = " ".join("NCTHW"[axis] for axis in gate.pooled)
                steps.append((f"mean over {pooled}", tuple(inputs[0].shape[1:])))
            if isinstance(layer, TensorSeparableConv):
                kernel = " x ".join(map(str, layer.kernel_size))
                steps.append((f"TSConv {kernel}, {layer.groups} groups", tuple(output.shape[1:])))
            else:
                steps.append(("BN" if layer is gate.bn else "ReLU", tuple(output.shape[1:])))

        hooks = [layer.register_forward_hook(note) for layer in (gate.reduce, gate.bn, gate.relu, gate.expand)]
        modes = [(layer, layer.training) for layer in gate.modules()]
        try:
            with torch.no_grad():
                attention = gate.eval().attention(features)
        finally:
            for hook in hooks:
                hook.remove()
            for layer, mode in modes:
                layer.training = mode
        found[branch] = [*steps, ("sigmoid", tuple(attention.shape[1:])), ("X times it", tuple(features.shape[1:]))]
    return found


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
    hooks = []
    for found, part in zip(maps, module.sub_operations, strict=True):
        for branch in ("spatial", "temporal", "channel"):

            def keep(gate, inputs, branch=branch, found=found):
                found[branch] = gate.attention(inputs[0])

            hooks.append(getattr(part.excitation, branch).register_forward_pre_hook(keep))
    mode = model.training
    try:
        model.eval()(clips)
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
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
    figure = figures.attention(frames, space, time, both)
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


def order_of(order: str, num_frames: int, seed: int = 0) -> np.ndarray:
    """The indices of the frames of a clip, shown in one of `ORDERS`. int64 (T,)."""
    check_choice("order", order, ORDERS)
    indices = np.arange(num_frames)
    if order == "backwards":
        return indices[::-1].copy()
    if order == "shuffled":
        return np.random.default_rng(seed).permutation(num_frames)
    return indices if order == "forwards" else np.full(num_frames, num_frames // 2)


def browse(
    clips: torch.Tensor,
    truths: Sequence[str],
    index: int,
    order: str,
    networks: dict[str, Callable],
    classes: Sequence[str],
) -> View:
    """A clip with its frames in some order, and what networks say of it.

    Args:
        clips: (n, 3, T, H, W), normalised.
        truths: the class of each, shown forwards.
        index: of the clip.
        order: one of `ORDERS`.
        networks: name -> function from (1, 3, T, H, W) to logits.
        classes: names in label order.
    """
    clip = clips[index][:, order_of(order, clips.shape[2])]
    said = {}
    for name, network in networks.items():
        share = network(clip[None]).softmax(1)[0]
        said[f"{name} says"] = f"{classes[int(share.argmax())]} ({100 * share.max():.0f} %)"
    figure = figures.strip(to_pixels(clip), f"{truths[index]}, {order}")
    alt = f"The {clip.shape[1]} frames of a clip, {order}: {truths[index]}."
    return View(figure, {"clip": f"{index}: {truths[index]}", "order": order} | said, alt)
