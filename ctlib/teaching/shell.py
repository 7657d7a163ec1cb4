"""What all lessons share: pictures with a text alternative, and sliders in front of a function.

An explorer is a pure function from settings to a `View`. The notebook's static figure, its moving one and the tests
all call that function; `Explorer` puts sliders in front of it.
"""

import base64
import html
import io
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import ipywidgets
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from ctlib.display import plotting
from ctlib.display.saliency_figures import Animation

PALE, BLUE, DARK = "#e6e6e6", "#8fbfdd", "#0b5b8a"  # each darker than the last, so readable in grey
SHADES = ListedColormap([PALE, BLUE, DARK])
PIXEL = np.array((0.42, 0.25))  # how far a pixel of a block lies from the one to its left, as drawn
WIDEST = 6.4  # inches of a figure that lies beside its controls where a browser is 1400 pixels wide
# A figure shrinks to two thirds at most: a telephone scrolls it. Toggles of one control stay in one row.
STYLE = """<style>
.ct-explorer img {max-width: 100%; min-width: 400px}
.ct-explorer .widget-toggle-buttons > div {display: flex; flex-wrap: nowrap}
.ct-explorer .widget-toggle-button {padding: 0 5px; min-width: 0; flex: 0 1 auto}
</style>"""


def canvas(width: float, height: float, **margins: float) -> Figure:
    """An empty figure, in inches.

    It is not pyplot's, so a notebook shows it once. It has no layout engine, which would take as long as drawing.
    """
    figure = Figure(figsize=(width, height), layout="none")
    figure.subplots_adjust(**{"left": 0.08, "right": 0.98, "bottom": 0.14, "top": 0.86} | margins)
    return figure


def by(sizes: Iterable[int]) -> str:
    """Sizes as text: (4, 3) -> "4 x 3"."""
    return " x ".join(map(str, sizes))


def check_minimum(**parameters: tuple[int, int]) -> None:
    """Raise ValueError if a parameter, given as name=(value, minimum), is below its minimum."""
    for name, (value, minimum) in parameters.items():
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def flow_step(axes: Axes, x: float, y: float, what: str, shape: Sequence[int]) -> None:
    """A step of a flow chart as a box, with the shape of its output; tensor separable convolutions are blue."""
    style = {"boxstyle": "round,pad=0.4", "fc": BLUE if "TSConv" in what else PALE, "ec": "0.3"}
    axes.text(x, y, f"{what}\n{by(shape)}", ha="center", va="center", fontsize=9, bbox=style)


def flow_arrow(axes: Axes, *corners: tuple[float, float], color: str = "0.2") -> None:
    """A line through the corners, behind the boxes of a flow chart, with a head at its end."""
    axes.plot(*zip(*corners, strict=True), color=color, lw=1.1, zorder=1)
    arrow = {"arrowstyle": "->", "color": color, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", corners[-1], corners[-2], arrowprops=arrow, zorder=1)


def draw_block(
    axes: Axes, values: np.ndarray, at: Sequence[float], color: str, **colours
) -> tuple[float, float, float]:
    """Draw (T, H, W) values as frames one behind the other, from the lower left corner `at` of the first.

    Returns how far one frame lies from the next, and the width and the height of the whole.
    """
    t, h, w = values.shape
    step = np.array((w * PIXEL[0] + 0.8, -0.34))
    x, y = np.meshgrid(np.arange(w + 1), np.arange(h + 1))
    corners = at + np.array([column * PIXEL + (0, row) for column, row in ((0, 0), (w, 0), (w, h), (0, h), (0, 0))])
    for corner in corners[:4]:
        axes.plot(*zip(corner, corner + (t - 1) * step, strict=True), color=color, lw=0.7, ls=":", zorder=1)
    for frame in range(t):
        left, bottom = at + frame * step
        cells = left + x * PIXEL[0], bottom + h - y + x * PIXEL[1], values[frame]
        axes.pcolormesh(*cells, edgecolors="white" if w < 9 else "none", lw=0.6, zorder=2 + frame, **colours)
        axes.plot(*(corners + frame * step).T, color=color, lw=1, zorder=2 + frame)
    return step[0], (t - 1) * step[0] + w * PIXEL[0], h + w * PIXEL[1] - (t - 1) * step[1]


def film(axes: Axes, frames: np.ndarray, title: str) -> None:
    """Frames, uint8 (T, H, W, 3), side by side."""
    axes.imshow(np.concatenate(np.pad(frames, ((0, 0), (0, 0), (1, 1), (0, 0)), constant_values=255), axis=1))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, loc="left")  # in sight where a telephone scrolls the picture
    axes.grid(False)


class Picture:
    """A figure as a PNG with a text alternative for readers who cannot see it."""

    def __init__(self, figure: Figure, alt: str, dpi: int = 96):  # at 96 a browser shows points as points
        self.png, self.alt = plotting.png(figure, dpi), alt

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "unconfined": True}}  # not shrunk: a telephone scrolls it


class View(NamedTuple):
    """What an explorer shows for one setting."""

    figure: Figure
    numbers: dict[str, str]  # quantity -> its value with its unit
    alt: str  # the figure in words

    def picture(self) -> Picture:
        return Picture(self.figure, self.alt)


class Explorer:
    """A figure beside controls. Each sets the argument of `view` that has its name.

    A setting that is not possible shows the reason, and the last picture stays. Beside a figure wider than `WIDEST`,
    or on a narrow screen, the controls lie below it. `play` names a slider that a play button moves every so many
    `seconds`.
    """

    def __init__(
        self, view: Callable[..., View], play: str = "", seconds: float = 1, **controls: ipywidgets.ValueWidget
    ):
        self.view, self.controls = view, controls
        for name, control in controls.items():
            control.description = control.description or name.replace("_", " ")
            control.observe(self._draw, "value")
        longest = max(len(control.description) for control in controls.values())
        for control in controls.values():
            control.style.description_width, control.layout.width = f"{0.55 * longest + 0.5}em", "auto"
            if isinstance(control, ipywidgets.ToggleButtons):  # the label above, so that all lie in one row
                control.style.description_width = control.style.button_width = "auto"
                control.layout.flex_flow, control.layout.align_items = "column", "stretch"
        self.play = _play_button(controls[play], seconds) if play else None
        self.image, self.text = ipywidgets.HTML(), ipywidgets.HTML()  # ipywidgets' Image takes no text alternative
        self.image.layout.max_width, self.image.layout.overflow = "100%", "auto hidden"
        shown = [*controls.values(), self.text]
        if play:
            shown.insert(1 + list(controls).index(play), self.play)
        settings = ipywidgets.VBox(shown, layout={"flex": "1 1 19em", "max_width": "25em"})
        self.box = ipywidgets.Box([self.image, settings], layout={"flex_flow": "row wrap"})
        self.box.add_class("ct-explorer")
        self._draw()

    def show(self) -> None:
        """Display the explorer; a page without a kernel shows the picture of the first setting."""
        still, described = self.picture._repr_mimebundle_()
        display(self.box._repr_mimebundle_() | still, metadata=described, raw=True)

    def _draw(self, _change=None) -> None:
        try:
            view = self.view(**{name: control.value for name, control in self.controls.items()})
        except ValueError as error:
            self.text.value = f"<b>Not possible:</b> {error}"
            return
        self.picture = view.picture()
        data = base64.b64encode(self.picture.png).decode()
        alt = html.escape(self.picture.alt)
        self.image.value = f'{STYLE}<img alt="{alt}" src="data:image/png;base64,{data}">'
        rows = ""
        for name, value in view.numbers.items():
            wrap = "nowrap" if len(value) < 24 else "normal"
            value = value.replace(" %", "&nbsp;%")
            rows += f"<tr><td>{name}</td><td style='white-space: {wrap}'><b>{value}</b></td></tr>"
        self.text.value = f'<table style="line-height: 1.3" cellpadding="2">{rows}</table>'


def _play_button(slider: ipywidgets.ValueWidget, seconds: float) -> ipywidgets.Play:
    """A button that moves a slider from its first value to its last, again and again."""
    if isinstance(slider, ipywidgets.SelectionSlider):
        moved, limits = "index", {"max": len(slider.options) - 1}
    else:
        moved, limits = "value", {"min": slider.min, "max": slider.max, "step": slider.step}
    button = ipywidgets.Play(interval=round(1000 * seconds), **limits)
    button.repeat, button.show_repeat = True, False
    button.layout.align_self = "flex-end"
    ipywidgets.link((slider, moved), (button, "value"))
    return button


def animated(views: Sequence[View], milliseconds: int = 1200) -> Animation:
    """Views one after the other as a moving picture."""
    return Animation([Image.open(io.BytesIO(view.picture().png)).convert("RGB") for view in views], milliseconds)
