"""What a reader opens: pages of executed notebooks, the executed course, and the copies that `make lab` opens."""

import json
import re
import shutil
import subprocess

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from traitlets.config.loader import PyFileConfigLoader

from tests import ROOT

LESSONS = sorted((ROOT / "notebooks" / "learn").glob("*.ipynb"))
COPIES = ROOT / "results" / "teaching"
WIDGET = "application/vnd.jupyter.widget-view+json"


def test_a_page_has_formulas_and_still_pictures_without_a_network():
    explorer = new_code_cell("show()")
    explorer.outputs = [new_output("display_data", {WIDGET: {"model_id": "1"}, "image/png": "aaaa"})]
    notebook = new_notebook(cells=[new_markdown_cell(r"$C_1$ costs `$5` $$\sqrt{C}$$ and $\unknown{C}$"), explorer])
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    config = PyFileConfigLoader("config.py", str(ROOT / "docs" / "_nbconvert")).load_config()
    page, _ = HTMLExporter(config=config).from_notebook_node(notebook)
    assert page.count("<math") == 2 and "<msqrt" in page and "<code>$5</code>" in page
    assert r"<code>\unknown{C}</code>" in page
    assert "data:image/png;base64,aaaa" in page and WIDGET not in page
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_executed_course_ran_with_the_code_of_today(path):
    def code(notebook):
        return [(cell.id, cell.source) for cell in notebook.cells if cell.cell_type == "code"]

    copy = nbformat.read(COPIES / path.name, 4)
    assert code(copy) == code(nbformat.read(path, 4)), f"run `make teach`: {path.stem} has changed"
    cells = [cell for cell in copy.cells if cell.cell_type == "code"]
    assert {cell.metadata.papermill.status for cell in cells} == {"completed"}
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert "widgets" not in copy.metadata


def test_the_executed_course_is_small():
    assert sum(path.stat().st_size for path in COPIES.glob("*.ipynb")) < 2_000_000


def test_jupyterlab_opens_copies_that_stay_the_reader_s(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    opened = tmp_path / "bin" / "jupyter"
    for folder in (opened.parent, tmp_path / ".venv"):
        folder.mkdir()
    opened.write_text("#!/bin/sh\necho $@ > opened\n")
    opened.chmod(0o755)
    (tmp_path / ".venv" / "installed").touch()
    command = ["make", "lab", "BIN=bin"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    mine = tmp_path / "lab" / "learn" / LESSONS[0].name
    mine.write_text(json.dumps({"mine": True}))
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert json.loads(mine.read_text()) == {"mine": True}
    copied, sources = (
        sorted(path.name for path in (tmp_path / name).rglob("*.ipynb")) for name in ("lab", "notebooks")
    )
    assert copied == sources and "lab/quickstart.ipynb" in (tmp_path / "opened").read_text()
