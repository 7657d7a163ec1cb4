"""A run that is killed at any moment ends as one that never was."""

import dataclasses
import multiprocessing
import os
import random
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from ctlib import files
from ctlib.config import ArrowConfig, ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.data import arrow, clips
from ctlib.data.catalog import load_samples
from ctlib.data.workers import STOPS
from ctlib.models import model_config
from ctlib.training import processes as parallel
from ctlib.training import records, snapshots, train

resource = pytest.importorskip("resource")  # and fork: not on Windows


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    few = ArrowConfig(train_clips=32, val_clips=8, size=32)
    arrow_root = arrow.write(few, tmp_path_factory.mktemp("data") / "arrow", workers=0)
    return RunConfig(
        name="tiny",
        model=model_config("ctnet_quickstart", num_classes=16, num_frames=2, dropout=0.5, blocks=((), (), (), (1,))),
        data=DataConfig(root=str(arrow_root), size=32, flip=True, workers=0),
        recipe=RecipeConfig(epochs=2, batch=8, warmup=0.5),
        compute=ComputeConfig(device="cpu", micro_batch=4, threads=1, save_minutes=0),
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The record of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.train(config, folder)
    return folder


@pytest.fixture(scope="module")
def stopped_once(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    interrupted_at(config, folder, 6)
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """The folder of a run that was stopped after 6 of its 8 steps."""
    return shutil.copytree(stopped_once, tmp_path / "run")


def assert_the_same(first, second):
    one, two = (load_file(folder / records.CHECKPOINT) for folder in (first, second))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    first, second = records.RunFolder(first), records.RunFolder(second)
    timed = ["seconds", "clips_per_second"]
    assert first.history().drop(columns=timed).equals(second.history().drop(columns=timed))
    assert first.predictions().equals(second.predictions())
    machine = {"seconds", "peak_memory_mb", "sessions", "commit"}  # the tree may change meanwhile
    one, two = first.result(), second.result()
    assert {key: one[key] for key in one.keys() - machine} == {key: two[key] for key in two.keys() - machine}


# Processes forked from a server that has imported ctlib and done nothing else: a fork of this process could not train
# once a test before has exported a network, as autograd has threads then.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["ctlib.training.train"])


def child(function, *arguments):
    process = SERVER.Process(target=function, args=arguments)
    process.start()
    return process


def killed_at_random(config, folder, kills, longest, seed):
    """Run, kill within `longest` seconds and run again until the run is through; the folders of finished runs."""
    draw = random.Random(seed)
    done = 0
    while done < kills:
        process = child(train.train, config, folder)
        process.join(draw.uniform(0, longest))
        if process.is_alive():
            process.kill()
            done += 1
        process.join()
        if (folder / "result.json").exists() and done < kills:
            train.train(config, folder)  # finished: what a kill after the last write left is cleared
            yield folder
            shutil.rmtree(folder)
    train.train(config, folder)
    yield folder


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_one_that_never_was(config, whole, tmp_path):
    longest = records.RunFolder(whole).result()["seconds"]
    for folder in killed_at_random(config, tmp_path / "run", kills=2, longest=longest, seed=0):
        assert_the_same(folder, whole)
        assert not (folder / "snapshots").exists()


@pytest.mark.slow
def test_a_run_killed_a_hundred_times_ends_as_one_that_never_was(config, whole, tmp_path):
    sessions, longest = [], records.RunFolder(whole).result()["seconds"]
    for folder in killed_at_random(config, tmp_path / "run", kills=100, longest=longest, seed=1):
        assert_the_same(folder, whole)
        sessions.append(len(records.RunFolder(folder).result()["sessions"]))
    assert max(sessions) > 2


def interrupted_at(config, folder, step):
    """A run that was asked to stop after a step, with its snapshots."""
    with pytest.raises(parallel.Interrupted, match=f"stopped after step {step} of 8 .epoch .* saved in"):
        train.train(config, folder, on_step=lambda done, *_: parallel.stop() if done == step - 1 else None)
    return sorted((folder / "snapshots").glob("*.pt"))


def test_an_interrupt_ends_the_step_saves_and_leaves_python_as_it_was(config, whole, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    steps = []

    def press(done, *_):
        steps.append(done)
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    often = dataclasses.replace(config, compute=dataclasses.replace(config.compute, save_minutes=10.0))
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3 of 8 .epoch 1. and saved"):
        train.train(often, tmp_path / "run", on_step=press)
    assert steps == [1, 2, 3] and signal.getsignal(signal.SIGINT) is before
    rows = []
    train.train(often, tmp_path / "run", on_step=press, on_epoch=rows.append)
    assert steps == list(range(1, 9)) and [row["epoch"] for row in rows] == [1, 2]
    assert [(s["epoch"], s["step"]) for s in records.RunFolder(tmp_path / "run").result()["sessions"]] == [
        (0, 0),
        (0, 3),
    ]
    two, one = (load_file(path / records.CHECKPOINT) for path in (tmp_path / "run", whole))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_that_resumes_shows_the_epochs_that_it_has(config, stopped):
    rows, steps = [], []
    train.train(
        config,
        stopped,
        on_step=lambda *at: steps.append(at[0]),
        on_epoch=lambda row: rows.append((row["epoch"], len(steps))),
    )
    assert rows == [(1, 0), (2, 2)] and steps == [7, 8]


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_asks_for_a_stop_and_one_that_nohup_ignores_does_not(number):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with parallel.signals_request_stop():
            os.kill(os.getpid(), number)
            assert parallel.stop_requested()
        assert not parallel.stop_requested() and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with parallel.signals_request_stop():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not parallel.stop_requested()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert parallel._launch_config(2).signals_to_handle == "SIGINT,SIGTERM"  # of several processes
    finally:
        signal.signal(signal.SIGHUP, before)
    if before != signal.SIG_IGN:
        assert parallel._launch_config(2).signals_to_handle == "SIGINT,SIGTERM,SIGHUP"


def test_two_signals_in_a_row_do_not_wait_for_the_step(config, tmp_path):
    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        train.train(config, tmp_path, on_step=press)
    assert not isinstance(caught.value, parallel.Interrupted)


@pytest.mark.parametrize("harm", ["cut", "emptied", "one byte", "renamed foreign"])
def test_a_damaged_snapshot_is_refused_and_the_one_before_used(config, whole, stopped, harm):
    _, newest = sorted((stopped / "snapshots").glob("*.pt"))
    content = newest.read_bytes()
    if harm == "renamed foreign":
        torch.save({"state_dict": {}}, newest)
        newest = newest.rename(newest.with_name(f"000099-{files.digest(newest)}.pt"))
        text = "holds something else than a snapshot"
    else:
        harmed = {
            "cut": content[: len(content) // 2],
            "emptied": b"",
            "one byte": content[:5000] + b"!" + content[5001:],
        }
        newest.write_bytes(harmed[harm])
        text = "is damaged: its content is not what its name says"
    with pytest.warns(UserWarning, match=f"not used: .*{newest.name} {text}"):
        train.train(config, stopped)
    assert_the_same(stopped, whole)
    assert [path.name for path in (stopped / "snapshots").iterdir()] == [newest.with_suffix(".refused").name]


def test_a_snapshot_of_another_run_is_refused(config, stopped, tmp_path):
    other = dataclasses.replace(config, seed=7)
    (_, foreign) = interrupted_at(other, tmp_path / "other", 3)
    shutil.copy(foreign, stopped / "snapshots" / foreign.name.replace("00000", "00009"))
    with pytest.warns(UserWarning, match="is of another run: seed is 7 in the record, 0 was asked for"):
        assert train.train(config, stopped)["seed"] == 0
    with pytest.raises(ValueError, match="an unfinished run with other parameters .seed is 7 in the record, 0 was"):
        train.train(config, tmp_path / "other")


def test_where_no_snapshot_can_be_used_the_run_does_not_silently_start_over(config, stopped):
    states = sorted((stopped / "snapshots").glob("*.pt"))
    for path in states:
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning),
        pytest.raises(snapshots.SnapshotError, match="no snapshot in .* can be used to resume: .*dama"),
    ):
        train.train(config, stopped)
    assert len(states) == 2 and all(path.exists() for path in states)
    shutil.rmtree(stopped / "snapshots")
    assert train.train(config, stopped)["epochs"] == 2


def test_a_file_beside_the_snapshots_is_never_deleted(config, stopped):
    mine = stopped / "snapshots" / "mine.pt"
    mine.write_bytes(b"not a snapshot")
    assert train.train(config, stopped)["epochs"] == 2
    assert [path.name for path in (stopped / "snapshots").iterdir()] == ["mine.pt"]


def train_and_die_within_the_fourth_snapshot(config, folder):
    write, written = torch.save, []

    def write_half(content, file):
        written.append(content)
        write(content, file)
        if len(written) == 4:
            file.truncate(file.tell() // 2)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = write_half
    train.train(config, folder)


def test_a_run_killed_while_it_writes_a_snapshot_uses_the_one_before(config, whole, tmp_path):
    process = child(train_and_die_within_the_fourth_snapshot, config, tmp_path / "run")
    process.join()
    assert process.exitcode == -signal.SIGKILL and (tmp_path / "run" / "snapshots" / "partial").exists()
    train.train(config, tmp_path / "run")
    assert_the_same(tmp_path / "run", whole)
    assert len(records.RunFolder(tmp_path / "run").result()["sessions"]) == 2


def train_on_a_disk_that_fills(config, folder, bytes_left, messages):
    def fill(done, *_):
        if done == 3:  # no file of this process may grow beyond this: as on a full disk, a write fails
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, bytes_left))

    try:
        train.train(config, folder, on_step=fill)
    except snapshots.SnapshotError as error:
        messages.put(str(error))


@pytest.mark.parametrize("bytes_left", [0, pytest.param(200_000, marks=pytest.mark.slow)])
def test_a_full_disk_ends_in_an_error_and_leaves_the_last_snapshot_whole(config, whole, tmp_path, bytes_left):
    messages = SERVER.SimpleQueue()
    process = child(train_on_a_disk_that_fills, config, tmp_path / "run", bytes_left, messages)
    process.join()
    assert process.exitcode == 0
    text = messages.get()
    assert "no snapshot can be written to" in text and "File too large" in text and "is kept" in text
    assert len(list((tmp_path / "run" / "snapshots").iterdir())) == 2
    train.train(config, tmp_path / "run")
    assert_the_same(tmp_path / "run", whole)


def test_two_runs_do_not_share_a_folder(config, tmp_path):
    with files.locked(tmp_path), pytest.raises(ValueError, match="another process is writing to"):
        train.train(config, tmp_path)


def load_with_workers_told_to_stop(samples, start, answers):
    os.setsid()
    multiprocessing.set_start_method(start, force=True)
    signal.signal(signal.SIGTERM, lambda *_: None)  # as a trainer does, not inherited as ignored
    try:
        batches = iter(clips.test_loader(samples, 2, DataConfig(size=32, workers=2), batch=2))
        os.killpg(0, signal.SIGTERM)
        answers.put(sum(len(labels) for _, labels in batches))
    except RuntimeError as error:
        answers.put(repr(error))


@pytest.mark.parametrize("start", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_notice_does_not_end_workers_that_are_just_starting(config, start):
    answers = SERVER.SimpleQueue()
    process = child(load_with_workers_told_to_stop, load_samples("arrow", config.data.root, "val"), start, answers)
    process.join(60)
    process.kill()  # a loader whose worker was lost waits for 10 minutes
    assert not answers.empty() and answers.get() == 8


def train_in_a_group_of_processes(config, folder, messages):
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    try:
        train.train(config, folder, on_step=lambda done, *_: messages.put(done))
    except BaseException as error:
        messages.put(repr(error))
    else:
        messages.put("was not stopped")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGHUP])
def test_a_notice_to_all_processes_is_time_to_save(config, tmp_path, number):
    """To the trainer and its loader's workers, as a cluster sends SIGTERM, and a terminal that is closed SIGHUP."""
    messages = SERVER.SimpleQueue()
    workers = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, workers=2),
        compute=dataclasses.replace(config.compute, save_minutes=10.0),
    )
    process = child(train_in_a_group_of_processes, workers, tmp_path, messages)
    assert messages.get() == 1
    os.killpg(process.pid, number)
    message = messages.get()
    while isinstance(message, int):
        message = messages.get()
    process.join()
    assert "stopped after step" in message and any((tmp_path / "snapshots").iterdir())
    assert train.train(workers, tmp_path)["epochs"] == 2
