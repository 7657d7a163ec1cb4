"""How tests run a notebook: as papermill does, and, since a kernel takes seconds to start, in this process."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import papermill
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
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


def by_papermill(stem, **parameters) -> Ran:
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(stem, Path(folder), **parameters)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    return ran(printed(notebook), [output.data for output in outputs if "data" in output])


def ran(text, displayed) -> Ran:
    html = [data["text/html"] for data in displayed if "text/html" in data]
    return Ran(text, html, {kind for data in displayed for kind in data})


def run_here(stem, **parameters) -> Ran:
    """Run a notebook's cells in this process, with papermill's cell of parameters.

    Raises:
        Exception: what a cell raised; the cells after it do not run.
    """
    cells = parameterize_notebook(load_notebook_node(str(ROOT / "notebooks" / f"{stem}.ipynb")), parameters).cells
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    try:
        with capture_output() as captured:
            for cell in cells:
                if cell.cell_type == "code":
                    done = shell.run_cell(cell.source, store_history=True)
                    done.raise_error()
                    display(done.result)  # where a cell's last value is shown, capture_output does not look
    finally:
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()
        plt.close("all")
    assert not captured.stderr
    return ran(captured.stdout, [output.data for output in captured.outputs])
