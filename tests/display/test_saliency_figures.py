import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from ctlib import saliency
from ctlib.display import saliency_figures, widgets
from ctlib.display.saliency_figures import Prediction

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 255, (4, 32, 40, 3), dtype=np.uint8)
TUBE = RNG.random((4, 32, 40)).astype(np.float32)
MASK = np.zeros((4, 32, 40), bool)
MASK[1:, 4:12, 6:20] = True
PREDICTIONS = {"CSN": Prediction(TUBE, "push", "push"), "CT-Net": Prediction(TUBE**2, "pull", "push")}


pytestmark = pytest.mark.usefixtures("figures_closed")


def test_without_heat_the_frame_shows_in_grey():
    tube = np.zeros((4, 32, 40))
    tube[:, :, 20:] = 1
    shown = saliency_figures.overlay(FRAMES, tube)
    grey = (FRAMES @ np.array([0.299, 0.587, 0.114])).round()
    assert np.array_equal(shown[:, :, :20], np.repeat(grey[:, :, :20, None], 3, axis=3))
    under = shown[:, :, 20:, 0].astype(float)
    assert under.std() > 0.15 * grey[:, :, 20:].std() and shown.dtype == np.uint8  # the frame is visible below
    with pytest.raises(ValueError, match="must be of one clip, got"):
        saliency_figures.overlay(FRAMES, tube[:2])


def test_more_heat_is_lighter_for_every_eye():
    colours = plt.get_cmap(saliency_figures.HEAT)(np.linspace(0, 1, 64))[:, :3]
    assert (np.diff(colours @ [0.2126, 0.7152, 0.0722]) > 0).all()


def test_the_figure_of_a_clip_has_one_row_per_network_and_says_which_is_right():
    figure = saliency_figures.tubes_in_rows(FRAMES, "pull", PREDICTIONS, MASK)
    axes = np.array(figure.axes[:-1]).reshape(3, 4)
    assert [line[0].get_ylabel() for line in axes] == ["input", "CSN", "CT-Net"]
    titles = [line[0].texts[0].get_text() for line in axes]
    assert titles == ["truth: pull", "push (WRONG)", "pull (right); shown: push"]
    assert np.array_equal(axes[0, 2].images[0].get_array(), FRAMES[2])
    assert np.array_equal(axes[1, 2].images[0].get_array(), saliency_figures.overlay(FRAMES, TUBE)[2])
    figure.draw_without_rendering()
    widths = [axis.get_position().width for axis in axes[0]]
    lefts = np.diff([axis.get_position().x0 for axis in axes[0]])
    assert np.ptp(widths) < 1e-3 and np.ptp(lefts) < 1e-3  # long words above do not push frames apart
    assert [bool(axis.collections) for axis in axes[1]] == [False, True, True, True]  # no outline of what is not seen
    assert figure.axes[-1].get_ylabel() == "share of the clip's greatest value"


def test_with_an_unknown_truth_no_prediction_is_called_wrong():
    figure = saliency_figures.tubes_in_rows(FRAMES, None, {"CSN": PREDICTIONS["CSN"]})
    assert [figure.axes[at].texts[0].get_text() for at in (0, 4)] == ["", "push"]


def test_the_moving_picture_is_a_gif_and_a_png_of_all_frames(tmp_path):
    moving = saliency_figures.animated(FRAMES, "pull", PREDICTIONS, height=64, milliseconds=250)
    assert moving._repr_png_() == moving.png
    moving.save(tmp_path / "new" / "clip.gif")
    for content, kind in ((tmp_path / "new" / "clip.gif", "GIF"), (io.BytesIO(moving.png), "PNG")):
        with Image.open(content) as image:
            assert image.format == kind and image.n_frames == 4 and image.size == (3 * 84 - 4, 104)
            assert image.info["loop"] == 0
            image.seek(1)
            assert image.info["duration"] == 250


def test_the_tube_in_space_shows_what_is_above_the_threshold():
    tube = np.zeros((4, 32, 40))
    tube[1, :16, :20] = 1.0
    tube[2] = 0.4
    figure = saliency_figures.tube_in_space(FRAMES, {"CSN": Prediction(tube, "push", "push")}, threshold=0.5, cells=8)
    voxels = [c for c in figure.axes[0].collections if len(c.get_facecolor()) != 32 * 32]
    assert len(voxels) == 16  # a quarter of one frame's 8 x 8 places
    assert figure.axes[-1].get_ylim() == (0.5, 1)  # the scale starts where the tube does


def test_the_explorer_explains_each_choice_once_and_draws_it(monkeypatch):
    asked, bundles = [], []

    def explain(clip, name, target):
        asked.append((clip, name, target))
        return PREDICTIONS[name]

    monkeypatch.setattr(widgets, "display", lambda bundle, raw: bundles.append(bundle))
    clips = {"3: pull": (FRAMES, "pull", MASK), "4: push": (FRAMES[::-1], "push", None)}
    explorer = widgets.TubeExplorer(clips, ["CSN", "CT-Net"], ["pull", "push"], explain)
    first = bytes(explorer.image.value)
    assert first.startswith(b"\x89PNG")
    explorer.network.value = "CT-Net"
    explorer.target.value = "pull"
    explorer.clip.value = "4: push"
    explorer.threshold.value = 0.5
    assert asked == [
        ("3: pull", "CSN", None), ("3: pull", "CT-Net", None), ("3: pull", "CT-Net", "pull"),
        ("4: push", "CT-Net", "pull"),
    ]  # fmt: skip
    expected = saliency_figures.explored(FRAMES[::-1], "push", "CT-Net", PREDICTIONS["CT-Net"], 0.5)
    assert bytes(explorer.image.value) == expected != first
    explorer.show()
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(bundles[0])
    assert plt.get_fignums() == []


def test_the_figure_shows_the_most_probable_classes_and_each_frame_that_was_seen():
    frames, scores = np.zeros((8, 32, 32, 3), np.uint8), np.log([0.7, 0.2, 0.06, 0.04], dtype=np.float32)
    tube = saliency.Tube(frames, np.ones((8, 32, 32)), scores, 0, 0, np.arange(3, 67, 8), (8, 8))
    best = saliency_figures.most_probable(tube, ("a", "b", "c", "a name of " + "many words " * 8))
    figure = saliency_figures.labelled(tube, best)
    bars, *pictures = figure.axes
    assert [text.get_text() for text in bars.texts] == ["70.0 %", "20.0 %", "6.0 %", "4.0 %"]
    assert bars.get_yticklabels()[3].get_text() == "a name of many words many words\nmany words many words many words…"
    assert [axes.texts[0].get_text() for axes in pictures] == [str(index) for index in range(3, 67, 8)]
    assert np.ptp(pictures[0].images[0].get_array().astype(int), axis=2).max() > 30  # heat, on black frames
