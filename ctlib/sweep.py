"""The ablations done: a run and its tests, and all runs as a batch of notebooks, two or more side by side."""

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from ctlib import evaluate, runs
from ctlib.ablation import Job, check_roots, jobs, kept_scores, state
from ctlib.plan import find_data
from ctlib.scales import SCALES, TABLES, root_parameter, rows
from ctlib.train import train


def open_study(out_dir: str | Path, scale: str, overrides: str = "") -> None:
    """Write down in a folder which study it holds, or see that it is this one.

    Raises:
        ValueError: it holds another scale, other overrides, or other built-in data.
    """
    path = Path(out_dir) / "study.json"
    about = {"scale": scale, "overrides": " ".join(sorted(overrides.split()))}
    if SCALES[scale].data == "arrow":
        about["arrow"] = jobs(scale, ["2g"], overrides=overrides)[0].training.made.to_dict()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(path, about)
    there = runs.read_json(path)
    differing = [
        f"{key} {there.get(key)!r} there, {about.get(key)!r} asked for" for key in about if there.get(key) != about[key]
    ]
    if differing:
        raise ValueError(f"{path.parent} holds another study ({'; '.join(differing)}): choose another folder")


def begin(
    out_dir: str | Path, scale: str, overrides: str = "", on_clips: Callable[[int, int], None] | None = None
) -> None:
    """Write the built-in data, if the scale is on them, before several runs want to; and then as `open_study`."""
    (job, *_) = jobs(scale, ["2g"], overrides=overrides)
    if job.training.config.data.name == "arrow":
        find_data(job.training.config, job.training.made, on_clips)
    open_study(out_dir, scale, overrides)


def complete(
    job: Job,
    out_dir: str | Path,
    processes: int = 1,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[dict], None] | None = None,
    on_test: Callable[[int, int], None] | None = None,
    on_clips: Callable[[int, int], None] | None = None,
) -> dict:
    """Train a run, or go on with it, and test it as its rows need; whatever is there already is not done again.

    Args:
        job: of `jobs`.
        out_dir: the study's folder (`open_study`).
        processes, on_step, on_epoch: as in `train.train`.
        on_test: called with the batches of a further test that are done, and their number.
        on_clips: called with how many clips of the built-in data are written, and how many there will be.

    Returns:
        The run's `result.json`.

    Raises:
        ValueError: a folder with another run, or without the checkpoint that a further test needs; and what
            `plan.find_data`, `train.train` and `evaluate.score` raise.
    """
    folder = job.training.folder(out_dir)
    if state(job, out_dir) == "finished":
        return folder.result()
    config, samples = find_data(job.training.config, job.training.made, on_clips)
    result = train(config, folder.path, processes, on_step, on_epoch)
    for test in job.tests:
        if kept_scores(folder, test) is None:
            if not folder.checkpoint.is_file():
                raise ValueError(
                    f"{folder.checkpoint} is not there, and tests need it: delete its folder to train again"
                )
            data = dataclasses.replace(config.data, **{key.removeprefix("data."): value for key, value in test.items()})
            where = folder.path / "scores"
            batch = result["micro_batch"]
            evaluate.score(folder.checkpoint, samples["val"], data, config.compute, "", None, batch, where, on_test)
    runs.write_json(folder.path / "tests.json", {"classes": samples["val"].classes, "tests": job.tests})
    return result


def sweep(
    out_dir: str | Path,
    scale: str = "laptop",
    seeds: Sequence[int] = (0, 1, 2),
    tables: Sequence[str] = TABLES,
    side_by_side: int = 2,
    overrides: str = "",
    roots: dict[str, str] | None = None,
    notebook: str | Path = "notebooks/ablation.ipynb",
    tell: Callable[[str], None] = print,
    on_clips: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Do all that tables need, several runs side by side, each in a notebook of its own; then a notebook a table.

    The first seed of every row comes before the second of any. What is finished is not done again; what fails
    is kept as its executed notebook, and stops nothing else. Ctrl-C (SIGINT, or SIGTERM) stops it: the notebooks are
    told, runs save their states, and the same call goes on. A second one ends it without a word.
    Sweeps on one folder, of one machine or of several that share it, divide the runs: none does what another is at.

    Args:
        out_dir: the study's folder; executed notebooks of runs go to its `notebooks/`, and of tables beside them.
        scale, tables, seeds, overrides, roots: as in `ablation.jobs`.
        side_by_side: how many notebooks run at once.
        notebook: notebooks/ablation.ipynb.
        tell: called with a line for each that ends.
        on_clips: called with how many clips of the built-in data are written, and how many there will be.

    Returns:
        The executed notebooks that failed.

    Raises:
        ValueError: an unknown scale or table, a folder with another study, or real data without its folder;
            FileNotFoundError: no such notebook.
        KeyboardInterrupt: it was stopped.
    """
    if not Path(notebook).is_file():
        raise FileNotFoundError(f"no notebook {notebook}")
    roots = {data: root for data, root in (roots or {}).items() if root}
    todo = jobs(scale, tables, (), seeds, overrides, roots)
    check_roots(todo, roots)
    open_study(out_dir, scale, overrides)
    waiting = [job for job in todo if not _finished(job, out_dir)]
    tell(f"{len(todo)} runs, {len(todo) - len(waiting)} of them finished")
    if waiting:
        begin(out_dir, scale, overrides, on_clips)
    given = {"scale": scale, "overrides": overrides, "out_dir": seen_by_notebooks(out_dir)}
    given |= {root_parameter(data): root for data, root in roots.items()}
    jobs_of = {executed_notebook(job, out_dir): job for job in waiting}
    runs_of = {path: {**given, **notebook_parameters(job, scale)} for path, job in jobs_of.items()}
    shown = {"seeds": " ".join(map(str, seeds)), "train": "False"}
    tables_of = {Path(out_dir) / f"{table}.ipynb": {**given, "table": table, **shown} for table in tables}
    batch = _Batch(Path(notebook), Path(out_dir), side_by_side, tell)
    with batch.stopped_by_signals():
        failed = batch.run(runs_of, "run", lambda path: _finished(jobs_of[path], out_dir))
        return failed + batch.run(tables_of, "table")


def _finished(job: Job, out_dir: str | Path) -> bool:
    """Of a record that is damaged, or of another run, its notebook will say so, and the others go on."""
    try:
        return state(job, out_dir) == "finished"
    except ValueError:
        return False


def seen_by_notebooks(out_dir: str | Path) -> str:
    """The folder as a parameter of notebooks, which take a relative one from the project's root."""
    from_root = Path(out_dir).is_absolute() or Path("notebooks").is_dir()
    return str(out_dir if from_root else Path(out_dir).absolute())


def notebook_parameters(job: Job, scale: str) -> dict[str, str]:
    """What notebooks/ablation.ipynb is given to do a run: a row that needs it and, if there is such a row, no other."""
    alone = [(table, row) for table, row in job.rows if len(rows(table, scale)[row]) == 1]
    table, row = (alone or job.rows)[0]
    return {"table": table, "rows": row, "seeds": str(job.training.config.seed)}


def executed_notebook(job: Job, out_dir: str | Path) -> Path:
    """Where the executed notebook of a run is kept."""
    return Path(out_dir) / "notebooks" / f"{job.training.config.name}_seed{job.training.config.seed}.ipynb"


def command(notebook: Path, executed: Path, parameters: dict[str, str]) -> list[str]:
    """The papermill call. Parameters go in as text: papermill would take a table "6" for a number."""
    given = [word for name, value in parameters.items() for word in ("-p" if name == "train" else "-r", name, value)]
    quiet = ["--kernel", "python3", "--no-progress-bar", "--log-level", "ERROR"]
    return [sys.executable, "-m", "papermill", str(notebook), str(executed), *quiet, *given]


class _Ended(NamedTuple):
    """How a notebook ended; without its time if another sweep does it."""

    said: str
    failed: bool = False
    seconds: float | None = None


class _Batch:
    """Notebooks executed, some side by side, and a line of progress for each."""

    def __init__(self, notebook: Path, out_dir: Path, side_by_side: int, tell: Callable[[str], None]):
        self.notebook, self.side_by_side, self.tell = notebook, side_by_side, tell
        self.locks = out_dir / ".locks"  # which notebooks a sweep is at, this one or another
        self.running: set[subprocess.Popen] = set()
        self.stopping = False

    def run(
        self, notebooks: dict[Path, dict[str, str]], what: str, done: Callable[[Path], bool] | None = None
    ) -> list[str]:
        """Execute them, each once if several sweeps share a folder; returns those that failed.

        Args:
            notebooks: their parameters, by where each is executed to.
            what: what one is called in the lines of progress.
            done: whether one need not be executed any more, and may be left to another sweep that is at it; None: all
                are executed, after what another sweep is doing.
        """
        failed, executed = [], 0
        began = time.monotonic()
        with ThreadPoolExecutor(self.side_by_side) as pool:
            waiting = {pool.submit(self._alone, path, given, done): path for path, given in notebooks.items()}
            for count, future in enumerate(as_completed(waiting), start=1):
                path, ended = waiting[future], future.result()
                if self.stopping:
                    continue
                executed += ended.seconds is not None
                failed += [str(path)] if ended.failed else []
                spent = time.monotonic() - began
                left = timedelta(seconds=round(spent / max(1, executed) * (len(waiting) - count)))
                line = f"{what} {count} of {len(waiting)}  {path.stem}: {ended.said}"
                self.tell(f"{line}  [{len(failed)} failed, about {left} left]")
        if self.stopping:
            raise KeyboardInterrupt("stopped; the same call goes on")
        return failed

    def _alone(self, path: Path, parameters: dict[str, str], done: Callable[[Path], bool] | None) -> _Ended:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.locks.mkdir(exist_ok=True)
        try:
            with FileLock(self.locks / f"{path.stem}.lock", timeout=-1 if done is None else 0):
                if done is not None and done(path):
                    return _Ended("done by another sweep")
                return self._execute(path, parameters)
        except Timeout:
            return _Ended("left to another sweep, which is at it")

    def _execute(self, path: Path, parameters: dict[str, str]) -> _Ended:
        if self.stopping:
            return _Ended("stopped")
        began = time.monotonic()
        # In a session of its own: a Ctrl-C in the terminal reaches it once, from `stopped_by_signals`.
        process = subprocess.Popen(
            command(self.notebook, path, parameters),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.running.add(process)
        if self.stopping:
            process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        self.running.discard(process)
        seconds = time.monotonic() - began
        if process.returncode == 0:
            return _Ended(f"done in {timedelta(seconds=round(seconds))}", False, seconds)
        lines = [line for line in said.splitlines() if line.strip()] or [f"exit status {process.returncode}"]
        return _Ended(f"failed ({lines[-1]}; see {path})", True, seconds)

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """While inside, SIGINT, SIGTERM and a closed terminal end the batch: what runs is asked to stop."""

        def stop(_number, _frame) -> None:
            if not self.stopping:
                self.tell("stopping: runs save their states (again, to end them at once)")
            for process in list(self.running):
                process.send_signal(signal.SIGKILL if self.stopping else signal.SIGINT)
            self.stopping = True

        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # which nohup sets
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
