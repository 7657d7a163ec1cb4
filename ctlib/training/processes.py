"""The same function in several processes of this machine, started from a notebook or a script.

Several machines, or processes that a cluster starts, need nothing from here: `torchrun` and
`accelerate launch` set what Accelerate reads.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import uuid
from collections.abc import Callable
from multiprocessing import connection

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ctlib.training import interrupt

# Those that this system has.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]


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
        Exception: what the function raised in one of the processes, or `listen` here; the others are ended then.
        RuntimeError: a process was killed from outside.
    """
    interrupt.forget()
    context = multiprocessing.get_context("spawn")
    stopping, ended, raised = context.Event(), threading.Event(), []
    ends = [context.Pipe(duplex=False) for _ in range(processes)]  # one each: a process that is killed blocks no other

    def hear() -> None:
        readers = [reader for reader, _ in ends]
        while heard := connection.wait(readers, timeout=0.05) or not ended.is_set():
            if interrupt.asked():
                stopping.set()
            for reader in heard if heard is not True else ():
                try:
                    kind, content = reader.recv()
                    if kind == "raised":
                        raised.append(content)
                    elif listen is not None:
                        listen(*content)
                except EOFError:
                    readers.remove(reader)
                except Exception as error:  # of the listener: the processes are stopped, and it is raised in the end
                    raised.insert(0, error)
                    interrupt.stop()

    hearing = threading.Thread(target=hear, daemon=True)
    hearing.start()
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
    log = logging.getLogger("torch.distributed.elastic")
    level, failed = log.level, None
    log.setLevel(logging.CRITICAL)  # what went wrong is raised here
    try:
        results = elastic_launch(config, _child)(function, arguments, [writer for _, writer in ends], stopping)
    except ChildFailedError as error:
        failed = error
    except SignalException as error:
        failed = error
        raised.append(KeyboardInterrupt("the processes were interrupted; what they had saved is there"))
    finally:  # elastic leaves its own handlers behind, and a kernel's interrupt would then end in them
        log.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
        ended.set()
        hearing.join()
        interrupt.forget()
    if raised:
        raise raised[0] from failed
    if failed is not None:
        killed = [
            f"process {rank} by signal {-one.exitcode}" for rank, one in failed.failures.items() if one.exitcode < 0
        ]
        raise RuntimeError(f"killed from outside: {', '.join(killed)} (9: out of memory?)" if killed else str(failed))
    return results[0]


def _child(function: Callable, arguments: tuple, writers: list, stopping):
    processes, writer = int(os.environ["LOCAL_WORLD_SIZE"]), writers[int(os.environ["LOCAL_RANK"])]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))

    def stop_when_told() -> None:
        stopping.wait()
        interrupt.stop()

    threading.Thread(target=stop_when_told, daemon=True).start()

    def tell(*message) -> None:
        if os.environ["RANK"] == "0":
            writer.send(("told", message))

    try:
        result = function(*arguments, tell)
    except interrupt.Interrupted as error:  # all processes stop together, and elastic need not report failures
        writer.send(("raised", error))
        result = None
    except BaseException as error:
        writer.send(("raised", _portable(error)))
        raise
    if torch.distributed.is_initialized():  # not after an error: on GPUs this waits for the others
        torch.distributed.destroy_process_group()
    return result


def _portable(error: BaseException) -> BaseException:
    """The error, or its text where it cannot travel to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
