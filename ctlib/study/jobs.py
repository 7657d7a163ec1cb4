"""The ablations as runs: which are needed, and how far they are.

out_dir/study.json                      which scale it is, and what differs from it
out_dir/runs/<name>/seed<k>/            the record of a run (`records.RunFolder`)
out_dir/runs/<name>/seed<k>/scores/     its network under other protocols, and as part of ensembles
out_dir/runs/<name>/seed<k>/tests.json  which those are, and the names of the classes; written last
"""

import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ctlib import files
from ctlib.config import RunConfig
from ctlib.study import tables as study
from ctlib.study.scales import (
    REAL,
    REFERENCES,
    SCALES,
    TABLES,
    Training,
    protocol,
    resized,
    root_parameter,
    rows,
    training,
)
from ctlib.study.tables import Network
from ctlib.training import records
from ctlib.training.evaluate import Scores
from ctlib.training.records import RunFolder


class Job(NamedTuple):
    """One run, and what the rows need of it."""

    training: Training
    tests: tuple[dict[str, int], ...]  # further ones: other protocols (`scales.protocol`), or for ensembles
    rows: tuple[tuple[str, str], ...]  # (table, row) that need it


def jobs(
    scale: str,
    tables: Sequence[str] = TABLES,
    chosen: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    overrides: str = "",
    roots: dict[str, str] | None = None,
    **given,
) -> list[Job]:
    """The runs behind tables, each once: all of the first seed, then those of the next.

    Args:
        scale: a name of `SCALES`.
        tables: some of `TABLES`.
        chosen: rows of these tables; empty: all.
        seeds: of the runs.
        overrides, roots, given: as in `scales.training`.

    Raises:
        ValueError: an unknown scale, table or row, or what `scales.training` refuses.
    """
    found: dict[tuple[int, str], Job] = {}
    for seed in seeds:
        for table in tables:
            for row, networks in rows(table, scale, chosen).items():
                for network in networks:
                    trained = training(network, table, scale, seed, overrides, roots, **given)
                    key = seed, trained.config.name
                    job = found.get(key) or Job(trained, _all_tests(trained.config, scale, overrides), ())
                    found[key] = job._replace(rows=(*job.rows, (table, row)))
    return list(found.values())


def _all_tests(config: RunConfig, scale: str, overrides: str) -> tuple[dict[str, int], ...]:
    """The tests of a run, beyond its own, that the rows of all tables need: its checkpoint may not be there later."""
    found = []
    for table in TABLES:
        for networks in rows(table, scale).values():
            for network in networks:
                test = further_test(network, networks, scale, overrides)
                if test is not None and test not in found and _name(network, table, scale, overrides) == config.name:
                    found.append(test)
    return tuple(found)


@functools.cache
def _name(network: Network, table: str, scale: str, overrides: str) -> str:
    return training(network, table, scale, overrides=overrides).config.name


def further_test(network: Network, networks: Sequence[Network], scale: str, overrides: str) -> dict[str, int] | None:
    """How one of a row's networks is tested; None if its run does that by itself, and no scores are averaged."""
    tested = protocol(network, resized(scale, overrides))
    own = network.train_size in (None, network.size) and network.clips * network.crops == 1
    return None if own and len(networks) == 1 else tested


def check_roots(jobs: Iterable[Job], roots: dict[str, str] | None) -> None:
    """Raise ValueError unless every real data set that jobs read has its folder, naming those that lack one."""
    needed = {job.training.config.data.name for job in jobs} & set(REAL)
    without = sorted(data for data in needed if not (roots or {}).get(data))
    if without:
        names = ", ".join(root_parameter(data) for data in without)
        raise ValueError(f"{names} must be the folder of the data set, got ''")


def overrides_of(out_dir: str | Path, scale: str) -> str:
    """What differs from the scale in the study that a folder holds; nothing if it holds none yet.

    Raises:
        ValueError: it holds another scale, or its study.json is damaged.
    """
    path = Path(out_dir) / "study.json"
    if not path.is_file():
        return ""
    about = files.read_json(path, ("scale", "overrides"))
    if about["scale"] != scale:
        raise ValueError(f"{out_dir} holds the scale {about['scale']!r}, {scale!r} asked for")
    return about["overrides"]


def state(job: Job, out_dir: str | Path) -> str:
    """How far a run is: "finished", "to be tested" under other protocols, "begun", or "to be trained".

    Raises:
        ValueError: its folder holds a run with other parameters, or a damaged record; it is named.
    """
    folder = job.training.folder(out_dir)
    if not (folder.path / "result.json").is_file():
        return "begun" if (folder.path / "config.json").is_file() else "to be trained"
    _check_same(folder, job.training.config)
    folder.result(("top1", "seconds"))
    tested = all(kept_scores(folder, test) is not None for test in job.tests)
    return "finished" if tested and (folder.path / "tests.json").is_file() else "to be tested"


def _check_same(folder: RunFolder, wanted: RunConfig) -> None:
    """Raise ValueError unless a record is of this run; what only the data tell (classes, digests) is not compared."""
    differing = records.differences(folder.record(), wanted)
    if differing:
        raise ValueError(
            f"{folder.path} holds a run with other parameters ({'; '.join(differing)}): delete it, or "
            "choose another folder"
        )


def kept_scores(folder: RunFolder, tested: dict[str, int]) -> Scores | None:
    """The scores of a run's network under a protocol, if they are kept.

    Raises:
        ValueError: scores that are damaged, of another list than the run's, or of several networks without the
            checkpoint that tells which is the run's; they are named.
    """
    current = files.digest(folder.checkpoint) if folder.checkpoint.is_file() else None
    listed = folder.result(["fingerprint"])["fingerprint"].split("-")[-1]  # of the training list, of the test list
    found = {}
    for path in sorted((folder.path / "scores").glob("*.npz")):
        scores = Scores.load(path)
        if len(scores.protocols) != 1 or scores.fingerprint != listed:
            raise ValueError(
                f"{path} must hold one network's scores of the run's test list {listed}, got "
                f"{len(scores.protocols)} of {scores.fingerprint}"
            )
        (protocol,) = scores.protocols
        same = all(getattr(protocol, key.removeprefix("data.")) == value for key, value in tested.items())
        if same and current in (None, protocol.checkpoint):
            found[path] = scores
    if len(found) > 1:
        names = " and ".join(map(str, found))
        raise ValueError(f"{names} are the same test: delete those that are not of the run's network")
    return next(iter(found.values()), None)


def plan(
    out_dir: str | Path,
    scale: str,
    tables: Sequence[str] = TABLES,
    chosen: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    overrides: str = "",
) -> pd.DataFrame:
    """Which runs are needed, and which are there.

    Returns:
        A row a run, in the order in which they are done: `run` (name), `seed`, `rows` (that need it), `gflops` (of
        one view), `state` and rough `minutes` to train: in proportion to GFLOPs, from finished runs, else the scale's.
    """
    size, lines = resized(scale, overrides), []
    for job in jobs(scale, tables, chosen, seeds, overrides):
        config, folder = job.training.config, job.training.folder(out_dir)
        done = state(job, out_dir)
        lines.append(
            {
                "run": config.name,
                "seed": config.seed,
                "rows": ", ".join(f"{table} {row}" for table, row in job.rows),
                "gflops": study.counted(config.model, config.data.size).gflops,
                "state": done,
                "spent": folder.result()["seconds"] / 60 if done in ("finished", "to be tested") else math.nan,
            }
        )
    table = pd.DataFrame(lines)
    (full,) = rows("2g", scale, [REFERENCES["2g"]]).values()
    whole = training(full[0], "2g", scale, overrides=overrides).config
    rate = (table.spent / table.gflops).median()
    if math.isnan(rate):
        rate = (SCALES[scale].minutes or math.nan) / study.counted(whole.model, size.size).gflops
    return table.assign(minutes=table.pop("spent").fillna(rate * table.gflops))
