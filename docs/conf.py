"""The site that `make html` builds: Sphinx over the project's own pages, notebooks and docstrings, without a network.

The source directory is the project's root, so that the links of the pages between one another hold as they are.
Notebooks are taken from `results/`, where an executed copy exists there, and are never executed here.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext import autosummary

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "ctlib"
author = "The ctlib authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "README.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "ctlib/*/README.md",
    "notebooks/**.ipynb",
    "results/README.md",
    "results/first_edition/notes.md",
    "results/ablations/plan.md",
    "results/ablations/notes.md",
]
exclude_patterns = [".venv", ".git", ".ipynb_checkpoints", "tests", "lab", "results/site", "results/runs", "docs/_*"]

# Pages: Markdown with formulas, notebooks as they were executed, no script or style from elsewhere.
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
mathjax_path = "mathjax/tex-svg.js"
html_theme = "furo"
html_title = "ctlib"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
html_copy_source = False
templates_path = ["_templates"]

# The API reference, from the docstrings: types stand in the signatures, names in single backticks are code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
autosummary_ignore_module_all = True
autosummary.WELL_KNOWN_ABBREVIATIONS += ("Eq.",)  # which end no summary
napoleon_custom_sections = [("Shape", "params_style"), "Source"]


def executed_copies() -> dict[Path, str]:
    """The notebooks under `results/` that papermill executed to their ends, oldest first, each with its page's name."""
    pages = {path.name: path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.glob("notebooks/**/*.ipynb")}
    copies = {}
    for path in sorted(ROOT.glob("results/*/*.ipynb"), key=lambda path: path.stat().st_mtime):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        states = {cell["metadata"].get("papermill", {}).get("status") for cell in notebook["cells"]}
        if states == {"completed"}:
            copies[path] = pages.get(Path(notebook["metadata"]["papermill"]["input_path"]).name, "")
    return copies


def read_executed(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the newest executed copy in the place of a notebook's source, and give its figures alternative texts.

    Its Markdown stays that of the source: in a copy under `results/notebooks`, links lead elsewhere.
    """
    if not docname.startswith("notebooks/"):
        return
    newest = {page: path for path, page in app.copies.items()}
    texts = {cell.get("id"): cell["source"] for cell in json.loads(source[0])["cells"]}
    notebook = json.loads(newest[docname].read_text(encoding="utf-8") if docname in newest else source[0])
    notebook["metadata"].pop("widgets", None)
    section = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = texts.get(cell.get("id"), cell["source"])
            headings = [line.lstrip("# ") for line in "".join(cell["source"]).splitlines() if line.startswith("#")]
            section = (headings or [section])[-1]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                alt = output["metadata"].get("image/png", {}).get("alt", f"figure: {section}")
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    source[0] = json.dumps(notebook)


def lead_links(app: Sphinx, doctree: nodes.document) -> None:
    """Lead links to pages of the site where the project's own lead elsewhere.

    A link to an executed notebook leads to the page of its notebook. A link to a folder leads to the README in it, and
    is plain text if that is no page.
    """
    here = Path(app.env.doc2path(app.env.docname)).parent
    for node in [*doctree.findall(addnodes.pending_xref), *doctree.findall(addnodes.download_reference)]:
        target = node["reftarget"]
        path = ROOT / f"{target}.ipynb" if node["refdomain"] == "doc" else (here / target).resolve()
        if node["reftype"] != "myst" or not (path in app.copies or path.is_dir()):
            continue
        page = app.copies.get(path) or app.env.path2doc(path / "README.md")
        if page in app.env.found_docs:
            given = {"reftarget": page, "reftargetid": None, "refdoc": app.env.docname, "refexplicit": True}
            node.replace_self(addnodes.pending_xref("", *node.children, refdomain="doc", reftype="myst", **given))
        else:
            node.replace_self(node.children)


def as_text(_app: Sphinx, _what: str, _name: str, _of: object, _options: object, lines: list[str]) -> None:
    """Keep Napoleon from reading "C." as the first item of a list, and a result's words before a colon as its type."""
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"^(\s+\w+: )([A-Z])\.", r"\1\2\\.", line)
        if number and lines[number - 1].strip() == "Returns:":
            lines[number] = re.sub(r"^(\s+)", r"\1: ", line)


def remove_copies(app: Sphinx, _error: Exception | None) -> None:
    """Remove the folder that myst-nb leaves beside the site: its figures are in the site by now."""
    shutil.rmtree(Path(app.outdir).parent / "jupyter_execute", ignore_errors=True)


def setup(app: Sphinx) -> None:
    shutil.rmtree(ROOT / "docs" / "api", ignore_errors=True)  # its pages are made anew, those of gone modules go
    app.copies = executed_copies()
    app.connect("source-read", read_executed)
    app.connect("doctree-read", lead_links, priority=400)  # before Sphinx collects downloads
    app.connect("autodoc-process-docstring", as_text, priority=400)  # before Napoleon
    app.connect("build-finished", remove_copies)
