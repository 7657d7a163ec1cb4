"""Testing: every view of every video scored, views averaged, videos counted once."""

from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_accuracy


class Scores(NamedTuple):
    """What a network says of each video of a list, in the list's order."""

    logits: torch.Tensor  # float32 (videos, num_classes), the mean over views
    labels: torch.Tensor  # int64 (videos,)

    def topk(self, k: int) -> float:
        """Top-k accuracy over all videos, in percent. `k` above the number of classes counts as all."""
        num_classes = self.logits.shape[1]
        fraction = multiclass_accuracy(
            self.logits, self.labels, num_classes, average="micro", top_k=min(k, num_classes)
        )
        return 100 * fraction.item()


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, accelerator: Accelerator) -> Scores:
    """Score all videos of a test loader: logits averaged over their views.

    Args:
        model: takes (N, 3, T, H, W); put into evaluation mode here, and back as it was after.
        loader: gives (n, views, 3, T, H, W) and labels; prepared by `accelerator`.
        accelerator: gathers what several processes scored, without the padding.
    """
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
    return Scores(torch.cat(logits), torch.cat(labels))


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
