"""The study at several scales: which scaled network replaces a row's network, and as which run it is trained.

A row of `tables.ROWS` is the paper's network. A scale says which data set, recipe, backbone and frame size replace
the paper's. Rows of the same configuration are one run, whatever their tables.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ctlib import files
from ctlib.config import (
    ArrowConfig,
    Config,
    ModelConfig,
    RunConfig,
    check_choice,
    flat,
    parse_pairs,
    split_pairs,
    unquoted,
)
from ctlib.data.actions import class_names
from ctlib.models import MODELS, model_config
from ctlib.study.tables import PARTS, ROWS, TABLES, Network, Rows, base
from ctlib.training.recipes import RECIPES, run_config

REAL = ("something-v1", "mini-kinetics-200")  # the data sets of the scale paper; each needs its folder


class Scale(NamedTuple):
    """What replaces the paper's data, recipe, backbones and sizes."""

    about: str
    data: str  # a name of `data.catalog.DATASETS`
    recipe: str  # a name of `recipes.RECIPES`
    size: int  # pixels, for the paper's 256; its 224 is in proportion
    inception_size: int  # pixels, for InceptionV3's 299
    backbones: dict[str, str]  # the paper's backbone -> this scale's
    width: int = 64  # channels of the first stage of its ResNet
    others: dict[str, tuple[str, str]] = {}  # table -> data set and recipe, where the paper's table has another
    minutes: float = 0.0  # of a run of the full CT-Net beside another, where `about` says; 0: not measured
    gpus: int = 0  # per run

    def pixels(self, size: int, backbone: str) -> int:
        """What replaces the paper's `size`."""
        if backbone == "inception_v3":
            return round(size * self.inception_size / 299)
        return round(size * self.size / 256)

    def replace(self, network: Network) -> Network:
        """The scaled network that replaces one of the paper's; equal networks have one spelling."""
        config = network.config
        check_choice("backbone of a scale", config.backbone, self.backbones)
        dims, kernels = config.dims, config.kernels
        if isinstance(dims, tuple):  # a size keeps its ratio to sqrt(C), which grows with the root of the width
            dims = tuple(size if size < 0 else max(1, round(size * math.sqrt(self.width / 64))) for size in dims)
        if isinstance(kernels[0], tuple) and len(set(kernels)) == 1:
            kernels = kernels[0]
        classes = config.num_classes
        if self.data == "arrow":
            classes = len(class_names(RECIPES[self.recipe].arrow.get("actions", ArrowConfig.actions)))
        backbone = self.backbones[config.backbone]
        scaled = dataclasses.replace(config, num_classes=classes, backbone=backbone, dims=dims, kernels=kernels)
        train_size = network.train_size and self.pixels(network.train_size, config.backbone)
        return network._replace(config=scaled, size=self.pixels(network.size, config.backbone), train_size=train_size)


_AS_IN_THE_PAPER = {"resnet50": "resnet50", "inception_v3": "inception_v3"}
SCALES: dict[str, Scale] = {
    "laptop": Scale(
        "the built-in data, ResNet-50's blocks at a quarter of its width; two CPU cores",
        "arrow",
        "study",
        size=64,
        inception_size=80,
        backbones={"resnet50": "laptop", "inception_v3": "laptop_inception"},
        width=16,
        minutes=15.0,
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


def parse_roots(text: str, known: Iterable[str] = REAL) -> dict[str, str]:
    """The folders that "something-v1=~/sthv1 mini-kinetics-200=~/k400" names, relative to the project's root or not.

    Raises:
        ValueError: something else, or a data set that is not `known`.
    """
    roots = {}
    for pair in split_pairs(text):
        data, equals, root = pair.partition("=")
        if not equals or not root:
            raise ValueError(f"roots are data=folder separated by spaces, got {pair!r}")
        check_choice("data set of roots", data, known)
        roots[data] = files.portable(files.project_root() / Path(unquoted(root)).expanduser())
    return roots


def split_overrides(overrides: str, section: str, kind: type[Config]) -> tuple[str, Config]:
    """Overrides of the recipe, and the configuration that their "section.name=value" pairs give.

    Raises:
        ValueError: as `config.parse_pairs`, or an unknown name; TypeError: a value of another type.
    """
    pairs, start = split_pairs(overrides), f"{section}."
    own = parse_pairs(" ".join(pair for pair in pairs if pair.startswith(start)))
    given = kind.from_dict({key.removeprefix(start): value for key, value in own.items()})
    return " ".join(pair for pair in pairs if not pair.startswith(start)), given


class Views(NamedTuple):
    """How a trained network is tested: fields of `config.DataConfig`."""

    size: int
    short_side: int
    clips: int
    crops: int


@dataclass(frozen=True)
class Study:
    """A scale, and what differs from it."""

    scale: str = "laptop"  # a name of `SCALES`
    overrides: str = ""  # as in `recipes.run_config`; of these, data.size replaces the paper's 256, and scales the rest
    roots: dict[str, str] = field(default_factory=dict)  # real data set -> its folder
    device: str = ""  # of `config.ComputeConfig`; empty: as the recipe says. It makes no other study
    all_rows: Rows = field(default_factory=lambda: ROWS)  # or `tables.with_custom_row`

    def __post_init__(self):
        check_choice("scale", self.scale, SCALES)

    def record(self) -> dict[str, str]:
        """What the records of a study keep of it; the overrides in one order."""
        return {"scale": self.scale, "overrides": " ".join(sorted(split_pairs(self.overrides)))}

    def check_same(self, held: Mapping, folder: Path) -> None:
        """Raise ValueError unless the `record` that a folder holds is of this study."""
        for key, asked in self.record().items():
            if held[key] != asked:
                other = f"{key} {held[key]!r}, and {asked!r} was asked for"
                raise ValueError(f"{folder} holds another study ({other}): choose another folder")

    @property
    def sized(self) -> Scale:
        """The scale, with the size that the overrides give.

        Raises:
            ValueError: a size below 16 pixels, or no number.
        """
        chosen, given = SCALES[self.scale], parse_pairs(self.overrides)
        if "data.size" not in given:
            return chosen
        size = given["data.size"]
        if not isinstance(size, int) or size < 16:
            raise ValueError(f"data.size must be a number of pixels from 16, got {size!r}")
        inception = max(75, round(size * chosen.inception_size / chosen.size))
        return chosen._replace(size=size, inception_size=inception)

    def rows(self, table: str, chosen: Sequence[str] = ()) -> dict[str, tuple[Network, ...]]:
        """The rows of a table that the scale can show, as the paper's networks.

        Args:
            chosen: names of rows; empty: all.

        Raises:
            ValueError: an unknown table or row.
        """
        check_choice("table", table, TABLES)
        square = SCALES[self.scale].data == "arrow"  # three crops of its square videos would be one
        shown = {
            row: networks
            for row, networks in self.all_rows[table].items()
            if not (square and any(network.crops > 1 for network in networks))
        }
        for row in chosen:
            check_choice(f"row of Table {table}", row, shown)
        return {row: networks for row, networks in shown.items() if not chosen or row in chosen}

    def views(self, network: Network) -> Views:
        """How a network of the paper is tested at this scale."""
        scale, backbone = self.sized, network.config.backbone
        size = scale.pixels(network.size, backbone)
        # The authors crop 224 pixels from frames of 256, and 256 from frames of 256.
        short_side = scale.pixels(256, backbone) if network.size == 224 else size
        return Views(size, short_side, network.clips, network.crops)

    def run(self, network: Network, table: str, seed: int = 0) -> RunConfig:
        """The run that trains what replaces a network of the paper, named by its difference from the full CT-Net.

        The table counts where a scale has other data for it.

        Raises:
            ValueError: an unknown name in the overrides, or overrides of what the rows differ in.
        """
        scale = self.sized
        data, recipe = scale.others.get(table, (scale.data, scale.recipe))
        model = scale.replace(network).config
        as_trained = network._replace(size=network.train_size or network.size, clips=1, crops=1)
        set_here = {f"model.{part}": getattr(model, part) for part in PARTS}
        set_here |= {f"data.{name}": value for name, value in self.views(as_trained)._asdict().items()}
        others = [pair for pair in split_pairs(self.overrides) if not pair.startswith("data.size=")]
        clashing = [pair for pair in others if pair.partition("=")[0] in set_here]
        if clashing:
            raise ValueError(f"overrides may not set what the rows say: leave out {' '.join(clashing)}")
        given = {"data.root": self.roots.get(data), "model.num_classes": model.num_classes}
        given["compute.device"] = self.device or None
        given["name"] = _name(model, scale, set_here["data.size"], data)
        return run_config(data, _base(model), recipe, " ".join(others), seed=seed, **given, **set_here)


def changes(study: Study, table: str) -> pd.DataFrame:
    """What the overrides change in a table's runs: by "part.name", the value of the `scale` and the one `here`."""
    usual, here = (
        dict(flat(one.run(base(table), table).to_dict())) for one in (dataclasses.replace(study, overrides=""), study)
    )
    changed = {key: (usual[key], here[key]) for key in here if usual[key] != here[key]}
    return pd.DataFrame.from_dict(changed, orient="index", columns=["scale", "here"], dtype=object)


def _base(model: ModelConfig) -> str:
    """The CT-Net or TSN in `models.MODELS` on this network's backbone."""
    kind = "tsn" if model.blocks == "none" else "ctnet"
    return next(name for name, parts in MODELS.items() if name.startswith(kind) and parts["backbone"] == model.backbone)


def _name(model: ModelConfig, scale: Scale, size: int, data: str) -> str:
    """The kind of network and its differences from the scale's full CT-Net, joined by underscores."""
    full = model_config(_base(model))
    plain = not model.pointwise and model.excitation == "none"  # the CT-Module alone
    words = [
        ("tsn" if model.blocks == "none" else "ctnet" if model.module == "ct" else model.module, True),
        ("inception", "inception" in model.backbone),
        ("plain", plain),
        ("no-pointwise", not model.pointwise and not plain),
        ("no-excitation" if model.excitation == "none" else model.excitation, model.excitation != "te" and not plain),
        (f"{model.dims}d" if isinstance(model.dims, int) else _word("dims", model.dims), model.dims != full.dims),
        (_word("kernels", model.kernels), model.kernels != full.kernels),
        (model.connection, model.connection != full.connection),
        (_word("blocks", model.blocks), model.blocks != full.blocks),
        (f"{model.num_frames}frames", model.num_frames != full.num_frames),
        (f"{size}px", size not in (scale.size, scale.inception_size)),
        (data, data != scale.data),
    ]
    return "_".join(word for word, differs in words if differs)


def _word(part: str, value) -> str:
    """A part and its value as a piece of a folder's name: ((1, 1, 1), (3, 3, 3)) is 1x1x1-3x3x3."""
    text = str(value).replace("-1", "rest").replace("), (", " ").replace(", ", "x")
    return "-".join([part, *re.findall(r"\w+", text)])
