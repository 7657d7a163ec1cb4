import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests

from ctlib import paper
from ctlib.study import comparisons
from ctlib.study import tables as study
from ctlib.study.comparisons import (
    AGREES,
    DISAGREES,
    EQUAL,
    EQUAL_HERE,
    INCONCLUSIVE,
    NOT_AT_SCALE,
    NOT_RUN,
)
from ctlib.study.measurements import averaged


def line(table, row, seed, top1, **differing):
    """A measured line, as in `results.measured`."""
    same = {
        "videos": 2000, "gflops": 0.5, "params": 1_000_000, "train_seconds": 60.0, "run": f"runs/{row}/seed{seed}",
        "frames": "8", "size": 48, "clips": 1, "crops": 1, "views": 1, "fingerprint": "aa-bb", "classes_digest": "cc",
        "coverage": 100.0, "data": "arrow", "precision": "fp32", "micro_batch": "16",
        "scale": "laptop", "overrides": "", "hardware": "2 x CPU", "commit": "abc",
    }  # fmt: skip
    return {"table": table, "row": row, "seed": seed, "top1": top1, **same, **differing}


def lines(accuracies, table="2b", **differing):
    """Lines of one table, from each row's accuracies with seeds 0, 1, ... (None: not run)."""
    found = [
        line(table, row, seed, top1, **differing)
        for row, values in accuracies.items()
        for seed, top1 in enumerate(values)
        if top1 is not None
    ]
    return pd.DataFrame(found, columns=list(line("2b", "2D", 0, 0.0)))


def study_of(tables=comparisons.TABLES, seeds=(0, 1, 2), noise=1.0, skip=()):
    """Lines of whole tables: the published accuracies with noise, under the protocols of the paper's rows."""
    generator, found = np.random.default_rng(0), []
    for table in tables:
        printed = paper.table(table)
        for row, top1 in comparisons.published(table).iloc[:, 0].items():
            networks = study.ROWS[table][row]
            own = {"frames": "+".join(str(network.config.num_frames) for network in networks)}
            own |= {"size": networks[0].size * 48 // 256, "gflops": 0.2 + len(found) / 100}
            own |= {name: int(printed.loc[row, name]) for name in ("clips", "crops", "views") if name in printed}
            for seed in seeds:
                if (table, row) not in skip:
                    found.append(line(table, row, seed, float(top1 + generator.normal(0, noise)), **own))
    return pd.DataFrame(found, columns=list(line("2b", "2D", 0, 0.0)))


NOTHING = lines({})


def one(found, higher, lower):
    (pair,) = found[(found.higher == higher) & (found.lower == lower)].itertuples()
    return pair


def test_comparisons_are_the_pairs_half_a_point_apart():
    found = comparisons.pairs(NOTHING, ["2b"])  # published: 46.5, 47.3, 47.1, 46.5
    assert list(zip(found.higher, found.lower, found.gap, strict=True)) == [
        ("2D", "1D", 0.8), ("3D", "1D", 0.6), ("2D", "4D", 0.8), ("3D", "4D", 0.6),
    ]  # fmt: skip
    exactly = comparisons.pairs(NOTHING, ["2a"])  # 47.3 - 46.8, which is less than 0.5 in floats
    assert one(exactly, "CT-Module", "CSN-Module").gap == 0.5
    assert comparisons.pairs(NOTHING, ["2c"]).empty  # 47.1, 47.2, 47.3


def test_each_published_column_has_its_own_comparisons():
    found = comparisons.pairs(NOTHING, ["7"])
    assert found.data.value_counts().to_dict() == {"Mini-Kinetics-200": 1, "Something-Something V2": 4}
    assert list(comparisons.published("6")) == ["Something-Something V1", "Something-Something V2"]
    assert comparisons.published("4").loc["CT-Net R50"].tolist() == [77.3]


def around(means, blocks=5, std=1.0, seed=0):
    """Row -> accuracies of some blocks, which differ by several points: the same for all rows."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(0, 5, blocks)
    return {row: list(mean + shared + generator.normal(0, std, blocks)) for row, mean in means.items()}


def test_a_result_is_that_of_a_model_of_the_whole_table():
    """2D above 1D agrees with the paper, 2D below 4D disagrees; Holm's correction is over the table's four."""
    measured = lines(around({"1D": 50, "2D": 56, "3D": 50.5, "4D": 61}))
    found = comparisons.pairs(measured, ["2b"])
    theirs = ols("top1 ~ C(row) + C(seed)", measured).fit()
    tests = {
        ("2D", "1D"): "C(row)[T.2D] = 0",
        ("3D", "1D"): "C(row)[T.3D] = 0",
        ("2D", "4D"): "C(row)[T.2D] - C(row)[T.4D] = 0",
        ("3D", "4D"): "C(row)[T.3D] - C(row)[T.4D] = 0",
    }
    tested = [theirs.t_test(tests[pair.higher, pair.lower]) for pair in found.itertuples()]
    assert found.p.tolist() == pytest.approx([float(test.pvalue) for test in tested])
    assert found.low.tolist() == pytest.approx([test.conf_int()[0][0] for test in tested])
    assert found.p_holm.tolist() == pytest.approx(multipletests(found.p, method="holm")[1].tolist())
    assert found.result.tolist() == [AGREES, INCONCLUSIVE, DISAGREES, DISAGREES]
    assert (found.blocks == 5).all() and (found["look"] == 5).all() and comparisons.is_decided(found).sum() == 3


def test_equality_comes_after_significance_and_says_where_the_paper_differs():
    rows = {"+1 stage5": 80, "+4 stage4-5": 80.05, "+6 stage3-5": 80.5, "+0 (TSN)": 80.5, "+12 stage2-5": 80.05}
    found = comparisons.pairs(lines(around(rows, std=0.02), "2e"), ["2e"])
    assert one(found, "+6 stage3-5", "+1 stage5").result == AGREES  # half a point, though within the margin
    assert one(found, "+1 stage5", "+0 (TSN)").result == DISAGREES
    assert one(found, "+4 stage4-5", "+1 stage5")[5:7] == (4.6, 5)
    assert found.p_equal.max() < 1e-6  # all are equal within a point
    noisy = comparisons.pairs(lines(around(dict.fromkeys(rows, 80), std=0.3), "2e"), ["2e"])
    assert one(noisy, "+4 stage4-5", "+1 stage5").result == EQUAL_HERE  # 4.6 points in the paper
    assert one(noisy, "+4 stage4-5", "+12 stage2-5").result == EQUAL  # 1.0


def test_equality_begins_where_both_one_sided_tests_do(monkeypatch):
    measured = lines(around({"1D": 50, "2D": 50, "3D": 50, "4D": 50}, std=0.5))
    pair = one(comparisons.pairs(measured, ["2b"]), "2D", "1D")
    model = ols("top1 ~ C(row) + C(seed)", measured).fit()
    test = model.t_test("C(row)[T.2D] = 0")
    border = float(np.abs(test.conf_int(alpha=2 * 0.0125)).max())  # of the interval of two tests at 1.25 % each
    for margin, result in ((border - 1e-6, INCONCLUSIVE), (border + 1e-6, EQUAL)):
        monkeypatch.setattr(comparisons, "MARGIN", margin)
        again = one(comparisons.pairs(measured, ["2b"]), "2D", "1D")
        assert again.result == result and again.p == pair.p
        assert again.p_equal == pytest.approx(0.0125, rel=1e-3)


def test_a_test_s_error_is_shared_among_the_looks_in_proportion_to_their_blocks():
    assert [comparisons.error_share(look) for look in comparisons.LOOKS] == pytest.approx([0.0125, 0.0125, 0.025])
    assert sum(map(comparisons.error_share, comparisons.LOOKS)) == pytest.approx(comparisons.ERROR)


def test_before_the_first_look_nothing_is_decided():
    measured = lines(around({"1D": 50, "2D": 80, "3D": 50, "4D": 50}, blocks=4, std=0.1))
    found = comparisons.pairs(measured, ["2b"])
    assert one(found, "2D", "1D").result == AGREES and one(found, "2D", "1D").blocks == 4
    assert (found["look"] == 0).all() and not comparisons.is_decided(found).any()
    assert comparisons.counts(found).loc["2b", ["decided", "before the first look"]].tolist() == [0, 4]
    assert "agrees (before the first look)" in comparisons.comparison_table(found).result.tolist()


def test_a_look_takes_the_first_blocks_that_have_every_row():
    accuracies = around({"1D": 50, "2D": 80, "3D": 50, "4D": 50}, blocks=7)
    found = comparisons.pairs(lines(accuracies), ["2b"])
    assert (found["look"] == 5).all() and (found.blocks == 5).all()  # the next look is at 10
    first = comparisons.pairs(lines({row: top1[:5] for row, top1 in accuracies.items()}), ["2b"])
    pd.testing.assert_frame_equal(found, first)
    accuracies["4D"][2] = None
    lacking = comparisons.pairs(lines(accuracies), ["2b"])  # of seeds 0, 1, 3, 4 and 5
    others = {row: [top1[seed] for seed in (0, 1, 3, 4, 5)] for row, top1 in accuracies.items()}
    pd.testing.assert_frame_equal(lacking, comparisons.pairs(lines(others), ["2b"]))
    accuracies["4D"][3] = accuracies["1D"][6] = None
    waiting = comparisons.pairs(lines(accuracies), ["2b"])
    assert (waiting["look"] == 0).all() and waiting.blocks.tolist() == [6, 6, 5, 5]


def test_a_look_waits_for_every_row_of_the_table_and_holm_s_correction_counts_them_all():
    """So a row that is run later takes no decision back."""
    accuracies = around({"1D": 50, "2D": 80, "3D": 51.2, "4D": 50})
    three = comparisons.pairs(lines({row: accuracies[row] for row in ("1D", "2D", "3D")}), ["2b"])
    assert not comparisons.is_decided(three).any() and three.result.tolist()[2:] == [NOT_RUN, NOT_RUN]
    pair = one(three, "3D", "1D")
    assert 0.02 < pair.p < 0.3 and pair.p_holm == pytest.approx(3 * pair.p)  # the second smallest of four
    assert one(three, "2D", "1D").p_holm == pytest.approx(4 * one(three, "2D", "1D").p)
    assert (comparisons.pairs(lines(accuracies), ["2b"])["look"] == 5).all()


def test_rows_that_are_tests_of_the_same_trainings_are_compared_by_paired_tests():
    generator, seeds = np.random.default_rng(0), range(5)
    measured = study_of(["6"], seeds, noise=0.3)
    noise = {(run, seed): generator.normal(0, 3) for run in ("8", "12", "16", "24") for seed in seeds}
    measured["top1"] += [noise.get(training, 0) for training in zip(measured.frames, measured.seed, strict=True)]
    found = comparisons.pairs(measured, ["6"])
    pair, top1 = one(found[found.data == found.data[0]], "CT-Net 8x1x2", "CT-Net 8"), comparisons.accuracies(measured)
    theirs = stats.ttest_rel(top1["CT-Net 8x1x2"], top1["CT-Net 8"])
    assert pair.p == pytest.approx(theirs.pvalue) and pair.look == 5
    assert (pair.low, pair.high) == pytest.approx(theirs.confidence_interval(0.95))
    assert pair.difference == pytest.approx((top1["CT-Net 8x1x2"] - top1["CT-Net 8"]).mean())
    against = comparisons.differences(measured, "6")
    assert against.low["CT-Net 8x1x2"] == pytest.approx(pair.low)
    assert comparisons.residuals(measured).empty  # views of one training differ by less than trainings


def test_the_first_decision_stands_and_what_is_decided_may_stop():
    accuracies = around({"1D": 50, "2D": 80, "3D": 51, "4D": 50}, blocks=10, std=3)
    accuracies["2D"][5:] = [0.0] * 5  # the other way round, after it was decided
    found = comparisons.pairs(lines(accuracies), ["2b"])
    both = one(found, "2D", "1D"), one(found, "2D", "4D")
    assert all(pair.result == AGREES and pair.look == pair.blocks == 5 for pair in both)
    assert one(found, "3D", "1D").look == 10
    accuracies["2D"][5:] = [None] * 5  # stopped
    stopped = comparisons.pairs(lines(accuracies), ["2b"])
    assert one(stopped, "2D", "1D") == both[0] and one(stopped, "3D", "1D").look == 10
    accuracies["2D"][6] = 20.0  # begun for another table
    pd.testing.assert_frame_equal(comparisons.pairs(lines(accuracies), ["2b"]), stopped)
    accuracies["2D"][6] = None
    shifted = {row: [None, *top1] for row, top1 in accuracies.items()}
    shifted["3D"][0] = shifted["1D"][0] = 0.0  # an earlier block, which the first look could not take
    later = comparisons.pairs(lines(shifted), ["2b"])
    assert one(later, "2D", "1D") == both[0] and one(later, "3D", "1D").look == 10
    # Two rows with ten blocks, one with five: the model of all of them
    model = ols("top1 ~ C(row) + C(seed)", lines(accuracies)).fit()
    assert one(stopped, "3D", "1D").p == pytest.approx(float(model.t_test("C(row)[T.3D] = 0").pvalue))


def test_less_than_two_common_blocks_are_inconclusive():
    found = comparisons.pairs(lines({"1D": [10.0], "2D": [90.0], "3D": [None, 90.0]}), ["2b"])
    assert found.result.tolist() == [INCONCLUSIVE, INCONCLUSIVE, NOT_RUN, NOT_RUN] and found.p.isna().all()
    assert one(found, "2D", "1D").difference == 80 and one(found, "2D", "1D").blocks == 1
    assert one(found, "3D", "1D").blocks == 0 and math.isnan(one(found, "3D", "1D").difference)


def test_the_same_runs_count_once_whatever_their_tables_and_columns():
    found = comparisons.pairs(study_of(["2a", "6", "7"], noise=0.1), ["2a", "6", "7"])
    in_7 = found[found.table == "7"]
    again = found[(found.table == "2a") & found.counted]
    assert len(again) == 4 and in_7.counted.sum() == 1
    assert in_7[in_7.counted][["higher", "lower"]].to_numpy().tolist() == [["R(2+1)D-Module", "CSN-Module"]]
    six = found[(found.table == "6") & (found.result != NOT_AT_SCALE)]
    assert six.counted.sum() == six.key.nunique() < len(six)
    twice = six[six.key.duplicated(keep=False)]
    assert len(twice) and len(twice.drop_duplicates(["key", "p_holm"])) == twice.key.nunique()
    distinct = six.drop_duplicates("key")
    assert distinct.p_holm.tolist() == pytest.approx(multipletests(distinct.p, method="holm")[1].tolist())
    alone = comparisons.pairs(study_of(["7"], noise=0.1), ["7"])
    assert alone.counted.sum() == alone.key.nunique()


def test_counts_are_of_distinct_comparisons_and_table_6_and_tsn_are_apart():
    measured = study_of(seeds=range(5), noise=0.3, skip=[("7", "CSN-Module")])
    found = comparisons.pairs(measured)
    counts, summary = comparisons.counts(found), comparisons.summary(found)
    assert counts.comparisons.sum() == found.counted.sum() == 90 and len(found) == 250
    parts = ["agrees", "disagrees", "equal", "inconclusive", "before the first look", "not run"]
    assert (counts[parts].sum(axis=1) == counts.comparisons).all()
    assert (counts[["agrees", "disagrees", "equal"]].sum(axis=1) == counts.decided).all()
    assert counts.agrees.sum() > 0 and counts.inconclusive.sum() > 0
    assert summary.comparisons.to_dict() == {"outside Table 6": 42, "without TSN": 30, "with TSN": 12, "Table 6": 48}
    pd.testing.assert_series_equal(
        summary.loc["outside Table 6"], counts.drop("6").sum(), check_names=False, check_dtype=False
    )
    tsn = found[comparisons.with_tsn(found)]
    assert set(tsn.table) == {"2e", "2g", "8"} and tsn.lower.str.contains("TSN").all()


def test_the_residual_deviation_of_every_table_is_reported():
    measured = pd.concat([lines(around({"1D": 50, "2D": 60}, blocks=3)), lines({"serial": [1.0, 2.0]}, "2c")])
    found = comparisons.residuals(measured)
    difference = measured[measured.row == "2D"].top1.to_numpy() - measured[measured.row == "1D"].top1.to_numpy()
    assert found.index.tolist() == ["2b"] and found.df["2b"] == 2 and found.blocks["2b"] == 3
    assert found["std"]["2b"] == pytest.approx(difference.std(ddof=1) / 2**0.5)
    same = lines({"1D": [50.0, 51.0], "2D": [60.0, 61.0]})
    assert comparisons.residuals(same)["std"]["2b"] == 100 / 2000  # one video


def test_rows_are_compared_with_the_reference_of_their_table():
    measured = lines(around({"1D": 50, "2D": 60, "mine": 70}, blocks=3) | {"3D": [55.0]})
    found = comparisons.differences(measured, "2b")
    assert found.index.tolist() == ["1D", "mine", "3D"] and found.blocks.tolist() == [3, 3, 1]
    assert found.low["mine"] < found.difference["mine"] < found.high["mine"] and math.isnan(found.low["3D"])
    assert comparisons.differences(measured[measured.row != "2D"], "2b").empty
    assert comparisons.differences(NOTHING, "2b").empty


def test_a_scale_is_not_asked_for_rows_and_data_that_it_does_not_have():
    """Three crops of square videos would be one; real data are those of one published column."""
    found = comparisons.pairs(study_of(["6"], seeds=(0, 1)), ["6"])
    three = found.higher.str.contains("x3x") | found.lower.str.contains("x3x")
    assert (found.result == NOT_AT_SCALE).equals(three) and three.sum() == 111 and (found.blocks[three] == 0).all()
    assert not found.counted[three].any()
    real = study_of(["6", "7"], seeds=(0, 1)).assign(scale="paper")
    found = comparisons.pairs(real, ["6", "7"], "paper")
    tested = set(found[found.result != NOT_AT_SCALE].groupby(["table", "data"]).groups)
    assert tested == {("6", "Something-Something V1"), ("7", "Mini-Kinetics-200")}
    with pytest.raises(ValueError, match="scale must be 'paper', as in the tables, got 'laptop'"):
        comparisons.pairs(real, ["6"])


def test_the_share_of_decided_comparisons_is_predicted_by_the_plan_s_own_tests():
    found = comparisons.pairs(NOTHING, ["2b", "2e", "6"])
    rows = [(table, row) for table in ("2b", "2e") for row in comparisons.published(table).index]
    top1 = pd.Series([50.0, 56.0, 62.0, 44.0, 20.0, 50.0, 50.0, 50.0, 50.0, 50.0], pd.MultiIndex.from_tuples(rows))
    small = comparisons.predicted(found, top1, {"2b": 0.3, "2e": 0.3}, draws=10)
    assert list(small.columns) == [5, 10, 20] and small.index.tolist() == ["outside Table 6", "without TSN", "with TSN"]
    assert (small.loc["with TSN"] == 100).all() and small.loc["outside Table 6", 20] == 100  # far apart, or equal
    large = comparisons.predicted(found, 0 * top1, {"2b": 2.0, "2e": 2.0}, draws=20).loc["outside Table 6"]
    assert large[5] < 5 and large.is_monotonic_increasing and large[20] < 12  # equality needs a smaller deviation
    one, again = (comparisons.predicted(found, 0 * top1, {"2b": 1.0, "2e": 1.0}, draws=3) for _ in range(2))
    pd.testing.assert_frame_equal(one, again)
    assert 0 < one.loc["outside Table 6", 20] < 100  # so another seed would show
    longer = comparisons.predicted(found, 0 * top1, {"2b": 2.0, "2e": 2.0}, draws=10, looks=(5, 100, 200))
    assert longer.loc["outside Table 6", 5] < 5 and longer.loc["outside Table 6", 200] > 90  # 20 are too few


def test_nothing_measured_is_no_error():
    found = comparisons.pairs(NOTHING)
    counts = comparisons.counts(found)
    assert (counts["not run"] == counts.comparisons).all() and counts.comparisons.sum() == 90
    assert comparisons.summary(found).loc["outside Table 6", "not run"] == 42
    assert comparisons.residuals(NOTHING).empty
    assert comparisons.pairs(NOTHING, ["2c"]).empty and comparisons.counts(comparisons.pairs(NOTHING, ["2c"])).empty
    assert not comparisons.summary(comparisons.pairs(NOTHING, ["2c"])).to_numpy().any()


def test_the_tables_of_the_report_leave_out_what_needs_more_blocks():
    measured = lines({"1D": [50.0, 50.5], "2D": [52.0, 52.7], "3D": [51.0]})
    table = comparisons.comparison_table(comparisons.pairs(measured, ["2b"])).set_index(["higher", "lower"])
    assert table.loc[("2D", "1D"), ["measured", "published gap"]].tolist() == ["+2.1", "0.8"]
    assert table.loc[("3D", "1D"), ["measured", "95 % interval", "p, equal"]].tolist() == ["+1.0", "", ""]
    assert table["result"]["3D", "4D"] == "not run"
    actions = pd.DataFrame(
        [("2b", "1D", 40.0, 90.0), ("2b", "1D", 60.0, 80.0), ("2c", "1D", 0.0, 0.0)],
        columns=["table", "row", "right_pair", "direction"],
    )
    shown = comparisons.measured_table(averaged(measured), "2b", actions)
    assert shown["crops x clips"].tolist() == ["1 x 1"] * 3
    assert shown.loc["1D", ["right pair, %", "direction, %"]].tolist() == [50, 85]
    assert "direction, %" not in comparisons.measured_table(averaged(measured), "2b", actions[2:])
    assert comparisons.published_table("6").columns[0] == "top-1 on Something-Something V1, %"
    assert comparisons.comparison_table(comparisons.pairs(NOTHING)[:0]).empty
