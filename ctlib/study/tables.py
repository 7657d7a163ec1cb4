"""The paper's tables as data: the networks behind each row, and the published costs beside our counts."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ctlib import cost, paper
from ctlib.backbones import INCEPTION_BLOCKS
from ctlib.config import ModelConfig, check_choice, parse_pairs, split_pairs
from ctlib.models import build_model, model_config


class Network(NamedTuple):
    """A network and how it is tested; T is its configuration's `num_frames`."""

    config: ModelConfig
    size: int = 256  # pixels, height and width in testing
    train_size: int | None = None  # pixels in training; None: as in testing
    clips: int = 1  # test clips per video
    crops: int = 1  # test crops per clip


Rows = Mapping[str, Mapping[str, tuple[Network, ...]]]  # table -> row -> its networks, several in an ensemble


def _ctnet(size: int = 256, name: str = "ctnet_r50", train_size: int | None = None, **parts) -> tuple[Network, ...]:
    return (Network(model_config(name, **parts), size, train_size),)


def _ensemble(*frames: int, views: str = "") -> tuple[Network, ...]:
    """CT-Nets of several numbers of frames; views as Table 6 writes them: x crops x clips."""
    crops, clips = map(int, views.split("x")[1:]) if views else (1, 1)
    configs = [model_config("ctnet_r50", num_frames=count) for count in frames]
    return tuple(Network(config, clips=clips, crops=crops) for config in configs)


def _kinetics(*names: str) -> tuple[Network, ...]:
    return tuple(Network(model_config(name, **_KINETICS), clips=4, crops=3) for name in names)


_PLAIN = {"pointwise": False, "excitation": "none"}  # the CT-Module alone, which most of Table 2 studies
_TSN = {"name": "tsn_r50"}
_KINETICS = {"num_classes": 400, "num_frames": 16}
_1, _3, _5 = (1, 1, 1), (3, 3, 3), (5, 5, 5)  # kernels

FULL = Network(model_config("ctnet_r50"))  # the full CT-Net on ResNet-50, from which the rows differ

_MODULES = {
    "C3D-Module": _ctnet(module="c3d"),
    "R(2+1)D-Module": _ctnet(module="r2plus1d"),
    "CSN-Module": _ctnet(module="csn"),
    "CT-Module": _ctnet(**_PLAIN),
}
_VIEWS = ("", "x1x2", "x3x2")  # crops x clips, as Table 6 writes them

# Each row that this code can build. The name of a row also finds its published numbers: `paper.table(table).loc[row]`.
# A custom row is one more entry with a name that the paper does not have; in "2b": "8D": _ctnet(dims=8, **_PLAIN).
# Table 5 and the other rows of Tables 3 and 4 are networks of other papers, or have no published cost.
ROWS: Rows = {
    "2a": _MODULES,
    "2b": {f"{k}D": _ctnet(dims=k, **_PLAIN) for k in (1, 2, 3, 4)},
    "2c": {name: _ctnet(connection=name, **_PLAIN) for name in ("coupling", "serial", "parallel")},
    "2d": {
        **{f"C_2 = {size}": _ctnet(dims=(-1, size), **_PLAIN) for size in (1, 4, 16)},
        "C_2 = floor(sqrt(C))": _ctnet(**_PLAIN),
    },
    "2e": {
        "+0 (TSN)": _ctnet(**_TSN),
        "+1 stage5": _ctnet(blocks="stage5", **_PLAIN),
        "+4 stage4-5": _ctnet(blocks="stage4-5", **_PLAIN),
        "+6 stage3-5": _ctnet(blocks="stage3-5", **_PLAIN),
        "+7 stage2-5": _ctnet(blocks="stage2-5", **_PLAIN),
        "+12 stage2-5": _ctnet(blocks="all but first", **_PLAIN),
    },
    "2f": {
        "C1 1x1x1, C2 3x3x3": _ctnet(kernels=(_1, _3), **_PLAIN),
        "C1 1x1x1, C2 5x5x5": _ctnet(kernels=(_1, _5), **_PLAIN),
        "C1 3x3x3, C2 3x3x3": _ctnet(kernels=(_3, _3), **_PLAIN),
        "C1 3x3x3, C2 5x5x5": _ctnet(kernels=(_3, _5), **_PLAIN),
        "C1 5x5x5, C2 5x5x5": _ctnet(kernels=(_5, _5), **_PLAIN),
    },
    "2g": {
        "Baseline (TSN)": _ctnet(**_TSN),
        "+CT-Module": _ctnet(**_PLAIN),
        "+CT-Module+PWConv": _ctnet(excitation="none"),
        "+CT-Module+PWConv+SE": _ctnet(excitation="se"),
        "+CT-Module+PWConv+TE": _ctnet(),
    },
    "2h": {
        "train 224, test 224": _ctnet(224),
        "train 224, test 256": _ctnet(256, train_size=224),
        "train 256, test 256": _ctnet(256),
    },
    "3": {
        **{f"TSN, {frames} frames": _ctnet(224, num_frames=frames, **_TSN) for frames in (8, 16)},
        "CT-Net R50, 8 frames": _ensemble(8),
        "CT-Net R50, 8x3x2": _ensemble(8, views="x3x2"),
        "CT-Net R50, 16 frames": _ensemble(16),
        "CT-Net R50, 16x3x2": _ensemble(16, views="x3x2"),
        "CT-Net_EN, 8+12+16+24 frames": _ensemble(8, 12, 16, 24),
    },
    "4": {
        "CT-Net R50": _kinetics("ctnet_r50"),
        "CT-Net R101": _kinetics("ctnet_r101"),
        "CT-Net_EN R50+R101": _kinetics("ctnet_r50", "ctnet_r101"),
    },
    "6": {
        **{f"CT-Net {frames}{views}": _ensemble(frames, views=views) for views in _VIEWS for frames in (8, 12, 16, 24)},
        "CT-Net_EN 8+16": _ensemble(8, 16),
        "CT-Net_EN 8+12+16+24": _ensemble(8, 12, 16, 24),
        **{f"CT-Net_EN (8+12+16+24){views}": _ensemble(8, 12, 16, 24, views=views) for views in _VIEWS[1:]},
    },
    "7": _MODULES,
    "8": {
        "TSN ResNet-50": _ctnet(**_TSN),
        "CT-Net ResNet-50": _ctnet(),
        "TSN InceptionV3": _ctnet(299, "tsn_inception_v3"),
        "CT-Net InceptionV3": _ctnet(299, "ctnet_inception_v3"),
    },
}

TABLES = ("2a", "2b", "2c", "2d", "2e", "2f", "2g", "2h", "6", "7", "8")  # the paper's ablations

# The row of each ablation that the others are compared with: the setting that the paper chooses.
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

# How a table is run at scales other than the paper's, beyond data, recipe, backbone and size.
REMARKS = {
    "2d": "At another width, the size of a sub-dimension keeps its ratio to the square root of C.",
    "2g": "At scale laptop a gate of TE reduces channels by 2, not by 4, where a group would keep fewer than two.",
    "2h": "Sizes keep the proportion of 224 to 256 pixels. The second row is the first row's network, tested larger.",
    "6": "Several views and ensembles are tests of the same four trained networks. Rows with three crops need the "
    "paper's data: the built-in videos are square, so three crops would be one.",
    "7": "On the built-in data these are the runs of Table 2a, as there is no second data set. At scale paper they are "
    "trained on Mini-Kinetics-200 and tested with 8 frames in one view; the paper does not say with how many clips it "
    "tests. The column of Something-Something V2 is not run.",
    "8": "InceptionV3 sees 80 pixels at scale laptop and 130 at scale gpu, in place of 299. At scale laptop it has a "
    "quarter of its channels.",
}

# The parts in which rows differ. A scale decides the backbone, a recipe dropout and weights, the data the classes.
PARTS = ("num_frames", "blocks", "module", "dims", "kernels", "connection", "pointwise", "excitation")


def with_custom_row(table: str, text: str) -> Rows:
    """`ROWS` with one more row: the table's base (`base`) with other parts, "name: part=value part=value".

    Values are JSON, or text: "wide: kernels=[[5,3,3],[3,3,3]] excitation=se". A row with another module than the
    CT-Module, or without blocks, has none of the CT-Module's parts.

    Raises:
        ValueError: no name or no part, a name that the table has, or a part that is not in `PARTS`.
        TypeError: a value of another type.
    """
    check_choice("table", table, TABLES)
    name, _, pairs = (part.strip() for part in text.partition(":"))
    given = split_pairs(pairs)
    parts = {pair.partition("=")[0] for pair in given}
    if not name or not given or len(parts) < len(given) or not all("=" in pair for pair in given):
        raise ValueError(f"a custom row is 'name: part=value ...', each part once, got {text!r}")
    for part in sorted(parts):
        check_choice("part of a row", part, PARTS)
    if name in ROWS[table]:
        raise ValueError(f"Table {table} has a row {name!r}: give yours another name")
    values = parse_pairs(" ".join(f"model.{pair}" for pair in given))
    values = {key.removeprefix("model."): value for key, value in values.items()}
    network, ct_module = base(table), values.get("module", "ct") == "ct" and values.get("blocks") != "none"
    own = {part: getattr(network.config, part) for part in PARTS if ct_module or part not in _OF_CT_MODULE}
    config = model_config("ctnet_r50", **own | values)
    return {**ROWS, table: {**ROWS[table], name: (network._replace(config=config),)}}


_OF_CT_MODULE = ("dims", "kernels", "connection", "pointwise", "excitation")


def base(table: str) -> Network:
    """The network from which a table's custom rows start: that of the row that the paper chooses."""
    return ROWS[table][REFERENCES[table]][0]


def parts(rows: Mapping[str, tuple[Network, ...]], full: Network = FULL) -> pd.DataFrame:
    """In which parts each row's networks differ from the full CT-Net.

    Returns:
        DataFrame of texts: one row per row, one column per part in which one of them differs; empty where a row has
        the part of the full CT-Net, several values joined by " + " in an ensemble.
    """
    usual, texts = _parts_of(full), {}
    for row, networks in rows.items():
        each = [_parts_of(network) for network in networks]
        texts[row] = {part: " + ".join(dict.fromkeys(one[part] for one in each)) for part in usual}
    table = pd.DataFrame.from_dict(texts, orient="index", columns=list(usual))
    differs = table != pd.Series(usual)
    return table.where(differs, "").loc[:, differs.any()]


def _parts_of(network: Network) -> dict[str, str]:
    config = network.config
    values = {part: _written(getattr(config, part)) for part in ("backbone", *PARTS)}
    if not isinstance(config.blocks, str):
        values["blocks"] = f"{len(config.blocks)} convolutions"
    values["trained at"] = f"{network.train_size or network.size} pixels"
    values["tested at"] = f"{network.size} pixels"
    return values | {"clips": str(network.clips), "crops": str(network.crops)}


def _written(value) -> str:
    """A part's value: tuples without spaces, kernels as the paper writes them."""
    if isinstance(value, tuple):
        if all(isinstance(one, tuple) for one in value):
            each = list(map(_written, value))
            return " and ".join(each if len(set(each)) > 1 else each[:1])
        return "x".join(map(str, value)) if len(value) == 3 else str(value).replace(" ", "")
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


# Rows whose count rests on a guess, or does not meet the published one.
_R101 = (
    "The paper does not say which 7 of stage 4's 23 blocks were replaced. Here it is every third block (2, 5, ..., 20 "
    "from 0), as any 7 cost the same. Every other block (11) would be 138.5 GFLOPs."
)
NOTES: dict[tuple[str, str], str] = {
    ("6", "CT-Net 16x1x2"): (
        "It cannot be met: two views of the 16-frame network (74.6 in Table 4) are 149, and a third of the paper's own "
        "447 for six views is 149 too. We take 151 for a misprint."
    ),
    ("4", "CT-Net R101"): _R101,
    ("4", "CT-Net_EN R50+R101"): _R101,
    ("8", "CT-Net InceptionV3"): (
        "The paper does not say which convolutions were replaced. Of all choices among the ten 3x3 convolutions that "
        f"keep the size, these meet both numbers best: {', '.join(INCEPTION_BLOCKS)}. They differ by 0.09 GFLOPs and "
        "0.07M parameters; the next best (0.10 and 0.10) has Conv2d_2b_3x3 in place of two of the branch3x3dbl_2."
    ),
}

# InceptionV3's ten 3x3 convolutions that keep the size, by kind: one of each kind, and how many there are.
INCEPTION_KINDS = {
    "Conv2d_2b_3x3": 1,  # 32 -> 64 channels, at 147 x 147
    "Mixed_5b.branch3x3dbl_2": 4,  # 64 -> 96, at 35 x 35; also in Mixed_5c, 5d and 6a
    "Mixed_5b.branch3x3dbl_3": 3,  # 96 -> 96, at 35 x 35; also in Mixed_5c and 5d
    "Mixed_7b.branch3x3dbl_2": 2,  # 448 -> 384, at 8 x 8; also in Mixed_7c
}


def inception_placements() -> pd.DataFrame:
    """Every choice among InceptionV3's 3x3 convolutions, ordered by how near it comes to both numbers of Table 8.

    What replacing one convolution saves does not depend on the others, so a choice is how many of each kind are
    replaced.

    Returns:
        One row per choice, the nearest first: how many of each kind of `INCEPTION_KINDS`, `gflops`, `params` (a
        count), and `miss`: the larger of the two distances, in units of 0.1 GFLOPs and 0.1M parameters.
    """
    published = paper.table("8").loc["CT-Net InceptionV3"]
    none = counted(model_config("tsn_inception_v3"), 299)
    one = {kind: counted(model_config("ctnet_inception_v3", blocks=(kind,)), 299) for kind in INCEPTION_KINDS}
    choices = pd.MultiIndex.from_product([range(most + 1) for most in INCEPTION_KINDS.values()], names=INCEPTION_KINDS)
    table = choices.to_frame(index=False)
    table["gflops"] = none.gflops + sum(table[kind] * (one[kind].gflops - none.gflops) for kind in INCEPTION_KINDS)
    table["params"] = none.params + sum(table[kind] * (one[kind].params - none.params) for kind in INCEPTION_KINDS)
    misses = (table.gflops - published.gflops).abs() / 0.1, (table.params / 1e6 - published.params_m).abs() / 0.1
    table["miss"] = np.maximum(*misses)
    return table.sort_values("miss", ignore_index=True)


@functools.cache
def counted(config: ModelConfig, size: int) -> cost.Cost:
    """The cost of one view of a network, counted on shapes alone."""
    with torch.device("meta"):  # no weight is drawn or read
        network = build_model(dataclasses.replace(config, weights=None))
    return cost.count(network, config.num_frames, size)


# Which columns of a table print GFLOPs, whether of all views, and half of the last digit printed.
_PRINTED = {
    "3": [("gflops_total", True, 0.5)],
    "4": [("gflops_view", False, 0.05), ("gflops_total", True, 0.5)],
    "6": [("gflops_total", True, 0.5)],
}


def ledger(tables: Iterable[str] = tuple(ROWS)) -> pd.DataFrame:
    """Every published cost that this code can build, with our count beside it.

    GFLOPs are as the paper's row gives them: of all views and networks in Tables 3 and 6, of one view elsewhere.
    Table 4 prints both, so its rows are here twice. Parameters are counts, of all networks of an ensemble.

    Returns:
        One row per published number: `table`, `row`, `gflops_paper`, `gflops`, `params_paper`, `params`, `frames`,
        `size` (pixels), `views` (that the GFLOPs are of), `note`, `gflops_allowed` (the largest of 0.1, half of the
        last printed digit and 0.2 %), `gflops_meets` and `params_meets` (within 0.1M). Values are missing where the
        paper prints none.
    """
    records = [record for table in tables for record in _records(table)]
    table = pd.DataFrame(records).astype({"gflops_paper": "Float64", "params_paper": "Int64"})
    allowed = pd.concat([0.002 * table.gflops_paper, table.pop("last_digit").clip(lower=0.1)], axis=1).max(axis=1)
    table["gflops_allowed"] = allowed.where(table.gflops_paper.notna())
    table["gflops_meets"] = (table.gflops - table.gflops_paper).abs() <= table.gflops_allowed
    table["params_meets"] = (table.params - table.params_paper).abs() <= 100_000
    return table


def _records(table: str) -> Iterable[dict]:
    published = paper.table(table)
    for row, networks in ROWS[table].items():
        if row not in published.index:
            continue
        printed = published.loc[row]
        counts = [counted(network.config, network.size) for network in networks]
        for column, of_all_views, last_digit in _PRINTED.get(table, [("gflops", False, 0.05)]):
            again = table == "4" and of_all_views
            views = int(printed["views"]) if of_all_views else 1
            yield {
                "table": table,
                "row": f"{row}, {views} views" if again else row,
                "gflops_paper": printed.get(column, math.nan),
                "gflops": views * sum(count.gflops for count in counts),
                "params_paper": round(1e6 * printed.get("params_m", math.nan), 0),
                "params": sum(count.params for count in counts),
                "frames": "+".join(str(network.config.num_frames) for network in networks),
                "size": networks[0].size,
                "views": views,
                "last_digit": last_digit,
                "note": "" if again else NOTES.get((table, row), ""),
            }
