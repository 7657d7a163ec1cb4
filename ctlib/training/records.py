"""A run's record on disk, and all records back as one table.

A run folder holds `config.json` (every parameter), `history.csv` (a line an epoch),
`predictions.csv` (a line a test video), `checkpoint.pt` and, written last, `result.json`; while the
run is under way also `resume/`, the states from which it goes on. Each file is written beside its
place and renamed, so none is ever half there.
"""

import dataclasses
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock, Timeout

from ctlib.config import RunConfig
from ctlib.cost import hardware
from ctlib.files import read_json, write_csv, write_json


class RunFolder:
    """The folder of one run. It is finished when `result.json` is there."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def of(cls, config: RunConfig, out_dir: str | Path) -> "RunFolder":
        """Where a run lies in a study's folder: `<name>/seed<k>`."""
        return cls(Path(out_dir) / config.name / f"seed{config.seed}")

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def states(self) -> Path:
        """Where an unfinished run keeps the states from which it goes on (`resume.SavedStates`)."""
        return self.path / "resume"

    def is_finished(self, config: RunConfig) -> bool:
        """Whether the run that `config` describes has been run to its end here.

        Raises:
            ValueError: the folder holds a run with other parameters, which are named: a finished one, or one
                with states from which it can go on.
        """
        finished = (self.path / "result.json").exists()
        if not finished and not self._has_states():
            return False
        differing = differences(self.config(), config)
        if differing:
            raise ValueError(
                f"{self.path} holds {'a' if finished else 'an unfinished'} run with other parameters "
                f"({'; '.join(differing)}): delete it, or choose another folder"
            )
        return finished

    def as_begun(self, config: RunConfig) -> RunConfig:
        """The run with what it leaves open (precision, micro-batch) answered as when it was begun here, if it was."""
        if not self._has_states():
            return config
        begun = self.config().compute
        answered = {
            name: getattr(begun, name) for name, open_ in _OPEN.items() if getattr(config.compute, name) == open_
        }
        return dataclasses.replace(config, compute=dataclasses.replace(config.compute, **answered))

    def _has_states(self) -> bool:
        return any(self.states.glob("*.pt"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder while a run writes to it.

        Raises:
            ValueError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self._lock()
        try:
            lock.acquire(timeout=1)  # longer than `is_locked` holds it
        except Timeout:
            raise ValueError(f"another process is training in {self.path} (it holds {lock.lock_file})") from None
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process writes to the folder (`locked`) at this moment."""
        if not self.path.is_dir():
            return False
        try:
            with self._lock().acquire(timeout=0):
                return False
        except Timeout:
            return True

    def _lock(self) -> FileLock:
        return FileLock(self.path / ".lock")

    def start(self, config: RunConfig) -> None:
        """Write down what is about to run, and remove what a run that was killed left half written."""
        self.path.mkdir(parents=True, exist_ok=True)
        for partial in self.path.glob(".*.[0-9]*"):
            partial.unlink()
        write_json(self.path / "config.json", config.to_dict())

    def write_history(self, rows: list[dict]) -> None:
        write_csv(self.path / "history.csv", pd.DataFrame(rows))

    def finish(self, result: dict, predictions: pd.DataFrame) -> None:
        """Write what came out; after this the run counts as finished."""
        write_csv(self.path / "predictions.csv", predictions)
        write_json(self.path / "result.json", result)

    def config(self) -> RunConfig:
        """Every parameter of the run.

        Raises:
            ValueError: a record that is damaged, or of another version of this package; it is named.
        """
        path = self.path / "config.json"
        if not path.is_file():
            raise ValueError(f"{self.path} holds no config.json, and so no run that can be told")
        try:
            return RunConfig.from_dict(read_json(path))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not of this version of ctlib: {error}") from None

    def result(self, needed: Iterable[str] = ()) -> dict:
        """What came out.

        Raises:
            ValueError: a damaged record, or one that lacks what is needed; it is named.
        """
        return read_json(self.path / "result.json", needed)

    def history(self) -> pd.DataFrame:
        return pd.read_csv(self.path / "history.csv")

    def predictions(self) -> pd.DataFrame:
        """A row a test video: source, label, predicted, confidence (a probability)."""
        return pd.read_csv(self.path / "predictions.csv")


# What changes nothing that comes out, beyond rounding: where files lie (digests tell what they are), which processes
# read them, how the arithmetic is carried out, how often the state is saved; and what happens to unreadable videos,
# which the history counts.
_NOT_COMPARED = {
    "data.root",
    "data.lists",
    "data.checked",
    "data.workers",
    "data.on_error",
    "data.max_skipped",
    "start",
}
_NOT_COMPARED |= {
    f"compute.{part}"
    for part in ("device", "threads", "channels_last", "compile", "recompute", "save_minutes", "tensorboard")
}
# What of `ComputeConfig` may be left open, and how: it is then as the machine, or the run that was begun, has it.
_OPEN = {"micro_batch": None, "precision": "auto"}


def differences(stored: RunConfig, wanted: RunConfig) -> list[str]:
    """In which parameters another run is asked for than is stored, in words; none if it is the same."""
    there, asked = (dict(_flat(config.to_dict())) for config in (stored, wanted))
    left_open = {f"compute.{name}" for name, open_ in _OPEN.items() if getattr(wanted.compute, name) == open_}
    return [
        f"{name} {there[name]!r} there, {asked[name]!r} asked for"
        for name in sorted(there.keys() - _NOT_COMPARED - left_open)
        if there[name] != asked[name]
    ]


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def load(folder: str | Path) -> pd.DataFrame:
    """All finished runs below a folder, a row a run, ordered by path.

    Columns, among others: name, model, data, top1 and top5 (percent), gflops (of one view), params (a
    count), num_frames, size, clips, crops, seed, epochs, seconds, and `folder`.

    Raises:
        FileNotFoundError: the folder is not there; ValueError: a damaged record.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to read runs from")
    rows = [{**read_json(path), "folder": str(path.parent)} for path in sorted(folder.rglob("result.json"))]
    columns = [
        "name",
        "model",
        "data",
        "top1",
        "top5",
        "gflops",
        "params",
        "num_frames",
        "size",
        "clips",
        "crops",
        "seed",
        "epochs",
        "seconds",
        "folder",
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def provenance(device: torch.device) -> dict:
    """Versions, hardware, peak memory (MB, of the GPU or else of this process) and the commit of a run on `device`."""
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if cuda else _peak_of_process()
    packages = ("torch", "torchvision", "numpy", "accelerate", "torchmetrics")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "hardware": hardware(device),
        "device": device.type,
        "peak_memory_mb": round(peak / 1e6),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str:
    """The git commit, with "+changes" when this package differs from it, or "unknown" outside git."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parents[1]
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uno", "--", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _peak_of_process() -> int:
    """The most memory that this process has held, in bytes."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kilobytes, but on a Mac bytes
