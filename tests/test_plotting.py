import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ctlib import plotting


@pytest.fixture(autouse=True)
def closed():
    plt.switch_backend("agg")
    plotting.use_style()
    yield
    plt.close("all")


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
    axes = plotting.accuracy_vs_gflops(RUNS, bound=50, spread=[1, 2]).axes[0]
    assert texts(axes) == ["TSN  48.0 %", "CT-Net  88.0 %", "bound of frame averaging"]
    assert axes.get_xlabel() == "GFLOPs of one view (8 x 64 x 64)"
    assert axes.get_ylabel() == "top-1, % of 480 videos (1 clip x 1 crop)"


def test_confusion_is_in_percent_of_the_true_class():
    table = pd.DataFrame({"label": [0, 0, 1, 1], "predicted": [0, 1, 1, 1]})
    axes = plotting.confusion({"TSN": table, "CT-Net": table}, ["a", "b"]).axes
    values = axes[0].collections[0].get_array().reshape(2, 2)
    assert values.tolist() == [[50, 50], [0, 100]]
    assert axes[0].get_title() == "TSN: 75.0 % right"


def test_clips_say_what_was_right_and_what_was_wrong():
    frames = [np.zeros((8, 16, 16, 3), np.uint8)] * 2
    axes = plotting.clips_in_rows(frames, ["a", "b"], [{"TSN": "a", "CT-Net": "b"}] * 2).axes
    assert axes[0].get_xlabel().split() == ["TSN:", "a", "(right)", "CT-Net:", "b", "(WRONG)"]
    assert len(plotting.clips_in_rows(frames, ["a", "b"]).axes) == 2
