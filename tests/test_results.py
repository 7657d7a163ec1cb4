"""What is committed under `results/`, and the pages that lead there."""

import importlib.util
import json
import re

import pytest

from tests import NOTEBOOKS, ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("ctlib/*/*.md"), *ROOT.glob("results/**/*.md")]
EXECUTED = sorted(ROOT.glob("results/notebooks/*.ipynb"))


@pytest.fixture(scope="module")
def publish():
    spec = importlib.util.spec_from_file_location("publish", ROOT / ".ci" / "publish.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS, *EXECUTED], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_hold_where_the_page_lies(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_a_published_notebook_has_the_text_of_today_and_links_that_hold(publish, tmp_path, monkeypatch):
    notebooks, target = tmp_path / "notebooks", tmp_path / "results" / "notebooks" / "report.ipynb"
    target.parent.mkdir(parents=True)
    notebooks.mkdir()
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "SOURCES", notebooks)
    for name in ("costs", "train", "report"):
        (notebooks / f"{name}.ipynb").touch()
    (target.parent / "costs.ipynb").touch()
    now = "[notes](../results#a) [a](costs.ipynb) [b](train.ipynb) [self](../results/notebooks/report.ipynb) [c](https://x.y)"
    then = "[notes](..#a) [a](costs.ipynb) [b](../../notebooks/train.ipynb) [self](report.ipynb) [c](https://x.y)"

    def notebook(text):
        return json.dumps({"cells": [{"id": "1", "cell_type": "markdown", "source": [text]}]})

    (notebooks / "report.ipynb").write_text(notebook(now))
    target.write_text(notebook("an older text"))
    for _ in range(2):
        publish.write_notebook(target, target)
        assert json.loads(target.read_text())["cells"][0]["source"] == [then]
