"""One function in several processes of this machine, and the request to stop that reaches all of them.

For several machines, `torchrun` and `accelerate launch` start the processes, and nothing of `launch` is needed.
"""

import logging
import multiprocessing
import os
import pickle
import re
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ctlib.data.workers import STOPS
from ctlib.files import OneLineError

_stop_requested = threading.Event()


class Interrupted(OneLineError, KeyboardInterrupt):
    """A run that was stopped and saved."""


def stop() -> None:
    """Ask the run of this process, and of those that it launched, to stop after its step; from any thread."""
    _stop_requested.set()


def stop_requested() -> bool:
    return _stop_requested.is_set()


def forget_stop() -> None:
    """Withdraw the request; whoever begins a run calls this first."""
    _stop_requested.clear()


@contextmanager
def signals_request_stop(alone: bool = True) -> Iterator[None]:
    """SIGINT (Ctrl-C), SIGTERM (a cluster's notice) and SIGHUP (a closed terminal) ask for a stop, as `stop` does.

    Under `nohup`, where SIGHUP is ignored, it stays so. A second SIGINT interrupts at once; not where several processes
    run (`alone` false), as a terminal and a launcher send one each. Outside the main thread signals stay as they are.
    """

    def ask(number: int, _frame) -> None:
        if alone and number == signal.SIGINT and stop_requested():
            raise KeyboardInterrupt
        stop()

    numbers = STOPS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in numbers if not _is_ignored_hangup(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        forget_stop()


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does; under `nohup` SIGHUP does nothing."""

    def interrupt(_number: int, _frame) -> None:
        raise KeyboardInterrupt

    numbers = STOPS if threading.current_thread() is threading.main_thread() else ()
    others = [number for number in numbers if number != signal.SIGINT and not _is_ignored_hangup(number)]
    before = {number: signal.signal(number, interrupt) for number in others}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_ignored_hangup(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN


def launch(function: Callable, *arguments, processes: int, listen: Callable | None = None):
    """Run `function(*arguments, send)` in several processes, which torch elastic starts and watches.

    `stop` here asks all of them to stop. `accelerate.notebook_launcher` will not do. It starts no second process on a
    CPU, and none at all once CUDA has been used, as `plan.make_plan` does. It returns neither results nor messages.

    Args:
        function: importable by name; what it prints appears here. What the process of rank 0 gives to
            `send(*message)` reaches `listen(*message)`, called in a thread of this process.
        arguments: picklable.
        processes: how many.
        listen: called with each message.

    Returns:
        What the function returned in the process of rank 0.

    Raises:
        Exception: what the function raised in one of the processes, or `listen` here; the others are ended then.
        RuntimeError: a process was killed from outside.
    """
    forget_stop()
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]  # one each: a killed process blocks no other
    with _Listener([reader for reader, _ in pipes], context.Event(), listen) as listener, _elastic_contained():
        failure = None
        try:
            results = elastic_launch(_launch_config(processes), _child)(
                function, arguments, [writer for _, writer in pipes], listener.stopping
            )
        except ChildFailedError as error:
            failure = error
        except SignalException as error:
            failure = error
            listener.raised.append(KeyboardInterrupt("the processes were interrupted; their last snapshot is kept"))
    killed = _killed(failure, listener, processes)
    if killed and all(_LOST_PEER.search(str(error)) for error in listener.raised):
        raise RuntimeError(f"killed from outside: process {killed} (out of memory?)") from failure
    if listener.raised:
        raise listener.raised[0] from failure
    if failure is not None:
        raise RuntimeError(str(failure))
    return results[0]


_LOST_PEER = re.compile(r"(?i)connection (reset|closed|refused)|broken pipe|peer|gloo|nccl")  # of the others' errors


def _killed(failure: BaseException | None, listener: "_Listener", processes: int) -> str:
    """Which processes ended from outside, in words; empty: none did."""
    if not isinstance(failure, ChildFailedError):
        return ""
    exits = {rank: child.exitcode for rank, child in failure.failures.items()}  # of one that failed, often
    killed = [f"{rank} by signal {-code}" for rank, code in exits.items() if code < 0]
    silent = sorted(set(range(processes)) - listener.heard) if listener.raised else []
    return ", ".join(killed) or " or ".join(map(str, silent))


class _Listener(threading.Thread):
    """Hears what the processes send, and passes a request to stop on to them."""

    def __init__(self, readers: list, stopping, listen: Callable | None):
        super().__init__(daemon=True)
        self.readers, self.stopping, self.listen = readers, stopping, listen
        self.ended, self.raised = threading.Event(), []
        self.heard: set[int] = set()  # the ranks that said how they ended

    def run(self) -> None:
        while (ready := connection.wait(self.readers, timeout=0.05)) or not self.ended.is_set():
            if stop_requested():
                self.stopping.set()
            for reader in ready:
                self._hear(reader)

    def _hear(self, reader) -> None:
        try:
            kind, content = reader.recv()
            if kind == "ended":
                self.heard.add(content)
            elif kind == "raised":
                self.raised.append(content)
            elif self.listen is not None:
                self.listen(*content)
        except EOFError:
            self.readers.remove(reader)
        except Exception as error:  # the listener's: the processes are stopped, and it is raised at the end
            self.raised.insert(0, error)
            stop()

    def __enter__(self) -> "_Listener":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.join()
        forget_stop()


def _launch_config(processes: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        signals_to_handle=",".join(number.name for number in STOPS if not _is_ignored_hangup(number)),
    )


@contextmanager
def _elastic_contained() -> Iterator[None]:
    """torch elastic without its logs, as errors are raised, and without the signal handlers that it leaves behind."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # a system need not have all of them
    before = {number: signal.getsignal(number) for name in names if (number := getattr(signal, name, None))}
    logs = [logging.getLogger(name) for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _child(function: Callable, arguments: tuple, writers: list, stopping):
    processes, writer = int(os.environ["LOCAL_WORLD_SIZE"]), writers[int(os.environ["LOCAL_RANK"])]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))

    def wait_for_stop() -> None:
        stopping.wait()
        stop()

    threading.Thread(target=wait_for_stop, daemon=True).start()

    def send(*message) -> None:
        if os.environ["RANK"] == "0":
            writer.send(("message", message))

    try:
        result = function(*arguments, send)
    except Interrupted as error:  # all processes stop together, and elastic need not report failures
        writer.send(("raised", error))
        result = None
    except BaseException as error:
        writer.send(("raised", _picklable(error)))
        raise
    finally:
        writer.send(("ended", int(os.environ["RANK"])))
    if torch.distributed.is_initialized():  # not after an error: on GPUs this waits for the others
        torch.distributed.destroy_process_group()
    return result


def _picklable(error: BaseException) -> BaseException:
    """The error, or its text where it cannot travel to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
