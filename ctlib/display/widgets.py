"""Widgets of the notebooks. Each is thin: its numbers and figures come from functions that tests call directly."""

import base64
import functools
import html
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from ctlib import saliency
from ctlib.checkpoints import Checkpoint
from ctlib.data.video import VideoError
from ctlib.display import plotting, saliency_figures


class TrainingPanel:
    """A running training: bar, status, growing curves, and a stop button where clicks arrive in time.

    A front end's messages usually wait until the cell has finished, and clicks with them. JupyterLab since 4.4 sends
    them on a separate way (a subshell). So the panel asks the front end for an answer, and shows the button once it
    has one. Interrupting the kernel always works, and the panel says so.

    Args:
        log: the training (`progress.TrainingLog`), kept by its callbacks.
        on_stop: called by the button, from another thread; None for no button.
        bound: the bound of frame averaging in testing, percent; drawn as a line.
    """

    def __init__(self, log, on_stop: Callable[[], None] | None = None, bound: float | None = None):
        self.log, self.on_stop, self.bound = log, on_stop, bound
        self.closed = self._testing = False
        self.status = ipywidgets.HTML()
        self.bar = ipywidgets.FloatProgress(max=1.0, layout={"width": "auto"})
        self.curves = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
        self.button = ipywidgets.Button(description="Stop and save", icon="stop", layout={"display": "none"})
        self.hint = ipywidgets.HTML("To stop and save: interrupt the kernel (■)")
        self.box = ipywidgets.VBox(
            [self.status, self.bar, self.curves, ipywidgets.HBox([self.button, self.hint])],
            layout={"width": "880px", "max_width": "100%"},
        )
        self.button.on_click(self._stop)
        _reachable(self.button)
        self._questions: list[ipywidgets.Widget] = []

    def show(self) -> None:
        self._update()
        self._plot()  # the first figure takes longest: now, not while training
        bundle = self.box._repr_mimebundle_() | {"text/plain": f"{self.log.name}: training"}
        self._shown = display(bundle, raw=True, display_id=True)
        self._updating = _Seldom(self._update, apart=0.5, share=0.004)
        self._plotting = _Seldom(self._plot, apart=2.0, share=0.01)
        self._asking = _Seldom(self._ask, apart=4.0, share=0.002)

    def refresh(self) -> None:
        """Show the log as often as possible without slowing the training."""
        if self.closed:
            return
        before, self._testing = self._testing, self.log.testing
        self._updating(now=self._testing and not before)  # at once, as no message comes during a test
        self._plotting()
        self._asking()

    def close(self, text: str) -> None:
        """Replace the panel by `text`, so that a saved notebook holds no dead widget."""
        self.closed = True
        self._shown.update({"text/plain": text}, raw=True)
        for widget in (self.box, *self.box.children, self.button, self.hint, *self._questions):
            widget.close()

    def _update(self) -> None:
        self.bar.value = self.log.steps_done / max(1, self.log.steps_total)
        self.status.value = f"<b>{html.escape(self.log.name)}</b> &nbsp; {self.log.status()}"

    def _plot(self) -> None:
        self.curves.value = training_curves(self.log, self.bound)

    def _ask(self) -> None:
        """Ask the front end to send back the bar's value: if it arrives while the cell runs, clicks do too.

        It asks a few times, because the separate way may not be open yet.
        """
        if self.on_stop is None or self.button.layout.display is None or len(self._questions) >= 6:
            return
        answer = ipywidgets.FloatText()
        answer.observe(self._answered, "value")
        _reachable(answer)
        self._questions += [answer, ipywidgets.jsdlink((self.bar, "value"), (answer, "value"))]

    def _answered(self, change) -> None:
        for widget in self._questions:
            widget.close()
        if not self.closed:
            self.button.layout.display = None
            self.hint.value = "or interrupt the kernel (■)"

    def _stop(self, button) -> None:
        if not self.closed:  # a click that arrives after the cell means nothing
            self.button.disabled = True
            self.hint.value = "stopping after this step"
            self.on_stop()


def training_curves(log, bound: float | None = None) -> bytes:
    """The loss by step and the accuracies by epoch, as a PNG."""
    figure = Figure(figsize=(8.8, 2.9), layout="none")  # not pyplot's, which would show it below the cell
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.17, top=0.9, wspace=0.15)
    left, right = figure.subplots(1, 2)
    if log.losses:
        losses = pd.DataFrame(thinned(log.losses), columns=["epoch", "loss"])
        left.plot(losses.epoch, losses.loss, color="C0", alpha=0.3, lw=1)
        left.plot(losses.epoch, losses.loss.ewm(span=max(5, len(losses) // 20)).mean(), color="C0")
    if log.rows:
        rows = pd.DataFrame(log.rows)
        left.plot(rows.epoch[: log.resumed] - 0.5, rows.loss[: log.resumed], "o", color="C0", mfc="none")
        right.plot(rows.epoch, rows.top1, "o-", color="C0", label="test")
        right.plot(rows.epoch, rows.train_top1, "o:", color="C0", mfc="none", label="training")
    if bound is not None:
        right.axhline(bound, color="0.3", ls="--", lw=1.2, label="bound of frame averaging")
    left.set(title="Training loss", xlabel="epoch", xlim=(0, log.epochs))
    right.set(title="Top-1 accuracy, %", xlabel="epoch", xlim=(0, log.epochs + 0.2), ylim=(0, 100))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    if right.get_legend_handles_labels()[0]:
        right.legend(fontsize="small", loc="upper left")
    return plotting.png(figure, dpi=100)


def thinned(points: Sequence[tuple[float, float]], most: int = 512) -> np.ndarray:
    """At most `most` points, each the mean of its neighbours: (n, 2)."""
    return np.array([part.mean(0) for part in np.array_split(np.asarray(points), min(most, len(points)))])


def _reachable(widget: ipywidgets.Widget) -> None:
    """Let messages to a widget take the way that the front end chose.

    ipykernel 7.4 makes them wait for whatever last sent to the widget, here the busy cell. This makes it forget that.
    (Nothing may be sent to the widget afterwards.)
    """
    vars(widget.comm).pop("_reply_subshell_id", None)


class _Seldom:
    """Call something repeatedly, at least `apart` seconds apart and in at most a `share` of the CPU time."""

    def __init__(
        self, what: Callable[[], None], apart: float, share: float, clock=time.monotonic, cpu=time.thread_time
    ):
        self.what, self.apart, self.share, self.clock, self.cpu = what, apart, share, clock, cpu
        self.due = clock() + apart

    def __call__(self, now: bool = False) -> None:
        if now or self.clock() >= self.due:
            began = self.cpu()
            self.what()
            self.due = self.clock() + max(self.apart, (self.cpu() - began) / self.share)


PREDICTED = "the predicted class"


class TubeExplorer:
    """Choose a clip, a network, a class and a threshold, and see the Saliency Tube.

    Args:
        clips: name of a clip -> its frames, true class and mask, as in `saliency_figures.explored`.
        networks: their names.
        classes: names in label order.
        explain: takes the names of a clip, a network and a class (None: the predicted one) and returns a
            `saliency_figures.Prediction`. It is called once per choice.
    """

    def __init__(self, clips: dict, networks: Sequence[str], classes: Sequence[str], explain: Callable):
        self.clips, self.explain = clips, functools.cache(explain)
        shared = {"style": {"description_width": "5em"}, "layout": {"width": "32em", "max_width": "100%"}}
        self.clip = ipywidgets.Dropdown(options=list(clips), description="clip", **shared)
        self.network = ipywidgets.Dropdown(options=list(networks), description="network", **shared)
        self.target = ipywidgets.Dropdown(options=[PREDICTED, *classes], description="class", **shared)
        self.threshold = ipywidgets.FloatSlider(
            max=0.95, step=0.05, description="threshold", continuous_update=False, **shared
        )
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
        choices = [self.clip, self.network, self.target, self.threshold]
        for choice in choices:
            choice.observe(self._draw, "value")
        self.box = ipywidgets.VBox([*choices, self.image])
        self._draw()

    def show(self) -> None:
        """Display it; a page without a kernel shows the picture of the first choice."""
        _show(self.box, self.image.value, f"Saliency Tube: {self.clip.value}, {self.network.value}")

    def _draw(self, _change=None) -> None:
        name, network = self.clip.value, self.network.value
        target = None if self.target.value == PREDICTED else self.target.value
        frames, truth, mask = self.clips[name]
        prediction = self.explain(name, network, target)
        self.image.value = saliency_figures.explored(frames, truth, network, prediction, self.threshold.value, mask)


def _show(box: ipywidgets.Box, png: bytes, text: str) -> None:
    still = {"image/png": base64.b64encode(png).decode(), "text/plain": text}
    display(box._repr_mimebundle_() | still, raw=True)


class VideoLabels:
    """Choose a video of a list, name a file, or upload one: its most probable classes, and its Saliency Tube.

    Args:
        videos: what the list shows -> the video's file, or a folder of numbered images.
        trained: a checkpoint that remembers its view.
    """

    def __init__(self, videos: Mapping[str, str], trained: Checkpoint):
        self.trained, self.folder = trained, tempfile.TemporaryDirectory()
        shared = {"style": {"description_width": "4.5em"}, "layout": {"width": "auto"}}
        self.video = ipywidgets.Dropdown(options=list(videos.items()), description="video", **shared)
        named = {"description": "or a file", "placeholder": "path, then Enter", "continuous_update": False}
        self.path = ipywidgets.Text(**named, **shared)
        self.upload = ipywidgets.FileUpload(accept="video/*", description="or upload one", layout={"width": "auto"})
        self.text = ipywidgets.HTML()
        self.image = ipywidgets.HTML(layout={"max_width": "100%", "overflow": "auto hidden"})
        self.video.observe(lambda change: self.label(change.new), "value")
        self.path.observe(lambda change: change.new.strip() and self.label(change.new.strip()), "value")
        self.upload.observe(self._uploaded, "value")
        layout = {"flex": "1 1 19em", "max_width": "25em"}
        controls = ipywidgets.VBox([self.video, self.path, self.upload, self.text], layout=layout)
        self.box = ipywidgets.Box([self.image, controls], layout={"flex_flow": "row wrap"})
        self.png = b""
        self.label(self.video.value)

    def label(self, source: str) -> None:
        """Show what the network says of a video. One that cannot be read shows why, and the last picture stays."""
        try:
            tube = saliency.tube_of(Path(source).expanduser(), self.trained)
        except (VideoError, ValueError, OSError) as error:
            self.text.value = f"<b>{html.escape(str(error))}</b>"
            return
        shown = [f"shown: {Path(source).name}", saliency.too_coarse(tube.positions)]
        self.text.value = "<br>".join(html.escape(line) for line in shown if line)
        best = saliency_figures.most_probable(tube, self.trained.classes)
        self.png = plotting.png(saliency_figures.labelled(tube, best), 96)
        alt = html.escape(", ".join(f"{name}: {100 * value:.0f} %" for name, value in best.items()))
        data, style = base64.b64encode(self.png).decode(), "max-width: 100%; min-width: 400px"
        self.image.value = f'<img style="{style}" alt="{alt}" src="data:image/png;base64,{data}">'

    def show(self) -> None:
        """Display it; a page without a kernel shows the picture of the first video."""
        _show(self.box, self.png, "Labels of a video")

    def _uploaded(self, change) -> None:
        for file in change.new:
            path = Path(self.folder.name) / Path(file["name"]).name
            path.write_bytes(file["content"])
            self.label(str(path))
