"""What the records of the ablations say: accuracies row by row, what is missing, and differences within a table."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ctlib import files
from ctlib.data.arrow import pair_of
from ctlib.data.clips import SKIPPED
from ctlib.study import comparisons
from ctlib.study.jobs import Job, further_test, kept_scores, overrides_of, state
from ctlib.study.scales import REFERENCES, SCALES, TABLES, protocol, resized, rows, training
from ctlib.training import evaluate
from ctlib.training.evaluate import Scores
from ctlib.training.records import RunFolder

COLUMNS = """
table row seed top1 videos gflops params train_seconds run frames size clips crops views
fingerprint classes_digest coverage data precision micro_batch scale hardware commit
""".split()  # noqa: SIM905


# What is taken from a run's result.
_OF_A_RESULT = """
seed top1 gflops params seconds num_frames videos skipped listed fingerprint data precision micro_batch hardware commit
""".split()  # noqa: SIM905


def measured(
    out_dir: str | Path, scale: str, tables: Iterable[str] | None = None, chosen: Sequence[str] = ()
) -> pd.DataFrame:
    """What the records of a study say: a line for each table, row and seed that is there, from records alone.

    Args:
        out_dir: the study's folder.
        scale: a name of `SCALES`.
        tables: which; None: all.
        chosen: rows of these tables; empty: all. No other row's record is looked at.

    Returns:
        Columns `table`, `row`, `seed`, `top1` (percent), `videos` (that were tested), `gflops` (of all views and
        networks), `params` (of all networks), `train_seconds`, `run` (its folder below `out_dir`; an ensemble's
        several between " + "), `frames` (a text, such as "8+16"), `size` (pixels), `clips`, `crops`, `views`,
        `fingerprint` (of the lists), `classes_digest`, `coverage` (of the listed test videos, percent), `data`,
        `precision` and `micro_batch` (clips that a batch norm saw at once in training), `scale`, `hardware` and
        `commit`.

    Raises:
        ValueError: an unknown scale or table, another study's folder, or a record that is damaged or of other
            parameters.
    """
    lines = [line for line, _ in _each(out_dir, scale, tables or TABLES, None, chosen) if isinstance(line, dict)]
    return pd.DataFrame(lines, columns=COLUMNS)


def missing(
    out_dir: str | Path,
    scale: str,
    seeds: Sequence[int],
    tables: Iterable[str] | None = None,
    chosen: Sequence[str] = (),
) -> pd.DataFrame:
    """What a study lacks: a line for each table, row and seed that `measured` does not have.

    Returns:
        Columns `table`, `row`, `seed` and `why`: which of its runs are to be trained, begun, or to be tested.
    """
    lines = [
        {"table": table, "row": row, "seed": seed, "why": line}
        for line, (table, row, seed) in _each(out_dir, scale, tables or TABLES, seeds, chosen)
        if not isinstance(line, dict)
    ]
    return pd.DataFrame(lines, columns=["table", "row", "seed", "why"])


def _each(out_dir, scale, tables, seeds, chosen):
    """For each table, row and seed: the line of its record, or what there is to do for one; and which it is of."""
    overrides = overrides_of(out_dir, scale)
    found = sorted(int(path.name[4:]) for path in Path(out_dir).glob("runs/*/seed*") if path.name[4:].isdecimal())
    for table in tables:
        for row in rows(table, scale, chosen):
            for seed in dict.fromkeys(found) if seeds is None else seeds:
                parts = _parts(out_dir, scale, table, row, seed, overrides)
                todo = [f"{part.job.training.config.name} {part.state}" for part in parts if part.state != "finished"]
                yield ", ".join(todo) or _line(out_dir, scale, table, row, parts), (table, row, seed)


class _Part(NamedTuple):
    """A network of a row, and the record behind it."""

    job: Job
    tested: dict[str, int]
    state: str


def _parts(out_dir, scale: str, table: str, row: str, seed: int, overrides: str) -> list[_Part]:
    parts, size = [], resized(scale, overrides)
    (networks,) = rows(table, scale, [row]).values()
    for network in networks:
        trained = training(network, table, scale, seed, overrides)
        tested = protocol(network, size)
        test = further_test(network, networks, scale, overrides)
        job = Job(trained, () if test is None else (test,), ((table, row),))
        parts.append(_Part(job, tested, state(job, out_dir)))
    return parts


def _scores(parts: Sequence[_Part], out_dir) -> Scores | None:
    """What a row's networks say together; None of a row that is its run's own test."""
    scores = [kept_scores(part.job.training.folder(out_dir), test) for part in parts for test in part.job.tests]
    return evaluate.ensemble(scores) if scores else None


def _line(out_dir, scale: str, table: str, row: str, parts: Sequence[_Part]) -> dict:
    folders = [part.job.training.folder(out_dir) for part in parts]
    results = [folder.result(_OF_A_RESULT) for folder in folders]
    for folder, result in zip(folders, results, strict=True):
        if not isinstance(result["top1"], float | int) or not math.isfinite(result["top1"]):
            raise ValueError(f"{folder.path / 'result.json'} is damaged: top1 is {result['top1']}")
    first, tested, scores = results[0], parts[0].tested, _scores(parts, out_dir)
    views = tested["data.clips"] * tested["data.crops"]
    one_view = [first["gflops"]] if scores is None else [part.gflops for part in scores.protocols]
    videos = first["videos"] - first["skipped"] if scores is None else len(scores.labels) - scores.skipped

    def together(key: str, join: str = " and ") -> str:
        return join.join(dict.fromkeys(str(result[key]) for result in results))

    precision = together("precision")
    tested_in = precision if scores is None else " and ".join({part.precision: None for part in scores.protocols})
    return {
        "table": table,
        "row": row,
        "seed": first["seed"],
        "top1": first["top1"] if scores is None else scores.topk(1),
        "videos": videos,
        "gflops": views * sum(one_view),
        "params": sum(result["params"] for result in results),
        "train_seconds": sum(result["seconds"] for result in results),
        "run": " + ".join(folder.path.relative_to(out_dir).as_posix() for folder in folders),
        "frames": "+".join(str(result["num_frames"]) for result in results),
        "size": tested["data.size"],
        "clips": tested["data.clips"],
        "crops": tested["data.crops"],
        "views": views,
        "fingerprint": together("fingerprint"),
        "classes_digest": " and ".join(dict.fromkeys(map(_classes_digest, folders))),
        "coverage": 100 * videos / first["listed"],
        "data": together("data"),
        "precision": precision if tested_in == precision else f"{precision}, tested in {tested_in}",
        "micro_batch": together("micro_batch"),
        "scale": scale,
        "hardware": together("hardware"),
        "commit": together("commit"),
    }


def _classes_digest(folder: RunFolder) -> str:
    path = folder.path / "tests.json"
    classes = files.read_json(path, ["classes"])["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{path} is damaged: classes is no list of names, but {classes!r}")
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()[:12]


def correct(out_dir: str | Path, scale: str, table: str, row: str, seed: int) -> pd.Series:
    """Which test videos a row was right on: bool, by the videos' paths; those that could not be read are left out.

    Raises:
        ValueError: an unknown table, row or scale, or a row whose runs are not finished.
    """
    parts = _parts(out_dir, scale, table, row, seed, overrides_of(out_dir, scale))
    todo = [f"{part.job.training.config.name} is {part.state}" for part in parts if part.state != "finished"]
    if todo:
        raise ValueError(f"Table {table}, {row}, seed {seed} is not finished: {', '.join(todo)}")
    said = parts[0].job.training.folder(out_dir).predictions()
    scores = _scores(parts, out_dir)
    predicted = said.predicted if scores is None else scores.logits.argmax(1).numpy()
    right = pd.Series((said.label == predicted).to_numpy(), index=said.source)
    return right[(said.label != SKIPPED).to_numpy()]


def differences(out_dir: str | Path, scale: str, table: str, chosen: Sequence[str] = ()) -> pd.DataFrame:
    """Each row against the table's reference (`REFERENCES`), in points of top-1, on the same test videos.

    With two seeds or more the interval is Student's t over the seeds that both have, paired (`comparisons.judge`).
    With one seed it is over the test videos, paired (of the built-in data over mirrored pairs), and says nothing of
    another training: `resolved` is then missing.

    Returns:
        Indexed by row: `seeds` (how many), `difference` (their mean), the ends `low` and `high` of its 95 % interval,
        `over` ("seeds" or "test videos") and `resolved`: whether the interval leaves zero out, of two seeds or more.

    Raises:
        ValueError: as `measured` and `comparisons.check`.
    """
    lines, reference = measured(out_dir, scale, [table], chosen), REFERENCES[table]
    comparisons.check(lines, scale)
    top1 = lines.pivot_table(index="seed", columns="row", values="top1", sort=False)
    found = {}
    for row in top1.columns.drop(reference) if reference in top1 else ():
        points = (top1[row] - top1[reference]).dropna()
        if len(points) > 1:
            mean, low, high, _ = comparisons.judge(points, lines.videos.iloc[0])
            line = {"low": low, "high": high, "over": "seeds", "resolved": low > 0 or high < 0}
        elif len(points):
            ours, theirs = (correct(out_dir, scale, table, name, int(points.index[0])) for name in (row, reference))
            both = pd.concat([ours, theirs], axis=1, join="inner").astype(float)
            made = SCALES[scale].data == "arrow"
            groups = [pair_of(source) if made else source for source in both.index]
            mean, half = evaluate.interval((both[0] - both[1]).to_numpy(), groups)
            line = {"low": mean - half, "high": mean + half, "over": "test videos", "resolved": None}
        else:
            continue
        found[row] = {"seeds": len(points), "difference": mean, **line}
    columns = ["seeds", "difference", "low", "high", "over", "resolved"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns)


def told(found: pd.DataFrame, table: str) -> str:
    """What `differences` says, a sentence a row, and what it does not say.

    Args:
        found: of `differences`.
        table: that it is of.
    """
    if found.empty:
        return f"Nothing can be compared yet: that takes {REFERENCES[table]!r} and another row with the same seed."
    lines = [f"Against {REFERENCES[table]!r}, in points of top-1 (95 % intervals):"]
    for row, line in found.iterrows():
        ends = f"{line.difference:+.1f} ({line.low:+.1f} to {line.high:+.1f} over "
        if line.over == "seeds":
            verdict = f"{line.seeds} seeds): {'resolved' if line.resolved else 'not resolved'}"
        else:
            beyond = "beyond" if line.low > 0 or line.high < 0 else "within"
            verdict = f"the test videos), {beyond} what the choice of videos explains"
        lines.append(f"  {row}: {ends}{verdict}.")
    if "test videos" in set(found.over):
        lines.append("One seed resolves nothing about training: another may put two rows the other way round.")
    lines.append("The intervals are not corrected for their number: of twenty equal rows, one comes out as resolved.")
    return "\n".join(lines)
