"""Stopping a run so that nothing is lost: a signal or a call asks, the run ends its step and saves."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_asked = threading.Event()


class Interrupted(KeyboardInterrupt):
    """A run that was stopped and saved. Jupyter shows its one line only."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


def stop() -> None:
    """Ask the run of this process to stop after its step; from any thread."""
    _asked.set()


def asked() -> bool:
    """Whether someone has asked the run of this process to stop."""
    return _asked.is_set()


def forget() -> None:
    """Nobody has asked, then."""
    _asked.clear()


@contextmanager
def deferred(alone: bool = True) -> Iterator[None]:
    """While this holds, SIGINT (Ctrl-C, the kernel's interrupt) and SIGTERM (a cluster's notice) ask for a stop.

    What was asked before counts too; whoever begins a run calls `forget` first.

    A second SIGINT interrupts at once; not where several processes run (`alone` false), as a
    terminal and a launcher send one each. Outside the main thread signals stay as they are.
    """

    def ask(number: int, _frame) -> None:
        if alone and number == signal.SIGINT and asked():
            raise KeyboardInterrupt
        stop()

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        forget()
