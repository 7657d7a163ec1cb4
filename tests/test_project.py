"""The project's own files agree with one another, and its notebooks with the rules for them."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
import yaml
from importlinter.cli import lint_imports
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ctlib.training import recipes
from tests import NOTEBOOKS, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)

TARGETS = """
help study costs videos evaluate transfer ablations report accuracy saliency rivals teach html benchmark
bench-saliency bench-explorers bench-loading bench-listing test test-all lint format lab clean
"""


def required():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [requirement for part in lists for requirement in part]


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    pinned = {canonicalize_name(name): pin for name, pin in CONSTRAINTS.items()}
    for requirement in map(Requirement, required()):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), str(requirement)


def test_what_is_installed_here_is_what_is_pinned():
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("another environment than the Makefile's: other versions are allowed there")
    for name in ("torch", "torchvision", "papermill", "numpy"):
        assert version(name).split("+")[0] == CONSTRAINTS[name]


def test_environment_yml_installs_the_package_and_lists_nothing_twice():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert [re.split("[=<>]", name)[0] for name in conda] == ["python", "pip"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[notebooks,onnx,test,docs]"]}
    assert set(PROJECT["optional-dependencies"]) == {"notebooks", "onnx", "docs", "test"}
    python = re.search(r"[\d.]+", conda[0]).group()
    assert PROJECT["requires-python"] == f">={python}"


def test_the_makefile_installs_the_same_and_lists_its_targets():
    makefile = (ROOT / "Makefile").read_text()
    assert "--constraint constraints.txt --editable '.[notebooks,onnx,test,docs]'" in makefile
    listed = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert set(TARGETS.split()) <= set(re.findall(r"^([a-z-]+) ", listed, re.M))


def test_newer_torch_than_the_pinned_is_not_shut_out():
    assert "torch>=2.11" in PROJECT["dependencies"]


def test_ci_runs_the_readme_s_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_importing_ctlib_gives_what_others_build_on_loads_no_decoder_and_prints_nothing():
    names = [f"{kind}_{backbone}" for kind in ("ctnet", "tsn") for backbone in ("r50", "r101", "inception_v3")]
    names += ["cost.count", "cost.latency", "cost.interact_field", "paper.table", "runs.load", "build_model"]
    names += ["data.load_samples", "data.ClipDataset", "data.video.read_frames"]
    names += ["checkpoints.load", "checkpoints.save", "checkpoints.load_released", "from_pretrained", "list_weights"]
    code = "import sys, ctlib, ctlib.commands.datasets, ctlib.data.check; "
    code += "assert not {'torch', 'pandas', 'av'} & set(sys.modules); "  # so that check-videos starts at once
    code += "ctlib.build_model(ctlib.ModelConfig(backbone='quickstart', blocks='all', module='tsm')); "
    code += ", ".join(f"ctlib.{name}" for name in names)
    code += "; assert not {'decord', 'av', 'IPython'} & set(sys.modules), sorted(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == done.stderr == "", done.stderr


def test_the_laptop_s_data_are_those_that_the_command_line_writes():
    """Else `make study` would write one data set and train on another."""
    assert recipes.RECIPES["laptop"].arrow == {}


def test_imports_run_one_way():
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == 0, "see `make lint`"


def test_a_wheel_holds_every_package_table_and_weight(tmp_path):
    """Built from a copy, because a build leaves files in the tree."""
    shutil.copytree(ROOT / "ctlib", tmp_path / "ctlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("ctlib-*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("ctlib/")}
    files = {str(path.relative_to(tmp_path)) for path in (tmp_path / "ctlib").rglob("*") if path.is_file()}
    assert held == {name for name in files if not name.endswith(".md")}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebookSource:
    def test_it_is_stored_without_outputs(self, path):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3" and notebook.metadata.language_info.name == "python"
        assert "widgets" not in notebook.metadata and "papermill" not in notebook.metadata
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert cell.outputs == [] and cell.execution_count is None

    def test_it_says_at_its_top_what_it_asks_and_how_long_it_takes(self, path):
        top = nbformat.read(path, 4).cells[0]
        assert top.cell_type == "markdown"
        assert "**The question.**" in top.source and re.search(r"minute|second", top.source)

    def test_its_parameters_are_literals_with_types_and_help(self, path):
        cells = nbformat.read(path, 4).cells
        (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        for line in cell.source.splitlines():
            assert re.fullmatch(r"\w+: (int|float|bool|str|list\[\w+\]) = .+  # .+", line), line
        following = cells[cells.index(cell) + 1]
        assert "notebook.check_parameters()" in following.source
