"""A small training for lesson 5: a few actions of Arrow of Time in memory, and a plain loop."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ctlib.config import check_choice
from ctlib.cost import eval_with_hooks
from ctlib.data import actions as known
from ctlib.data import arrow
from ctlib.data.sampling import SAMPLINGS
from ctlib.data.transforms import test_views
from ctlib.models import check_finite
from ctlib.teaching.shell import check_minimum

BATCH = 16  # clips per step


class Clips(NamedTuple):
    """Clips in memory, in time-reversed pairs: clip 2i + 1 is clip 2i backwards."""

    clips: torch.Tensor  # float (n, 3, T, H, W), normalised
    labels: torch.Tensor  # int64 (n,): 2j for action j, 2j + 1 for its reverse
    classes: tuple[str, ...]


def check(
    actions: list[str], train_pairs: int, test_pairs: int, num_frames: int, size: int, epochs: int, min_size: int = 32
) -> None:
    """Raise ValueError for what `draw`, `train` or the networks (at least `min_size` pixels) would refuse later."""
    known.choose(tuple(actions))
    if num_frames < 2 or num_frames % 2:
        raise ValueError(f"num_frames must be even, as a clip and its reverse share their frames, got {num_frames}")
    pairs = math.ceil(BATCH / 2 / len(actions))  # for one batch
    check_minimum(
        size=(size, min_size), epochs=(epochs, 1), test_pairs=(test_pairs, 1), train_pairs=(train_pairs, pairs)
    )


def draw(
    actions: list[str],
    count: int,
    split: str,
    num_frames: int = 8,
    size: int = 32,
    on_clips: Callable[[int, int], None] = lambda done, of: None,
) -> Clips:
    """Draw clips of some of `actions.ACTIONS` of Arrow of Time, without writing videos.

    Args:
        count: time-reversed pairs of clips of each action.
        split: "train" or "val", whose clips differ.
        num_frames: T, even; taken from 48 by the sampling "mirrored", as in testing.
        on_clips: called with the number of pairs drawn and of all pairs.
    """
    names = known.class_names(tuple(actions))
    check_choice("split", split, ("train", "val"))
    check_minimum(count=(count, 1))
    config = arrow.ArrowConfig(size=size, difficulty=0.0, actions=tuple(actions))
    chosen = SAMPLINGS["mirrored"].test(config.num_frames, num_frames, 1).ravel()
    clips, labels = [], []
    for index in range(count):
        for label in range(len(actions)):
            drawn = arrow.render(config, split, index * len(actions) + label)
            forward = test_views(drawn.frames[chosen], size, size, 1)[0]
            clips += [forward, forward.flip(1)]
            labels += [2 * label, 2 * label + 1]
        on_clips((index + 1) * len(actions), count * len(actions))
    return Clips(torch.stack(clips), torch.tensor(labels), names)


def train(
    model: nn.Module,
    data: Clips,
    epochs: int,
    batch: int = BATCH,
    lr: float = 0.02,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> list[float]:
    """Train in place with SGD (momentum 0.9), a warm-up over a tenth of the steps, then a cosine from `lr` to zero.

    No augmentation; an incomplete last batch is dropped. `seed` is of the order and of dropout. The mean loss of each
    epoch is returned, and `on_epoch` is called with the number of the epoch and its loss.
    """
    if len(data.labels) < batch:
        raise ValueError(f"a batch of {batch} needs as many clips, got {len(data.labels)}")
    torch.manual_seed(seed)
    order, losses = torch.Generator().manual_seed(seed), []
    steps = len(data.labels) // batch
    total = epochs * steps
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    warm_up = 0.2 if total == 10 else 0.1  # a tenth of ten is one step, by which OneCycleLR divides by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total, pct_start=warm_up, cycle_momentum=False)
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
        on_epoch(epoch, losses[-1])
    return losses


@torch.no_grad()
def scores(model: nn.Module, clips: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """(n, 3, T, H, W) -> (n, num_classes), in evaluation mode; the model's mode is restored."""
    with eval_with_hooks(model):
        scored = torch.cat([model(part) for part in clips.split(batch)])
    check_finite(scored)
    return scored


class Accuracy(NamedTuple):
    """Accuracy on time-reversed pairs of clips, in percent."""

    top1: float
    right_action: float  # in either direction
    both: float  # pairs with both clips right


def accuracy(predicted: torch.Tensor, labels: torch.Tensor) -> Accuracy:
    """Accuracy of predictions, int64 (n,), on time-reversed pairs with these labels, as `draw` makes them."""
    right = predicted == labels
    pairs = right.view(-1, 2).all(1)
    action = predicted // 2 == labels // 2
    return Accuracy(*(100 * share.double().mean().item() for share in (right, action, pairs)))
