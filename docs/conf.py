"""The site that `make html` builds: Sphinx over the project's own pages, notebooks and docstrings, without a network.

The source directory is the project's root, so that the links of the pages between one another hold as they are.
Notebooks are taken from `results/`, where an executed copy exists there, and are never executed here.
"""

import json
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

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
    "results/ablations/notes.md",
]
exclude_patterns = [".venv", ".git", ".ipynb_checkpoints", "tests", "results/site", "results/runs", "docs/_*"]

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
html_extra_path = ["_extra"]
html_copy_source = False
templates_path = ["_templates"]

# The API reference, from the docstrings: types stand in the signatures, names in single backticks are code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
autosummary_ignore_module_all = True
napoleon_custom_sections = [("Shape", "params_style"), "Source"]


def executed_copies() -> dict[str, Path]:
    """The newest copy under `results/` of each notebook that papermill executed to its end, by the notebook's name."""
    newest = {}
    for path in sorted((ROOT / "results").glob("*/*.ipynb"), key=lambda path: path.stat().st_mtime):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        states = [cell["metadata"].get("papermill", {}).get("status") for cell in notebook["cells"]]
        if set(states) == {"completed"}:
            newest[Path(notebook["metadata"]["papermill"]["input_path"]).stem] = path
    return newest


def read_executed(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the executed copy in the place of a notebook without outputs, and give its figures alternative texts."""
    path = ROOT / f"{docname}.ipynb"
    if not path.exists():
        return
    notebook = json.loads(app.executed.get(path.stem, path).read_text(encoding="utf-8"))
    notebook["metadata"].pop("widgets", None)
    section = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            headings = [line.lstrip("# ") for line in "".join(cell["source"]).splitlines() if line.startswith("#")]
            section = (headings or [section])[-1]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                alt = output["metadata"].get("image/png", {}).get("alt", f"figure: {section}")
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    source[0] = json.dumps(notebook)


def link_folders(app: Sphinx, doctree: nodes.document) -> None:
    """Lead a link to a folder of the project to the README in it, or make it plain text where that is no page."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        folder = Path(app.env.doc2path(app.env.docname)).parent / node["reftarget"]
        if node["reftype"] != "myst" or not folder.is_dir():
            continue
        page = app.env.path2doc(folder / "README.md")
        if page in app.env.found_docs:
            node.attributes.update(refdomain="doc", reftarget=page, reftargetid=None)
        else:
            node.replace_self(node[0])


def setup(app: Sphinx) -> None:
    shutil.rmtree(ROOT / "docs" / "api", ignore_errors=True)  # its pages are made anew, those of gone modules go
    app.executed = executed_copies()
    app.connect("source-read", read_executed)
    app.connect("doctree-read", link_folders)
