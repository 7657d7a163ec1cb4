"""The tables of the study, in results/ablations: one row per table, row and seed, and what differs between rows.

runs.csv         one row per test: of a run, or of an ensemble of runs, under one protocol
histories.csv    one row per run and epoch
predictions.npz  the predicted class of every test video, a byte each, for every row of runs.csv
comparisons.csv  every comparison of the paper's tables: published and measured difference, result

`collect` writes them from run folders. They stay complete when these are deleted.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ctlib import files
from ctlib.data.clips import SKIPPED
from ctlib.study import comparisons, measurements, predictions
from ctlib.study.predictions import NOT_READ
from ctlib.study.scales import Study, Views
from ctlib.study.tables import ROWS, TABLES
from ctlib.training import evaluate
from ctlib.training.evaluate import Scores
from ctlib.training.records import RunFolder, config_digest

# Of runs.csv. `rows` is a list of [table, row], as JSON.
RUNS = """
run test seed rows top1 top5 videos gflops params train_seconds epochs frames size clips crops views
fingerprint classes_digest coverage data precision micro_batch scale overrides hardware commit config
""".split()  # noqa: SIM905
COLUMNS = ["table", "row", "seed"] + [name for name in RUNS if name not in ("seed", "rows", "test", "epochs", "config")]
_TEXT = ("frames", "micro_batch", "overrides", "commit", "config", "fingerprint", "classes_digest")
_NUMBERS = """
seed top1 top5 videos gflops params train_seconds epochs size clips crops views coverage
""".split()  # noqa: SIM905


def measured(tables_dir: str | Path, tables: Sequence[str] = TABLES, chosen: Sequence[str] = ()) -> pd.DataFrame:
    """What was measured: one row per table, row and seed, in the paper's order; custom rows last.

    A block that one row of a table has alone is left out, where others have several: it compares nothing.

    Args:
        tables_dir: the folder of the tables; empty or absent: nothing was measured.
        tables: which.
        chosen: rows of these tables; empty: all.

    Returns:
        Columns `table`, `row`, `seed`, `run` (`<name>/seed<k>`; an ensemble's several between " + "), `top1` and
        `top5` (percent), `videos` (that were tested), `gflops` (of all views and networks), `params` (of all networks),
        `train_seconds`, `frames` (a text, such as "8+16"), `size` (pixels), `clips`, `crops`, `views`, `fingerprint`
        (of the lists), `classes_digest`, `coverage` (of the listed test videos, percent), `data`, `precision`,
        `micro_batch`, `scale`, `overrides`, `hardware` and `commit`. `attrs["tables_dir"]` is the folder.
    """
    everything = by_row(read_runs(Path(tables_dir)))
    wanted = everything[everything.table.isin(tables) & (everything.row.isin(chosen) | (not chosen))]
    rows = wanted.groupby(["table", "seed"]).row.transform("nunique")
    found = wanted[(rows > 1) | (rows.groupby(wanted.table).transform("max") == 1)].reset_index(drop=True)
    found.attrs["tables_dir"] = str(tables_dir)
    return found


def missing(tables_dir: str | Path, scale: str, seeds: Sequence[int], tables: Sequence[str] = TABLES) -> pd.DataFrame:
    """The rows and seeds that the tables lack at a scale: columns `table`, `row` and `seed`.

    Raises:
        ValueError: an unknown table or scale.
    """
    names = ["table", "row", "seed"]
    existing = set(by_row(read_runs(Path(tables_dir)))[names].itertuples(index=False, name=None))
    asked = [(table, row, seed) for table in tables for row in Study(scale).rows(table) for seed in seeds]
    return pd.DataFrame([one for one in asked if one not in existing], columns=names)


def correct(tables_dir: str | Path, table: str, row: str, seed: int) -> pd.Series:
    """Which test videos a row was right on: bool, by the videos' paths; without those that could not be read.

    Raises:
        ValueError: the tables have no such row and seed.
    """
    of_row = measured(tables_dir, [table], [row])
    of_row = of_row[of_row.seed == seed]
    if of_row.empty:
        raise ValueError(f"{tables_dir} has no test of Table {table}, row {row!r}, seed {seed}")
    frame = predictions.of_measurement(predictions.read(tables_dir), next(of_row.itertuples()))
    return frame.label == frame.predicted


def by_epoch(tables_dir: str | Path, measured: pd.DataFrame) -> pd.DataFrame:
    """The accuracy of each network after every epoch that was tested, the means over its seeds.

    Returns:
        One row per table and row (the first of the network: others may be further tests of it) and epoch: `top1`,
        percent.
    """
    path = Path(tables_dir) / "histories.csv"
    if not path.is_file():
        return pd.DataFrame(columns=["table", "row", "epoch", "top1"])
    histories = files.read_csv(path, ["epoch"], ["top1"])[["run", "epoch", "top1"]].dropna()
    of_row = measured[["table", "row", "run"]].drop_duplicates("run").merge(histories, on="run")
    return of_row.groupby(["table", "row", "epoch"], sort=False).top1.mean().reset_index()


def read_runs(tables_dir: Path) -> pd.DataFrame:
    """runs.csv as it was written; empty if there is none.

    Raises:
        ValueError: it has other columns, or is damaged; the row is named.
    """
    path = tables_dir / "runs.csv"
    if not path.is_file():
        return pd.DataFrame(columns=RUNS)
    runs = files.read_csv(path, (), _NUMBERS, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False)
    if list(runs.columns) != RUNS:
        got = files.one_line(" ".join(map(str, runs.columns)), 200)
        raise ValueError(f"{path} must have the columns {' '.join(RUNS)}, got {got}")
    for number, text in enumerate(runs.rows, start=1):
        try:
            rows = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            rows = None
        if not _are_rows(rows):
            raise ValueError(
                f"{path} is damaged: row {number}, rows must be [table, row] pairs, got {files.quoted(text)}"
            )
    return runs


def _are_rows(rows: object) -> bool:
    """Whether it is a list of rows of the paper's tables: [table, row]."""
    try:
        return isinstance(rows, list) and all(table in TABLES and isinstance(row, str) for table, row in rows)
    except (ValueError, TypeError):
        return False


def read_tests(path: Path) -> dict:
    """tests.json of a finished run: `classes`, and `tests`, each with its `rows`, its file of `scores` and its views.

    Raises:
        ValueError: it is damaged; the file is named.
    """
    content = files.read_json(path, ["classes", "tests"])
    kinds = {"rows": list, "scores": str, **dict.fromkeys(Views._fields, int)}
    tests = content["tests"] if isinstance(content["tests"], list) else [None]
    for test in tests:
        whole = isinstance(test, dict) and all(isinstance(test.get(key), kind) for key, kind in kinds.items())
        if not whole or not _are_rows(test["rows"]):
            raise ValueError(f"{path} is damaged: a test needs {', '.join(kinds)}, got {files.quoted(test)}")
    return content


def by_row(runs: pd.DataFrame) -> pd.DataFrame:
    """runs.csv as `measured` returns it."""
    each = runs.assign(rows=runs.rows.map(json.loads)).explode("rows").dropna(subset="rows")
    each = each.assign(table=each.rows.str[0], row=each.rows.str[1])
    places = [(*measurements.place(one.table, one.row), one.row, one.seed) for one in each.itertuples()]
    return each.iloc[sorted(range(len(each)), key=places.__getitem__)][COLUMNS].reset_index(drop=True)


def key(runs: pd.DataFrame) -> pd.Series:
    """What a row of runs.csv is called in predictions.npz."""
    return runs.run + " " + runs.test


# What is needed of a run's result.
_RESULT = """
rows seed top1 top5 gflops params seconds epochs num_frames size clips crops videos skipped listed
fingerprint data precision micro_batch hardware commit
""".split()  # noqa: SIM905


class _Test(NamedTuple):
    """A row of runs.csv, and what is behind it."""

    row: dict  # its `rows` as a list
    predictions: pd.DataFrame  # source, label (SKIPPED: not read), predicted
    scores: Scores | None  # None: the test at the end of training, whose scores are not stored


def collect(runs_dir: str | Path, tables_dir: str | Path) -> int:
    """Put every finished run below a folder into the study's tables, beside what is in them already.

    A run that was trained again replaces its rows; ensembles of it that are not complete on disk are removed.

    Args:
        runs_dir: the folder of the runs, with the `study.json` of the sweep.
        tables_dir: the folder of the tables.

    Returns:
        How many rows of runs.csv are new or changed.

    Raises:
        ValueError: a damaged record, or runs that must not be compared with those in the tables
            (`measurements.check`).
    """
    runs_dir, tables_dir = Path(runs_dir), Path(tables_dir)
    tests = _finished(runs_dir)
    if not tests:
        return 0
    new = pd.DataFrame([test.row | {"rows": json.dumps(test.row["rows"])} for test in tests], columns=RUNS)
    with files.locked(tables_dir, timeout=600):
        for names in ("*.csv", "predictions.npz"):
            files.remove_partials(tables_dir, names)
        old = read_runs(tables_dir)
        same = set(map(tuple, old.to_numpy()))
        changed = new[[row not in same for row in map(tuple, new.to_numpy())]]
        outdated = old.run.map(lambda run: not set(changed.run).isdisjoint(run.split(" + "))).astype(bool)
        kept = old[~key(old).isin(key(new)) & ~outdated]
        runs = pd.concat([kept, new] if len(kept) else [new]).sort_values(["run", "test"], ignore_index=True)
        measured_now = by_row(runs)
        measurements.check(measured_now)
        predictions.write(tables_dir, _merged_predictions(predictions.read(tables_dir), tests, set(key(runs))))
        files.write_csv(tables_dir / "histories.csv", _merged_histories(tables_dir, runs_dir, new))
        files.write_csv(tables_dir / "runs.csv", runs)
        compared = comparisons.pairs(measured_now, scale=runs.scale.iloc[0])
        files.write_csv(tables_dir / "comparisons.csv", compared.drop(columns="key"))
    return len(changed)


def _finished(runs_dir: Path) -> list[_Test]:
    """The tests of all finished runs, and of the ensembles whose runs are all on disk."""
    tests, parts = [], {}
    paths = sorted(runs_dir.glob("*/seed*/tests.json"))
    study = files.read_json(runs_dir / "study.json", ["scale", "overrides"]) if paths else {}
    for path in paths:
        if not (path.parent / "result.json").is_file():
            continue
        own, *further = _tests(RunFolder(path.parent), study)
        tests.append(own)
        for test in further:
            if alone := [row for row in test.row["rows"] if _networks(*row) == 1]:
                tests.append(test._replace(row=test.row | {"rows": alone}))
            for table, row in test.row["rows"]:
                if _networks(table, row) > 1:
                    parts.setdefault((table, row, test.row["seed"]), []).append(test)
    ensembles = {}
    for (table, row, _), members in parts.items():
        if len(members) == _networks(table, row):
            test = _ensemble(sorted(members, key=lambda member: int(member.row["frames"])))
            ensembles.setdefault((test.row["run"], test.row["test"]), test).row["rows"].append([table, row])
    return tests + list(ensembles.values())


def _networks(table: str, row: str) -> int:
    """How many networks a row has: several in an ensemble, one in a custom row."""
    return len(ROWS[table].get(row, [row]))


def _tests(folder: RunFolder, study: dict) -> list[_Test]:
    """The test at the end of a run, then its further tests."""
    result = folder.result(_RESULT)
    listed = read_tests(folder.path / "tests.json")
    elsewhere = [row for test in listed["tests"] for row in test["rows"]]
    row = {
        "run": folder.path.relative_to(folder.path.parents[1]).as_posix(),
        "rows": [row for row in result["rows"] if row not in elsewhere],
        "frames": str(result["num_frames"]),
        "micro_batch": str(result["micro_batch"]),
        "train_seconds": result["seconds"],
        "classes_digest": predictions.classes_digest(listed["classes"]),
        "config": config_digest(folder.record()["asked"]),
        "scale": study["scale"],
        "overrides": study["overrides"],
    }
    row |= {column: result[column] for column in RUNS if column in result and column not in row}
    row |= _of_protocol(row, result["gflops"], result["videos"] - result["skipped"], result["listed"])
    own = folder.predictions()[["source", "label", "predicted"]]
    tests = [_Test(row, own, None)]
    for test in listed["tests"]:
        scores = Scores.load(folder.path / test["scores"])
        (protocol,) = scores.protocols
        values = {"rows": test["rows"], "top1": scores.topk(1), "top5": scores.topk(5)}
        values |= {name: getattr(protocol, name) for name in ("size", "clips", "crops")}
        if protocol.precision != row["precision"]:
            values["precision"] = f"{row['precision']}, tested in {protocol.precision}"
        values |= _of_protocol(values, protocol.gflops, len(scores.labels) - scores.skipped, result["listed"])
        tests.append(_Test(row | values, _predictions(own.source, scores), scores))
    return tests


def _of_protocol(row: dict, gflops: float, videos: int, listed: int) -> dict:
    """The columns that follow from a protocol; `gflops` is of one view."""
    views = row["clips"] * row["crops"]
    return {
        "test": predictions.test_name(row["size"], row["crops"], row["clips"]),
        "views": views,
        "gflops": views * gflops,
        "videos": videos,
        "coverage": 100 * videos / listed,
    }


def _predictions(source: pd.Series, scores: Scores) -> pd.DataFrame:
    predicted = scores.logits.argmax(1).numpy()
    return pd.DataFrame({"source": source, "label": scores.labels.numpy(), "predicted": predicted})


def _ensemble(members: Sequence[_Test]) -> _Test:
    """Several networks of one seed, tested in the same views: their logits averaged."""
    first, scores = members[0].row, evaluate.ensemble([member.scores for member in members])

    def joined(column: str, between: str = " and ") -> str:
        return between.join(dict.fromkeys(str(member.row[column]) for member in members))

    row = first | {
        "run": joined("run", " + "),
        "rows": [],
        "frames": joined("frames", "+"),
        "top1": scores.topk(1),
        "top5": scores.topk(5),
        "gflops": first["views"] * sum(protocol.gflops for protocol in scores.protocols),
        "params": sum(member.row["params"] for member in members),
        "train_seconds": sum(member.row["train_seconds"] for member in members),
    }
    texts = ("fingerprint", "classes_digest", "data", "precision", "micro_batch", "hardware", "commit", "config")
    row |= {column: joined(column) for column in texts}
    return _Test(row, _predictions(members[0].predictions.source, scores), scores)


def _merged_predictions(old: dict[str, pd.DataFrame], tests: Iterable[_Test], kept: set[str]) -> dict:
    columns = {name: dict(frame.items()) for name, frame in old.items()}
    for test in tests:
        frame = test.predictions.set_index("source")
        if max(frame.label.max(), frame.predicted.max()) >= NOT_READ:
            raise ValueError(f"a byte per prediction holds {NOT_READ} classes, {test.row['run']} has more")
        frame = frame.where(frame.label != SKIPPED, NOT_READ).astype(np.uint8)
        of_list = columns.setdefault(predictions.test_list(test.row["fingerprint"]), {"label": frame.label})
        of_list["label"] = of_list["label"].where(of_list["label"] != NOT_READ, frame.label)
        of_list[f"{test.row['run']} {test.row['test']}"] = frame.predicted
    return {
        name: pd.DataFrame({name: column for name, column in of_list.items() if name == "label" or name in kept})
        for name, of_list in columns.items()
    }


def _merged_histories(tables_dir: Path, runs_dir: Path, new: pd.DataFrame) -> pd.DataFrame:
    """Read as text, so that no digit changes."""
    path = tables_dir / "histories.csv"
    parts = []
    if path.is_file():
        old = files.read_csv(path, (), dtype=str, keep_default_na=False)
        parts.append(old[~old.run.isin(new.run)])
    for run in sorted(set(new.run[~new.run.str.contains(" + ", regex=False)])):
        history = files.read_csv(runs_dir / run / "history.csv", (), dtype=str, keep_default_na=False)
        history.insert(0, "run", run)
        parts.append(history)
    return pd.concat(parts).sort_values("run", kind="stable")
