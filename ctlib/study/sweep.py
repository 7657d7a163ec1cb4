"""The study's runs done: one run with its tests, or all runs in a loop on one machine."""

import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from ctlib import files
from ctlib.config import split_pairs
from ctlib.data import arrow
from ctlib.study import comparisons
from ctlib.study.jobs import Job, begun_elsewhere, check_roots, is_finished, next_runs, plan, recorded, state
from ctlib.study.scales import Study
from ctlib.training import evaluate
from ctlib.training.processes import signals_interrupt
from ctlib.training.run import ALONE, Machine, resolve
from ctlib.training.train import train


def open_study(study: Study, out_dir: str | Path) -> None:
    """Write down which study a folder holds, or check that it is this one.

    Raises:
        ValueError: it holds another scale or other overrides.
    """
    path, asked = Path(out_dir) / "study.json", study.record()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, asked)
    study.check_same(files.read_json(path, asked), path.parent)


def complete(
    job: Job,
    out_dir: str | Path,
    processes: int = 1,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[dict], None] | None = None,
    on_test: Callable[[int, int], None] | None = None,
    on_clips: Callable[[int, int], None] | None = None,
) -> dict:
    """Train a run, or resume it, and test it as its rows need. Nothing that is done is done again.

    Args:
        processes, on_step, on_epoch: as in `train.train`.
        on_test: called with the batches of a further test that are done, and their number.
        on_clips: called with how many clips of the built-in data are written, and how many there will be.

    Returns:
        The run's `result.json`.

    Raises:
        ValueError: a folder with another run, or without the checkpoint that a test needs; and what `run.resolve`,
            `train.train` and `evaluate.score` raise.
    """
    folder = job.folder(out_dir)
    if state(job, out_dir) == "finished":
        return folder.add_rows(job.config.rows)
    run = resolve(job.config, Machine(processes), on_clips)
    scores = folder.path / "scores"
    if not (folder.path / "result.json").is_file():  # tests that remain are of an earlier network
        (folder.path / "tests.json").unlink(missing_ok=True)
        shutil.rmtree(scores, ignore_errors=True)
    result = train(run, folder.path, on_step=on_step, on_epoch=on_epoch)
    tests = []
    for test, rows in job.tests.items():
        if not folder.checkpoint.is_file():
            raise ValueError(f"{folder.checkpoint} does not exist, and tests need it: delete its folder to train again")
        data = dataclasses.replace(job.config.data, **test._asdict())
        views = evaluate.views_at_once(result["micro_batch"], ALONE.on_cpu(job.config.compute))
        compute = dataclasses.replace(job.config.compute, micro_batch=views)
        samples = run.samples["val"]
        tested = evaluate.score(evaluate.Evaluation(folder.checkpoint, samples, data, compute), scores, on_test)
        path = evaluate.saved_path(scores, tested.protocols[0], samples)
        tests.append(test._asdict() | {"rows": rows, "scores": path.relative_to(folder.path).as_posix()})
    files.write_json(folder.path / "tests.json", {"classes": run.samples["val"].classes, "tests": tests})
    return folder.add_rows(job.config.rows)


class Swept(NamedTuple):
    """The runs that a sweep did not finish, by their labels."""

    failed: list[str]
    locked: list[str]  # another process holds their folders
    stopped: list[str]  # and saved, as the time was over
    not_begun: list[str]  # they do not fit into the time, or their block is on another kind of hardware


@signals_interrupt()
def sweep(
    study: Study,
    out_dir: str | Path,
    wanted: Sequence[Job],
    side_by_side: int = 2,
    minutes: float = math.inf,
    show: Callable[[str], None] = print,
    on_clips: Callable[[int, int], None] | None = None,
) -> Swept:
    """Do runs in their order, some side by side, each as a process (`python -m ctlib ablations --run`).

    A finished run is not done again, nor is one that the tables of the study have. One that fails stops no other, and
    one whose folder another process holds is left to that process. A block with runs on another kind of hardware is
    skipped. The output of a run is in its folder's log.txt. When this loop is interrupted or its time is over, the runs
    save their snapshots, and the same call resumes them. Of several GPUs each run gets the one with the fewest.

    Args:
        wanted: of `jobs.jobs` or `jobs.next_runs`.
        side_by_side: how many runs at once.
        minutes: how long. A run that would take longer than what is left (`jobs.plan`) is not begun, and no later block
            is begun before it; one of unknown length is begun.
        show: called with one line for each run that ends.
        on_clips: called with how many clips of the built-in data are written, and how many there will be.

    Raises:
        ValueError: what `open_study` and `jobs.recorded` raise, a real data set without its folder, `side_by_side`
            below 1, or `minutes` not above 0.
    """
    if side_by_side < 1:
        raise ValueError(f"side_by_side must be at least 1, got {side_by_side}")
    if not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes:g}")
    check_roots(wanted, study.roots)
    measured, began = recorded(study, out_dir), time.monotonic()
    elsewhere = begun_elsewhere(wanted, out_dir, measured)
    open_study(study, out_dir)
    unfinished = [job for job in wanted if not is_finished(job, out_dir, measured)]
    waiting = [job for job in unfinished if job.config.seed not in elsewhere]
    show(f"{len(wanted)} runs, {len(wanted) - len(unfinished)} of them finished")
    for seed, kind in elsewhere.items():
        show(f"seed {seed} is skipped: its runs are on {kind}, and a block is not split over kinds of hardware")
    _write_data(waiting, on_clips)
    running: dict[subprocess.Popen, Job] = {}
    gpus: dict[subprocess.Popen, str] = {}
    swept = Swept([], [], [], [job.label() for job in unfinished if job.config.seed in elsewhere])
    total, time_is_over = len(waiting), False

    def minutes_left() -> float:
        return minutes - (time.monotonic() - began) / 60

    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                job = _next(study, out_dir, waiting, minutes_left(), measured)
                if job is None:
                    swept.not_begun.extend(job.label() for job in waiting)
                    total -= len(waiting)
                    waiting.clear()
                    break
                waiting.remove(job)
                if is_finished(job, out_dir, measured):  # by another sweep on this folder
                    show(f"{job.label()}: finished by another process")
                elif job.folder(out_dir).is_locked():
                    swept.locked.append(job.label())
                else:
                    gpu = _least_used_gpu([gpus[process] for process in running])
                    process = _start(study, job, out_dir, gpu)
                    running[process], gpus[process] = job, gpu
            time.sleep(_LOOK)
            if running and minutes_left() <= 0 and not time_is_over:
                time_is_over = True
                _ask_to_stop(running)
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                if process.returncode and time_is_over:
                    swept.stopped.append(job.label())
                    continue
                if process.returncode:
                    swept.failed.append(job.label())
                done = total - len(waiting) - len(running)
                left = timedelta(seconds=round((time.monotonic() - began) / done * (total - done)))
                line = f"{done} of {total}  {job.label()}: {_ended(job, out_dir, process.returncode)}"
                show(f"{line}  [{len(swept.failed)} failed, about {left} left]")
    finally:  # if the loop was interrupted
        _ask_to_stop(running)
        for process in running:
            process.wait()
    return swept


def _next(study: Study, out_dir: str | Path, waiting: list[Job], minutes: float, measured: pd.DataFrame) -> Job | None:
    """The next run: the first of the earliest block that fits into the minutes, if one does."""
    if minutes == math.inf:
        return waiting[0]
    block = [job for job in waiting if job.config.seed == waiting[0].config.seed]
    needed = plan(study, out_dir, block, measured).minutes.fillna(0)
    return next((job for job, needs in zip(block, needed, strict=True) if needs < minutes), None)


def _ask_to_stop(running: Iterable[subprocess.Popen]) -> None:
    """SIGTERM asks a run to save its snapshot and end."""
    for process in running:
        process.send_signal(signal.SIGTERM)


def print_status(study: Study, out_dir: str | Path, tables: Sequence[str]) -> None:
    """Print the runs done, the comparisons decided, the residual deviations, and what the plan's next runs cost."""
    measured = recorded(study, out_dir)
    measured = measured[measured.table.isin(tables)]
    print(f"runs done: {measured.run.str.split(' + ', regex=False).explode().nunique()}\n")
    print(comparisons.summary(comparisons.pairs(measured, tables, study.scale)).to_string())
    residuals = comparisons.residuals(measured)
    if not residuals.empty:
        print(f"\nresidual standard deviation, points of top-1\n{residuals.round(2).to_string()}")
    left = next_runs(study, out_dir, tables)
    elsewhere = begun_elsewhere(left, out_dir, measured)
    for seed, kind in elsewhere.items():
        print(f"\nseed {seed} waits for {kind}, on which it was begun")
    costs = plan(study, out_dir, [job for job in left if job.config.seed not in elsewhere], measured)
    for what, part in (("next block", costs[costs.seed == costs.seed.min()]), ("to the next look", costs)):
        seeds = ", ".join(map(str, part.seed.unique())) or "-"
        minutes = "unknown" if part.minutes.isna().any() else f"{part.minutes.sum():.0f}"
        print(f"\n{what}: {len(part)} runs of seed {seeds}; minutes, one run at a time: {minutes}")


_LOOK = 0.2  # seconds between two looks at the runs


def _write_data(waiting: Sequence[Job], on_clips: Callable[[int, int], None] | None) -> None:
    """Write the built-in data once, before several runs want to."""
    built_in = [job.config.arrow for job in waiting if job.config.data.name == "arrow" and not job.config.data.root]
    for config in dict.fromkeys(built_in):
        arrow.ensure(config, on_clips)


def command(study: Study, job: Job, out_dir: str | Path) -> list[str]:
    """The command line that does one run."""
    words = [sys.executable, "-m", "ctlib", "ablations", str(out_dir), "--scale", study.scale]
    words += ["--run", job.config.name, "--seeds", str(job.config.seed)]
    words += ["--device", study.device] if study.device else []
    for data, root in study.roots.items():
        words += [f"--{data}-root", root]
    return words + (["--set", *split_pairs(study.overrides)] if study.overrides else [])


def _least_used_gpu(used: Sequence[str]) -> str:
    """The name of the next run's GPU, by those of the runs that go on; empty unless there are several."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return min(names, key=used.count) if len(names) > 1 else ""


def _start(study: Study, job: Job, out_dir: str | Path, gpu: str) -> subprocess.Popen:
    folder = job.folder(out_dir).path
    folder.mkdir(parents=True, exist_ok=True)
    sees = os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
    with (folder / "log.txt").open("w") as log:
        return subprocess.Popen(command(study, job, out_dir), env=sees, stdout=log, stderr=subprocess.STDOUT)


def _ended(job: Job, out_dir: str | Path, returncode: int) -> str:
    folder = job.folder(out_dir)
    if not returncode:
        result = folder.result()
        return f"top-1 {result['top1']:.1f} %, {timedelta(seconds=round(result['seconds']))}"
    lines = [line for line in (folder.path / "log.txt").read_text().splitlines() if line.strip()]
    return f"failed ({lines[-1] if lines else f'exit status {returncode}'})"
