"""Snapshots of an unfinished run on disk, so that a run that was killed resumes and comes to the same end.

Everything random in training is keyed by what it belongs to (seed, epoch, step, video), so a snapshot is weights,
momentum, counters and the history; no random generator is saved. Snapshots are numbered files. Each is written beside
its place and renamed, its name holds a digest of its content, and the one before is kept.
"""

import os
import re
import warnings
from pathlib import Path
from pickle import UnpicklingError

import torch

from ctlib.files import digest
from ctlib.training.records import differences, record_of
from ctlib.training.run import Run

FORMAT = 2

_NAME = re.compile(r"(\d{6})-([0-9a-f]{16})\.pt")


class ResumeError(RuntimeError):
    """A snapshot that cannot be written, or snapshots of which none can be used; the message says why."""


class Snapshots:
    """The snapshots of one run.

    Args:
        folder: where they lie; made with the first one.
        run: a snapshot of another run is refused.
    """

    def __init__(self, folder: str | Path, run: Run):
        self.folder, self.run = Path(folder), run

    def save(self, state: dict) -> None:
        """Write a snapshot: tensors and plain values.

        Raises:
            ResumeError: it cannot be written (a full disk, say); those before are as they were.
        """
        files = self._files()
        number = self._number(files[-1]) + 1 if files else 1
        partial = self.folder / "partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save({"format": FORMAT, "run": record_of(self.run), "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.folder / f"{number:06d}-{digest(partial)}.pt")
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            # torch's writer raises its own error after the one of the system
            reason = error if isinstance(error, OSError) else error.__context__ or error
            left = f"{files[-1].name} before it is whole" if files else "there is none before it"
            raise ResumeError(f"no snapshot can be written to {self.folder} ({reason}); {left}") from error
        for old in files[:-1]:  # the one before this stays, in case this one is damaged
            old.unlink(missing_ok=True)

    def load(self) -> dict | None:
        """The newest snapshot that can be used, its tensors on the CPU; None if there is none at all.

        Warns of each file that cannot be used, and why. Where an older one is used instead, such a file is renamed to
        `*.refused`.

        Raises:
            ResumeError: there are snapshots, and none can be used.
        """
        (self.folder / "partial").unlink(missing_ok=True)  # of a run that was killed while it wrote
        refused = {}
        for path in reversed(self._files()):
            try:
                state = self._read(path)
            except ValueError as error:
                refused[path] = str(error)
                warnings.warn(f"not used: {path} {error}", stacklevel=2)
                continue
            for other in refused:  # else the next snapshot would push out this good one and keep that
                other.rename(other.with_suffix(".refused"))
            return state
        if refused:
            reasons = "; ".join(f"{path.name} {why}" for path, why in refused.items())
            raise ResumeError(
                f"no snapshot in {self.folder} can be used to resume: {reasons}. Delete it to start the run again"
            )
        return None

    def clear(self) -> None:
        """Remove the snapshots, once the run is finished."""
        for path in (*self._files(), self.folder / "partial"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        """The snapshots, the newest last."""
        files = self.folder.glob("*.pt") if self.folder.is_dir() else ()
        return sorted(files, key=lambda path: (self._number(path), path.name))

    @staticmethod
    def _number(path: Path) -> int:
        match = _NAME.fullmatch(path.name)
        return int(match[1]) if match else 0

    def _read(self, path: Path) -> dict:
        match = _NAME.fullmatch(path.name)
        if not match:
            raise ValueError("is not named as a snapshot is")
        if digest(path) != match[2]:
            raise ValueError("is damaged: its content is not what its name says")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
            raise ValueError(f"holds no snapshot ({str(error).splitlines()[0][:120]})") from None
        if not isinstance(content, dict) or content.keys() != {"format", "run", "state"}:
            raise ValueError("holds something else than a snapshot")
        if content["format"] != FORMAT:
            raise ValueError(f"has format {content['format']}, this version of ctlib reads {FORMAT}")
        other = differences(content["run"], self.run)
        if other:
            raise ValueError(f"is of another run: {'; '.join(other)}")
        return content["state"]
