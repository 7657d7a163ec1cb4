"""The snapshots of an unfinished run, from which it resumes after a kill and comes to the same end.

Random numbers derive from seed, epoch, step and video. So a snapshot is weights, momentum, counters and the history,
without the state of a generator. It is a torch file, named by a number and a digest of its content.
"""

import os
import re
import warnings
from pathlib import Path

import torch

from ctlib.files import OneLineError, digest, one_line
from ctlib.training import records
from ctlib.training.run import Run
from ctlib.weights.tensors import load_torch

_SNAPSHOT_FORMAT = 2
_SNAPSHOT_NAME = re.compile(r"(\d{6})-([0-9a-f]{16})\.pt")


class SnapshotError(OneLineError, RuntimeError):
    """A snapshot that cannot be written, or none that can be used; the message says why."""


class Snapshots:
    """The snapshots of one unfinished run. A file is written whole, then named; the one before is kept.

    Args:
        folder: where they lie; made with the first one.
        run: a snapshot of another run is refused.
    """

    def __init__(self, folder: str | Path, run: Run):
        self.folder, self.run = Path(folder), run

    def save(self, state: dict) -> None:
        """Write a snapshot: tensors and plain values.

        Raises:
            SnapshotError: it cannot be written (a full disk, say); those before are as they were.
        """
        earlier = self._files()
        number = int(_SNAPSHOT_NAME.fullmatch(earlier[-1].name)[1]) + 1 if earlier else 1
        partial = self.folder / "partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save({"format": _SNAPSHOT_FORMAT, "run": records.record_of(self.run), "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            # Not `write_atomically`, as the name holds the digest.
            os.replace(partial, self.folder / f"{number:06d}-{digest(partial)}.pt")
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            # torch's writer raises its own error after the one of the system
            reason = error if isinstance(error, OSError) else error.__context__ or error
            left = f"the one before it, {earlier[-1].name}, is kept" if earlier else "there is none before it"
            raise SnapshotError(f"no snapshot can be written to {self.folder} ({reason}); {left}") from error
        for old in earlier[:-1]:  # the one before this stays, in case this one is damaged
            old.unlink(missing_ok=True)

    def load(self) -> dict | None:
        """The newest snapshot that can be used, its tensors on the CPU; None if there is none at all.

        Warns of each file that cannot be used, and why. Where an older one is used instead, such a file is renamed to
        `*.refused`.

        Raises:
            SnapshotError: there are snapshots, and none can be used.
        """
        (self.folder / "partial").unlink(missing_ok=True)  # of a run that was killed while it wrote
        snapshots = self._files()
        others = sorted(set(self.folder.glob("*.pt")) - set(snapshots))
        refused = {}
        for path in (*reversed(snapshots), *others):
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
            raise SnapshotError(
                f"no snapshot in {self.folder} can be used to resume: {reasons}. "
                "Delete that folder to start the run again"
            )
        return None

    def clear(self) -> None:
        """Remove the snapshots, once the run is finished."""
        for path in (*self._files(), self.folder / "partial"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        """The snapshots, the newest last; not what else lies in the folder."""
        return sorted(path for path in self.folder.glob("*.pt") if _SNAPSHOT_NAME.fullmatch(path.name))

    def _read(self, path: Path) -> dict:
        match = _SNAPSHOT_NAME.fullmatch(path.name)
        if not match:
            raise ValueError("is not named as a snapshot is")
        if digest(path) != match[2]:
            raise ValueError("is damaged: its content is not what its name says")
        try:
            content = load_torch(path)
        except ValueError as error:
            raise ValueError(f"holds no snapshot ({error})") from None
        if not isinstance(content, dict) or content.keys() != {"format", "run", "state"}:
            raise ValueError("holds something else than a snapshot")
        if content["format"] != _SNAPSHOT_FORMAT:
            raise ValueError(f"has format {content['format']}, this version of ctlib reads {_SNAPSHOT_FORMAT}")
        other = records.differences(content["run"], self.run)
        if other:
            raise ValueError(f"is of another run: {one_line('; '.join(other), 300)}")
        return content["state"]
