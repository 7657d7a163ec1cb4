"""What moves in the teaching notebooks: pure functions from settings to a figure and numbers, and one thin shell.

A function here takes what the sliders say and gives a `View`; `Explorer` puts sliders before it. So the static
figure of a notebook, the moving one, and the test all call the same function.
"""

import base64
import copy
import html
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ipywidgets
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from scipy.signal import convolve
from torch import nn

from ctlib import cost
from ctlib.config import check_choice
from ctlib.ct_module import CONNECTIONS, CTModule, Kernel, kernel_of_each
from ctlib.display.saliency_figures import Animation
from ctlib.teaching import figures
from ctlib.tensorize import resolve_dims


class Picture:
    """A figure as a notebook shows it: a PNG with a text for who cannot see it."""

    def __init__(self, figure: Figure, alt: str, dpi: int = 90):
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
        self.png, self.alt = file.getvalue(), alt

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt}}


class View(NamedTuple):
    """What an explorer shows for one setting."""

    figure: Figure
    numbers: dict[str, str]  # what is measured -> its value with its unit
    alt: str  # the figure in words

    def table(self) -> pd.DataFrame:
        """The numbers, a row each."""
        return pd.DataFrame.from_dict(self.numbers, orient="index", columns=["value"])

    def picture(self) -> Picture:
        return Picture(self.figure, self.alt)


class Explorer:
    """Sliders before a function that gives a `View`; a setting that cannot be says why, and the last picture stays.

    Args:
        view: called with the values of the controls, by their names.
        controls: name of an argument of `view` -> the widget that sets it.
    """

    def __init__(self, view: Callable[..., View], **controls: ipywidgets.ValueWidget):
        self.view, self.controls = view, controls
        for name, control in controls.items():
            control.style.description_width = "11em"  # "sub-operations done"
            control.layout.width = "34em"
            control.description = control.description or name.replace("_", " ")
            control.observe(self._draw, "value")
        self.image, self.text = ipywidgets.HTML(), ipywidgets.HTML()  # ipywidgets' own Image takes no text
        self.box = ipywidgets.VBox([*controls.values(), self.text, self.image])
        self._draw()

    def show(self) -> None:
        """Show it; where widgets do not run, the picture of the first setting stands in its place."""
        still, described = self.picture._repr_mimebundle_()
        display(self.box._repr_mimebundle_() | still, metadata=described, raw=True)

    def _draw(self, _change=None) -> None:
        try:
            found = self.view(**{name: control.value for name, control in self.controls.items()})
        except ValueError as error:
            self.text.value = f"<b>Not possible:</b> {error}"
            return
        self.picture = found.picture()
        data = base64.b64encode(self.picture.png).decode()
        alt = html.escape(self.picture.alt)
        self.image.value = f'<img style="max-width: 100%" alt="{alt}" src="data:image/png;base64,{data}">'
        cells = "".join(
            f"<tr><td>{name}&nbsp;&nbsp;</td><td><b>{said}</b></td></tr>" for name, said in found.numbers.items()
        )
        self.text.value = f"<table>{cells}</table>"


# ---------------------------------------------------------------- 1: the channel grid and what it costs


def reached_channels(dims: tuple[int, ...], after: int, channel: int = 0, channels: int | None = None) -> np.ndarray:
    """Which input channels reach one output channel after some sub-operations, no point-wise convolution between.

    Channel c has the coordinates (c_1, ..., c_K), c_1 running fastest; a sub-operation k lets c_k vary. So after
    k of them those are reached that share c_{k+1}, ..., c_K with the output (section 3.1).

    Args:
        dims: (C_1, ..., C_K).
        after: how many sub-operations, 0 to K.
        channel: of the output.
        channels: C; the product of `dims` if not given, which it is not where each size is C (R(2+1)D).

    Returns:
        Bool (C,).

    Raises:
        ValueError: more sub-operations than there are, or a channel that is not there.
    """
    channels = math.prod(dims) if channels is None else channels
    if not 0 <= after <= len(dims):
        raise ValueError(f"after must be 0 to {len(dims)} sub-operations, got {after}")
    if not 0 <= channel < channels:
        raise ValueError(f"channel must be 0 to {channels - 1}, got {channel}")
    block = math.prod(dims[:after])
    return np.arange(channels) // block == channel // block


class TensorCost(NamedTuple):
    """What K sub-operations take, and a dense 3D convolution in their place."""

    params: int  # weights and batch norms
    dense_params: int
    gflops: float
    dense_gflops: float

    @property
    def share(self) -> float:
        """GFLOPs over those of the dense convolution, in percent."""
        return 100 * self.gflops / self.dense_gflops


def tensor_cost(dims: tuple[int, ...], kernels: Kernel | tuple[Kernel, ...], num_frames: int, size: int) -> TensorCost:
    """Count K sub-operations (parallel connection, no excitation, no point-wise convolution) by formula.

    Products are C * C_k * (h * w + t) a position and sub-operation; a dense convolution of the largest kernel
    takes C * C * t * h * w. Both are counted with their batch norms, as the paper counts (`cost`).

    Args:
        dims: (C_1, ..., C_K).
        kernels: (t, h, w), one or one a sub-dimension.
        num_frames: T.
        size: pixels, height and width of the features.
    """
    channels = math.prod(dims)
    each = kernel_of_each(kernels, dims)
    parts = cost.ct_block_formula(channels, num_frames, size, size, dims, tuple(each), False, "none")
    params = sum(channels * c * (h * w + t) + 4 * channels for c, (t, h, w) in zip(dims, each, strict=True))
    taps = math.prod(max(kernel[axis] for kernel in each) for axis in range(3))
    dense = channels * channels * taps
    positions = num_frames * size * size
    return TensorCost(
        params, dense + 2 * channels, parts["sub-operations"] / 1e9, positions * (dense + 2 * channels) / 1e9
    )


def tensorization(
    channels: int, dims: tuple[int, ...], after: int, kernel: Kernel = (3, 3, 3), num_frames: int = 8, size: int = 14
) -> View:
    """The channel grid, coloured by what reaches channel 0 after some sub-operations; the costs beside it.

    Args:
        channels: C.
        dims: (C_1, ..., C_K); one may be -1 and takes what the others leave.
        after: sub-operations done; more than K are K.
        kernel: (t, h, w).
        num_frames: T.
        size: pixels, height and width of the features.

    Raises:
        ValueError: sizes that do not multiply to C.
    """
    dims = resolve_dims(channels, tuple(dims))
    after = min(after, len(dims))
    reached = reached_channels(dims, after)
    counted = tensor_cost(dims, kernel, num_frames, size)
    split = " x ".join(map(str, dims))
    figure = figures.channel_grid(dims, reached, after)
    numbers = {
        "C = C_1 x ... x C_K": f"{channels} = {split}",
        f"channels that reach one output after {after} of {len(dims)}": f"{reached.sum()} of {channels}",
        "parameters": f"{counted.params:,}",
        "parameters, dense 3D convolution": f"{counted.dense_params:,}",
        f"GFLOPs ({num_frames} x {size} x {size})": f"{counted.gflops:.4f}",
        "GFLOPs, dense 3D convolution": f"{counted.dense_gflops:.4f}",
        "share of the dense convolution": f"{counted.share:.1f} %",
    }
    alt = (
        f"Grid of {channels} channels as {split}. After {after} sub-operations {reached.sum()} of them are "
        "highlighted, which reach output channel 0."
    )
    return View(figure, numbers, alt)


# ---------------------------------------------------------------- 2: which positions one output sees


def paths(kernels: tuple[Kernel, ...], connection: str = "parallel") -> np.ndarray:
    """How many ways lead from each input position to one output, through sub-operations one after the other.

    One sub-operation has, in the parallel connection, a plane of h x w and a line of t, which meet in the middle
    (two ways); coupled or serial, t x h x w. Ways through several multiply and add: a convolution.

    Args:
        kernels: (t, h, w) of each sub-operation.
        connection: "parallel", "serial" or "coupling".

    Returns:
        int64 (t, h, w): the bounding box of the field; 0 where no way leads.
    """
    check_choice("connection", connection, CONNECTIONS)
    total = np.ones((1, 1, 1), dtype=np.int64)
    for t, h, w in kernels:
        if min(t, h, w) < 1 or not t % 2 == h % 2 == w % 2 == 1:
            raise ValueError(f"kernels need odd extents (t, h, w), got {(t, h, w)}")
        ways = np.zeros((t, h, w), dtype=np.int64)
        if connection == "parallel":
            ways[t // 2] += 1
            ways[:, h // 2, w // 2] += 1
        else:
            ways[:] = 1
        total = convolve(total, ways, method="direct")
    return total


MODULES = ("CT-Module", "C3D", "R(2+1)D", "CSN")


def special_case(module: str, channels: int, kernel: Kernel) -> dict:
    """The settings of a CT-Module that make it a module compared with (section 3.3): dims, kernels, connection.

    Args:
        module: "C3D", "R(2+1)D" or "CSN".
        channels: C.
        kernel: (t, h, w); 3 x 3 x 3 in the paper.
    """
    t, h, w = kernel
    dims, kernels = {
        "C3D": ((channels,), ((t, h, w),)),
        "R(2+1)D": ((channels, channels), ((1, h, w), (t, 1, 1))),
        "CSN": ((channels, 1), ((1, 1, 1), (t, h, w))),
    }[module]
    return {"dims": dims, "kernels": kernels, "connection": "coupling"}


def interaction(
    num_dims: int,
    after: int,
    kernel: Kernel = (3, 3, 3),
    connection: str = "parallel",
    channels: int = 64,
    module: str = "CT-Module",
) -> View:
    """Which channels and positions reach one output after some of K sub-operations: a grid, two sides, and space.

    Args:
        num_dims: K; the modules compared with have their own.
        after: sub-operations (or convolutions) done; more than K are K.
        kernel: (t, h, w) of each, or of the module compared with.
        connection: "parallel", "serial" or "coupling"; of the CT-Module.
        channels: C, split as evenly as possible.
        module: one of `MODULES`.

    Raises:
        ValueError: an unknown module or connection, or an even kernel.
    """
    check_choice("module", module, MODULES)
    if module == "CT-Module":
        dims = resolve_dims(channels, num_dims)
        kernels, name = (tuple(kernel),) * num_dims, f"CT-Module, K = {num_dims}, {connection}"
    else:
        dims, kernels, connection = special_case(module, channels, kernel).values()
        name = module
    after = min(after, len(dims))
    ways = paths(kernels[:after], connection)
    box = tuple(1 + sum(extents) - len(dims) for extents in zip(*kernels, strict=True))
    reached, positions = reached_channels(dims, after, channels=channels), int((ways > 0).sum())
    whole = math.prod(ways.shape)
    middle = ways[tuple(extent // 2 for extent in ways.shape)]
    extents = " x ".join(map(str, ways.shape))
    figure = figures.field_views(ways, box, reached, f"{name}: after {after} of {len(dims)}")
    numbers = {
        f"channels after {after} of {len(dims)}": f"{reached.sum()} of {channels}",
        "box (t x h x w)": extents,
        "positions inside it": f"{positions} of {whole}",
        "ways through the centre": f"{100 * middle / ways.sum():.1f} % of {ways.sum():,}",
    }
    alt = (
        f"Interact field of {name}, after {after} of {len(dims)}: {reached.sum()} of {channels} channels, and "
        f"{positions} of the {whole} positions of a box of {extents}, from the front, from above and in three "
        "dimensions."
    )
    return View(figure, numbers, alt)


def fields(module: nn.Module, channels: int, size: int = 11) -> list[cost.InteractField]:
    """What reaches one output after 0, 1, 2, ..., K parts of a module, each measured by gradient.

    Args:
        module: a CT-Module, or one compared with.
        channels: C.
        size: frames and pixels of the clip that is put in; a field that reaches its border is cut off there.
    """
    found = []
    for after in range(len(parts_of(module)) + 1):
        if isinstance(module, CTModule):
            begun = copy.deepcopy(module)
            begun.sub_operations, begun.dims = begun.sub_operations[:after], begun.dims[:after]
            begun.pointwise = begun.pointwise[: max(after - 1, 0)]  # one stands between two sub-operations
        else:
            begun = nn.Sequential(*parts_of(module)[:after])
        found.append(cost.interact_field(begun, size, size, channels))
    return found


def table_1(measured: dict[str, list[cost.InteractField]], after: int) -> View:
    """Several modules side by side: which channels and positions reach one output after some of their parts.

    Args:
        measured: name -> its `fields`.
        after: parts done; a module that has fewer stays as it is.
    """
    now = {name: found[min(after, len(found) - 1)] for name, found in measured.items()}
    titles = {name: f"{name}\n{min(after, len(found) - 1)} of {len(found) - 1}" for name, found in measured.items()}
    widest = max(max(found[-1].box) for found in measured.values())
    shown = {titles[name]: field.reached.numpy() for name, field in now.items()}
    numbers = {
        name: f"channels: {field.channels}, positions: {field.positions}, box {' x '.join(map(str, field.box))}"
        for name, field in now.items()
    }
    alt = f"What reaches one output after {after}: " + "; ".join(f"{name}: {said}" for name, said in numbers.items())
    return View(figures.measured_fields(shown, widest), numbers, f"{alt}.")


def manner(part: nn.Module, channels: int = 16) -> str:
    """What one convolution or sub-operation lets interact, measured: letters of "STC" (Table 1, "interact manner").

    S: an output depends on pixels around it; T: on frames around it; C: on other channels than its own.
    """
    field = cost.interact_field(part, channels=channels)
    t, h, w = field.box
    return "".join(
        letter for letter, found in zip("STC", (max(h, w) > 1, t > 1, field.channels > 1), strict=True) if found
    )


def parts_of(module: nn.Module) -> list[nn.Module]:
    """The convolutions of a module compared with, or the sub-operations of a CT-Module, in their order."""
    return list(module.sub_operations if isinstance(module, CTModule) else module.children())


def animated(views: Sequence[View], milliseconds: int = 1200) -> Animation:
    """Views one after the other, as a moving picture."""
    return Animation([Image.open(io.BytesIO(view.picture().png)).convert("RGB") for view in views], milliseconds)
