"""Which videos of a data set can be read whole: each decoded once, in a process of its own, under a time limit.

The verdicts are kept in two files, `good.csv` (path, frames) and `bad.csv` (path, reason), which grow
by a line a video, so that a run killed at any moment goes on where it was. Paths are below the data
set's root, with forward slashes. No video is ever changed or deleted.
"""

import csv
import io
import itertools
import math
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from pebble import ProcessExpired, ProcessPool

from ctlib.config import check_choice
from ctlib.data import video

GOOD, BAD = "good.csv", "bad.csv"
COLUMNS = {GOOD: ("path", "frames"), BAD: ("path", "reason")}


class Summary(NamedTuple):
    """What is known of a list of videos after a check."""

    checked: int  # videos judged by this call; the others had been before
    listed: int
    good: int
    bad: dict[str, int]  # videos a reason, the most frequent first


def check(
    samples: Sequence,
    folder: str | Path,
    workers: int = 2,
    limit_seconds: float = 120.0,
    on_done: Callable[[int, int], None] | None = None,
    again: str = "none",
    decode: Callable[[str], int] | None = None,
    start_method: str | None = None,
) -> Summary:
    """Judge every video of a list that the lists in `folder` do not know yet.

    A video is good if it decodes from its first frame to its last, in the way in which training reads
    it, is as long as its container says and has as many frames as the annotation lists. Else the reason
    is one of: missing, unreadable, no video stream, fewer frames than listed, truncated, hangs, crash.

    Args:
        samples: one split of a data set (`catalog.Samples`). Several splits and folds may share a folder.
        folder: where `good.csv` and `bad.csv` are kept; made if it is not there.
        workers: processes that decode.
        limit_seconds: for one video; what is not done by then "hangs".
        on_done: called with how many videos are judged and how many there are, first before any work.
        again: of the videos judged before, which to judge anew: "none", "bad" or "all".
        decode: from a source to its number of frames, or a `video.VideoError`; `count_by_decoding`
            if not given. A function that workers can import.
        start_method: of the workers, "fork", "spawn" or "forkserver"; Python's own if not given.

    Raises:
        ValueError: a line in `folder`'s files that cannot be read, naming the file and the line.
        OSError: `folder` cannot be written to, or the data set's root is gone.
    """
    check_choice("again", again, ("none", "bad", "all"))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    listed = {samples.path(index): samples[index].num_frames for index in range(len(samples))}
    good, bad = read_check(folder)
    # What this list says of a video may be more than what it was judged by.
    stale = {path for path in listed if again == "all" or good.get(path, math.inf) < (listed[path] or 0)}
    stale |= listed.keys() & bad.keys() if again == "bad" else set()
    if stale:
        for name in (GOOD, BAD):
            drop_rows(folder / name, COLUMNS[name], stale)
        good, bad = read_check(folder)

    todo = [path for path in listed if path not in good and path not in bad]
    jobs = ((decode or count_by_decoding, str(samples.root), path, listed[path]) for path in todo)
    done = len(listed) - len(todo)
    if on_done is not None:
        on_done(done, len(listed))
    with ExitStack() as stack:
        files = {name: stack.enter_context(Journal(folder / name, COLUMNS[name])) for name in (GOOD, BAD)}
        judged = stack.enter_context(closing(run_each(_judge, jobs, workers, limit_seconds, start_method)))
        for (_, _, path, _), result in judged:
            frames, reason = (0, result) if isinstance(result, str) else result
            if reason == MISSING and not samples.root.is_dir():
                raise FileNotFoundError(f"the folder {samples.root} is gone; what was judged until then is kept")
            if reason:
                bad[path] = reason
                files[BAD].append(path, reason)
            else:
                good[path] = frames
                files[GOOD].append(path, frames)
            done += 1
            if on_done is not None:
                on_done(done, len(listed))
    kinds = Counter(bad[path].partition(":")[0] for path in listed if path in bad)
    return Summary(len(todo), len(listed), len(listed) - kinds.total(), dict(kinds.most_common()))


def read_check(folder: str | Path) -> tuple[dict[str, int], dict[str, str]]:
    """What a check found: frames by path of the good videos, reason by path of the bad ones.

    A last line that was cut off in the writing does not count.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a line that cannot be read, naming the file and the line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} with the lists of check-videos")
    good, bad = {}, {}
    for line, (path, frames) in read_rows(folder / GOOD, COLUMNS[GOOD]):
        if not frames.isdecimal() or int(frames) < 1:
            raise ValueError(f"{folder / GOOD}, line {line}: needed a number of frames, got {frames!r}")
        good[path] = int(frames)
    for line, (path, reason) in read_rows(folder / BAD, COLUMNS[BAD]):
        if not reason:
            raise ValueError(f"{folder / BAD}, line {line}: no reason is given")
        if path in good:
            raise ValueError(f"{folder / BAD}, line {line}: {path} is in {GOOD} too")
        bad[path] = reason
    return good, bad


# ---------------------------------------------------------------- one video

MISSING = "missing"


def count_by_decoding(source: str) -> int:
    """The number of frames of a video, each of them decoded.

    Raises:
        video.VideoError: the video cannot be read.
    """
    return sum(1 for _ in video.iterate_frames(source))


def _judge(decode: Callable[[str], int], root: str, path: str, listed: int | None) -> tuple[int, str]:
    """How many frames could be decoded, and what is wrong; "" if nothing is."""
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
    told = " ".join(str(error).replace(f"{source}: ", "").replace(source, "it").split())
    if "no video stream" in told:
        return "no video stream"
    if told.startswith("truncated"):
        return f"truncated: {told.removeprefix('truncated').lstrip(',: ')}"
    return f"unreadable: {told or type(error).__name__}"


def short_reason(frames: int, listed: int | None) -> str:
    """Why a video of which `frames` could be decoded is too short; "" if it is not."""
    if listed is not None and frames < listed:
        return f"fewer frames than listed: listed {listed}, decoded {frames}"
    return ""


# ---------------------------------------------------------------- worker processes


def run_each(
    function: Callable, jobs: Iterable[tuple], workers: int, limit_seconds: float, start_method: str | None = None
) -> Iterator[tuple[tuple, object]]:
    """Call `function(*job)` for each job in worker processes; yield (job, result) as they end.

    The result is what the function returned, or a reason, a string, if its process did not live to
    return: "hangs: ..." or "crash: ...". Close the generator to end the processes at once.

    Args:
        function: one that workers can import. What it raises is raised here, and ends the work.
        limit_seconds: for one job, after which its process is killed and another takes its place.
        start_method: "fork", "spawn" or "forkserver"; Python's own if not given.

    Raises:
        ChildProcessError: the worker processes cannot be kept alive.
    """
    jobs, running = iter(jobs), {}
    context = multiprocessing.get_context(start_method)
    pool = ProcessPool(workers, initializer=_start_worker, context=context)
    try:
        while True:
            # Few at a time, so that a list of any length is never in the pool as a whole.
            for job in itertools.islice(jobs, 2 * workers - len(running)):
                running[pool.schedule(_call, (limit_seconds, function, job), timeout=limit_seconds)] = job
            if not running:
                return
            if not pool.active:
                raise BrokenProcessPool("their pool broke")
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), _result(future, limit_seconds)
    except BrokenProcessPool as error:
        raise ChildProcessError(f"the worker processes ended before their work: {error}") from error
    finally:
        pool.stop()
        pool.join()


def _result(future: Future, limit_seconds: float):
    try:
        return future.result()
    except TimeoutError:
        return f"hangs: not done after {limit_seconds:g} seconds"
    except ProcessExpired as error:
        code = error.exitcode
        return f"crash: its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"


def _start_worker() -> None:
    # The default action ends a process even in the middle of a decoder that never returns to Python.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Decoders write about broken files to the file descriptor; what there is to tell comes back as a reason.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _call(limit_seconds: float, function: Callable, job: tuple):
    if hasattr(signal, "alarm"):  # should this process be orphaned and hang, it ends by itself
        signal.alarm(math.ceil(limit_seconds) + 60)
    return function(*job)


# ---------------------------------------------------------------- lists that grow by a line a video


class Journal:
    """A CSV file that a row is appended to at a time, whole or not at all.

    Opening it drops a last line that was cut off in the writing.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]):
        with open(path, "a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        # A file name may hold bytes that are no text; they come back as they were.
        self._file = open(path, "a", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115
        self._rows = csv.writer(self._file, lineterminator="\n")
        if self._file.tell() == 0:
            self.append(*columns)

    def append(self, *row) -> None:
        self._rows.writerow(row)
        self._file.flush()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """(line number, row) of each whole row of a journal, its heading left out; none if there is no file.

    Raises:
        ValueError: a line that does not have these columns.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        text = file.read()
    rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), strict=True)
    try:
        for row in rows:
            if rows.line_num == 1 and tuple(row) == columns or not row:
                continue
            if rows.line_num == 1 or len(row) != len(columns):
                raise ValueError(f"{path}, line {rows.line_num}: needed '{','.join(columns)}', got {','.join(row)!r}")
            yield rows.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: {error}") from None


def drop_rows(path: Path, columns: tuple[str, ...], paths: Iterable[str]) -> None:
    """Take the rows of `paths` (the first column) out of a journal."""
    paths = set(paths)
    kept = [row for _, row in read_rows(path, columns) if row[0] not in paths]
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with Journal(partial, columns) as journal:
        for row in kept:
            journal.append(*row)
    os.replace(partial, path)
