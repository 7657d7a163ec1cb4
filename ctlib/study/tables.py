"""What is studied, as data: which network stands behind each row of the paper's tables."""

import dataclasses
import functools
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import pandas as pd
import torch

from ctlib import cost, paper
from ctlib.backbones import INCEPTION_BLOCKS
from ctlib.config import ModelConfig, check_choice
from ctlib.models import build_model, model_config


class Network(NamedTuple):
    """A network, tested on frames of `size` x `size` pixels; T is its configuration's `num_frames`."""

    config: ModelConfig
    size: int = 256
    train_size: int | None = None  # pixels, that it is trained at; None: as it is tested
    clips: int = 1  # test clips a video
    crops: int = 1  # test crops a clip


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

_MODULES = {
    "C3D-Module": _ctnet(module="c3d"),
    "R(2+1)D-Module": _ctnet(module="r2plus1d"),
    "CSN-Module": _ctnet(module="csn"),
    "CT-Module": _ctnet(**_PLAIN),
}
_VIEWS = ("", "x1x2", "x3x2")  # crops x clips, as Table 6 writes them

# Each row that this code can build: table -> row -> its networks, several in an ensemble. A row's name is also where
# its published numbers are: `paper.table(table).loc[row]`. A row of one's own is one line more, of a name that the
# paper does not have: in "2b", say, "8D": _ctnet(dims=8, **_PLAIN).
# Table 5 and the other rows of Tables 3 and 4 are networks of other papers, or have no cost.
ROWS: dict[str, dict[str, tuple[Network, ...]]] = {
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


# What a row says of its network. The scale says the backbone, the recipe dropout and weights, the data the classes.
PARTS = ("num_frames", "blocks", "module", "dims", "kernels", "connection", "pointwise", "excitation")


def add_row(table: str, text: str) -> str:
    """Put a row of one's own into `ROWS`: CT-Net on ResNet-50 with parts swapped, "name: part=value part=value".

    Values are JSON without spaces, or text: "wide: kernels=[[5,3,3],[3,3,3]] excitation=se".

    Returns:
        Its name.

    Raises:
        ValueError: no name or no part, a name that the table has, or a part that is none of `PARTS`; TypeError: a
            value of another type.
    """
    name, _, pairs = (part.strip() for part in text.partition(":"))
    parts = dict(pair.split("=", 1) for pair in pairs.split() if "=" in pair)
    if not name or not parts or len(parts) < len(pairs.split()):
        raise ValueError(f"a row of one's own is 'name: part=value ...', each part once, got {text!r}")
    for part, value in parts.items():
        check_choice("part of a row", part, PARTS)
        with suppress(json.JSONDecodeError):  # else it is text
            parts[part] = json.loads(value)
    if name in ROWS[table]:
        raise ValueError(f"Table {table} has a row {name!r}: give yours another name")
    ROWS[table] = ROWS[table] | {name: (Network(model_config("ctnet_r50", **parts)),)}
    return name


def swapped(networks: Iterable[Network]) -> str:
    """In which parts a row's networks differ from CT-Net on ResNet-50 at 8 frames, in words."""
    full, told = model_config("ctnet_r50"), {}
    networks = tuple(networks)
    for network in networks:
        config = network.config
        if config.blocks == "none":
            told["no block replaced (TSN)"] = [""]
        for part in config.to_dict():
            value = getattr(config, part)
            own_blocks = part == "blocks" and (value == "none" or config.backbone != full.backbone)
            if value != getattr(full, part) and part not in ("num_classes", "num_frames") and not own_blocks:
                told.setdefault(part, []).append(_written(value))
        if config.num_frames != full.num_frames or len(networks) > 1:
            told.setdefault("frames", []).append(str(config.num_frames))
        if network.train_size:
            told["trained at"] = [f"{network.train_size} pixels"]
        elif config.backbone == full.backbone and network.size != 256:
            told["trained and tested at"] = [f"{network.size} pixels"]
        if network.clips * network.crops > 1:
            told["clips x crops"] = [f"{network.clips} x {network.crops}"]
    words = [f"{part} {' + '.join(dict.fromkeys(values))}".strip() for part, values in told.items()]
    return ", ".join(words) or "nothing: the full CT-Net"


def _written(value) -> str:
    """A part's value: tuples without blanks, kernels as the paper writes them."""
    if isinstance(value, tuple):
        if all(isinstance(one, tuple) for one in value):
            return " and ".join(map(_written, value))
        return "x".join(map(str, value)) if len(value) == 3 else str(value).replace(" ", "")
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else str(value)


# What a reader should know of a row whose count rests on a guess, or misses.
_R101 = (
    "which 7 of stage 4's 23 blocks were replaced is not published; here every third (2, 5, ..., 20 from 0), as any 7 "
    "cost the same; every other block (11) would be 138.5 GFLOPs"
)
NOTES: dict[tuple[str, str], str] = {
    ("6", "CT-Net 16x1x2"): (
        "cannot be met: two views of the 16-frame network (74.6 in Table 4) are 149, and a third of the paper's own "
        "447 for six views is 149 too; we take 151 for a misprint"
    ),
    ("4", "CT-Net R101"): _R101,
    ("4", "CT-Net_EN R50+R101"): f"R101: {_R101}",
    ("8", "CT-Net InceptionV3"): (
        "which convolutions were replaced is not published. Of all choices among the ten 3x3 convolutions that keep "
        f"the size, these meet both numbers best: {', '.join(INCEPTION_BLOCKS)}. What remains is 0.09 GFLOPs and "
        "0.07M parameters; the runner-up (0.10 and 0.10) has Conv2d_2b_3x3 for two of the branch3x3dbl_2"
    ),
}

# InceptionV3's ten 3x3 convolutions that keep the size, by kind: one of the kind, and how many there are.
INCEPTION_KINDS = {
    "Conv2d_2b_3x3": 1,  # 32 -> 64 channels, at 147 x 147
    "Mixed_5b.branch3x3dbl_2": 4,  # 64 -> 96, at 35 x 35; also in Mixed_5c, 5d and 6a
    "Mixed_5b.branch3x3dbl_3": 3,  # 96 -> 96, at 35 x 35; also in Mixed_5c and 5d
    "Mixed_7b.branch3x3dbl_2": 2,  # 448 -> 384, at 8 x 8; also in Mixed_7c
}


def inception_placements() -> pd.DataFrame:
    """Every choice among InceptionV3's 3x3 convolutions, by how near it comes to both figures of Table 8.

    What replacing one convolution saves does not depend on the others, so a choice is how many of
    each kind are replaced.

    Returns:
        A row a choice, the nearest first: how many of each kind of `INCEPTION_KINDS`, `gflops`, `params` (a
        count), and `miss`: the larger of the two distances, in units of 0.1 GFLOPs and 0.1M parameters.
    """
    published = paper.table("8").loc["CT-Net InceptionV3"]
    none = counted(model_config("tsn_inception_v3"), 299)
    one = {kind: counted(model_config("ctnet_inception_v3", blocks=(kind,)), 299) for kind in INCEPTION_KINDS}
    choices = pd.MultiIndex.from_product([range(most + 1) for most in INCEPTION_KINDS.values()], names=INCEPTION_KINDS)
    table = choices.to_frame(index=False)
    table["gflops"] = none.gflops + sum(table[kind] * (one[kind].gflops - none.gflops) for kind in INCEPTION_KINDS)
    table["params"] = none.params + sum(table[kind] * (one[kind].params - none.params) for kind in INCEPTION_KINDS)
    misses = {
        "gflops": (table.gflops - published.gflops).abs() / 0.1,
        "params": (table.params / 1e6 - published.params_m).abs() / 0.1,
    }
    table["miss"] = pd.DataFrame(misses).max(axis=1)
    return table.sort_values("miss", ignore_index=True)


@functools.cache
def counted(config: ModelConfig, size: int) -> cost.Cost:
    """What one view of a network costs, counted on shapes alone."""
    with torch.device("meta"):  # shapes alone: no weight is drawn or read
        return cost.count(build_model(dataclasses.replace(config, weights=None)), config.num_frames, size)


# Which of a table's columns print GFLOPs, whether of all views, and half of the last digit printed.
_PRINTED = {"3": [("gflops_total", True, 0.5)], "6": [("gflops_total", True, 0.5)]}
_PRINTED["4"] = [("gflops_view", False, 0.05), ("gflops_total", True, 0.5)]


def ledger(tables: Iterable[str] = tuple(ROWS)) -> pd.DataFrame:
    """Every published cost that this code can build, counted beside the published figure.

    GFLOPs are as the paper's row gives them: of all views and networks in Tables 3 and 6, of one view
    elsewhere; Table 4 prints both, so its rows are here twice. Parameters are counts, an ensemble's together.

    Args:
        tables: which; rows that the paper does not have are left out.

    Returns:
        A row a published figure: `table`, `row`, `gflops_paper`, `gflops`, `params_paper`, `params` (published
        ones are missing where the paper prints none), then `frames`, `size` (pixels), `views` (that the
        GFLOPs are of), `note`, `gflops_allowed` (the largest of 0.1, half the last printed digit and 0.2 %),
        `gflops_meets` and `params_meets` (within 0.1M); missing where there is nothing to meet.
    """
    records = []
    for name in tables:
        published = paper.table(name)
        for row, networks in ROWS[name].items():
            if row not in published.index:
                continue
            line = published.loc[row]
            counts = [counted(network.config, network.size) for network in networks]
            params_paper = _number(line.get("params_m"))
            for column, of_all_views, last_digit in _PRINTED.get(name, [("gflops", False, 0.05)]):
                views = int(line["views"]) if of_all_views else 1
                records.append(
                    {
                        "table": name,
                        "row": f"{row}, {views} views" if name == "4" and of_all_views else row,
                        "gflops_paper": _number(line.get(column)),
                        "gflops": views * sum(count.gflops for count in counts),
                        "params_paper": None if params_paper is None else round(1e6 * params_paper),
                        "params": sum(count.params for count in counts),
                        "frames": "+".join(str(network.config.num_frames) for network in networks),
                        "size": networks[0].size,
                        "views": views,
                        "last_digit": last_digit,
                        "note": "" if name == "4" and of_all_views else NOTES.get((name, row), ""),
                    }
                )
    table = pd.DataFrame(records).astype({"gflops_paper": "Float64", "params_paper": "Int64"})
    allowed = pd.concat([0.002 * table.gflops_paper, table.pop("last_digit").clip(lower=0.1)], axis=1).max(axis=1)
    table["gflops_allowed"] = allowed.where(table.gflops_paper.notna())
    table["gflops_meets"] = (table.gflops - table.gflops_paper).abs() <= table.gflops_allowed
    table["params_meets"] = (table.params - table.params_paper).abs() <= 100_000
    return table


def _number(printed) -> float | None:
    return None if printed is None or pd.isna(printed) else float(printed)
