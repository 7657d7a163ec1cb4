import numpy as np
import pandas as pd
import pytest

from ctlib.display import plotting
from ctlib.training import summaries

pytestmark = pytest.mark.usefixtures("figures_closed")


HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "train_top1": [10.0, 40.0], "top1": [12.0, 50.0]})
RUNS = pd.DataFrame(
    {"name": ["TSN", "CT-Net"], "gflops": [0.11, 0.1], "top1": [48.0, 88.0], "num_frames": 8, "size": 64}
    | {"videos": 480, "clips": 1, "crops": 1}
)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_learning_curves_show_every_run_and_the_bound():
    left, right = plotting.learning_curves({"TSN": HISTORY, "CT-Net": HISTORY}, bound=50).axes
    assert [line.get_label() for line in left.lines] == ["TSN", "CT-Net"]
    assert np.array_equal(right.lines[0].get_ydata(), [12, 50])
    assert texts(right) == ["bound of frame averaging"]


def test_accuracy_against_gflops_names_each_point_and_its_protocol():
    axes = plotting.accuracy_vs_gflops(RUNS, bound=50, margins=[1, 2]).axes[0]
    assert texts(axes) == ["TSN  48.0 %", "CT-Net  88.0 %", "bound of frame averaging"]
    assert axes.get_xlabel() == "GFLOPs of one view (8 x 64 x 64)"
    assert axes.get_ylabel() == "top-1, % of 480 videos (1 clip x 1 crop)\nbars: 95 % intervals"


def test_confusion_is_in_percent_of_the_true_class():
    table = pd.DataFrame({"label": [0, 0, 1, 1], "predicted": [0, 1, 1, 1]})
    axes = plotting.confusion({"TSN": table, "CT-Net": table}, ["a", "b"]).axes
    values = axes[0].collections[0].get_array().reshape(2, 2)
    assert values.tolist() == [[50, 50], [0, 100]]
    assert axes[0].get_title() == "TSN: 75.0 % right"
    assert not axes[0].patches
    assert len(plotting.confusion({"TSN": table}, ["a", "b"], pairs=True).axes[0].patches) == 1


def test_confusion_leaves_out_what_was_not_read():
    table = pd.DataFrame({"label": [0, -1, 1, -1], "predicted": [0, 1, 0, 0]})
    axes = plotting.confusion({"TSN": table}, ["a", "b"]).axes[0]
    assert axes.collections[0].get_array().reshape(2, 2).tolist() == [[100, 0], [100, 0]]
    assert axes.get_title() == "TSN: 50.0 % right"


@pytest.mark.parametrize(("count", "ticks"), [(174, 9), (400, 8)])
def test_confusion_of_many_classes_has_numbers_for_names_and_says_its_scale(count, ticks):
    table = pd.DataFrame({"label": range(count), "predicted": range(count)})
    axes, other, bar = plotting.confusion({"A": table, "B": table}, [f"class {i}" for i in range(count)]).axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert len(names) == ticks and names[0] == "0" and all(name.isdigit() for name in names)
    assert texts(axes) == [] and axes.collections[0].get_rasterized()  # else an SVG of 160,000 squares
    assert axes.get_ylabel() == "true class, number from 0"
    assert bar.get_ylabel() == "% of the true class's videos, on a square-root scale"


def accuracies(count, videos=4):
    labels = np.repeat(np.arange(count), videos)
    right = (np.arange(len(labels)) % videos) * count < labels * videos  # the higher the label, the more are right
    predictions = pd.DataFrame({"label": labels, "predicted": np.where(right, labels, (labels + 1) % count)})
    return summaries.by_class(predictions, [f"class {label}" for label in range(count)])


def test_class_accuracy_has_a_dot_a_run_in_the_order_of_the_mean():
    good, bad = accuracies(4), accuracies(4)
    bad["top1"] = [0.0, 0.0, 50.0, np.nan]  # the last has no videos here, and is left out
    (axes,) = plotting.class_accuracy({"good": good, "bad": bad}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["class 2", "class 1", "class 0"]
    assert [line.get_label() for line in axes.lines] == ["good", "bad"]
    assert axes.lines[0].get_xdata().tolist() == good.top1[[2, 1, 0]].tolist()
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["good", "bad"]
    low, high = axes.get_ylim()
    assert low > high  # the best on top


def test_class_accuracy_of_many_classes_names_the_best_and_the_worst():
    curve, axes = plotting.class_accuracy({"A": accuracies(174, videos=174)}, most=10).axes
    assert len(curve.lines[0].get_xdata()) == 174 and np.all(np.diff(curve.lines[0].get_ydata()) <= 0)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [f"class {label}" for label in (173, 172, 171, 170, 169, 4, 3, 2, 1, 0)]
    assert axes.get_title() == "the 5 best and the 5 worst of them, by the mean of the runs"
    assert plotting._short("x" * 80) == "x" * 53 + "..."


def test_clips_say_what_was_right_and_what_was_wrong():
    frames = [np.zeros((8, 16, 16, 3), np.uint8)] * 2
    axes = plotting.clips_in_rows(frames, ["a", "b"], [{"TSN": "a", "CT-Net": "b"}] * 2).axes
    assert axes[0].get_xlabel().split() == ["TSN:", "a", "(right)", "CT-Net:", "b", "(WRONG)"]
    assert len(plotting.clips_in_rows(frames, ["a", "b"]).axes) == 2


def test_frames_sampled_has_a_line_of_dots_a_clip():
    clips = {"sparse": np.array([[1, 4], [0, 5]]), "dense": np.array([[2, 3]])}
    top, axes = plotting.frames_sampled(np.zeros((4, 8, 8, 3), np.uint8), 10, clips).axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 4], [0, 5], [2, 3]]
    assert [line.get_ydata()[0] for line in axes.lines] == [0, 1, 2] and len(top.images) == 4
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sparse", "dense"]


def test_crops_seen_draws_each_box_where_it_lies():
    figure = plotting.crops_seen(np.zeros((10, 20, 3), np.uint8), {"test": [(0, 5, 10, 10)], "two": [(0, 0, 4, 4)] * 2})
    assert [len(axes.patches) for axes in figure.axes] == [1, 2]
    box = figure.axes[0].patches[0]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (4.5, -0.5, 10, 10)
