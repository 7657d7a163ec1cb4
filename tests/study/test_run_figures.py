import pandas as pd
import pytest

from ctlib.study import run_figures

pytestmark = pytest.mark.usefixtures("figures_closed")


def test_an_ablations_interval_leaves_the_axis_where_a_percentage_ends():
    top1 = {"a": [41.6, 83.9, 78.6], "b": [87.0, 88.0, 89.0]}
    lines = pd.DataFrame([(row, seed, value) for row in top1 for seed, value in enumerate(top1[row])])
    (axes,) = run_figures.ablation(lines.set_axis(["row", "seed", "top1"], axis=1), "a table", 50).axes
    assert axes.get_xlim()[1] == 100 and 0 <= axes.get_xlim()[0] < 41.6
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
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
    figure = run_figures.localised(pd.DataFrame(rows))
    assert len(figure.axes) == 4
    for axis in figure.axes:
        assert len(axis.containers) == 6  # trained, shuffled, random, of two networks
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["trained", "places shuffled", "random weights", "uniform over the map, or over all frames"]
