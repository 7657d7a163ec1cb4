"""Recipes as data (appendix A.1), the configuration of a run by name, and what a recipe sets in the optimizer."""

import math
from typing import NamedTuple

from torch import nn

import ctlib.rivals  # noqa: F401, whose networks have names in MODELS then
from ctlib.config import RecipeConfig, RunConfig, check_choice, parse_pairs
from ctlib.kernels import BATCH_NORMS
from ctlib.models import MODELS, OWN_DATA, fits_weights, model_config
from ctlib.weights import having


class Recipe(NamedTuple):
    """What a recipe sets of each part of a run; all else keeps its default."""

    about: str
    recipe: dict = {}
    model: dict = {}
    data: dict = {}
    compute: dict = {}
    arrow: dict = {}


_IMAGENET = {"weights": "imagenet"}
OWN = "own"  # the recipe that `own_clips` completes

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
        "from Kinetics-400 to UCF101 and HMDB51 (Table 5). The paper states 16 frames and three splits. We chose a "
        "fifth of Kinetics' learning rate, as the backbone has been trained, and 30 epochs, 3 of them warm-up",
        recipe={"epochs": 30, "lr": 0.002, "weight_decay": 1e-4, "warmup": 3},
        model={"dropout": 0.5, "num_frames": 16, **_IMAGENET},  # unless it starts from a checkpoint
        data={"size": 256, "clips": 2, "crops": 3, "workers": 8},
    ),
    OWN: Recipe(
        "your own clips: `own_clips` chooses all but this by the network and the number of clips",
        recipe={"weight_decay": 1e-4, "warmup": 0},
    ),
    "laptop": Recipe(
        "Arrow of Time on a CPU, in minutes: the quickstart",
        recipe={"epochs": 3, "batch": 8, "lr": 0.16, "weight_decay": 1e-4, "warmup": 0.5},
        model={"dropout": 0.1, "num_frames": 8, "weights": "shapes"},
        data={"size": 48, "workers": 1},
        compute={"threads": 1},
    ),
    "study": Recipe(
        "Arrow of Time on a CPU, with enough test videos to compare networks: the ablations, 15 minutes a run",
        recipe={"epochs": 4, "test_epochs": 2, "batch": 8, "lr": 0.16, "weight_decay": 1e-4, "warmup": 0.5},
        model={"dropout": 0.1, "num_frames": 8, "weights": "shapes"},
        data={"size": 64, "workers": 0, "cache": "disk"},
        compute={"threads": 1, "precision": "fp32", "graph": None},
        arrow={"train_clips": 4000, "val_clips": 4000, "difficulty": 0.2, "actions": "all"},
    ),
    "single-gpu": Recipe(
        "Arrow of Time at its hardest on one GPU, for the paper's networks without ImageNet weights",
        recipe={"epochs": 30, "lr": 0.04, "weight_decay": 1e-4, "warmup": 2},
        model={"dropout": 0.3, "num_frames": 8},
        data={"size": 112, "workers": 8},
        arrow={"train_clips": 16_000, "val_clips": 2000, "size": 128, "difficulty": 0.6, "actions": "all"},
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


def run_config(data: str, model: str, recipe: str = "", overrides: str = "", **given) -> RunConfig:
    """A run by name: a data set, a network and a recipe, and what differs from the recipe.

    Args:
        data: a name of `data.catalog.DATASETS`.
        model: a name of `models.MODELS`.
        recipe: a name of `RECIPES`; empty: the data set's own (`DEFAULTS`).
        overrides: "part.name=value" pairs separated by spaces, such as "recipe.lr=0.01 model.dims=3 data.fold=2".
            Parts are model, data, arrow, recipe and compute; values are JSON, or text, which may hold spaces.
        given: fields of `RunConfig` ("name", "seed", ...), or of a part under its "part.name"; None leaves one to
            the recipe. `overrides` come before them.

    Raises:
        ValueError: an unknown name, or a value out of range; TypeError: a value of another type.
    """
    check_choice("data", data, DEFAULTS)
    recipe = recipe or DEFAULTS[data]
    check_choice("recipe", recipe, RECIPES)
    parts = {part: dict(getattr(RECIPES[recipe], part)) for part in Recipe._fields[1:]}
    known = having(parts["model"].get("weights"))
    network = model_config(model)
    if known is not None and not (network.backbone in known and fits_weights(network)):
        del parts["model"]["weights"]  # a recipe's weights are for the networks that they fit
    if "num_frames" in MODELS[model]:  # and its frames for those that take any number
        parts["model"].pop("num_frames", None)
    parts["data"] |= OWN_DATA.get(model, {})
    fields = {"name": model}
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in {**given, **parse_pairs(overrides)}.items():
        part, dot, name = key.partition(".")
        if dot:
            check_choice("part of a run", part, parts)
            parts[part][name] = value
        else:
            fields[key] = value
    parts["model"] = model_config(model, **parts["model"])
    parts["data"] = {"name": data, **parts["data"]}
    return RunConfig.from_dict({**fields, **parts})


def needed_steps(classes: int) -> int:
    """About how many steps of training a pretrained network needs, by our trainings of small ones on synthetic clips.

    240 for 3 classes (`benchmarks/own_clips.py`), 480 for 16 (the quickstart). Half of it is too few.
    """
    return max(240, 30 * classes)


def learning_rate(recipe: RecipeConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (from 0): linear over the warm-up epochs, then a cosine to zero.

    It scales with the batch, lr * batch / 64. The authors change it once per epoch. Here it changes with every step,
    so that recipes of few epochs follow the same curve.
    """
    warm = round(recipe.warmup * steps_per_epoch)
    steps = recipe.epochs * steps_per_epoch
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
            if parameter.requires_grad:
                group = norms if isinstance(module, BATCH_NORMS) else biases if name == "bias" else weights
                group.append(parameter)
    return [
        {"params": weights, "weight_decay": weight_decay, "scale": 1.0},
        {"params": norms, "weight_decay": 0.0, "scale": 1.0},
        {"params": biases, "weight_decay": 0.0, "scale": 2.0},
    ]
