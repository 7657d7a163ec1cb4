"""How tests run a notebook: as papermill does, and, since a kernel takes seconds to start, in this process."""

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


def html_of(notebook):
    """The tables of a notebook in which nothing went wrong."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    return [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]


def run_here(stem, **parameters):
    """Run a notebook's cells in this process, with papermill's cell of parameters; what it prints, and its tables.

    Raises:
        Exception: what a cell raised; the cells after it do not run.
    """
    cells = parameterize_notebook(load_notebook_node(str(ROOT / "notebooks" / f"{stem}.ipynb")), parameters).cells
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    try:
        with capture_output() as captured:
            for cell in cells:
                if cell.cell_type == "code":
                    ran = shell.run_cell(cell.source, store_history=True)
                    ran.raise_error()
                    display(ran.result)  # where a cell's last value is shown, capture_output does not look
    finally:
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()
    tables = [output.data["text/html"] for output in captured.outputs if "text/html" in output.data]
    return captured.stdout, tables
