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


def test_rows_against_the_reference_are_the_model_s():
    compared = lesson6.against(TOP1, "base", 1, 0.05)
    own = statistics.block_model(TOP1, 0.05).contrasts([("better", "base"), ("same", "base")], 1)
    assert np.allclose(compared[["difference", "low", "high"]], own[["difference", "low", "high"]])
    assert list(compared.result) == ["different", "equal"] and list(compared.seeds) == [4, 4]


def test_a_row_with_one_seed_in_common_is_left_out():
    top1 = TOP1.assign(late=[np.nan, np.nan, np.nan, 90.0])
    assert list(lesson6.against(top1, "base", 1, 0.05).index) == ["better", "same"]
    with pytest.raises(ValueError, match="two seeds of 'base' and of another row"):
        lesson6.against(top1[["base", "late"]], "base", 1, 0.05)
    with pytest.raises(ValueError, match="the reference 'none' is needed, there are base, better"):
        lesson6.against(top1, "none", 1, 0.05)


def test_more_seeds_narrow_the_intervals_of_the_view():
    few, all_four = (lesson6.intervals(TOP1, "base", seeds, 0.3, 0.05) for seeds in (2, 4))
    assert few.numbers["seeds"] == "0, 1" and all_four.numbers["seeds"] == "0, 1, 2, 3"
    assert few.numbers["inconclusive"] == "1" and all_four.numbers["inconclusive"] == "0"
    assert "better +3.0 (+2.9 to +3.1), different" in all_four.alt


def test_a_far_row_is_a_number_at_the_edge_and_leaves_the_others_their_room():
    figure = lesson6.intervals(TOP1.assign(far=TOP1.base - 60), "base", 4, 1, 0.05).figure
    (axes,) = figure.axes
    assert axes.get_xlim()[1] < 5 and "-60.0, different" in [text.get_text() for text in axes.texts]


def test_half_of_an_interval_is_that_of_the_paired_differences():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6))
    std = np.std(first - second, ddof=1) / np.sqrt(2)
    assert lesson6.half_width(std, 6) == pytest.approx(statistics.mean_interval(first - second).margin)
