import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest

from ctlib.display import notebook

DECLARED = 'epochs: int = 3  # passes\nlr: float = 0.1\nflip: bool = True\nnames: list[str] = ["a"]'


def check(*injected, **values):
    cells = ["", "import os", DECLARED, *(f"# Parameters\n{text}" for text in injected)]
    notebook._check(cells, {"epochs": 3, "lr": 0.1, "flip": True, "names": ["a"], **values})


def test_good_parameters_pass():
    check()
    check("epochs = 5\nlr = 1", epochs=5, lr=1)


def test_an_old_parameter_names_its_new_name():
    with pytest.raises(ValueError, match="'own_row' was replaced: write custom_row"):
        check("own_row = 'a'")


def test_a_misspelt_parameter_names_the_right_one():
    with pytest.raises(ValueError, match="unknown parameter 'epohcs': did you mean 'epochs'"):
        check("epohcs = 3")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"flip": "false"}, "flip must be bool, got str 'false'"),
        ({"epochs": 2.5}, "epochs must be int, got float 2.5"),
        ({"names": "[a]"}, "names must be list"),
        ({"lr": "0.1"}, "lr must be float"),
    ],
)
def test_a_wrong_type_is_named(values, text):
    with pytest.raises(TypeError, match=text):
        check(**values)


def test_the_last_parameters_cell_counts():
    cells = [DECLARED, "# Parameters\nepohcs = 3", "x = 1", DECLARED.replace("3", "4")]
    notebook._check(cells, {"epochs": 4, "lr": 0.1, "flip": True, "names": []})


def test_a_notebook_run_from_the_middle_raises():
    with pytest.raises(ValueError, match="run the notebook from its first cell"):
        notebook._check(["x = 1", "import os"], {})


def test_errors_become_one_line():
    with pytest.raises(notebook.ParameterError, match="no folder x") as caught, notebook.one_line_errors():
        raise FileNotFoundError("no folder x")
    assert caught.value._render_traceback_() == ["ParameterError: no folder x"]
    with pytest.raises(KeyError), notebook.one_line_errors():
        raise KeyError("our own faults keep their traceback")


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
    with notebook.Progress("TSN", 12, batch=4) as progress:
        progress.on_step(1, 24, 1.5)
        progress.on_epoch(row(3))
    out = capsys.readouterr()
    assert out.out == "   TSN  epoch  3/12  loss 1.500  train  40.0 %  test  43.8 %  7 s\n" and out.err == ""
    assert progress.epochs_run == 1
    show = notebook.counting("clips")
    for done in range(2, 41, 2):
        show(done, 40)
    assert capsys.readouterr().out.splitlines() == [f"clips: {done} of 40" for done in (10, 20, 30, 40)]


def test_epochs_of_an_earlier_training_are_one_line(capsys):
    with notebook.Progress("TSN", 12, batch=4) as progress:
        progress.on_epoch(row(1))
        progress.on_epoch(row(2))
        progress.on_step(6, 24, 1.5)
        progress.on_epoch(row(3))
    earlier, epoch = capsys.readouterr().out.splitlines()
    assert (
        earlier == "   TSN  resumed after 2 of 12 epochs  loss 1.500  train  40.0 %  test  43.8 %"
        and " epoch  3/12 " in epoch
    )
    assert progress.epochs_run == 1


@pytest.mark.parametrize("rows", [0, 2])
def test_a_finished_run_shows_nothing(rows, capsys):
    with notebook.Progress("TSN", 2, batch=4) as progress:
        for epoch in range(rows):
            progress.on_epoch(row(epoch + 1))
    assert progress.epochs_run == 0 and capsys.readouterr().out == ""


@pytest.mark.parametrize(("metadata", "expected"), [({"cellId": "a"}, True), ({}, False), (None, False)])
def test_front_ends_name_the_cell_that_they_run_and_papermill_does_not(metadata, expected, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "passed on by the notebook that called papermill")
    kernel = None if metadata is None else SimpleNamespace(get_parent=lambda channel: {"metadata": metadata})
    shell = SimpleNamespace(kernel=kernel) if kernel else SimpleNamespace()  # IPython in a terminal
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert notebook.interactive() is expected


def test_time_left_is_steps_and_tests():
    clock = Clock()
    log = notebook.TrainingLog("TSN", 4, batch=16, clock=clock)
    clock.now = 100.0  # until the first step: it counts for nothing
    assert log.status() == "starting" and log.seconds_left is None
    run_epoch(log, clock, 1, test=None)
    assert log.samples_per_second == pytest.approx(32) and log.testing
    assert log.seconds_left == pytest.approx(30 * 0.5)  # no test was seen yet, and the text says so
    assert log.status() == "epoch 1 of 4 · step 10 of 40 · loss 2.000 · testing · over 0:00:15 left"
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
    log = notebook.TrainingLog("TSN", 4, batch=16, clock=clock)
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


def test_speed_is_of_the_last_seconds():
    clock = Clock()
    log = notebook.TrainingLog("TSN", 1, batch=10, clock=clock)
    for step in range(1, 201):
        clock.now += 1.0 if step <= 100 else 0.5
        log.on_step(step, 200, 2.0)
    assert log.samples_per_second == pytest.approx(20)


def test_paths_are_relative_to_the_project(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for here in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(here)
        assert notebook.project_path("results/x") == tmp_path / "results" / "x"
    study = tmp_path / "results" / "ablations"
    (study / "notebooks").mkdir(parents=True)  # a study of the ablations, which is not the project
    (study / "study.json").touch()
    for here in (study, study / "notebooks"):
        monkeypatch.chdir(here)
        assert notebook.project_path("results/x") == tmp_path / "results" / "x"
    assert notebook.project_path("/else/where") == Path("/else/where")
    assert notebook.project_path("~/x") == Path.home() / "x"


def test_figures_are_saved_as_png(tmp_path):
    figure, _ = plt.subplots()
    assert notebook.save(figure, tmp_path / "figures", "x") is figure
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["x.png"]
    plt.close(figure)


def test_files_are_named_between_spaces(tmp_path):
    for name in ("a.mp4", "b c.mp4"):
        (tmp_path / name).touch()
    given = notebook.given_files(f"{tmp_path}/a.mp4 '{tmp_path}/b c.mp4'")
    assert given == [tmp_path / "a.mp4", tmp_path / "b c.mp4"] and notebook.given_files("") == []
    with pytest.raises(FileNotFoundError, match="no file .*/d.mp4"):
        notebook.given_files(f"{tmp_path}/d.mp4")
