"""What a notebook calls: the check of its parameters, progress, and saved figures."""

from pathlib import Path

from matplotlib.figure import Figure

from ctlib.display.parameters import ParameterError, check_parameters, given_files, one_line_errors, project_path
from ctlib.display.progress import Progress, counting, interactive

__all__ = [
    "ParameterError",
    "Progress",
    "check_parameters",
    "counting",
    "given_files",
    "interactive",
    "one_line_errors",
    "project_path",
    "save",
]


def save(figure: Figure, folder: str | Path, name: str, dpi: int = 150) -> Figure:
    """Save a figure as `folder`/`name`.png and return it, so that the notebook shows it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=dpi, bbox_inches="tight")
    return figure
