"""The same function in several processes of this machine, started from a notebook or a script.

Several machines, or processes that a cluster starts, need nothing from here: `torchrun` and
`accelerate launch` set what Accelerate reads.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import uuid
from collections.abc import Callable

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ctlib import interrupt

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def wanted(processes: int, device: str) -> int:
    """How many processes to start on this machine: as asked; 0: one for each GPU.

    Raises:
        ValueError: fewer GPUs than processes, or processes inside a process that a launcher started.
    """
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if processes < 0:
        raise ValueError(f"processes must be at least 0, got {processes}")
    if "LOCAL_RANK" in os.environ:
        if processes != 1:
            raise ValueError(
                f"a launcher has started this process and its fellows: processes must be 1, got {processes}"
            )
        return 1
    if gpus and processes > gpus:
        raise ValueError(f"{processes} processes need as many GPUs, this machine has {gpus}")
    return processes or max(1, gpus)


def launch(function: Callable, *arguments, processes: int, listen: Callable | None = None):
    """Run `function(*arguments, tell)` in several processes, which torch elastic starts and watches.

    `interrupt.stop` here asks them all to stop.

    Args:
        function: importable by name; what it prints appears here. Whatever the process of rank 0 hands to
            `tell(*message)` reaches `listen(*message)`, called in a thread of this process.
        arguments: picklable.
        processes: how many.
        listen: called with each message.

    Returns:
        What the function returned in the process of rank 0.

    Raises:
        Exception: what the function raised in one of the processes; the others are ended then.
    """
    context = multiprocessing.get_context("spawn")
    messages, stopping = context.SimpleQueue(), context.Event()
    raised, ended = [], threading.Event()

    def hear() -> None:
        for kind, content in iter(messages.get, None):
            if kind == "raised":
                raised.append(content)
            elif listen is not None:
                listen(*content)

    def pass_on() -> None:
        while not ended.wait(0.05):
            if interrupt.asked():
                stopping.set()

    interrupt.forget()
    threads = [threading.Thread(target=target, daemon=True) for target in (hear, pass_on)]
    for thread in threads:
        thread.start()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
    )
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    failed = None
    try:
        results = elastic_launch(config, _child)(function, arguments, messages, stopping)
    except ChildFailedError as error:
        failed = error
    except SignalException:  # an interrupt; what the processes made of it is in `raised`
        failed = KeyboardInterrupt()
    finally:  # elastic leaves its own handlers behind, and a kernel's interrupt would then end in them
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
        ended.set()
        messages.put(None)
        for thread in threads:
            thread.join()
    if raised or failed is not None:
        raise raised[0] if raised else failed
    return results[0]


def _child(function: Callable, arguments: tuple, messages, stopping):
    first = os.environ["RANK"] == "0"
    processes = int(os.environ["LOCAL_WORLD_SIZE"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))

    def stop_when_told() -> None:
        stopping.wait()
        interrupt.stop()

    threading.Thread(target=stop_when_told, daemon=True).start()

    def tell(*message) -> None:
        if first:
            messages.put(("told", message))

    try:
        return function(*arguments, tell)
    except interrupt.Interrupted as error:  # all processes stop together, and elastic need not report failures
        messages.put(("raised", error))
        return None
    except BaseException as error:
        messages.put(("raised", _portable(error)))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _portable(error: BaseException) -> BaseException:
    """The error, or its text where it cannot travel to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
