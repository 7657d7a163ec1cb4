"""The recipe of a folder of clips: chosen by the network and by how many clips there are, each choice with its reason.

The others of `recipes.RECIPES` are for data sets that are known. A folder needs weights that fit the network, and
enough steps. `benchmarks/own_clips.py` measures the choices on clips that they were not tuned on.
"""

import dataclasses
import math
import os
import warnings
from typing import Any, NamedTuple

from ctlib.config import RunConfig, parse_pairs
from ctlib.data import cache
from ctlib.data.catalog import Samples, load_samples
from ctlib.data.transforms import flipped_labels
from ctlib.models import MODELS, OWN_DATA, fits_weights, name_of
from ctlib.training.recipes import OWN, needed_steps, run_config
from ctlib.weights import PUBLISHED, SHAPES, find

DATA = ("folder", "list")  # the data sets that have no recipe of their own
_SIZES = {"quickstart": 48, "laptop": 64, "laptop_inception": 80}  # pixels of Still Shapes, by backbone
_BATCH, _LARGE_BATCH, _MANY = 8, 32, 2000  # clips per step, and the number of clips from which there are more
_LEAST_EPOCHS, _MOST_EPOCHS = 10, 100
_LEARNED = 90.0  # percent of the training clips that a network which has learned them gets right, at least
_KEPT = 2e9  # bytes of decoded training videos that are kept in memory, at most


class Choice(NamedTuple):
    """What is chosen for a part of a run, and why."""

    value: Any
    why: str


def fitted_config(data: str, model: str, recipe: str = "", overrides: str = "", **given) -> tuple[RunConfig, dict]:
    """As `recipes.run_config`; for one of `DATA` without a recipe, what is not given is chosen for its clips.

    Returns:
        The run, and the reasons: "part.name" -> its value and why. There are none where a recipe decides.

    Raises:
        ValueError, TypeError: as `run_config`, or lists that cannot be read.
        FileNotFoundError: the folder of the data set does not exist.
    """
    if recipe != OWN and (recipe or data not in DATA):
        return run_config(data, model, recipe, overrides, **given), {}
    asked, reasons = run_config(data, model, OWN, overrides, **given), {}
    if not asked.data.root:
        return asked, reasons  # which `resolve` refuses
    with warnings.catch_warnings():  # `resolve` warns of the same
        warnings.simplefilter("ignore")
        train = load_samples(data, asked.data.root, "train", **asked.data.options())
    decided = parse_pairs(overrides).keys() | {key for key, value in given.items() if value is not None}
    trained = None if asked.start or "model.weights" in decided else find("arrow", name_of(asked.model))
    if trained is not None:
        asked = dataclasses.replace(asked, start=trained.name.lower())
        reasons["start"] = f"{asked.start}: this whole network, trained on Arrow of Time"
    for key, choose in _CHOICES.items():
        if key in decided or key in _own(model) or key == "model.weights" and asked.start:
            continue
        choice = choose(asked, train)
        part, _, name = key.partition(".")
        changed = dataclasses.replace(getattr(asked, part), **{name: choice.value})
        asked = dataclasses.replace(asked, **{part: changed})
        shown = "none" if choice.value is None else choice.value
        reasons[key] = f"{shown:g}: {choice.why}" if isinstance(shown, float) else f"{shown}: {choice.why}"
    return asked, reasons


def underfit(train_top1: float, config: RunConfig, needed_epochs: int) -> str:
    """One line where the last epoch's training accuracy (percent) is too low, with what may help; else empty.

    `needed_epochs` is that of a `Plan`.
    """
    if not train_top1 < _LEARNED:
        return ""
    advice = f"train longer, with recipe.epochs={max(2 * config.recipe.epochs, needed_epochs)}"
    larger = {"model.num_frames": config.model.num_frames, "data.size": config.data.size}
    if more := [f"{key}={2 * now}" for key, now in larger.items() if key not in _own(name_of(config.model))]:
        advice += f"; if that is not enough, with {' or '.join(more)}"
    return f"only {train_top1:.0f} % of the training clips were right in the last epoch: {advice}"


def _own(model: str) -> set[str]:
    """What a network decides itself, as "part.name"."""
    return {f"model.{name}" for name in MODELS.get(model, ())} | {f"data.{name}" for name in OWN_DATA.get(model, {})}


def _is_small(asked: RunConfig) -> bool:
    return asked.model.backbone in SHAPES or asked.model.backbone.endswith("_small")


def _weights(asked: RunConfig, train: Samples) -> Choice:
    backbone = asked.model.backbone
    if not fits_weights(asked.model):
        return Choice(None, "no pretrained weights fit this network")
    if backbone in SHAPES:
        return Choice("shapes", "weights of Still Shapes fit this backbone")
    if backbone in PUBLISHED:
        return Choice("imagenet", "ImageNet weights fit this backbone")
    return Choice(None, "there are no pretrained weights of this backbone")


def _frames(asked: RunConfig, train: Samples) -> Choice:
    return Choice(8, "frames, as in most of the paper's tables")


def _size(asked: RunConfig, train: Samples) -> Choice:
    backbone = asked.model.backbone
    if backbone in _SIZES:
        return Choice(_SIZES[backbone], "pixels, as in the training of the weights")
    if _is_small(asked):
        return Choice(64, "pixels, for a small network")
    return Choice(299 if backbone == "inception_v3" else 224, "pixels, as in the training of ImageNet weights")


def _flip(asked: RunConfig, train: Samples) -> Choice:
    """A mirrored motion may be another class. Only where the names say which one are clips mirrored."""
    swapped = flipped_labels(train.classes)
    if any(0 <= other != label for label, other in enumerate(swapped)):
        return Choice(True, "mirrored at random, as the classes are named by sides, which are swapped with the clip")
    return Choice(False, "not mirrored, as a mirrored motion may be another class; data.flip=true mirrors clips")


def _batch(asked: RunConfig, train: Samples) -> Choice:
    batch = _LARGE_BATCH if len(train) >= _MANY else max(2, min(_BATCH, len(train) // 4))
    return Choice(min(batch, len(train)), f"clips per step, of {len(train):,}")


def _rate(asked: RunConfig, train: Samples) -> Choice:
    return Choice(0.16, "for a small network") if _is_small(asked) else Choice(0.02, "for a large network")


def _dropout(asked: RunConfig, train: Samples) -> Choice:
    return Choice(0.1, "for a small network") if _is_small(asked) else Choice(0.5, "for a large network")


def _epochs(asked: RunConfig, train: Samples) -> Choice:
    per_epoch, needed = max(1, len(train) // asked.recipe.batch), needed_steps(len(train.classes))
    epochs = min(max(_LEAST_EPOCHS, math.ceil(needed / per_epoch)), _MOST_EPOCHS)
    return Choice(epochs, f"{epochs * per_epoch:,} steps, where {len(train.classes)} classes need about {needed:,}")


def _warmup(asked: RunConfig, train: Samples) -> Choice:
    return Choice(asked.recipe.epochs / 10, "epochs, a tenth of all")


def _cache(asked: RunConfig, train: Samples) -> Choice:
    needed = cache.needed_bytes(train)
    size = f"decoded training videos of {needed / 1e6:,.0f} MB"
    try:
        # Twice, as test videos are kept too, and memory is needed for other things.
        cache.check_room([train, train], dataclasses.replace(asked.data, cache="ram"))
    except ValueError:
        return Choice("none", f"{size}, for which there is no room")
    return Choice("ram", f"{size} are kept") if needed < _KEPT else Choice("none", f"{size} are too many to keep")


def _workers(asked: RunConfig, train: Samples) -> Choice:
    cores = os.cpu_count() or 1
    return Choice(min(8, max(1, cores - 1)), f"loader processes, on {cores} cores")


# In this order: a choice may depend on those before it.
_CHOICES = {
    "model.weights": _weights,
    "model.num_frames": _frames,
    "model.dropout": _dropout,
    "data.size": _size,
    "data.flip": _flip,
    "data.cache": _cache,
    "data.workers": _workers,
    "recipe.batch": _batch,
    "recipe.lr": _rate,
    "recipe.epochs": _epochs,
    "recipe.warmup": _warmup,
}
