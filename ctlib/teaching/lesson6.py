"""Lesson 6, read an ablation table: seeds, intervals, results and times (explorer, figures, exercises)."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from ctlib.config import check_choice
from ctlib.display.plotting import marker
from ctlib.teaching.exercise import NotYet, expect, given, solved_by
from ctlib.teaching.shell import BLUE, DARK, PALE, WIDEST, View, canvas, check_minimum
from ctlib.training import statistics

# Result of a comparison -> how its point is filled.
DIFFERENT, EQUAL, INCONCLUSIVE = "different", "equal", "inconclusive"
FILLS = {DIFFERENT: DARK, EQUAL: BLUE, INCONCLUSIVE: "white"}
FAR = 20.0  # points; a row further from the reference would leave no room for the others' intervals


def check(measured: pd.DataFrame, table: str, margin: float) -> pd.DataFrame:
    """What `study.results.measured` found, one row per table, row and seed. ValueError if it does not serve here."""
    if measured.empty:
        folder = measured.attrs["tables_dir"]
        raise ValueError(f"tables_dir must be a folder with the study's tables, {folder} has none")
    check_choice("table", table, dict.fromkeys(measured.table))
    if (seeds := measured[measured.table == table].seed.nunique()) < 2:
        raise ValueError(f"two seeds of Table {table} are needed, got {seeds}")
    check_minimum(margin=(margin, 0))
    return measured


# ---------------------------------------------------------------- explorer


def result(low: float, high: float, margin: float) -> str:
    """What an interval of a difference says: the first that holds, for differences within `margin` as equality."""
    if low > 0 or high < 0:
        return DIFFERENT
    return EQUAL if -margin <= low and high <= margin else INCONCLUSIVE


def against(compared: pd.DataFrame, margin: float) -> pd.DataFrame:
    """Rows of a table minus its reference, as from `comparisons.differences`, with their `result`.

    Raises:
        ValueError: no row has two seeds in common with the reference.
    """
    compared = compared[compared.blocks > 1]
    if compared.empty:
        raise ValueError("no row has two seeds in common with the reference of its table")
    return compared.assign(result=[result(one.low, one.high, margin) for one in compared.itertuples()])


def intervals(compared: pd.DataFrame, reference: str, seeds: int, margin: float) -> View:
    """The differences of `against` from `seeds` seeds, with their intervals and what these say."""
    counts = compared.result.value_counts()
    numbers = {"seeds": str(seeds), "reference": reference}
    numbers |= {name: str(counts.get(name, 0)) for name in FILLS}
    widths = (compared.high - compared.low) / 2
    numbers["half of an interval"] = f"up to {widths.max():.1f} points"
    alt = f"Differences from {reference}: " + "; ".join(
        f"{row.Index} {row.difference:+.1f} ({row.low:+.1f} to {row.high:+.1f}), {row.result}"
        for row in compared.itertuples()
    )
    return View(_forest(compared, reference, margin), numbers, alt)


def _forest(compared: pd.DataFrame, reference: str, margin: float) -> Figure:
    """One line per row: the difference and its interval, over the band of equality; far rows as numbers at the edge."""
    height = 1.6 + 0.4 * len(compared)
    figure = canvas(WIDEST, height, left=0.39, bottom=0.9 / height, top=1 - 0.35 / height)
    axes = figure.add_subplot()
    near = compared[compared.difference.abs() <= FAR]
    bounds = near[["low", "high"]] if len(near) else compared[["low", "high"]]
    reach = 1.1 * max(bounds.abs().to_numpy().max(), 2 * margin)
    axes.axvspan(-margin, margin, color=PALE, zorder=0)
    axes.axvline(0, color="0.3", lw=1.2)
    for place, row in enumerate(compared.itertuples()):
        if abs(row.difference) > reach:
            side = math.copysign(1, row.difference)
            at = {"xy": (0.98 * side * reach, place), "xytext": (0.85 * side * reach, place)}
            arrow = {"arrowstyle": "->", "color": "0.2"}
            text = f"{row.difference:+.1f}, {row.result}"
            axes.annotate(text, **at, ha="right" if side > 0 else "left", va="center", fontsize=9, arrowprops=arrow)
            continue
        axes.plot((row.low, row.high), (place, place), color="0.3", lw=1.4)
        axes.plot(row.difference, place, "o", ms=8, mfc=FILLS[row.result], mec="0.2")
    axes.set_yticks(range(len(compared)), [f"{row.Index} ({row.blocks})" for row in compared.itertuples()], fontsize=9)
    axes.set(xlim=(-reach, reach), ylim=(len(compared) - 0.4, -0.6), title=f"row (seeds in common) minus {reference}")
    axes.set_xlabel("points of top-1, lines: 95 % interval, band: margin")
    axes.grid(axis="y", visible=False)
    marks = [Line2D([], [], marker="o", ls="", ms=8, mfc=fill, mec="0.2", label=name) for name, fill in FILLS.items()]
    figure.legend(handles=marks, fontsize=9, ncols=3, loc="lower right", frameon=False)
    return figure


# ---------------------------------------------------------------- figures


def dots(top1: pd.DataFrame, title: str) -> Figure:
    """Accuracies in percent: one mark per seed (row of `top1`), one line per network (column), and its mean."""
    names = list(top1)
    height = 1.2 + 0.42 * len(names)
    figure = canvas(7.4, height, left=0.32, right=0.84, bottom=0.6 / height, top=1 - 0.35 / height)
    axes = figure.add_subplot()
    apart = np.linspace(-0.2, 0.2, len(top1))  # or equal seeds hide each other
    for index, (seed, values) in enumerate(top1.iterrows()):
        style = {"ls": "", "ms": 7, "mfc": "none", "mew": 1.4, "color": f"C{index}", "label": f"seed {seed}"}
        axes.plot(values, np.arange(len(names)) + apart[index], marker(index), **style)
    axes.plot(top1.mean(), range(len(names)), "|", ms=15, mew=2, color="0.15", label="mean")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set(title=title, xlabel="top-1, %", ylim=(len(names) - 0.4, -0.6))
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def half_width(std: float, seeds: int, networks: int = 2) -> float:
    """Half of the 95 % interval of a difference of two networks that share `seeds` seeds, in points.

    Their table has `networks`, and a residual standard deviation of `std` points: of one run, beyond network and seed.
    """
    freedom = (networks - 1) * (seeds - 1)
    return float(stats.t.ppf((1 + statistics.LEVEL) / 2, freedom) * std * math.sqrt(2 / seeds))


def widths(residuals: pd.DataFrame, margin: float, most: int = 20) -> Figure:
    """`half_width` by the number of seeds, one curve per row of `comparisons.residuals`, with a line at the margin."""
    figure = canvas(7.4, 3.4, left=0.1, right=0.68)
    axes, counts = figure.add_subplot(), np.arange(3, most + 1)
    for index, (name, std, networks) in enumerate(residuals[["std", "rows"]].itertuples(name=None)):
        each = [half_width(std, count, networks) for count in counts]
        axes.plot(counts, each, f"-{marker(index)}", ms=4, label=f"{name}: {std:.1f} points, {networks} rows")
    axes.axhline(margin, color="0.3", ls="--", lw=1.2, label=f"margin: {margin:g}")
    axes.set(xlabel="seeds", ylabel="half of an interval, points", yscale="log", title="How wide an interval is")
    axes.set_xticks(range(4, most + 1, 4))
    low, high = axes.get_ylim()
    ticks = [tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1), title="Table: deviation")
    return figure


def times(timed: pd.DataFrame, protocol: str) -> Figure:
    """`milliseconds` against `gflops`, one named point per network; a line scales the first one's time by GFLOPs."""
    figure = canvas(7.4, 4, left=0.09, right=0.74)
    axes, first, most = figure.add_subplot(), timed.iloc[0], timed.max()
    ends = np.array([0, 1.1 * most.gflops])
    axes.plot(ends, ends * first.milliseconds / first.gflops, "--", color="0.4", lw=1, label=f"{timed.index[0]}'s rate")
    for index, row in enumerate(timed.itertuples()):
        style = {"ls": "", "ms": 8, "color": f"C{index}", "mec": "0.2", "label": row.Index}
        axes.plot(row.gflops, row.milliseconds, marker(index), **style)
    axes.set(
        xlabel="GFLOPs of one clip", ylabel="ms per clip", title=protocol, xlim=ends, ylim=(0, 1.1 * most.milliseconds)
    )
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


# ---------------------------------------------------------------- exercises


@solved_by("""
def margin_of_mean(values, t):
    return t * values.std(ddof=1) / len(values) ** 0.5  # to fill in
""")
def _check_6_1(answers: dict) -> str:
    values, t = np.array([86.0, 88.5, 85.5, 88.0]), 3.182
    std, sample = values.std(), values.std(ddof=1)
    expect(
        float(given(answers["margin_of_mean"](values, t))), t * sample / 2,
        {
            t * std / 2: "The mean is estimated from the same values: divide the squares by n - 1 (ddof=1)",
            t * sample: "That is for one run. A mean of n runs varies less, by the square root of n",
            t * sample / 4: "Divide by the square root of n, not by n",
            sample / 2: "That is the standard error: t standard errors make the margin",
        },
        f"For 86, 88.5, 85.5 and 88 with t = 3.182 the margin is {t * sample / 2:.2f}, your function says {{value}}",
    )  # fmt: skip
    return "Four times the seeds give half the margin, and less: t falls too."


@solved_by("""
std_of_differences = 0  # to fill in
""")
def _check_6_2(answers: dict) -> str:
    expect(
        answers["std_of_differences"], 0,
        {
            4: "That is the deviation of each network. Subtract seed by seed first",
            2: "That is the mean of the differences. How much do they vary?",
            math.sqrt(32): "That would hold for independent runs. Here both rise and fall with the seed",
        },
        "{value}? Write down the three differences, seed by seed",
    )  # fmt: skip
    return "All three differences are 2: what the seed does to both is no error of the difference."


@solved_by("""
def read(low, high, margin):
    if low > 0 or high < 0:
        return "different"
    return "equal" if -margin <= low and high <= margin else "inconclusive"  # to fill in
""")
def _check_6_3(answers: dict) -> str:
    read = answers["read"]
    cases = [(0.4, 3.1), (-5.0, -2.0), (-0.6, 0.8), (-0.4, 1.9), (-3.0, 0.5), (-2.0, 2.0)]
    for low, high in cases:
        said, right = given(read(low, high, 1.0)), result(low, high, 1.0)
        if said != right:
            raise NotYet(f"From {low:+.1f} to {high:+.1f} with a margin of 1: {right!r}, your function says {said!r}")
    if read(-1.5, 1.5, 2.0) != EQUAL:
        raise NotYet("From -1.5 to +1.5 with a margin of 2: 'equal'. Use the margin that is given")
    return "Inconclusive is no result: the interval holds both zero and differences that matter."


@solved_by("""
seeds_needed = 11  # to fill in
""")
def _check_6_4(answers: dict) -> str:
    expect(
        answers["seeds_needed"], 11,
        {
            8: "That is with 1.96 in place of t, which is larger for so few seeds",
            10: "With 10 seeds half of the interval is 1.01 points",
            6: "A difference has the variance of two runs: 2 / n, not 1 / n",
        },
        "With {value} seeds? Read it off the figure, or call lesson6.half_width(1.0, n)",
    )  # fmt: skip
    return "And then the difference must still be near zero. Equality is the costlier claim."
