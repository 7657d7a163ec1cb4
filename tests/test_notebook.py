from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from ctlib import notebook

DECLARED = 'epochs: int = 3  # passes\nlr: float = 0.1\nflip: bool = True\nnames: list[str] = ["a"]'


def check(*injected, **values):
    cells = ["", "import os", DECLARED, *(f"# Parameters\n{text}" for text in injected)]
    notebook._check(cells, {"epochs": 3, "lr": 0.1, "flip": True, "names": ["a"], **values})


def test_good_parameters_pass():
    check()
    check("epochs = 5\nlr = 1", epochs=5, lr=1)


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


def test_a_notebook_run_from_the_middle_is_told_so():
    with pytest.raises(ValueError, match="run the notebook from its first cell"):
        notebook._check(["x = 1", "import os"], {})


def test_errors_become_one_line():
    with pytest.raises(notebook.ParameterError, match="no folder x") as caught, notebook.one_line_errors():
        raise FileNotFoundError("no folder x")
    assert caught.value._render_traceback_() == ["ParameterError: no folder x"]
    with pytest.raises(KeyError), notebook.one_line_errors():
        raise KeyError("a fault of ours keeps its traceback")


def test_without_a_reader_progress_is_a_line_an_epoch(capsys, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    progress = notebook.Progress("TSN", 12)
    progress.on_step(1, 24)
    progress.on_epoch({"epoch": 3, "loss": 1.5, "train_top1": 40.0, "top1": 43.75, "seconds": 7.2})
    out = capsys.readouterr()
    assert out.out == "   TSN  epoch  3/12  loss 1.500  train  40.0 %  test  43.8 %  7 s\n" and out.err == ""
    show = notebook.counting("clips")
    for done in range(2, 41, 2):
        show(done, 40)
    assert capsys.readouterr().out.splitlines() == [f"clips: {done} of 40" for done in (10, 20, 30, 40)]


def test_paths_are_relative_to_the_project(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for here in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(here)
        assert notebook.project_path("results/x") == tmp_path / "results" / "x"
    assert notebook.project_path("/else/where") == Path("/else/where")
    assert notebook.project_path("~/x") == Path.home() / "x"


def test_paths_below_the_home_folder_are_written_with_a_tilde():
    assert notebook.portable(Path.home() / "a" / "b") == "~/a/b"
    assert notebook.portable(Path("/else/where")) == "/else/where"


def test_figures_are_kept_as_pixels_and_vectors(tmp_path):
    figure, _ = plt.subplots()
    assert notebook.keep(figure, tmp_path / "figures", "x") is figure
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["x.png", "x.svg"]
    plt.close(figure)
