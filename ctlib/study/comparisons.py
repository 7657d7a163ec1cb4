"""Comparisons: pairs of rows of the paper's tables, and which of their differences the measurements confirm.

Two rows of one table whose published top-1 accuracies, on one data set, are at least `LEAST_GAP` points apart are a
comparison. Its result is read off the measured difference of the two rows, paired over seeds.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd
from scipy import stats

from ctlib import paper
from ctlib.study.measurements import PROTOCOL, check
from ctlib.study.scales import SCALES, Study
from ctlib.study.tables import TABLES
from ctlib.training import statistics

AGREES, DISAGREES, INCONCLUSIVE = "agrees", "disagrees", "inconclusive"
NOT_RUN = "not run"  # one of the rows, or both
NOT_AT_SCALE = "not at this scale"  # the scale has no such row, or has other real data than the published column
LEAST_GAP = 0.5  # points of top-1 between two published rows that are compared

_SOMETHING = "Something-Something V1"
_DATA_SETS = {
    "top1": _SOMETHING,
    "top1_v1": _SOMETHING,
    "top1_v2": "Something-Something V2",
    "top1_minik": "Mini-Kinetics-200",
}
_PUBLISHED_AS = {"something-v1": _SOMETHING, "mini-kinetics-200": "Mini-Kinetics-200"}  # real data of a scale


class Comparison(NamedTuple):
    """Two rows of a table in one published column, and the measured difference between them."""

    table: str
    data: str  # of the published column
    higher: str  # row, as published
    lower: str
    gap: float  # published, points of top-1
    seeds: int = 0  # that both rows have
    difference: float = math.nan  # higher minus lower, measured, points; the mean over these seeds
    low: float = math.nan  # its t interval, from two seeds on
    high: float = math.nan
    p: float = math.nan  # of no difference, for this comparison alone
    p_holm: float = math.nan  # corrected for the number of measurements: the same `key` counts once
    result: str = ""  # one of the five above
    why: str = ""  # it is inconclusive, or which rows were not run
    key: str = ""  # the two sets of runs and their tests; equal for one measurement in several tables or columns


def published(table: str) -> pd.DataFrame:
    """The top-1 accuracies that a table of the paper prints, in percent: its rows, one column per data set."""
    printed = paper.table(table)
    return printed[[column for column in printed if column in _DATA_SETS]].rename(columns=_DATA_SETS)


def published_at_scale(table: str, scale: str) -> pd.DataFrame:
    """`published`, with what the runs of a scale can be compared with; all else is missing.

    A scale lacks some rows (`scales.Study.rows`). Synthetic data serve every column, real data that of their data set.
    """
    accuracies = published(table)
    data, _ = SCALES[scale].others.get(table, (SCALES[scale].data, ""))
    rows = accuracies.index.isin(list(Study(scale).rows(table)))
    columns = [_PUBLISHED_AS.get(data, column) == column for column in accuracies]
    return accuracies.loc[rows, columns].reindex_like(accuracies)


def pairs(measured: pd.DataFrame, tables: Sequence[str] = TABLES, scale: str = "laptop") -> pd.DataFrame:
    """Every comparison of some tables, and its result: "agrees" or "disagrees" if the t interval excludes zero.

    Each published top-1 column has its own comparisons (Tables 6 and 7 have two). On synthetic data the same
    measurements serve both.

    Args:
        measured: of `results.measured`.

    Returns:
        One row per `Comparison`.

    Raises:
        ValueError: as `measurements.check`.
    """
    check(measured, scale)
    compared = []
    for table in tables:
        of_table = measured[measured.table == table]
        top1 = of_table.pivot_table(index="seed", columns="row", values="top1")
        tests = {row: _tests(of_row) for row, of_row in of_table.groupby("row")}
        at_scale = published_at_scale(table, scale)
        for pair in _published_pairs(table):
            both = [pair.higher, pair.lower]
            absent = [row for row in both if row not in top1]
            if at_scale.loc[both, pair.data].isna().any():
                pair = pair._replace(result=NOT_AT_SCALE)
            elif absent:
                pair = pair._replace(result=NOT_RUN, why=", ".join(absent))
            else:
                differences = (top1[pair.higher] - top1[pair.lower]).dropna()
                one_video = 100 / of_table.videos.iloc[0]  # in percent
                pair = _measured(pair, differences, least_std=one_video)
                pair = pair._replace(key=" | ".join(sorted(tests[row] for row in both)))
            compared.append(pair)
    compared = pd.DataFrame(compared, columns=Comparison._fields)
    p = compared.dropna(subset="p").drop_duplicates("key").set_index("key").p
    return compared.assign(p_holm=compared.key.map(statistics.holm(p)))


def _published_pairs(table: str) -> Iterable[Comparison]:
    for data, column in published(table).items():
        accuracies = column.dropna()
        for one, other in itertools.combinations(accuracies.index, 2):
            higher, lower = (one, other) if accuracies[one] >= accuracies[other] else (other, one)
            gap = round(float(accuracies[higher] - accuracies[lower]), 6)  # 47.3 - 46.8 is less than 0.5 in floats
            if gap >= LEAST_GAP:
                yield Comparison(table, data, higher, lower, gap)


def _tests(of_row: pd.DataFrame) -> str:
    """What the accuracies of a row come from: its runs, and their test protocol."""
    return ",".join(sorted(of_row[["run", *PROTOCOL]].astype(str).agg("@".join, axis=1)))


def _measured(pair: Comparison, differences: pd.Series, least_std: float) -> Comparison:
    """The comparison with its result, from the differences, higher minus lower, one per common seed."""
    seeds, interval = len(differences), statistics.mean_interval(differences, least_std)
    result, why = INCONCLUSIVE, "the interval includes zero"
    if seeds < 2:
        why = f"{seeds} common seed{'' if seeds == 1 else 's'}, at least 2 are needed"
    elif interval.significant:
        result, why = AGREES if interval.low > 0 else DISAGREES, ""
    mean, low, high, _, p = interval
    return pair._replace(seeds=seeds, difference=mean, low=low, high=high, p=p, result=result, why=why)


def counts(compared: pd.DataFrame) -> pd.DataFrame:
    """How many comparisons have each result, per table and data set, then in all.

    Table 6 has 16 rows from 4 networks, and four in five of all comparisons, so there is also a total without it.

    Args:
        compared: of `pairs`.

    Returns:
        Indexed by `table` and `data` (empty for "all but 6" and "all"): `agrees`, `disagrees`, `inconclusive`, of which
        `too few seeds` (fewer than two common ones), `not run`, `not at this scale`, and `pairs`: all that are at this
        scale.
    """
    marked = pd.DataFrame({result: compared.result == result for result in (AGREES, DISAGREES, INCONCLUSIVE)})
    marked["too few seeds"] = marked[INCONCLUSIVE] & (compared.seeds < 2)
    marked[NOT_RUN], marked[NOT_AT_SCALE] = compared.result == NOT_RUN, compared.result == NOT_AT_SCALE
    marked["pairs"] = ~marked[NOT_AT_SCALE]
    table = marked.groupby([compared.table, compared.data], sort=False).sum()
    total, others = table.sum(), table.drop(index="6", level="table", errors="ignore")
    if 0 < len(others) < len(table):
        table.loc[("all but 6", ""), :] = others.sum()
    table.loc[("all", ""), :] = total
    return table.astype(int)


def summary(compared: pd.DataFrame) -> pd.DataFrame:
    """The results of all comparisons of `pairs`, in numbers.

    Several comparisons can be of one measurement: the same two sets of runs, in two tables or against two published
    columns. So each number is given twice. `comparisons` counts all of them; `pairs of run sets` counts each
    measurement once, as the correction (Holm's) does. Comparisons without a measurement are in the first alone.
    """
    result, difference = compared.result, compared.difference
    inconclusive, corrected = result == INCONCLUSIVE, compared.p_holm < 1 - statistics.LEVEL
    statements = {
        "at this scale": result != NOT_AT_SCALE,
        "significant: measured order agrees": result == AGREES,
        "significant: measured order disagrees": result == DISAGREES,
        "significant after correction: agrees": (result == AGREES) & corrected,
        "significant after correction: disagrees": (result == DISAGREES) & corrected,
        "inconclusive": inconclusive,
        "inconclusive: fewer than 2 common seeds": inconclusive & (compared.seeds < 2),
        "inconclusive: mean difference in the published order": inconclusive & (difference > 0),
        "inconclusive: mean difference in the other order": inconclusive & (difference < 0),
        "inconclusive: the interval includes the published gap": inconclusive
        & (compared.low <= compared.gap)
        & (compared.gap <= compared.high),
        NOT_RUN: result == NOT_RUN,
        NOT_AT_SCALE: result == NOT_AT_SCALE,
    }
    keys = compared.key.where(compared.key != "")
    numbers = {name: (chosen.sum(), keys[chosen].nunique()) for name, chosen in statements.items()}
    return pd.DataFrame.from_dict(numbers, orient="index", columns=["comparisons", "pairs of run sets"])


def rank_agreement(measured: pd.DataFrame, tables: Sequence[str] = TABLES, scale: str = "laptop") -> pd.DataFrame:
    """Kendall's tau-b between published and measured accuracies: means over the seeds that all these rows have.

    Returns:
        Indexed by `table` and `data`.
        `tau`: 1 is the same order, -1 the reverse; missing below two rows, without a common seed, or if all are equal.
        `p`: two-sided; with three rows even tau = 1 has p = 1/3.
        `rows`, `of`: how many are measured, and how many the paper has.
        `seeds`: how many the rows have in common.

    Raises:
        ValueError: as `measurements.check`.
    """
    check(measured, scale)
    records = {}
    for table in tables:
        top1 = measured[measured.table == table].pivot_table(index="seed", columns="row", values="top1")
        for data, column in published_at_scale(table, scale).items():
            both = [row for row in column.dropna().index if row in top1]
            common = top1[both].dropna()
            tau, p = math.nan, math.nan
            if len(both) > 1 and len(common):  # rounded, so that means of the same numbers in another order are ties
                tau, p = stats.kendalltau(column[both], common.mean().round(9))
            seeds, printed = len(common) if both else 0, published(table)[data].count()
            records[table, data] = {"tau": tau, "p": p, "rows": len(both), "of": printed, "seeds": seeds}
    return pd.DataFrame.from_dict(records, orient="index").rename_axis(["table", "data"])


# The tables of the report.


def published_table(table: str) -> pd.DataFrame:
    """What a table of the paper prints: top-1 accuracies in percent per data set, costs and protocol."""
    names = {"gflops": "GFLOPs, one view", "gflops_total": "GFLOPs, all views", "params_m": "params, M"}
    names |= {name: name for name in ("frames", "size", "crops", "clips")}
    printed = paper.table(table)
    accuracies = published(table).add_prefix("top-1 on ").add_suffix(", %")
    return accuracies.join(printed[[column for column in names if column in printed]].rename(columns=names))


def measured_table(means: pd.DataFrame, table: str) -> pd.DataFrame:
    """What was measured for a table.

    Args:
        means: of `measurements.averaged`, with rows of that table.
    """
    rows = means.loc[table]
    costs = {"GFLOPs, all views": rows.gflops, "params, M": rows.params / 1e6}
    views = rows.crops.astype(str) + " x " + rows.clips.astype(str)
    protocol = {"frames": rows.frames, "size": rows["size"], "crops x clips": views}
    return pd.DataFrame({"top-1, %": rows.top1, "std": rows["std"], "seeds": rows.seeds} | costs | protocol)


def comparison_table(compared: pd.DataFrame) -> pd.DataFrame:
    """Comparisons of `pairs` as text, differences in points of top-1; empty where more seeds are needed."""

    def text(column: str, form: str, least_seeds: int = 0) -> pd.Series:
        return compared[column].map(form.format).astype(object).where(compared.seeds >= least_seeds, "")

    return pd.DataFrame(
        {
            "table": compared.table,
            "published on": compared.data,
            "higher": compared.higher,
            "lower": compared.lower,
            "published gap": text("gap", "{:.1f}"),
            "measured": text("difference", "{:+.1f}", 1),
            f"{100 * statistics.LEVEL:.0f} % interval": text("low", "{:+.1f} to ", 2) + text("high", "{:+.1f}", 2),
            "seeds": compared.seeds,
            "p": text("p", "{:.2g}", 2),
            "p, corrected": text("p_holm", "{:.2g}", 2),
            "result": compared.result + text("why", " ({})").where(compared.why != "", ""),
        }
    )
