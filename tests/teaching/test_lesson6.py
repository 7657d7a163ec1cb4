import numpy as np
import pandas as pd
import pytest

from ctlib.teaching import lesson6
from ctlib.training import statistics

TOP1 = pd.DataFrame(
    {"base": [80.0, 84.0, 88.0, 82.0], "better": [83.1, 86.9, 91.0, 85.0], "same": [80.1, 83.9, 88.1, 81.9]}
)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 5, "different"),
        (-5, -0.1, "different"),
        (0.1, 0.5, "different"),
        (-1, 1, "equal"),
        (-1.01, 1, "inconclusive"),
        (-0.5, 1.01, "inconclusive"),
    ],
)
def test_what_an_interval_says(low, high, said):
    assert lesson6.result(low, high, 1) == said


def differences(top1):
    """From the base, as `comparisons.differences` gives them."""
    rows = list(top1.columns.drop("base"))
    contrasts = statistics.block_model(top1, 0.05).contrasts([(row, "base") for row in rows], 1).set_axis(rows)
    return contrasts[["difference", "low", "high"]].assign(blocks=len(top1))


def test_rows_with_two_seeds_in_common_have_a_result():
    compared = differences(TOP1)
    assert list(lesson6.against(compared, 1).result) == ["different", "equal"]
    assert list(lesson6.against(compared.assign(blocks=[1, 2]), 1).index) == ["same"]
    with pytest.raises(ValueError, match="no row has two seeds in common with the reference"):
        lesson6.against(compared.assign(blocks=1), 1)


def test_more_seeds_narrow_the_intervals_of_the_view():
    few, all_four = (
        lesson6.intervals(lesson6.against(differences(TOP1[:seeds]), 0.3), "base", seeds, 0.3) for seeds in (2, 4)
    )
    assert few.numbers["seeds"] == "2" and all_four.numbers["seeds"] == "4"
    assert few.numbers["inconclusive"] == "1" and all_four.numbers["inconclusive"] == "0"
    assert "better +3.0 (+2.9 to +3.1), different" in all_four.alt


def test_a_far_row_is_a_number_at_the_edge_and_leaves_the_others_their_room():
    compared = lesson6.against(differences(TOP1.assign(far=TOP1.base - 60)), 1)
    (axes,) = lesson6.intervals(compared, "base", 4, 1).figure.axes
    assert axes.get_xlim()[1] < 5 and "-60.0, different" in [text.get_text() for text in axes.texts]


def test_half_of_an_interval_is_that_of_the_paired_differences():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6))
    std = np.std(first - second, ddof=1) / np.sqrt(2)
    assert lesson6.half_width(std, 6) == pytest.approx(statistics.mean_interval(first - second).margin)


def test_and_in_a_table_of_more_rows_that_of_the_study():
    compared = differences(TOP1.assign(third=TOP1.base + [1.0, -2.0, 0.5, 0.0]))
    halves = (compared.high - compared.low) / 2
    std = statistics.block_model(TOP1.assign(third=TOP1.base + [1.0, -2.0, 0.5, 0.0]), 0).std
    assert lesson6.half_width(std, 4, len(TOP1.columns) + 1) == pytest.approx(halves.to_numpy())
