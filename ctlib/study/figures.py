"""Figures over the whole study: findings that reproduce, and accuracy against cost (Figure 5), with labels apart."""

import itertools
import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter
from matplotlib.transforms import Bbox

from ctlib import paper

# What a bar is made of: column of `comparisons.counts`, lightness and hatching, which tell them apart in grey as well.
_PARTS = {
    "agrees": ("#0f4c6e", ""),
    "inconclusive": ("0.85", ""),
    "too few seeds": ("white", "...."),
    "disagrees": ("#e08214", "////"),
}
_SIDES = {"256": "s", "224": "o", "": "^"}  # pixels of the clip whose GFLOPs are printed; empty: not known

# The size behind the printed GFLOPs can be told of these methods by counting (33 of a 2D ResNet-50 over 8 frames is
# 224; times (256 / 224)^2 it is 43, a sixth of the 259 of 6 views), or by what their own papers print; of others not.
_ONE_VIEW_224 = ("TSN", "TSM", "bLVNet-TAM", "TEINet", "TEA", "PEM+TDLoss")  # Table 3; with more views 256
_AT_256 = ("TSM", "TEINet", "TEA", "PEM+TDLoss", "bLVNet-TAM", "SmallBigNet", "SlowFast")  # Table 4


def published_points(table: str, column: str) -> pd.DataFrame:
    """The points that Table 3 or 4 prints: accuracy of all views, GFLOPs of one view and of all.

    Args:
        table: "3" or "4".
        column: of its top-1, as in `paper.table`.

    Returns:
        Columns `name`, `gflops` (of a view), `gflops_total` (missing where the paper prints none), `views` (missing
        where it prints none), `size` ("224", "256" or "": pixels that the GFLOPs were counted at, where it can be
        told), `ours` (the paper's own networks) and `top1` (percent). Rows without an accuracy are left out.

    Raises:
        ValueError: another table, or not a column of it.
    """
    if table not in ("3", "4"):
        raise ValueError(f"accuracies against GFLOPs of other networks are in Tables 3 and 4, got {table!r}")
    lines = paper.table(table)
    if column not in lines or not column.startswith("top1"):
        raise ValueError(f"column must be a top-1 of Table {table}, got {column!r}: it has {', '.join(lines)}")
    ours = lines.method.str.startswith("Our")
    if table == "3":
        known = lines.method.isin(_ONE_VIEW_224)
        size = np.select([ours | (known & (lines.views > 1)), known], ["256", "224"], "")
        name = lines.index
    else:
        size = np.where(ours | lines.method.isin(_AT_256), "256", "")
        name = [f"{row} x{views:.0f}" if views > 0 else f"{row}, views not told" for row, views in lines.views.items()]
    points = pd.DataFrame(
        {
            "name": name,
            "gflops": lines.gflops_view.to_numpy(),
            "gflops_total": lines.gflops_total.to_numpy(),
            "views": lines.views.to_numpy(),
            "size": size,
            "ours": ours.to_numpy(),
            "top1": lines[column].to_numpy(),
        }
    )
    return points.dropna(subset="top1").reset_index(drop=True)


def pareto(cost: Sequence[float], accuracy: Sequence[float]) -> np.ndarray:
    """Which points no other dominates: none is as cheap and as accurate, and better in one of the two.

    Returns:
        bool, one a point. Of equal points each is on the front.
    """
    cost, accuracy = np.asarray(cost, float), np.asarray(accuracy, float)
    ours, theirs = (cost[:, None], accuracy[:, None]), (cost[None], accuracy[None])
    no_worse = (ours[0] >= theirs[0]) & (ours[1] <= theirs[1])
    better = (ours[0] > theirs[0]) | (ours[1] < theirs[1])
    return ~(no_worse & better).any(axis=1)


def published_tradeoff(points: pd.DataFrame, gflops: str, ylabel: str, title: str) -> Figure:
    """Published accuracy against GFLOPs, on a logarithmic axis, a labelled point a network.

    Filled are the paper's own networks; the shape says at which size the GFLOPs were counted. Points far below the
    others stand in a grey strip at the lower edge, with their accuracy beside their name.

    Args:
        points: of `published_points`.
        gflops: which of its columns is drawn, "gflops" or "gflops_total"; points without it are left out.
    """
    points = _raised(points.dropna(subset=gflops))
    figure, axes = plt.subplots(figsize=(8.6, 5.8))
    for point in points.itertuples():
        look = {"mfc": "C0", "mec": "black"} if point.ours else {"mfc": "white", "mec": "0.25"}
        axes.plot(getattr(point, gflops), point.y, _SIDES[point.size], ms=8 if point.ours else 6.5, **look, zorder=3)
    front = _front(axes, points[gflops], points.top1, points.y)
    _cost_axis(axes, points[gflops])
    axes.set(ylabel=ylabel, title=title, ylim=_room(points.y))
    axes.set_xlabel("GFLOPs of one view" if gflops == "gflops" else "GFLOPs of all views")
    sizes = {"256": "counted at 256 x 256", "224": "counted at 224 x 224", "": "size not told"}
    handles = [
        Line2D([], [], marker="D", ls="", mfc="C0", mec="black", label="the paper's networks"),
        Line2D([], [], marker="D", ls="", mfc="white", mec="0.25", label="of other papers, as it quotes them"),
        *(
            Line2D([], [], marker=_SIDES[size], ls="", mfc="0.7", mec="0.25", label=told)
            for size, told in sizes.items()
            if (points["size"] == size).any()
        ),
        Line2D([], [], color="0.45", ls="--", label="Pareto front"),
        *_strip(axes, points),
    ]
    figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=3)
    place_labels(axes, points[gflops], points.y, points.name, [front], points.ours)
    return figure


def measured_tradeoff(points: pd.DataFrame, ylabel: str, conditions: str = "") -> Figure:
    """Measured accuracy against GFLOPs of a view, and, where it was timed, against latency.

    Networks of one study lie close together, so points bear numbers, the most accurate network's first, and a key
    beside the panels says whose they are. Points far below the others stand in a grey strip, as in
    `published_tradeoff`.

    Args:
        points: columns `name`, `gflops`, `top1` (mean, percent) and `spread` (over seeds, missing of one); if timed,
            also `milliseconds` with `low` and `high`.
        conditions: under which it was timed.
    """
    points = _raised(points.sort_values("top1", ascending=False, kind="stable", ignore_index=True))
    panels = {"gflops": "GFLOPs of one view"}
    if "milliseconds" in points:
        panels["milliseconds"] = f"milliseconds a call{f': {conditions}' if conditions else ''}"
    figure = plt.figure(figsize=(7 * len(panels) + 2.6, max(6, 1.2 + 0.24 * len(points))))
    found = figure.subplots(1, len(panels) + 1, squeeze=False, width_ratios=[1] * len(panels) + [0.3])[0]
    for axes in found[1:-1]:
        axes.sharey(found[0])
        axes.tick_params(labelleft=False)
    spread, obstacles = points["std"].fillna(0), []
    for axes, (column, label) in zip(found[:-1], panels.items(), strict=True):
        x = points[column]
        ends = (points.low, points.high) if column == "milliseconds" else (x, x)
        across = [x - ends[0], ends[1] - x]
        axes.errorbar(x, points.y, spread, across, fmt="o", ms=5, capsize=2, color="C0", mec="black", zorder=3)
        bars = [[(at, y - half), (at, y + half)] for at, y, half in zip(x, points.y, spread, strict=True)]
        bars += [[(low, y), (high, y)] for low, high, y in zip(*ends, points.y, strict=True)]
        obstacles.append([_front(axes, x, points.top1, points.y), *bars])
        _cost_axis(axes, pd.concat(ends))
        axes.set_xlabel(label)
    found[0].set(ylabel=ylabel, ylim=_room(pd.concat([points.y - spread, points.y + spread])))
    _key(found[-1], points)
    handles = [Line2D([], [], color="0.45", ls="--", label="Pareto front of the means")]
    handles.append(Line2D([], [], color="C0", marker="|", label="standard deviation of the seeds; range of the times"))
    strips = [_strip(axes, points) for axes in found[:-1]]
    figure.legend(handles=handles + strips[0], fontsize="small", loc="outside lower center", ncols=3)
    numbers = [str(number) for number in range(1, len(points) + 1)]
    for axes, column, kept_off in zip(found[:-1], panels, obstacles, strict=True):
        place_labels(axes, points[column], points.y, numbers, kept_off)
    return figure


def _key(axes, points: pd.DataFrame) -> None:
    """Whose the numbers are: a line a network, with its accuracy."""
    axes.set_axis_off()
    for number, point in enumerate(points.itertuples(), start=1):
        height = 1 - (number - 0.5) / max(len(points), 24)
        look = {"transform": axes.transAxes, "fontsize": 7.5, "va": "center"}
        axes.text(0.05, height, number, ha="right", **look)
        axes.text(0.10, height, f"{point.top1:.1f}", **look)
        axes.text(0.32, height, point.called, **look)


def _raised(points: pd.DataFrame) -> pd.DataFrame:
    """With `y`, where a point is drawn: its `top1`, but for the few that lie far below the others.

    These are beyond Tukey's far fence and below the widest gap: what lies between them and the others stays in place.
    `called` is its name as it was; `name` has the accuracy of those that are raised.
    """
    low, high = points.top1.quantile([0.25, 0.75])
    ordered = points.top1.sort_values()
    above_gap = ordered[ordered.diff().fillna(0).idxmax()]
    far = points.top1 < min(low - 3 * (high - low), above_gap)
    if far.sum() > len(points) / 4:
        far[:] = False
    near = points[~far]
    least = (near.top1 - near["std"].fillna(0)).min() if "std" in near else near.top1.min()  # the end of its bar
    edge = least - 0.14 * (near.top1.max() - least)
    names = points.name.mask(far, points.name + points.top1.map(" ({:.1f} %)".format))
    return points.assign(y=points.top1.mask(far, edge), name=names, called=points.name)


def _strip(axes, points: pd.DataFrame) -> list[Patch]:
    """Mark where `_raised` points stand, and hand on what the legend says of it; nothing if there are none."""
    raised = points.y > points.top1
    if not raised.any():
        return []
    edge, margin = points.y[raised].min(), 0.06 * (points.y.max() - points.y.min())
    axes.axhspan(edge - margin, edge + margin, color="0.92", zorder=0)
    top = axes.get_ylim()[1]
    axes.set_yticks([tick for tick in axes.get_yticks() if edge + margin < tick < top])  # below, none holds
    return [Patch(color="0.92", label="lower than the axis: accuracy as told")]


def _front(axes, cost: pd.Series, accuracy: pd.Series, drawn: pd.Series) -> list[tuple[float, float]]:
    """Draw the Pareto front through the heights at which its points are drawn, and hand on its corners."""
    on = pareto(cost, accuracy)
    steps = sorted(set(zip(cost[on], drawn[on], strict=True)))
    corners = [steps[0]]
    for x, y in steps[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    axes.plot(*zip(*corners, strict=True), color="0.45", ls="--", lw=1.3, zorder=1)
    return corners


def _cost_axis(axes, values: pd.Series) -> None:
    """Logarithmic, with numbers at 2 and 5 as well, unless the values are close together."""
    if values.max() / values.min() < 3:
        reach = max(values.max() - values.min(), 0.1 * values.max())
        axes.set_xlim(values.min() - 0.2 * reach, values.max() + 0.25 * reach)
        return
    axes.set_xscale("log")
    ratio = values.max() / values.min()
    near, far = (1.2, 1.2) if ratio < 6 else (1.5, 1.7)  # room for names
    axes.set_xlim(values.min() / near, values.max() * far)
    axes.xaxis.set_minor_locator(LogLocator(subs=(1.5, 2, 3, 5) if ratio < 6 else (2, 3, 5) if ratio < 30 else (2, 5)))
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=8, length=3, pad=4)


def _room(values: pd.Series) -> tuple[float, float]:
    margin = 0.09 * max(values.max() - values.min(), 1.0)
    return values.min() - margin, values.max() + margin


_ANGLES = np.deg2rad([0, 180, 45, -45, 135, -135, 90, -90, 22, -22, 158, -158, 67, -67, 113, -113])
_RINGS = (11, 15, 21, 29, 39, 51, 65, 81, 99, 119, 141, 165)  # pixels between a point and its label, at 100 dpi


def place_labels(
    axes,
    x: Sequence[float],
    y: Sequence[float],
    names: Sequence[str],
    obstacles: Sequence[Sequence[tuple[float, float]]] = (),
    bold: Sequence[bool] | None = None,
) -> list[str]:
    """Name points so that no name lies on another, on a point, on an obstacle, across a line to a point, or outside.

    The most crowded points come first; each takes the first free place on rings around it, with a line to it from
    the third ring on. Call it last: the layout is fixed with it.

    Args:
        x, y: the points, in data coordinates.
        names: one a point.
        obstacles: lines through corners in data coordinates: the front, error bars.
        bold: which names are bold.

    Returns:
        The names for which there was no free place. They are told below the axis.
    """
    figure, label = axes.figure, axes.get_xlabel()
    axes.set_xlabel(f"{label}\n ")  # room for what is told below it
    figure.canvas.draw()  # so that the data have their pixels
    figure.set_layout_engine("none")
    unit = figure.dpi / 100
    names, heavy = list(names), [False] * len(names) if bold is None else list(bold)
    at = axes.transData.transform(np.column_stack([np.asarray(x, float), np.asarray(y, float)]))
    points = [Bbox([place - 7 * unit, place + 7 * unit]) for place in at]
    drawn = [Path(axes.transData.transform(line)) for line in obstacles]
    distance = np.hypot(*(at[:, None] - at[None]).T)
    boxes, lines, left = [], [], []
    for index in np.argsort(-(distance < 80 * unit).sum(axis=0), kind="stable"):
        look = {"fontsize": 7.5, "weight": "bold" if heavy[index] else "normal", "ha": "center", "va": "center"}
        sample = axes.text(0, 0, names[index], transform=None, **look)
        size = np.array(sample.get_window_extent().size) + (4 * unit, 2 * unit)
        sample.remove()
        apart = [point for point, far in zip(points, distance[index] > 15 * unit, strict=True) if far]
        # Where that leaves no place, a name may lie on an obstacle.
        for kept_off, ring, angle in itertools.product((drawn, []), _RINGS, _ANGLES):
            offset = np.array([np.cos(angle), np.sin(angle)]) * (ring * unit + size / 2)
            box = Bbox([at[index] + offset - size / 2, at[index] + offset + size / 2])
            line = Path([at[index], np.clip(at[index], box.min, box.max)])
            inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 and axes.bbox.y0 < box.y0 and box.y1 < axes.bbox.y1
            if not inside or box.count_overlaps([*boxes, *points]) or _crossed(box, [*lines, *kept_off]):
                continue
            if any(_crossed(other, [line]) for other in [*boxes, *apart]):
                continue
            boxes.append(box)
            lines.append(line)
            arrow = {"arrowstyle": "-", "color": "0.55", "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
            axes.annotate(
                names[index], axes.transData.inverted().transform(at[index]), offset * 72 / figure.dpi,
                textcoords="offset points", arrowprops=arrow if ring > _RINGS[1] else None, zorder=4, **look,
            )  # fmt: skip
            break
        else:
            left.append(names[index])
    told = textwrap.fill(f"(no room for the names {', '.join(left)})", 90)
    axes.set_xlabel(f"{label}\n{told}" if left else label)
    return left


def _crossed(box: Bbox, lines: Sequence[Path]) -> bool:
    return any(line.intersects_bbox(box, filled=False) for line in lines)


_SHORT = {"Something-Something V1": "Sth V1", "Something-Something V2": "Sth V2", "Mini-Kinetics-200": "Mini-K"}


def reproduced(counts: pd.DataFrame, title: str) -> Figure:
    """What fraction of the findings agree, disagree and are not resolved, a stacked bar a table, those of all on top.

    Args:
        counts: of `comparisons.counts`. Tables without a finding have no bar.
    """
    counts = counts[counts.pairs > 0]
    total = counts.index.get_level_values("data") == ""
    counts = pd.concat([counts[total][::-1], counts[~total]])
    parts = counts.assign(**{"inconclusive": counts["inconclusive"] - counts["too few seeds"]})
    places, start = np.arange(len(counts)), np.zeros(len(counts))
    figure, axes = plt.subplots(figsize=(9.5, 1.6 + 0.38 * max(len(counts), 1)))
    for column, (colour, hatch) in _PARTS.items():
        share = (100 * parts[column] / counts.pairs).to_numpy()
        axes.barh(places, share, left=start, color=colour, hatch=hatch, edgecolor="0.25", lw=0.6)
        look = {"ha": "center", "va": "center", "fontsize": 8, "color": "white" if column == "agrees" else "black"}
        if hatch:
            look["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        for place in places[share > 4]:
            axes.text(start[place] + share[place] / 2, place, parts[column].iloc[place], **look)
        start += share
    for place, line in zip(places, counts.itertuples(), strict=True):
        axes.text(101.5, place, f"{line.agrees} : {line.disagrees}", va="center", fontsize=8)
    axes.text(101.5, -1, "agree : disagree", va="center", fontsize=8, style="italic")
    names = [f"Table {table} ({_SHORT[data]})" if data else table for table, data in counts.index]
    axes.set_yticks(places, [f"{name}: {pairs}" for name, pairs in zip(names, counts.pairs, strict=True)])
    axes.set(xlim=(0, 100), ylim=(max(len(counts), 1) - 0.45, -0.55), xlabel="% of the findings", title=title)
    axes.grid(False)
    told = {"agrees": "measured order agrees", "inconclusive": "inconclusive", "disagrees": "disagrees"}
    told["too few seeds"] = "not resolved: fewer than 2 common seeds"
    handles = [Patch(fc=colour, hatch=hatch, ec="0.25", label=told[key]) for key, (colour, hatch) in _PARTS.items()]
    figure.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=4)
    return figure


def gaps(found: pd.DataFrame) -> Figure:
    """The measured difference of every finding against its published gap, with its interval.

    Above zero the measured order is the paper's; linear up to 2 points, logarithmic from there. The sizes need not
    agree: data and networks are others. Findings with one common seed have no interval; of wide intervals (two
    seeds) the ends lie outside the picture.

    Args:
        found: of `comparisons.pairs`; those without a common seed are left out.
    """
    drawn = found[found.seeds >= 1]
    kinds = drawn.result.mask(drawn.seeds < 2, "one seed, not judged")
    figure, axes = plt.subplots(figsize=(8, 4.8))
    looks = {
        "one seed, not judged": (".", "0.6"),
        "inconclusive": ("o", "white"),
        "agrees": ("o", "#0f4c6e"),
        "disagrees": ("X", "#e08214"),
    }
    for kind, (marker, face) in looks.items():
        part = drawn[kinds == kind]
        error = [part.difference - part.low, part.high - part.difference]
        bars = "0.8" if kind == "inconclusive" else "0.35"
        axes.errorbar(part.gap, part.difference, error, fmt="none", ecolor=bars, elinewidth=0.9, zorder=1)
        axes.plot(part.gap, part.difference, marker, ls="", mfc=face, mec="0.2", ms=6, label=f"{kind} ({len(part)})")
    axes.axhline(0, color="0.3", lw=1.2)
    least, most = (drawn.difference.min(), drawn.difference.max()) if len(drawn) else (-1, 1)
    axes.set(xscale="log", xlabel="published gap, points of top-1", ylabel="measured difference, points of top-1")
    axes.set_yscale("symlog", linthresh=2)  # some differences are of tens of points, and the close ones matter most
    axes.set_yticks([-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50])
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(1.6 * min(least, -1), 1.6 * max(most, 1))
    axes.set_xticks([0.5, 1, 2, 5, 10, 30])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(fontsize="small", loc="outside lower center", ncols=4)
    return figure
