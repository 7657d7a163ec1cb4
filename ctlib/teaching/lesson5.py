"""Lesson 5, the arrow of time: clips with their frames in any order (explorer, figures, exercises)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ctlib.config import check_choice
from ctlib.data.transforms import to_pixels
from ctlib.teaching.exercise import NotYet, expect, given, solved_by
from ctlib.teaching.shell import View, canvas, film

ORDERS = ("forwards", "backwards", "shuffled", "one frame, repeated")

# ---------------------------------------------------------------- explorer


def order_of(order: str, num_frames: int, index: int = 0, seed: int = 0) -> np.ndarray:
    """Which frames of a clip to show, and in which of `ORDERS`: int64 (T,), from 0.

    Clip 2i + 1 is clip 2i backwards. "Shuffled", a pair shares one random permutation, time-reversed for the second.
    With "one frame, repeated" the second has the same frame. So in these two orders both clips are the same input.
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
    """Clips in time-reversed pairs, (n, 3, T, H, W), with their frames in the order of `order_of`; the same shape."""
    return torch.stack([clip[:, order_of(order, clips.shape[2], index, seed)] for index, clip in enumerate(clips)])


def browse(
    clips: torch.Tensor,
    truths: Sequence[str],
    index: int,
    order: str,
    scores: dict[str, torch.Tensor],
    classes: Sequence[str],
) -> View:
    """A clip with its frames in some order, and the predictions for it. The scores are given, so it is fast.

    Args:
        clips: (n, 3, T, H, W), normalised, in time-reversed pairs.
        truths: the class of each clip, shown forwards.
        index: of the clip.
        scores: network -> (n, num_classes), its scores for the clips in this order (`in_order`, seed 0).
    """
    predictions = {}
    for name, values in scores.items():
        share = values[index].softmax(0)
        predictions[f"{name} predicts"] = f"{classes[int(share.argmax())]} ({100 * share.max():.0f} %)"
    clip = clips[index][:, order_of(order, clips.shape[2], index)]
    figure = strip(to_pixels(clip), f"{truths[index]}, {order}")
    alt = f"The {clip.shape[1]} frames of a clip, {order}: {truths[index]}."
    return View(figure, {"clip": f"{index}: {truths[index]}", "order": order} | predictions, alt)


# ---------------------------------------------------------------- figures


def strip(frames: np.ndarray, title: str) -> Figure:
    """Frames side by side, time from left to right. uint8 (T, H, W, 3)."""
    figure = canvas(1.15 * len(frames), 1.6, left=0.01, right=0.99, bottom=0.02, top=0.82)
    film(figure.add_subplot(), frames, title)
    return figure


def losses(curves: dict[str, Sequence[float]], floor: float, label: str) -> Figure:
    """Training losses by epoch, one curve per network, with a line at `floor`."""
    figure = canvas(6.4, 3.6, left=0.12)
    axes = figure.add_subplot()
    table = pd.DataFrame(curves)
    table.set_index(table.index + 1).plot(ax=axes, style=["-o", "-s", "-^"])
    axes.axhline(floor, color="0.3", ls="--", lw=1.2, label=label)
    axes.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy, nats", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small")
    return figure


# ---------------------------------------------------------------- exercises


@solved_by("""
most_right = 1  # to fill in
""")
def _check_5_1(answers: dict) -> str:
    expect(
        answers["most_right"], 1,
        {
            2: "Both would need two different predictions from the same scores",
            0: "It can be right on one: whichever direction it predicts",
            0.5: "Of this one pair it is right on a whole number of clips",
        },
        "{value} clips of two? Both get the same prediction, and their labels differ",
    )  # fmt: skip
    return "At most one of two, for any weights and any training: 50 %."


@solved_by("""
def frame_average(frames, weight):
    return (frames @ weight).mean(1)  # to fill in
""")
def _check_5_2(answers: dict) -> str:
    torch.manual_seed(0)
    score, frames = answers["frame_average"], torch.rand(3, 8, 5)
    weight = torch.rand(5, 4)
    result = given(score(frames, weight))
    if result.shape != (3, 4):
        raise NotYet(f"Scores are (N, num_classes) = (3, 4), got {tuple(result.shape)}: average over frames, axis 1")
    if not torch.allclose(result, score(frames.flip(1), weight), atol=1e-6):
        raise NotYet("Reversing the frames changes your score: an average does not know their order")
    if not torch.allclose(result, (frames @ weight).mean(1), atol=1e-6):
        raise NotYet(
            "The order does not matter, which is right, but this is not the mean over frames of frames @ weight"
        )
    return "Mean and product can be swapped: the mean of the scores is the score of the mean."


@solved_by("""
def sees_the_arrow(clip):
    return (clip[1:] ** 2 * clip[:-1] - clip[1:] * clip[:-1] ** 2).sum()  # to fill in
""")
def _check_5_3(answers: dict) -> str:
    sees = answers["sees_the_arrow"]
    torch.manual_seed(0)
    clips = torch.rand(64, 8)

    def value_of(clip):
        value = torch.as_tensor(given(sees(clip.clone())), dtype=torch.float)
        if value.numel() != 1:
            raise NotYet(f"Return one number per clip, you return {value.numel()}: a sum makes one of them")
        return value.reshape(())

    forwards = torch.stack([value_of(clip) for clip in clips])
    backwards = torch.stack([value_of(clip.flip(0)) for clip in clips])
    if torch.allclose(forwards, backwards):
        raise NotYet("A clip and its reverse get the same value: compare neighbours in time, not single frames")
    if not torch.allclose(forwards, -backwards, atol=1e-5):
        raise NotYet("The reverse must get the negative: a difference changes its sign, a square does not")
    return "A temporal kernel such as (-1, 0, 1) is enough; symmetric kernels such as (1, 2, 1) are not."
