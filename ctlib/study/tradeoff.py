"""Accuracy against cost: the paper's Figure 5, and the same of the study's networks, which are timed in turn."""

import dataclasses
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from adjustText import adjust_text
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox
from torch import nn

from ctlib import cost, paper
from ctlib.config import ModelConfig
from ctlib.display.plotting import WIDTH
from ctlib.models import build_model
from ctlib.study.scales import Study
from ctlib.training.records import RunFolder

# Marker and label by the pixels of the clip whose GFLOPs are printed.
_SIZES = {"256": ("s", "counted at 256 x 256"), "224": ("o", "counted at 224 x 224"), "": ("^", "size not stated")}

# The size behind the printed GFLOPs follows for these methods from counting (33 of a 2D ResNet-50 over 8 frames is
# 224; times (256 / 224)^2 it is 43, a sixth of the 259 of 6 views), or from their own papers; not for others.
_ONE_VIEW_224 = ("TSN", "TSM", "bLVNet-TAM", "TEINet", "TEA", "PEM+TDLoss")  # Table 3; with more views 256
_AT_256 = ("TSM", "TEINet", "TEA", "PEM+TDLoss", "bLVNet-TAM", "SmallBigNet", "SlowFast")  # Table 4


def published_points(table: str, column: str) -> pd.DataFrame:
    """The points that Table 3 or 4 prints: accuracy of all views, GFLOPs of one view and of all.

    Args:
        table: "3" or "4".
        column: of its top-1, as in `paper.table`.

    Returns:
        Columns `name`, `gflops` (of a view), `gflops_total` and `views` (missing where the paper prints none), `size`
        ("224", "256" or "": pixels that the GFLOPs were counted at, where known), `ours` (the paper's own networks)
        and `top1` (percent). Rows without an accuracy are left out.

    Raises:
        ValueError: another table, or not a column of it.
    """
    if table not in ("3", "4"):
        raise ValueError(f"accuracies against GFLOPs of other networks are in Tables 3 and 4, got {table!r}")
    printed = paper.table(table)
    if column not in printed or not column.startswith("top1"):
        raise ValueError(f"column must be a top-1 of Table {table}, got {column!r}: it has {', '.join(printed)}")
    ours = printed.method.str.startswith("Our")
    if table == "3":
        known = printed.method.isin(_ONE_VIEW_224)
        size = np.select([ours | (known & (printed.views > 1)), known], ["256", "224"], "")
        name = printed.index
    else:
        size = np.where(ours | printed.method.isin(_AT_256), "256", "")
        shown = {row: f"x{views:.0f}" if views > 0 else "(views not stated)" for row, views in printed.views.items()}
        name = [f"{row} {views}" for row, views in shown.items()]
    points = printed[["gflops_view", "gflops_total", "views", column]].reset_index(drop=True)
    points.columns = ["gflops", "gflops_total", "views", "top1"]
    points = points.assign(name=name, size=size, ours=ours.to_numpy())
    return points.dropna(subset="top1").reset_index(drop=True)


# Something-Something V1, 8 frames (segments), one view of 224 x 224: GFLOPs and top-1 as later or neighbouring papers
# print them. TDN sees five frames of each segment; its GFLOPs are of all of them.
SUCCESSORS = {
    "TDN (2021)": (36.0, 52.3),
    "TANet (2021)": (33.0, 46.5),
    "SDA-TSM (2021)": (33.9, 48.6),
    "GST (2019)": (29.5, 47.0),
}


def published_at_224() -> pd.DataFrame:
    """`published_points` of Something-Something V1 at one view of 8 frames and 224 x 224 pixels, with `SUCCESSORS`.

    CT-Net's point is that of Table 2h. So all points have the same resolution, which those of Table 3 have not.
    bLVNet-TAM sees 16 frames.
    """
    points = published_points("3", "top1_v1")
    points = points[(points["size"] == "224") & points.name.str.contains(r"8 frames|8x2 frames")]
    ours = {"CT-Net R50, 8 frames (Table 2h)": paper.table("2h").loc["train 224, test 224", ["gflops", "top1"]]}
    added = [(name, *map(float, numbers), name in ours) for name, numbers in (ours | SUCCESSORS).items()]
    added = pd.DataFrame(added, columns=["name", "gflops", "top1", "ours"])
    return pd.concat([points, added.assign(gflops_total=added.gflops, views=1, size="224")], ignore_index=True)


def pareto(cost: Sequence[float], accuracy: Sequence[float]) -> np.ndarray:
    """Which points no other dominates: none is as cheap and as accurate, and better in one of the two.

    Returns:
        bool, one per point. Of equal points each is on the front.
    """
    cost, accuracy = np.asarray(cost, float), np.asarray(accuracy, float)
    cheaper, better = cost[:, None] - cost, accuracy - accuracy[:, None]  # by how much each other point is
    return ~((cheaper >= 0) & (better >= 0) & (cheaper + better > 0)).any(axis=1)


def published_tradeoff(points: pd.DataFrame, gflops: str, ylabel: str, title: str) -> Figure:
    """Published accuracy against GFLOPs, on a logarithmic axis, one labelled point per network.

    The paper's own networks are filled; the marker shows at which size the GFLOPs were counted. A few points far below
    the others are arrows that point down from the lower edge, with their accuracy beside their name.

    Args:
        points: of `published_points`.
        gflops: the column to draw, "gflops" or "gflops_total"; points without it are left out.
    """
    points = _with_heights(points.dropna(subset=gflops).rename(columns={gflops: "cost"}))
    figure, axes = plt.subplots(figsize=(WIDTH, 7))
    for point in points.itertuples():
        look = {"mfc": "C0", "mec": "black", "ms": 8} if point.ours else {"mfc": "white", "mec": "0.25", "ms": 6.5}
        marker = "v" if point.height > point.top1 else _SIZES[point.size][0]
        axes.plot(point.cost, point.height, marker, **look, zorder=3)
    _draw_front(axes, points)
    _cost_axis(axes, points.cost)
    axes.set(ylabel=ylabel, title=title, ylim=_with_margin(points.height))
    axes.set_xlabel("GFLOPs of one view" if gflops == "gflops" else "GFLOPs of all views")
    square = {"ls": "", "mec": "0.25"}
    handles = [
        Line2D([], [], marker="D", mfc="C0", label="the paper's networks", **square),
        Line2D([], [], marker="D", mfc="white", label="other papers' networks", **square),
        *(
            Line2D([], [], marker=marker, mfc="0.7", label=label, **square)
            for size, (marker, label) in _SIZES.items()
            if (points["size"] == size).any()
        ),
        Line2D([], [], color="0.45", ls="--", label="Pareto front"),
        *_draw_strip(axes, points),
    ]
    figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=3)
    _label(axes, points, points.name, ["bold" if ours else "normal" for ours in points.ours])
    return figure


def measured_tradeoff(points: pd.DataFrame, ylabel: str, conditions: str = "") -> Figure:
    """Measured accuracy against GFLOPs of one view and, where it was timed, against latency.

    The networks of one study lie close together. So points have numbers, the most accurate network's first, and a key
    beside the panels names them. A few points far below the others are arrows at the lower edge, with their accuracy.

    Args:
        points: columns `name`, `gflops`, `top1` (mean, percent) and `std` (over seeds; missing with one seed); if
            timed, also `milliseconds` with `low` and `high`.
        conditions: under which it was timed.
    """
    points = _with_heights(points.sort_values("top1", ascending=False, kind="stable", ignore_index=True))
    panels = {"gflops": "GFLOPs of one view"}
    if "milliseconds" in points:
        panels["milliseconds"] = "\n".join(["milliseconds per call", *textwrap.wrap(conditions, 28)])
    figure = plt.figure(figsize=(WIDTH, max(6, 1.2 + 0.24 * len(points))))
    widths = [1] * len(panels) + [0.25 + 0.25 * len(panels)]
    *axes_of, key = figure.subplots(1, len(widths), width_ratios=widths)
    far = points.height > points.top1
    std = points["std"].fillna(0).mask(far, 0)
    for axes, (column, label) in zip(axes_of, panels.items(), strict=True):
        drawn = points.assign(cost=points[column])
        ends = (points.low, points.high) if column == "milliseconds" else (drawn.cost, drawn.cost)
        across = [drawn.cost - ends[0], ends[1] - drawn.cost]
        axes.errorbar(drawn.cost, drawn.height, std, across, fmt="none", lw=0.8, capsize=2, color="C0", zorder=3)
        for marker, part in (("o", drawn[~far]), ("v", drawn[far])):
            axes.plot(part.cost, part.height, marker, ms=6, color="C0", mec="black", zorder=3)
        _draw_front(axes, drawn)
        _cost_axis(axes, pd.concat(ends))
        axes.set(xlabel=label, ylim=_with_margin(pd.concat([drawn.height - std, drawn.height + std])))
        axes.tick_params(labelleft=axes is axes_of[0])
    axes_of[0].set_ylabel(textwrap.fill(ylabel, 55))
    _draw_key(key, points)
    handles = [Line2D([], [], color="0.45", ls="--", label="Pareto front of the means")]
    handles.append(Line2D([], [], color="C0", marker="|", label="standard deviation over seeds; range of the times"))
    handles += [_draw_strip(axes, points) for axes in axes_of][0]  # the same in every panel
    figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=3)
    for axes, column in zip(axes_of, panels, strict=True):
        _label(axes, points.assign(cost=points[column]), [str(number + 1) for number in points.index])
    return figure


def _draw_key(axes, points: pd.DataFrame) -> None:
    """Which network each number is: one line per network, with its accuracy."""
    axes.set_axis_off()
    for number, point in enumerate(points.itertuples(), start=1):
        look = {"transform": axes.transAxes, "fontsize": 9, "va": "center"}
        height = 1 - (number - 0.5) / max(len(points), 24)
        axes.text(0.05, height, number, ha="right", **look)
        axes.text(0.10, height, f"{point.top1:.1f}", **look)
        axes.text(0.32, height, point.name, **look)


def _with_heights(points: pd.DataFrame) -> pd.DataFrame:
    """With `height`, where a point is drawn: its `top1`, or the strip for the few that lie far below the others.

    These are the points below the widest gap, if that is wider than the range above it, and at most a quarter of all.
    """
    ordered = points.top1.sort_values().to_numpy()
    far = points.top1 < ordered[0]
    if len(points) > 3:
        at = np.diff(ordered).argmax() + 1
        if at <= len(points) / 4 and ordered[at] - ordered[at - 1] > ordered[-1] - ordered[at]:
            far = points.top1 < ordered[at]
    near = points[~far]
    lowest = (near.top1 - near["std"].fillna(0)).min() if "std" in near else near.top1.min()  # the end of its bar
    strip = lowest - 0.14 * (near.top1.max() - lowest)
    return points.assign(height=points.top1.mask(far, strip))


def _draw_strip(axes, points: pd.DataFrame) -> list[Patch]:
    """Mark the strip with points far below the axis, and return its entry in the legend, if there are any."""
    far = points.height > points.top1
    if not far.any():
        return []
    middle, margin = points.height[far].min(), 0.06 * (points.height.max() - points.height.min())
    axes.axhspan(middle - margin, middle + margin, color="0.92", zorder=0)
    top = axes.get_ylim()[1]
    axes.set_yticks([tick for tick in axes.get_yticks() if middle + margin < tick < top])  # the strip has no scale
    return [Patch(color="0.92", label="far below the axis: an arrow, with the accuracy")]


def _draw_front(axes, points: pd.DataFrame) -> None:
    """The Pareto front, as steps through the points as they are drawn."""
    front = points[pareto(points.cost, points.top1)].sort_values(["cost", "height"])
    axes.step(front.cost, front.height, where="post", color="0.45", ls="--", lw=1.3, zorder=1)


def _cost_axis(axes, values: pd.Series) -> None:
    """Logarithmic, with numbers at 2 and 5 as well, unless the values are close together."""
    ratio = values.max() / values.min()
    if ratio < 3:
        reach = max(values.max() - values.min(), 0.1 * values.max())
        axes.set_xlim(values.min() - 0.2 * reach, values.max() + 0.25 * reach)
        return
    axes.set_xscale("log")
    axes.set_xlim(values.min() / (1.2 if ratio < 6 else 1.5), values.max() * (1.2 if ratio < 6 else 1.7))
    axes.xaxis.set_minor_locator(LogLocator(subs=(1.5, 2, 3, 5) if ratio < 6 else (2, 3, 5) if ratio < 30 else (2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=9, length=3, pad=4)


def _with_margin(values: pd.Series) -> tuple[float, float]:
    margin = 0.09 * max(values.max() - values.min(), 1.0)
    return values.min() - margin, values.max() + margin


def _label(axes, points: pd.DataFrame, names: Sequence[str], weights: Sequence[str] | None = None) -> None:
    """Names beside points, moved apart; of points far below the axis their accuracy too. Call it last."""
    far = points.height > points.top1
    names = pd.Series(list(names), points.index)
    names = names.mask(far, names + points.top1.map(" ({:.1f} %)".format))
    axes.figure.canvas.draw()
    axes.figure.set_layout_engine("none")
    unit, to_data = axes.figure.dpi / 100, axes.transData.inverted()
    at = axes.transData.transform(points[["cost", "height"]].to_numpy(float))
    left = at[:, 0] > axes.bbox.x0 + 0.8 * axes.bbox.width
    beside = to_data.transform(at + unit * np.column_stack([np.where(left, -9, 9), np.full(len(at), 4)]))
    look = {"fontsize": 9, "va": "center", "zorder": 4, "path_effects": [withStroke(linewidth=2, foreground="white")]}
    texts = [
        axes.text(*place, name, weight=weight, ha="right" if to_left else "left", **look)
        for place, name, weight, to_left in zip(beside, names, weights or ["normal"] * len(at), left, strict=True)
    ]
    adjust_text(
        texts,
        target_x=points.cost.to_numpy(),
        target_y=points.height.to_numpy(),
        objects=[Bbox(to_data.transform([place - 6 * unit, place + 6 * unit])) for place in at],
        ax=axes,
        avoid_self=False,
        force_explode=(0, 0),
        force_pull=(0, 0),
        force_text=(0.3, 0.6),
        expand=(1.1, 1.15),
        max_move=4,
        min_arrow_len=14,
        iter_lim=1000,
        arrowprops={"arrowstyle": "-", "color": "0.55", "lw": 0.6},
    )


_ROUNDS = 3


def timed(
    networks: Mapping[str, tuple[nn.Module, int, int]],
    seconds: float,
    on_timing: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Time networks in three rounds over all of them in turn, one clip per call.

    Args:
        networks: name -> the network, its number of frames, and the size of these in pixels.
        seconds: per network.
        on_timing: called with how many timings are done, and their number.

    Returns:
        One row per network and round: `name`, `round`, and the fields of `cost.Latency`.

    Raises:
        ValueError: negative seconds.
    """
    if seconds < 0:
        raise ValueError(f"seconds must be at least 0, got {seconds}")
    rows, number = [], _ROUNDS * len(networks)
    for done, (turn, (name, network)) in enumerate(itertools.product(range(_ROUNDS), networks.items()), start=1):
        latency = cost.latency(*network, seconds=seconds / _ROUNDS)
        rows.append({"name": name, "round": turn} | dataclasses.asdict(latency))
        if on_timing is not None:
            on_timing(done, number)
    return pd.DataFrame(rows)


def networks_of(points: pd.DataFrame, study: Study, device: torch.device) -> dict[str, tuple[nn.Module, int, int]]:
    """The networks behind measured points, with random weights, as `timed` takes them.

    Args:
        points: of `measurements.networks`. Custom rows are left out: the tables do not hold their networks.
    """
    networks = {}
    for point in points.itertuples():
        for network in study.rows(point.table).get(point.row, ()):
            networks[point.name] = _built(study.sized.replace(network).config, point, device)
    return networks


def recorded_networks(points: pd.DataFrame, device: torch.device) -> dict[str, tuple[nn.Module, int, int]]:
    """The same behind the points of `summaries.averaged`."""
    networks = {}
    for point in points.itertuples():
        folder = RunFolder(point.folder)
        classes = folder.record()["resolved"]["num_classes"]
        config = dataclasses.replace(folder.config().model, num_classes=classes)
        networks[point.name] = _built(config, point, device)
    return networks


def _built(config: ModelConfig, point, device: torch.device) -> tuple[nn.Module, int, int]:
    network = build_model(dataclasses.replace(config, weights=None))
    return network.to(device), int(point.frames), int(point.size)


def rounds(timed: pd.DataFrame) -> pd.DataFrame:
    """The median round of each network, and the range of the rounds: `milliseconds`, `low` and `high`, by name."""
    return timed.groupby("name").milliseconds.agg(milliseconds="median", low="min", high="max")
