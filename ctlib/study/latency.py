"""How long the study's networks take, timed in turn on this machine."""

import dataclasses
from collections.abc import Callable

import pandas as pd
import torch

from ctlib import cost
from ctlib.models import build_model
from ctlib.study.scales import Study

_ROUNDS = 3


def timed(
    points: pd.DataFrame,
    scale: str,
    overrides: str,
    seconds: float,
    device: torch.device,
    on_timing: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Time each network in three rounds over all of them in turn, one clip per call, with random weights.

    Args:
        points: of `comparisons.networks`. Custom rows are left out: the tables do not hold their networks.
        scale, overrides: of the study.
        seconds: per network.
        device: where.
        on_timing: called with how many timings are done, and their number.

    Returns:
        One row per network and round: `name`, `round`, and the fields of `cost.Latency`.

    Raises:
        ValueError: seconds that are not positive.
    """
    if seconds <= 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    study, networks = Study(scale, overrides), {}
    for point in points.itertuples():
        if point.row in study.rows(point.table):
            (network,) = study.rows(point.table, [point.row])[point.row]
            config = dataclasses.replace(study.sized.replace(network).config, weights=None)
            networks[point.name] = build_model(config).to(device), int(point.frames), int(point.size)
    rows, number = [], _ROUNDS * len(networks)
    for done in range(number):
        name = list(networks)[done % len(networks)]
        taken = cost.latency(*networks[name], seconds=seconds / _ROUNDS)
        rows.append({"name": name, "round": done // len(networks)} | dataclasses.asdict(taken))
        if on_timing is not None:
            on_timing(done + 1, number)
    return pd.DataFrame(rows)


def rounds(timed: pd.DataFrame) -> pd.DataFrame:
    """The median round of each network, and the range of the rounds: `milliseconds`, `low` and `high`, by name."""
    return timed.groupby("name").milliseconds.agg(milliseconds="median", low="min", high="max")
