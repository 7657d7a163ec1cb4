"""Parameters of a notebook: checked before anything runs, with errors of one line; paths and files that they name."""

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from IPython import get_ipython

from ctlib import files
from ctlib.config import check_choice, check_type, pairs_of

_TYPES = {kind.__name__: kind for kind in (bool, int, float, str)}
_TYPES |= {f"list[{name}]": list[kind] for name, kind in _TYPES.items()}
_MAPPINGS = ("overrides", "roots")  # parameters whose text is pairs, and which may be mappings too


class ParameterError(files.OneLineError, ValueError):
    """A parameter with which a notebook cannot run."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors caused by bad parameters (a wrong name, type, range or folder) into a `ParameterError`."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise ParameterError(str(error)) from None


def check_parameters() -> None:
    """Stop the notebook unless every given parameter exists and has the right type.

    Call it in the first cell after the parameters. papermill only warns of an unknown parameter and runs the
    default. This raises and names the new name of an old parameter, or the nearest right one.

    Raises:
        ParameterError: an unknown parameter, or a value of the wrong type ("false" for a bool, say).
    """
    names = get_ipython().user_ns
    with one_line_errors():
        for name in _MAPPINGS:
            if isinstance(names.get(name), dict):  # from YAML, papermill's -y or -f
                names[name] = pairs_of(names[name])
        check_cells(names["In"][:-1], names)


def check_cells(cells: Sequence[str], values: dict) -> None:
    """Check `values` against the last parameters cell in `cells` and the cell that papermill put after it.

    Raises:
        ValueError: an unknown parameter, or no parameters cell; TypeError: a value of the wrong type.
    """
    at = max((index for index, cell in enumerate(cells) if _declared(cell)), default=None)
    if at is None:
        raise ValueError("no parameters cell has run before this one: run the notebook from its first cell")
    declared = _declared(cells[at])
    for cell in cells[at + 1 :]:
        if cell.startswith("# Parameters"):  # papermill's injected cell
            for name in _assigned(cell):
                check_choice("parameter", name, declared)
    for name, kind in declared.items():
        value = values[name]
        if kind is str and isinstance(value, (bool, int, float)):  # papermill's -p reads 2024_01 as 202401
            raise TypeError(f"{name} must be text, got {type(value).__name__} {value}: papermill's -r gives text")
        check_type(name, value, kind)


def _declared(cell: str) -> dict[str, type]:
    """Names and types of a cell that holds only `name: type = literal` lines; any other cell gives nothing."""
    declared = {}
    try:
        for node in ast.parse(cell).body:
            match node:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as value):
                    ast.literal_eval(value)
                    declared[name] = _TYPES[ast.unparse(kind)]
                case _:
                    return {}
    except (SyntaxError, ValueError, TypeError, KeyError):  # not Python, not a literal, or another type
        return {}
    return declared


def _assigned(cell: str) -> list[str]:
    targets = [target for node in ast.parse(cell).body if isinstance(node, ast.Assign) for target in node.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def project_path(path: str | Path) -> Path:
    """A path from a parameter: absolute, or relative to the project's root.

    papermill runs a notebook in the current folder, JupyterLab in the notebook's. This way both mean the same place.
    """
    return files.project_root() / Path(path).expanduser()


def given_files(paths: str) -> list[Path]:
    """Existing files from a parameter: paths as in `project_path`, separated by spaces (`files.split_words`)."""
    given = [project_path(path) for path in files.split_words(paths, lambda path: project_path(path).is_file())]
    for path in given:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path} (a path that holds a space needs quotes)")
    return given
