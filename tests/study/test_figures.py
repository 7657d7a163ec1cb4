import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from ctlib import cost
from ctlib.ct_module import CTModule
from ctlib.study import comparisons, figures
from tests.study.test_comparisons import NOTHING, study_of

pytestmark = pytest.mark.usefixtures("figures_closed")


def test_an_ablations_interval_leaves_the_axis_where_a_percentage_ends():
    top1 = {"a": [41.6, 83.9, 78.6], "b": [87.0, 88.0, 89.0]}
    lines = pd.DataFrame([(row, seed, value) for row in top1 for seed, value in enumerate(top1[row], row == "b")])
    (axes,) = figures.ablation(lines.set_axis(["row", "seed", "top1"], axis=1), "a table", 50).axes
    assert axes.get_xlim()[1] == 100 and 0 <= axes.get_xlim()[0] < 41.6
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    seeds = {f"seed {seed}" for _, seed, _ in lines.itertuples(index=False)}  # of every row
    assert legend == seeds | {"mean, 95 % interval", "bound of frame averaging"}
    bars = [part.get_segments()[0][:, 0] for part in axes.collections]
    assert bars[0][1] > 100 and bars[1] == pytest.approx([88 - 2.484, 88 + 2.484], abs=1e-3)  # 4.303 / sqrt(3)


def test_localisation_has_its_controls_in_every_panel():
    rows = [
        {"network": network, "seed": 0, "of": of, "area": 10.0, "area_time": 80.0}
        | dict.fromkeys(("share", "hit", "share_time", "hit_time"), 30.0)
        | {f"{name}_margin": 2.0 for name in ("share", "hit", "share_time", "hit_time")}
        for network in ("CSN", "CSN, random weights", "CT-Net", "CT-Net, random weights")
        for of in ("network", "places shuffled")
    ]
    figure = figures.localised(pd.DataFrame(rows))
    assert len(figure.axes) == 4
    for axis in figure.axes:
        points = [part.lines[0].get_xydata().tolist() for part in axis.containers]
        assert points == [[[30, -0.2], [30, 0.8]], [[30, 0], [30, 1]], [[30, 0.2], [30, 1.2]]]
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["trained", "places shuffled", "random weights", "uniform over the map, or over all frames"]


def test_the_bars_are_the_counts_and_differ_in_grey():
    found = comparisons.pairs(study_of(["2b", "2e"], seeds=range(5), noise=1.5, skip=[("2b", "4D")]), ["2b", "2e"])
    waiting = comparisons.pairs(study_of(["8"], seeds=range(3)), ["8"])
    counts = comparisons.counts(pd.concat([found, waiting], ignore_index=True))
    counts.loc["2e", ["agrees", "disagrees", "equal"]] = counts.loc["2e", "agrees"] - 2, 1, 1
    axes = figures.reproduced(counts, "at a scale").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["2b: 4", "2e: 12", "8: 6"]
    widths = np.array([[bar.get_width() for bar in part] for part in axes.containers])
    assert widths.sum(axis=0) == pytest.approx(100)
    shares = 100 * counts.loc["2e", ["agrees", "equal", "disagrees", "inconclusive"]] / 12
    assert widths[:4, 1] == pytest.approx(shares.to_numpy(float))
    looks = {(round(np.mean(to_rgb(part[0].get_facecolor())), 1), part[0].get_hatch()) for part in axes.containers}
    assert len(looks) == 6


def test_nothing_measured_still_gives_bars():
    nothing = comparisons.pairs(NOTHING)
    axes = figures.reproduced(comparisons.counts(nothing), "none").axes[0]
    assert all(bar.get_width() == 100 for bar in axes.containers[-1])
    assert not figures.reproduced(comparisons.counts(nothing[:0]), "none").axes[0].patches
    assert figures.gaps(nothing, 1).axes[0].get_ylim()[0] < 0


def test_gaps_show_results_and_what_is_before_the_first_look():
    found = comparisons.pairs(study_of(["2b", "2e"], seeds=range(5), noise=0.3), ["2b", "2e"])
    labels = [text.get_text() for text in figures.gaps(found, 1).legends[0].get_texts()]
    kinds = [f"{kind} ({found.result.str.startswith(kind).sum()})" for kind in ("agrees", "equal", "disagrees")]
    assert labels[:3] == kinds and labels[-1] == "before the first look (0)"
    first = comparisons.pairs(study_of(["2b"], seeds=[0]), ["2b"])
    figure = figures.gaps(first, 1)
    assert figure.legends[0].get_texts()[-1].get_text() == f"before the first look ({len(first)})"
    assert figure.axes[0].lines[4].get_ydata().tolist() == first.difference.tolist()


def test_a_heat_map_has_a_row_per_network_and_a_column_per_action():
    rows = [(table, row, action) for table, row in (("2a", "CT"), ("2a", "CSN")) for action in ("push", "turn")]
    table = pd.DataFrame(rows, columns=["table", "row", "action"])
    table = table.assign(top1=50.0, right_pair=[90.0, 0.0, 80.0, 70.0], direction=[60.0, np.nan, 50.0, 55.0])
    pair, direction = figures.actions(table, {("2a", "CSN"): "CSN-Module", ("2a", "CT"): "CT-Module"}).axes
    assert texts(pair) == ["80", "70", "90", "0"] and texts(direction) == ["50", "55", "60"]
    assert [label.get_text() for label in pair.get_yticklabels()] == ["CSN-Module", "CT-Module"]
    assert [label.get_text() for label in direction.get_xticklabels()] == ["push", "turn"]


def test_accuracy_by_epoch_has_a_line_per_network():
    rows = [("2a", "CT", 3, 70.0), ("2a", "CT", 4, 75.0), ("2a", "CSN", 3, 60.0), ("2a", "CSN", 4, 62.0)]
    table = pd.DataFrame(rows, columns=["table", "row", "epoch", "top1"])
    names = {("2a", "CSN"): "CSN-Module", ("2h", "CT"): "another test of it", ("2a", "CT"): "CT-Module"}
    (axes,) = figures.epochs(table, names).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["CSN-Module", "CT-Module"]
    lines, *points = axes.collections
    assert [segment[:, 0].tolist() for segment in lines.get_segments()] == [[60, 62], [70, 75]]
    assert [of_epoch.get_offsets()[:, 0].tolist() for of_epoch in points] == [[60, 70], [62, 75]]


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
    gflops, params, share = figures.published_vs_counted(LEDGER).axes
    diagonal = [line for line in gflops.lines if line.get_marker() not in ("None", "")]
    points = [point for line in diagonal for point in zip(*line.get_data(), strict=True)]
    assert sorted(points) == [(37, 37.3), (59.9, 59.85), (151, 149.1)]
    assert sum(len(line.get_xdata()) for line in params.lines if line.get_marker() not in ("None", "")) == 2
    assert texts(share) == ["misses: 151 published, 149.1 counted"]
    shares = sorted(value for line in share.lines for value in line.get_xdata())
    assert shares == pytest.approx([-1.9 / 0.5, -0.05 / 0.12, 0.3 / 0.5])


def test_cost_by_stage_stacks_the_parts_and_leaves_room_above():
    stages = pd.DataFrame({"1x1": [1.0, 2.0], "3x3": [3.0, 5.0]}, index=["stem", "stage 2"])
    (axes,) = figures.cost_by_stage({"TSN": stages, "CT-Net": stages / 2}, "one clip").axes
    tops = sorted(bar.get_y() + bar.get_height() for bar in axes.patches)
    assert tops[-1] == 7 and len(tops) == 8 and axes.get_ylim()[1] > 7.5
    assert {"TSN\n7.0", "CT-Net\n3.5", "TSN\n4.0", "CT-Net\n2.0"} == set(texts(axes))


def test_dimension_sizes_ring_the_cheapest():
    (axes,) = figures.dimension_sizes({64: pd.DataFrame({"c2": [4, 8, 16], "relative": [1.25, 1.0, 1.25]})}).axes
    rings = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() > 10]
    assert rings == [8] and axes.get_legend().get_texts()[0].get_text() == "C = 64"


def test_interact_fields_tell_the_paper_s_box_from_what_is_measured():
    field = cost.interact_field(CTModule(4, 1, excitation="none"), num_frames=5, size=5)
    (axes,) = figures.interact_fields({"CT": field}, {"CT": 5}).axes
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
    (axes,) = figures.latency_vs_gflops(timed).axes
    assert texts(axes) == ["TSN", "CT-Net"] and axes.get_title() == "x, 2 threads"
    promised = next(line for line in axes.lines if line.get_linestyle() == "--")
    x, y = promised.get_data()
    assert y[-1] / x[-1] == pytest.approx(2.0)
