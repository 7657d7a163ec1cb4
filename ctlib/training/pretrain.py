"""Pretraining on Still Shapes: one 2D backbone learns to describe single pictures, by several questions at once.

A room of its own beside the trainer of clips: no videos are read, and the whole run takes minutes and is not resumed.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from ctlib.backbones import BACKBONES
from ctlib.config import check_choice
from ctlib.data import shapes
from ctlib.kernels.layout import use_channels_last
from ctlib.models import check_finite
from ctlib.training.recipes import parameter_groups

WARMUP = 100  # steps of linear warm-up
WEIGHT_DECAY = 1e-4
TEST_PICTURES = 4096


class Describer(nn.Module):
    """A backbone, and a linear layer per question on the mean of its features.

    Shape:
        pictures (N, 3, H, W) -> logits of each question, (N, answers)
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.answers = [len(answers) for answers in shapes.QUESTIONS.values()]
        self.fc = nn.Linear(backbone.out_channels, sum(self.answers))
        use_channels_last(self)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pictures = pictures.contiguous(memory_format=self.memory_format)
        return self.fc(self.backbone(pictures, 1).mean((2, 3))).split(self.answers, dim=1)


class Pretrained(NamedTuple):
    """A pretrained backbone, and how it came about."""

    state: dict[str, torch.Tensor]  # of the backbone
    accuracy: pd.DataFrame  # of `accuracies`
    history: pd.DataFrame  # every 50 steps: step, the loss, and each question's loss


def pretrain(
    backbone: str,
    size: int,
    steps: int,
    batch: int = 128,
    lr: float = 0.1,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Pretrained:
    """Train a backbone from random weights on pictures of `size` pixels, each seen once, by SGD down a cosine.

    The loss is the sum over the questions of the mean cross-entropy over the pictures that have an answer.

    Args:
        backbone: a name of `backbones.BACKBONES`.
        steps: of `batch` pictures each.
        lr: the highest learning rate, after a warm-up.
        seed: of the weights, and of the training pictures.
        on_step: called with the steps done, their number in all, and the loss.

    Raises:
        ValueError: an unknown backbone, pictures too small for it, or a loss that is not finite.
    """
    check_choice("backbone", backbone, BACKBONES)
    torch.manual_seed(seed)
    model = Describer(BACKBONES[backbone]())
    if size < model.backbone.smallest:
        raise ValueError(f"{backbone} needs pictures of at least {model.backbone.smallest} pixels, got {size}")
    pool, rng = shapes.make_pool(seed, "train", size=size), np.random.default_rng([shapes.SEED, seed])
    optimizer = torch.optim.SGD(parameter_groups(model, WEIGHT_DECAY), lr=lr, momentum=0.9)
    names, history = list(shapes.QUESTIONS), []
    model.train()
    for step in range(steps):
        rate = lr * min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        pictures, labels = shapes.pictures(pool, rng, batch, size)
        losses = question_losses(model(pictures), labels)
        loss = losses.sum()
        if not loss.isfinite():
            raise ValueError(f"the loss of step {step + 1} is not finite: choose a smaller lr than {lr}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            history.append({"step": step + 1, "loss": loss.item(), **dict(zip(names, losses.tolist(), strict=True))})
        if on_step is not None:
            on_step(step + 1, steps, loss.item())
    return Pretrained(model.backbone.state_dict(), accuracies(model, size), pd.DataFrame(history))


def question_losses(logits: tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of each question, (questions,); 0 where no picture has an answer."""
    losses = []
    for scores, label in zip(logits, labels.T, strict=True):
        total = F.cross_entropy(scores, label, ignore_index=shapes.UNANSWERED, reduction="sum")
        losses.append(total / (label != shapes.UNANSWERED).sum().clamp(min=1))
    return torch.stack(losses)


@torch.no_grad()
def accuracies(model: nn.Module, size: int) -> pd.DataFrame:
    """How well each question is answered on test pictures, of other shapes and backgrounds than any in training.

    Returns:
        Indexed by question: `accuracy` (percent right), and `commonest` (percent right of always giving the commonest
        answer).
    """
    pool, rng = shapes.make_pool(0, "test", 600, 200, size), np.random.default_rng([shapes.SEED, 0, 1])
    training = model.training
    model.eval()
    predicted, labels = [], []
    for begin in range(0, TEST_PICTURES, 128):
        pictures, true = shapes.pictures(pool, rng, min(128, TEST_PICTURES - begin), size)
        answers = model(pictures)
        check_finite(torch.cat(answers, dim=1))
        predicted.append(torch.stack([scores.argmax(1) for scores in answers], dim=1))
        labels.append(true)
    model.train(training)
    predicted, labels = torch.cat(predicted).T.numpy(), torch.cat(labels).T.numpy()
    records = {}
    for name, given, true in zip(shapes.QUESTIONS, predicted, labels, strict=True):
        answers = pd.DataFrame({"right": given == true, "true": true})[true != shapes.UNANSWERED]
        records[name] = 100 * answers.right.mean(), 100 * answers.true.value_counts(normalize=True).max()
    return pd.DataFrame.from_dict(records, orient="index", columns=["accuracy", "commonest"])
