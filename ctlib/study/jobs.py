"""The runs that the paper's tables need, which of them are finished, and which the study's plan needs next.

out_dir/study.json                  the scale of the study, and its overrides
out_dir/<name>/seed<k>/             the record of a run (`records.RunFolder`); it names the rows that it is for
out_dir/<name>/seed<k>/scores/      its network tested in other ways, and for ensembles
out_dir/<name>/seed<k>/tests.json   those tests with their rows, and the class names; written last
"""

import contextlib
import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from ctlib.config import ComputeConfig, RunConfig, parse_words
from ctlib.cost import hardware
from ctlib.files import read_json
from ctlib.study import comparisons, results
from ctlib.study.scales import REAL, SCALES, Study, Views
from ctlib.study.tables import FULL, TABLES, Network, counted
from ctlib.training.records import RunFolder
from ctlib.training.run import ALONE


class Job(NamedTuple):
    """One run, and what the rows of the tables need of it."""

    config: RunConfig  # its `rows` are all (table, row) that need the run
    tests: dict[Views, list[tuple[str, str]]]  # tests beyond the run's own, each with the rows that need it
    asked: tuple[str, ...] = ()  # table and row for which the run was asked for, the first of several

    def folder(self, out_dir: str | Path) -> RunFolder:
        return RunFolder.of(self.config, out_dir)

    def label(self) -> str:
        """The row that was asked for, the run's name and its seed."""
        row = f"{' '.join(self.asked)} ({self.config.name})" if self.asked else self.config.name
        return f"{row}, seed {self.config.seed}"


def parse_tables(text: str) -> tuple[str, ...]:
    """The tables that "2a 2b" names, each once; "all" for all ablations. Raises ValueError for anything else."""
    needed = f"tables must be 'all' or some of {' '.join(TABLES)}, each once"
    return TABLES if text.split() == ["all"] else parse_words(text, lambda word: TABLES[TABLES.index(word)], needed)


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
    configs, rows, tests = {}, defaultdict(list), defaultdict(lambda: defaultdict(list))
    for table in TABLES:
        for row, networks in study.rows(table).items():
            for network in networks:
                config = study.run(network, table)
                assert configs.setdefault(config.name, config) == config, f"two configurations are called {config.name}"
                rows[config.name].append((table, row))
                if not _is_own_test(network, networks):
                    tests[config.name][study.views(network)].append((table, row))
    asked = {}
    for wanted in [(table, row) for table in tables for row in study.rows(table, chosen)]:
        for name in configs:
            if wanted in rows[name]:
                asked.setdefault(name, wanted)
    return [
        Job(dataclasses.replace(configs[name], seed=seed, rows=tuple(rows[name])), dict(tests[name]), row)
        for seed in seeds
        for name, row in asked.items()
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
    if not folder.is_finished(job.config):
        return "begun" if (folder.path / "config.json").is_file() else "to be trained"
    folder.result(("top1", "seconds"))
    path = folder.path / "tests.json"
    if not path.is_file():
        return "to be tested"
    tests = results.read_tests(path)["tests"]
    kept = [test for test in tests if (folder.path / test["scores"]).is_file()]
    tested = {Views(*(test[name] for name in Views._fields)) for test in kept}
    return "finished" if tested >= job.tests.keys() else "to be tested"


def tables_dir(out_dir: str | Path) -> Path:
    """Where the tables of a study go: `ablations` beside a folder of records called `runs`, else that folder itself."""
    out_dir = Path(out_dir)
    return out_dir.parent / "ablations" if out_dir.name == "runs" else out_dir


def recorded(study: Study, out_dir: str | Path) -> pd.DataFrame:
    """Everything that the tables of a study hold, with the columns of `results.measured`.

    Raises:
        ValueError: they hold another scale, other overrides, or tests at another size than this scale's.
    """
    folder = tables_dir(out_dir)
    measured = results.by_row(results.read_runs(folder))
    if len(measured):
        study.check_same(measured.iloc[0], folder)
    for table, row, size in measured[["table", "row", "size"]].drop_duplicates().itertuples(index=False):
        networks = study.rows(table).get(row)
        if networks and size != (needed := study.views(networks[0]).size):
            held = f"table {table}, row {row!r} at {size} pixels, and {needed} are asked for"
            raise ValueError(f"{folder} holds another study ({held}): choose another folder")
    return measured


def is_finished(job: Job, out_dir: str | Path, measured: pd.DataFrame) -> bool:
    """Whether a run is finished in its folder, or the tables have it, whose folder may be gone.

    It is not if its record is damaged or of another run, as its own process will report. Nor is it where the tables
    lack an ensemble that it is part of and its folder is gone, as ensembles need its scores.

    Args:
        measured: of `recorded`.
    """
    if not _lacks(job, measured):
        return True
    try:
        return state(job, out_dir) == "finished"
    except ValueError:
        return False


def _lacks(job: Job, measured: pd.DataFrame) -> set[tuple[str, int]]:
    """The tables that lack a row of a run, each with its seed."""
    of_seed = measured[measured.seed == job.config.seed]
    rows = set(job.config.rows) - set(zip(of_seed.table, of_seed.row, strict=True))
    return {(table, job.config.seed) for table, _ in rows}


# The plan: blocks, one after the other, and after each look only networks with an undecided comparison.


def undecided(study: Study, compared: pd.DataFrame) -> set[str]:
    """The networks (names of runs) that still need blocks: one of their comparisons is not decided.

    Args:
        compared: of `comparisons.pairs`.
    """
    at_scale = (
        compared.result != comparisons.NOT_AT_SCALE
    )  # those that count elsewhere too, or a look would wait for them
    needing = compared[at_scale & ~comparisons.is_decided(compared)]
    return {
        study.run(network, pair.table).name
        for pair in needing.itertuples()
        for row in (pair.higher, pair.lower)
        for network in study.rows(pair.table)[row]
    }


def next_runs(study: Study, out_dir: str | Path, tables: Sequence[str] = TABLES) -> list[Job]:
    """The unfinished runs up to the plan's next look (`comparisons.LOOKS`), in order of blocks.

    Every network runs to the first look, and after that those that are `undecided`. Where all that is left to a look
    waits for another kind of hardware, the runs to the one after it are added. What a table's first look went without
    is left out: completed later, it would change that look. Empty: the plan is at its end.

    Raises:
        ValueError: as `recorded` and `comparisons.pairs`.
    """
    measured = recorded(study, out_dir)
    names, left = undecided(study, comparisons.pairs(measured, tables, study.scale)), []
    passed_over = _passed_over(study, measured)
    for look in comparisons.LOOKS:
        wanted = jobs(study, tables, seeds=range(look))
        wanted = [job for job in wanted if look == comparisons.LOOKS[0] or job.config.name in names]
        left = [job for job in wanted if not is_finished(job, out_dir, measured)]
        left = [job for job in left if not _lacks(job, measured) <= passed_over]
        if {job.config.seed for job in left} - begun_elsewhere(left, out_dir, measured).keys():
            break
    return left


def _passed_over(study: Study, measured: pd.DataFrame) -> set[tuple[str, int]]:
    """The tables and seeds of incomplete blocks before the last one that the table's first look took."""
    passed_over = set()
    for table, of_table in measured.groupby("table"):
        blocks = comparisons.accuracies(of_table).reindex(columns=list(study.rows(table))).dropna()
        taken = blocks.index[: comparisons.LOOKS[0]]
        if len(taken) == comparisons.LOOKS[0]:
            passed_over |= {(table, seed) for seed in set(range(taken[-1])) - set(taken)}
    return passed_over


def kind(name: str) -> str:
    """The kind of hardware in a record: the GPU or the processor, whatever their number ("2 x AMD EPYC")."""
    return name.split(" x ")[-1]


def kind_here(compute: ComputeConfig) -> str:
    """The kind of hardware that would compute here. Raises ValueError if CUDA is asked for, and there is none."""
    return kind(hardware(torch.device("cpu" if ALONE.on_cpu(compute) else "cuda")))


def begun_elsewhere(wanted: Sequence[Job], out_dir: str | Path, measured: pd.DataFrame) -> dict[int, str]:
    """The blocks (seeds) of some jobs that have runs on another kind of hardware than this, and on which.

    A block is never split, as its networks are compared with one another.

    Args:
        measured: of `recorded`.
    """
    kinds = {(seed, kind(name)) for seed, name in zip(measured.seed, measured.hardware, strict=True)}
    kinds |= {(result["seed"], kind(result["hardware"])) for _, result in _finished(out_dir)}
    seeds = {job.config.seed for job in wanted}
    here = kind_here(wanted[0].config.compute) if wanted else ""
    return {seed: name for seed, name in sorted(kinds) if name != here and seed in seeds}


def plan(
    study: Study, out_dir: str | Path, wanted: Sequence[Job], measured: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Jobs, how far they are, and how long they take on this kind of hardware.

    Args:
        measured: of `recorded`: runs in it count as finished, and tell times; None: only the folders count.

    Returns:
        One row per job: `run` (name), `seed`, `gflops` (of one view), `state`, and rough `minutes` of training. These
        are the median of the network's finished runs, else its GFLOPs times the median rate of finished runs on its
        data, else the scale's rate; of a run that has begun, those of the epochs that remain. Missing where nothing
        is known.
    """
    measured = results.measured(tables_dir(out_dir))[:0] if measured is None else measured
    records, spent = [], _minutes(out_dir, wanted, measured)
    for job in wanted:
        config = job.config
        progress = "finished" if is_finished(job, out_dir, measured) else state(job, out_dir)
        share = 1 - len(job.folder(out_dir).history()) / config.recipe.epochs if progress == "begun" else 1
        gflops = counted(config.model, config.data.size).gflops
        own = spent.get(config.name, math.nan)
        records.append((config.name, config.seed, gflops, progress, own, config.data.name, share))
    table = pd.DataFrame(records, columns=["run", "seed", "gflops", "state", "minutes", "data", "share"])
    rates = (table.minutes / table.gflops).groupby(table.pop("data")).transform("median")
    if wanted:
        rates = rates.fillna(_rate_of_scale(study, wanted[0].config))
    return table.assign(minutes=table.minutes.fillna(rates * table.gflops) * table.pop("share"))


def _rate_of_scale(study: Study, config: RunConfig) -> float:
    """The minutes per GFLOP of a run at a scale; missing where its time was not measured."""
    scale = SCALES[study.scale]
    if not scale.minutes or not ALONE.on_cpu(config.compute):
        return math.nan
    full, usual = scale.replace(FULL), Study(study.scale).run(FULL, "8")
    longer = _passes(config) / _passes(usual)  # as the overrides say
    return longer * scale.minutes / counted(full.config, full.size).gflops


def _passes(config: RunConfig) -> float:
    """How many clips of the built-in data a run computes: a training step is worth three tests."""
    tested = config.recipe.epochs + 1 - config.recipe.first_tested
    return 3 * config.recipe.epochs * config.arrow.train_clips + tested * config.arrow.val_clips


def _minutes(out_dir: str | Path, wanted: Sequence[Job], measured: pd.DataFrame) -> dict[str, float]:
    """The median minutes of each network's finished runs, with any seed, on this kind of hardware."""
    if not wanted:
        return {}
    runs = list(zip(measured.run, measured.train_seconds, measured.hardware, strict=True))
    runs += [(run, result["seconds"], result["hardware"]) for run, result in _finished(out_dir)]
    times, here = pd.DataFrame(runs, columns=["run", "seconds", "hardware"]), kind_here(wanted[0].config.compute)
    times = times[times.hardware.map(kind) == here].drop_duplicates("run", keep="last")
    return (times.seconds / 60).groupby(times.run.str.rsplit("/", n=1).str[0]).median().to_dict()


def _finished(out_dir: str | Path) -> Iterator[tuple[str, dict]]:
    """The finished runs in a folder, as "<name>/seed<k>", and their results; damaged ones are left to their runs."""
    for path in Path(out_dir).glob("*/seed*/result.json"):
        with contextlib.suppress(ValueError):
            yield f"{path.parts[-3]}/{path.parts[-2]}", read_json(path, ["seed", "seconds", "hardware"])
