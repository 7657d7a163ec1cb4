"""Comparisons: pairs of rows of the paper's tables, and what the measurements say about them.

Two rows of one table whose published top-1 accuracies, on one data set, are at least `LEAST_GAP` points apart are a
comparison. Its result comes from a model of the whole table: accuracy ~ network + block, where a block is a seed. In
Tables 2h and 6 rows are tests of the same trainings. There each comparison has a paired t-test of its own.
Results are about the test videos that were used, not about others.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ctlib import paper
from ctlib.study.measurements import check
from ctlib.study.scales import SCALES, Study
from ctlib.study.tables import REFERENCES, ROWS, TABLES
from ctlib.training import statistics

AGREES, DISAGREES = "agrees", "disagrees"  # significant, by its sign
EQUAL = "equal"  # within the margin
EQUAL_HERE = "equal, the paper differs"  # and the published gap is beyond the margin
DECIDED = (AGREES, DISAGREES, EQUAL, EQUAL_HERE)
INCONCLUSIVE = "inconclusive"
NOT_RUN = "not run"  # one of the rows, or both
NOT_AT_SCALE = "not at this scale"  # the scale has no such row, or has other real data than the published column
BEFORE = "before the first look"  # as which results are shown that are no test of the plan

LEAST_GAP = 0.5  # points of top-1 between two published rows that are compared
MARGIN = 1.0  # points; differences within it are equality
LOOKS = (5, 10, 20)  # blocks after which comparisons are tested
ERROR = 0.05  # of each test, over all looks
PAIRED = ("2h", "6")  # tables whose rows are tests of the same trainings

_SOMETHING = "Something-Something V1"
_DATA_SETS = {
    "top1": _SOMETHING,
    "top1_v1": _SOMETHING,
    "top1_v2": "Something-Something V2",
    "top1_minik": "Mini-Kinetics-200",
}
_PUBLISHED_AS = {"something-v1": _SOMETHING, "mini-kinetics-200": "Mini-Kinetics-200"}  # real data of a scale


class Comparison(NamedTuple):
    """Two rows of a table in one published column, and the measured difference between them at the newest look.

    A comparison keeps the look, and so the numbers, at which it was decided.
    """

    table: str
    data: str  # of the published column
    higher: str  # row, as published
    lower: str
    gap: float  # published, points of top-1
    blocks: int = 0  # that both rows have, at the look
    difference: float = math.nan  # higher minus lower, measured, points
    low: float = math.nan  # its 95 % interval, from two common blocks on
    high: float = math.nan
    p: float = math.nan  # of no difference, for this comparison alone
    p_holm: float = math.nan  # corrected for the number of distinct comparisons of the table
    p_equal: float = math.nan  # of a difference beyond the margin
    look: int = 0  # blocks after which it was tested; 0: before the first look, when no result is a test of the plan
    result: str = INCONCLUSIVE  # one of those above
    counted: bool = False  # at this scale, and the first in the paper with these runs and tests
    key: str = ""  # the two sets of runs and their tests, whatever their table, column and seeds


def error_share(look: int, looks: Sequence[int] = LOOKS) -> float:
    """The error of each test at a look: the shares of all looks add up to `ERROR`.

    It is in proportion to the blocks that the look adds. By Bonferroni's inequality the error over all looks is then at
    most `ERROR`, for tests of a difference and of equality alike, however their looks depend on each other.
    """
    before = max((earlier for earlier in looks if earlier < look), default=0)
    return ERROR * (look - before) / looks[-1]


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
    """Every comparison of some tables, and its result at the newest look.

    Each published top-1 column has its own comparisons (Tables 6 and 7 have two). On synthetic data the same
    measurements serve both, and count once (`counted`).

    Args:
        measured: of `results.measured`.

    Returns:
        One row per `Comparison`.

    Raises:
        ValueError: as `measurements.check`.
    """
    check(measured, scale)
    compared = [_of_table(measured[measured.table == table], table, scale) for table in tables]
    compared = pd.concat([part for part in compared if len(part)] or compared[:1], ignore_index=True)
    return compared.assign(counted=(compared.result != NOT_AT_SCALE) & ~compared.key.duplicated())


def _of_table(of_table: pd.DataFrame, table: str, scale: str) -> pd.DataFrame:
    top1, at_scale, alike = accuracies(of_table), published_at_scale(table, scale), _measurements(scale)
    compared = []
    for pair in _published_pairs(table):
        both = [pair.higher, pair.lower]
        if at_scale.loc[both, pair.data].isna().any():
            compared.append(pair._replace(result=NOT_AT_SCALE, key=f"{table} {both} {pair.data}"))
        else:
            key = " | ".join(sorted(alike[table, row] for row in both))
            compared.append(pair._replace(result=INCONCLUSIVE if set(both) <= set(top1) else NOT_RUN, key=key))
    compared = pd.DataFrame(compared, columns=Comparison._fields)
    if of_table.empty:
        return compared
    not_run, measurable = compared.result == NOT_RUN, compared.result != NOT_AT_SCALE
    rows = at_scale.index[at_scale.notna().any(axis=1)]  # a custom row does not change the paper's comparisons
    least_std = 100 / of_table.videos.iloc[0]
    compared[measurable] = tested(top1.reindex(columns=rows), compared[measurable], least_std, table in PAIRED)
    return compared.assign(result=compared.result.mask(not_run, NOT_RUN))


def accuracies(of_table: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of a table: one row per block, one column per row."""
    return of_table.pivot_table(index="seed", columns="row", values="top1", sort=False).sort_index()


def _published_pairs(table: str) -> Iterable[Comparison]:
    for data, column in published(table).items():
        accuracies = column.dropna()
        for one, other in itertools.combinations(accuracies.index, 2):
            higher, lower = (one, other) if accuracies[one] >= accuracies[other] else (other, one)
            gap = round(float(accuracies[higher] - accuracies[lower]), 6)  # 47.3 - 46.8 is less than 0.5 in floats
            if gap >= LEAST_GAP:
                yield Comparison(table, data, higher, lower, gap)


@functools.cache
def _measurements(scale: str) -> dict[tuple[str, str], str]:
    """What is measured for each table and row of a scale: its runs, and how they are tested."""
    study = Study(scale)
    return {
        (table, row): " + ".join(f"{study.run(one, table).name} {tuple(study.views(one))}" for one in networks)
        for table in TABLES
        for row, networks in study.rows(table).items()
    }


def tested(
    top1: pd.DataFrame,
    compared: pd.DataFrame,
    least_std: float,
    paired: bool = False,
    looks: Sequence[int] = LOOKS,
) -> pd.DataFrame:
    """Comparisons of one table with their results, at every look that the blocks allow; the first decision stands.

    The first look takes the first blocks, in order of seeds, that have every row of the table. A later look adds the
    next ones that have every row with an undecided comparison. So no run of a later block changes a decision.

    Args:
        top1: percent, one row per block (its seed), one column per row of the table, missing where it was not run.
        compared: the columns `higher`, `lower`, `gap` and `key` of `Comparison`: all of the table.
        least_std: as in `statistics.block_model`.
        paired: whether rows are tests of the same trainings.
        looks: blocks after which comparisons are tested, in order.
    """
    results, undecided, rows, seeds = None, None, list(top1), []
    for look in looks:
        running = top1.columns.isin(rows) | top1.index.isin(seeds)[:, None]
        top1 = top1.where(running)  # what a stopped row was run further than its last look does not count
        complete = top1.index[top1[rows].notna().all(axis=1)]
        seeds = [*seeds, *complete.difference(seeds)][:look]
        if not rows or len(seeds) < look:
            break
        now = _results(top1.loc[seeds], compared, least_std, error_share(look, looks), paired).assign(look=look)
        results = now if results is None else now.where(undecided, results)
        undecided = ~results.result.isin(DECIDED)
        rows = list({*results.higher[undecided], *results.lower[undecided]})
    if results is None:
        return _results(top1, compared, least_std, error_share(looks[0], looks), paired).assign(look=0)
    return results


def _results(top1: pd.DataFrame, compared: pd.DataFrame, least_std: float, error: float, paired: bool) -> pd.DataFrame:
    """Comparisons with their results from all blocks in `top1`, each test at `error`."""
    differences = top1[compared.higher].to_numpy() - top1[compared.lower].to_numpy()
    blocks = np.isfinite(differences).sum(axis=0)
    alone = np.nansum(differences, axis=0) / np.where(blocks > 0, blocks, np.nan)
    compared = compared.assign(blocks=blocks, difference=alone)
    enough = compared.index[blocks > 1]
    if enough.empty:
        return compared.assign(result=INCONCLUSIVE)
    if paired:
        contrasts = statistics.paired_contrasts(differences[:, blocks > 1], MARGIN, least_std)
    else:
        both = compared.loc[enough, ["higher", "lower"]].itertuples(index=False, name=None)
        contrasts = statistics.block_model(top1, least_std).contrasts(list(both), MARGIN)
    compared.loc[enough, list(contrasts)] = contrasts.set_axis(enough)
    compared["p_holm"] = compared.key.map(statistics.holm(compared.groupby("key").p.first()))
    significant, equal = compared.p_holm <= error, compared.p_equal <= error
    kinds = [significant & (compared.difference > 0), significant, equal & (compared.gap > MARGIN), equal]
    return compared.assign(result=np.select(kinds, [AGREES, DISAGREES, EQUAL_HERE, EQUAL], INCONCLUSIVE))


def differences(measured: pd.DataFrame, table: str) -> pd.DataFrame:
    """Each row of a table against its reference (`REFERENCES`), from all blocks; no test of the plan.

    Returns:
        Indexed by row: `blocks` (common), `difference` (points of top-1), `low` and `high` (95 % interval by the
        table's model, from two common blocks on).

    Raises:
        ValueError: as `measurements.check`.
    """
    check(measured)
    of_table, reference = measured[measured.table == table], REFERENCES[table]
    top1, columns = accuracies(of_table), ["blocks", "difference", "low", "high"]
    rows = top1.columns.drop(reference) if reference in top1 else []
    compared = pd.DataFrame({"higher": rows, "lower": reference, "gap": 0.0, "key": rows}, index=rows)
    if compared.empty:
        return pd.DataFrame(columns=columns)
    results = _results(top1, compared, 100 / of_table.videos.iloc[0], ERROR, table in PAIRED)
    return results[results.blocks > 0].reindex(columns=columns)


def residuals(measured: pd.DataFrame) -> pd.DataFrame:
    """How much a row's accuracy varies beyond network and block: the model of each table, over all blocks.

    Returns:
        Indexed by table, without those that have too few blocks or paired tests: `std` (residual standard deviation,
        points), `df` (its degrees of freedom), `rows` and `blocks`.

    Raises:
        ValueError: as `measurements.check`.
    """
    check(measured)
    records = {}
    for table, of_table in measured[~measured.table.isin(PAIRED)].groupby("table", sort=False):
        top1 = accuracies(of_table).dropna(thresh=2)  # a block of one row says nothing
        if top1.count().sum() > sum(top1.shape) - 1:
            model = statistics.block_model(top1, 100 / of_table.videos.iloc[0])
            records[table] = model.std, model.df, *top1.shape[::-1]
    table = pd.DataFrame.from_dict(records, orient="index", columns=["std", "df", "rows", "blocks"])
    return table.rename_axis("table")


def is_decided(compared: pd.DataFrame) -> pd.Series:
    """Which comparisons of `pairs` are decided: by a test of the plan, so not before the first look."""
    return compared.result.isin(DECIDED) & (compared["look"] > 0)


def with_tsn(compared: pd.DataFrame) -> pd.Series:
    """Which comparisons are with a row whose network is TSN."""
    tsn = {
        (table, row)
        for table, rows in ROWS.items()
        for row, networks in rows.items()
        if any(network.config.blocks == "none" for network in networks)
    }
    marked = [not tsn.isdisjoint({(one.table, one.higher), (one.table, one.lower)}) for one in compared.itertuples()]
    return pd.Series(marked, compared.index, bool)


def shown_results(compared: pd.DataFrame) -> pd.Series:
    """The results of `pairs`, but `BEFORE` for those from runs that are too few for the first look."""
    early = (compared["look"] == 0) & ~compared.result.isin([NOT_RUN, NOT_AT_SCALE])
    return compared.result.mask(early, BEFORE)


def counts(compared: pd.DataFrame) -> pd.DataFrame:
    """How many distinct comparisons have each result, per table.

    A comparison counts once, where the paper has it first, though other columns and tables may have it too.

    Args:
        compared: of `pairs`.

    Returns:
        Indexed by table: `comparisons` (at this scale), `decided`, `agrees`, `disagrees`, `equal`, of which
        `equal, the paper differs`, `inconclusive`, `before the first look` and `not run`.
    """
    return _marked(compared).groupby(compared.table, sort=False).sum()


def summary(compared: pd.DataFrame) -> pd.DataFrame:
    """`counts` of all tables but Table 6, of these without and with TSN, and of Table 6.

    Table 6 has 16 rows from 4 networks, and most of all comparisons. TSN sees each frame alone.
    """
    return pd.DataFrame({name: _marked(of_group).sum() for name, of_group in _groups(compared).items()}).T


def _groups(compared: pd.DataFrame) -> dict[str, pd.DataFrame]:
    tsn, six = with_tsn(compared), compared.table == "6"
    groups = {"outside Table 6": ~six, "without TSN": ~six & ~tsn, "with TSN": ~six & tsn, "Table 6": six}
    return {name: compared[chosen] for name, chosen in groups.items()}


def _marked(compared: pd.DataFrame) -> pd.DataFrame:
    results = shown_results(compared)
    marked = pd.DataFrame({"comparisons": True, "decided": is_decided(compared)}, compared.index)
    for kind in (AGREES, DISAGREES, EQUAL, EQUAL_HERE, INCONCLUSIVE, BEFORE, NOT_RUN):
        marked[kind] = results == kind
    marked[EQUAL] |= marked[EQUAL_HERE]
    return marked[compared.counted.astype(bool)].astype(int)


def predicted(
    compared: pd.DataFrame,
    top1: pd.Series,
    std: Mapping[str, float],
    draws: int = 100,
    seed: int = 0,
    looks: Sequence[int] = LOOKS,
) -> pd.DataFrame:
    """Which share of distinct comparisons the plan will have decided after each look: simulated, by its own tests.

    It assumes that `top1` is true, that runs vary normally with one deviation per table, and that a table has no other
    rows than those in `top1`.
    Accuracies that few blocks measured lie further apart than the true ones, so they promise too much. Equal accuracies
    (`0 * top1`) show how much equality can decide.

    Args:
        compared: of `pairs`.
        top1: percent, by table and row, as `measurements.averaged` gives them.
        std: table -> residual standard deviation, as `residuals` gives it; other tables are left out.
        looks: those of a longer plan, say, whose errors at each look are smaller (`error_share`).

    Returns:
        The groups of `summary`, and in each column (`looks`) the percent decided.
    """
    generator, decided = np.random.default_rng(seed), []
    known = compared.table.isin(list(std.keys())) & (compared.result != NOT_AT_SCALE)
    for table, part in compared[known].groupby("table", sort=False):
        of_table = top1[top1.index.get_level_values(0) == table].droplevel(0)
        part = part[part.higher.isin(of_table.index) & part.lower.isin(of_table.index)]
        for _ in range(draws if part.counted.any() else 0):
            noise = generator.normal(0, std[table], (looks[-1], len(of_table)))
            drawn = pd.DataFrame(of_table.to_numpy() + noise, columns=of_table.index)
            decided.append(tested(drawn, part, least_std=0.0, looks=looks))
    decided = pd.concat(decided, ignore_index=True) if decided else compared[:0]
    groups = {name: of_group[of_group.counted.astype(bool)] for name, of_group in _groups(decided).items()}
    shares = {
        look: {name: 100 * (is_decided(part) & (part["look"] <= look)).mean() for name, part in groups.items()}
        for look in looks
    }
    return pd.DataFrame(shares).dropna()


# The tables of the report.


def published_table(table: str) -> pd.DataFrame:
    """What a table of the paper prints: top-1 accuracies in percent per data set, costs and protocol."""
    names = {"gflops": "GFLOPs, one view", "gflops_total": "GFLOPs, all views", "params_m": "params, M"}
    names |= {name: name for name in ("frames", "size", "crops", "clips")}
    printed = paper.table(table)
    accuracies = published(table).add_prefix("top-1 on ").add_suffix(", %")
    return accuracies.join(printed[[column for column in names if column in printed]].rename(columns=names))


def measured_table(means: pd.DataFrame, table: str, actions: pd.DataFrame) -> pd.DataFrame:
    """What was measured for a table.

    Args:
        means: of `measurements.averaged`, with rows of that table.
        actions: of `predictions.by_action`; without those of the table, its two columns are left out.
    """
    rows = means.loc[table]
    pairs = actions[actions.table == table].groupby("row")[["right_pair", "direction"]].mean()
    pairs = pairs.rename(columns={"right_pair": "right pair, %", "direction": "direction, %"})
    costs = {"GFLOPs, all views": rows.gflops, "params, M": rows.params / 1e6}
    views = rows.crops.astype(str) + " x " + rows.clips.astype(str)
    protocol = {"frames": rows.frames, "size": rows["size"], "crops x clips": views}
    shown = pd.DataFrame({"top-1, %": rows.top1, "std": rows["std"], "blocks": rows.seeds})
    shown = shown.join(pairs.astype(float)) if len(pairs) else shown
    return shown.join(pd.DataFrame(costs | protocol))


def comparison_table(compared: pd.DataFrame) -> pd.DataFrame:
    """Comparisons of `pairs` as text, differences in points of top-1; empty where more blocks are needed."""

    def text(column: str, form: str, least_blocks: int = 0) -> pd.Series:
        return compared[column].map(form.format).astype(object).where(compared.blocks >= least_blocks, "")

    early = (compared["look"] == 0) & (compared.blocks > 0)
    return pd.DataFrame(
        {
            "table": compared.table,
            "published on": compared.data,
            "higher": compared.higher,
            "lower": compared.lower,
            "published gap": text("gap", "{:.1f}"),
            "measured": text("difference", "{:+.1f}", 1),
            f"{100 * statistics.LEVEL:.0f} % interval": text("low", "{:+.1f} to ", 2) + text("high", "{:+.1f}", 2),
            "blocks": compared.blocks,
            "p, corrected": text("p_holm", "{:.2g}", 2),
            "p, equal": text("p_equal", "{:.2g}", 2),
            "result": compared.result.mask(early, compared.result + f" ({BEFORE})"),
        }
    )
