"""Which findings of the paper's tables measured runs bear out: every pair of rows, judged over seeds.

A finding is a pair of rows of one table whose published top-1 accuracies, on one data set, are at least
`LEAST_GAP` points apart. It is judged by the measured difference of the two rows, seed by seed. Measured lines
are those of `outcomes.measured`: a line a table, row and seed; all that takes them raises what `check` raises.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ctlib import paper
from ctlib.study import tables as study
from ctlib.study.scales import SCALES, TABLES, rows

AGREES, DISAGREES, UNRESOLVED = "agrees", "disagrees", "not resolved"
UNTESTED = "not at this scale"  # the scale has no such row, or has other real data than the published column
LEAST_GAP = 0.5  # points of top-1 between two published rows, from which on they are a finding
LEVEL = 0.95  # of the interval of a pair's mean difference

_SOMETHING = "Something-Something V1"
_COLUMNS = {"top1": "", "top1_v1": _SOMETHING, "top1_v2": "Something-Something V2", "top1_minik": "Mini-Kinetics-200"}
_PUBLISHED_ON = {"something-v1": _SOMETHING, "mini-kinetics-200": "Mini-Kinetics-200"}  # real data of a scale
# What the lines of one table share: what was tested, and what of its computing changes what is learned.
_SAME = ("fingerprint", "classes_digest", "coverage", "videos", "precision", "micro_batch")
_PROTOCOL = ("frames", "size", "clips", "crops")  # may differ between rows where the paper's rows do


def tables_of(text: str) -> tuple[str, ...]:
    """The tables that "2a 2b" names, each once; "all" for all ablations.

    Raises:
        ValueError: something else.
    """
    found = TABLES if text.split() == ["all"] else tuple(text.split())
    unknown = [name for name in found if name not in TABLES]
    if not found or unknown or len(set(found)) < len(found):
        raise ValueError(f"tables must be 'all' or some of {' '.join(TABLES)}, each once, got {text!r}")
    return found


def seeds_of(text: str) -> tuple[int, ...]:
    """The seeds that "0 1 2" names, in their order.

    Raises:
        ValueError: something else than whole numbers from 0 on, each once.
    """
    words = text.split()
    if not words or not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise ValueError(f"seeds must be whole numbers from 0 on, each once, as in '0 1 2', got {text!r}")
    return tuple(sorted(map(int, words)))


def published(table: str) -> pd.DataFrame:
    """The top-1 accuracies that a table of the paper prints, in percent: a row a row, a column a data set."""
    lines = paper.table(table)
    columns = {column: _COLUMNS[column] or _SOMETHING for column in lines if column in _COLUMNS}
    return lines[list(columns)].rename(columns=columns)


def check(measured: pd.DataFrame, scale: str | None = None) -> None:
    """Refuse lines that must not be averaged, or held against one another.

    One scale in all; in a table one data fingerprint, class order, coverage, number of test videos, precision and
    micro-batch; in a row one protocol. Two rows of a table may differ in frames, size, clips or crops only where the
    paper's two rows do.

    Args:
        measured: of `outcomes.measured`.
        scale: that they should be of; None: any.

    Raises:
        ValueError: lines that differ, or two lines of one row and seed; it names their runs.
    """
    repeated = measured[measured.duplicated(["table", "row", "seed"], keep=False)]
    if len(repeated):
        first = repeated.iloc[0]
        raise ValueError(
            f"table {first.table}, row {first.row!r}, seed {first.seed} needs one run, and has "
            f"{', '.join(repeated.run[(repeated.row == first.row) & (repeated.table == first.table)])}"
        )
    _one_value(measured, "scale", "the study")
    if scale is not None and len(measured) and measured.scale.iloc[0] != scale:
        raise ValueError(f"the lines are of the scale {measured.scale.iloc[0]!r}, {scale!r} asked for")
    for table, lines in measured.groupby("table", sort=False):
        for column in _SAME:
            _one_value(lines, column, f"table {table}")
        for row, part in lines.groupby("row", sort=False):
            for column in _PROTOCOL:
                _one_value(part, column, f"table {table}, row {row!r}")
        for column in _PROTOCOL:
            theirs = _paper_protocol(table, column)
            for _, part in lines.groupby(lines.row.map(theirs), sort=False):
                _one_value(part, column, f"table {table}, in rows that the paper has with the same {column}")


def _one_value(lines: pd.DataFrame, column: str, where: str) -> None:
    told = []
    for value, runs in lines.run.groupby(lines[column].astype(str), sort=False):
        names = list(dict.fromkeys(runs))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        told.append(f"{value} in {', '.join(names[:3])}{more}")
    if len(told) > 1:
        raise ValueError(f"{where} needs runs with one {column}, got {'; '.join(told)}: they are not averaged together")


def _paper_protocol(table: str, column: str) -> dict[str, str]:
    """Row -> what the paper says of the column; all the same where it says nothing."""
    lines = paper.table(table)
    networks = study.ROWS.get(table, {})
    if column == "size":
        return {row: str(networks[row][0].size) if row in networks else "" for row in lines.index}
    return lines[column].astype(str).to_dict() if column in lines else dict.fromkeys(lines.index, "")


def averaged(measured: pd.DataFrame) -> pd.DataFrame:
    """The measured rows, averaged over their seeds.

    Returns:
        Indexed by table and row, in the paper's order (rows that the paper does not have come last): `top1` (mean,
        percent), `spread` (sample standard deviation over the seeds, missing of one), `seeds` (how many), `gflops`,
        `params` (a count), `frames`, `size` (pixels), `clips`, `crops`, `videos`, `train_seconds` (mean of a run) and
        `runs` (a tuple of all).
    """
    check(measured)
    same = ("gflops", "params", *_PROTOCOL, "videos")
    table = measured.groupby(["table", "row"], sort=False).agg(
        top1=("top1", "mean"),
        spread=("top1", "std"),
        seeds=("seed", "nunique"),
        **{column: (column, "first") for column in same},
        train_seconds=("train_seconds", "mean"),
        runs=("run", lambda folders: tuple(sorted(folders))),
    )
    return table.iloc[sorted(range(len(table)), key=lambda at: _place(*table.index[at]))]


def _place(table: str, row: str) -> tuple[int, int]:
    rows = list(paper.table(table).index)
    return paper.TABLES.index(table), rows.index(row) if row in rows else len(rows)


class Judged(NamedTuple):
    """What the seeds say of the mean of some differences, in points."""

    mean: float
    low: float  # the ends of its t interval; missing below two seeds
    high: float
    p: float  # of no difference, two-sided


def judge(differences: Sequence[float], videos: int) -> Judged:
    """The mean of paired differences with its 95 % t interval.

    The interval takes seeds as independent draws from a normal distribution. A spread of less than one test video is
    taken as one: a few seeds that happen to give the very same difference are no proof. What another list
    of test videos would have given is no part of it.

    Args:
        differences: points of top-1, one a seed.
        videos: how many test videos stand behind an accuracy.
    """
    count = len(differences)
    mean = float(np.mean(differences)) if count else math.nan
    if count < 2:
        return Judged(mean, math.nan, math.nan, math.nan)
    error = max(float(np.std(differences, ddof=1)), 100 / videos) / math.sqrt(count)
    low, high = stats.t.interval(LEVEL, count - 1, loc=mean, scale=error)
    return Judged(mean, float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, count - 1)))


def comparable(table: str, data: str, scale: str) -> list[str]:
    """The rows of a table whose published accuracies on `data` the runs of a scale may be held against.

    Those that the scale has (`scales.rows`); where its data are real, only on the very data set.
    """
    own = SCALES[scale].others.get(table, (SCALES[scale].data,))[0]
    return list(rows(table, scale)) if _PUBLISHED_ON.get(own, data) == data else []


def pairs(measured: pd.DataFrame, tables: Sequence[str] = TABLES, scale: str = "laptop") -> pd.DataFrame:
    """Every finding of some tables, and what the measured lines say of it.

    Each published top-1 column has findings of its own (Tables 6 and 7 have two); on made data they are held against
    the same measured rows. What a scale cannot test (`comparable`) is "not at this scale". The two rows are paired
    over the seeds that both have; the verdict is "agrees" or "disagrees" where the interval of `judge` leaves zero
    out, else "not resolved".

    The verdicts of pairs are not corrected for how many there are. `p_holm` is (Holm, over the measured
    comparisons that differ: the same two sets of runs in two tables, or against two published columns, are one).

    Returns:
        A row a finding: `table`, `data` (of the published column), `higher` and `lower` (rows, as published), `gap`
        (published, points), `seeds` (common), `difference` (higher minus lower, measured, points) with its interval
        `low` to `high`, `p`, `p_holm`, `verdict`, `why` (it is not resolved) and `key` (of the measured comparison).

    Raises:
        ValueError: what `check` refuses.
    """
    check(measured, scale)
    records = []
    for table in tables:
        lines = measured[measured.table == table]
        by_seed = lines.pivot_table(index="seed", columns="row", values="top1")
        tested = {row: _tested(part) for row, part in lines.groupby("row")}
        for data, column in published(table).items():
            accuracies, testable = column.dropna(), comparable(table, data, scale)
            for one, other in itertools.combinations(accuracies.index, 2):
                higher, lower = (one, other) if accuracies[one] >= accuracies[other] else (other, one)
                gap = round(float(accuracies[higher] - accuracies[lower]), 6)  # 47.3 - 46.8 is less than 0.5 in floats
                if gap < LEAST_GAP:
                    continue
                untested = [row for row in (higher, lower) if row not in testable]
                absent = [row for row in (higher, lower) if row not in by_seed]
                common = [] if untested or absent else (by_seed[higher] - by_seed[lower]).dropna()
                found = judge(common, lines.videos.iloc[0] if len(lines) else 1)
                verdict, why = (UNTESTED, "") if untested else _verdict(found, len(common), absent)
                key = "" if untested or absent else " | ".join(sorted((tested[higher], tested[lower])))
                records.append(
                    {"table": table, "data": data, "higher": higher, "lower": lower, "gap": gap, "seeds": len(common)}
                    | {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p}
                    | {"verdict": verdict, "why": why, "key": key}
                )
    columns = "table data higher lower gap seeds difference low high p verdict why key".split()  # noqa: SIM905
    found = pd.DataFrame(records, columns=columns)
    once = found.dropna(subset="p").drop_duplicates("key").set_index("key").p
    found.insert(list(found).index("p") + 1, "p_holm", found.key.map(holm(once)).where(found.p.notna()))
    return found


def _tested(lines: pd.DataFrame) -> str:
    """What a row's accuracies came from: its runs, and the protocol in which they were tested."""
    return ",".join(sorted(lines[["run", *_PROTOCOL]].astype(str).agg("@".join, axis=1)))


def _verdict(found: Judged, seeds: int, absent: Sequence[str]) -> tuple[str, str]:
    if absent:
        return UNRESOLVED, f"not run: {', '.join(absent)}"
    if seeds < 2:
        return UNRESOLVED, f"{seeds} common seed{'' if seeds == 1 else 's'}, at least 2 are needed"
    if found.low > 0:
        return AGREES, ""
    return (DISAGREES, "") if found.high < 0 else (UNRESOLVED, "the interval has zero in it")


def holm(p: pd.Series) -> pd.Series:
    """p values corrected for their number, whatever their dependence (Holm, 1979: step-down Bonferroni)."""
    ordered = p.sort_values()
    factors = np.arange(len(p), 0, -1)
    return (ordered * factors).clip(upper=1).cummax().reindex(p.index)


def counts(found: pd.DataFrame) -> pd.DataFrame:
    """How many findings agree, disagree and are not resolved, a row a table and data set, then those of all tables.

    Those that the scale cannot test are told beside, and are no part of `pairs`.

    Table 6, 16 rows from 4 networks and their views, has four in five of all findings, so all of them are also
    counted without it.

    Args:
        found: of `pairs`.

    Returns:
        Indexed by `table` and `data` (empty for "all but 6" and "all"): `agrees`, `disagrees`, `not resolved`, of
        which `too few seeds` (fewer than two common ones, or a row not run), `not at this scale`, and `pairs`, the
        sum of the first three.
    """
    columns = [AGREES, DISAGREES, UNRESOLVED]
    marked = pd.DataFrame({kind: (found.verdict == kind).astype(int) for kind in columns})
    marked["too few seeds"] = ((found.verdict == UNRESOLVED) & (found.seeds < 2)).astype(int)
    marked[UNTESTED] = (found.verdict == UNTESTED).astype(int)
    table = marked.groupby([found.table, found.data], sort=False).sum()
    totals = {("all", ""): table.sum()}
    others = table.drop(index="6", level="table", errors="ignore")
    if 0 < len(others) < len(table):
        totals = {("all but 6", ""): others.sum()} | totals
    table = pd.concat([table, pd.DataFrame(totals).T.rename_axis(["table", "data"])]).astype(int)
    return table.assign(pairs=table[columns].sum(axis=1))


def rank_agreement(measured: pd.DataFrame, tables: Sequence[str] = TABLES, scale: str = "laptop") -> pd.DataFrame:
    """Kendall's tau-b between published and measured accuracies: means over the seeds that all these rows have.

    Returns:
        Indexed by `table` and `data`: `tau` (1: the same order, -1: the reverse; missing below two rows, without a
        common seed, or if all are the same), its two-sided `p`, `rows` (that were measured), `of` (that the paper has),
        and `seeds` (how many they have in common). Of three rows even tau = 1 has p = 1/3.
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


def told(found: pd.DataFrame) -> str:
    """The counts of what `pairs` found in words, with what they do not say."""
    total = counts(found).loc[("all", "")]
    judged = found[found.seeds >= 2]
    resolved = judged[judged.verdict != UNRESOLVED]
    lines = [
        f"Of {total.pairs} findings that this scale can test (pairs of rows whose published top-1 is at least "
        f"{LEAST_GAP} points apart; {total[UNTESTED]} more need rows or data that it does not have), "
        f"{total[AGREES]} agree, {total[DISAGREES]} disagree, {total[UNRESOLVED]} are not resolved; of these "
        f"{total['too few seeds']} have fewer than two common seeds."
    ]
    if len(judged):
        half = (judged.high - judged.low).median() / 2
        after = resolved[resolved.p_holm < 1 - LEVEL]
        lines += [
            f"{len(judged)} could be judged, with {_range(judged.seeds)} common seeds: half of their "
            f"95 % intervals are wider than ± {half:.1f} points. Of two networks that are equally good, one in twenty "
            "comes out as resolved, in either direction.",
            f"Corrected for their number (Holm, over {judged.key.nunique()} different measured comparisons), "
            f"{len(after)} of the {len(resolved)} resolved remain: {(after.verdict == AGREES).sum()} agree, "
            f"{(after.verdict == DISAGREES).sum()} disagree.",
        ]
    leaning = found[(found.verdict == UNRESOLVED) & (found.seeds > 0)]
    if len(leaning):
        lines.append(
            f"Of the {len(leaning)} not resolved that have a common seed, {(leaning.difference > 0).sum()} lean "
            f"towards the published order and {(leaning.difference < 0).sum()} towards the other (mean "
            "differences over common seeds): no verdict."
        )
    lines.append(
        "The pairs are not independent: pairs share rows, tables share rows, and Tables 6 and 7 hold one measurement "
        "against two published columns. The counts are no sample of independent trials, and have no interval."
    )
    return "\n".join(lines)


def disagreements(found: pd.DataFrame) -> str:
    """Which findings came out the other way and by how much, the largest measured difference first."""
    there = found[found.verdict == DISAGREES].sort_values("difference")
    if there.empty:
        return f"None of the {int((found.seeds >= 2).sum())} findings that could be judged came out the other way."
    return "\n".join(
        f"Table {line.table}, {line.data}: published {line.higher} over {line.lower} by {line.gap:.1f}; measured "
        f"{line.difference:+.1f} ({line.low:+.1f} to {line.high:+.1f}, {line.seeds} seeds; p {line.p:.2g}, corrected "
        f"{line.p_holm:.2g})"
        for line in there.itertuples()
    )


def missing_told(missing: pd.DataFrame) -> str:
    """Which rows and seeds `outcomes.missing` names, a line a table."""
    if missing.empty:
        return "Nothing is missing: every row that the scale has was run with all the seeds asked for."
    lines = [f"Missing: {len(missing)} lines (a row and a seed each)."]
    for table, part in missing.groupby("table", sort=False):
        rows = part.groupby("row", sort=False).seed.agg(lambda seeds: ", ".join(map(str, sorted(seeds))))
        lines.append(f"  Table {table}: " + "; ".join(f"{row} (seed {seeds})" for row, seeds in rows.items()))
    return "\n".join(lines)


def seeds_told(lines: pd.DataFrame) -> str:
    """How many seeds the rows of measured lines have: "3", or "1 to 3"."""
    return _range(lines.groupby(["table", "row"]).seed.nunique())


def protocol_told(lines: pd.DataFrame) -> str:
    """Under which protocol the measured lines of a table came about, in a few sentences."""
    first = lines.iloc[0]

    def each(column: str) -> str:
        return ", ".join(map(str, dict.fromkeys(lines[column])))

    return (
        f"Measured: {first.videos} test videos of data {first.fingerprint} ({first.coverage:g} % of the list), "
        f"{each('frames')} frames of {each('size')} pixels square, {each('clips')} clip(s) x {each('crops')} crop(s); "
        f"{seeds_told(lines)} seed(s) a row; scale {first.scale}; "
        f"{lines.train_seconds.mean():.0f} s a training on {each('hardware')}; code {each('commit')}."
    )


def _range(numbers: pd.Series) -> str:
    least, most = numbers.min(), numbers.max()
    return str(least) if least == most else f"{least} to {most}"
