"""A run's record on disk, and all records as one table.

A run's folder holds

- `config.json`: what was asked, and what `run.resolve` answered,
- `history.csv`: one line per epoch; `top1` and `top5` are empty where the epoch was not tested,
- `predictions.csv`: one line per test video,
- `checkpoint.safetensors`,
- `result.json`, written last,
- `snapshots/`, from which an unfinished run resumes.

Each file is written beside its place and renamed.
"""

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch
from pandas.api.types import is_integer_dtype
from torch import nn

from ctlib import checkpoints
from ctlib.config import ComputeConfig, RunConfig, as_tuples, check_type, flat
from ctlib.cost import hardware
from ctlib.data.views import View
from ctlib.files import (
    check_writable,
    locked,
    one_line,
    portable,
    quoted,
    read_csv,
    read_json,
    remove_partials,
    version,
    write_csv,
    write_json,
)
from ctlib.training.run import Run
from ctlib.weights.hub import is_shared

CHECKPOINT = "checkpoint.safetensors"
# What a checkpoint remembers of its run's result: all that a reader of an accuracy needs, and nothing that differs from
# one execution to the next.
IN_CHECKPOINT = (
    "model",
    "data",
    "fingerprint",
    "train_videos",
    "train_skipped",
    "videos",
    "skipped",
    "sampling",
    "flip",
)
IN_CHECKPOINT += ("num_frames", "size", "short_side", "clips", "crops", "averaged", "seed", "epochs", "batch")
IN_CHECKPOINT += ("precision", "top1", "top5", "gflops", "params", "commit")


def remembered(result: dict, config: RunConfig) -> dict:
    """What a checkpoint remembers of its run: `IN_CHECKPOINT`, and where they were given, "start" and "val_share"."""
    asked = {"start": config.start and portable(Path(config.start)), "val_share": config.data.val_share}
    return {name: result[name] for name in IN_CHECKPOINT} | {name: value for name, value in asked.items() if value}


class RunFolder:
    """The folder of one run. It is finished when `result.json` exists."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def of(cls, config: RunConfig, out_dir: str | Path) -> "RunFolder":
        """Where a run lies in a study's folder: `<name>/seed<k>`."""
        return cls(Path(out_dir) / config.name / f"seed{config.seed}")

    @property
    def checkpoint(self) -> Path:
        """The trained network; in an earlier format where an earlier version has finished the run."""
        return checkpoints.existing(self.path / CHECKPOINT)

    def save_checkpoint(
        self, model: nn.Module, classes: Sequence[str], view: View | None = None, record: dict | None = None
    ) -> None:
        checkpoints.save(self.path / CHECKPOINT, model, classes, view, record)
        (self.path / "checkpoint.pt").unlink(missing_ok=True)  # of an earlier training here

    @property
    def snapshots(self) -> Path:
        """Where an unfinished run keeps the snapshots from which it resumes (`snapshots.Snapshots`)."""
        return self.path / "snapshots"

    def is_finished(self, run: Run | RunConfig) -> bool:
        """Whether this run has been run to its end here.

        Raises:
            ValueError: the folder holds another run, finished or with snapshots; what differs is named.
        """
        finished = (self.path / "result.json").exists()
        if not finished and not self._has_snapshots():
            return False
        differing = self.differences(run)
        if differing:
            raise ValueError(
                f"{self.path} holds {'a' if finished else 'an unfinished'} run with other parameters "
                f"({differing}): delete it, or choose another name or folder"
            )
        return finished

    def begun_as(self, run: Run) -> dict:
        """The precision and micro-batch that an unfinished run was begun with here, where `run` was not asked for one.

        A run that resumes on another machine keeps them.
        """
        if not self._has_snapshots():
            return {}
        begun, compute = self.record()["resolved"], run.config.compute
        return {name: begun[name] for name, unset in _OPEN.items() if getattr(compute, name) == unset}

    def _has_snapshots(self) -> bool:
        return any(self.snapshots.glob("*.pt")) or any((self.path / "resume").glob("*.pt"))  # the second: earlier ones

    def is_locked(self) -> bool:
        """Whether a process writes to the folder (`files.locked`) at this moment."""
        if not self.path.is_dir():
            return False
        try:
            with locked(self.path, timeout=0):
                return False
        except ValueError:
            return True

    def start(self, run: Run) -> None:
        """Write down what is about to run, and remove the partial files of a run that was killed."""
        self.path.mkdir(parents=True, exist_ok=True)
        remove_partials(self.path)
        write_json(self.path / "config.json", record_of(run))

    def check_writable(self) -> None:
        """Raise OSError if this run cannot be written here; a finished one is only read."""
        if not (self.path / "result.json").exists():
            check_writable(self.path)

    def check_room(self, weights: int) -> None:
        """Refuse a run whose states the disk cannot hold, before its first step.

        A snapshot holds weights and momentum. There are two of them and one being written, and at last a checkpoint.

        Args:
            weights: bytes of the network's weights.

        Raises:
            ValueError: less space is free; both numbers are named.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in (self.checkpoint, *self.snapshots.glob("*.pt")) if path.is_file())
        needed, free = 7 * weights - there, shutil.disk_usage(self.path).free
        if needed > free:
            raise ValueError(
                f"{self.path} has {free / 1e6:,.0f} MB free, and the run's snapshots and checkpoint need "
                f"{needed / 1e6:,.0f} MB: make room, or choose another folder"
            )

    def write_history(self, rows: list[dict]) -> None:
        write_csv(self.path / "history.csv", pd.DataFrame(rows, columns=None if rows else _HISTORY))

    def finish(self, result: dict, predictions: pd.DataFrame) -> None:
        """Write the result; after this the run counts as finished."""
        write_csv(self.path / "predictions.csv", predictions)
        write_json(self.path / "result.json", result)

    def add_rows(self, rows: Iterable[tuple[str, str]]) -> dict:
        """Note further rows of the paper's tables that a finished run serves; returns its result."""
        result = self.result(["rows"])
        further = [list(row) for row in rows if list(row) not in result["rows"]]
        if further:
            result["rows"] += further
            write_json(self.path / "result.json", result)
        return result

    def record(self) -> dict:
        """`config.json`: "asked", as `RunConfig.to_dict` gives it, and "resolved", as `Run.resolved_values` does.

        Raises:
            ValueError: a record that is damaged or of an earlier version, or a shared folder; it is named.
        """
        path = self.path / "config.json"
        if not path.is_file():
            raise ValueError(f"{self.path} holds no config.json, and so no run")
        content = read_json(path)
        if is_shared(content):
            raise ValueError(f"{self.path} is a shared network, not a run: name the folder of its run")
        if "model" in content:
            raise ValueError(f"{path} was written by an earlier version of ctlib: train again under another name")
        content = read_json(path, ("asked", "resolved"))
        asked, resolved = content["asked"], content["resolved"]
        if not isinstance(asked, dict) or not isinstance(resolved, dict):
            raise ValueError(f"{path} is damaged: asked and resolved must hold keys")
        if lacking := [name for name in (*_OPEN, *_ANSWERS) if name not in resolved]:
            raise ValueError(f"{path} is damaged: resolved lacks {', '.join(lacking)}")
        try:
            ComputeConfig(micro_batch=resolved["micro_batch"], precision=resolved["precision"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {one_line(error, 300)}") from None
        return content

    def differences(self, wanted: Run | RunConfig) -> str:
        """In which parameters another run is asked for than lies here, in words; empty if it is the same."""
        record = self.record()
        try:
            return one_line("; ".join(differences(record, wanted)), 300)
        except ValueError as error:
            raise ValueError(f"{self.path / 'config.json'}: {one_line(error, 300)}") from None

    def config(self) -> RunConfig:
        """What was asked. Raises ValueError as `record` does, and for keys that this version does not know."""
        asked = self.record()["asked"]
        if isinstance(asked.get("compute"), dict):
            asked["compute"].pop("tensorboard", None)  # of an earlier version, which had no other tracker
        try:
            return RunConfig.from_dict(asked)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path / 'config.json'}: {one_line(error, 300)}") from None

    def result(self, needed: Iterable[str] = ()) -> dict:
        """What came out.

        Raises:
            ValueError: a damaged record, or one that lacks what is needed; it is named.
        """
        result = read_json(self.path / "result.json", needed)
        try:
            check_type("rows", as_tuples(result.get("rows", [])), tuple[tuple[str, str], ...])
        except TypeError as error:
            raise ValueError(f"{self.path / 'result.json'} is damaged: {one_line(error)}") from None
        for name in _NUMBERS & result.keys():
            value = result[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
                raise ValueError(
                    f"{self.path / 'result.json'} is damaged: {name} must be a finite number, got {quoted(value)}"
                )
        return result

    def history(self) -> pd.DataFrame:
        """One row per epoch, as `Trainer.end_epoch` makes it. Raises ValueError if the file is damaged."""
        return read_csv(self.path / "history.csv", ("epoch",), _HISTORY)

    def predictions(self) -> pd.DataFrame:
        """One row per test video: source, label, predicted, confidence (a probability).

        Raises:
            ValueError: the file is damaged; it is named.
        """
        path = self.path / "predictions.csv"
        # A name may be a number, or "NA", and need not be UTF-8.
        names = {"dtype": {"source": object}, "keep_default_na": False, "encoding_errors": "surrogateescape"}
        numbers = ("label", "predicted", "confidence")
        table = read_csv(path, numbers, **names, na_values={"confidence": [""]})
        if "source" not in table or not all(map(is_integer_dtype, (table.label, table.predicted))):
            raise ValueError(f"{path} is damaged: it needs the column source, and whole numbers as label and predicted")
        return table


# What must be a number in a result, and in a history.
_NUMBERS = {"seed", "epochs", "num_frames", "size", "clips", "crops", "videos", "listed", "skipped", "batch"}
_NUMBERS |= {"top1", "top5", "gflops", "params", "seconds", "micro_batch", "processes", "train_videos", "train_skipped"}
_HISTORY = ("epoch", "lr", "loss", "train_top1", "skipped", "top1", "top5", "seconds", "clips_per_second")


def record_of(run: Run) -> dict:
    return {"asked": run.config.to_dict(), "resolved": run.resolved_values()}


# What changes no result beyond rounding. Digests identify files, wherever they lie. The history counts unreadable
# videos. The lists' own number of classes is compared.
_NOT_COMPARED = {"data.root", "data.lists", "data.checked", "data.workers", "data.on_error", "data.max_skipped"}
_NOT_COMPARED |= {"data.cache", "start", "rows", "model.num_classes"}
_NOT_COMPARED |= {f"compute.{part}" for part in ("device", "threads", "channels_last", "compile", "kernels", "graph")}
_NOT_COMPARED |= {f"compute.{part}" for part in ("recompute", "save_minutes", "tracker", "tensorboard")}
# What of `ComputeConfig` may be left open, and how: the machine, or the run that was begun, then says it.
_OPEN = {"micro_batch": None, "precision": "auto"}
_ANSWERS = ("num_classes", "fingerprint", "start_digest")  # compared where both are resolved


def differences(record: dict, wanted: Run | RunConfig) -> list[str]:
    """In which parameters another run is asked for than is recorded, in words; none if it is the same.

    Args:
        record: of `RunFolder.record`.
        wanted: of a `RunConfig` only what it asks is compared, not the lists and the start.
    """
    config = wanted if isinstance(wanted, RunConfig) else wanted.config
    stored, asked = dict(flat(record["asked"])), dict(flat(config.to_dict()))
    stored |= {f"compute.{name}": record["resolved"][name] for name in _OPEN}
    unlike = (stored.keys() ^ asked.keys()) - _NOT_COMPARED
    if unlike:
        raise ValueError(f"a record of another version of ctlib: it differs in the parameters {', '.join(unlike)}")
    left_open = {f"compute.{name}" for name, unset in _OPEN.items() if getattr(config.compute, name) == unset}
    compared = stored.keys() - _NOT_COMPARED - left_open
    if config.data.name != "arrow" or asked["data.root"] or stored.get("data.root"):  # not written for the run
        compared = {name for name in compared if not name.startswith("arrow.")}
    if isinstance(wanted, Run):
        answers = wanted.resolved_values()
        stored |= {name: record["resolved"][name] for name in _ANSWERS}
        asked |= {name: answers[name] for name in _ANSWERS}
        compared = compared | set(_ANSWERS)
    return [
        f"{name} is {stored[name]!r} in the record, {asked[name]!r} was asked for"
        for name in sorted(compared)
        if stored[name] != asked[name]
    ]


def config_digest(asked: dict) -> str:
    """12 hex digits of what was asked of a run, except what changes its result by no more than rounding."""
    compared = {name: value for name, value in flat(asked) if name not in _NOT_COMPARED - {"start"}}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:12]


_COLUMNS = ["name", "model", "data", "top1", "top5", "gflops", "params", "num_frames", "size", "clips", "crops"]
_COLUMNS += ["seed", "epochs", "seconds", "folder"]


def load(folder: str | Path) -> pd.DataFrame:
    """All finished runs below a folder, one row per run, ordered by path.

    The columns are the keys of `result.json`, and `folder`. Accuracies are in percent, `gflops` is of one view. Each
    setting of the run has a column too, such as `model.dims` and `recipe.lr`, with the values that were used.

    Raises:
        FileNotFoundError: the folder does not exist; ValueError: a damaged record, or one of an earlier version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to read runs from")
    rows = []
    for path in sorted(folder.rglob("result.json")):
        result = RunFolder(path.parent).result()
        if "rows" not in result:
            raise ValueError(f"{path} was written by an earlier version of ctlib: train again under another name")
        record = RunFolder(path.parent).record()
        used = {"model.num_classes": record["resolved"]["num_classes"]}
        used |= {f"compute.{name}": record["resolved"][name] for name in _OPEN}
        settings = {key: value for key, value in flat(record["asked"]) if "." in key}
        rows.append({**result, "folder": str(path.parent), **settings, **used})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=_COLUMNS)


def provenance(device: torch.device) -> dict:
    """Versions, hardware, peak memory (MB, of the GPU or else of this process) and the commit of a run on `device`."""
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if cuda else _peak_of_process()
    packages = ("torch", "torchvision", "numpy", "accelerate")
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
