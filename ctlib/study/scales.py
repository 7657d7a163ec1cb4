"""The paper's tables at other scales: what stands for a row's networks, and which run is behind it.

A row of `tables.ROWS` is the paper's network. A scale says what stands for it: the data set, the
recipe, the backbone, the size of the frames. Rows of the same configuration are one run, whatever their tables.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ctlib.config import ModelConfig, RunConfig, check_choice
from ctlib.data.arrow import CLASSES
from ctlib.models import MODELS, model_config
from ctlib.study import tables
from ctlib.study.tables import Network
from ctlib.training import records
from ctlib.training.recipes import run_config

TABLES = ("2a", "2b", "2c", "2d", "2e", "2f", "2g", "2h", "6", "7", "8")  # the paper's ablations


class Scale(NamedTuple):
    """What stands for the paper's data, recipe, backbones and sizes."""

    about: str
    data: str  # a name of `data.catalog.DATASETS`
    recipe: str  # a name of `recipes.RECIPES`
    size: int  # pixels, for the paper's 256; its 224 is in proportion
    inception_size: int  # pixels, for InceptionV3's 299
    backbones: dict[str, str]  # the paper's backbone -> this scale's
    width: int = 64  # of the first stage of its ResNet
    others: dict[str, tuple[str, str]] = {}  # table -> data set and recipe, where the paper's table has another
    minutes: float = 0.0  # that a run of the full CT-Net takes, on what `about` names; 0: not measured
    gpus: int = 0  # that a run needs


_AS_IN_THE_PAPER = {"resnet50": "resnet50", "inception_v3": "inception_v3"}
SCALES: dict[str, Scale] = {
    "laptop": Scale(
        "the built-in data, ResNet-50's blocks at a quarter of its width; two CPU cores",
        "arrow",
        "study",
        size=48,
        inception_size=80,
        backbones={"resnet50": "laptop", "inception_v3": "laptop_inception"},
        width=16,
        minutes=9.0,
    ),
    "gpu": Scale(
        "more and harder built-in data, the paper's networks without ImageNet weights; one GPU",
        "arrow",
        "single-gpu",
        size=112,
        inception_size=130,
        backbones=_AS_IN_THE_PAPER,
        gpus=1,
    ),
    "paper": Scale(
        "the paper's data, recipe and networks; several GPUs for days",
        "something-v1",
        "something",
        size=256,
        inception_size=299,
        backbones=_AS_IN_THE_PAPER,
        others={"7": ("mini-kinetics-200", "kinetics")},
        gpus=1,
    ),
}

REAL = ("something-v1", "mini-kinetics-200")  # data sets of the scales that must be had, each with its folder

# The row that a table's others are held against: what the paper goes on with.
REFERENCES = {
    "2a": "CT-Module",
    "2b": "2D",
    "2c": "parallel",
    "2d": "C_2 = floor(sqrt(C))",
    "2e": "+7 stage2-5",
    "2f": "C1 3x3x3, C2 3x3x3",
    "2g": "+CT-Module+PWConv+TE",
    "2h": "train 256, test 256",
    "6": "CT-Net 8",
    "7": "CT-Module",
    "8": "CT-Net ResNet-50",
}


def root_parameter(data: str) -> str:
    """What the folder of a real data set is called among the parameters of notebooks/ablation.ipynb."""
    return f"{data.replace('-', '_')}_root"


def check(table: str, scale: str) -> None:
    """Raise ValueError for an unknown table or scale, naming those that exist."""
    check_choice("table", table, TABLES)
    check_choice("scale", scale, SCALES)


def remark(table: str, scale: str, overrides: str = "") -> str:
    """How a table's rows were brought to a scale, where that is more than its data, recipe, backbone and size.

    Raises:
        ValueError: an unknown table or scale.
    """
    check(table, scale)
    chosen, told = resized(scale, overrides), []
    grids = [network.config.dims for networks in tables.ROWS[table].values() for network in networks]
    sizes = sorted({size for dims in grids if isinstance(dims, tuple) for size in dims if size > 0})
    stand = [f"{_second(size, chosen)} for {size}" for size in sizes if _second(size, chosen) != size]
    if stand:
        told.append(
            "a sub-dimension's size keeps its ratio to sqrt(C), which goes with the root of the width: "
            + ", ".join(stand + (["1 stays 1"] if 1 in sizes else []))
        )
    if table == "2h" and chosen.size != 256:
        small, large = (_pixels(chosen, "resnet50", size) for size in (224, 256))
        told.append(f"{small} and {large} pixels stand for 224 and 256")
    if table == "2h":
        told.append("the second row is the first one's network, tested at the larger size")
    if table == "6":
        told.append("several views and ensembles are tests of the same four trained networks")
        if chosen.data == "arrow":
            told.append("rows of three crops are left out: the built-in videos are square, so that three would be one")
    if table == "7":
        told.append(
            f"on {chosen.others[table][0]}, in 8 frames and one view (the paper tests these in several clips, and "
            "does not say how many); the column of Something-Something V2 is not run"
            if table in chosen.others
            else "no second data set is trained on: these are the runs of Table 2a, reported once more"
        )
    if table == "8" and chosen.inception_size != 299:
        told.append(f"InceptionV3 sees {chosen.inception_size} pixels for its 299")
    if table == "8" and chosen.width != 64:
        told.append("and has a quarter of its channels")
    return "; ".join(told)


def rows(table: str, scale: str, chosen: Sequence[str] = ()) -> dict[str, tuple[Network, ...]]:
    """The rows of a table that a scale can show, as the paper's networks.

    Args:
        table: "2a" to "2h", "6", "7" or "8".
        scale: a name of `SCALES`.
        chosen: names of rows; empty: all.

    Raises:
        ValueError: an unknown table, row or scale; those that exist are named.
    """
    check(table, scale)
    square = SCALES[scale].data == "arrow"
    found = {
        row: networks
        for row, networks in tables.ROWS[table].items()
        if not (square and any(network.crops > 1 for network in networks))
    }
    for row in chosen:
        check_choice(f"row of Table {table}", row, found)
    return {row: networks for row, networks in found.items() if not chosen or row in chosen}


class Training(NamedTuple):
    """One run of the study."""

    config: RunConfig  # named by what differs from the scale's full CT-Net

    def folder(self, out_dir: str | Path) -> records.RunFolder:
        return records.RunFolder.of(self.config, Path(out_dir) / "runs")


def training(
    network: Network,
    table: str,
    scale: str,
    seed: int = 0,
    overrides: str = "",
    roots: dict[str, str] | None = None,
    **given,
) -> Training:
    """The run that stands for one of the paper's networks.

    Args:
        network: of `tables.ROWS`.
        table: that the row is of; it may say which data set.
        scale: a name of `SCALES`.
        seed: of the run.
        overrides: what differs from the scale's recipe, as `recipes.run_config` takes it. Of it, `data.size` is
            what stands for the paper's 256, and all sizes go with it.
        roots: data set -> its folder.
        given: as `recipes.run_config` takes it.

    Raises:
        ValueError: an unknown scale or name in `overrides`, or overrides of what the rows differ in.
    """
    chosen = resized(scale, overrides)
    data, recipe = chosen.others.get(table, (chosen.data, chosen.recipe))
    size = network.train_size or network.size
    model, _ = stand_in(network, chosen)
    set_here = {f"model.{part}": getattr(model, part) for part in tables.PARTS}
    set_here |= protocol(network._replace(size=size, clips=1, crops=1), chosen)
    others = [pair for pair in overrides.split() if not pair.startswith(_SIZE)]
    clashing = [pair for pair in others if pair.partition("=")[0] in set_here]
    if clashing:
        raise ValueError(f"overrides may not set what the rows say: leave out {' '.join(clashing)}")
    config = run_config(
        data,
        _base(model),
        recipe,
        " ".join(others),
        name=_run_name(model, chosen, set_here["data.size"], data),
        seed=seed,
        **{"data.root": (roots or {}).get(data), "model.num_classes": model.num_classes, **given, **set_here},
    )
    return Training(config)


def protocol(network: Network, scale: Scale) -> dict[str, int]:
    """How a network is tested at a scale: size, short_side, clips and crops, as fields of "data"."""
    size = _pixels(scale, network.config.backbone, network.size)
    # The authors crop 224 pixels from frames of 256, and 256 from frames of 256.
    short_side = _pixels(scale, network.config.backbone, 256) if network.size == 224 else size
    return {"data.size": size, "data.short_side": short_side, "data.clips": network.clips, "data.crops": network.crops}


def _pixels(scale: Scale, backbone: str, size: int) -> int:
    """What stands for the paper's `size` pixels."""
    if backbone == "inception_v3":
        return round(size * scale.inception_size / 299)
    return round(size * scale.size / 256)


def _second(size: int, scale: Scale) -> int:
    """What stands for a sub-dimension of `size`: sqrt(C) goes with the root of the width, and so does this."""
    return max(1, round(size * math.sqrt(scale.width / 64)))


def stand_in(network: Network, scale: Scale) -> tuple[ModelConfig, int]:
    """What stands for one of the paper's networks, and the pixels it is tested at; of two spellings always one."""
    config = network.config
    check_choice("backbone of a scale", config.backbone, scale.backbones)
    dims, kernels = config.dims, config.kernels
    if isinstance(dims, tuple):
        dims = tuple(size if size < 0 else _second(size, scale) for size in dims)
    if isinstance(kernels[0], tuple) and len(set(kernels)) == 1:
        kernels = kernels[0]
    classes = len(CLASSES) if scale.data == "arrow" else config.num_classes  # of real data, when they are read
    model = dataclasses.replace(
        config, num_classes=classes, backbone=scale.backbones[config.backbone], dims=dims, kernels=kernels
    )
    return model, _pixels(scale, config.backbone, network.size)


def _base(model: ModelConfig) -> str:
    """The CT-Net or TSN in `models.MODELS` on this network's backbone."""
    kind = "tsn" if model.blocks == "none" else "ctnet"
    return next(name for name, parts in MODELS.items() if name.startswith(kind) and parts["backbone"] == model.backbone)


def _run_name(model: ModelConfig, scale: Scale, size: int, data: str) -> str:
    """What a run is called: the kind of network, and what differs from the scale's full CT-Net, between underscores."""
    base = model_config(_base(model))
    kind = "tsn" if model.blocks == "none" else "ctnet" if model.module == "ct" else model.module
    told = ["inception"] if "inception" in model.backbone else []
    if not model.pointwise and model.excitation == "none":
        told.append("plain")  # the CT-Module alone
    else:
        told += [] if model.pointwise else ["no-pointwise"]
        gate = {"te": [], "none": ["no-excitation"]}
        told += gate.get(model.excitation, [model.excitation])
    told += [f"{model.dims}d"] if isinstance(model.dims, int) and model.dims != base.dims else []
    told += [_told("dims", model.dims)] if isinstance(model.dims, tuple) else []
    told += [_told("kernels", model.kernels)] if model.kernels != base.kernels else []
    told += [model.connection] if model.connection != base.connection else []
    told += [_told("blocks", model.blocks)] if model.blocks != base.blocks else []
    told += [f"{model.num_frames}frames"] if model.num_frames != base.num_frames else []
    told += [f"{size}px"] if size not in (scale.size, scale.inception_size) else []
    told += [data] if data != scale.data else []
    return "_".join([kind, *told])


def _told(part: str, value) -> str:
    """A part and its value as a piece of a folder's name: ((1, 1, 1), (3, 3, 3)) is 1x1x1-3x3x3."""
    text = str(value).replace("-1", "rest").replace("), (", " ").replace(", ", "x")
    return "-".join([part, *re.findall(r"\w+", text)])


def resized(scale: str, overrides: str = "") -> Scale:
    """A scale by its name, at the size that the overrides' `data.size` says stands for the paper's 256.

    Raises:
        ValueError: an unknown scale, or a size that is no number of pixels from 16.
    """
    check_choice("scale", scale, SCALES)
    chosen = SCALES[scale]
    sizes = [pair.removeprefix(_SIZE) for pair in overrides.split() if pair.startswith(_SIZE)]
    if not sizes:
        return chosen
    if not sizes[-1].isdecimal() or int(sizes[-1]) < 16:
        raise ValueError(f"data.size must be a number of pixels from 16, got {sizes[-1]!r}")
    inception = max(75, round(int(sizes[-1]) * chosen.inception_size / chosen.size))
    return chosen._replace(size=int(sizes[-1]), inception_size=inception)


_SIZE = "data.size="
