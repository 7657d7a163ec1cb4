"""How tests run a notebook: as papermill does, and, since a kernel takes seconds to start, in this process."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import papermill
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

from tests import ROOT


def execute(stem, folder, **parameters):
    """The notebook that papermill executed and saved in `folder`."""
    return papermill.execute_notebook(
        ROOT / "notebooks" / f"{stem}.ipynb",
        folder / f"{stem}.ipynb",
        parameters=parameters,
        cwd=ROOT,
        kernel_name="python3",
        progress_bar=False,
        execution_timeout=300,
    )


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


class Ran(NamedTuple):
    """What a notebook showed."""

    text: str  # printed
    html: list[str]  # of its tables and moving pictures
    kinds: set[str]  # MIME types of all that it displayed
    alts: list[str]  # the text alternative of each picture
    last: str  # printed by its last cell


def by_papermill(stem, **parameters) -> Ran:
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(stem, Path(folder), **parameters)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    printed_by_cell = [printed(NotebookNode(cells=[cell])) for cell in notebook.cells]
    return ran(printed_by_cell, [output for output in outputs if "data" in output])


def ran(printed_by_cell, displayed) -> Ran:
    html = [output.data["text/html"] for output in displayed if "text/html" in output.data]
    kinds = {kind for output in displayed for kind in output.data}
    pictures = [output for output in displayed if "image/png" in output.data]
    alts = [output.metadata.get("image/png", {}).get("alt", "") for output in pictures]
    return Ran("".join(printed_by_cell), html, kinds, alts, printed_by_cell[-1])


def run_here(stem, **parameters) -> Ran:
    """Run a notebook's cells in this process, with papermill's cell of parameters.

    Raises:
        Exception: what a cell raised; the cells after it do not run.
    """
    source = load_notebook_node(str(ROOT / "notebooks" / f"{stem}.ipynb"))
    code = [cell for cell in parameterize_notebook(source, parameters).cells if cell.cell_type == "code"]
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    printed_by_cell, displayed = [], []
    try:
        for cell in code:
            with capture_output() as captured:
                done = shell.run_cell(cell.source, store_history=True)
                done.raise_error()
                display(done.result)  # where a cell's last value is shown, capture_output does not look
            assert not captured.stderr
            printed_by_cell.append(captured.stdout)
            displayed += captured.outputs
    finally:
        plt.uninstall_repl_displayhook()  # pyplot has put one into the shell
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()
        plt.close("all")
    return ran(printed_by_cell, displayed)


def processes(run) -> int:
    """How many processes a notebook starts: two among the slow tests, as each takes seconds to start."""
    return 2 if run is by_papermill else 1
