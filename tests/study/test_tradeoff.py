import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from ctlib import paper
from ctlib.models import build_model, model_config
from ctlib.study import measurements, tradeoff
from tests.study.test_comparisons import study_of

pytestmark = pytest.mark.usefixtures("figures_closed")


def named(axes):
    """The names of points, and the boxes that they take in the figure as it is saved."""
    axes.figure.canvas.draw()
    texts = [text for text in axes.texts if text.get_text()]
    return {text.get_text(): plt.Text.get_window_extent(text) for text in texts}


def overlapping(boxes):
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes.items(), 2) if one.overlaps(other)]


def test_published_points_say_views_and_sizes():
    points = tradeoff.published_points("3", "top1_v1").set_index("name")
    assert points.loc["TSM, 8 frames", ["gflops_total", "views", "size", "top1"]].tolist() == [33, 1, "224", 45.6]
    assert points.loc["PEM+TDLoss, 8x3x2", "size"] == points.loc["CT-Net R50, 8 frames", "size"] == "256"
    assert points.loc["ir-CSN R101, 32x1x10", "size"] == ""
    assert points.index[points.ours].str.startswith("CT-Net").all() and points.ours.sum() == 5
    assert len(tradeoff.published_points("3", "top1_v2")) == paper.table("3").top1_v2.count() < len(points)
    kinetics = tradeoff.published_points("4", "top1").set_index("name")
    assert kinetics.loc["CT-Net R50 x12", "gflops"] == 74.6 and np.isnan(
        kinetics.gflops_total["I3D Inception (views not stated)"]
    )
    with pytest.raises(ValueError, match="in Tables 3 and 4, got '2a'"):
        tradeoff.published_points("2a", "top1")
    with pytest.raises(ValueError, match="column must be a top-1 of Table 4, got 'top1_v1'"):
        tradeoff.published_points("4", "top1_v1")


def test_the_sizes_are_those_that_counting_gives():
    """Where a network of the paper is counted here, its size is the one said; 256 costs 1.3 times what 224 does."""
    points = tradeoff.published_points("3", "top1_v1").set_index("name")
    for frames in (8, 16):
        one, six = points.gflops[f"PEM+TDLoss, {frames} frames"], points.gflops[f"PEM+TDLoss, {frames}x3x2"]
        assert six / one == pytest.approx((256 / 224) ** 2, rel=0.01)
    kinetics = tradeoff.published_points("4", "top1").set_index("name")
    assert kinetics.gflops["TSM x30"] / points.gflops["TSM, 16 frames"] == pytest.approx((256 / 224) ** 2, rel=0.01)


def test_the_front_is_what_nothing_beats():
    cost, accuracy = [1, 2, 3, 3, 4, 1], [50, 60, 60, 70, 65, 50]
    assert tradeoff.pareto(cost, accuracy).tolist() == [True, True, False, True, False, True]
    points = np.random.default_rng(0).integers(0, 9, (40, 2))
    slow = [not any((q[0] <= p[0] and q[1] >= p[1]) and (q[0] < p[0] or q[1] > p[1]) for q in points) for p in points]
    assert tradeoff.pareto(points[:, 0], points[:, 1]).tolist() == slow


@pytest.mark.parametrize(
    ("table", "column", "gflops"),
    [
        ("4", "top1", "gflops"),
        ("4", "top1", "gflops_total"),
        ("3", "top1_v1", "gflops_total"),
        ("3", "top1_v2", "gflops_total"),
    ],
)
def test_every_published_point_has_its_name_and_no_two_names_overlap(table, column, gflops):
    points = tradeoff.published_points(table, column)
    figure = tradeoff.published_tradeoff(points, gflops, "top-1, %", "published")
    axes = figure.axes[0]
    boxes = named(axes)
    assert len(boxes) == points[gflops].count() and overlapping(boxes) == []
    for box in boxes.values():
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1


def test_points_far_below_are_arrows_with_their_accuracy_on_no_scale():
    axes = tradeoff.published_tradeoff(tradeoff.published_points("3", "top1_v1"), "gflops_total", "", "").axes[0]
    assert {name for name in named(axes) if "TSN" in name} == {"TSN, 8 frames (19.7 %)", "TSN, 16 frames (19.9 %)"}
    assert axes.get_ylim()[0] > 40 and sum(line.get_marker() == "v" for line in axes.lines) == 2
    (edge,) = (patch.get_y() + patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle))
    assert len(axes.get_yticks()) > 3 and min(axes.get_yticks()) > edge  # the strip is on no scale
    legend = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert "far below the axis: an arrow, with the accuracy" in legend and "counted at 224 x 224" in legend
    axes = tradeoff.published_tradeoff(tradeoff.published_points("4", "top1"), "gflops", "", "").axes[0]
    assert not any("%" in name for name in named(axes))


def measured_points():
    means = measurements.averaged(study_of(["2a", "2e", "2g"])).reset_index()
    return means.assign(name=means.table + " " + means.row)[["name", "gflops", "top1", "std"]]


def test_measured_points_bear_numbers_that_a_key_beside_the_panels_explains():
    points = measured_points()
    alone, key = tradeoff.measured_tradeoff(points, "top-1, %").axes
    assert alone.get_xlabel() == "GFLOPs of one view" and overlapping(named(alone)) == []
    texts = [text.get_text() for text in key.texts]
    ordered = points.sort_values("top1", ascending=False, kind="stable")
    assert texts[2::3] == ordered.name.tolist() and texts[1::3] == [f"{top1:.1f}" for top1 in ordered.top1]
    assert texts[::3] == [str(number) for number in range(1, len(points) + 1)]
    timed = points.assign(milliseconds=100 * points.gflops, low=99 * points.gflops, high=102 * points.gflops)
    conditions = "batch 1, fp32, 2 x AMD EPYC, 2 CPU thread(s)"
    left, right, _ = tradeoff.measured_tradeoff(timed, "top-1, %", conditions).axes
    assert right.get_xlabel().split() == f"milliseconds per call {conditions}".split()
    assert left.xaxis.label.get_window_extent().x1 < right.xaxis.label.get_window_extent().x0
    assert left.get_ylim() == right.get_ylim()
    for axes in (left, right):
        boxes = named(axes)
        assert {name.split(" ")[0] for name in boxes} == set(texts[::3]) and len(overlapping(boxes)) < 3
    single = points.head(1).assign(std=np.nan)
    assert len(named(tradeoff.measured_tradeoff(single, "").axes[0])) == 1


def test_the_front_reaches_points_in_the_strip_where_they_stand():
    top1 = [85.0, 86.0, 87.0, 88.0, 86.5, 87.5, 20.0]
    points = pd.DataFrame(
        {"name": list("abcdefg"), "gflops": [2.0, 2, 2, 3, 2, 2, 1], "top1": top1, "std": [np.nan] * 7}
    )
    axes, key = tradeoff.measured_tradeoff(points, "").axes
    front = next(line for line in axes.lines if line.get_linestyle() == "--")
    assert axes.get_ylim()[0] > 80 and front.get_ydata()[0] > axes.get_ylim()[0]  # 20 % are far below the axis
    assert "20.0" in [text.get_text() for text in key.texts] and "7 (20.0 %)" in named(axes)
    between = pd.concat([points, points.head(1).assign(top1=60.0)])  # in the gap, and so not in the strip
    places = tradeoff._with_heights(between.reset_index(drop=True)).height
    assert places[7] == 60 and 20 < places[6] < 60
    points.loc[0, "std"] = 30.0  # a bar that reaches further down than the strip would stand
    (axes, _), places = tradeoff.measured_tradeoff(points, "").axes, tradeoff._with_heights(points).height
    assert axes.get_ylim()[0] < places[6] < 85 - 30


def test_networks_are_timed_in_turn():
    network, calls = build_model(model_config("tsn_quickstart", num_classes=2)), []
    timed = tradeoff.timed(dict.fromkeys("ab", (network, 2, 32)), 0, lambda *done: calls.append(done))
    assert timed.name.tolist() == list("ababab") and timed["round"].tolist() == [0, 0, 1, 1, 2, 2]
    assert calls == [(done, 6) for done in range(1, 7)] and tradeoff.rounds(timed).index.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="seconds must be at least 0, got -1"):
        tradeoff.timed({}, -1)


def test_at_equal_resolution_a_successor_lies_above_ct_net():
    points = tradeoff.published_at_224().set_index("name")
    assert set(points["size"]) == {"224"} and list(points.index[points.ours]) == ["CT-Net R50, 8 frames (Table 2h)"]
    assert {"TSN, 8 frames", "TEA, 8 frames", "TDN (2021)"} <= set(points.index) and len(points) == 11
    front = tradeoff.pareto(points.gflops, points.top1)
    assert list(points[front].sort_values("gflops").index) == [
        "bLVNet-TAM, 8x2 frames",
        "CT-Net R50, 8 frames (Table 2h)",
        "PEM+TDLoss, 8 frames",
        "TDN (2021)",
    ]
    assert points.gflops.dtype == float and points.top1["TDN (2021)"] > points.top1["CT-Net R50, 8 frames (Table 2h)"]
