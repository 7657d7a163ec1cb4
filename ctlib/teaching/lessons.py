"""What the teaching notebooks train on and how: a few of Arrow of Time's actions in memory, and a plain loop."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ctlib.config import check_choice
from ctlib.cost import eval_with_hooks
from ctlib.data import arrow
from ctlib.data.sampling import SAMPLINGS
from ctlib.data.transforms import test_views

BATCH = 16  # clips a step


class Clips(NamedTuple):
    """Clips in memory. Clip 2i + 1 is clip 2i backwards, frame for frame."""

    clips: torch.Tensor  # float (n, 3, T, H, W), normalised
    labels: torch.Tensor  # int64 (n,): 2j for action j, 2j + 1 for it backwards
    classes: tuple[str, ...]
    masks: np.ndarray  # bool (n, T, H, W), where the acting object is


def check(
    actions: list[int], train_pairs: int, test_pairs: int, num_frames: int, size: int, epochs: int, least: int = 32
) -> None:
    """Refuse parameters that `draw` or `train` would stop at, before either has begun.

    Args:
        actions, num_frames, size: as `draw` takes them.
        train_pairs, test_pairs: pairs of clips of each action.
        epochs: passes over the training clips.
        least: pixels, the smallest size that the networks can work on.

    Raises:
        ValueError: what is wrong, and what is needed.
    """
    for action in actions:
        check_choice("action", action, range(len(arrow.ACTIONS)))
    if not actions or len(set(actions)) < len(actions):
        raise ValueError(f"actions must be at least one, each named once, got {actions}")
    if num_frames < 2 or num_frames % 2:
        raise ValueError(f"num_frames must be even, as clips are mirrored in their middle, got {num_frames}")
    if size < least:
        raise ValueError(f"size must be at least {least} pixels, got {size}")
    if epochs < 1 or test_pairs < 1:
        raise ValueError(f"epochs and test_pairs must be at least 1, got {epochs} and {test_pairs}")
    if 2 * train_pairs * len(actions) < BATCH:
        needed = math.ceil(BATCH / 2 / len(actions))
        raise ValueError(f"train_pairs must be at least {needed}, for one batch of {BATCH} clips, got {train_pairs}")


def draw(
    actions: list[int],
    count: int,
    split: str,
    num_frames: int = 8,
    size: int = 32,
    seed: int = 0,
    on_clips: Callable[[int, int], None] | None = None,
) -> Clips:
    """Draw clips of some actions of the built-in data set, without writing videos.

    Args:
        actions: indices of `arrow.ACTIONS`.
        count: pairs of clips of each action.
        split: "train" or "val": other clips in each.
        num_frames: T, even; the mirrored sampling of testing takes them from 48.
        size: pixels, height and width.
        seed: of the data set.
        on_clips: called with how many pairs are drawn and how many there will be.

    Raises:
        ValueError: an action or split that is not there, or fewer than one pair.
    """
    for action in actions:
        check_choice("action", action, range(len(arrow.ACTIONS)))
    check_choice("split", split, ("train", "val"))
    if count < 1 or not actions:
        raise ValueError(f"at least one action and one pair of clips are needed, got {actions} and {count}")
    config = arrow.ArrowConfig(size=size, difficulty=0.0, seed=seed)
    chosen = SAMPLINGS["mirrored"].test(config.num_frames, num_frames, 1).ravel()
    clips, labels, masks = [], [], []
    for index in range(count):
        for label, action in enumerate(actions):
            drawn = arrow.render(config, split, index * len(arrow.ACTIONS) + action)
            forward, mask = test_views(drawn.frames[chosen], size, size, 1)[0], drawn.mask[chosen]
            clips += [forward, forward.flip(1)]
            masks += [mask, mask[::-1]]
            labels += [2 * label, 2 * label + 1]
        if on_clips is not None:
            on_clips((index + 1) * len(actions), count * len(actions))
    names = tuple(name for action in actions for name in arrow.ACTIONS[action][:2])
    return Clips(torch.stack(clips), torch.tensor(labels), names, np.stack(masks))


def train(
    model: nn.Module,
    data: Clips,
    epochs: int,
    batch: int = BATCH,
    lr: float = 0.02,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train with SGD (momentum 0.9), a tenth of the steps warming up, then a cosine to zero; nothing is augmented.

    Args:
        model: takes (N, 3, T, H, W), changed in place.
        data: what to train on.
        epochs: passes over it.
        batch: clips a step; what does not fill a last batch is left out.
        lr: highest learning rate.
        seed: of the order and of dropout.
        on_epoch: called with the number of the epoch and its mean loss.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: fewer clips than a batch.
    """
    if len(data.labels) < batch:
        raise ValueError(f"a batch of {batch} needs as many clips, got {len(data.labels)}")
    torch.manual_seed(seed)
    order, losses = torch.Generator().manual_seed(seed), []
    steps = len(data.labels) // batch
    total = epochs * steps
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    warming = 0.2 if total == 10 else 0.1  # a tenth of ten is one step, by which OneCycleLR divides by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total, pct_start=warming, cycle_momentum=False)
    model.train()
    for epoch in range(1, epochs + 1):
        summed = 0.0
        for chosen in torch.randperm(len(data.labels), generator=order)[: steps * batch].split(batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data.clips[chosen]), data.labels[chosen])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 20)
            optimizer.step()
            schedule.step()
            summed += loss.item()
        losses.append(summed / steps)
        if on_epoch is not None:
            on_epoch(epoch, losses[-1])
    return losses


@torch.no_grad()
def scores(model: nn.Module, clips: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """(n, 3, T, H, W) -> (n, num_classes), in evaluation mode; the model is left as it was."""
    with eval_with_hooks(model):
        return torch.cat([model(part) for part in clips.split(batch)])


class Found(NamedTuple):
    """What a network says of clips in pairs, in percent."""

    top1: float
    right_pair: float  # the right action, whichever direction
    both: float  # of the pairs, those with both clips right


def judge(predicted: torch.Tensor, labels: torch.Tensor) -> Found:
    """Read predictions on clips that come in pairs, as `draw` makes them.

    Args:
        predicted: int64 (n,), classes.
        labels: int64 (n,).
    """
    right = predicted == labels
    pairs = right.view(-1, 2).all(1)
    action = predicted // 2 == labels // 2
    return Found(*(100 * share.double().mean().item() for share in (right, action, pairs)))
