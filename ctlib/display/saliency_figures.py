"""Figures of Saliency Tubes: rows as in Figure 3, a moving picture, in three dimensions, below probabilities."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ctlib import saliency
from ctlib.display import plotting

HEAT = "magma"  # its lightness grows throughout, so it is readable in grey and by colour-blind readers
OPACITY = 0.75  # of the greatest heat; at 0 the frame shows unchanged
SCALE = "share of the clip's greatest value"


class Prediction(NamedTuple):
    """A network's prediction for a clip, and the tube that explains it."""

    tube: np.ndarray  # float (T, H, W), in [0, 1]
    predicted: str  # class name
    explained: str  # the class whose evidence the tube shows

    def label(self, truth: str | None) -> str:
        """The predicted class, whether it is right (if the truth is known), and the class shown if it differs."""
        mark = "" if truth is None else " (right)" if self.predicted == truth else " (WRONG)"
        shown = "" if self.explained == self.predicted else f"; shown: {self.explained}"
        return f"{self.predicted}{mark}{shown}"


def overlay(frames: np.ndarray, tube: np.ndarray) -> np.ndarray:
    """Heat over grey frames: uint8 (T, H, W, 3) and (T, H, W) in [0, 1] -> uint8 (T, H, W, 3).

    Greater heat is more opaque. Frames are grey because their colours would mix with the scale's.
    """
    if frames.shape != (*tube.shape, 3):
        raise ValueError(
            f"frames (T, H, W, 3) and tube (T, H, W) must be of one clip, got {frames.shape}, {tube.shape}"
        )
    return _blended(frames @ np.array([0.299, 0.587, 0.114]), tube)


def _blended(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    heat = np.clip(heat, 0, 1)
    opacity = OPACITY * heat[..., None]
    colour = 255 * plt.get_cmap(HEAT)(heat)[..., :3]
    return ((1 - opacity) * grey[..., None] + opacity * colour).round().astype(np.uint8)


def tubes_in_rows(
    frames: np.ndarray, truth: str | None, predictions: dict[str, Prediction], mask: np.ndarray | None = None
) -> Figure:
    """One clip as in Figure 3: the input on top, then one row per network; time runs from left to right.

    Args:
        frames: uint8 (T, H, W, 3).
        truth: the true class, or None if unknown.
        predictions: network -> its prediction.
        mask: bool (T, H, W), where the object is, if known; its outline is drawn.
    """
    rows, columns = 1 + len(predictions), len(frames)
    figure, axes = plt.subplots(rows, columns, figsize=(1.07 * columns + 1.2, 1.38 * rows), squeeze=False)
    shown = {"input": frames} | {name: overlay(frames, one.tube) for name, one in predictions.items()}
    titles = {"input": "" if truth is None else f"truth: {truth}"}
    titles |= {name: one.label(truth) for name, one in predictions.items()}
    for row, (name, pictures) in zip(axes, shown.items(), strict=True):
        for axis, (time, picture) in zip(row, enumerate(pictures), strict=True):
            axis.imshow(picture)
            if mask is not None and mask[time].any() and not mask[time].all():
                axis.contour(mask[time], levels=[0.5], colors=["white"], linewidths=0.9)
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
        row[0].set_ylabel(name, weight="bold")
        row[0].set_title(" ", fontsize=10)  # reserves a line
        above = row[0].text(0, 1.05, titles[name], transform=row[0].transAxes, va="bottom", fontsize=9)
        above.set_in_layout(False)  # else it would widen its column
    colours = _blended(np.full(256, 128.0), np.linspace(0, 1, 256)) / 255  # the scale on a middle grey
    scale = ScalarMappable(Normalize(0, 1), ListedColormap(colours))
    figure.colorbar(scale, ax=axes, label=SCALE, shrink=0.7, pad=0.01)
    return figure


class Animation:
    """Moving frames: shown in notebooks as an animated PNG, saved as a GIF."""

    def __init__(self, frames: Sequence[Image.Image], milliseconds: int):
        # The same 256 colours for all frames take a third of the bytes.
        palette = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames])).quantize(256)
        few = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        self.gif, self.png = (_encoded(few, kind, milliseconds) for kind in ("GIF", "PNG"))

    def save(self, path: str | Path) -> None:
        """Write the GIF."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(self.gif)

    def _repr_png_(self) -> bytes:
        return self.png


def _encoded(frames: Sequence[Image.Image], kind: str, milliseconds: int) -> bytes:
    file = io.BytesIO()
    first, *others = frames
    first.save(file, kind, save_all=True, append_images=others, duration=milliseconds, loop=0)
    return file.getvalue()


def animated(
    frames: np.ndarray, truth: str, predictions: dict[str, Prediction], height: int = 128, milliseconds: int = 400
) -> Animation:
    """The clip and each network's tube side by side, in motion.

    Args:
        frames: uint8 (T, H, W, 3).
        predictions: network -> its prediction.
        height: pixels of a frame as shown.
        milliseconds: per frame.
    """
    panels = {"input": frames} | {name: overlay(frames, one.tube) for name, one in predictions.items()}
    marks = {name: "right" if one.predicted == truth else "WRONG" for name, one in predictions.items()}
    width, gap, top, bottom = round(height * frames.shape[2] / frames.shape[1]), 4, 20, 20
    font = {"fill": "black", "font": ImageFont.load_default(13)}
    pictures = []
    for time in range(len(frames)):
        picture = Image.new("RGB", (len(panels) * (width + gap) - gap, top + height + bottom), "white")
        draw = ImageDraw.Draw(picture)
        for place, (name, panel) in enumerate(panels.items()):
            left = place * (width + gap)
            picture.paste(Image.fromarray(panel[time]).resize((width, height), Image.Resampling.BICUBIC), (left, top))
            draw.text((left + 2, 3), f"{name}: {marks[name]}" if name in marks else name, **font)
        draw.text((2, top + height + 3), f"frame {time + 1} of {len(frames)}, {truth}", **font)
        pictures.append(picture)
    return Animation(pictures, milliseconds)


def tube_in_space(
    frames: np.ndarray, predictions: dict[str, Prediction], threshold: float = 0.5, cells: int = 16
) -> Figure:
    """Tubes in three dimensions, with time as one: the cells of at least `threshold` of the clip's greatest value.

    Args:
        frames: uint8 (T, H, W, 3); the first is drawn at its place in time.
        predictions: network -> its prediction.
        threshold: share of the greatest value.
        cells: in height and in width.
    """
    figure = plt.figure(figsize=(4.2 * len(predictions) + 1, 4.2))
    all_axes = []
    for index, (name, prediction) in enumerate(predictions.items()):
        axes = figure.add_subplot(1, len(predictions), index + 1, projection="3d")
        down, right = (((np.arange(cells) + 0.5) * extent / cells).astype(int) for extent in frames.shape[1:3])
        tube = prediction.tube[:, down][:, :, right]  # the middles of the cells: (T, cells, cells)
        placed = tube[:, ::-1].transpose(0, 2, 1)  # time, width, height upwards
        colours = np.concatenate([plt.get_cmap(HEAT)(placed)[..., :3], np.full((*placed.shape, 1), 0.85)], axis=-1)
        visible = placed >= max(threshold, 1e-6)
        axes.voxels(visible, facecolors=colours, edgecolor=(0.2, 0.2, 0.2, 0.35), lw=0.3, shade=False)
        _first_frame(axes, frames[0], cells)
        ends = {"xlim": (0, len(tube)), "ylim": (0, cells), "zlim": (0, cells)}
        axes.set(xlabel="frame", ylabel="width", zlabel="height", yticklabels=[], zticklabels=[], **ends)
        axes.set_title(f"{name}\n{prediction.explained}", fontsize="small")
        axes.zaxis.labelpad = -10  # there are no numbers between axis and label
        axes.yaxis.labelpad = -6
        axes.set_box_aspect((1.7, 1, 1))
        axes.view_init(20, -58)
        all_axes.append(axes)
    scale = ScalarMappable(Normalize(0, 1), HEAT)
    bar = figure.colorbar(scale, ax=all_axes, shrink=0.7, pad=0.08)
    bar.ax.set_ylim(threshold, 1)  # of what is shown
    bar.set_label(SCALE, fontsize="small")
    return figure


def _first_frame(axes, frame: np.ndarray, cells: int) -> None:
    side = 32
    small = np.asarray(Image.fromarray(frame).resize((side, side))) / 255
    edges = np.linspace(0, cells, side + 1)
    width, height = np.meshgrid(edges, edges[::-1])
    axes.plot_surface(np.zeros_like(width), width, height, facecolors=small, rstride=1, cstride=1, shade=False)


def explored(
    frames: np.ndarray, truth: str, name: str, prediction: Prediction, threshold: float, mask: np.ndarray | None = None
) -> bytes:
    """One network's tube of one clip, without values below `threshold`, as the PNG that the explorer shows."""
    above = prediction._replace(tube=np.where(prediction.tube >= threshold, prediction.tube, 0))
    with plt.ioff():  # else a notebook shows it a second time
        figure = tubes_in_rows(frames, truth, {name: above}, mask)
    plt.close(figure)
    return plotting.png(figure, dpi=90)


def most_probable(tube: saliency.Tube, classes: tuple[str, ...], most: int = 5) -> dict[str, float]:
    """The most probable classes, and their probabilities."""
    values, labels = torch.from_numpy(tube.scores).softmax(0).topk(min(most, len(classes)))
    return {classes[label]: value for label, value in zip(labels.tolist(), values.tolist(), strict=True)}


def labelled(tube: saliency.Tube, probabilities: dict[str, float]) -> Figure:
    """Probabilities as bars, and below them the frames that the network saw, with the tube if it is fine enough."""
    pictures = tube.frames if saliency.too_coarse(tube.positions) else overlay(tube.frames, tube.tube)
    width, gap, columns = 6.4, 0.08, 4  # inches of the figure and between frames, and frames in a row
    side = (width - gap) / columns  # of a frame and a gap
    bars, rows = 0.35 * len(probabilities), -(-len(pictures) // columns)
    height = bars + rows * side + 3 * gap
    figure = Figure(figsize=(width, height), layout="none")

    def axes_at(left: float, top: float, wide: float, high: float) -> Axes:
        axes = figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
        axes.grid(False)
        return axes

    axes = axes_at(2.55, gap, width - 2.55 - gap, bars)
    shares = axes.barh(range(len(probabilities)), [100 * value for value in probabilities.values()], 0.7, color="C0")
    axes.bar_label(shares, fmt="%.1f %%", padding=3, fontsize=9)
    names = [textwrap.fill(name, 34, max_lines=2, placeholder="…") for name in probabilities]
    axes.set_yticks(range(len(names)), names, fontsize=9, linespacing=0.95)
    axes.set(xlim=(0, 120), xticks=[])
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        axes = axes_at(gap + column * side, bars + 2 * gap + row * side, side - gap, side - gap)
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        box = {"fc": "black", "alpha": 0.6, "ec": "none", "pad": 1.5}
        axes.text(0.03, 0.97, tube.indices[index], transform=axes.transAxes, va="top", fontsize=9, color="w", bbox=box)
    return figure
