"""The runs that the paper's tables need, and which of them are finished.

out_dir/study.json                  the scale of the study, and its overrides
out_dir/<name>/seed<k>/             the record of a run (`records.RunFolder`); it names the rows that it is for
out_dir/<name>/seed<k>/scores/      its network tested in other ways, and for ensembles
out_dir/<name>/seed<k>/tests.json   those tests with their rows, and the class names; written last
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ctlib.config import RunConfig, check_choice, parse_words
from ctlib.files import read_json
from ctlib.study.scales import REAL, SCALES, Study, Views
from ctlib.study.tables import FULL, TABLES, Network, counted
from ctlib.training.records import RunFolder, differences


class Job(NamedTuple):
    """One run, and what the rows of the tables need of it."""

    config: RunConfig  # its `rows` are all (table, row) that need the run
    tests: dict[Views, list[tuple[str, str]]]  # tests beyond the run's own, each with the rows that need it

    def folder(self, out_dir: str | Path) -> RunFolder:
        return RunFolder.of(self.config, out_dir)

    def label(self) -> str:
        return f"{self.config.name}, seed {self.config.seed}"


def parse_tables(text: str) -> tuple[str, ...]:
    """The tables that "2a 2b" names, each once; "all" for all ablations. Raises ValueError for anything else."""

    def table(word: str) -> str:
        check_choice("table", word, TABLES)
        return word

    needed = f"tables must be 'all' or some of {' '.join(TABLES)}, each once"
    return TABLES if text.split() == ["all"] else parse_words(text, table, needed)


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that "0 1 2" names, in ascending order. Raises ValueError for anything else."""

    def seed(word: str) -> int:
        if not word.isdecimal():
            raise ValueError
        return int(word)

    return tuple(sorted(parse_words(text, seed, "seeds must be whole numbers from 0, each once, as in '0 1 2'")))


def jobs(
    study: Study, tables: Sequence[str] = TABLES, chosen: Sequence[str] = (), seeds: Sequence[int] = (0,)
) -> list[Job]:
    """The runs behind tables, each once: all runs of the first seed, then those of the next.

    A job lists all rows and tests of its run, also those of other tables, because its checkpoint may be deleted later.

    Args:
        chosen: rows of these tables; empty: all.

    Raises:
        ValueError: an unknown table or row, or what `Study.run` raises.
    """
    wanted = [(table, row) for table in tables for row in study.rows(table, chosen)]
    configs, rows, tests = {}, {}, {}
    for table in TABLES:
        for row, networks in study.rows(table).items():
            for network in networks:
                config = study.run(network, table)
                assert configs.setdefault(config.name, config) == config, f"two configurations are called {config.name}"
                rows.setdefault(config.name, {})[table, row] = None
                if not _is_own_test(network, networks):
                    tests.setdefault(config.name, {}).setdefault(study.views(network), []).append((table, row))
    needed = dict.fromkeys(name for row in wanted for name in configs if row in rows[name])
    return [
        Job(dataclasses.replace(configs[name], seed=seed, rows=tuple(rows[name])), tests.get(name, {}))
        for seed in seeds
        for name in needed
    ]


def _is_own_test(network: Network, networks: Sequence[Network]) -> bool:
    """Whether a run's own test, one view at the size of training, is what a row of these networks shows."""
    one_view = network.train_size in (None, network.size) and network.clips * network.crops == 1
    return one_view and len(networks) == 1


def check_roots(wanted: Iterable[Job], roots: dict[str, str]) -> None:
    """Raise ValueError unless every real data set that the jobs read has its folder, naming those that lack one."""
    needed = {job.config.data.name for job in wanted} & set(REAL)
    without = sorted(data for data in needed if not roots.get(data))
    if without:
        raise ValueError(f"the folder of {' and of '.join(without)} is needed, and was not given")


def state(job: Job, out_dir: str | Path) -> str:
    """How far a run is: "finished", "to be tested" in other ways, "begun", or "to be trained".

    Raises:
        ValueError: its folder holds a run with other parameters, or a damaged record; it is named.
    """
    folder = job.folder(out_dir)
    if not (folder.path / "result.json").is_file():
        return "begun" if (folder.path / "config.json").is_file() else "to be trained"
    differing = differences(folder.record(), job.config)
    if differing:
        raise ValueError(
            f"{folder.path} holds a run with other parameters ({'; '.join(differing)}): delete it, or choose another "
            "folder"
        )
    folder.result(("top1", "seconds"))
    tests = folder.path / "tests.json"
    return "finished" if tests.is_file() and _existing_tests(tests) >= job.tests.keys() else "to be tested"


def _existing_tests(path: Path) -> set[Views]:
    """The tests in a tests.json whose scores exist."""
    tests = read_json(path, ["classes", "tests"])["tests"]
    return {
        Views(*(test[name] for name in Views._fields)) for test in tests if (path.parent / test["scores"]).is_file()
    }


def plan(study: Study, out_dir: str | Path, wanted: Iterable[Job]) -> pd.DataFrame:
    """Jobs and how far they are.

    Returns:
        One row per job: `run` (name), `seed`, `gflops` (of one view), `state` and rough `minutes` of training. These
        are the run's own, else its GFLOPs times the median rate of finished runs on its data, else the scale's rate.
    """
    records = []
    for job in wanted:
        progress = state(job, out_dir)
        is_trained = progress in ("finished", "to be tested")
        spent = job.folder(out_dir).result()["seconds"] / 60 if is_trained else math.nan
        gflops = counted(job.config.model, job.config.data.size).gflops
        records.append((job.config.name, job.config.seed, gflops, progress, spent, job.config.data.name))
    table = pd.DataFrame(records, columns=["run", "seed", "gflops", "state", "minutes", "data"])
    rates = (table.minutes / table.gflops).groupby(table.pop("data")).transform("median")
    full = study.sized.replace(FULL)
    rate_of_scale = (SCALES[study.scale].minutes or math.nan) / counted(full.config, full.size).gflops
    return table.assign(minutes=table.minutes.fillna(rates.fillna(rate_of_scale) * table.gflops))
