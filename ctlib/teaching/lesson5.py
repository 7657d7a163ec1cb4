"""Lesson 5, the arrow of time: clips with their frames in any order (explorer, figures, exercises)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from ctlib.config import check_choice
from ctlib.data.transforms import to_pixels
from ctlib.display.plotting import marker
from ctlib.teaching.exercise import NotYet, expect, given, solved_by
from ctlib.teaching.shell import DARK, WIDEST, View, canvas, film
from ctlib.teaching.small_training import BATCH, Clips, accuracy, scores

ORDERS = ("forwards", "backwards", "shuffled", "one frame, repeated")

# ---------------------------------------------------------------- explorer


def order_of(order: str, num_frames: int, index: int = 0) -> np.ndarray:
    """Which frames of a clip to show, and in which of `ORDERS`: int64 (T,), from 0.

    Clip 2i + 1 is clip 2i backwards. "Shuffled", a pair shares one random permutation, time-reversed for the second.
    With "one frame, repeated" the second has the same frame. So in these two orders both clips are the same input.
    """
    check_choice("order", order, ORDERS)
    if order == "shuffled":
        chosen = np.random.default_rng((0, index // 2)).permutation(num_frames)
    elif order == "one frame, repeated":
        chosen = np.full(num_frames, num_frames // 2)
    else:
        return np.arange(num_frames)[:: 1 if order == "forwards" else -1].copy()
    return num_frames - 1 - chosen if index % 2 else chosen


def in_order(clips: torch.Tensor, order: str) -> torch.Tensor:
    """Clips in time-reversed pairs, (n, 3, T, H, W), with their frames in the order of `order_of`; the same shape."""
    return torch.stack([clip[:, order_of(order, clips.shape[2], index)] for index, clip in enumerate(clips)])


def browse(
    clips: torch.Tensor,
    truths: Sequence[str],
    index: int,
    order: str,
    time: int,
    scores: dict[str, torch.Tensor],
    classes: Sequence[str],
) -> View:
    """Clip `index` with its frames in some order, the one at `time`, from 1, large, and the predictions for it.

    Args:
        clips: (n, 3, T, H, W), normalised, in time-reversed pairs; `truths` are their classes, shown forwards.
        scores: network -> (n, num_classes), its scores for the clips in this order (`in_order`).
    """
    predictions = {}
    for name, values in scores.items():
        share = values[index].softmax(0)
        predictions[f"{name} predicts"] = f"{classes[int(share.argmax())]} ({100 * share.max():.0f} %)"
    frames = to_pixels(clips[index][:, order_of(order, clips.shape[2], index)])
    figure = canvas(WIDEST, 3.9, left=0.01, right=0.99, bottom=0.01, top=0.93, hspace=0.08)
    large, strip = figure.subplots(2, 1, height_ratios=(3.4, 1))
    film(large, frames[time - 1 : time], f"{truths[index]}, {order}")
    film(strip, frames, "")
    width = frames.shape[2] + 2  # `film` puts a column of white on either side
    strip.axvspan(width * (time - 1) - 0.5, width * time - 0.5, fill=False, ec=DARK, lw=3, clip_on=False)
    alt = f"Frame {time} of {len(frames)} of a clip, {order}: {truths[index]}."
    return View(figure, {"clip": truths[index], "shown": order} | predictions, alt)


# ---------------------------------------------------------------- experiment


def first_pairs(data: Clips, count: int) -> Clips:
    """The first time-reversed pairs of each action, `count` or as many as a batch needs."""
    actions = len(data.classes) // 2
    clips = 2 * actions * max(count, math.ceil(BATCH / 2 / actions))
    return Clips(data.clips[:clips], data.labels[:clips], data.classes)


def price_of_guessing(scores: torch.Tensor) -> float:
    """What scores, (N, C), would cost beyond ln C if labels were drawn at random: the mean of ln (1/C) / p_c."""
    return float(-scores.detach().log_softmax(1).mean()) - math.log(scores.shape[1])


@contextmanager
def watched(network: nn.Module) -> Iterator[list[float]]:
    """Collect `price_of_guessing` of every pass through a network."""
    prices = []
    hook = network.register_forward_hook(lambda _network, _inputs, scores: prices.append(price_of_guessing(scores)))
    try:
        yield prices
    finally:
        hook.remove()


def table(networks: dict[str, nn.Module], trained_on: dict[str, Clips], test: Clips) -> pd.DataFrame:
    """Accuracies in percent, one row per network; the direction is that of clips whose action is right."""
    rows = {}
    for name, network in networks.items():
        own, new = (accuracy(scores(network, part.clips).argmax(1), part.labels) for part in (trained_on[name], test))
        rows[name] = {"clips": len(trained_on[name].labels), "top-1 training, %": own.top1, "top-1 test, %": new.top1}
        rows[name] |= {"both of a pair right, %": new.both, "right action, %": new.right_action}
        rows[name]["right direction, %"] = 100 * new.top1 / new.right_action if new.right_action else math.nan
    return pd.DataFrame.from_dict(rows, orient="index")


# ---------------------------------------------------------------- figures


def strips(clips: torch.Tensor, names: Sequence[str]) -> Figure:
    """Clips below one another, (n, 3, T, H, W), each with its frames from left to right and its class."""
    figure = canvas(0.9 * clips.shape[2], 1.35 * len(clips), left=0.01, right=0.99, bottom=0.02, top=0.9, hspace=0.35)
    for axes, clip, name in zip(figure.subplots(len(clips), 1, squeeze=False)[:, 0], clips, names, strict=True):
        film(axes, to_pixels(clip), name)
    return figure


def losses(curves: dict[str, Sequence[float]], prices: dict[str, Sequence[float]], lines: dict[str, float]) -> Figure:
    """Training losses by epoch, with lines at some values; and what each is made of beyond the first line's value.

    `curves` and `prices` are each network's mean loss and `price_of_guessing` of each epoch. `lines` are labels with
    their values in nats; the first is ln C.
    """
    figure = canvas(8.6, 3.6, left=0.07, right=0.99, wspace=0.22)
    left, right = figure.subplots(1, 2)
    for (label, value), style in zip(lines.items(), ("--", ":"), strict=True):
        left.axhline(value, color="0.3", ls=style, lw=1.2, label=label)
    for index, (name, curve) in enumerate(curves.items()):
        epochs = np.arange(1, len(curve) + 1)
        style = {"color": f"C{index}", "marker": marker(index), "ms": 5}
        left.plot(epochs, curve, label=name, **style)
        price = np.asarray(prices[name])
        right.plot(epochs, price, label=f"{name}: price of guessing", ls="--", mfc="white", **style)
        right.plot(epochs, next(iter(lines.values())) + price - curve, label=f"{name}: what it knows", **style)
    left.set(title="Training loss", ylabel="cross-entropy, nats", ylim=(0, 1.45 * left.get_ylim()[1]))  # for the legend
    right.set(title="Loss = ln C + price of guessing - what it knows", ylabel="nats (log)", yscale="log")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=9)
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
mean_loss = -torch.tensor([0.85, 0.05, 0.05, 0.05]).log().mean()  # to fill in
""")
def _check_5_3(answers: dict) -> str:
    right = -(math.log(0.85) + 3 * math.log(0.05)) / 4
    mine = round(float(given(answers["mean_loss"])), 2)
    expect(
        mine, round(right, 2),
        {
            round(-math.log(0.85), 2): "That is the loss where the guess is right, a quarter of the time",
            round(-math.log(0.05), 2): "That is the loss where the guess is wrong, three quarters of the time",
            round(math.log(4), 2): "That is the loss of equal probabilities. Here a class has 0.85",
            round(-right, 2): "A loss is minus the logarithm of the true class's probability",
        },
        "Not {value}: average minus the logarithm of the true class's probability over the four classes",
    )  # fmt: skip
    return f"{right:.2f} is far above ln 4 = {math.log(4):.2f}: confidence without knowledge is dear."


@solved_by("""
def sees_the_arrow(clip):
    return (clip[1:] ** 2 * clip[:-1] - clip[1:] * clip[:-1] ** 2).sum()  # to fill in
""")
def _check_5_4(answers: dict) -> str:
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
