"""Figures of the study: rows of a table, its comparisons, splits, where saliency lies, and what networks cost."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from adjustText import adjust_text
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ctlib.display.plotting import WIDTH, marker
from ctlib.study.comparisons import (
    AGREES,
    BEFORE,
    DECIDED,
    DISAGREES,
    EQUAL,
    EQUAL_HERE,
    INCONCLUSIVE,
    NOT_RUN,
    shown_results,
)
from ctlib.study.localisation import OWN, RANDOM, SHUFFLED
from ctlib.training.statistics import mean_interval


def ablation(measured: pd.DataFrame, title: str, bound: float | None = None) -> Figure:
    """Top-1 of the rows of a table: one mark per seed, their mean, and from two seeds on its 95 % t interval.

    Args:
        measured: columns row, seed and top1 (percent), rows in the order of the figure.
        bound: the bound of frame averaging, percent; drawn as a line.
    """
    names, seeds, entries = list(dict.fromkeys(measured.row)), sorted(measured.seed.unique()), {}
    figure, axes = plt.subplots(figsize=(9.5, 1.4 + 0.45 * len(names)))
    apart = np.linspace(-0.2, 0.2, len(seeds)) if len(seeds) > 1 else [0.0]  # or equal seeds hide each other
    for place, name in enumerate(names):
        top1 = measured[measured.row == name].set_index("seed").top1
        for index, seed in enumerate(seeds):
            if seed in top1:
                look = {"mfc": "none", "ms": 6, "color": f"C{index}"}
                entries[f"seed {seed}"] = axes.plot(top1[seed], place + apart[index], marker(index), **look)[0]
        margin = mean_interval(top1).margin if len(top1) > 1 else None
        mean = axes.errorbar(top1.mean(), place, xerr=margin, fmt="|", ms=14, capsize=4, color="0.15", zorder=0)
        entries["mean" if margin is None else "mean, 95 % interval"] = mean
    if bound is not None:
        entries["bound of frame averaging"] = axes.axvline(bound, color="0.3", ls="--", lw=1.2)
    axes.set_yticks(range(len(names)), names)
    left, right = axes.get_xlim()  # an interval may reach beyond 100 %
    axes.set(title=title, xlabel="top-1, %", xlim=(max(left, 0), min(right, 100)), ylim=(len(names) - 0.4, -0.6))
    axes.legend(entries.values(), entries, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


# How each result is drawn: colour and hatching, which also differ in grey.
_RESULTS = {
    AGREES: ("#0f4c6e", ""),
    EQUAL: ("#7fb2d0", "\\\\\\\\"),
    DISAGREES: ("#e08214", "////"),
    INCONCLUSIVE: ("0.85", ""),
    BEFORE: ("white", "...."),
    NOT_RUN: ("white", ""),
}


def reproduced(counts: pd.DataFrame, title: str) -> Figure:
    """The shares of comparisons with each result: one stacked bar per group of comparisons.

    Args:
        counts: rows of `comparisons.summary` and `comparisons.counts`. Groups without a comparison have no bar.
    """
    counts = counts[counts.comparisons > 0]
    places, start = np.arange(len(counts)), np.zeros(len(counts))
    figure, axes = plt.subplots(figsize=(9.5, 1.6 + 0.38 * max(len(counts), 1)))
    for result, (colour, hatch) in _RESULTS.items():
        if not counts[result].any():
            continue
        share = (100 * counts[result] / counts.comparisons).to_numpy(float)
        look = {"color": colour, "hatch": hatch, "edgecolor": "0.25", "lw": 0.6, "label": result}
        bars = axes.barh(places, share, left=start, **look)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1} if hatch else None
        numbers = counts[result].astype(str)
        numbers = numbers.where(share > 1.5 * numbers.str.len(), "")  # where they fit
        text = {"fontsize": 9, "color": "white" if result == AGREES else "black", "bbox": box}
        axes.bar_label(bars, numbers, label_type="center", **text)
        start += share
    axes.set_yticks(places, [f"{name}: {total}" for name, total in counts.comparisons.items()])
    axes.set(xlim=(0, 100), ylim=(max(len(counts), 1) - 0.45, -0.55), xlabel="% of the comparisons", title=title)
    axes.grid(False)
    if axes.containers:
        figure.legend(fontsize="small", loc="outside lower center", ncols=len(axes.containers))
    return figure


def gaps(compared: pd.DataFrame, margin: float) -> Figure:
    """The measured difference of every comparison, with its interval, against the published gap.

    Above zero the measured order is the paper's. The axis is linear up to 2 points, logarithmic from there.
    Comparisons with one common block have no interval; the ends of wide intervals lie outside the picture.

    Args:
        compared: of `comparisons.pairs`; those without a common block are left out.
        margin: of equality, points; drawn as a band.
    """
    drawn = compared[compared.blocks >= 1]
    kinds = shown_results(drawn).replace(EQUAL_HERE, EQUAL)
    figure, axes = plt.subplots(figsize=(8, 4.8))
    shapes = {AGREES: "o", EQUAL: "s", DISAGREES: "X", INCONCLUSIVE: "o", BEFORE: "."}
    for kind, shape in shapes.items():
        part = drawn[kinds == kind]
        error = [part.difference - part.low, part.high - part.difference]
        bars = "0.35" if kind in DECIDED else "0.8"
        axes.errorbar(part.gap, part.difference, error, fmt="none", ecolor=bars, elinewidth=0.9, zorder=1)
        look = {"mfc": "white" if kind == INCONCLUSIVE else _RESULTS[kind][0], "mec": "0.2", "ms": 6, "ls": ""}
        axes.plot(part.gap, part.difference, shape, label=f"{kind} ({len(part)})", **look)
    axes.axhline(0, color="0.3", lw=1.2)
    axes.axhspan(-margin, margin, color="0.93", zorder=0)
    axes.set(xscale="log", xlabel="published gap, points of top-1", ylabel="measured difference, points of top-1")
    axes.set_yscale("symlog", linthresh=2)  # a few differences are of tens of points
    axes.set(xticks=[0.5, 1, 2, 5, 10, 30], yticks=[-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50])
    ends = np.fmin(drawn.difference.min(), -1), np.fmax(drawn.difference.max(), 1)  # -1 and 1 where nothing is drawn
    axes.set(xlim=(0.4, 45), ylim=(1.6 * ends[0], 1.6 * ends[1]))
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    figure.legend(fontsize="small", loc="outside lower center", ncols=len(shapes))
    return figure


def actions(table: pd.DataFrame, names: dict[tuple[str, str], str]) -> Figure:
    """How often networks name the right pair of each action, and then its direction: two heat maps, in percent.

    Args:
        table: of `predictions.by_action`.
        names: (table, row) -> the name of a network; other rows are left out.
    """
    panels = {}
    for measure, title in {
        "right_pair": "right pair of actions",
        "direction": "right direction, if the pair is right",
    }.items():
        values = table.pivot_table(index=["table", "row"], columns="action", values=measure, sort=False, dropna=False)
        panels[title] = values.reindex(list(names)).set_axis(list(names.values()))
    return heat_maps(panels)


def heat_maps(panels: dict[str, pd.DataFrame]) -> Figure:
    """Percentages of networks (rows) and actions (columns), which the panels share; a missing one is left blank.

    Args:
        panels: by title.
    """
    rows = len(next(iter(panels.values())))
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3 + 0.24 * rows), sharey=True, squeeze=False)
    look = {"annot": True, "fmt": ".0f", "annot_kws": {"fontsize": 9}, "cmap": "viridis", "cbar": False}
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        sns.heatmap(values, vmin=0, vmax=100, ax=axis, **look)
        axis.set(title=f"{title}, %", xlabel="", ylabel="")
        axis.set_xticklabels(axis.get_xticklabels(), rotation=60, ha="right", fontsize="small")
        axis.tick_params(axis="y", rotation=0)
    return figure


def epochs(table: pd.DataFrame, names: dict[tuple[str, str], str]) -> Figure:
    """Accuracy after the last two epochs: a line per network.

    Args:
        table: of `results.by_epoch`.
        names: (table, row) -> the name of a network; other rows are left out.
    """
    top1 = table.pivot_table(index=["table", "row"], columns="epoch", values="top1", sort=False)
    names = {row: name for row, name in names.items() if row in top1.index}
    top1 = top1.loc[list(names), sorted(top1)[-2:]].set_axis(list(names.values()))
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.28 * len(names)))
    axes.hlines(top1.index, top1.min(axis=1), top1.max(axis=1), color="0.7", lw=2, zorder=0)
    for index, epoch in enumerate(top1):
        axes.scatter(top1[epoch], top1.index, marker=marker(index), color=f"C{index}", label=f"epoch {epoch}")
    axes.set(xlabel="top-1, %", ylim=(len(names) - 0.5, -0.5))
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plainness(table: pd.DataFrame, names: dict[tuple[str, str], str]) -> Figure:
    """Accuracy against how plain the action of a clip is, one line per network.

    Args:
        table: of `predictions.by_plainness`.
        names: (table, row) -> the name of a network; other rows are left out.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for index, (network, name) in enumerate(names.items()):
        of_network = table[(table.table == network[0]) & (table.row == network[1])]
        style = {"color": f"C{index}", "marker": marker(index), "ls": ("-", "--", ":")[index // 6 % 3]}
        axes.plot(of_network.plain, of_network.top1, label=name, **style)
    axes.set(xlabel="how plain the action is (1: as in the plainest training clips)", ylabel="top-1, %")
    axes.set(xlim=(0, 1), ylim=(0, 100))
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def splits_compared(splits: pd.DataFrame, histories: dict[tuple[str, str, int], pd.DataFrame]) -> Figure:
    """Accuracy on each split of a data set by starting weights, and over the epochs; one row per data set.

    Args:
        splits: of `transfer.by_split`: columns data, weights, fold, top1 and classes.
        histories: (data, weights, fold) -> the run's history.
    """
    datasets, kinds = splits.data.unique(), splits.weights.unique()
    figure, axes = plt.subplots(len(datasets), 2, figsize=(WIDTH, 3.3 * len(datasets)), squeeze=False, sharey="row")
    for (left, right), data in zip(axes, datasets, strict=True):
        part = splits[splits.data == data]
        for index, weights in enumerate(kinds):
            runs, style = part[part.weights == weights], {"color": f"C{index}", "marker": marker(index)}
            left.plot(runs.fold, runs.top1, ls="", ms=8, label=weights, **style)
            left.axhline(runs.top1.mean(), color=f"C{index}", lw=1.2)
            for fold in runs.fold:
                history = histories[data, weights, fold]
                label = weights if fold == runs.fold.min() else None
                right.plot(history.epoch, history.top1, ms=4, lw=1.2, label=label, **style)
        for axis in (left, right):
            axis.axhline(100 / part.classes.iloc[0], color="0.3", ls="--", lw=1.2, label="chance")
            axis.set_ylim(bottom=0)
        left.set(title=f"{data}: after training (lines: means)", xlabel="split", ylabel="top-1, %")
        left.set(xticks=sorted(part.fold.unique()), xlim=(part.fold.min() - 0.5, part.fold.max() + 0.5))
        right.set(title=f"{data}: test list of each split", xlabel="epoch")
        right.xaxis.get_major_locator().set_params(integer=True)
        right.legend(fontsize="small")
    return figure


def localised(table: pd.DataFrame) -> Figure:
    """Saliency on the object and in time, one mark per network, beside the three controls.

    With one seed whiskers are 95 % intervals over videos. With several, a mark is the mean with its 95 % interval over
    seeds, and each seed is a dot.

    Args:
        table: of `localisation.summary`; networks with random weights are called "..., random weights".
    """
    panels = {
        "share": ("on the object, % of a frame's saliency", "area"),
        "hit": ("greatest value on the object, % of frames", "area"),
        "share_time": ("while it acts, % of a clip's saliency", "area_time"),
        "hit_time": ("strongest frame while it acts, % of clips", "area_time"),
    }
    random, own, several = table.network.str.endswith(RANDOM), table.of == OWN, len(table.seed.unique()) > 1
    kinds = {
        "trained": (table[own & ~random], -0.2, {"fmt": "o", "color": "C0"}),
        SHUFFLED: (table[~random & (table.of == SHUFFLED)], 0, {"fmt": "x", "color": "C1"}),
        "random weights": (table[own & random], 0.2, {"fmt": "s", "color": "C2", "mfc": "none"}),
    }
    names, entries = list(table.network[~random].unique()), {}
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 1.6 + 0.75 * len(names)), sharey=True)
    for axis, (measure, (label, area)) in zip(axes.flat, panels.items(), strict=True):
        for kind, (rows, offset, look) in kinds.items():
            places = rows.network.str.removesuffix(RANDOM).map(names.index) + offset
            values, margins = rows[measure], rows[f"{measure}_margin"]
            if several:
                axis.plot(values, places, ".", ms=4, alpha=0.6, color=look["color"])
                by_network = values.groupby(places)
                values, margins = by_network.mean(), by_network.agg(lambda each: mean_interval(each).margin)
                places = values.index
            entries[kind] = axis.errorbar(values, places, xerr=margins, capsize=3, ms=6, **look)
        uniform = axis.axvline(table[area].mean(), color="0.3", ls="--", lw=1.2)
        entries["uniform over the map, or over all frames"] = uniform
        axis.set(xlabel=label, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=4)
    return figure


def published_vs_counted(ledger: pd.DataFrame) -> Figure:
    """Published against counted GFLOPs and parameters, and each GFLOPs difference relative to its tolerance.

    Args:
        ledger: `tables.ledger()`.
    """
    figure, places = plt.subplot_mosaic("ab;cc", figsize=(9.8, 8.4), height_ratios=(1.2, 1))
    axes = list(places.values())
    names = list(dict.fromkeys(ledger.table))
    styles = {name: {"marker": marker(i), "color": f"C{i % 10}", "mfc": "none"} for i, name in enumerate(names)}
    panels = (("gflops", 1, "GFLOPs"), ("params", 1e6, "parameters, M"))
    for axis, (column, unit, label) in zip(axes, panels, strict=False):
        known = ledger[ledger[f"{column}_paper"].notna()]
        for name, part in known.groupby("table", sort=False):
            published = part[f"{column}_paper"].astype(float) / unit
            axis.plot(published, part[column] / unit, ls="", label=name, **styles[name])
        ends = np.array([known[column].min() / unit / 1.3, known[column].max() / unit * 1.3])
        axis.plot(ends, ends, color="0.4", lw=1, zorder=0)
        axis.set(title=label, xlabel="published", ylabel="counted", xscale="log", yscale="log", xlim=ends, ylim=ends)
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ticks.set_major_formatter("{x:g}")
            ticks.set_minor_formatter("")
    axes[0].legend(title="Table", fontsize="small", title_fontsize="small", ncols=2)

    known = ledger[ledger.gflops_paper.notna()]
    share = (known.gflops - known.gflops_paper) / known.gflops_allowed
    for name in names:
        part = share[known.table == name]
        axes[2].plot(part, [name] * len(part), ls="", **styles[name])
    for index, value in share[share.abs() > 1].items():
        row = known.loc[index]
        text = f"{row.row}: {row.gflops_paper:g} published, {row.gflops:.1f} counted"
        axes[2].annotate(text, (value, row.table), (0, 9), textcoords="offset points", fontsize="small", ha="left")
    axes[2].axvspan(-1, 1, color="0.9", zorder=0)
    axes[2].invert_yaxis()
    axes[2].set(title="GFLOPs: difference / tolerance", xlabel="counted - published, in units of the tolerance")
    axes[2].set_ylabel("Table")
    return figure


def cost_by_stage(parts: dict[str, pd.DataFrame], protocol: str) -> Figure:
    """GFLOPs as stacked bars, one group per stage and one bar per network.

    Args:
        parts: network -> GFLOPs, one row per stage and one column per part.
        protocol: the clip, for the axis.
    """
    figure, axes = plt.subplots(figsize=(9, 4.2))
    width = 0.8 / len(parts)
    stages = list(next(iter(parts.values())).index)
    columns = list(dict.fromkeys(column for table in parts.values() for column in table.columns))
    for number, (name, table) in enumerate(parts.items()):
        at = np.arange(len(stages)) + (number - (len(parts) - 1) / 2) * width
        bottom = np.zeros(len(stages))
        for index, column in enumerate(columns):
            values = table.get(column, pd.Series(0.0, stages)).to_numpy()
            look = {"color": f"C{index}", "ec": "0.2", "lw": 0.5, "label": column if number == 0 else None}
            bars = axes.bar(at, values, 0.92 * width, bottom=bottom, **look)
            bottom += values
        axes.bar_label(bars, [f"{name}\n{top:.1f}" for top in bottom], fontsize="small")
    axes.set(xticks=range(len(stages)), xticklabels=stages, ylabel=f"GFLOPs of {protocol}")
    axes.use_sticky_edges = False  # else the tallest bar touches the frame
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize="small")
    return figure


def dimension_sizes(sweeps: dict[int, pd.DataFrame]) -> Figure:
    """Cost of the split C = C_1 x C_2 against C_2, one line per C.

    Args:
        sweeps: C -> columns `c2` and `relative` (cost over that of the cheapest split).
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    for index, (channels, table) in enumerate(sweeps.items()):
        axes.plot(table.c2, table.relative, f"-{marker(index)}", color=f"C{index}", label=f"C = {channels}")
        cheapest = table.loc[table.relative.idxmin()]
        axes.plot(cheapest.c2, 1, marker(index), ms=13, mfc="none", color=f"C{index}")
    axes.set_xscale("log", base=2)
    axes.set(yscale="log", xlabel="$C_2$ (with $C_1 = C / C_2$)", ylabel="products, cheapest split = 1")
    axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.legend(title="ring: the cheapest", fontsize="small", title_fontsize="small")
    return figure


def interact_fields(fields: dict, stated: dict[str, int]) -> Figure:
    """The positions that one output depends on, as blocks in the box of Table 1, one panel per module.

    Args:
        fields: module -> `cost.InteractField`, all on clips of one size.
        stated: module -> the extent of Table 1's box, 3 or 2K + 1.
    """
    reach = max(max(*field.box, stated[name]) for name, field in fields.items()) // 2 + 1  # positions from the middle
    side = 2 * reach + 1
    figure = plt.figure(figsize=(3.4 * len(fields), 4.3))
    for index, (name, field) in enumerate(fields.items()):
        axes = figure.add_subplot(1, len(fields), index + 1, projection="3d")
        around = tuple(slice(extent // 2, extent // 2 + side) for extent in field.places.shape)
        places = np.pad(field.places.numpy(), reach)[around].transpose(0, 2, 1)  # height upwards
        axes.voxels(places, facecolors=f"C{index}", edgecolor="0.25", linewidth=0.3, alpha=0.85)
        extent = stated[name]
        _cube(axes, reach + 0.5 - extent / 2, reach + 0.5 + extent / 2)
        text = f"paper: {extent} x {extent} x {extent}\nmeasured: {field.positions} of {extent**3} positions"
        axes.set_title(f"{name}\n{text}", fontsize="small")
        for axis, what in (("x", "time"), ("y", "width"), ("z", "height")):
            axes.set(**{f"{axis}label": what, f"{axis}lim": (0, side), f"{axis}ticklabels": []})
        axes.view_init(22, -52)
    return figure


def _cube(axes, low: float, high: float) -> None:
    """The twelve edges of a cube in three dimensions."""
    corners = list(itertools.product((low, high), repeat=3))
    for first, second in itertools.combinations(corners, 2):
        if sum(a != b for a, b in zip(first, second, strict=True)) == 1:
            axes.plot(*zip(first, second, strict=True), color="0.35", lw=0.8)


def latency_vs_gflops(timed: pd.DataFrame) -> Figure:
    """Measured milliseconds against GFLOPs, one point per network; a line scales the first row by GFLOPs.

    Args:
        timed: columns name, gflops, milliseconds, low, high, and the conditions of `cost.Latency`.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for index, row in enumerate(timed.itertuples()):
        error = [[row.milliseconds - row.low], [row.high - row.milliseconds]]
        axes.errorbar(row.gflops, row.milliseconds, error, fmt=marker(index), ms=8, capsize=3, color=f"C{index}")
    first = timed.iloc[0]
    reach = np.array([0, 1.15 * timed.gflops.max()])
    axes.plot(reach, reach * first.milliseconds / first.gflops, "--", color="0.4", lw=1, zorder=0)
    axes.set(
        xlabel=f"GFLOPs of one clip ({first.num_frames} x {first['size']} x {first['size']})",
        ylabel=f"ms per call, batch {first.batch}, {first.precision}",
        title=f"{first.hardware}" + (f", {first.threads} threads" if first.device == "cpu" else ""),
        xlim=reach,
        ylim=(0, 1.2 * max(timed.high.max(), reach[1] * first.milliseconds / first.gflops)),
    )
    points = timed[["gflops", "milliseconds"]].to_numpy()
    labels = [axes.text(*point, name, fontsize="small") for point, name in zip(points, timed.name, strict=True)]
    adjust_text(labels, *points.T, ax=axes, expand=(1.3, 1.6))
    return figure
