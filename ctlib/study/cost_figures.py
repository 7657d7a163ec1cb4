"""Figures of costs: published against counted, by stage, by split, interact fields, latency."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ctlib.display.plotting import marker


def published_vs_counted(ledger: pd.DataFrame) -> Figure:
    """Published against counted GFLOPs and parameters, and each GFLOPs difference relative to its tolerance.

    Args:
        ledger: `tables.ledger()`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), width_ratios=(1, 1, 1.15))
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
    axes[0].legend(title="Table", fontsize="x-small", title_fontsize="x-small", ncols=2)

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
            label = column if number == 0 else None
            axes.bar(at, values, 0.92 * width, bottom=bottom, color=f"C{index}", ec="0.2", lw=0.5, label=label)
            bottom += values
        for x, top in zip(at, bottom, strict=True):
            axes.text(x, top, f"{name}\n{top:.1f}", ha="center", va="bottom", fontsize="x-small")
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


def interact_fields(fields: dict, stated: dict[str, int], margin: int = 1) -> Figure:
    """The positions that one output depends on, as blocks in the box of Table 1, one panel per module.

    Args:
        fields: module -> `cost.InteractField`, all on clips of one size.
        stated: module -> the extent of Table 1's box, 3 or 2K + 1.
        margin: positions shown around the largest field.
    """
    reach = max(max(*field.box, stated[name]) for name, field in fields.items()) // 2 + margin
    figure = plt.figure(figsize=(3.4 * len(fields), 4.3))
    for index, (name, field) in enumerate(fields.items()):
        axes = figure.add_subplot(1, len(fields), index + 1, projection="3d")
        side = 2 * reach + 1
        middle = [extent // 2 for extent in field.places.shape]
        places = np.zeros((side,) * 3, dtype=bool)
        for place in field.places.nonzero().tolist():
            t, h, w = (at - centre + reach for at, centre in zip(place, middle, strict=True))
            if max(t, h, w) < side and min(t, h, w) >= 0:
                places[t, w, h] = True  # height upwards
        axes.voxels(places, facecolors=f"C{index}", edgecolor="0.25", linewidth=0.3, alpha=0.85)
        extent = stated[name]
        _cube(axes, reach + 0.5 - extent / 2, reach + 0.5 + extent / 2)
        text = f"paper: {extent} x {extent} x {extent}\nmeasured: {field.positions} of {extent**3} positions"
        axes.set_title(f"{name}\n{text}", fontsize="small")
        ends = (0, side)
        axes.set(xlabel="time", ylabel="width", zlabel="height", xlim=ends, ylim=ends, zlim=ends)
        axes.set(xticklabels=[], yticklabels=[], zticklabels=[])
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
