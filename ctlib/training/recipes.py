"""Recipes as data (appendix A.1), and what they say of a step: its learning rate, which weights decay."""

import json
import math
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctlib.backbones import PUBLISHED
from ctlib.config import ComputeConfig, DataConfig, RecipeConfig, RunConfig, check_choice
from ctlib.data.arrow import ArrowConfig
from ctlib.models import model_config


class Recipe(NamedTuple):
    """What a recipe sets of each part of a run; what it does not name keeps its default."""

    about: str
    recipe: dict = {}
    model: dict = {}
    data: dict = {}
    compute: dict = {}
    arrow: dict = {}  # of the built-in data set, where it is made for the run


_IMAGENET = {"weights": "imagenet"}

RECIPES: dict[str, Recipe] = {
    "something": Recipe(
        "Something-Something V1 and V2, appendix A.1 of the paper; trained and tested at 256 x 256 (Table 2h)",
        recipe={"epochs": 45, "lr": 0.02, "weight_decay": 5e-4, "warmup": 10},
        model={"dropout": 0.3, "num_frames": 8, **_IMAGENET},
        data={"size": 256, "workers": 8},
    ),
    "kinetics": Recipe(
        "Kinetics-400 and Mini-Kinetics, appendix A.1 of the paper; 16 frames, tested on 4 clips x 3 crops (Table 4)",
        recipe={"epochs": 110, "lr": 0.01, "weight_decay": 1e-4, "warmup": 10},
        model={"dropout": 0.5, "num_frames": 16, **_IMAGENET},
        data={"size": 256, "clips": 4, "crops": 3, "workers": 8},
    ),
    "transfer": Recipe(
        "from Kinetics-400 to UCF101 and HMDB51 (Table 5). The paper gives 16 frames and three splits; the rest is "
        "ours: a fifth of Kinetics' learning rate, as the backbone has been trained, and 30 epochs, 3 of them warm-up",
        recipe={"epochs": 30, "lr": 0.002, "weight_decay": 1e-4, "warmup": 3},
        model={"dropout": 0.5, "num_frames": 16, **_IMAGENET},  # unless it starts from a checkpoint
        data={"size": 256, "clips": 2, "crops": 3, "workers": 8},
    ),
    "laptop": Recipe(
        "Arrow of Time on a CPU, in minutes: the quickstart",
        recipe={"epochs": 10, "batch": 16, "lr": 0.056, "weight_decay": 1e-4, "warmup": 0.5},
        model={"dropout": 0.1, "num_frames": 8},
        data={"size": 48, "workers": 1},
        compute={"threads": 1},
    ),
    "study": Recipe(
        "Arrow of Time on a CPU, with enough test videos to tell networks apart: the ablations, 5 to 20 minutes a run",
        recipe={"epochs": 6, "batch": 16, "lr": 0.056, "weight_decay": 1e-4, "warmup": 0.5},
        model={"dropout": 0.1, "num_frames": 8},
        data={"size": 48, "workers": 1},
        compute={"threads": 1},
        arrow={"train_clips": 4000, "val_clips": 2000, "difficulty": 0.2},
    ),
    "single-gpu": Recipe(
        "Arrow of Time at its hardest on one GPU, for the paper's networks without ImageNet weights",
        recipe={"epochs": 30, "lr": 0.04, "weight_decay": 1e-4, "warmup": 2},
        model={"dropout": 0.3, "num_frames": 8},
        data={"size": 112, "workers": 8},
        arrow={"train_clips": 16_000, "val_clips": 2000, "size": 128, "difficulty": 0.6},
    ),
}

# The recipe of a data set where none is named.
DEFAULTS = {
    "arrow": "laptop",
    "something-v1": "something",
    "something-v2": "something",
    "kinetics-400": "kinetics",
    "mini-kinetics-200": "kinetics",
    "ucf101": "transfer",
    "hmdb51": "transfer",
    "folder": "transfer",
    "list": "transfer",
}


def run_config(data: str, model: str, recipe: str = "", overrides: str = "", **given) -> tuple[RunConfig, ArrowConfig]:
    """A run by name: a data set, a network and a recipe, and what differs from the recipe.

    Args:
        data: a name of `data.catalog.DATASETS`.
        model: a name of `models.MODELS`.
        recipe: a name of `RECIPES`; empty: the data set's own (`DEFAULTS`).
        overrides: "part.name=value" pairs between spaces, such as "recipe.lr=0.01 model.dims=3 data.fold=2";
            parts are model, data, recipe, compute and arrow; values are JSON without spaces, or text.
        given: fields of `RunConfig` ("name", "seed", ...), or of a part under its "part.name"; None leaves one to
            the recipe.

    Returns:
        The run, and the built-in data set that goes with it.

    Raises:
        ValueError: an unknown name, or a value out of range; TypeError: a value of another type.
    """
    check_choice("data", data, DEFAULTS)
    recipe = recipe or DEFAULTS[data]
    check_choice("recipe", recipe, RECIPES)
    chosen = RECIPES[recipe]
    parts = {part: dict(getattr(chosen, part)) for part in ("model", "data", "recipe", "compute", "arrow")}
    run = {}
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in {**given, **_parsed(overrides)}.items():
        part, dot, name = key.partition(".")
        if dot:
            check_choice("part of a run", part, parts)
            parts[part][name] = value
        else:
            run[key] = value
    if model_config(model).backbone not in PUBLISHED:
        parts["model"].pop("weights", None)  # no ImageNet weights are published for the small backbones
    config = RunConfig.from_dict(
        {
            "name": model,
            **run,
            "model": model_config(model, **parts["model"]),
            "data": DataConfig.from_dict({"name": data, **parts["data"]}),
            "recipe": RecipeConfig.from_dict(parts["recipe"]),
            "compute": ComputeConfig.from_dict(parts["compute"]),
        }
    )
    return config, ArrowConfig.from_dict(parts["arrow"])


def _parsed(overrides: str) -> dict:
    """The pairs of "part.name=value" as keys and values."""
    found = {}
    for pair in overrides.split():
        key, equals, text = pair.partition("=")
        if not equals or "." not in key:
            raise ValueError(f"overrides are part.name=value between spaces, got {pair!r}")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text
    return found


def learning_rate(recipe: RecipeConfig, step: int, steps_an_epoch: int) -> float:
    """The learning rate of a step (from 0): linear over the warm-up epochs, then a cosine to zero.

    It scales with the batch, lr * batch / 64. The authors change it once an epoch; here it changes
    every step, so that recipes of a few epochs follow the same curve.
    """
    warm = round(recipe.warmup * steps_an_epoch)
    steps = recipe.epochs * steps_an_epoch
    peak = recipe.lr * recipe.batch / 64
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameters by how they are trained: `scale` multiplies the learning rate.

    As the authors do: no weight decay on batch norms and biases, and biases at twice the rate.
    Frozen parameters are in no group.
    """
    weights, norms, biases = [], [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            group = norms if isinstance(module, _BatchNorm) else biases if name == "bias" else weights
            group.append(parameter)
    return [
        {"params": weights, "weight_decay": weight_decay, "scale": 1.0},
        {"params": norms, "weight_decay": 0.0, "scale": 1.0},
        {"params": biases, "weight_decay": 0.0, "scale": 2.0},
    ]
