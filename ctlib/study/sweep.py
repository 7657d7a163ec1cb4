"""The ablations done: a run and its tests, and all runs as a batch of notebooks, two or more side by side."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from ctlib import files
from ctlib.study.jobs import Job, check_roots, jobs, kept_scores, state
from ctlib.study.scales import SCALES, TABLES, root_parameter, rows
from ctlib.training import evaluate
from ctlib.training.machine import Machine
from ctlib.training.run import resolve
from ctlib.training.train import train

_LOOK = 0.5  # seconds between two looks at what another sweep is at


def open_study(out_dir: str | Path, scale: str, overrides: str = "") -> None:
    """Write down in a folder which study it holds, or see that it is this one.

    Raises:
        ValueError: it holds another scale, other overrides, or other built-in data.
    """
    path = Path(out_dir) / "study.json"
    about = {"scale": scale, "overrides": " ".join(sorted(overrides.split()))}
    if SCALES[scale].data == "arrow":
        about["arrow"] = jobs(scale, ["2g"], overrides=overrides)[0].training.config.arrow.to_dict()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, about)
    there = files.read_json(path)
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
        resolve(job.training.config, on_clips=on_clips)
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
            `run.resolve`, `train.train` and `evaluate.score` raise.
    """
    folder = job.training.folder(out_dir)
    if state(job, out_dir) == "finished":
        return folder.result()
    config = dataclasses.replace(job.training.config, rows=job.rows)
    run = resolve(config, Machine(processes), on_clips)
    samples = run.samples
    if not (folder.path / "result.json").is_file():  # what was tested is another network than the one to come
        (folder.path / "tests.json").unlink(missing_ok=True)
        shutil.rmtree(folder.path / "scores", ignore_errors=True)
    result = train(run, folder.path, on_step=on_step, on_epoch=on_epoch)
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
    files.write_json(folder.path / "tests.json", {"classes": samples["val"].classes, "tests": job.tests})
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
    Sweeps on one folder, of one machine or of several that share it, divide the runs: each leaves what another is at
    for the end, and then waits for it.

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
        ValueError: an unknown scale or table, a folder with another study, real data without its folder, or
            `side_by_side` below 1; FileNotFoundError: no such notebook.
        KeyboardInterrupt: it was stopped.
    """
    if not Path(notebook).is_file():
        raise FileNotFoundError(f"no notebook {notebook}")
    if side_by_side < 1:
        raise ValueError(f"side_by_side must be at least 1, got {side_by_side}")
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
    todo_runs = [
        _Todo(
            executed_notebook(job, out_dir),
            {**given, **notebook_parameters(job, scale)},
            partial(_finished, job, out_dir),
            job.training.folder(out_dir).is_locked,
        )
        for job in waiting
    ]
    shown = {"seeds": " ".join(map(str, seeds)), "train": "False"}
    todo_tables = [_Todo(Path(out_dir) / f"{table}.ipynb", {**given, "table": table, **shown}) for table in tables]
    batch = _Batch(Path(notebook), Path(out_dir), side_by_side, tell)
    with batch.stopped_by_signals():
        return batch.run(todo_runs, "run") + batch.run(todo_tables, "table")


def _finished(job: Job, out_dir: str | Path) -> bool:
    """Of a record that is damaged, or of another run, its notebook will say so, and the others go on."""
    try:
        return state(job, out_dir) == "finished"
    except ValueError:
        return False


def seen_by_notebooks(out_dir: str | Path) -> str:
    """The folder as a parameter of notebooks, which take a relative one from the project's root."""
    from_root = Path(out_dir).is_absolute() or files.project_root() == Path.cwd()
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


class _Todo(NamedTuple):
    """A notebook to be executed."""

    path: Path  # where to
    parameters: dict[str, str]
    finished: Callable[[], bool] = lambda: False  # whether it need not be executed any more
    begun: Callable[[], bool] = lambda: False  # whether what it does is being done, by whomever


class _Ended(NamedTuple):
    """How a notebook ended; without its time if it was not executed here."""

    said: str
    failed: bool = False
    seconds: float | None = None


class _Batch:
    """Notebooks executed, some side by side, and a line of progress for each.

    Batches on one folder, in other processes or on other machines, leave to each other what one of them is at, and
    come back to it in the end.
    """

    def __init__(self, notebook: Path, out_dir: Path, side_by_side: int, tell: Callable[[str], None]):
        self.notebook, self.side_by_side, self.tell = notebook, side_by_side, tell
        self.locks = out_dir / ".locks"
        self.locks.mkdir(parents=True, exist_ok=True)
        self.running: set[subprocess.Popen] = set()
        self.stopping = False
        self._guard = threading.RLock()  # a signal may come while its thread holds it

    def run(self, notebooks: Sequence[_Todo], what: str) -> list[str]:
        """Execute them; returns those that failed."""
        failed, left, ended_here, count, began = [], [], 0, 0, time.monotonic()
        for wait, part in ((False, notebooks), (True, left)):
            if wait and left:
                self.tell(f"{len(left)} left to another sweep, which is at them: waiting for it")
            with ThreadPoolExecutor(self.side_by_side) as pool, self._stopped_by_errors():
                waiting = {pool.submit(self._alone, todo, wait): todo for todo in part}
                for future in as_completed(waiting):
                    todo, ended = waiting[future], future.result()
                    if self.stopping:
                        continue
                    if ended is None:
                        left.append(todo)
                        continue
                    count += 1
                    ended_here += ended.seconds is not None
                    failed += [str(todo.path)] if ended.failed else []
                    told = [f"{len(failed)} failed"]
                    if ended_here:
                        seconds = (time.monotonic() - began) / ended_here * (len(notebooks) - count)
                        told.append(f"about {timedelta(seconds=round(seconds))} left")
                    line = f"{what} {count} of {len(notebooks)}  {todo.path.stem}: {ended.said}"
                    self.tell(f"{line}  [{', '.join(told)}]")
            if self.stopping:
                raise KeyboardInterrupt("stopped; the same call goes on")
        return failed

    @contextmanager
    def _stopped_by_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if not self.stopping:
                self.stop()
            raise

    def _alone(self, todo: _Todo, wait: bool) -> _Ended | None:
        lock = FileLock(self.locks / f"{todo.path.stem}.lock")
        while not self.stopping:
            with suppress(Timeout), lock.acquire(timeout=0):
                if todo.finished():
                    return _Ended("done by another sweep")
                if not todo.begun():
                    return self._execute(todo)
            if not wait:
                break
            time.sleep(_LOOK)
        return None

    def _execute(self, todo: _Todo) -> _Ended:
        todo.path.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        # In a session of its own: a Ctrl-C in the terminal reaches it once, from `stop`.
        process = subprocess.Popen(
            command(self.notebook, todo.path, todo.parameters),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        with self._guard:
            self.running.add(process)
            if self.stopping:
                process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        self.running.discard(process)
        seconds = time.monotonic() - began
        if process.returncode == 0:
            return _Ended(f"done in {timedelta(seconds=round(seconds))}", False, seconds)
        lines = [line for line in said.splitlines() if line.strip()] or [f"exit status {process.returncode}"]
        return _Ended(f"failed ({lines[-1]}; see {todo.path})", True, seconds)

    def stop(self) -> None:
        """Have what runs save its state and end, and begin no more; the second time, end it at once."""
        with self._guard:
            number = signal.SIGKILL if self.stopping else signal.SIGINT
            self.stopping = True
            for process in list(self.running):
                process.send_signal(number)

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """While inside, SIGINT, SIGTERM and a closed terminal end the batch: what runs is asked to stop."""

        def stop(_number, _frame) -> None:
            first = not self.stopping
            self.stop()
            if first:
                with suppress(OSError, RuntimeError):  # a terminal that was closed; a line that was being told
                    self.tell("stopping: runs save their states (again, to end them at once)")

        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # which nohup sets
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
