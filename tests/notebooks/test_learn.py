"""The course: each notebook runs once with its exercises solved, and its exercise cells are current."""

import ast
import re

import nbformat
import pytest

from ctlib.display.parameters import ParameterError
from ctlib.teaching import exercise
from tests import ROOT
from tests.notebooks import run_here

SMALL = {
    "1_channel_tensorization": {"channels": 16, "size": 4, "num_frames": 2},
    "2_interaction": {"most": 2, "seeds": 2},
    "3_tensor_excitation": {"steps": 25, "pairs": 10, "more_seeds": [1]},
    "4_from_block_to_network": {"num_classes": 5, "num_frames": 2, "size": 64},
    "5_arrow_of_time": {"train_pairs": 4, "test_pairs": 2, "epochs": 1, "num_frames": 4},
    "6_read_an_ablation_table": {"seconds": 0.05},
}
SOURCES = sorted((ROOT / "notebooks" / "learn").glob("[1-9]_*.ipynb"))


@pytest.fixture(scope="module", params=SMALL)
def solved(request, run, tmp_path_factory):
    """The notebook's name, and its run with the solutions filled in."""
    filled = exercise.fill(nbformat.read(ROOT / "notebooks" / "learn" / f"{request.param}.ipynb", 4), solved=True)
    path = tmp_path_factory.mktemp("teaching") / "solved"
    nbformat.write(filled, f"{path}.ipynb")
    return request.param, run(path, **SMALL[request.param])


def test_every_notebook_is_run_here():
    assert [path.stem for path in SOURCES] == list(SMALL)


def test_it_runs_with_every_exercise_right(solved):
    name, shown = solved
    mine = [number for number in exercise.exercises() if number.startswith(name[0])]
    assert len(mine) >= 3
    for number in mine:
        assert f"Exercise {number}: right. " in shown.text
    assert "not yet" not in shown.text


def test_its_figures_have_text_alternatives(solved):
    _, shown = solved
    assert len(shown.alts) >= 3 and min(map(len, shown.alts)) > 30


def test_it_ends_with_what_was_found(solved):
    name, shown = solved
    *_, heading, _ = nbformat.read(ROOT / "notebooks" / "learn" / f"{name}.ipynb", 4).cells
    assert heading.source.endswith("## What was found")
    assert shown.last.count("\n") >= 3


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_its_exercises_are_current_and_blank(path):
    stored = nbformat.read(path, 4)
    sources = [cell.source for cell in stored.cells]
    assert [cell.source for cell in exercise.fill(stored).cells] == sources
    tags = [tag for cell in stored.cells for tag in cell.metadata.get("tags", []) if tag.startswith("exercise")]
    mine = [number for number in exercise.exercises() if number.startswith(path.stem[0])]
    parts = ("answer", "check", "question")
    assert sorted(tags) == [f"exercise-{number}-{part}" for number in mine for part in parts]
    questions = [source for source in sources if source.startswith("**Exercise ")]
    assert [source.split("**")[1] for source in questions] == [f"Exercise {number}" for number in mine]


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("1_channel_tensorization", {"channel": 16}, "unknown parameter 'channel': did you mean 'channels'"),
        ("1_channel_tensorization", {"channels": 13}, "channels must not be a prime number, got 13"),
        ("2_interaction", {"seed": 1}, "unknown parameter 'seed': did you mean 'seeds'"),
        ("2_interaction", {"channels": 8}, "channels must split into 4 sizes above 1, got 8"),
        ("3_tensor_excitation", {"step": 7}, "unknown parameter 'step': did you mean 'steps'"),
        ("3_tensor_excitation", {"steps": 7}, "steps must be at least 25, got 7"),
        ("4_from_block_to_network", {"num_frame": 8}, "unknown parameter 'num_frame': did you mean 'num_frames'"),
        ("4_from_block_to_network", {"size": 16}, "size must be at least 32, got 16"),
        ("5_arrow_of_time", {"train_pair": 3}, "unknown parameter 'train_pair': did you mean 'train_pairs'"),
        ("5_arrow_of_time", {"train_pairs": 3}, "train_pairs must be at least 4"),
        ("6_read_an_ablation_table", {"tables": "2g"}, "unknown parameter 'tables': did you mean 'table'"),
        ("6_read_an_ablation_table", {"table": "3"}, "unknown table '3'"),
        ("6_read_an_ablation_table", {"table": "6"}, "table must be one with a model, Table 6 has paired tests"),
        ("6_read_an_ablation_table", {"tables_dir": "docs"}, f"the study's tables, {ROOT}/docs has none"),
        ("6_read_an_ablation_table", {"margin": -1.0}, "margin must be at least 0, got -1.0"),
    ],
)
def test_a_bad_parameter_is_one_line_before_any_work(name, parameters, text):
    with pytest.raises(ParameterError, match=text):
        run_here(f"learn/{name}", **parameters)


def assigned(source: str) -> set[str]:
    """The names that code sets in the notebook, except inside its functions and comprehensions."""
    names, waiting = set(), list(ast.parse(source).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            waiting.extend(ast.iter_child_nodes(node))
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_cell_takes_a_name_that_an_exercise_has(path):
    """Else its check, run again later, would judge another value."""
    theirs, others = set(), set()
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            answer = any(tag.endswith("-answer") for tag in cell.metadata.get("tags", []))
            (theirs if answer else others).update(assigned(cell.source))
    assert theirs and not theirs & others


def test_their_links_lead_somewhere():
    for path in SOURCES:
        for cell in nbformat.read(path, 4).cells:
            for target in re.findall(r"\]\((\w[^):]*)\)", cell.source if cell.cell_type == "markdown" else ""):
                assert (path.parent / target).is_file(), f"{path.name} links to {target}"
