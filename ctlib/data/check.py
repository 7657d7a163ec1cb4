"""Which videos of a data set can be read completely: each is decoded once, in a worker process, under a time limit.

Two files keep the results: `good.csv` (path, frames) and `bad.csv` (path, reason), each with the bytes and the time of
change of what was checked. They grow by one row per video, so a killed check resumes where it was. Paths are below the
data set's root, with forward slashes. No video is ever changed.
"""

import csv
import errno
import io
import itertools
import math
import os
import re
import signal
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pebble import ProcessExpired, ProcessPool

from ctlib import files
from ctlib.config import check_choice
from ctlib.data import video
from ctlib.files import quoted

GOOD, BAD = "good.csv", "bad.csv"
COLUMNS = {GOOD: ("path", "frames", "bytes", "modified"), BAD: ("path", "reason", "bytes", "modified")}
OPTIONAL = 2  # of these columns, the last ones, which earlier checks did not keep
MISSING = "missing"


class Summary(NamedTuple):
    """The result for a list of videos."""

    checked: int  # videos checked by this call; the rest were checked earlier
    listed: int
    good: int
    bad: dict[str, int]  # videos per reason, the most frequent first


def count_by_decoding(source: str) -> int:
    """The number of frames of a video, each of them decoded.

    Raises:
        video.VideoError: the video cannot be read.
    """
    return sum(1 for _ in video.iterate_frames(source))


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def check(
    samples: Sequence,
    folder: str | Path,
    workers: int = 2,
    limit_seconds: float = 120.0,
    on_done: Callable[[int, int], None] = silent,
    again: str = "none",
    decode: Callable[[str], int] = count_by_decoding,
) -> Summary:
    """Check every video of a list that has no result in `folder` yet, or has changed since.

    A good video decodes from the first frame to the last, the way training reads it, and is as long as its container
    states and its annotation lists. Otherwise the reason begins with one of: missing, unreadable, no video stream,
    fewer frames than listed, truncated, hangs, crash.

    Args:
        samples: one split of a data set (`catalog.Samples`). Several splits and folds may share a folder.
        folder: for `good.csv` and `bad.csv`; created if needed.
        limit_seconds: for one video; one that takes longer "hangs".
        on_done: called with the number of checked videos and of all, first before any work.
        again: which videos with a result to check again: "none", "bad" or "all".
        decode: from a source to its number of frames, or a `video.VideoError`; workers must be able to import it.

    Raises:
        ValueError: a line of the files in `folder` that cannot be read, with the file and the line. Or another check
            is writing to `folder`.
        OSError: `folder` cannot be written to, or the data set's root is gone.
    """
    check_choice("again", again, ("none", "bad", "all"))
    folder = Path(folder)
    listed = {samples.path(index): samples[index].num_frames for index in range(len(samples))}
    with ExitStack() as stack:
        stack.enter_context(files.locked(folder))
        files.remove_partials(folder, "*.csv")  # of a killed call
        good, bad = read_check(folder)
        if not samples.root.is_dir():
            raise FileNotFoundError(f"the folder {samples.root} is gone; the results so far are kept")
        stamps = {path: stamp(samples.root, path) for path in listed}  # before it is read
        stale = {"none": set(), "bad": listed.keys() & bad.keys(), "all": set(listed)}[again]
        stale |= changed_since(read_stamps(folder), stamps)
        # This list may state more frames than the one that a video was checked with.
        stale |= {path for path, frames in good.items() if frames < (listed.get(path) or 0)}
        for name in (GOOD, BAD):
            if stale or not _has_heading(folder / name, COLUMNS[name]):
                drop_rows(folder / name, COLUMNS[name], stale)
        good, bad = read_check(folder) if stale else (good, bad)
        todo = {path: (listed[path],) for path in listed if path not in good and path not in bad}
        append = {name: stack.enter_context(journal(folder / name, COLUMNS[name])) for name in (GOOD, BAD)}
        results = run_each(partial(_check, decode), samples.root, todo, workers, limit_seconds)
        stack.enter_context(closing(results))
        on_done(len(listed) - len(todo), len(listed))
        for done, (path, (frames, reason)) in enumerate(results, start=len(listed) - len(todo) + 1):
            if reason:
                bad[path] = reason
            append[BAD if reason else GOOD](path, reason or frames, *stamps[path])
            on_done(done, len(listed))
    reasons = Counter(bad[path].partition(":")[0] for path in listed if path in bad)
    return Summary(len(todo), len(listed), len(listed) - reasons.total(), dict(reasons.most_common()))


def read_check(folder: str | Path) -> tuple[dict[str, int], dict[str, str]]:
    """The results in `folder`: frames by path of the good videos, reason by path of the bad ones.

    A last line that was cut off in writing does not count.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a line that cannot be read, with the file and the line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} with the results of check-videos")
    good, bad = {path: int(frames) for _, (path, frames, *_) in read_rows(folder / GOOD, COLUMNS[GOOD], OPTIONAL)}, {}
    for line, (path, reason, *_) in read_rows(folder / BAD, COLUMNS[BAD], OPTIONAL):
        if path in good:
            raise ValueError(f"{folder / BAD}, line {line}: {quoted(path)} is in {GOOD} too")
        bad[path] = reason
    return good, bad


def read_stamps(folder: str | Path) -> dict[str, tuple[int, int]]:
    """`stamp` of each video when it was checked, where that is known."""
    rows = (row for name in (GOOD, BAD) for _, row in read_rows(Path(folder) / name, COLUMNS[name], OPTIONAL))
    return {path: (int(size), int(modified)) for path, _, size, modified in rows if size and modified}


def stamp(root: Path, path: str) -> tuple[int, int]:
    """Bytes and time of change (ns) of a video, or 0 and that of a folder of frames; zeros if it is missing."""
    try:
        status = os.stat(os.path.join(root, path))
    except OSError:
        return 0, 0
    return 0 if stat.S_ISDIR(status.st_mode) else status.st_size, status.st_mtime_ns


def changed_since(known: Mapping[str, tuple[int, int]], stamps: Mapping[str, tuple[int, int]]) -> set[str]:
    """The paths whose stamp is known and is another now."""
    return {path for path, now in stamps.items() if known.get(path, now) != now}


# ---------------------------------------------------------------- one video


def _check(decode: Callable[[str], int], root: str, path: str, listed: int | None) -> tuple[int, str]:
    """The number of frames that could be decoded, and what is wrong; "" if nothing is."""
    source = os.path.join(root, path)
    try:
        frames = decode(source)
    except (video.VideoError, OSError, MemoryError) as error:
        return 0, unread_reason(source, error)
    return frames, short_reason(frames, listed)


def unread_reason(source: str, error: Exception) -> str:
    """Why a source could not be read, without its path."""
    if not os.path.exists(source):
        return MISSING
    text = " ".join(str(error).replace(f"{source}: ", "").replace(source, "it").split())
    if "no video stream" in text:
        return "no video stream"
    if text.startswith("truncated"):
        return f"truncated: {text.removeprefix('truncated').lstrip(',: ')}"
    return f"unreadable: {text or type(error).__name__}"


def short_reason(frames: int, listed: int | None) -> str:
    """Why a video with `frames` decoded frames is too short; "" if it is not."""
    if listed is not None and frames < listed:
        return f"fewer frames than listed: listed {listed}, decoded {frames}"
    return ""


# ---------------------------------------------------------------- worker processes


def run_each(
    function: Callable[..., tuple[int, str]],
    root: Path,
    jobs: Mapping[str, tuple],
    workers: int,
    limit_seconds: float,
) -> Iterator[tuple[str, tuple[int, str]]]:
    """Call a function for each video in worker processes; yield (path, (number, reason)) as they end.

    If its process did not live to return, the result is (0, "hangs: ...") or (0, "crash: ..."). Close the
    generator to end the processes at once.

    Args:
        function: called with the root, a path and its job; must be importable by workers. What it raises is raised
            here, and ends the work.
        jobs: further arguments, by the paths of the videos below `root`.
        limit_seconds: for one video, after which its process is killed and replaced.

    Raises:
        ValueError: another limit.
        FileNotFoundError: a video is missing, as the root is.
        ChildProcessError: the worker processes cannot be kept alive.
    """
    if not 0 < limit_seconds < 1e6:
        raise ValueError(f"the limit of a video must be above 0 and below a million seconds, got {limit_seconds:g}")
    waiting, running = iter(jobs.items()), {}
    pool = ProcessPool(workers, initializer=_start_worker)
    try:
        while True:
            try:
                # A few at a time, so that a list of any length is never in the pool as a whole.
                for path, job in itertools.islice(waiting, 2 * workers - len(running)):
                    call = (limit_seconds, function, str(root), path, *job)
                    running[pool.schedule(_call, call, timeout=limit_seconds)] = path
                if running and not pool.active:
                    raise RuntimeError("their pool broke")
            except RuntimeError as error:
                raise ChildProcessError(f"the worker processes ended before their work: {error}") from error
            if not running:
                return
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                result = _result(future, limit_seconds)
                if result[1] == MISSING and not root.is_dir():
                    raise FileNotFoundError(f"the folder {root} is gone; the results so far are kept")
                yield running.pop(future), result
    finally:
        pool.stop()
        pool.join()


def _result(future: Future, limit_seconds: float) -> tuple[int, str]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(f"the worker processes ended before their work: {error}") from error
    except TimeoutError:
        return 0, f"hangs: not done after {limit_seconds:g} seconds"
    except ProcessExpired as error:
        code = error.exitcode
        return 0, f"crash: its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"


def _start_worker() -> None:
    # The default action ends a process even within a decoder that never returns to Python.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Decoders write about broken files to the file descriptor; the reason is returned instead.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _call(limit_seconds: float, function: Callable, *job) -> tuple[int, str]:
    if hasattr(signal, "alarm"):  # an orphaned process that hangs ends by itself
        signal.alarm(math.ceil(limit_seconds) + 60)
    return function(*job)


# ---------------------------------------------------------------- lists that grow by one row per video


# What columns of these lists hold; others hold any text.
_HOLDS = {
    "reason": ("a reason", re.compile(".+").fullmatch),
    "frames": ("a number of frames", re.compile("[1-9][0-9]{0,8}").fullmatch),
    "bytes": ("a number of bytes", re.compile("[0-9]{1,18}").fullmatch),
    "modified": ("a time in nanoseconds", re.compile("-?[0-9]{1,19}").fullmatch),
    "digest": ("a digest", re.compile("sha256:[0-9a-f]+").fullmatch),
    "compared": ("a time", re.compile("[0-9]{4}-.+").fullmatch),
}


@contextmanager
def journal(path: Path, columns: tuple[str, ...]) -> Iterator[Callable[..., None]]:
    """A function that appends a row to a CSV file at once. A last line that was cut off in writing is dropped."""
    with open(path, "a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    try:
        # File names that are not UTF-8 are kept byte for byte.
        with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")

            def append(*row) -> None:
                rows.writerow(row)
                file.flush()

            if file.tell() == 0:
                append(*columns)
            yield append
    except OSError as error:
        if error.errno == errno.ENOSPC and not error.filename:
            error.filename = str(path)
        raise


def _has_heading(path: Path, columns: tuple[str, ...]) -> bool:
    """Whether a journal is not begun yet, or has all columns."""
    if not path.exists():
        return True
    with open(path, "rb") as file:
        return file.readline().strip() in (b"", ",".join(columns).encode())


def read_rows(path: Path, columns: tuple[str, ...], optional: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(line number, row) of each whole row of a journal, without its heading; none if there is no file.

    Of the last `optional` columns, rows may have none; they are "" then.

    Raises:
        ValueError: a line that does not have these columns, or holds something else in one.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        text = file.read()
    rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), strict=True)
    holds = [(place, *_HOLDS[name]) for place, name in enumerate(columns) if name in _HOLDS]
    needed = len(columns) - optional
    try:
        for row in rows:
            if rows.line_num == 1 and tuple(row) in (columns, columns[:needed]) or not row:
                continue
            row += [""] * optional if len(row) == needed < len(columns) else []
            if rows.line_num == 1 or len(row) != len(columns):
                got = quoted(",".join(row))
                raise ValueError(f"{path}, line {rows.line_num}: needed '{','.join(columns)}', got {got}")
            for place, words, matches in holds:
                if not matches(row[place]) and (row[place] or place < needed):
                    raise ValueError(f"{path}, line {rows.line_num}: needed {words}, got {quoted(row[place])}")
            yield rows.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: {error}") from None


def drop_rows(path: Path, columns: tuple[str, ...], paths: set[str]) -> None:
    """Remove the rows of `paths` (the first column) from the results of a check."""
    write_rows(path, columns, [row for _, row in read_rows(path, columns, OPTIONAL) if row[0] not in paths])


def write_rows(path: Path, columns: tuple[str, ...], rows: Iterable[Sequence]) -> None:
    """A journal of these rows, in place of the one that is there."""

    def write(partial: Path) -> None:
        with journal(partial, columns) as append:
            for row in rows:
                append(*row)

    files.write_atomically(path, write)
