import numpy as np
import pandas as pd
import pytest

from ctlib import cost
from ctlib.ct_module import CTModule
from ctlib.study import cost_figures

pytestmark = pytest.mark.usefixtures("figures_closed")


def texts(axes):
    return [text.get_text() for text in axes.texts]


LEDGER = pd.DataFrame(
    {
        "table": ["2a", "6", "6", "2c"],
        "row": ["C3D-Module", "fits", "misses", "nothing printed"],
        "gflops_paper": pd.array([59.9, 37, 151, None], "Float64"),
        "gflops": [59.85, 37.3, 149.1, 38.5],
        "gflops_allowed": pd.array([0.12, 0.5, 0.5, None], "Float64"),
        "params_paper": pd.array([None, 21_000_000, 21_000_000, None], "Int64"),
        "params": [32_785_646, 20_959_150, 20_959_150, 20_927_854],
    }
)


def test_published_vs_counted_has_a_point_a_published_number_and_names_what_misses():
    gflops, params, share = cost_figures.published_vs_counted(LEDGER).axes
    diagonal = [line for line in gflops.lines if line.get_marker() not in ("None", "")]
    points = [point for line in diagonal for point in zip(*line.get_data(), strict=True)]
    assert sorted(points) == [(37, 37.3), (59.9, 59.85), (151, 149.1)]
    assert sum(len(line.get_xdata()) for line in params.lines if line.get_marker() not in ("None", "")) == 2
    assert texts(share) == ["misses: 151 published, 149.1 counted"]
    shares = sorted(value for line in share.lines for value in line.get_xdata())
    assert shares == pytest.approx([-1.9 / 0.5, -0.05 / 0.12, 0.3 / 0.5])


def test_cost_by_stage_stacks_the_parts_and_leaves_room_above():
    stages = pd.DataFrame({"1x1": [1.0, 2.0], "3x3": [3.0, 5.0]}, index=["stem", "stage 2"])
    (axes,) = cost_figures.cost_by_stage({"TSN": stages, "CT-Net": stages / 2}, "one clip").axes
    tops = sorted(bar.get_y() + bar.get_height() for bar in axes.patches)
    assert tops[-1] == 7 and len(tops) == 8 and axes.get_ylim()[1] > 7.5
    assert {"TSN\n7.0", "CT-Net\n3.5", "TSN\n4.0", "CT-Net\n2.0"} == set(texts(axes))


def test_dimension_sizes_ring_the_cheapest():
    (axes,) = cost_figures.dimension_sizes({64: pd.DataFrame({"c2": [4, 8, 16], "relative": [1.25, 1.0, 1.25]})}).axes
    rings = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() > 10]
    assert rings == [8] and axes.get_legend().get_texts()[0].get_text() == "C = 64"


def test_interact_fields_tell_the_paper_s_box_from_what_is_measured():
    field = cost.interact_field(CTModule(4, 1, excitation="none"), num_frames=5, size=5)
    (axes,) = cost_figures.interact_fields({"CT": field}, {"CT": 5}).axes
    assert axes.get_title() == "CT\npaper: 5 x 5 x 5\nmeasured: 11 of 125 positions"
    assert len(axes.lines) == 12  # the edges of the box that is stated
    edges = np.array([line.get_data_3d() for line in axes.lines])
    assert edges.min() == 1 and edges.max() == 6 and axes.get_xlim() == (0, 7)


def test_latency_vs_gflops_draws_what_gflops_alone_would_promise():
    timed = pd.DataFrame(
        {"name": ["TSN", "CT-Net"], "gflops": [40.0, 30.0], "milliseconds": [80.0, 100.0], "low": 75.0, "high": 110.0}
        | {
            "num_frames": 8,
            "size": 256,
            "batch": 1,
            "precision": "fp32",
            "device": "cpu",
            "hardware": "x",
            "threads": 2,
        }
    )
    (axes,) = cost_figures.latency_vs_gflops(timed).axes
    assert texts(axes) == ["TSN", "CT-Net"] and axes.get_title() == "x, 2 threads"
    promised = next(line for line in axes.lines if line.get_linestyle() == "--")
    x, y = promised.get_data()
    assert y[-1] / x[-1] == pytest.approx(2.0)
