"""What processes do in tests of several, in a file that imports little: each process imports it."""

import json
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


def chooses_another_way(run, folder, send):
    """Train where each process times ways for itself, and dense convolutions are fastest in the second one alone."""
    from ctlib.kernels import choice
    from ctlib.training.train import train

    fastest = "groups" if os.environ["RANK"] == "0" else "dense"
    choice.DEVICES = {"cpu"}
    choice._timed = lambda ways, inputs, backward: choice.Choice(fastest if fastest in ways else next(iter(ways)))
    train(run, folder)
    with open(f"{folder}/{os.environ['RANK']}.json", "w") as file:
        json.dump({key: choice.recorded()[key] for key in choice.recorded() if key.endswith("training")}, file)
