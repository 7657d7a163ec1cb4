import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctlib import paper
from ctlib.study import comparisons
from ctlib.study import tables as study
from ctlib.study.comparisons import AGREES, DISAGREES, INCONCLUSIVE, NOT_AT_SCALE, NOT_RUN
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


def test_the_result_is_that_of_the_t_interval_over_common_seeds():
    measured = lines({"1D": [50.0, 52.0, 51.0, None], "2D": [53.0, 54.0, 55.0, 90.0], "4D": [56.0, 55.0, 59.0]})
    found = comparisons.pairs(measured, ["2b"])
    pair = one(found, "2D", "1D")
    theirs = stats.ttest_rel([53, 54, 55], [50, 52, 51])
    assert pair.seeds == 3 and pair.difference == 3  # the fourth seed has no partner
    assert (pair.low, pair.high) == pytest.approx(theirs.confidence_interval())
    assert pair.p == pytest.approx(theirs.pvalue) and pair.result == AGREES
    other = one(found, "2D", "4D")
    assert other.difference == pytest.approx(-8 / 3) and other.result == INCONCLUSIVE and "includes zero" in other.why
    assert (
        one(comparisons.pairs(lines({"2D": [50, 51, 52], "1D": [60, 61, 62.5]}), ["2b"]), "2D", "1D").result
        == DISAGREES
    )


def test_less_than_two_common_seeds_are_inconclusive():
    found = comparisons.pairs(lines({"1D": [10.0], "2D": [90.0], "3D": [None, 90.0]}), ["2b"])
    assert found.result.tolist() == [INCONCLUSIVE, INCONCLUSIVE, NOT_RUN, NOT_RUN] and found.p.isna().all()
    assert one(found, "2D", "1D").why == "1 common seed, at least 2 are needed"
    assert one(found, "2D", "1D").difference == 80
    leaning = comparisons.summary(found).comparisons
    assert leaning["inconclusive: mean difference in the published order"] == 1
    assert one(found, "3D", "1D").why == "0 common seeds, at least 2 are needed"
    assert one(found, "3D", "4D").why == "4D"
    assert leaning["not run"] == 2 and leaning["inconclusive"] == 2


def test_the_same_comparison_in_two_tables_is_corrected_for_once():
    accuracies = {"TSN": [50.0, 50.5, 51.0], "CT": [80.0, 81.0, 83.0]}
    one_table = lines({"+0 (TSN)": accuracies["TSN"], "+7 stage2-5": accuracies["CT"]}, "2e")
    other = lines({"Baseline (TSN)": accuracies["TSN"], "+CT-Module": accuracies["CT"]}, "2g")
    other["run"] = one_table["run"]
    both = comparisons.pairs(pd.concat([one_table, other]), ["2e", "2g"]).dropna(subset="p")
    assert len(both) == 2 and len(set(both.key)) == 1
    assert both.p_holm.tolist() == pytest.approx(both.p.tolist())
    other["run"] = "elsewhere/" + one_table["run"]
    summary = comparisons.summary(both)
    assert summary.loc["significant after correction: agrees"].tolist() == [2, 1]  # one measurement
    assert summary.loc["at this scale"].tolist() == [2, 1] and summary.loc["not run"].tolist() == [0, 0]
    apart = comparisons.pairs(pd.concat([one_table, other]), ["2e", "2g"]).dropna(subset="p")
    assert apart.p_holm.tolist() == pytest.approx((2 * apart.p).tolist())


def test_counts_add_up_and_have_a_total_without_table_6():
    found = comparisons.pairs(study_of(noise=3, skip=[("7", "CSN-Module")]))
    counts = comparisons.counts(found)
    for name, kind in (("agrees", AGREES), ("disagrees", DISAGREES), ("inconclusive", INCONCLUSIVE)):
        assert counts.loc[("all", ""), name] == (found.result == kind).sum()
    assert counts.agrees.sum() > 0 and counts["inconclusive"].sum() > 0
    assert (counts[["agrees", "disagrees", "inconclusive", "not run"]].sum(axis=1) == counts.pairs).all()
    assert counts.loc[("all", ""), ["pairs", NOT_AT_SCALE]].tolist() == [139, 111] and len(found) == 250
    assert counts.loc[("all but 6", ""), "pairs"] == (found.table != "6").sum()
    assert counts.loc[("7", "Something-Something V2"), "not run"] == 2  # CSN below CT and R(2+1)D
    assert "all but 6" not in comparisons.counts(comparisons.pairs(NOTHING, ["2a", "2b"])).index


def test_the_summary_counts_significant_comparisons_before_and_after_correction():
    measured = study_of(noise=0.4, skip=[("7", "CSN-Module")])
    found = comparisons.pairs(measured[(measured.row != "serial") & ((measured.row != "1D") | (measured.seed == 0))])
    numbers, total = comparisons.summary(found).comparisons, comparisons.counts(found).loc[("all", "")]
    assert numbers["at this scale"] == total.pairs and numbers["not at this scale"] == total[NOT_AT_SCALE]
    assert numbers["significant: measured order agrees"] == total.agrees > 0
    assert numbers["inconclusive"] == total.inconclusive
    assert numbers["inconclusive: fewer than 2 common seeds"] == total["too few seeds"] > 0
    corrected = (found.result == AGREES) & (found.p_holm < 0.05)
    assert 0 < numbers["significant after correction: agrees"] == corrected.sum() < total.agrees
    leaning = found[(found.result == INCONCLUSIVE) & (found.seeds > 0)].difference
    assert numbers["inconclusive: mean difference in the other order"] == (leaning < 0).sum()


def test_a_scale_is_not_asked_for_rows_and_data_that_it_does_not_have():
    """Three crops of square videos would be one; real data are those of one published column."""
    found = comparisons.pairs(study_of(["6"], seeds=(0, 1)), ["6"])
    three = found.higher.str.contains("x3x") | found.lower.str.contains("x3x")
    assert (found.result == NOT_AT_SCALE).equals(three) and three.sum() == 111 and (found.seeds[three] == 0).all()
    assert not found[three].why.any()
    real = study_of(["6", "7"], seeds=(0, 1)).assign(scale="paper")
    found = comparisons.pairs(real, ["6", "7"], "paper")
    tested = set(found[found.result != NOT_AT_SCALE].groupby(["table", "data"]).groups)
    assert tested == {("6", "Something-Something V1"), ("7", "Mini-Kinetics-200")}
    taus = comparisons.rank_agreement(real, ["6", "7"], "paper")
    assert set(taus.index[taus.rows > 0]) == tested
    with pytest.raises(ValueError, match="scale must be 'paper', as in the tables, got 'laptop'"):
        comparisons.pairs(real, ["6"])


def test_tau_compares_the_order_of_the_means():
    measured = lines({"1D": [10, 20], "2D": [40, 50], "3D": [30, 31], "4D": [5, 5]})
    tau = comparisons.rank_agreement(measured, ["2b"]).loc[("2b", "Something-Something V1")]
    theirs = stats.kendalltau([46.5, 47.3, 47.1, 46.5], [15, 45, 30.5, 5])
    assert tau.tau == pytest.approx(theirs.statistic) and tau.p == pytest.approx(theirs.pvalue)
    assert (tau.rows, tau.of, tau.seeds) == (4, 4, 2)
    alone = comparisons.rank_agreement(lines({"1D": [10]}), ["2b"]).iloc[0]
    assert math.isnan(alone.tau) and alone.rows == 1


def test_tau_is_over_the_seeds_that_all_rows_have():
    measured = lines({"1D": [60, None, None], "2D": [55, 90, 90], "3D": [50, 20, 20]})
    tau = comparisons.rank_agreement(measured, ["2b"]).iloc[0]
    theirs = stats.kendalltau([46.5, 47.3, 47.1], [60, 55, 50])
    assert (tau.tau, tau.seeds) == (pytest.approx(theirs.statistic), 1)
    none = comparisons.rank_agreement(lines({"1D": [60, None], "2D": [None, 90]}), ["2b"]).iloc[0]
    assert math.isnan(none.tau) and (none.rows, none.seeds) == (2, 0)


def test_nothing_measured_is_no_error():
    counts = comparisons.counts(comparisons.pairs(NOTHING))
    assert (counts["not run"] == counts.pairs).all() and counts.pairs.iloc[-1] == 139
    assert (comparisons.rank_agreement(NOTHING).rows == 0).all()
    assert comparisons.summary(comparisons.pairs(NOTHING)).comparisons["not run"] == 139
    assert comparisons.counts(comparisons.pairs(NOTHING, ["2c"])).pairs.tolist() == [0]


def test_the_tables_of_the_report_leave_out_what_needs_more_seeds():
    measured = lines({"1D": [50.0, 50.5], "2D": [52.0, 52.6], "3D": [51.0]})
    table = comparisons.comparison_table(comparisons.pairs(measured, ["2b"])).set_index(["higher", "lower"])
    assert table.loc[("2D", "1D"), ["measured", "published gap", "result"]].tolist() == ["+2.1", "0.8", "agrees"]
    assert table.loc[("3D", "1D"), ["measured", "95 % interval", "p"]].tolist() == ["+1.0", "", ""]
    assert table["result"]["3D", "4D"] == "not run (4D)"
    assert comparisons.measured_table(averaged(measured), "2b")["crops x clips"].tolist() == ["1 x 1"] * 3
    assert comparisons.published_table("6").columns[0] == "top-1 on Something-Something V1, %"
    assert comparisons.comparison_table(comparisons.pairs(NOTHING)[:0]).empty
