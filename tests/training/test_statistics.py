"""The intervals: against their formulas as they were written at each place before, and what they promise."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.weightstats import ttost_paired

from ctlib.training.statistics import (
    block_model,
    grouped_interval,
    holm,
    mean_interval,
    paired_contrasts,
    proportion_interval,
)

DRAWS = [np.random.default_rng(seed).normal(1, 2, count) for seed, count in enumerate((2, 3, 5, 16, 240))]


@pytest.mark.parametrize("values", DRAWS, ids=len)
def test_a_mean_has_student_s_interval(values):
    count, mean = len(values), float(np.mean(values))
    interval = mean_interval(values)
    low, high = stats.t.interval(0.95, count - 1, loc=mean, scale=float(np.std(values, ddof=1)) / math.sqrt(count))
    assert interval[:3] == pytest.approx((mean, low, high), rel=1e-12)
    assert interval.margin == stats.t.ppf(0.975, count - 1) * stats.sem(values)
    assert interval.significant == (stats.ttest_1samp(values, 0).pvalue < 0.05)


def test_one_value_has_no_interval_and_none_has_no_mean():
    interval = mean_interval([3.0])
    assert interval.mean == 3 and math.isnan(interval.margin) and not interval.significant
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([6.25, 6.25]) == (6.25, 6.25, 6.25, 0.0)


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


def table_of(rows=4, blocks=5, std=1.0, seed=0):
    """Accuracies of networks A, B, ... that differ by a point each, in blocks that differ by several points."""
    generator = np.random.default_rng(seed)
    own, shared = np.arange(rows) + generator.normal(0, std, (blocks, rows)), generator.normal(0, 5, (blocks, 1))
    return pd.DataFrame(80 + own + shared, columns=list("ABCDEFGH"[:rows]))


def test_with_two_networks_the_model_is_the_paired_t_test():
    table = table_of(2)
    (found,) = block_model(table, 0).contrasts([("B", "A")], margin=1).itertuples(index=False)
    theirs = stats.ttest_rel(table.B, table.A)
    assert found.difference == pytest.approx((table.B - table.A).mean()) and found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval())
    assert found.p_equal == pytest.approx(ttost_paired(table.B.to_numpy(), table.A.to_numpy(), -1, 1)[0])


def test_the_variance_is_pooled_over_all_networks_of_a_table():
    table = table_of(4, 5)
    model = block_model(table, 0)
    rest = table.to_numpy() - table.mean().to_numpy() - table.mean(axis=1).to_numpy()[:, None] + table.to_numpy().mean()
    assert model.df == 12 and model.std == pytest.approx(np.sqrt((rest**2).sum() / 12))
    found = model.contrasts([("C", "A"), ("A", "C")], margin=1)
    difference, error = table.C.mean() - table.A.mean(), model.std * np.sqrt(2 / 5)
    assert found.difference.tolist() == pytest.approx([difference, -difference])
    assert found.high[0] == pytest.approx(difference + stats.t.ppf(0.975, 12) * error)
    assert found.p.tolist() == pytest.approx([2 * stats.t.sf(abs(difference) / error, 12)] * 2)
    assert block_model(table + 100 * np.arange(5)[:, None], 0).std == pytest.approx(model.std)  # the block's own effect


def test_paired_contrasts_are_the_model_of_each_pair_alone():
    table = table_of(3, 6)
    table.loc[5, "C"] = np.nan
    pairs = [("B", "A"), ("C", "A"), ("C", "B")]
    differences = np.stack([table[one] - table[other] for one, other in pairs], axis=1)
    for least_std in (0, 3):
        found = paired_contrasts(differences, 1, least_std)
        alone = [block_model(table[list(pair)].dropna(), least_std).contrasts([pair], 1) for pair in pairs]
        pd.testing.assert_frame_equal(found, pd.concat(alone, ignore_index=True))


def test_networks_may_have_fewer_blocks_than_others():
    table = table_of(4, 6)
    table.loc[4:, "A"] = table.loc[0, "B"] = table.loc[:3, "D"] = np.nan
    model = block_model(table, 0)
    long = table.reset_index(names="block").melt("block", var_name="network", value_name="top1").dropna()
    theirs = ols("top1 ~ C(network) + C(block)", long).fit()
    assert (model.std, model.df) == (pytest.approx(theirs.mse_resid**0.5), theirs.df_resid)
    found = model.contrasts([("B", "A"), ("D", "C")], margin=1)
    b, d = theirs.t_test("C(network)[T.B] = 0"), theirs.t_test("C(network)[T.D] - C(network)[T.C] = 0")
    for one, of_theirs in zip(found.itertuples(), (b, d), strict=True):
        assert (one.difference, one.p) == pytest.approx((float(of_theirs.effect[0]), float(of_theirs.pvalue)))
        assert (one.low, one.high) == pytest.approx(tuple(of_theirs.conf_int()[0]))


def test_equality_is_shown_where_the_interval_of_two_one_sided_tests_lies_within_the_margin():
    table = table_of(3, 8, std=0.4)
    model = block_model(table, 0)
    (found,) = model.contrasts([("B", "A")], margin=1.6).itertuples()
    reach = stats.t.ppf(0.95, model.df) * model.std * np.sqrt(2 / 8)  # of the 90 % interval
    border = abs(found.difference) + reach
    for margin, shown in ((border - 1e-6, False), (border + 1e-6, True)):
        assert (model.contrasts([("B", "A")], margin).p_equal[0] <= 0.05) == shown
    assert (model.contrasts([("B", "A")], margin=0).p_equal >= 0.5).all()


def test_blocks_that_agree_by_chance_have_the_least_deviation():
    table = pd.DataFrame({"A": [50.0, 52.0], "B": [56.25, 58.25]})
    few = block_model(table, least_std=100 / 16)
    assert few.std == 6.25 and few.df == 1 and few.contrasts([("B", "A")], 1).p[0] > 0.4
    many = block_model(table, least_std=100 / 4000).contrasts([("B", "A")], 1)
    assert many.high[0] - many.low[0] == pytest.approx(2 * 12.706 * 0.025, rel=1e-3)
    assert block_model(table, 0).contrasts([], 1).empty


def test_the_error_of_the_block_model_s_tests_is_what_it_says():
    """Four equal networks, and for equality two that lie exactly a margin apart."""
    found = []
    for seed in range(300):
        table = table_of(4, 3, std=1.5, seed=seed) - np.arange(4) + [0, 0, 0, 1]
        found.append(block_model(table, 0).contrasts([("A", "B"), ("D", "C")], margin=1))
    found = pd.concat(found).groupby(level=0)
    assert np.mean(found.get_group(0).p < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(found.get_group(1).p_equal < 0.05) <= 0.08
