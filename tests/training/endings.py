"""What processes do in tests of their ends, in a file that imports little: each process imports it."""

import os
import signal
import time


def fails(which, send):
    if os.environ["RANK"] == which:
        raise ValueError(f"process {which} has its reasons")
    time.sleep(60)


def ends(how, send):
    if how == "messages":
        for _ in range(300):
            send("x" * 1000)  # more than a pipe holds
    elif os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "reset":
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:45128")
    else:
        time.sleep(60)
