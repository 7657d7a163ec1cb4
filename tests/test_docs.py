"""The site that `make html` builds, from this project's own pages, notebooks and docstrings."""

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests import ROOT

pytestmark = pytest.mark.slow  # the whole site is built

DOT = base64.b64encode(b"\x89PNG not really").decode()


def executed_lesson() -> nbformat.NotebookNode:
    """Lesson 1 as papermill leaves it, with a formula, a widget and its still figure, and a figure without a text."""
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "image/png": DOT, "text/plain": "Box()"}
    moving, plain = new_code_cell("show()"), new_code_cell("draw()")
    moving.outputs = [new_output("display_data", widget, metadata={"image/png": {"alt": 'A "dot" & more'}})]
    plain.outputs = [new_output("display_data", {"image/png": DOT, "text/plain": "Figure()"})]
    text = "# Executed\n\nWhat is $C_1 \\times C_2$?\n\n## In colour"
    notebook = new_notebook(cells=[new_markdown_cell(text), moving, plain])
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.metadata.papermill = {"input_path": "notebooks/learn/1_channel_tensorization.ipynb"}
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"1": {}}}}
    for cell in notebook.cells:
        cell.metadata.papermill = {"status": "completed"}
    return notebook


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site of this project, in which one lesson has been executed. A warning is an error."""
    root = tmp_path_factory.mktemp("project")
    others = shutil.ignore_patterns(".*", "__pycache__", "api", "runs", "site", "teaching", "lessons")
    for name in ("docs", "notebooks", "results", "benchmarks"):
        shutil.copytree(ROOT / name, root / name, ignore=others)
    shutil.copytree(ROOT / "ctlib", root / "ctlib", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [path for path in ROOT.iterdir() if path.is_file()]:
        shutil.copy(path, root)
    (root / "results" / "teaching").mkdir()
    nbformat.write(executed_lesson(), root / "results" / "teaching" / "1_channel_tensorization.ipynb")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-c", "docs", ".", "results/site"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root / "results" / "site"


def read(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def test_every_page_and_module_is_in_it(site):
    pages = ["README.md", "CHANGELOG.md", "benchmarks/README.md", "results/README.md"]
    pages += [str(path.relative_to(ROOT)) for path in ROOT.glob("ctlib/*/README.md")]
    pages += [str(path.relative_to(ROOT)) for path in ROOT.glob("notebooks/**/*.ipynb")]
    assert not [page for page in pages if not (site / page).with_suffix(".html").exists()]
    modules = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "ctlib").rglob("*.py")]
    names = {".".join(path.parts).removesuffix(".__init__") for path in modules} - {"ctlib.__main__"}
    assert names == {path.stem for path in (site / "docs" / "api").glob("*.html")}
    assert "docs/index.html" in (site / "index.html").read_text()


def test_no_page_loads_anything_from_the_network(site):
    loaded = re.compile(r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="((?:https?:)?//[^"]*)"')
    addresses = {path.name: loaded.findall(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert {name: found for name, found in addresses.items() if found} == {}
    assert not [path for path in site.rglob("*.css") if "url(http" in path.read_text() or "url(//" in path.read_text()]


def test_an_executed_notebook_has_formulas_and_still_figures_with_their_texts(site):
    page = read(site / "notebooks" / "learn" / "1_channel_tensorization.html")
    assert page.select_one("h1").get_text().startswith("Executed")
    assert r"\(C_1 \times C_2\)" in page.select_one("span.math").get_text()
    assert (site / "_static" / "mathjax" / "tex-svg.js").exists()
    assert [image["alt"] for image in page.select(".cell_output img")] == ['A "dot" & more', "figure: In colour"]


def test_lessons_lead_to_one_another_and_words_are_found(site):
    page = read(site / "notebooks" / "learn" / "5_arrow_of_time.html")
    near = [Path(link["href"]).stem for link in page.select(".related-pages a")]
    assert near == ["6_read_an_ablation_table", "4_from_block_to_network"]
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert '"notebooks/learn/5_arrow_of_time"' in index and '"overfit"' in index


def test_links_between_pages_lead_to_pages(site):
    broken = []
    for path in [*site.glob("*.html"), *site.glob("notebooks/**/*.html"), *site.glob("results/**/*.html")]:
        for link in read(path).select("a[href]"):
            target = link["href"].partition("#")[0]
            if target and "://" not in target and not (path.parent / target).exists():
                broken.append((path.name, target))
    assert broken == []
