"""The processes of a loader: how they start and end, what they need of the machine, and their errors in one line."""

import atexit
import copy
import multiprocessing
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.data import DataLoader

from ctlib.data.video import VideoError
from ctlib.files import one_line

# Signals that ask a run to stop; the trainer answers them. Windows has no SIGHUP, which a closed terminal sends.
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SHARED_MEMORY = Path("/dev/shm")  # of Linux; clips come from other processes through it
_ADVICE = "set data.workers=0, or give the container more (docker run --shm-size=8g)"


def check_shared_memory(needed: int) -> None:
    """Raise ValueError if a loader needs more bytes of shared memory than are free, before a process ends by that."""
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
    if needed > free:
        raise ValueError(
            f"{SHARED_MEMORY} has {free / 1e6:,.1f} MB free, and loader processes need {needed / 1e6:,.1f} MB: "
            + _ADVICE
        )


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Around the use of a loader: what ends its processes is one line, without the traceback of another process.

    Raises:
        video.VideoError: a video that cannot be read.
        OSError: a process that was killed, that hangs, or that has no shared memory or files left.
    """
    try:
        yield
    except (VideoError, OSError, RuntimeError) as error:
        text, kind = str(error), type(error).__name__
        if isinstance(error, VideoError | OSError) and "in DataLoader worker process" in text:
            raise type(error)(one_line(text.rpartition(f"{kind}: ")[2], 400)) from None
        for pattern, reason in _ENDS.items():
            if isinstance(error, RuntimeError) and re.search(pattern, text):
                raise OSError(f"{reason} ({one_line(text, 120)})") from None
        raise


# Of torch's errors, and what they mean; the first that fits.
_ENDS = {
    "DataLoader.*Bus error|shared memory object|torch_.*No space left": "loader processes have too little of "
    f"{SHARED_MEMORY}: {_ADVICE}",
    "Too many open files": "loader processes have too many files open: raise `ulimit -n`, or set data.workers=0",
    "DataLoader timed out": "a loader process gives no clip: a video may hang in its decoder; check-videos finds it",
    r"DataLoader worker \(pid": "a loader process was killed, perhaps as memory ran out: fewer data.workers need less",
}


def end_workers(loader: DataLoader) -> None:
    """End a loader's processes now, one prepared by Accelerate included; it cannot be used again.

    Left to the garbage collector after a worker's error, each is waited for up to 5 s.
    """
    iterator = loader._iterator  # torch has no public call that ends persistent workers
    if iterator is not None:
        iterator._shutdown_workers()


def leave_signals_to_the_trainer(_worker: int) -> None:
    """Ctrl-C and a cluster's notice reach every process; a worker that ended on them would break the last step."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


class _Worker(multiprocessing.Process):
    """Starts with these signals blocked: one that came before `leave_signals_to_the_trainer` would end it.

    A fork server, which is started with the first worker, has them blocked too; its workers end when it does.
    """

    def start(self) -> None:
        if not hasattr(signal, "pthread_sigmask"):  # Windows, where none of them is sent
            return super().start()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def workers_context() -> multiprocessing.context.BaseContext:
    context = copy.copy(multiprocessing.get_context())
    context.Process = _Worker
    return context


@atexit.register
def _end_workers() -> None:
    """Kill workers at exit: the default, SIGTERM and a wait, would never end one that hangs in a decoder."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise at each
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
