import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctlib import paper
from ctlib.study import comparisons
from ctlib.study import tables as study
from ctlib.study.comparisons import AGREES, DISAGREES, UNRESOLVED, UNTESTED


def line(table, row, seed, top1, **differing):
    """A measured line, as `outcomes.measured` gives it."""
    same = {
        "videos": 2000, "gflops": 0.5, "params": 1_000_000, "train_seconds": 60.0, "run": f"runs/{row}/seed{seed}",
        "frames": "8", "size": 48, "clips": 1, "crops": 1, "views": 1, "fingerprint": "aa-bb", "classes_digest": "cc",
        "coverage": 100.0, "data": "arrow", "precision": "fp32", "micro_batch": "16",
        "scale": "laptop", "hardware": "2 x CPU", "commit": "abc",
    }  # fmt: skip
    return {"table": table, "row": row, "seed": seed, "top1": top1, **same, **differing}


def lines(accuracies, table="2b", **differing):
    """Lines of one table: row -> its accuracies, one a seed from 0 on (None: not run)."""
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


def test_findings_are_the_pairs_half_a_point_apart():
    found = comparisons.pairs(NOTHING, ["2b"])  # published: 46.5, 47.3, 47.1, 46.5
    assert list(zip(found.higher, found.lower, found.gap, strict=True)) == [
        ("2D", "1D", 0.8), ("3D", "1D", 0.6), ("2D", "4D", 0.8), ("3D", "4D", 0.6),
    ]  # fmt: skip
    exactly = comparisons.pairs(NOTHING, ["2a"])  # 47.3 - 46.8, which is less than 0.5 in floats
    assert one(exactly, "CT-Module", "CSN-Module").gap == 0.5
    assert comparisons.pairs(NOTHING, ["2c"]).empty  # 47.1, 47.2, 47.3


def test_each_published_column_has_findings_of_its_own():
    found = comparisons.pairs(NOTHING, ["7"])
    assert found.data.value_counts().to_dict() == {"Mini-Kinetics-200": 1, "Something-Something V2": 4}
    assert list(comparisons.published("6")) == ["Something-Something V1", "Something-Something V2"]
    assert comparisons.published("4").loc["CT-Net R50"].tolist() == [77.3]


def test_a_pair_is_judged_by_the_t_interval_over_common_seeds():
    measured = lines({"1D": [50.0, 52.0, 51.0, None], "2D": [53.0, 54.0, 55.0, 90.0], "4D": [56.0, 55.0, 59.0]})
    found = comparisons.pairs(measured, ["2b"])
    pair = one(found, "2D", "1D")
    theirs = stats.ttest_rel([53, 54, 55], [50, 52, 51])
    assert pair.seeds == 3 and pair.difference == 3  # the fourth seed has no partner
    assert (pair.low, pair.high) == pytest.approx(theirs.confidence_interval())
    assert pair.p == pytest.approx(theirs.pvalue) and pair.verdict == AGREES
    other = one(found, "2D", "4D")
    assert other.difference == pytest.approx(-8 / 3) and other.verdict == UNRESOLVED and "zero" in other.why
    assert (
        one(comparisons.pairs(lines({"2D": [50, 51, 52], "1D": [60, 61, 62.5]}), ["2b"]), "2D", "1D").verdict
        == DISAGREES
    )


def test_less_than_two_common_seeds_resolve_nothing():
    found = comparisons.pairs(lines({"1D": [10.0], "2D": [90.0], "3D": [None, 90.0]}), ["2b"])
    assert set(found.verdict) == {UNRESOLVED} and found.p.isna().all()
    assert one(found, "2D", "1D").why == "1 common seed, at least 2 are needed"
    assert one(found, "2D", "1D").difference == 80
    assert "Of the 1 not resolved that have a common seed, 1 lean towards the published" in comparisons.told(found)
    assert one(found, "3D", "1D").why == "0 common seeds, at least 2 are needed"
    assert one(found, "3D", "4D").why == "not run: 4D"


def test_seeds_that_agree_to_the_video_still_have_an_interval():
    few = comparisons.judge([6.25, 6.25], videos=16)
    assert few.mean == 6.25 and few.low < 0 < few.high
    many = comparisons.judge([6.25, 6.25], videos=2000)
    assert many.high - many.low == pytest.approx(2 * 12.706 * 0.05 / math.sqrt(2), rel=1e-3)
    assert comparisons.judge([0.0, 0.0, 0.0], videos=2000).p == 1


def test_equal_networks_are_resolved_in_one_of_twenty():
    draws = np.random.default_rng(0).normal(0, 2, (4000, 3))
    resolved = [(judged.low > 0) or (judged.high < 0) for judged in (comparisons.judge(draw, 10**6) for draw in draws)]
    assert np.mean(resolved) == pytest.approx(0.05, abs=0.012)


def test_holm_steps_down_and_keeps_the_order():
    p = pd.Series({"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.5})
    assert comparisons.holm(p).to_dict() == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.5})


def test_the_same_comparison_in_two_tables_is_corrected_for_once():
    accuracies = {"TSN": [50.0, 50.5, 51.0], "CT": [80.0, 81.0, 83.0]}
    one_table = lines({"+0 (TSN)": accuracies["TSN"], "+7 stage2-5": accuracies["CT"]}, "2e")
    other = lines({"Baseline (TSN)": accuracies["TSN"], "+CT-Module": accuracies["CT"]}, "2g")
    other["run"] = one_table["run"]
    both = comparisons.pairs(pd.concat([one_table, other]), ["2e", "2g"]).dropna(subset="p")
    assert len(both) == 2 and len(set(both.key)) == 1
    assert both.p_holm.tolist() == pytest.approx(both.p.tolist())
    other["run"] = "elsewhere/" + one_table["run"]
    apart = comparisons.pairs(pd.concat([one_table, other]), ["2e", "2g"]).dropna(subset="p")
    assert apart.p_holm.tolist() == pytest.approx((2 * apart.p).tolist())


def test_counts_add_up_and_tell_table_6_apart():
    found = comparisons.pairs(study_of(noise=3, skip=[("7", "CSN-Module")]))
    counts = comparisons.counts(found)
    for name, kind in (("agrees", AGREES), ("disagrees", DISAGREES), ("not resolved", UNRESOLVED)):
        assert counts.loc[("all", ""), name] == (found.verdict == kind).sum()
    assert counts.agrees.sum() > 0 and counts["not resolved"].sum() > 0
    assert (counts[["agrees", "disagrees", "not resolved"]].sum(axis=1) == counts.pairs).all()
    assert counts.loc[("all", ""), ["pairs", UNTESTED]].tolist() == [139, 111] and len(found) == 250
    assert counts.loc[("all but 6", ""), "pairs"] == (found.table != "6").sum()
    assert counts.loc[("7", "Something-Something V2"), "too few seeds"] == 2  # CSN below CT and R(2+1)D
    assert "all but 6" not in comparisons.counts(comparisons.pairs(NOTHING, ["2a", "2b"])).index
    told = comparisons.told(found)
    total = counts.loc[("all", "")]
    assert f"{total.agrees} agree, {total.disagrees} disagree, {total['not resolved']} are not resolved" in told
    assert "not independent" in told and "Holm" in told


def test_a_scale_is_not_asked_for_rows_and_data_that_it_does_not_have():
    """Three crops of square videos would be one; real data are those of one published column."""
    found = comparisons.pairs(study_of(["6"], seeds=(0, 1)), ["6"])
    three = found.higher.str.contains("x3x") | found.lower.str.contains("x3x")
    assert (found.verdict == UNTESTED).equals(three) and three.sum() == 111 and (found.seeds[three] == 0).all()
    assert not found[three].why.any() and not comparisons.told(found).startswith("Of 202")
    real = study_of(["6", "7"], seeds=(0, 1)).assign(scale="paper")
    found = comparisons.pairs(real, ["6", "7"], "paper")
    tested = set(found[found.verdict != UNTESTED].groupby(["table", "data"]).groups)
    assert tested == {("6", "Something-Something V1"), ("7", "Mini-Kinetics-200")}
    taus = comparisons.rank_agreement(real, ["6", "7"], "paper")
    assert set(taus.index[taus.rows > 0]) == tested
    with pytest.raises(ValueError, match="of the scale 'paper', 'laptop' asked for"):
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


def test_rows_are_averaged_in_the_paper_s_order_and_own_rows_come_last():
    measured = lines({"8D": [30.0], "2D": [40.0, 50.0], "1D": [10.0, 20.0, 60.0]})
    means = comparisons.averaged(measured).droplevel("table")
    assert means.index.tolist() == ["1D", "2D", "8D"] and means.top1.tolist() == [30, 45, 30]
    assert means.seeds.tolist() == [3, 2, 1] and means.spread["2D"] == pytest.approx(50**0.5)
    assert math.isnan(means.spread["8D"]) and means.runs["2D"] == ("runs/2D/seed0", "runs/2D/seed1")
    assert "8D" not in set(comparisons.pairs(measured, ["2b"])[["higher", "lower"]].to_numpy().ravel())


@pytest.mark.parametrize(
    "column", ["scale", "fingerprint", "classes_digest", "coverage", "videos", "precision", "size", "clips"]
)
def test_lines_that_differ_are_refused_by_name(column):
    measured = lines({"1D": [50.0, 51.0], "2D": [52.0, 53.0]}).astype({column: object})
    measured.loc[3, column] = 7
    for use in (comparisons.averaged, lambda table: comparisons.pairs(table, ["2b"])):
        with pytest.raises(
            ValueError, match=rf"one {column}, got .* in runs/.D/seed0.*; 7 in runs/2D/seed1: .* not aver"
        ):
            use(measured)


def test_rows_may_differ_only_where_the_paper_s_rows_do():
    comparisons.check(study_of())  # sizes in 2h and 8, frames, crops and clips in 6
    measured = study_of(["2h"])
    measured.loc[measured.row == "train 224, test 256", "size"] = 42  # the paper's is that of "train 256, test 256"
    with pytest.raises(ValueError, match="table 2h, in rows that the paper has with the same size needs runs with one"):
        comparisons.check(measured)
    measured = study_of(["6"])
    measured.loc[(measured.row == "CT-Net 8") & (measured.seed == 1), "frames"] = "16"
    with pytest.raises(ValueError, match="table 6, row 'CT-Net 8' needs runs with one frames, got 8 in"):
        comparisons.check(measured)


def test_two_lines_of_one_row_and_seed_are_refused():
    measured = pd.concat([lines({"2D": [50.0]}), lines({"2D": [60.0]}, run="runs/again")])
    with pytest.raises(ValueError, match="table 2b, row '2D', seed 0 needs one run, and has runs/2D/seed0, runs/again"):
        comparisons.averaged(measured)


def test_nothing_measured_is_no_error():
    assert comparisons.averaged(NOTHING).empty
    counts = comparisons.counts(comparisons.pairs(NOTHING))
    assert (counts["too few seeds"] == counts.pairs).all() and counts.pairs.iloc[-1] == 139
    assert (comparisons.rank_agreement(NOTHING).rows == 0).all()
    assert "0 agree, 0 disagree, 139 are not resolved" in comparisons.told(comparisons.pairs(NOTHING))
    assert comparisons.counts(comparisons.pairs(NOTHING, ["2c"])).pairs.tolist() == [0]


def test_what_came_out_the_other_way_is_told_largest_first():
    measured = lines({"2D": [50, 51, 52], "3D": [50, 51.1, 52], "1D": [60, 61, 62.5], "4D": [70, 71, 72.5]})
    told = comparisons.disagreements(comparisons.pairs(measured, ["2b"])).splitlines()
    assert len(told) == 4 and [text.split(" by ")[0].split("published ")[1] for text in told[:2]] == [
        "2D over 4D",
        "3D over 4D",
    ]
    assert "2D over 4D by 0.8; measured -20.2 (-20.9 to -19.4, 3 seeds;" in told[0]
    assert comparisons.disagreements(comparisons.pairs(NOTHING, ["2b"])).startswith("None of the 0 findings")


def test_what_is_missing_is_told_by_table_row_and_seed():
    missing = pd.DataFrame({"table": ["2a", "2a", "2b"], "row": ["CSN-Module", "CSN-Module", "4D"], "seed": [2, 1, 0]})
    told = comparisons.missing_told(missing)
    assert "Missing: 3 lines" in told and "Table 2a: CSN-Module (seed 1, 2)" in told and "Table 2b: 4D (seed 0)" in told
    assert comparisons.missing_told(missing[:0]).startswith("Nothing is missing")


def test_the_protocol_is_told_from_the_lines():
    told = comparisons.protocol_told(study_of(["6"], seeds=(0, 2)))
    for part in (
        "2000 test videos of data aa-bb",
        "8, 12, 16, 24, 8+16",
        "1, 2 clip(s) x 1, 3 crop(s)",
        "2 seed(s) a row",
    ):
        assert part in told


def test_tables_and_seeds_are_checked():
    assert comparisons.tables_of("2g 2a") == ("2g", "2a") and comparisons.tables_of("all") == comparisons.TABLES
    assert comparisons.seeds_of("2 0 1") == (0, 1, 2)
    for text in ("", "2z", "2a 2a", "1"):
        with pytest.raises(ValueError, match=f"tables must be 'all' or some of 2a .*, got '{text}'"):
            comparisons.tables_of(text)
    for text in ("", "-1", "0 0", "a", "1.5"):
        with pytest.raises(ValueError, match="seeds must be whole numbers from 0 on, each once"):
            comparisons.seeds_of(text)
