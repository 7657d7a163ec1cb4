"""What the notebooks share: parameters checked before anything runs, progress, figures kept."""

import ast
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from ctlib.config import check_choice, check_type


class ParameterError(ValueError):
    """A parameter that a notebook cannot run with. Jupyter and papermill show its one line only."""

    def _render_traceback_(self) -> list[str]:
        return [f"ParameterError: {self}"]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what bad parameters raise (a wrong name, type, range or folder) into a `ParameterError`."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise ParameterError(str(error)) from None


def check_parameters() -> None:
    """Stop the notebook unless every parameter it was given is one that it has, of the right type.

    Call it in the first cell after the parameters. papermill only warns of a parameter that the
    notebook does not have and then runs the default; this names the nearest one that there is.

    Raises:
        ParameterError: an unknown parameter, or a value of the wrong type ("false" for a bool, say).
    """
    from IPython import get_ipython  # the command line uses this module too, and needs no Jupyter

    cells = get_ipython().user_ns["In"][:-1]
    with one_line_errors():
        _check(cells, get_ipython().user_ns)


def _check(cells: list[str], values: dict) -> None:
    """Check `values` against the last parameters cell among `cells` and what papermill put after it."""
    at = max((index for index, cell in enumerate(cells) if _declared(cell)), default=None)
    if at is None:
        raise ValueError("no parameters cell has run before this one: run the notebook from its first cell")
    declared = _declared(cells[at])
    for cell in cells[at + 1 :]:
        if cell.startswith("# Parameters"):  # papermill's injected cell
            for name in _assigned(cell):
                check_choice("parameter", name, declared)
    for name, kind in declared.items():
        check_type(name, values[name], kind)


def _declared(cell: str) -> dict[str, type]:
    """Names and types of a cell that does nothing but `name: type = literal`; else nothing."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return {}
    if not body or not all(isinstance(node, ast.AnnAssign) and node.value is not None for node in body):
        return {}
    return {node.target.id: eval(compile(ast.Expression(node.annotation), "", "eval")) for node in body}


def _assigned(cell: str) -> list[str]:
    return [target.id for node in ast.parse(cell).body if isinstance(node, ast.Assign) for target in node.targets]


def by_hand() -> bool:
    """Whether a person has this notebook open; False under papermill, where bars would fill the log."""
    return "JPY_SESSION_NAME" in os.environ


class Progress:
    """Progress for a reader: a bar where the notebook is open, a line an epoch everywhere else.

    Args:
        name: of the run, in front of each line.
        epochs: how many there will be.
    """

    def __init__(self, name: str, epochs: int):
        self.name, self.epochs = name, epochs
        self.bar = None
        self.lines = 0  # shown so far; none if the run was found finished

    def on_step(self, done: int, total: int) -> None:
        if not by_hand():
            return
        if self.bar is None:
            self.bar = tqdm(total=total, desc=self.name, unit="step", mininterval=0.5)
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()

    def on_epoch(self, row: dict) -> None:
        self.lines += 1
        print(
            f"{self.name:>6}  epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
            f"  loss {row['loss']:.3f}  train {row['train_top1']:5.1f} %  test {row['top1']:5.1f} %"
            f"  {row['seconds']:.0f} s",
            flush=True,
        )


def counting(what: str) -> Callable[[int, int], None]:
    """A callback (done, total) that shows a bar where the notebook is open, else a line at each quarter."""
    bar = None
    quarter = 0

    def show(done: int, total: int) -> None:
        nonlocal bar, quarter
        if by_hand():
            bar = bar or tqdm(total=total, desc=what, mininterval=0.5)
            bar.update(done - bar.n)
        elif done * 4 // total > quarter:
            quarter = done * 4 // total
            print(f"{what}: {done} of {total}", flush=True)

    return show


def keep(figure, folder: str | Path, name: str):
    """Save a matplotlib figure as PNG and SVG under `folder`, and hand it on to be shown."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        dated = {"metadata": {"Date": None}} if suffix == "svg" else {}  # the same figure is the same file
        figure.savefig(folder / f"{name}.{suffix}", dpi=150, bbox_inches="tight", **dated)
    return figure


def project_path(path: str | Path) -> Path:
    """A path as parameters give it: absolute, or relative to the project's root.

    papermill runs a notebook where it was called, JupyterLab in the notebook's folder; the root is
    the nearest folder upwards that holds `notebooks/`, so both mean the same place.
    """
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "notebooks").is_dir()), here)
    return root / Path(path).expanduser()


def portable(path: Path) -> str:
    """A path below the home folder with `~` for it, so that records read the same on every machine."""
    return f"~/{path.relative_to(Path.home()).as_posix()}" if path.is_relative_to(Path.home()) else str(path)
