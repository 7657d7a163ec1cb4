"""The study's runs done: one run with its tests, or all runs in a loop on one machine."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from ctlib import files
from ctlib.data import arrow
from ctlib.study.jobs import Job, check_roots, jobs, state
from ctlib.study.scales import Study
from ctlib.study.tables import TABLES
from ctlib.training import evaluate
from ctlib.training.run import Machine, resolve
from ctlib.training.train import train


def open_study(study: Study, out_dir: str | Path) -> None:
    """Write down which study a folder holds, or check that it is this one.

    Raises:
        ValueError: it holds another scale or other overrides.
    """
    path = Path(out_dir) / "study.json"
    asked = {"scale": study.scale, "overrides": " ".join(sorted(study.overrides.split()))}
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, asked)
    held = files.read_json(path, asked)
    differing = [f"{key} {held[key]!r}, and {asked[key]!r} was asked for" for key in asked if held[key] != asked[key]]
    if differing:
        raise ValueError(f"{path.parent} holds another study ({'; '.join(differing)}): choose another folder")


def tables_dir(out_dir: str | Path) -> Path:
    """Where the tables of a study go: `ablations` beside a folder of records called `runs`, else that folder itself."""
    out_dir = Path(out_dir)
    return out_dir.parent / "ablations" if out_dir.name == "runs" else out_dir


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
        job: of `jobs.jobs`.
        out_dir: the folder of the study's records.
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
        compute = dataclasses.replace(job.config.compute, micro_batch=result["micro_batch"])
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


def sweep(
    study: Study,
    out_dir: str | Path,
    tables: Sequence[str] = TABLES,
    seeds: Sequence[int] = (0, 1, 2),
    side_by_side: int = 2,
    show: Callable[[str], None] = print,
    on_clips: Callable[[int, int], None] | None = None,
) -> Swept:
    """Do all runs that tables need, some side by side, each as a process (`python -m ctlib ablations --run`).

    The first seed of every row comes before the second of any. A finished run is not done again, one that fails stops
    no other, and one whose folder another process holds is left to that process. The output of a run is in its folder's
    log.txt. When this loop is interrupted, the runs save their snapshots, and the same call resumes them.

    Args:
        study, tables, seeds: as in `jobs.jobs`.
        out_dir: the folder of the study's records.
        side_by_side: how many runs at once.
        show: called with one line for each run that ends.
        on_clips: called with how many clips of the built-in data are written, and how many there will be.

    Raises:
        ValueError: what `jobs.jobs` and `open_study` raise, a real data set without its folder, or `side_by_side`
            below 1.
    """
    if side_by_side < 1:
        raise ValueError(f"side_by_side must be at least 1, got {side_by_side}")
    wanted = jobs(study, tables, seeds=seeds)
    check_roots(wanted, study.roots)
    open_study(study, out_dir)
    waiting = [job for job in wanted if not _is_finished(job, out_dir)]
    show(f"{len(wanted)} runs, {len(wanted) - len(waiting)} of them finished")
    _write_data(waiting, on_clips)
    running: dict[subprocess.Popen, Job] = {}
    total, began, failed, locked = len(waiting), time.monotonic(), [], []
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                job = waiting.pop(0)
                if _is_finished(job, out_dir):  # by another sweep on this folder
                    show(f"{job.label()}: finished by another process")
                elif job.folder(out_dir).is_locked():
                    locked.append(job.label())
                else:
                    running[_start(study, job, out_dir)] = job
            time.sleep(_LOOK)
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                failed += [job.label()] if process.returncode else []
                done = total - len(waiting) - len(running)
                left = timedelta(seconds=round((time.monotonic() - began) / done * (total - done)))
                line = f"{done} of {total}  {job.label()}: {_ended(job, out_dir, process.returncode)}"
                show(f"{line}  [{len(failed)} failed, about {left} left]")
    finally:
        for process in running:  # interrupted: SIGTERM asks a run to save its snapshot and end
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait()
    return Swept(failed, locked)


_LOOK = 0.2  # seconds between two looks at the runs


def _is_finished(job: Job, out_dir: str | Path) -> bool:
    """Whether a run is finished; not if its record is damaged or of another run, as its own process will report."""
    try:
        return state(job, out_dir) == "finished"
    except ValueError:
        return False


def _write_data(waiting: Sequence[Job], on_clips: Callable[[int, int], None] | None) -> None:
    """Write the built-in data once, before several runs want to."""
    built_in = [job.config.arrow for job in waiting if job.config.data.name == "arrow" and not job.config.data.root]
    for config in dict.fromkeys(built_in):
        arrow.ensure(config, on_clips)


def command(study: Study, job: Job, out_dir: str | Path) -> list[str]:
    """The command line that does one run."""
    words = [sys.executable, "-m", "ctlib", "ablations", str(out_dir), "--scale", study.scale]
    words += ["--run", job.config.name, "--seeds", str(job.config.seed)]
    for data, root in study.roots.items():
        words += [f"--{data}-root", root]
    return words + (["--set", *study.overrides.split()] if study.overrides else [])


def _start(study: Study, job: Job, out_dir: str | Path) -> subprocess.Popen:
    folder = job.folder(out_dir).path
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log:
        return subprocess.Popen(command(study, job, out_dir), stdout=log, stderr=subprocess.STDOUT)


def _ended(job: Job, out_dir: str | Path, returncode: int) -> str:
    folder = job.folder(out_dir)
    if not returncode:
        result = folder.result()
        return f"top-1 {result['top1']:.1f} %, {timedelta(seconds=round(result['seconds']))}"
    lines = [line for line in (folder.path / "log.txt").read_text().splitlines() if line.strip()]
    return f"failed ({lines[-1] if lines else f'exit status {returncode}'})"
