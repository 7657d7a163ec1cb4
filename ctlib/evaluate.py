"""Testing: every view of every video scored, views averaged, videos counted once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_accuracy

from ctlib.data.clips import SKIPPED


class Scores(NamedTuple):
    """What a network says of each video of a list, in the list's order.

    A video that could not be read, and was to be skipped, has the label -1 and counts nowhere.
    """

    logits: torch.Tensor  # float32 (videos, num_classes), the mean over views
    labels: torch.Tensor  # int64 (videos,)
    classes: tuple[str, ...] = ()  # names in label order
    fingerprint: str = ""  # of the list

    @property
    def skipped(self) -> int:
        """How many videos could not be read."""
        return int((self.labels == SKIPPED).sum())

    def topk(self, k: int) -> float:
        """Top-k accuracy over all videos read, in percent. `k` above the number of classes counts as all."""
        read = self.labels != SKIPPED
        num_classes = self.logits.shape[1]
        fraction = multiclass_accuracy(
            self.logits[read], self.labels[read], num_classes, average="micro", top_k=min(k, num_classes)
        )
        return 100 * fraction.item()


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: DataLoader, accelerator: Accelerator, classes: Sequence[str] | None = None
) -> Scores:
    """Score all videos of a test loader: logits averaged over their views.

    Args:
        model: takes (N, 3, T, H, W); put into evaluation mode here, and back as it was after.
        loader: gives (n, views, 3, T, H, W) and labels; prepared by `accelerator`.
        accelerator: gathers what several processes scored, without the padding.
        classes: the network's class names in label order, as its checkpoint has them, to be compared with the list's.

    Raises:
        ValueError: the network has other classes than the list, or another order.
    """
    samples = loader.dataset.samples
    if classes is not None and tuple(classes) != samples.classes:
        raise ValueError(f"{_differing(classes, samples.classes)}: load the checkpoint with the list's classes")
    logits, labels = [], []
    was_training = model.training
    model.eval()
    try:
        for views, label in loader:
            videos = views.shape[0]
            with accelerator.autocast():
                scores = model(views.flatten(0, 1)).float().unflatten(0, (videos, -1)).mean(1)
            scores, label = accelerator.gather_for_metrics((scores, label))
            logits.append(scores.cpu())
            labels.append(label.cpu())
    finally:
        model.train(was_training)
    return Scores(torch.cat(logits), torch.cat(labels), samples.classes, samples.fingerprint)


def ensemble(parts: Sequence[Scores]) -> Scores:
    """The scores of several networks averaged as logits, video by video (CT-Net_EN, Table 6).

    Raises:
        ValueError: fewer than one part, or parts that scored other classes, an other class order, or other
            videos.
    """
    if not parts:
        raise ValueError("an ensemble needs the scores of at least one network")
    first = parts[0]
    for number, part in enumerate(parts[1:], start=2):
        if part.classes != first.classes:
            raise ValueError(f"networks 1 and {number} of the ensemble: {_differing(first.classes, part.classes)}")
        if part.fingerprint != first.fingerprint or not torch.equal(part.labels, first.labels):
            raise ValueError(
                f"networks 1 and {number} of the ensemble scored other videos: lists {first.fingerprint} "
                f"({len(first.labels)} videos) and {part.fingerprint} ({len(part.labels)})"
            )
    return first._replace(logits=torch.stack([part.logits for part in parts]).mean(0))


def _differing(first: Sequence[str], second: Sequence[str]) -> str:
    """In what two lists of class names differ."""
    differing = [f"{a!r} and {b!r}" for a, b in zip(first, second, strict=False) if a != b]
    told = differing[0] if differing else f"{len(first)} and {len(second)} classes"
    return f"other classes or another order: {told}"


def interval(correct: np.ndarray, groups: list[str]) -> tuple[float, float]:
    """Mean accuracy, and half of its 95 % interval, in percent, over groups of dependent clips.

    Clips of one group (the two directions of a mirrored pair, say) are no independent evidence: the
    spread is that of the group means, by Student's t.

    Args:
        correct: bool (clips,).
        groups: the group of each clip.
    """
    _, index = np.unique(groups, return_inverse=True)
    means = np.bincount(index, weights=correct) / np.bincount(index)
    if len(means) < 2:
        return 100 * float(means.mean()), float("nan")
    return 100 * float(np.mean(correct)), 100 * float(stats.sem(means) * stats.t.ppf(0.975, len(means) - 1))
