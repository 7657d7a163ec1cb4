"""The site of executed notebooks, made of small made-up ones: what leads where, what is drawn, what is left out."""

import base64
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ctlib import __main__, site
from tests import NOTEBOOKS, ROOT

FIRST = r"""# 1. First steps

**The question.** What is $C_1 \times C_2 < 9$,
and for whom?

Reading takes an hour, running about **20 seconds** on two
CPU cores. *To know before*: notebook [0. None](none.ipynb), a little Python. Next: [second](second.ipynb).

The record is [a file](../results/reference/second/table.csv), [elsewhere](https://example.org/x.ipynb) is not here.
![a dot](../results/dot.png) ![no dot](../results/gone.png)

## Why $\sqrt{C}$ is cheap

$$\sum_{k=1}^{K} C_k$$
"""
SECOND = "# Second\n\n**The question.** What then?\n\nIn **10 seconds**; all of it **about 2 minutes**, on one core."
DOT = base64.b64encode(b"\x89PNG not really").decode()


def written(path: Path, *cells, status: str | None = "completed", source: str = "", widgets: bool = False) -> Path:
    """A notebook, with the marks that papermill leaves if it was executed from `source`."""
    notebook = new_notebook(cells=list(cells))
    if source:
        notebook.metadata.papermill = {"input_path": source, "exception": None}
        for cell in notebook.cells:
            cell.metadata.papermill = {"status": "completed"}
        notebook.cells[-1].metadata.papermill.status = status
    if widgets:
        notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"1": {}}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project, its site, and what was told."""
    root = tmp_path_factory.mktemp("project")
    for name, text in (("1_first", FIRST), ("second", SECOND), ("never", "# Never run")):
        written(root / "notebooks" / f"{name}.ipynb", new_markdown_cell(text))
    rows = [f"| [{name}](notebooks/{name}.ipynb) | . |" for name in ("second", "1_first")]
    (root / "README.md").write_text("\n".join(["[never](notebooks/never.ipynb)", *rows]))

    results = root / "results"
    bundle = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "image/png": DOT, "text/plain": "Box()"}
    moving = new_code_cell("show()", execution_count=1)
    moving.outputs = [new_output("display_data", bundle, metadata={"image/png": {"alt": 'A "dot" & more'}})]
    plain = new_code_cell("draw()", execution_count=2)
    plain.outputs = [new_output("display_data", {"image/png": DOT, "text/plain": "Figure()"})]
    first = (new_markdown_cell(FIRST), moving, new_markdown_cell("### In colour\n\nwords"), plain)
    written(results / "teaching" / "1_first.ipynb", *first, source="notebooks/1_first.ipynb", widgets=True)
    (results / "dot.png").write_bytes(b"dot")
    for age, folder in enumerate(("second", "second (again)", "reference/second", "other/deeper")):
        copy = written(results / folder / "second.ipynb", new_markdown_cell(SECOND), source="/else/second.ipynb")
        os.utime(copy, (1e9 - age, 1e9 - age))
    for state in ("pending", "failed"):
        written(results / state / "never.ipynb", new_code_cell("1 / 0"), source="notebooks/never.ipynb", status=state)
    written(results / "by_hand.ipynb", new_markdown_cell("never executed by papermill"))

    told = []
    index = site.build(root, results / "site", told.append)
    pages = {str(p.relative_to(index.parent)): read(p) for p in sorted(index.parent.rglob("*.html"))}
    return root, pages, told


def read(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def links(page: BeautifulSoup) -> dict[str, str]:
    return {link.get_text(): link["href"] for link in page.select("a[href]:not(.anchor-link)")}


def assert_links_resolve(folder: Path, pages: dict[str, BeautifulSoup]) -> None:
    for name, page in pages.items():
        for link in page.select("a[href]"):
            target = urlsplit(link["href"])
            if target.scheme:
                assert target.scheme in ("https", "mailto"), f"{name}: {link}"
            elif target.path:
                assert (folder / name).parent.joinpath(unquote(target.path)).is_file(), f"{name}: {link}"
            else:
                assert page.find(id=unquote(target.fragment)), f"{name}: {link}"


def test_every_executed_notebook_has_a_page_and_no_other(made):
    _, pages, told = made
    second = {f"{folder}/second.html" for folder in ("second", "second (again)", "reference/second", "other/deeper")}
    assert set(pages) == {"index.html", "teaching/1_first.html"} | second
    assert len(told) == 2 and all("did not run to its end" in line and "never.ipynb" in line for line in told)


def test_every_link_of_every_page_resolves(made):
    root, pages, _ = made
    assert_links_resolve(root / "results" / "site", pages)


def test_links_lead_to_pages_and_to_nothing_that_may_be_missing(made):
    _, pages, _ = made
    found = links(pages["teaching/1_first.html"])
    assert found["second"] == "../second/second.html"
    assert found["all notebooks"] == "../index.html"
    assert found["elsewhere"] == "https://example.org/x.ipynb"
    assert not {"a file", "0. None"} & set(found)
    assert "a file" in pages["teaching/1_first.html"].get_text()


def test_pages_load_nothing_and_run_nothing(made):
    for page in made[1].values():
        assert not page.select("script, iframe, link")
        assert all(image["src"].startswith("data:") for image in page.select("img"))


def test_formulas_are_mathml_in_headings_and_in_the_index_too(made):
    _, pages, _ = made
    first = pages["teaching/1_first.html"]
    assert first.select_one("h2 math msqrt") and first.select_one('math[display="block"] munderover')
    assert "<" in first.math.get_text() and "$" not in first.get_text()
    assert pages["index.html"].select("td math")


def test_a_still_figure_with_its_text_stands_where_a_widget_was(made):
    figure, plain = made[1]["teaching/1_first.html"].select(".jp-OutputArea img")
    assert figure["alt"] == 'A "dot" & more' and figure["src"].endswith(DOT)
    assert plain["alt"] == "figure: In colour"  # of one without a text of its own


def test_a_project_s_image_is_in_the_page_and_a_missing_one_is_its_text(made):
    image, *others = made[1]["teaching/1_first.html"].select(".jp-MarkdownCell img")
    assert base64.b64decode(image["src"].partition(",")[2]) == b"dot" and image["alt"] == "a dot"
    assert not others and "no dot" in made[1]["teaching/1_first.html"].get_text()


def test_the_index_says_what_each_asks_takes_and_needs_in_the_readme_s_order(made):
    index = made[1]["index.html"]
    head, second, first, never = ([cell.get_text() for cell in row.select("th, td")] for row in index.select("tr"))
    assert head == ["notebook", "its question", "time to run", "to know before"]
    assert second == ["Second", "What then?", "about 2 minutes", ""]
    assert first[0] == "1. First steps" and first[1].endswith("and for whom?")
    assert first[2:] == ["20 seconds on two CPU cores", "notebook 0. None, a little Python"]
    assert never == ["Never run", "", "", ""]
    assert "Never run" not in links(index)


def test_a_title_leads_to_one_s_own_newest_run(made):
    root, pages, _ = made
    assert links(pages["index.html"])["Second"] == "second/second.html"
    os.utime(root / "results" / "second (again)" / "second.ipynb")
    again = site.build(root, root / "elsewhere", lambda _: None)
    assert links(read(again))["Second"] == "second%20%28again%29/second.html"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_this_study_s_notebooks_say_what_the_index_wants(path):
    found = site.about(nbformat.read(path, 4).cells[0].source)
    assert found.title and found.question.endswith((".", "?", ")")) and found.time
    assert not path.stem[0].isdigit() or found.before


def test_this_study_s_notebooks_become_pages_with_links_that_resolve(tmp_path):
    """As if all had been executed: their formulas, links and headings are those of the executed ones."""
    (tmp_path / "README.md").write_bytes((ROOT / "README.md").read_bytes())
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, 4)
        text = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
        written(tmp_path / "notebooks" / path.name, *text[:1])
        written(tmp_path / "results" / path.stem / path.name, *text, source=f"notebooks/{path.name}")
    index = site.build(tmp_path, tmp_path / "site")
    pages = {str(p.relative_to(index.parent)): read(p) for p in index.parent.rglob("*.html")}
    assert_links_resolve(index.parent, pages)
    assert len(pages) == len(NOTEBOOKS) + 1
    titles = {site.about(nbformat.read(path, 4).cells[0].source).title for path in NOTEBOOKS}
    assert titles | {path.stem for path in NOTEBOOKS} <= set(links(pages["index.html"]))


def test_the_command_line_makes_it_here(made, monkeypatch, capsys):
    root, *_ = made
    monkeypatch.chdir(root)
    assert __main__.main(["site"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "read results/site/index.html"
    monkeypatch.chdir(root / "results")
    assert __main__.main(["site", "out"]) == 2
    assert "README.md" in capsys.readouterr().err
