"""Measurements: the accuracy of one row of a table with one seed. Which of them belong together, and their averages.

A table of measurements, `measured` throughout, is that of `results.measured`: one per table, row and seed.
"""

import pandas as pd

from ctlib import paper
from ctlib.study.tables import ROWS

# What the measurements of one table share: what was tested, and what changes numbers in training.
_OF_TABLE = ("fingerprint", "classes_digest", "coverage", "videos", "precision", "micro_batch")
PROTOCOL = ("frames", "size", "clips", "crops")  # may differ between rows where the paper's rows do
_OF_ROW = ("gflops", "params", *PROTOCOL)


def check(measured: pd.DataFrame, scale: str | None = None) -> None:
    """Refuse measurements that must not be averaged or compared.

    All share one scale and one set of overrides. Those of a table share data fingerprint, class order, coverage, number
    of test videos, precision and micro-batch. Those of a row share costs and protocol. Two rows of a table may differ
    in frames, size, clips or crops only where the paper's two rows do.

    Args:
        scale: that they must be of; None: any.

    Raises:
        ValueError: measurements that differ, or two of one row and seed; it names their runs.
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
    for table, of_table in measured.groupby("table", sort=False):
        for column in _OF_TABLE:
            _one_value(of_table, column, f"table {table}")
        for row, of_row in of_table.groupby("row", sort=False):
            for column in _OF_ROW:
                _one_value(of_row, column, f"table {table}, row {row!r}")
        for column in PROTOCOL:
            printed = of_table.row.map(_paper_protocol(table, column))
            for _, alike in of_table.groupby(printed, sort=False):
                _one_value(alike, column, f"table {table}, in rows that the paper has with the same {column}")


def _one_value(measured: pd.DataFrame, column: str, where: str) -> None:
    got = []
    for value, runs in measured.run.groupby(measured[column].astype(str), sort=False):
        names = list(dict.fromkeys(runs))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        got.append(f"{value!r} in {', '.join(names[:3])}{more}")
    if len(got) > 1:
        raise ValueError(f"{where} needs runs with one {column}, got {'; '.join(got)}: they cannot be compared")


def _paper_protocol(table: str, column: str) -> dict[str, str]:
    """Row -> the paper's value of the column; the same for all rows where the paper gives none."""
    printed, networks = paper.table(table), ROWS.get(table, {})
    if column == "size":
        return {row: str(networks[row][0].size) if row in networks else "" for row in printed.index}
    return printed[column].astype(str).to_dict() if column in printed else dict.fromkeys(printed.index, "")


def averaged(measured: pd.DataFrame) -> pd.DataFrame:
    """The mean of each row over its seeds.

    Returns:
        Indexed by `table` and `row`, in the paper's order, custom rows last.
        `top1`: mean, percent.
        `std`: sample standard deviation over the seeds; missing with one seed.
        `seeds`: how many.
        `gflops`, `params` (a count), `frames`, `size` (pixels), `clips`, `crops`, `videos`: of each.
        `runs`: all of them, a tuple.

    Raises:
        ValueError: as `check`.
    """
    check(measured)
    means = measured.groupby(["table", "row"], sort=False).agg(
        top1=("top1", "mean"),
        std=("top1", "std"),
        seeds=("seed", "nunique"),
        **{column: (column, "first") for column in (*_OF_ROW, "videos")},
        runs=("run", lambda runs: tuple(sorted(runs))),
    )
    return means.loc[sorted(means.index, key=lambda table_and_row: place(*table_and_row))]


def place(table: str, row: str) -> tuple[int, int]:
    """The place of a row in the paper, as a key to sort by; custom rows are last in their table."""
    rows = list(paper.table(table).index)
    return paper.TABLES.index(table), rows.index(row) if row in rows else len(rows)


def networks(means: pd.DataFrame) -> pd.DataFrame:
    """Single networks tested in one view, each once: rows with runs of one name and size are one network.

    Args:
        means: of `averaged`.

    Returns:
        The columns of `averaged`, `table` and `row` (the first of its rows), `name` (both) and `also` (the names of its
        other rows).
    """
    ensemble = means.frames.astype(str).str.contains("+", regex=False)  # such as "8+16"
    single = means[(means.clips * means.crops == 1) & ~ensemble]
    single = single.reset_index().astype({"gflops": float, "top1": float, "std": float})
    single["name"] = single.table + " " + single.row
    single["run"] = single.runs.str[0].str.rsplit("/", n=1).str[0]
    of_network = single.groupby(["run", "size"], sort=False)
    single["also"] = of_network["name"].transform(lambda names: ", ".join(names.iloc[1:]))
    return single.drop_duplicates(["run", "size"]).drop(columns="run").reset_index(drop=True)


def conditions(measured: pd.DataFrame) -> pd.DataFrame:
    """Under which conditions each table was measured: its different values of each column, side by side."""
    columns = ["videos", "coverage", *PROTOCOL, "data", "fingerprint", "hardware", "commit"]
    values = measured.groupby("table", sort=False)[columns].agg(
        lambda column: ", ".join(map(str, dict.fromkeys(column)))
    )
    seeds = measured.groupby(["table", "row"], sort=False).seed.nunique().groupby("table", sort=False)
    values.insert(0, "seeds per row", seeds.agg(lambda counts: " or ".join(map(str, sorted(set(counts))))))
    return values
