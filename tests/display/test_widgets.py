import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ctlib import checkpoints
from ctlib.data import encoding
from ctlib.data.views import View
from ctlib.display import progress as shown
from ctlib.display import widgets
from ctlib.models import build_model, model_config

ROW = {"epoch": 1, "loss": 1.5, "train_top1": 40.0, "top1": 43.75, "seconds": 7.2}


class Shown:
    """What the notebook shows."""

    def __init__(self, bundle, raw, display_id):
        self.bundle = bundle

    def update(self, bundle, raw):
        self.bundle = bundle


@pytest.fixture
def progress(monkeypatch):
    """Progress as a person sees it; `stops` counts clicks on the button."""
    monkeypatch.setattr(shown, "interactive", lambda: True)
    monkeypatch.setattr(widgets, "display", Shown)
    progress = shown.Progress("<TSN>", 2, batch=4, on_stop=lambda: progress.stops.append(1), bound=50)
    progress.stops = []
    return progress


def test_the_panel_shows_the_log_and_leaves_text(progress, capsys):
    with progress:
        panel = progress._panel
        assert "application/vnd.jupyter.widget-view+json" in panel._shown.bundle
        first = bytes(panel.curves.value)
        panel._updating.due = panel._plotting.due = 0
        progress.on_step(1, 4, 2.5)
        assert panel.bar.value == 0.25
        assert panel.status.value == "<b>&lt;TSN&gt;</b> &nbsp; epoch 1 of 2 · step 1 of 4 · loss 2.500"
        assert bytes(panel.curves.value).startswith(b"\x89PNG") and bytes(panel.curves.value) != first
        progress.on_step(2, 4, 2.5)
        assert "testing" in panel.status.value  # at once, as nothing comes until the test is done
        progress.on_epoch({**ROW, "top1": math.nan})
        panel._plot()  # epochs that were not tested
        progress.on_epoch(ROW)
    (text,) = panel._shown.bundle.items()
    assert text[0] == "text/plain" and "finished, step 2 of 4, 2 of 2 epochs" in text[1] and "epoch 1/2" in text[1]
    assert all(widget.comm is None for widget in (panel.box, *panel.box.children, panel.button, panel.hint))
    assert plt.get_fignums() == [] and capsys.readouterr().out == ""
    progress.on_step(3, 4, 2.5)  # too late: it does no harm


@pytest.mark.parametrize(("error", "word"), [(KeyboardInterrupt, "stopped"), (RuntimeError, "failed")])
def test_the_panel_closes_when_training_raises(progress, error, word):
    with pytest.raises(error), progress:
        progress.on_step(1, 4, 2.5)
        raise error
    assert word in progress._panel._shown.bundle["text/plain"] and progress._panel.closed


def test_the_button_is_shown_once_the_front_end_answers(progress):
    with progress:
        panel = progress._panel
        assert panel.button.layout.display == "none" and "interrupt the kernel" in panel.hint.value
        panel._asking.due = 0
        progress.on_step(1, 4, 2.5)
        answer, _ = panel._questions
        answer.set_state({"value": 0.25})  # as a message from the front end does
        assert panel.button.layout.display is None and progress.stops == []
        panel.button.click()
        assert progress.stops == [1] and panel.button.disabled
    panel.button.click()
    assert progress.stops == [1]


def test_a_front_end_that_does_not_answer_is_asked_a_few_times(progress):
    with progress:
        for step in range(1, 9):
            progress._panel._asking.due = 0
            progress.on_step(step, 9, 2.5)
        assert len(progress._panel._questions) == 6  # three questions, of an answer and a link each
        assert progress._panel.button.layout.display == "none"


def test_drawing_takes_a_small_share_of_the_time():
    time, spent = [0.0], [0.0]

    def draw():
        time[0] += 0.5
        spent[0] += 0.1  # the other 0.4 s went to someone else

    seldom = widgets._Seldom(draw, apart=2.0, share=0.01, clock=lambda: time[0], cpu=lambda: spent[0])
    for _ in range(10000):
        time[0] += 0.1
        seldom()
    assert spent[0] / time[0] == pytest.approx(0.01, rel=0.1)
    time[0], seldom.due = 0.0, 1.0
    seldom(now=True)
    assert time[0] == 0.5


def test_a_long_runs_losses_become_few_points():
    points = widgets.thinned([(step / 5000, float(step)) for step in range(1, 5001)])
    assert points.shape == (512, 2)
    for epochs, loss in points:
        assert loss == pytest.approx(epochs * 5000)  # the mean of its own steps, at their middle
    assert widgets.thinned([(1.0, 2.0)]).tolist() == [[1.0, 2.0]]


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
    return widgets.VideoLabels({name: str(tmp_path / f"{name}.mp4") for name in "ab"}, trained)


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
