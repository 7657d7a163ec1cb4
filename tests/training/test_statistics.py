"""The intervals: against their formulas as they were written at each place before, and what they promise."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctlib.training.statistics import grouped_interval, holm, mean_interval, proportion_interval

DRAWS = [np.random.default_rng(seed).normal(1, 2, count) for seed, count in enumerate((2, 3, 5, 16, 240))]


@pytest.mark.parametrize("values", DRAWS, ids=len)
def test_a_mean_has_student_s_interval(values):
    count, mean = len(values), float(np.mean(values))
    interval = mean_interval(values, least_std=0.05)
    error = max(float(np.std(values, ddof=1)), 0.05) / math.sqrt(count)
    low, high = stats.t.interval(0.95, count - 1, loc=mean, scale=error)
    assert interval[:3] == (mean, low, high) and interval.p == 2 * stats.t.sf(abs(mean) / error, count - 1)
    assert interval.margin == stats.t.ppf(0.975, count - 1) * stats.sem(values)
    series = pd.Series(values)
    assert interval.margin == pytest.approx(stats.t.ppf(0.975, count - 1) * series.std() / math.sqrt(count), rel=1e-14)
    theirs = stats.ttest_1samp(values, 0)
    assert interval.p == pytest.approx(theirs.pvalue)
    assert interval.significant == (theirs.pvalue < 0.05)


def test_one_value_has_no_interval_and_none_has_no_mean():
    interval = mean_interval([3.0])
    assert interval.mean == 3 and math.isnan(interval.margin) and not interval.significant
    assert math.isnan(mean_interval([]).mean)


def test_equal_values_have_the_interval_of_the_least_deviation():
    few = mean_interval([6.25, 6.25], least_std=100 / 16)
    assert few.mean == 6.25 and few.low < 0 < few.high
    many = mean_interval([6.25, 6.25], least_std=100 / 2000)
    assert many.high - many.low == pytest.approx(2 * 12.706 * 0.05 / math.sqrt(2), rel=1e-3)
    assert mean_interval([0.0, 0.0, 0.0], least_std=0.05).p == 1
    assert mean_interval([6.25, 6.25])[:4] == (6.25, 6.25, 6.25, 0.0)


def test_equal_networks_differ_significantly_in_one_of_twenty():
    draws = np.random.default_rng(0).normal(0, 2, (4000, 3))
    assert np.mean([mean_interval(draw).significant for draw in draws]) == pytest.approx(0.05, abs=0.012)


def test_an_interval_over_groups_is_that_of_their_means():
    right = np.array([True, False] * 50)
    alone = grouped_interval(right, list(map(str, range(100))))
    paired = grouped_interval(right, [str(i // 2) for i in range(100)])
    assert alone.mean == paired.mean == 50
    assert alone.margin == pytest.approx(198.4 * right.std(ddof=1) / 10, rel=1e-3)  # t of 99 degrees: 1.984
    assert paired.margin == 0  # each pair is half right: no deviation at all
    values, groups = np.random.default_rng(0).random(40), [str(i // 2) for i in range(40)]
    means = values.reshape(20, 2).mean(1)
    mean, margin = 100 * float(np.mean(values)), 100 * float(stats.sem(means) * stats.t.ppf(0.975, 19))
    assert grouped_interval(values, groups)[:4] == pytest.approx(
        (mean, mean - margin, mean + margin, margin), rel=1e-14
    )
    assert math.isnan(grouped_interval(right[:2], ["a", "a"]).margin)


def test_a_proportion_has_wilson_s_interval():
    interval = proportion_interval(450, 480)
    low, high = stats.binomtest(450, 480).proportion_ci(method="wilson")
    assert interval[:3] == (93.75, 100 * low, 100 * high)
    assert proportion_interval(0, 7).low == pytest.approx(0) and proportion_interval(7, 7).high == pytest.approx(100)


def test_holm_steps_down_and_keeps_the_order():
    p = pd.Series({"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.5})
    assert holm(p).to_dict() == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.5})
    assert holm(pd.Series(dtype=float)).empty
