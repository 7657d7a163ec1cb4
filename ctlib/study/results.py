"""The tables of the study, in results/ablations: one row per table, row and seed, and what differs between rows.

runs.csv         one row per test: of a run, or of an ensemble of runs, under one protocol
histories.csv    one row per run and epoch
predictions.npz  the predicted class of every test video, a byte each, for every row of runs.csv
comparisons.csv  every comparison of the paper's tables, and what was measured

`collect.collect` writes them. They stay complete when the run folders are deleted.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ctlib import files
from ctlib.data.arrow import pair_of
from ctlib.study import comparisons
from ctlib.study.scales import rows
from ctlib.study.tables import REFERENCES, TABLES
from ctlib.training import statistics

# Of runs.csv. `rows` is a list of [table, row], as JSON.
RUNS = """
run test seed rows top1 top5 videos gflops params train_seconds epochs frames size clips crops views
fingerprint classes_digest coverage data precision micro_batch scale overrides hardware commit config
""".split()  # noqa: SIM905
COLUMNS = ["table", "row", "seed"] + [name for name in RUNS if name not in ("seed", "rows", "test", "epochs", "config")]
_TEXT = ("frames", "micro_batch", "overrides", "commit", "config", "fingerprint", "classes_digest")
_ARRAYS = ("label", "videos", "tests", "predicted")  # in predictions.npz, of each test list
NOT_READ = 255  # in predictions.npz: a video that could not be read


def measured(tables_dir: str | Path, tables: Iterable[str] | None = None, chosen: Sequence[str] = ()) -> pd.DataFrame:
    """What was measured: one row per table, row and seed, in the paper's order; custom rows last.

    Args:
        tables_dir: the folder of the tables; empty or absent: nothing was measured.
        tables: which; None: all.
        chosen: rows of these tables; empty: all.

    Returns:
        Columns `table`, `row`, `seed`, `run` (`<name>/seed<k>`; an ensemble's several between " + "), `top1` and
        `top5` (percent), `videos` (that were tested), `gflops` (of all views and networks), `params` (of all networks),
        `train_seconds`, `frames` (a text, such as "8+16"), `size` (pixels), `clips`, `crops`, `views`, `fingerprint`
        (of the lists), `classes_digest`, `coverage` (of the listed test videos, percent), `data`, `precision`,
        `micro_batch`, `scale`, `overrides`, `hardware` and `commit`.
    """
    lines = by_row(read_runs(Path(tables_dir)))
    wanted = lines.table.isin(TABLES if tables is None else list(tables))
    return lines[wanted & (lines.row.isin(chosen) | (not chosen))].reset_index(drop=True)


def missing(
    tables_dir: str | Path,
    scale: str,
    seeds: Sequence[int],
    tables: Iterable[str] | None = None,
    chosen: Sequence[str] = (),
) -> pd.DataFrame:
    """The rows and seeds that the tables lack at a scale: columns `table`, `row` and `seed`.

    Raises:
        ValueError: an unknown table, row or scale.
    """
    there = measured(tables_dir, tables, chosen)
    there = set(zip(there.table, there.row, there.seed, strict=True))
    asked = [
        (table, row, seed)
        for table in (TABLES if tables is None else tables)
        for row in rows(table, scale, chosen)
        for seed in seeds
    ]
    return pd.DataFrame([line for line in asked if line not in there], columns=["table", "row", "seed"])


def correct(tables_dir: str | Path, table: str, row: str, seed: int) -> pd.Series:
    """Which test videos a row was right on: bool, by the videos' paths; without those that could not be read.

    Raises:
        ValueError: the tables have no such row and seed.
    """
    runs = read_runs(Path(tables_dir))
    of_row = runs[(runs.seed == seed) & runs.rows.map(lambda served: [table, row] in json.loads(served))]
    if of_row.empty:
        raise ValueError(f"{tables_dir} has no test of Table {table}, row {row!r}, seed {seed}")
    frame = read_predictions(Path(tables_dir))[test_list(of_row.fingerprint.iloc[0])]
    predicted = frame[key(of_row).iloc[0]]
    return (predicted == frame.label)[predicted != NOT_READ]


def differences(tables_dir: str | Path, table: str, chosen: Sequence[str] = ()) -> pd.DataFrame:
    """Each row against the table's reference (`REFERENCES`), in points of top-1, on the same test videos.

    With two seeds or more the interval is Student's t over the seeds that both have, paired. With one seed it is
    over the test videos (of the built-in data over mirrored pairs), and does not cover another training.

    Returns:
        Indexed by row: `seeds` (how many), `difference` (their mean), `low` and `high` (95 % interval), `over`
        ("seeds" or "test videos") and `significant`: whether the interval excludes zero; missing with one seed.

    Raises:
        ValueError: as `comparisons.check`.
    """
    lines, reference = measured(tables_dir, [table], chosen), REFERENCES[table]
    comparisons.check(lines)
    top1 = lines.pivot_table(index="seed", columns="row", values="top1", sort=False)
    found = {}
    for row in top1.columns.drop(reference) if reference in top1 else ():
        points = (top1[row] - top1[reference]).dropna()
        if len(points) > 1:
            mean, low, high, *_ = statistics.mean_interval(points, least_std=100 / lines.videos.iloc[0])
            line = {"low": low, "high": high, "over": "seeds", "significant": low > 0 or high < 0}
        elif len(points):
            ours, theirs = (correct(tables_dir, table, name, int(points.index[0])) for name in (row, reference))
            both = pd.concat([ours, theirs], axis=1, join="inner").astype(float)
            built_in = lines.data.iloc[0] == "arrow"
            groups = [pair_of(source) if built_in else source for source in both.index]
            differing = (both.iloc[:, 0] - both.iloc[:, 1]).to_numpy()
            mean, low, high, *_ = statistics.grouped_interval(differing, groups)
            line = {"low": low, "high": high, "over": "test videos", "significant": None}
        else:
            continue
        found[row] = {"seeds": len(points), "difference": mean, **line}
    columns = ["seeds", "difference", "low", "high", "over", "significant"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns)


def read_runs(tables_dir: Path) -> pd.DataFrame:
    """runs.csv as it was written; empty if there is none.

    Raises:
        ValueError: it has other columns.
    """
    path = tables_dir / "runs.csv"
    if not path.is_file():
        return pd.DataFrame(columns=RUNS)
    runs = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False)
    if list(runs.columns) != RUNS:
        raise ValueError(f"{path} must have the columns {' '.join(RUNS)}, got {' '.join(runs.columns)}")
    return runs


def by_row(runs: pd.DataFrame) -> pd.DataFrame:
    """runs.csv as `measured` returns it."""
    lines = runs.assign(rows=runs.rows.map(json.loads)).explode("rows").dropna(subset="rows")
    lines = lines.assign(table=lines.rows.str[0], row=lines.rows.str[1])
    places = [(*comparisons.place(line.table, line.row), line.row, line.seed) for line in lines.itertuples()]
    return lines.iloc[sorted(range(len(lines)), key=places.__getitem__)][COLUMNS].reset_index(drop=True)


def key(runs: pd.DataFrame) -> pd.Series:
    """What a row of runs.csv is called in predictions.npz."""
    return runs.run + " " + runs.test


def test_list(fingerprint: str) -> str:
    """The fingerprint of the test list, from that of both lists."""
    return fingerprint.split("-")[-1]


def read_predictions(tables_dir: Path) -> dict[str, pd.DataFrame]:
    """Test list -> one row per video: `label`, and the predicted classes of each test (`key`)."""
    path = tables_dir / "predictions.npz"
    if not path.is_file():
        return {}
    found = {}
    with np.load(path, allow_pickle=False) as content:
        for name in map(str, content["lists"]):
            label, videos, tests, predicted = (content[f"{name}/{part}"] for part in _ARRAYS)
            found[name] = pd.DataFrame(predicted.T, videos, tests)
            found[name].insert(0, "label", label)
    return found


def write_predictions(tables_dir: Path, predictions: dict[str, pd.DataFrame]) -> None:
    content = {"lists": np.array(list(predictions))}
    for name, frame in predictions.items():
        tests = sorted(frame.columns.drop("label"))
        arrays = frame.label.to_numpy(), frame.index.to_numpy(str), np.array(tests), frame[tests].to_numpy().T
        content |= {f"{name}/{part}": array for part, array in zip(_ARRAYS, arrays, strict=True)}

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez_compressed(file, **content)

    files.write_atomically(tables_dir / "predictions.npz", write)
