"""Comparisons: pairs of rows of the paper's tables, and which of their differences measured runs confirm.

Two rows of one table whose published top-1 accuracies, on one data set, are at least `LEAST_GAP` points apart are a
comparison. Its result is read off the measured difference of the two rows, paired over seeds. Measured lines are those
of `results.measured`: one row per table, row and seed.
"""

import itertools
import math
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from ctlib import paper
from ctlib.study import tables as study
from ctlib.study.scales import SCALES, Study
from ctlib.study.tables import TABLES
from ctlib.training import statistics

AGREES, DISAGREES, INCONCLUSIVE = "agrees", "disagrees", "inconclusive"
UNTESTED = "not at this scale"  # the scale has no such row, or has other real data than the published column
LEAST_GAP = 0.5  # points of top-1 between two published rows that are compared

_SOMETHING = "Something-Something V1"
_COLUMNS = {"top1": "", "top1_v1": _SOMETHING, "top1_v2": "Something-Something V2", "top1_minik": "Mini-Kinetics-200"}
_PUBLISHED_ON = {"something-v1": _SOMETHING, "mini-kinetics-200": "Mini-Kinetics-200"}  # real data of a scale
# What the runs of one table share: what was tested, and what changes numbers in training.
_SAME = ("fingerprint", "classes_digest", "coverage", "videos", "precision", "micro_batch")
_PROTOCOL = ("frames", "size", "clips", "crops")  # may differ between rows where the paper's rows do


def published(table: str) -> pd.DataFrame:
    """The top-1 accuracies that a table of the paper prints, in percent: one row per row, one column per data set."""
    lines = paper.table(table)
    columns = {column: _COLUMNS[column] or _SOMETHING for column in lines if column in _COLUMNS}
    return lines[list(columns)].rename(columns=columns)


def check(measured: pd.DataFrame, scale: str | None = None) -> None:
    """Refuse lines that must not be averaged or compared.

    The study has one scale and the same overrides. A table has one data fingerprint, class order, coverage, number
    of test videos, precision and micro-batch. A row has one protocol. Two rows of a table may differ in frames, size,
    clips or crops only where the paper's two rows do.

    Args:
        measured: of `results.measured`.
        scale: that they must be of; None: any.

    Raises:
        ValueError: lines that differ, or two lines of one row and seed; it names their runs.
    """
    repeated = measured[measured.duplicated(["table", "row", "seed"], keep=False)]
    if len(repeated):
        table, row, seed = repeated.iloc[0][["table", "row", "seed"]]
        names = ", ".join(repeated.run[(repeated.table == table) & (repeated.row == row)])
        raise ValueError(f"table {table}, row {row!r}, seed {seed} needs one run, got {names}")
    _one_value(measured, "scale", "the study")
    _one_value(measured, "overrides", "the study")
    if scale is not None and len(measured) and measured.scale.iloc[0] != scale:
        raise ValueError(f"scale must be {measured.scale.iloc[0]!r}, as in the tables, got {scale!r}")
    for table, lines in measured.groupby("table", sort=False):
        for column in _SAME:
            _one_value(lines, column, f"table {table}")
        for row, part in lines.groupby("row", sort=False):
            for column in _PROTOCOL:
                _one_value(part, column, f"table {table}, row {row!r}")
        for column in _PROTOCOL:
            of_paper = _paper_protocol(table, column)
            for _, part in lines.groupby(lines.row.map(of_paper), sort=False):
                _one_value(part, column, f"table {table}, in rows that the paper has with the same {column}")


def _one_value(lines: pd.DataFrame, column: str, where: str) -> None:
    got = []
    for value, runs in lines.run.groupby(lines[column].astype(str), sort=False):
        names = list(dict.fromkeys(runs))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        got.append(f"{value!r} in {', '.join(names[:3])}{more}")
    if len(got) > 1:
        raise ValueError(f"{where} needs runs with one {column}, got {'; '.join(got)}: they cannot be compared")


def _paper_protocol(table: str, column: str) -> dict[str, str]:
    """Row -> the paper's value of the column; the same for all rows where the paper gives none."""
    lines = paper.table(table)
    networks = study.ROWS.get(table, {})
    if column == "size":
        return {row: str(networks[row][0].size) if row in networks else "" for row in lines.index}
    return lines[column].astype(str).to_dict() if column in lines else dict.fromkeys(lines.index, "")


def averaged(measured: pd.DataFrame) -> pd.DataFrame:
    """The measured rows, averaged over their seeds.

    Returns:
        Indexed by table and row, in the paper's order, custom rows last: `top1` (mean, percent), `std` (sample standard
        deviation over the seeds; missing with one seed), `seeds` (how many), `gflops`, `params` (a count), `frames`,
        `size` (pixels), `clips`, `crops`, `videos`, `train_seconds` (mean of a run) and `runs` (a tuple of all).

    Raises:
        ValueError: as `check`.
    """
    check(measured)
    same = ("gflops", "params", *_PROTOCOL, "videos")
    table = measured.groupby(["table", "row"], sort=False).agg(
        top1=("top1", "mean"),
        std=("top1", "std"),
        seeds=("seed", "nunique"),
        **{column: (column, "first") for column in same},
        train_seconds=("train_seconds", "mean"),
        runs=("run", lambda folders: tuple(sorted(folders))),
    )
    return table.iloc[sorted(range(len(table)), key=lambda at: place(*table.index[at]))]


def place(table: str, row: str) -> tuple[int, int]:
    """Where a row stands in the paper; custom rows last in their table. A key to sort by."""
    rows = list(paper.table(table).index)
    return paper.TABLES.index(table), rows.index(row) if row in rows else len(rows)


def networks(means: pd.DataFrame) -> pd.DataFrame:
    """The different networks among the rows of `averaged` that are one network tested in one view.

    Returns:
        One row per network and size, with the columns of `averaged`, `table` and `row` (the first that it serves),
        `name` (both) and `also` (the names of the other rows that it serves).
    """
    alone = means[(means.clips * means.crops == 1) & ~means.frames.astype(str).str.contains("+", regex=False)]
    alone = alone.reset_index().astype({"gflops": float, "top1": float, "std": float})
    alone["name"] = alone.table + " " + alone.row
    same = alone.groupby(["runs", "size"], sort=False)
    alone["also"] = same.name.transform(lambda names: ", ".join(names.iloc[1:]))
    return alone.drop_duplicates(["runs", "size"]).reset_index(drop=True)


def comparable(table: str, data: str, scale: str) -> list[str]:
    """The rows of a table that the runs of a scale can be compared with, of those published on `data`.

    These are the rows of the scale (`scales.Study.rows`). Where its data are real, they must be the published data set.
    """
    own = SCALES[scale].others.get(table, (SCALES[scale].data,))[0]
    return list(Study(scale).rows(table)) if _PUBLISHED_ON.get(own, data) == data else []


def pairs(measured: pd.DataFrame, tables: Sequence[str] = TABLES, scale: str = "laptop") -> pd.DataFrame:
    """Every comparison of some tables, and its result.

    Each published top-1 column has its own comparisons (Tables 6 and 7 have two); on synthetic data the same measured
    rows serve both. The two rows are paired over the seeds that both have. The result is "agrees" or "disagrees" where
    the t interval excludes zero, else "inconclusive"; "not at this scale" if the scale cannot test it.

    `result` and `p` are of each comparison by itself. `p_holm` is corrected for the number of measured comparisons; the
    same two sets of runs, in two tables or against two published columns, count once.

    Returns:
        One row per comparison: `table`, `data` (of the published column), `higher` and `lower` (rows, as published),
        `gap` (published, points), `seeds` (common), `difference` (higher minus lower, measured, points) with its
        interval `low` to `high`, `p`, `p_holm`, `result`, `why` (it is inconclusive) and `key` (of the measured pair).

    Raises:
        ValueError: as `check`.
    """
    check(measured, scale)
    records = []
    for table in tables:
        lines = measured[measured.table == table]
        by_seed = lines.pivot_table(index="seed", columns="row", values="top1")
        tested = {row: _tested(part) for row, part in lines.groupby("row")}
        for data, higher, lower, gap in _published_pairs(table):
            testable = comparable(table, data, scale)
            untested = not {higher, lower}.issubset(testable)
            absent = [row for row in (higher, lower) if row not in by_seed]
            common = [] if untested or absent else (by_seed[higher] - by_seed[lower]).dropna()
            interval = statistics.mean_interval(common, 100 / lines.videos.iloc[0] if len(lines) else 100)
            result, why = (UNTESTED, "") if untested else _result(interval, len(common), absent)
            key = "" if untested or absent else " | ".join(sorted((tested[higher], tested[lower])))
            records.append(
                {"table": table, "data": data, "higher": higher, "lower": lower, "gap": gap, "seeds": len(common)}
                | {"difference": interval.mean, "low": interval.low, "high": interval.high, "p": interval.p}
                | {"result": result, "why": why, "key": key}
            )
    columns = "table data higher lower gap seeds difference low high p result why key".split()  # noqa: SIM905
    compared = pd.DataFrame(records, columns=columns)
    once = compared.dropna(subset="p").drop_duplicates("key").set_index("key").p
    corrected = compared.key.map(statistics.holm(once)).where(compared.p.notna())
    compared.insert(list(compared).index("p") + 1, "p_holm", corrected)
    return compared


def _published_pairs(table: str) -> list[tuple[str, str, str, float]]:
    """Data set, higher row, lower row, gap."""
    found = []
    for data, column in published(table).items():
        accuracies = column.dropna()
        for one, other in itertools.combinations(accuracies.index, 2):
            higher, lower = (one, other) if accuracies[one] >= accuracies[other] else (other, one)
            gap = round(float(accuracies[higher] - accuracies[lower]), 6)  # 47.3 - 46.8 is less than 0.5 in floats
            if gap >= LEAST_GAP:
                found.append((data, higher, lower, gap))
    return found


def _tested(lines: pd.DataFrame) -> str:
    """What the accuracies of a row come from: its runs, and their test protocol."""
    return ",".join(sorted(lines[["run", *_PROTOCOL]].astype(str).agg("@".join, axis=1)))


def _result(interval, seeds: int, absent: Sequence[str]) -> tuple[str, str]:
    if absent:
        return INCONCLUSIVE, f"not run: {', '.join(absent)}"
    if seeds < 2:
        return INCONCLUSIVE, f"{seeds} common seed{'' if seeds == 1 else 's'}, at least 2 are needed"
    if interval.low > 0:
        return AGREES, ""
    return (DISAGREES, "") if interval.high < 0 else (INCONCLUSIVE, "the interval includes zero")


def counts(compared: pd.DataFrame) -> pd.DataFrame:
    """How many comparisons agree, disagree and are inconclusive, per table and data set, then in all.

    Table 6 has 16 rows from 4 networks, and four in five of all comparisons, so there is also a total without it.

    Args:
        compared: of `pairs`.

    Returns:
        Indexed by `table` and `data` (empty for "all but 6" and "all"): `agrees`, `disagrees`, `inconclusive`, of which
        `too few seeds` (fewer than two common ones, or a row not run), `not at this scale`, and `pairs`, the sum of the
        first three.
    """
    columns = [AGREES, DISAGREES, INCONCLUSIVE]
    marked = pd.DataFrame({kind: (compared.result == kind).astype(int) for kind in columns})
    marked["too few seeds"] = ((compared.result == INCONCLUSIVE) & (compared.seeds < 2)).astype(int)
    marked[UNTESTED] = (compared.result == UNTESTED).astype(int)
    table = marked.groupby([compared.table, compared.data], sort=False).sum()
    totals = {("all", ""): table.sum()}
    others = table.drop(index="6", level="table", errors="ignore")
    if 0 < len(others) < len(table):
        totals = {("all but 6", ""): others.sum()} | totals
    table = pd.concat([table, pd.DataFrame(totals).T.rename_axis(["table", "data"])]).astype(int)
    return table.assign(pairs=table[columns].sum(axis=1))


def summary(compared: pd.DataFrame) -> pd.DataFrame:
    """The result of all comparisons of `pairs`: one row per statement, column `comparisons`.

    "After correction" is by Holm's procedure, at the level of the intervals.
    """
    testable = compared[compared.result != UNTESTED]
    significant = testable[testable.result != INCONCLUSIVE]
    inconclusive = testable[testable.result == INCONCLUSIVE]
    tested = inconclusive[inconclusive.seeds >= 2]
    near = (tested.low <= tested.gap) & (tested.gap <= tested.high)
    corrected = significant[significant.p_holm < 1 - statistics.LEVEL]
    leaning = inconclusive[inconclusive.seeds > 0].difference
    numbers = {
        "that this scale can test": len(testable),
        "significant: measured order agrees": (significant.result == AGREES).sum(),
        "significant: measured order disagrees": (significant.result == DISAGREES).sum(),
        "significant after correction: agrees": (corrected.result == AGREES).sum(),
        "significant after correction: disagrees": (corrected.result == DISAGREES).sum(),
        "inconclusive": len(inconclusive),
        "inconclusive: fewer than 2 common seeds": (inconclusive.seeds < 2).sum(),
        "inconclusive: mean difference in the published order": (leaning > 0).sum(),
        "inconclusive: mean difference in the other order": (leaning < 0).sum(),
        "inconclusive: the interval includes the published gap": near.sum(),
        "not at this scale": (compared.result == UNTESTED).sum(),
    }
    return pd.DataFrame({"comparisons": numbers})


def rank_agreement(measured: pd.DataFrame, tables: Sequence[str] = TABLES, scale: str = "laptop") -> pd.DataFrame:
    """Kendall's tau-b between published and measured accuracies: means over the seeds that all these rows have.

    Returns:
        Indexed by `table` and `data`: `tau` (1: the same order, -1: the reverse; missing below two rows, without a
        common seed, or if all are the same), its two-sided `p`, `rows` (measured), `of` (rows in the paper) and
        `seeds` (how many the rows have in common). With three rows even tau = 1 has p = 1/3.

    Raises:
        ValueError: as `check`.
    """
    check(measured, scale)
    records = {}
    for table in tables:
        ours = measured[measured.table == table].pivot_table(index="seed", columns="row", values="top1")
        for data, column in published(table).items():
            both = [row for row in column.dropna().index if row in ours and row in comparable(table, data, scale)]
            common = ours[both].dropna()
            tau, p = math.nan, math.nan
            if len(both) > 1 and len(common):  # rounded, so that means of the same numbers in another order are ties
                tau, p = stats.kendalltau(column[both], common.mean().round(9))
            seeds = len(common) if both else 0
            records[table, data] = {"tau": tau, "p": p, "rows": len(both), "of": column.count(), "seeds": seeds}
    return pd.DataFrame.from_dict(records, orient="index").rename_axis(["table", "data"])


# The tables of the report.


def published_table(table: str) -> pd.DataFrame:
    """What a table of the paper prints: top-1 accuracies in percent per data set, costs and protocol."""
    names = {"gflops": "GFLOPs, one view", "gflops_total": "GFLOPs, all views", "params_m": "params, M"}
    names |= {"frames": "frames", "size": "size", "crops": "crops", "clips": "clips"}
    lines = paper.table(table)
    accuracies = published(table).rename(columns=lambda data: f"top-1 on {data}, %")
    return accuracies.join(lines[[column for column in names if column in lines]].rename(columns=names))


def measured_table(means: pd.DataFrame, table: str) -> pd.DataFrame:
    """What was measured for a table, one row per row.

    Args:
        means: of `averaged`, with lines of that table.
    """
    rows = means.loc[[table]].droplevel("table")
    return pd.DataFrame(
        {
            "top-1, %": rows.top1,
            "std": rows["std"],
            "seeds": rows.seeds,
            "GFLOPs, all views": rows.gflops,
            "params, M": rows.params / 1e6,
            "frames": rows.frames,
            "size": rows["size"],
            "crops x clips": rows.crops.astype(str) + " x " + rows.clips.astype(str),
        }
    )


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
            "95 % interval": text("low", "{:+.1f} to ", 2) + text("high", "{:+.1f}", 2),
            "seeds": compared.seeds,
            "p": text("p", "{:.2g}", 2),
            "p, corrected": text("p_holm", "{:.2g}", 2),
            "result": compared.result + text("why", " ({})").where(compared.why != "", ""),
        }
    )


def conditions(measured: pd.DataFrame) -> pd.DataFrame:
    """Under which conditions each table was measured: one row per table, different values of its lines side by side."""
    columns = ["videos", "coverage", "frames", "size", "clips", "crops", "data", "fingerprint", "hardware", "commit"]
    values = measured.groupby("table", sort=False)[columns].agg(
        lambda column: ", ".join(map(str, dict.fromkeys(column)))
    )
    seeds = measured.groupby(["table", "row"], sort=False).seed.nunique().groupby("table", sort=False)
    values.insert(0, "seeds per row", seeds.agg(lambda count: " or ".join(map(str, sorted(set(count))))))
    return values
