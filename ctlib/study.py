"""What is studied, as data, and what its records say."""

from typing import NamedTuple

import pandas as pd

from ctlib.data.arrow import pair_of
from ctlib.evaluate import interval


class ArrowAccuracy(NamedTuple):
    """How a network did on Arrow of Time, in percent."""

    top1: float
    half: float  # of the 95 % interval of top1, over mirrored pairs
    right_pair: float  # the right pair, whichever direction


def arrow_accuracy(predictions: pd.DataFrame) -> ArrowAccuracy:
    """Read a run's predictions on Arrow of Time (`runs.RunFolder.predictions`).

    The two videos of a mirrored pair are one piece of evidence, so the interval is over pairs.
    """
    right = predictions.label == predictions.predicted
    top1, half = interval(right.to_numpy(), [pair_of(source) for source in predictions.source])
    return ArrowAccuracy(top1, half, 100 * float((predictions.label // 2 == predictions.predicted // 2).mean()))


def run_labels(table: pd.DataFrame) -> list[str]:
    """What each run of `runs.load` is called in a figure: its name, with its seed where names repeat."""
    repeated = table.name.duplicated(keep=False)
    return [
        f"{name}, seed {seed}" if again else name
        for name, seed, again in zip(table.name, table.seed, repeated, strict=True)
    ]
