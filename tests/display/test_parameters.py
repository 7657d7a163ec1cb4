import shlex
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from ctlib.checkpoints import CheckpointError
from ctlib.data.video import VideoError
from ctlib.display import parameters
from ctlib.models import NotFiniteError
from ctlib.training.processes import Interrupted
from ctlib.training.snapshots import SnapshotError
from ctlib.training.trainer import TrainingError

ONE_LINE = (parameters.ParameterError, Interrupted, VideoError, TrainingError, SnapshotError, CheckpointError)

DECLARED = 'epochs: int = 3  # passes\nlr: float = 0.1\nflip: bool = True\nnames: list[str] = ["a"]\nout_dir: str = "x"'


def check(*injected, **values):
    cells = ["", "import os", DECLARED, *(f"# Parameters\n{text}" for text in injected)]
    parameters.check_cells(cells, {"epochs": 3, "lr": 0.1, "flip": True, "names": ["a"], "out_dir": "x", **values})


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
        ({"out_dir": 2024}, "out_dir must be text, got int 2024: papermill's -r gives text"),
        ({"out_dir": True}, "out_dir must be text, got bool True: papermill's -r gives text"),
    ],
)
def test_a_wrong_type_is_named(values, text):
    with pytest.raises(TypeError, match=text):
        check(**values)


def test_the_last_parameters_cell_counts():
    cells = [DECLARED, "# Parameters\nepohcs = 3", "x = 1", DECLARED.replace("3", "4")]
    parameters.check_cells(cells, {"epochs": 4, "lr": 0.1, "flip": True, "names": [], "out_dir": ""})


def test_a_notebook_run_from_the_middle_raises():
    with pytest.raises(ValueError, match="run the notebook from its first cell"):
        parameters.check_cells(["x = 1", "import os"], {})


def test_errors_become_one_line():
    with pytest.raises(parameters.ParameterError, match="no folder x"), parameters.one_line_errors():
        raise FileNotFoundError("no folder x")
    with pytest.raises(KeyError), parameters.one_line_errors():
        raise KeyError("our own faults keep their traceback")


@pytest.mark.parametrize("error", [*ONE_LINE, NotFiniteError])
def test_a_notebook_shows_errors_whose_message_says_all_in_one_line(error, capsys):
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns["error"] = error("a.mp4: no such file")
    shell.run_cell("raise error")
    assert capsys.readouterr().out.splitlines() == [f"{error.__name__}: a.mp4: no such file"]


def test_paths_are_relative_to_the_project(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for here in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(here)
        assert parameters.project_path("results/x") == tmp_path / "results" / "x"
    study = tmp_path / "results" / "ablations"
    (study / "notebooks").mkdir(parents=True)  # a study of the ablations, which is not the project
    (study / "study.json").touch()
    for here in (study, study / "notebooks"):
        monkeypatch.chdir(here)
        assert parameters.project_path("results/x") == tmp_path / "results" / "x"
    assert parameters.project_path("/else/where") == Path("/else/where")
    assert parameters.project_path("~/x") == Path.home() / "x"


def test_files_are_named_between_spaces(tmp_path):
    for name in ("a.mp4", "b c.mp4"):
        (tmp_path / name).touch()
    given = parameters.given_files(f"{tmp_path}/a.mp4 '{tmp_path}/b c.mp4'")
    assert given == [tmp_path / "a.mp4", tmp_path / "b c.mp4"] and parameters.given_files("") == []
    with pytest.raises(FileNotFoundError, match="no file .*/d.mp4"):
        parameters.given_files(f"{tmp_path}/d.mp4")
    with pytest.raises(FileNotFoundError, match=f"no file {tmp_path}"):
        parameters.given_files(str(tmp_path))  # a folder


@pytest.mark.parametrize("name", ["Bob's.mp4", "a b.mp4", "[1] 'x' \"y\".mp4", "Al's and Bob's.mp4", "a\\b.mp4"])
def test_one_file_is_found_whatever_its_name_holds(tmp_path, name):
    path = tmp_path / name
    path.touch()
    (tmp_path / "Bobs.mp4").touch()
    assert parameters.given_files(str(path)) == parameters.given_files(shlex.quote(str(path))) == [path]
    assert parameters.given_files(f"{shlex.quote(str(path))} {tmp_path}/Bobs.mp4") == [path, tmp_path / "Bobs.mp4"]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no file .*needs quotes"):
        parameters.given_files(str(path))


@pytest.mark.parametrize(
    "cell",
    [
        "x: np.ndarray = 3",
        "self.x: int = 3",
        "x: int = f(3)",
        "x: int",
        "x = 3",
        "x: print('ran') = 3",
        "%time x",
        "",
        "x: int = {[]: 1}",
        "import os\nx: int = 3",
    ],
)
def test_a_cell_that_declares_no_literals_is_no_parameters_cell(cell, capsys):
    with pytest.raises(ValueError, match="no parameters cell has run"):
        parameters.check_cells([cell], {"x": 3})
    check()
    parameters.check_cells(
        [DECLARED, "# Parameters\nself.x = 3", cell], {"epochs": 3, "lr": 1, "flip": True, "names": [], "out_dir": ""}
    )
    assert capsys.readouterr().out == ""
