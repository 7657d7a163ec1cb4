"""Intervals of accuracies and their differences: the only place where they are computed.

All intervals are at 95 %. None of them covers what was chosen with the same videos in view.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and its interval, missing (nan) where there are too few values for one."""

    mean: float
    low: float
    high: float
    margin: float  # half of the interval's width
    p: float = math.nan  # two-sided, of a mean of zero

    @property
    def significant(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float], least_std: float = 0.0) -> Interval:
    """The mean of independent values with its t interval, in their unit; of paired differences, give these.

    Args:
        values: one per seed, say; two or more for an interval.
        least_std: a smaller standard deviation counts as this one. A few seeds that happen to give the very same
            difference are no proof.
    """
    count = len(values)
    mean = float(np.mean(values)) if count else math.nan
    if count < 2:
        return Interval(mean, math.nan, math.nan, math.nan)
    error = max(float(np.std(values, ddof=1)), least_std) / math.sqrt(count)
    if error == 0:
        return Interval(mean, mean, mean, 0.0, float(mean == 0))
    low, high = stats.t.interval(LEVEL, count - 1, loc=mean, scale=error)
    p = 2 * stats.t.sf(abs(mean) / error, count - 1)
    return Interval(mean, float(low), float(high), _t_margin(error, count), float(p))


def grouped_interval(values: np.ndarray, groups: Sequence[str]) -> Interval:
    """The mean of values with its t interval, in percent, where values of one group depend on each other.

    The two videos of a mirrored pair are one piece of evidence, so the interval is that of the groups' means.

    Args:
        values: (n,), shares from 0 to 1 (or bool), or differences of shares.
        groups: the group of each value.
    """
    _, index = np.unique(groups, return_inverse=True)
    means = np.bincount(index, weights=values) / np.bincount(index)
    if len(means) < 2:
        return Interval(100 * float(means.mean()), math.nan, math.nan, math.nan)
    mean, margin = 100 * float(np.mean(values)), 100 * _t_margin(float(stats.sem(means)), len(means))
    return Interval(mean, mean - margin, mean + margin, margin)


def proportion_interval(right: int, count: int) -> Interval:
    """A share of independent videos with its Wilson interval, in percent."""
    low, high = stats.binomtest(right, count).proportion_ci(LEVEL, method="wilson")
    return Interval(100 * right / count, 100 * low, 100 * high, 50 * (high - low))


def holm(p: pd.Series) -> pd.Series:
    """p values corrected for their number, whatever their dependence (Holm, 1979)."""
    from statsmodels.stats.multitest import multipletests  # its import takes longer than most commands

    return pd.Series(multipletests(p, method="holm")[1], index=p.index) if len(p) else p


def _t_margin(error: float, count: int) -> float:
    return float(error * stats.t.ppf((1 + LEVEL) / 2, count - 1))
