"""The tables of the paper as it prints them: published numbers to compare with, not measured here.

`gflops` are of one view unless the column says total. Accuracies are in percent. An empty cell is empty in the
paper. Tables 3 and 6 print whole GFLOPs.
"""

from pathlib import Path

import pandas as pd

from ctlib.config import check_choice

_FOLDER = Path(__file__).parent
TABLES = ("1", "2a", "2b", "2c", "2d", "2e", "2f", "2g", "2h", "3", "4", "5", "6", "7", "8")


def table(name: str) -> pd.DataFrame:
    """A table of the paper by its number, "1" to "8" ("2a" to "2h"), with `row` as its index.

    Raises:
        ValueError: there is no such table.

    Example:
        >>> table("2a").loc["CT-Module", "top1"]
        np.float64(47.3)
    """
    check_choice("table", name, TABLES)
    return pd.read_csv(_FOLDER / f"{name}.csv", index_col="row")
