import math

import pandas as pd
import pytest

from ctlib.study import comparisons, measurements
from tests.study.test_comparisons import NOTHING, lines, study_of


def test_rows_are_averaged_in_the_paper_s_order_and_custom_rows_come_last():
    measured = lines({"8D": [30.0], "2D": [40.0, 50.0], "1D": [10.0, 20.0, 60.0]})
    means = measurements.averaged(measured).droplevel("table")
    assert means.index.tolist() == ["1D", "2D", "8D"] and means.top1.tolist() == [30, 45, 30]
    assert means.seeds.tolist() == [3, 2, 1] and means["std"]["2D"] == pytest.approx(50**0.5)
    assert math.isnan(means["std"]["8D"]) and means.runs["2D"] == ("runs/2D/seed0", "runs/2D/seed1")
    assert "8D" not in set(comparisons.pairs(measured, ["2b"])[["higher", "lower"]].to_numpy().ravel())


@pytest.mark.parametrize(
    "column",
    [
        "scale",
        "overrides",
        "fingerprint",
        "classes_digest",
        "coverage",
        "videos",
        "precision",
        "size",
        "clips",
        "gflops",
        "params",
    ],
)
def test_lines_that_differ_are_refused_by_name(column):
    measured = lines({"1D": [50.0, 51.0], "2D": [52.0, 53.0]}).astype({column: object})
    measured.loc[3, column] = 7
    for use in (measurements.averaged, lambda table: comparisons.pairs(table, ["2b"])):
        with pytest.raises(
            ValueError,
            match=rf"one {column}, got '.*' in runs/.D/seed0.*; '7' in runs/2D/seed1: they cannot be compared",
        ):
            use(measured)


def test_rows_may_differ_only_where_the_paper_s_rows_do():
    measurements.check(study_of())  # sizes in 2h and 8, frames, crops and clips in 6
    measured = study_of(["2h"])
    measured.loc[measured.row == "train 224, test 256", "size"] = 42  # the paper's is that of "train 256, test 256"
    with pytest.raises(ValueError, match="table 2h, in rows that the paper has with the same size needs runs with one"):
        measurements.check(measured)
    measured = study_of(["6"])
    measured.loc[(measured.row == "CT-Net 8") & (measured.seed == 1), "frames"] = "16"
    with pytest.raises(ValueError, match="table 6, row 'CT-Net 8' needs runs with one frames, got '8' in"):
        measurements.check(measured)


def test_two_lines_of_one_row_and_seed_are_refused():
    measured = pd.concat([lines({"2D": [50.0]}), lines({"2D": [60.0]}, run="runs/again")])
    with pytest.raises(ValueError, match="table 2b, row '2D', seed 0 needs one run, got runs/2D/seed0, runs/again"):
        measurements.averaged(measured)


def test_networks_are_rows_of_one_network_and_view_once_each():
    measured = study_of(["2b", "6"], seeds=(0, 1))
    measured.loc[measured.row == "CT-Net 8", "run"] = measured.run[measured.row == "2D"].to_numpy()
    found = measurements.networks(measurements.averaged(measured)).set_index("name")
    assert found.also["2b 2D"] == "6 CT-Net 8" and "6 CT-Net 8" not in found.index
    fewer = measured[(measured.table == "6") | (measured.seed == 0)]  # of the network's two runs, Table 2b has one
    fewer = measurements.networks(measurements.averaged(fewer)).set_index("name")
    assert fewer.also["2b 2D"] == "6 CT-Net 8" and fewer.seeds["2b 2D"] == 1 and "6 CT-Net 8" not in fewer.index
    assert found.index.tolist() == [f"2b {k}D" for k in (1, 2, 3, 4)] + [
        f"6 CT-Net {frames}" for frames in (12, 16, 24)
    ]


def test_conditions_are_the_different_values_of_a_table():
    conditions = measurements.conditions(lines({"1D": [50.0, 50.5], "2D": [52.0, 52.6], "3D": [51.0]})).loc["2b"]
    assert conditions["seeds per row"] == "1 or 2" and conditions.frames == "8"


def test_nothing_measured_is_no_error():
    means = measurements.averaged(NOTHING)
    assert means.empty and measurements.networks(means).empty and measurements.conditions(NOTHING).empty
