"""Training on two CPU processes: the gradients and weights of one that accumulates the same micro-batches."""

import dataclasses
import json
import logging
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ctlib.config import ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.models import model_config
from ctlib.training import processes as parallel
from ctlib.training import records, train
from ctlib.training.run import Machine, resolve
from tests.training import endings


@pytest.fixture
def config(arrow_root):
    return RunConfig(
        name="tiny",
        model=model_config("ctnet_quickstart", num_classes=16, num_frames=4, dropout=0.5),
        data=DataConfig(root=str(arrow_root), size=32, flip=True, workers=0),
        recipe=RecipeConfig(epochs=2, batch=8, lr=0.1, warmup=0.5),
        compute=ComputeConfig(micro_batch=4, threads=1),
    )


def state_of(folder):
    return load_file(records.RunFolder(folder).checkpoint)


def test_two_processes_and_one_that_resumes_train_the_network_of_one_alone(config, tmp_path):
    """Two share a batch until they are stopped; one resumes, in turns. Equal to the bit to one that never stopped."""
    steps, lines = [], []

    def listen(done, total, loss):
        steps.append(done)
        if done == 1:
            parallel.stop()  # in this process, which passes it on

    left_open = dataclasses.replace(config, compute=dataclasses.replace(config.compute, micro_batch=None))
    with pytest.raises(parallel.Interrupted, match=r"stopped after step \d+ of 8 .epoch .. and saved"):
        train.train(left_open, tmp_path / "two", processes=2, on_step=listen)
    stopped = len(steps)
    together = train.train(left_open, tmp_path / "two", on_step=listen, on_epoch=lines.append)
    assert steps == list(range(1, 9)) and 1 <= stopped < 8 and [line["epoch"] for line in lines] == [1, 2]
    assert together["micro_batch"] == 4  # as it was begun, and not the whole batch of 8
    assert [session["processes"] for session in together["sessions"]] == [2, 1]

    train.train(config, tmp_path / "one")
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert all(torch.equal(one[key], two[key]) for key in one)
    history = [records.RunFolder(tmp_path / name).history() for name in ("one", "two")]
    for column in ("loss", "train_top1", "lr", "top1", "top5"):
        assert history[0][column].tolist() == pytest.approx(history[1][column].tolist(), rel=1e-12)
    assert records.RunFolder(tmp_path / "one").predictions().equals(records.RunFolder(tmp_path / "two").predictions())


@pytest.mark.slow
def test_two_processes_in_turns_differ_from_one_by_the_order_of_sums(config, tmp_path):
    turns = dataclasses.replace(
        config,
        recipe=dataclasses.replace(config.recipe, epochs=1, lr=1e-4),  # so low that rounding does not grow
        compute=dataclasses.replace(config.compute, micro_batch=2),
    )
    result = train.train(turns, tmp_path / "two", processes=2)
    assert (result["processes"], result["micro_batch"]) == (2, 2)
    train.train(turns, tmp_path / "one")
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)
    assert train.train(turns, tmp_path / "two", processes=2) == result  # finished, and nothing is started


@pytest.mark.slow
def test_all_processes_take_the_ways_that_the_first_chose(config, tmp_path):
    run = resolve(dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, epochs=1)), Machine(2))
    parallel.launch(endings.chooses_another_way, run, tmp_path, processes=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second and set(first.values()) == {"groups", "plain"}
    assert first.items() <= records.RunFolder(tmp_path).result()["kernels"].items()


def test_what_one_process_raises_ends_all_and_is_raised_here(caplog, monkeypatch):
    """And nothing is printed of how torch ends the others."""
    monkeypatch.setattr(logging.getLogger("torch.multiprocessing.spawn"), "handlers", [caplog.handler])
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    with pytest.raises(ValueError, match="process 1 has its reasons"):
        parallel.launch(endings.fails, "1", processes=2)
    assert time.monotonic() - began < 50 and "Terminating" not in caplog.text
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_listener_that_fails_is_raised_and_nobody_waits():
    def listen(text):
        raise LookupError("the listener has had enough")

    with pytest.raises(LookupError, match="had enough"):
        parallel.launch(endings.ends, "messages", processes=1, listen=listen)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "reset"])
def test_a_process_that_is_killed_is_named_and_not_the_connection_to_it(how):
    with pytest.raises(RuntimeError, match="killed from outside: process 1( by signal 9)? .out of memory"):
        parallel.launch(endings.ends, how, processes=2)


def failure_of(exits):
    failures = {rank: SimpleNamespace(exitcode=code, timestamp=0) for rank, code in exits.items()}
    error = ChildFailedError.__new__(ChildFailedError)
    error.failures = failures
    return error


@pytest.mark.parametrize(
    ("exits", "heard", "raised", "expected"),
    [
        ({1: -9}, set(), 0, "1 by signal 9"),
        ({0: 1}, {0}, 1, "1"),  # the one that lost its peer is seen first
        ({0: 1}, {0, 1}, 2, ""),
        ({0: 1}, set(), 0, ""),
    ],
)
def test_who_was_killed_is_who_did_not_say_how_it_ended(exits, heard, raised, expected):
    listener = SimpleNamespace(heard=heard, raised=[RuntimeError("Connection reset by peer")] * raised)
    assert parallel._killed(failure_of(exits), listener, 2) == expected


@pytest.mark.parametrize(
    ("gpus", "device", "processes", "launched", "expected"),
    [
        (0, "auto", 0, False, 1),
        (0, "auto", 2, False, 2),
        (4, "auto", 0, False, 4),
        (4, "cpu", 0, False, 1),
        (4, "auto", 1, True, 1),
        (4, "auto", 8, False, "8 processes need as many GPUs, this machine has 4"),
        (4, "auto", -1, False, "processes must be at least 0, got -1"),
        (4, "auto", 2, True, "a launcher has started the processes: processes must be 1, got 2"),
    ],
)
def test_how_many_processes(monkeypatch, gpus, device, processes, launched, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if launched:
        monkeypatch.setenv("LOCAL_RANK", "0")
    if isinstance(expected, int):
        assert Machine(processes).shared_by(ComputeConfig(device=device)) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            Machine(processes).shared_by(ComputeConfig(device=device))
