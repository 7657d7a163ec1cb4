"""From run folders to the tables of the study (`results`): the only place where the study reads run folders."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ctlib import files
from ctlib.data.clips import SKIPPED
from ctlib.study import comparisons, results, tables
from ctlib.training import evaluate
from ctlib.training.evaluate import Scores
from ctlib.training.records import RunFolder

# What is needed of a run's result.
_RESULT = """
rows seed top1 top5 gflops params seconds epochs num_frames size clips crops videos skipped listed
fingerprint data precision micro_batch hardware commit
""".split()  # noqa: SIM905


class _Test(NamedTuple):
    """A row of runs.csv, and what is behind it."""

    row: dict
    predictions: pd.DataFrame  # source, label (SKIPPED: not read), predicted
    scores: Scores | None  # None: the test at the end of training, whose scores are not stored


def collect(runs_dir: str | Path = "results/runs", tables_dir: str | Path = "results/ablations") -> int:
    """Put every finished run below a folder into the study's tables, beside what is in them already.

    A run that was trained again replaces its rows; ensembles of it that are not complete on disk are removed.

    Args:
        runs_dir: the folder of the runs, with the `study.json` of the sweep.
        tables_dir: the folder of the tables.

    Returns:
        How many rows of runs.csv are new or changed.

    Raises:
        ValueError: a damaged record, or runs that must not be compared with those in the tables
            (`comparisons.check`).
    """
    runs_dir, tables_dir = Path(runs_dir), Path(tables_dir)
    tests = _finished(runs_dir)
    if not tests:
        return 0
    new = pd.DataFrame([test.row for test in tests], columns=results.RUNS)
    with files.locked(tables_dir, timeout=600):
        old = results.read_runs(tables_dir)
        same = set(map(tuple, old.to_numpy()))
        changed = new[[row not in same for row in map(tuple, new.to_numpy())]]
        outdated = old.run.map(lambda run: not set(changed.run).isdisjoint(run.split(" + "))).astype(bool)
        kept = old[~results.key(old).isin(results.key(new)) & ~outdated]
        runs = pd.concat([kept, new] if len(kept) else [new]).sort_values(["run", "test"], ignore_index=True)
        by_row = results.by_row(runs)
        comparisons.check(by_row)
        predictions = _merged_predictions(results.read_predictions(tables_dir), tests, set(results.key(runs)))
        results.write_predictions(tables_dir, predictions)
        files.write_csv(tables_dir / "histories.csv", _merged_histories(tables_dir, runs_dir, new))
        files.write_csv(tables_dir / "runs.csv", runs)
        found = comparisons.pairs(by_row, scale=runs.scale.iloc[0])
        files.write_csv(tables_dir / "comparisons.csv", found.drop(columns="key"))
    return len(changed)


def _finished(runs_dir: Path) -> list[_Test]:
    """The tests of all finished runs, and of the ensembles whose runs are all on disk."""
    found, parts = [], {}
    paths = sorted(runs_dir.glob("*/seed*/tests.json"))
    study = files.read_json(runs_dir / "study.json", ["scale", "overrides"]) if paths else {}
    for path in paths:
        if not (path.parent / "result.json").is_file():
            continue
        own, *further = _tests(RunFolder(path.parent), study)
        found.append(own)
        for test in further:
            served = json.loads(test.row["rows"])
            alone = [row for row in served if _networks(*row) == 1]
            if alone:
                found.append(test._replace(row=test.row | {"rows": json.dumps(alone)}))
            for table, row in served:
                if _networks(table, row) > 1:
                    parts.setdefault((table, row, test.row["seed"]), []).append(test)
    ensembles = {}
    for (table, row, _), members in parts.items():
        if len(members) == _networks(table, row):
            test = _ensemble(sorted(members, key=lambda member: int(member.row["frames"])))
            key = test.row["run"], test.row["test"]
            served = [*json.loads(ensembles.get(key, test).row["rows"]), [table, row]]
            ensembles[key] = test._replace(row=test.row | {"rows": json.dumps(served)})
    return found + list(ensembles.values())


def _networks(table: str, row: str) -> int:
    """How many networks a row has: several in an ensemble, one in a custom row."""
    return len(tables.ROWS[table].get(row, [row]))


def _tests(folder: RunFolder, study: dict) -> list[_Test]:
    """The test at the end of a run, then its further tests."""
    result = folder.result(_RESULT)
    listed = files.read_json(folder.path / "tests.json", ["classes", "tests"])
    elsewhere = [row for test in listed["tests"] for row in test["rows"]]
    row = {
        "run": folder.path.relative_to(folder.path.parents[1]).as_posix(),
        "rows": json.dumps([row for row in result["rows"] if row not in elsewhere]),
        "frames": str(result["num_frames"]),
        "micro_batch": str(result["micro_batch"]),
        "train_seconds": result["seconds"],
        "classes_digest": hashlib.sha256("\n".join(listed["classes"]).encode()).hexdigest()[:12],
        "config": _config_digest(folder),
        "scale": study["scale"],
        "overrides": study["overrides"],
    }
    row |= {column: result[column] for column in results.RUNS if column in result and column not in row}
    row |= _tested(row, result["gflops"], result["videos"] - result["skipped"], result["listed"])
    predictions = folder.predictions()[["source", "label", "predicted"]]
    found = [_Test(row, predictions, None)]
    for test in listed["tests"]:
        scores = Scores.load(folder.path / test["scores"])
        (protocol,) = scores.protocols
        values = {"rows": json.dumps(test["rows"]), "top1": scores.topk(1), "top5": scores.topk(5)}
        values |= {name: getattr(protocol, name) for name in ("size", "clips", "crops")}
        if protocol.precision != row["precision"]:
            values["precision"] = f"{row['precision']}, tested in {protocol.precision}"
        values |= _tested(values, protocol.gflops, len(scores.labels) - scores.skipped, result["listed"])
        found.append(_Test(row | values, _predictions(predictions.source, scores), scores))
    return found


def _config_digest(folder: RunFolder) -> str:
    """12 hex digits of everything that was asked of a run, except where its data are and which rows it is for."""
    config = folder.record()["asked"]
    config = {name: part for name, part in config.items() if name != "rows"} | {"data": config["data"] | {"root": ""}}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def _tested(row: dict, gflops: float, videos: int, listed: int) -> dict:
    """The columns that follow from a protocol; `gflops` is of one view."""
    views = row["clips"] * row["crops"]
    return {
        "test": f"{row['size']}px {row['crops']}x{row['clips']}",
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
        "rows": "[]",
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
        if max(frame.label.max(), frame.predicted.max()) >= results.NOT_READ:
            raise ValueError(f"a byte per prediction holds {results.NOT_READ} classes, {test.row['run']} has more")
        frame = frame.where(frame.label != SKIPPED, results.NOT_READ).astype(np.uint8)
        of_list = columns.setdefault(results.test_list(test.row["fingerprint"]), {"label": frame.label})
        of_list["label"] = of_list["label"].where(of_list["label"] != results.NOT_READ, frame.label)
        of_list[f"{test.row['run']} {test.row['test']}"] = frame.predicted
    return {
        name: pd.DataFrame({name: column for name, column in of_list.items() if name == "label" or name in kept})
        for name, of_list in columns.items()
    }


def _merged_histories(tables_dir: Path, runs_dir: Path, new: pd.DataFrame) -> pd.DataFrame:
    """Read as text, so that no digit changes."""
    path = tables_dir / "histories.csv"
    parts = [pd.read_csv(path, dtype=str, keep_default_na=False)] if path.is_file() else []
    parts = [part[~part.run.isin(new.run)] for part in parts]
    for run in sorted(set(new.run[~new.run.str.contains(" + ", regex=False)])):
        history = pd.read_csv(runs_dir / run / "history.csv", dtype=str, keep_default_na=False)
        history.insert(0, "run", run)
        parts.append(history)
    return pd.concat(parts).sort_values("run", kind="stable")
