"""Intervals and tests of accuracies and their differences: the only place where they are computed.

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

    @property
    def significant(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of independent values (two or more for an interval) with its t interval, in their unit."""
    count = len(values)
    mean = float(np.mean(values)) if count else math.nan
    if count < 2:
        return Interval(mean, math.nan, math.nan, math.nan)
    margin = _t_margin(float(stats.sem(values)), count)
    return Interval(mean, mean - margin, mean + margin, margin)


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


class BlockModel(NamedTuple):
    """accuracy ~ network + block by ordinary least squares, with one variance for all networks.

    A block is a seed. What its runs share (order of clips, augmentation, initial values of like parts) is the block's
    effect, and no error of a difference. What is left, the residual, is pooled over networks.
    """

    effects: pd.Series  # of each network in the first block, percent
    covariance: pd.DataFrame  # of these effects, in units of the residual variance
    std: float  # residual standard deviation, points
    df: int  # residual degrees of freedom

    def contrasts(self, pairs: Sequence[tuple[str, str]], margin: float) -> pd.DataFrame:
        """The difference of each pair of networks, the first minus the second, in points.

        Args:
            pairs: two networks each, with common blocks.
            margin: points; differences within it are equality.

        Returns:
            One row per pair: `difference`, `low` and `high` (its t interval), `p` (two-sided, of no difference) and
            `p_equal` (the larger of two one-sided p values, of a difference beyond either margin).
        """
        first, second = map(list, zip(*pairs, strict=True)) if pairs else ([], [])
        difference = self.effects[first].to_numpy() - self.effects[second].to_numpy()
        own = pd.Series(np.diag(self.covariance), self.covariance.index)
        places = self.covariance.index.get_indexer
        shared = self.covariance.to_numpy()[places(first), places(second)]
        error = self.std * np.sqrt(own[first].to_numpy() + own[second].to_numpy() - 2 * shared)
        return _t_tests(difference, error, self.df, margin)


def block_model(accuracies: pd.DataFrame, least_std: float) -> BlockModel:
    """The model of a table of accuracies in percent.

    Args:
        accuracies: one row per block, one column per network, missing where it was not run. Two networks with two
            blocks in common, at least.
        least_std: a smaller residual standard deviation counts as this one. A few blocks that happen to give the very
            same differences are no proof.
    """
    from statsmodels.regression.linear_model import OLS  # its import takes longer than most commands

    accuracies = accuracies.dropna(how="all").dropna(how="all", axis=1)
    block, network = np.nonzero(accuracies.notna())
    blocks, networks = np.eye(len(accuracies))[block], np.eye(len(accuracies.columns))[network]
    design = np.hstack([networks, blocks[:, 1:]])  # networks' effects are those in the first block
    fit = OLS(accuracies.to_numpy()[block, network], design).fit()
    names = accuracies.columns
    covariance = fit.normalized_cov_params[: len(names), : len(names)]
    return BlockModel(
        effects=pd.Series(fit.params[: len(names)], names),
        covariance=pd.DataFrame(covariance, names, names),
        std=max(math.sqrt(fit.mse_resid), least_std),
        df=round(fit.df_resid),
    )


def paired_contrasts(differences: np.ndarray, margin: float, least_std: float) -> pd.DataFrame:
    """As `BlockModel.contrasts`, by the paired t-test of each pair of networks alone.

    It is for tests of the same trainings: their accuracies do not vary independently, so no variance is shared.

    Args:
        differences: (blocks, pairs), points, missing where a block lacks one of the two; two blocks or more of each.
        least_std: as in `block_model`: of one network, so a difference has its square root of two times.
    """
    blocks = np.isfinite(differences).sum(axis=0)
    std = np.maximum(np.nanstd(differences, axis=0, ddof=1), math.sqrt(2) * least_std)
    return _t_tests(np.nanmean(differences, axis=0), std / np.sqrt(blocks), blocks - 1, margin)


def _t_tests(difference: np.ndarray, error: np.ndarray, df: int | np.ndarray, margin: float) -> pd.DataFrame:
    low, high = stats.t.interval(LEVEL, df, difference, error)
    p = 2 * stats.t.sf(np.abs(difference) / error, df)
    p_equal = stats.t.sf((margin - np.abs(difference)) / error, df)
    return pd.DataFrame({"difference": difference, "low": low, "high": high, "p": p, "p_equal": p_equal})


def holm(p: pd.Series) -> pd.Series:
    """p values corrected for their number, whatever their dependence (Holm, 1979). Missing ones count, as ones."""
    ascending = p.sort_values()  # statsmodels' own collects garbage with every call, which takes longer than a model
    return (ascending * np.arange(len(p), 0, -1)).cummax().clip(upper=1).reindex(p.index)


def _t_margin(error: float, count: int) -> float:
    return float(error * stats.t.ppf((1 + LEVEL) / 2, count - 1))
