import math
import sys
from types import SimpleNamespace

import pytest

from ctlib.display import progress
from ctlib.display.progress import Progress, TrainingLog


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self):
        return self.now


def row(epoch, **values):
    return {"epoch": epoch, "loss": 1.5, "train_top1": 40.0, "top1": 43.75, "seconds": 7.2, **values}


def run_epoch(log, clock, epoch, steps=10, step=0.5, test=3.0, begin=0, epochs=4):
    """An epoch's steps and, if it has a duration, its test, on the clock."""
    for index in range(begin, steps):
        clock.now += step
        log.on_step((epoch - 1) * steps + index + 1, epochs * steps, 2.0)
    if test is not None:
        clock.now += test
        log.on_epoch(row(epoch))


def test_without_a_reader_progress_is_one_line_per_epoch(capsys):
    with Progress("TSN", 12, batch=4) as shown:
        shown.on_step(1, 24, 1.5)
        shown.on_epoch(row(3))
    out = capsys.readouterr()
    assert out.out == "   TSN  epoch  3/12  loss 1.500  train  40.0 %  test  43.8 %  7 s\n" and out.err == ""
    assert shown.epochs_run == 1
    show = progress.counting("clips")
    for done in range(2, 41, 2):
        show(done, 40)
    progress.counting("clips")(0, 0)
    assert capsys.readouterr().out.splitlines() == [f"clips: {done} of 40" for done in (10, 20, 30, 40)]


def test_on_a_terminal_a_count_is_a_bar_whose_speed_leaves_out_what_was_done_before(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = progress.counting("clips")
    for done in (39, 40):
        show(done, 40)
    out, err = capsys.readouterr()
    assert out == "" and "clips: 100%" in err and "40/40" in err
    show = progress.counting("clips")
    show(40, 40)
    assert "40/40 [00:00<?, ?it/s]" in capsys.readouterr().err  # not 40 in no time


def test_epochs_of_an_earlier_training_are_one_line(capsys):
    with Progress("TSN", 12, batch=4) as shown:
        shown.on_epoch(row(1))
        shown.on_epoch(row(2))
        shown.on_step(6, 24, 1.5)
        shown.on_epoch(row(3))
    earlier, epoch = capsys.readouterr().out.splitlines()
    assert (
        earlier == "   TSN  resumed after 2 of 12 epochs  loss 1.500  train  40.0 %  test  43.8 %"
        and " epoch  3/12 " in epoch
    )
    assert shown.epochs_run == 1


@pytest.mark.parametrize("rows", [0, 2])
def test_a_finished_run_shows_nothing(rows, capsys):
    with Progress("TSN", 2, batch=4) as shown:
        for epoch in range(rows):
            shown.on_epoch(row(epoch + 1))
    assert shown.epochs_run == 0 and capsys.readouterr().out == ""


@pytest.mark.parametrize(("metadata", "expected"), [({"cellId": "a"}, True), ({}, False), (None, False)])
def test_front_ends_name_the_cell_that_they_run_and_papermill_does_not(metadata, expected, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "passed on by the notebook that called papermill")
    kernel = None if metadata is None else SimpleNamespace(get_parent=lambda channel: {"metadata": metadata})
    shell = SimpleNamespace(kernel=kernel) if kernel else SimpleNamespace()  # IPython in a terminal
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert progress.interactive() is expected


def test_time_left_is_steps_and_tests():
    clock = Clock()
    log = TrainingLog("TSN", 4, batch=16, clock=clock)
    clock.now = 100.0  # until the first step: it counts for nothing
    assert log.status() == "starting" and log.seconds_left is None
    run_epoch(log, clock, 1, test=None)
    assert log.samples_per_second == pytest.approx(32) and log.testing
    assert log.seconds_left == pytest.approx(30 * 0.5)  # no test was seen yet, and the text says so
    assert log.status() == "epoch 1 of 4 · step 10 of 40 · loss 2.000 · testing · at least 0:00:15 left"
    clock.now += 3.0
    log.on_epoch(row(1))
    assert log.seconds_left == pytest.approx(30 * 0.5 + 3 * 3.0)
    run_epoch(log, clock, 2)
    assert log.samples_per_second == pytest.approx(32)  # the test between is not counted as a slow step
    assert log.seconds_left == pytest.approx(20 * 0.5 + 2 * 3.0)
    assert log.status() == "epoch 3 of 4 · step 20 of 40 · 32 samples per second · 0:00:16 left"
    run_epoch(log, clock, 3)
    run_epoch(log, clock, 4)
    assert log.seconds_left == 0


def test_time_left_after_resuming_in_an_epoch():
    clock = Clock()
    log = TrainingLog("TSN", 4, batch=16, clock=clock)
    for epoch in (1, 2):
        log.on_epoch(row(epoch, seconds=9.0))
    run_epoch(log, clock, 3, begin=7, test=None)
    assert log.resumed == 2
    assert log.samples_per_second == pytest.approx(32)
    assert log.seconds_left == pytest.approx(10 * 0.5 + 2 * (9.0 - 10 * 0.5))  # tests as in the earlier epochs
    clock.now += 1.0
    log.on_epoch(row(3))
    assert log.seconds_left == pytest.approx(10 * 0.5 + 1.0)
    log.on_step(31, 40, 2.0)
    clock.now += 61.0
    assert (
        log.summary("stopped").splitlines()[0]
        == "TSN: stopped, step 31 of 40, 3 of 4 epochs (2 from an earlier training), 0:01:04"
    )


def test_epochs_without_a_test_have_no_test_accuracy_and_take_no_time_to_test(capsys):
    clock = Clock()
    log = TrainingLog("TSN", 4, batch=16, clock=clock)
    untested = row(1, top1=math.nan)
    run_epoch(log, clock, 1, test=None)
    log.on_epoch(untested)
    assert log.line(untested) == "   TSN  epoch 1/4  loss 1.500  train  40.0 %  7 s"
    assert log.test_seconds is None and log.seconds_left == pytest.approx(30 * 0.5)
    run_epoch(log, clock, 2, test=None)
    log.on_epoch(row(2, top1=math.nan))
    run_epoch(log, clock, 3)
    assert log.seconds_left == pytest.approx(10 * 0.5 + 3.0)
    resumed = TrainingLog("TSN", 4, batch=16, clock=clock)
    resumed.on_epoch(untested)
    run_epoch(resumed, clock, 2, begin=7, test=None)
    assert resumed.test_seconds is None and resumed.seconds_left == pytest.approx(20 * 0.5)
    with Progress("TSN", 4, batch=16) as shown:
        shown.on_epoch(untested)
        shown.on_step(11, 40, 1.5)
    assert capsys.readouterr().out == "   TSN  resumed after 1 of 4 epochs  loss 1.500  train  40.0 %\n"


def test_speed_is_of_the_last_seconds():
    clock = Clock()
    log = TrainingLog("TSN", 1, batch=10, clock=clock)
    for step in range(1, 201):
        clock.now += 1.0 if step <= 100 else 0.5
        log.on_step(step, 200, 2.0)
    assert log.samples_per_second == pytest.approx(20)
