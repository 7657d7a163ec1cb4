"""The executed notebooks as a static site: pages that need no Jupyter, no network and no scripts.

nbconvert makes the pages. Added here: formulas as MathML, which browsers draw by themselves; links from notebook to
notebook that lead to pages; the still figure where a widget was; and an index, made of what notebooks say at their top.
"""

import base64
import mimetypes
import posixpath
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

import nbformat
from jinja2 import pass_context
from latex2mathml import converter
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

INTRODUCTION = """# The reference study of CT-Net: its notebooks, executed

A title leads to the notebook with what running it gave: your own run where there is one, the newest, else the one that
came with the study. A title that is no link has not been run to its end here. What moves in JupyterLab stands still on
these pages. They load nothing from the network; formulas are MathML, which browsers have drawn since 2023.
"""


class About(NamedTuple):
    """What a notebook says of itself in its first cell, as markdown; nothing where it does not."""

    title: str
    question: str
    time: str
    before: str  # what to know before


def about(top: str) -> About:
    """Read a notebook's first cell: a heading, **The question.**, the time in bold, *To know before*."""

    def said(pattern: str) -> str:
        found = re.findall(pattern, top, re.M | re.S)
        return " ".join(found[-1].split()).replace("|", r"\|") if found else ""

    return About(
        title=said(r"\A# ([^\n]+)"),
        question=said(r"^\*\*The question\.\*\*\s(.+?)(?:\n\s*\n|\Z)"),
        time=said(r"(\*\*[^*]*(?:second|minute|hour)s?\*\*[^.,;:]*)"),
        before=said(r"\*To know before\*:((?:\[[^\]]*\]\([^)]*\)|[^.])+)"),
    )


def build(root: str | Path, out: str | Path, tell: Callable[[str], None] = print) -> Path:
    """Write a page for every executed notebook under `results/`, and an index of the notebooks in the README's order.

    Args:
        root: the project's folder.
        out: where the site goes. Pages of the same notebooks are replaced, others stay.
        tell: called with a line for each notebook that is left out because it did not run to its end.

    Returns:
        The index page.

    Raises:
        FileNotFoundError: `root` has no README.md, or no notebooks.
    """
    root, out = Path(root), Path(out)
    tops = {path: _top(nbformat.read(path, 4)) for path in _in_reading_order(root)}
    executed = {}
    for path in sorted((root / "results").rglob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        if "papermill" not in notebook.metadata or ".ipynb_checkpoints" in path.parts:
            continue
        if _ran_to_its_end(notebook):
            executed[path] = notebook
        else:
            tell(f"left out, as it did not run to its end: {path}")

    pages = {_name(path, root): _name(path.with_suffix(".html"), root / "results") for path in executed}
    for path in sorted(executed, key=lambda path: _rank(path, root)):  # the last one wins
        pages[f"notebooks/{Path(executed[path].metadata.papermill.input_path).name}"] = pages[_name(path, root)]

    for path, notebook in executed.items():
        page = pages[_name(path, root)]
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        (out / page).write_text(_page(notebook, page, pages, root), encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join([INTRODUCTION, *_table(tops, root), "", "## Every executed notebook", "", *_list(executed, root)])
    index = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    (out / "index.html").write_text(_page(index, "index.html", pages, root), encoding="utf-8")
    return out / "index.html"


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _top(notebook: nbformat.NotebookNode) -> str:
    return notebook.cells[0].source if notebook.cells else ""


def _in_reading_order(root: Path) -> list[Path]:
    """The notebooks as the README's tables list them, and after these any others."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[.*?\]\((notebooks/\w+\.ipynb)\)", readme, re.M)
    there = sorted((root / "notebooks").glob("*.ipynb"))
    if not there:
        raise FileNotFoundError(f"no notebooks in {root / 'notebooks'}")
    return list(dict.fromkeys([root / name for name in listed if root / name in there] + there))


def _ran_to_its_end(notebook: nbformat.NotebookNode) -> bool:
    """Whether papermill completed every cell: an interrupted run has none that failed, but some that wait."""
    states = [cell.metadata.get("papermill", {}).get("status", "completed") for cell in notebook.cells]
    return all(state == "completed" for state in states) and not notebook.metadata.papermill.get("exception")


def _rank(path: Path, root: Path) -> tuple:
    """Which executed copy of a notebook stands for it: the reader's own, summaries before single runs, the newest."""
    parts = path.relative_to(root / "results").parts
    return parts[0] != "reference", -len(parts), path.stat().st_mtime


def _table(tops: dict[Path, str], root: Path) -> list[str]:
    rows = ["| notebook | its question | time to run | to know before |", "| --- | --- | --- | --- |"]
    for path, top in tops.items():
        found = about(top)
        rows.append(f"| [{found.title or path.stem}]({path.name}) | {found.question} | {found.time} | {found.before} |")
    return rows


def _list(executed: dict[Path, nbformat.NotebookNode], root: Path) -> list[str]:
    folders: dict[str, list[str]] = {}
    for path in executed:
        folders.setdefault(_name(path.parent, root), []).append(f"[{path.stem}](<../{_name(path, root)}>)")
    return [f"- `{folder}`: {', '.join(links)}" for folder, links in folders.items()]


class _Renderer(IPythonRenderer):
    """nbconvert's markdown to HTML, with formulas, links and images that stand on their own."""

    def __init__(self, site: dict, **options):
        super().__init__(escape=False, **options)
        self.site = site

    def inline_math(self, body: str) -> str:
        return converter.convert(body, xmlns="")  # HTML knows what <math> is, and headings are put together as XML

    def block_math(self, body: str) -> str:
        return converter.convert(body, xmlns="", display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to a notebook leads to its page; one to a file that is no page becomes plain text."""
        target = urlsplit(url)
        if target.scheme or not target.path:
            return super().link(text, url, title)
        page = self.site["pages"].get(posixpath.normpath(f"notebooks/{unquote(target.path)}"))
        if page is None:
            return text
        found = quote(posixpath.relpath(page, posixpath.dirname(self.site["page"]) or "."))
        return super().link(text, f"{found}#{target.fragment}" if target.fragment else found, title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A file of the project is put into the page; of one that is not there the text remains."""
        if urlsplit(url).scheme:
            return super().image(text, url, title)
        file = self.site["folder"] / unquote(url)
        if not file.is_file():
            return escape(text)
        data = base64.b64encode(file.read_bytes()).decode()
        return super().image(text, f"data:{mimetypes.guess_type(file)[0]};base64,{data}", title)


class _Exporter(HTMLExporter):
    # No require.js, MathJax or mermaid; images with the texts that notebooks give them, which nbconvert drops.
    raw_template = """
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
main { max-width: 72rem; margin: auto; }
nav { padding: 0.5rem 0 0 calc(var(--jp-cell-prompt-width) + 10px); }
</style>
{%- endblock -%}
{%- block body_header -%}
{{ super() }}
{%- if resources.site.page != 'index.html' %}
<nav class="jp-RenderedHTMLCommon"><a href="{{ resources.site.home }}">all notebooks</a></nav>
{%- endif %}
{%- endblock -%}
{%- block data_png -%}
<div class="jp-RenderedImage jp-OutputArea-output">
<img alt="{{ output | get_metadata('alt', 'image/png') | escape_html }}"
src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}">
</div>
{%- endblock -%}
"""

    @property
    def default_config(self):
        config = super().default_config
        moving = ("application/vnd.jupyter.widget-view+json", "application/javascript")
        kinds = config.NbConvertBase.display_data_priority
        config.NbConvertBase.display_data_priority = [kind for kind in kinds if kind not in moving]
        return config

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        return MarkdownWithMath(_Renderer(context["resources"]["site"], attachments=attachments)).render(source)


def _name_figures(notebook: nbformat.NotebookNode) -> None:
    """Give figures without a text of their own the name of their section, for who cannot see them."""
    section = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = (re.findall(r"^#+ (.+)$", cell.source, re.M) or [section])[-1]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata.setdefault("image/png", {}).setdefault("alt", f"figure: {section}")


def _page(notebook: nbformat.NotebookNode, page: str, pages: dict[str, str], root: Path) -> str:
    """The HTML of a notebook, for a place in the site; its links and images are relative to `notebooks/`."""
    notebook.metadata.pop("widgets", None)
    _name_figures(notebook)
    notebook.metadata.title = about(_top(notebook)).title or Path(page).stem
    home = posixpath.relpath("index.html", posixpath.dirname(page) or ".")
    site = {"page": page, "pages": pages, "folder": root / "notebooks", "home": home}
    html, _ = _Exporter().from_notebook_node(notebook, {"site": site})
    return html
