import numpy as np
import pytest
import torch

from ctlib import checkpoints, saliency
from ctlib.data import encoding
from ctlib.data.views import View
from ctlib.display import video_labels
from ctlib.models import build_model, model_config

CLASSES = ("left & right", "up", "down")


@pytest.fixture
def widget(tmp_path, figures_closed):
    torch.manual_seed(0)
    model = build_model(model_config("tsn_quickstart", num_classes=3, num_frames=2)).eval()
    with torch.no_grad():
        model.fc.bias[0] = 9.0
    for value, name in ((60, "a"), (200, "b")):
        encoding.write_video(tmp_path / f"{name}.mp4", np.full((6, 40, 40, 3), value, dtype=np.uint8), fps=12)
    trained = checkpoints.Checkpoint(model, CLASSES, {}, View(2, 32, 32, "sparse"))
    return video_labels.VideoLabels({name: str(tmp_path / f"{name}.mp4") for name in "ab"}, trained)


def test_each_way_to_choose_a_video_shows_it(widget, tmp_path):
    first = widget.png
    assert first.startswith(b"\x89PNG") and 'alt="left &amp; right: 100 %, up: 0 %' in widget.image.value
    assert widget.text.value.startswith("shown: a.mp4<br>no tube: ") and widget.text.value.endswith("to show where")
    widget.video.value = str(tmp_path / "b.mp4")
    second = widget.png
    assert second != first
    widget.path.value = f" {tmp_path / 'a.mp4'} "
    assert widget.png == first
    content = (tmp_path / "b.mp4").read_bytes()
    widget._uploaded(type("change", (), {"new": ({"name": "../mine.mp4", "content": content},)}))
    assert widget.png == second and widget.text.value.startswith("shown: mine.mp4<br>")


def test_a_file_that_is_no_video_shows_why_and_the_picture_stays(widget, tmp_path):
    first = widget.image.value
    widget.path.value = str(tmp_path / "<none>.mp4")
    assert widget.text.value == f"<b>{tmp_path}/&lt;none&gt;.mp4: no such file</b>" and widget.image.value == first


def test_the_figure_shows_the_most_probable_classes_and_each_frame_that_was_seen():
    frames, scores = np.zeros((8, 32, 32, 3), np.uint8), np.log([0.7, 0.2, 0.06, 0.04], dtype=np.float32)
    tube = saliency.Tube(frames, np.ones((8, 32, 32)), scores, 0, 0, np.arange(3, 67, 8), (8, 8))
    figure = video_labels.drawn(tube, ("a", "b", "c", "a name of " + "many words " * 8))
    bars, *pictures = figure.axes
    assert [text.get_text() for text in bars.texts] == ["70.0 %", "20.0 %", "6.0 %", "4.0 %"]
    assert bars.get_yticklabels()[3].get_text() == "a name of many words many words\nmany words many words many words…"
    assert [axes.texts[0].get_text() for axes in pictures] == [str(index) for index in range(3, 67, 8)]
    assert np.ptp(pictures[0].images[0].get_array().astype(int), axis=2).max() > 30  # heat, on black frames
