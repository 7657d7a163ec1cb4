"""A widget: choose a video, and see what a network says of it and where it looks."""

import base64
import html
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path

import ipywidgets
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctlib import saliency
from ctlib.checkpoints import Checkpoint
from ctlib.data.video import VideoError
from ctlib.display import plotting, saliency_figures

MOST = 5  # classes that are shown
COLUMNS, WIDTH = 4, 6.4  # frames in a row, and inches of the figure


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
        self.image, self.text = (
            ipywidgets.HTML(layout={"max_width": "100%", "overflow": "auto hidden"}),
            ipywidgets.HTML(),
        )
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
        figure = drawn(tube, self.trained.classes)
        self.png = plotting.png(figure, 96)
        data, alt = base64.b64encode(self.png).decode(), html.escape(description(tube, self.trained.classes))
        self.image.value = (
            f'<img style="max-width: 100%; min-width: 400px" alt="{alt}" src="data:image/png;base64,{data}">'
        )

    def show(self) -> None:
        """Display it; a page without a kernel shows the picture of the first video."""
        still = base64.b64encode(self.png).decode()
        display(self.box._repr_mimebundle_() | {"image/png": still, "text/plain": "Labels of a video"}, raw=True)

    def _uploaded(self, change) -> None:
        for file in change.new:
            path = Path(self.folder.name) / Path(file["name"]).name
            path.write_bytes(file["content"])
            self.label(str(path))


def answers(tube: saliency.Tube, classes: tuple[str, ...]) -> list[tuple[str, float]]:
    """The most probable classes, with their probabilities."""
    values, labels = torch.from_numpy(tube.scores).softmax(0).topk(min(MOST, len(classes)))
    return [(classes[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)]


def description(tube: saliency.Tube, classes: tuple[str, ...]) -> str:
    """What the picture says, for readers who cannot see it."""
    return ", ".join(f"{name}: {100 * value:.0f} %" for name, value in answers(tube, classes))


def drawn(tube: saliency.Tube, classes: tuple[str, ...]) -> Figure:
    """The probabilities as bars, and below them the frames that the network saw, with the tube if it is fine enough."""
    pictures = tube.frames
    if not saliency.too_coarse(tube.positions):
        pictures = saliency_figures.overlay(tube.frames, tube.tube)
    gap, best = 0.08, answers(tube, classes)
    side = (WIDTH - gap) / COLUMNS  # inches of a frame and a gap
    bars, rows = 0.35 * len(best), -(-len(pictures) // COLUMNS)
    height = bars + rows * side + 3 * gap
    figure = Figure(figsize=(WIDTH, height), layout="none")

    def axes_at(left: float, top: float, wide: float, high: float):
        return figure.add_axes((left / WIDTH, 1 - (top + high) / height, wide / WIDTH, high / height))

    _bars(axes_at(2.55, gap, WIDTH - 2.55 - gap, bars), best)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, COLUMNS)
        axes = axes_at(gap + column * side, bars + 2 * gap + row * side, side - gap, side - gap)
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        box = {"fc": "black", "alpha": 0.6, "ec": "none", "pad": 1.5}
        axes.text(0.03, 0.97, tube.indices[index], transform=axes.transAxes, va="top", fontsize=9, color="w", bbox=box)
    return figure


def _bars(axes: Axes, best: list[tuple[str, float]]) -> None:
    places, shares = range(len(best)), [100 * value for _, value in best]
    axes.barh(places, shares, color="C0", height=0.7)
    for place, share in zip(places, shares, strict=True):
        axes.text(share + 1, place, f"{share:.1f} %", va="center", fontsize=9)
    names = [textwrap.fill(name, 34, max_lines=2, placeholder="…") for name, _ in best]
    axes.set_yticks(places, names, fontsize=9, linespacing=0.95)
    axes.set(xlim=(0, 120), xticks=[])
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.grid(False)
