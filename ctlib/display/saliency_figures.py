"""Saliency Tubes to look at: Figure 3's rows, a moving picture, the tube in three dimensions, and what was measured."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

HEAT = "magma"  # its lightness grows all the way, so that it is read in grey and by colour-blind readers
OPACITY = 0.75  # of the heat at its greatest; at 0 the frame is as it was
SCALE = "share of the clip's greatest value"


class Answer(NamedTuple):
    """What a network says of a clip, and why."""

    tube: np.ndarray  # float (T, H, W), in [0, 1]
    predicted: str  # class name
    explained: str  # the class whose evidence the tube is


def overlay(frames: np.ndarray, tube: np.ndarray) -> np.ndarray:
    """Heat over frames: uint8 (T, H, W, 3) and (T, H, W) in [0, 1] -> uint8 (T, H, W, 3).

    The frames in grey, as their colours would mix with the scale's; the heat is the more opaque the greater it is.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if frames.shape != (*tube.shape, 3):
        raise ValueError(
            f"frames (T, H, W, 3) and tube (T, H, W) must be of one clip, got {frames.shape}, {tube.shape}"
        )
    grey = frames @ np.array([0.299, 0.587, 0.114])
    return _blended(grey, tube)


def _blended(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    heat = np.clip(heat, 0, 1)
    opacity = OPACITY * heat[..., None]
    colour = 255 * plt.get_cmap(HEAT)(heat)[..., :3]
    return ((1 - opacity) * grey[..., None] + opacity * colour).round().astype(np.uint8)


def _colour_bar(figure: Figure, axes) -> None:
    """The scale as it looks on a middle grey."""
    colours = _blended(np.full(256, 128.0), np.linspace(0, 1, 256)) / 255
    scale = ScalarMappable(Normalize(0, 1), ListedColormap(colours))
    figure.colorbar(scale, ax=axes, label=SCALE, shrink=0.7, pad=0.01)


def tubes_in_rows(
    frames: np.ndarray, truth: str | None, answers: dict[str, Answer], mask: np.ndarray | None = None
) -> Figure:
    """Figure 3's layout of one clip: the input above, then a row a network; time runs from left to right.

    Args:
        frames: uint8 (T, H, W, 3).
        truth: the true class; None if it is not known.
        answers: network -> what it says.
        mask: bool (T, H, W), where the object is, if that is known: its outline is drawn.
    """
    rows, columns = 1 + len(answers), len(frames)
    figure, axes = plt.subplots(rows, columns, figsize=(1.25 * columns + 1.2, 1.53 * rows), squeeze=False)
    shown = {"input": frames} | {name: overlay(frames, answer.tube) for name, answer in answers.items()}
    for line, (name, pictures) in zip(axes, shown.items(), strict=True):
        for axis, (time, picture) in zip(line, enumerate(pictures), strict=True):
            axis.imshow(picture)
            if mask is not None and mask[time].any() and not mask[time].all():
                axis.contour(mask[time], levels=[0.5], colors=["white"], linewidths=0.9)
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
        line[0].set_ylabel(name, weight="bold")
        told_truth = "" if truth is None else f"truth: {truth}"
        title = told_truth if name == "input" else _said(answers[name], truth)
        line[0].set_title(" ", fontsize=10)  # keeps the room of a line
        above = line[0].text(0, 1.05, title, transform=line[0].transAxes, va="bottom", fontsize=9)
        above.set_in_layout(False)  # else it would widen its column
    _colour_bar(figure, axes)
    return figure


def _said(answer: Answer, truth: str | None) -> str:
    mark = "" if truth is None else " (right)" if answer.predicted == truth else " (WRONG)"
    text = answer.predicted + mark
    return text if answer.explained == answer.predicted else f"{text}; shown: {answer.explained}"


class Animation:
    """Frames that move: an animated PNG wherever the notebook is read, and a GIF to keep."""

    def __init__(self, frames: Sequence[Image.Image], milliseconds: int):
        frames = _in_few_colours(frames)
        self.gif, self.png = (_encoded(frames, kind, milliseconds) for kind in ("GIF", "PNG"))

    def save(self, path: str | Path) -> None:
        """Write the GIF."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(self.gif)

    def _repr_png_(self) -> bytes:
        return self.png


def _in_few_colours(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """The same 256 colours for all frames, a third of the bytes."""
    palette = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames])).quantize(256)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _encoded(frames: Sequence[Image.Image], kind: str, milliseconds: int) -> bytes:
    file = io.BytesIO()
    first, *others = frames
    first.save(file, kind, save_all=True, append_images=others, duration=milliseconds, loop=0)
    return file.getvalue()


def animated(
    frames: np.ndarray, truth: str, answers: dict[str, Answer], height: int = 128, milliseconds: int = 400
) -> Animation:
    """The clip and each network's tube side by side, in motion.

    Args:
        frames, truth, answers: as in `tubes_in_rows`.
        height: pixels, of a frame as shown.
        milliseconds: a frame.
    """
    panels = {"input": frames} | {name: overlay(frames, answer.tube) for name, answer in answers.items()}
    marks = {name: "right" if answer.predicted == truth else "WRONG" for name, answer in answers.items()}
    width, gap, top, bottom = round(height * frames.shape[2] / frames.shape[1]), 4, 18, 18
    pictures = []
    for time in range(len(frames)):
        picture = Image.new("RGB", (len(panels) * (width + gap) - gap, top + height + bottom), "white")
        draw = ImageDraw.Draw(picture)
        for place, (name, panel) in enumerate(panels.items()):
            left = place * (width + gap)
            picture.paste(Image.fromarray(panel[time]).resize((width, height), Image.Resampling.BICUBIC), (left, top))
            draw.text((left + 2, 3), f"{name}: {marks[name]}" if name in marks else name, "black")
        draw.text((2, top + height + 3), f"frame {time + 1} of {len(frames)}, {truth}", "black")
        pictures.append(picture)
    return Animation(pictures, milliseconds)


def tube_in_space(frames: np.ndarray, answers: dict[str, Answer], threshold: float = 0.5, cells: int = 16) -> Figure:
    """The tubes in three dimensions, time as the third: what is at least `threshold` of the clip's greatest value.

    Args:
        frames, answers: as in `tubes_in_rows`. The first frame stands at its place in time.
        threshold: share of the greatest value.
        cells: places shown in height and in width.
    """
    figure = plt.figure(figsize=(4.2 * len(answers) + 1, 4.2))
    all_axes = []
    for index, (name, answer) in enumerate(answers.items()):
        axes = figure.add_subplot(1, len(answers), index + 1, projection="3d")
        tube = _cells(answer.tube, cells)  # (T, cells, cells)
        placed = tube[:, ::-1].transpose(0, 2, 1)  # time, width, height upwards
        colours = np.concatenate([plt.get_cmap(HEAT)(placed)[..., :3], np.full((*placed.shape, 1), 0.85)], axis=-1)
        axes.voxels(
            placed >= max(threshold, 1e-6), facecolors=colours, edgecolor=(0.2, 0.2, 0.2, 0.35), lw=0.3, shade=False
        )
        _first_frame(axes, frames[0], cells)
        ends = {"xlim": (0, len(tube)), "ylim": (0, cells), "zlim": (0, cells)}
        axes.set(xlabel="frame", ylabel="width", zlabel="height", yticklabels=[], zticklabels=[], **ends)
        axes.set_title(f"{name}\n{answer.explained}", fontsize="small")
        axes.zaxis.labelpad = -10  # no numbers stand between axis and label
        axes.yaxis.labelpad = -6
        axes.set_box_aspect((1.7, 1, 1))
        axes.view_init(20, -58)
        all_axes.append(axes)
    scale = ScalarMappable(Normalize(0, 1), HEAT)
    bar = figure.colorbar(scale, ax=all_axes, shrink=0.7, pad=0.08)
    bar.set_label(f"{SCALE}; shown from {threshold:g}", fontsize="small")
    return figure


def _cells(tube: np.ndarray, cells: int) -> np.ndarray:
    """Values at the middles of cells x cells places: (T, H, W) -> (T, cells, cells)."""
    down, right = (((np.arange(cells) + 0.5) * extent / cells).astype(int) for extent in tube.shape[1:])
    return tube[:, down][:, :, right]


def _first_frame(axes, frame: np.ndarray, cells: int) -> None:
    side = 32
    small = np.asarray(Image.fromarray(frame).resize((side, side))) / 255
    edges = np.linspace(0, cells, side + 1)
    width, height = np.meshgrid(edges, edges[::-1])
    axes.plot_surface(np.zeros_like(width), width, height, facecolors=small, rstride=1, cstride=1, shade=False)


def explored(
    frames: np.ndarray, truth: str, name: str, answer: Answer, threshold: float, mask: np.ndarray | None = None
) -> bytes:
    """One network's tube of one clip as a PNG, places below `threshold` left out: what the explorer shows."""
    kept = answer._replace(tube=np.where(answer.tube >= threshold, answer.tube, 0))
    with plt.ioff():  # else a notebook shows it a second time
        figure = tubes_in_rows(frames, truth, {name: kept}, mask)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    plt.close(figure)
    return file.getvalue()
