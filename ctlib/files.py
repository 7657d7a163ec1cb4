"""Files: written beside their place and renamed, read with a clear error, digests, locks, and versions of packages."""

import fnmatch
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import pandas as pd


def project_root() -> Path:
    """The nearest folder upwards from the working folder that has `notebooks/` and no `study.json`; else that folder.

    A study of the ablations has a `notebooks/` of its own.
    """
    here = Path.cwd()
    own = (folder for folder in (here, *here.parents) if (folder / "notebooks").is_dir())
    return next((folder for folder in own if not (folder / "study.json").exists()), here)


def cache_dir() -> Path:
    """Where data are kept that can be made again: `$CTLIB_CACHE`, or `~/.cache/ctlib`."""
    return Path(os.environ.get("CTLIB_CACHE") or Path.home() / ".cache" / "ctlib")


def portable(path: Path) -> str:
    """A path below the home folder with `~` for it, so that records read the same on every machine."""
    return f"~/{path.relative_to(Path.home()).as_posix()}" if path.is_relative_to(Path.home()) else str(path)


def split_words(text: str, exists: Callable[[str], bool]) -> list[str]:
    """Words between spaces, such as paths; one that holds a space is quoted as in a POSIX shell.

    If the text as a whole exists, or all its words as they stand, these are meant: an apostrophe needs no quotes.
    """
    plain = text.split()
    readings = [[text.strip()], plain] if plain else [[]]
    with suppress(ValueError):  # a quote that does not end
        readings.append(shlex.split(text))
    return next((words for words in readings if all(map(exists, words))), readings[-1])


def matches(patterns: Iterable[str], root: str | Path = "") -> list[str]:
    """The paths below `root` that match one of several patterns, in order; `**` matches any folders.

    Brackets are read as they stand. If nothing matches then, `[01]` is one of these characters.
    """
    for read in (lambda pattern: pattern.replace("[", "[[]"), str):
        below = (glob.glob(read(pattern), root_dir=root or None, recursive=True) for pattern in patterns)
        if found := {os.path.join(root, match) for some in below for match in some}:
            return sorted(found)
    return []


def quoted(value, most: int = 80) -> str:
    """A value as an error message quotes it: its `repr`, cut after `most` characters."""
    start = value[: most + 1] if isinstance(value, str) else value  # a line may have 100 MB
    text = repr(start)
    return text if len(text) <= most + 2 else f"{text[:most]}..."


class OneLineError:
    """A base of errors whose message says all: Jupyter and papermill show that one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def one_line(text: object, most: int = 160) -> str:
    """A text as one line without control characters, cut to so many characters: for a message that quotes it."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text)[: 4 * most])
    line = " ".join(line.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def unbroken(text: str) -> str:
    """A text, such as a path, with spaces for its line ends."""
    return " ".join(text.splitlines())


def quoted_all(values: Sequence, most: int = 5) -> str:
    """The first values, `quoted`, and how many more there are."""
    shown = ", ".join(quoted(value, 40) for value in values[:most])
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a file beside `path`, then rename it: `path` is whole or as it was.

    What killed writers of `path` left is removed.

    Raises:
        OSError: what `write` raises; if it names no file, or that beside `path`, an equal one that names `path`.
    """
    for left, name in partials(path.parent):
        if name == path.name:
            with suppress(OSError, ImportError), left.open("rb+") as file:
                _hold(file)
                left.unlink()
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            with suppress(OSError, ImportError):
                _hold(file)  # so that no other writer takes it for one that was left
            write(partial)
            os.fsync(file.fileno())  # else a machine that loses power may keep the name and lose the content
        os.replace(partial, path)
    except OSError as error:
        if error.errno and (not error.filename or partial.name in str(error.filename)):  # as of a full disk
            # OSError itself makes the class of the number. PyAV's errors cannot be given a name.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):  # the error above says what went wrong
            partial.unlink(missing_ok=True)


def _hold(file: IO) -> None:
    """Lock a file for as long as it is open; OSError: another process holds it, or its file system has no locks."""
    import fcntl  # which Windows lacks

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_writable(folder: Path) -> None:
    """Raise OSError, in one line, if a folder cannot be made or written to; nothing is made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{folder} cannot be made: {existing} is no folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written: {existing} is read-only for this user")


@contextmanager
def whole_folder(root: Path) -> Iterator[Path]:
    """Give a folder beside `root` to fill, then rename it: `root` is whole or does not exist.

    Of several writers of a folder one writes, and the others wait for it. What killed ones left is removed.

    Raises:
        FileExistsError: `root` exists, perhaps by now.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with writing(root):
        if root.exists():
            raise FileExistsError(f"{root} exists already: delete it or choose another folder")
        remove_partials(root.parent, glob.escape(root.name))
        partial = _partial(root)
        partial.mkdir()
        try:
            yield partial
            os.rename(partial, root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _partial(path: Path) -> Path:
    # Folders may be shared by machines, whose process ids may be alike.
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")


def remove_partials(folder: Path, names: str = "*") -> None:
    """Remove what killed writers of these names left; who calls this holds the lock on them.

    Args:
        names: of the files and folders that they wrote; `*` matches anything.
    """
    for partial, name in partials(folder):
        if fnmatch.fnmatchcase(name, names):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)


def remove_abandoned(folder: Path, names: str) -> None:
    """Remove what killed writers of these names left, except where a writer is at work (`writing`)."""
    for name in {name for _, name in partials(folder) if fnmatch.fnmatchcase(name, names)}:
        with suppress(OSError), writing(folder / name, timeout=0):
            remove_partials(folder, glob.escape(name))


def partials(folder: Path) -> list[tuple[Path, str]]:
    """The partial files and folders in a folder, and the names that they would have got."""
    named = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}")
    return [(path, match[1]) for path in folder.glob(".*") if (match := named.fullmatch(path.name))]


@contextmanager
def writing(path: Path, timeout: float = -1) -> Iterator[None]:
    """Be the only process that writes a file or folder, by a lock in a hidden file beside it.

    Args:
        path: what is written; equal names with other suffixes are locked with it.
        timeout: seconds to wait for another process; -1: for as long as it takes.

    Raises:
        TimeoutError: another process is still writing it.
    """
    lock = FileLock(path.with_name(f".{path.stem}.lock"))
    with lock.acquire(timeout=timeout):
        try:
            yield
        finally:
            with suppress(OSError):
                os.unlink(lock.lock_file)  # who waits for it notices, and makes another


def read_json(path: Path, needed: Iterable[str] = ()) -> dict:
    """What `write_json` wrote.

    Raises:
        ValueError: a file that is damaged, or lacks what is needed; it is named.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds {type(content).__name__} and no keys")
    lacking = [key for key in needed if key not in content]
    if lacking:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(lacking)}")
    return content


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: dict) -> None:
    write_atomically(path, lambda partial: partial.write_text(json.dumps(value, indent=2) + "\n"))


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    text = table.to_csv(index=False, lineterminator="\n")
    # A file name need not be UTF-8: it is kept byte for byte.
    write_atomically(path, lambda partial: partial.write_bytes(text.encode("utf-8", "surrogateescape")))


def read_csv(path: Path, known: Sequence[str], numbers: Iterable[str] = (), **options) -> "pd.DataFrame":
    """A table that `write_csv` wrote.

    Args:
        path: the file.
        known: columns that must be there, with a number in every row.
        numbers: columns that hold numbers, or nothing, where they are there.
        options: of `pandas.read_csv`.

    Raises:
        ValueError: a file that is damaged; it is named, and the row.
    """
    import numpy as np
    import pandas as pd

    try:
        table = pd.read_csv(path, **options)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from None
    if lacking := [name for name in known if name not in table]:
        raise ValueError(f"{path} is damaged: it lacks the columns {', '.join(lacking)}")
    for name in (name for name in dict.fromkeys((*known, *numbers)) if name in table):
        try:
            values = pd.to_numeric(table[name], errors="coerce")
        except OverflowError as error:
            raise ValueError(f"{path} is damaged: {name} must be numbers ({one_line(error)})") from None
        wrong = ~np.isfinite(values) & (table[name].notna() | (name in known))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"{path} is damaged: row {row + 1}, {name} must be a number, got {quoted(table[name].tolist()[row])}"
            )
    return table


def stamp(source: str | Path) -> tuple[int, int]:
    """Bytes, and nanoseconds of the last change, of a file or of a folder with its files; zeros if it is not there."""
    try:
        of_all = [os.stat(source)]
        if os.path.isdir(source):
            with os.scandir(source) as entries:
                of_all += [entry.stat() for entry in entries]
    except OSError:
        return 0, 0
    return sum(status.st_size for status in of_all), max(status.st_mtime_ns for status in of_all)


def digest(path: str | Path) -> str:
    """16 hex digits of a file's content (SHA-256)."""
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@contextmanager
def locked(folder: Path, timeout: float = 1.0) -> Iterator[None]:
    """Hold a folder, which is made if needed, while this process writes to it; wait up to `timeout` seconds for it.

    Raises:
        ValueError: another process holds it.
        OSError: it cannot be made or written to.
    """
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise ValueError(f"another process is writing to {folder} (it holds {lock.lock_file})") from None
    try:
        yield
    finally:
        lock.release()


def version(package: str) -> str:
    """The version of an installed package; "unknown" for one that is imported from a source tree and not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
