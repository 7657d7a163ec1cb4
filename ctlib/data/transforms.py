"""From decoded frames, uint8 (T, H, W, 3), to a clip, float32 (3, T, size, size): crop, resize, flip, normalise."""

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALES = (1.0, 0.875, 0.75, 0.66)

Box = tuple[int, int, int, int]  # top, left, height, width in pixels
Statistics = tuple[float, float, float]  # of red, green and blue, in 0..1


def random_crop(height: int, width: int, size: int, rng: np.random.Generator) -> Box:
    """A random box of the multi-scale crop with which TSN and CT-Net are trained.

    Height and width are each the shorter side times one of four scales, at most one scale apart. The box lies at
    one of 13 places: corners, edges, centre, and half-way to the corners.
    """
    short = min(height, width)
    sides = [int(short * scale) for scale in SCALES]
    sides = [min(size if abs(side - size) < 3 else side, short) for side in sides]
    pairs = [(i, j) for i in range(len(sides)) for j in range(len(sides)) if abs(i - j) <= 1]
    i, j = pairs[rng.integers(len(pairs))]
    h, w = sides[i], sides[j]
    quarters = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    down, right = quarters[rng.integers(len(quarters))]
    return (height - h) // 4 * down, (width - w) // 4 * right, h, w


def test_crops(height: int, width: int, size: int, crops: int) -> list[Box]:
    """The centre box, or three boxes along the longer side: its start, its end and the centre."""
    top, left = (height - size) // 2, (width - size) // 2
    if crops == 1:
        return [(top, left, size, size)]
    if crops != 3:
        raise ValueError(f"crops must be 1 or 3, got {crops}")
    if width >= height:
        return [(top, x, size, size) for x in (0, width - size, left)]
    return [(y, left, size, size) for y in (0, height - size, top)]


def train_view(frames: np.ndarray, size: int, box: Box, flip: bool) -> torch.Tensor:
    """One clip of the pixels in `box`: (T, H, W, 3) uint8 -> (3, T, size, size) float32."""
    clip = tv.resized_crop(_channels_first(frames), *box, [size, size], antialias=True)
    return _normalised((tv.horizontal_flip(clip) if flip else clip).transpose(0, 1))


def resized(frames: np.ndarray, size: list[int]) -> np.ndarray:
    """(T, H, W, 3) uint8 -> the same, with this shorter side, or this height and width."""
    return tv.resize(_channels_first(frames), size, antialias=True).permute(0, 2, 3, 1).numpy()


def test_short_side(size: int) -> int:
    """The shorter side, in pixels, of a test frame before a crop of `size`: 256 for 224, else the size."""
    return 256 if size == 224 else size


def test_views(
    frames: np.ndarray,
    size: int,
    short_side: int,
    crops: int,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
) -> torch.Tensor:
    """The crops of one clip: (T, H, W, 3) uint8 -> (crops, 3, T, size, size) float32."""
    clip = tv.resize(_channels_first(frames), [short_side], antialias=True)
    boxes = test_crops(*clip.shape[-2:], size, crops)
    return _normalised(torch.stack([tv.crop(clip, *box).transpose(0, 1) for box in boxes]), mean, std)


def _channels_first(frames: np.ndarray) -> torch.Tensor:
    """(T, H, W, 3) -> (T, 3, H, W), a view: the layout that torchvision resizes fastest."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _normalised(clips: torch.Tensor, mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD) -> torch.Tensor:
    """(..., 3, T, H, W) from 0 to 255 -> the same in float32, less the mean and over the standard deviation."""
    return clips.contiguous().float().sub_(_by_channel(mean, clips.device)).div_(_by_channel(std, clips.device))


@cache
def _by_channel(values: Statistics, device: torch.device) -> torch.Tensor:
    return (255 * torch.tensor(values)[:, None, None, None]).to(device)


def on_device(values: Sequence, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`torch.tensor`, but a GPU's work goes on meanwhile: an ordinary copy waits for all of it."""
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


# The same for a batch, on its device: the same pixels, or 1 of 255 beside them where sums are rounded otherwise.


class RawClips(NamedTuple):
    """Frames of a batch as they were decoded, and what they are to become on their device (`views_of`)."""

    frames: torch.Tensor  # (N, T, 3, H, W) uint8; smaller frames lie in the top left corner
    sides: Sequence[tuple[int, int]]  # height and width of the frames of each clip
    flips: Sequence[bool]
    size: int  # pixels, height and width of a view
    test: tuple[int, int, int] | None  # short side, clips (one after another in T) and crops; None: a view for training


def raw_clips(
    clips: Sequence[torch.Tensor], flips: Sequence[bool], size: int, test: tuple[int, int, int] | None
) -> RawClips:
    """From clips of (T, 3, h, w) uint8, each of its own size; the other arguments are as in `RawClips`."""
    sides = [tuple(clip.shape[2:]) for clip in clips]
    height, width = (max(extents) for extents in zip(*sides, strict=True))
    frames = torch.empty(len(clips), *clips[0].shape[:2], height, width, dtype=torch.uint8)
    for place, (clip, (h, w)) in enumerate(zip(clips, sides, strict=True)):
        frames[place, :, :, :h, :w] = clip
    return RawClips(frames, sides, flips, size, test)


def views_of(batch: torch.Tensor | RawClips) -> torch.Tensor:
    """What a network sees of a loader's batch: the views of raw clips; all else is views already."""
    if not isinstance(batch, RawClips):
        return batch
    if batch.test is None:
        boxes = [(0, 0, *of_clip) for of_clip in batch.sides]
        return train_views_of_batch(batch.frames, batch.size, boxes, batch.flips)
    short_side, clips, crops = batch.test
    frames = batch.frames.unflatten(1, (clips, -1)).flatten(0, 1)
    sides = [of_video for of_video in batch.sides for _ in range(clips)]
    views = test_views_of_batch(frames, batch.size, short_side, crops, sides)
    return views.unflatten(0, (-1, clips)).flatten(1, 2)


def train_views_of_batch(frames: torch.Tensor, size: int, boxes: Sequence[Box], flips: Sequence[bool]) -> torch.Tensor:
    """A box of each clip: (N, T, 3, H, W) uint8 -> (N, 3, T, size, size) float32."""
    top, left, height, width = on_device(boxes, frames.device, torch.float32).unbind(1)
    rows = _resizing(top, height, frames.shape[3], size)
    columns = _resizing(left, width, frames.shape[4], size)
    flipped = on_device(flips, frames.device)[:, None, None]
    return _normalised(_resized(frames, rows, torch.where(flipped, columns.flip(1), columns)))


def test_views_of_batch(
    frames: torch.Tensor, size: int, short_side: int, crops: int, sides: Sequence[tuple[int, int]] | None = None
) -> torch.Tensor:
    """The crops of each clip: (N, T, 3, H, W) uint8 -> (N, crops, 3, T, size, size) float32.

    `sides`: height and width of the frames of each clip; H and W, if they are not given.
    """
    sides = [tuple(of) for of in sides or [frames.shape[3:]] * len(frames)]
    weights = {of: _test_weights(frames, of, size, short_side, crops) for of in set(sides)}  # rows, columns by crop
    rows, columns = (torch.stack([weights[of][axis] for of in sides], 1) for axis in (0, 1))
    return _normalised(torch.stack([_resized(frames, *crop) for crop in zip(rows, columns, strict=True)], 1))


def _test_weights(
    frames: torch.Tensor, side: tuple[int, int], size: int, short_side: int, crops: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of rows (crops, size, H) and of columns (crops, size, W), for frames of this height and width."""
    high, wide = (short_side * extent // min(side) for extent in side)
    zero = torch.zeros(1, device=frames.device)
    rows, columns = (
        _resizing(zero, zero + extent, total, out)[0]
        for extent, total, out in zip(side, frames.shape[3:], (high, wide), strict=True)
    )
    boxes = test_crops(high, wide, size, crops)
    return (
        torch.stack([rows[top : top + size] for top, _, _, _ in boxes]),
        torch.stack([columns[left : left + size] for _, left, _, _ in boxes]),
    )


def _resizing(first: torch.Tensor, extent: torch.Tensor, total: int, size: int) -> torch.Tensor:
    """How much of each pixel along a side goes into each pixel of the resized part of it: (N, size, total).

    Bilinear with antialiasing: the weights are a triangle as wide as two pixels, of the input or the output, whichever
    are larger. As PyTorch does for uint8 on a CPU, they are rounded to 15 bits.
    """
    first, extent = first.double()[:, None, None], extent.double()[:, None, None]
    scale = extent / size
    pixels = torch.arange(total, device=first.device) + 0.5 - first
    into = (torch.arange(size, device=first.device)[:, None] + 0.5) * scale
    weights = (1 - (pixels - into).abs() / scale.clamp(min=1)).clamp(min=0) * ((pixels > 0) & (pixels < extent))
    weights = weights / weights.sum(2, keepdim=True)
    unit = 2 ** (torch.log2((2**15 - 0.5) / weights.amax((1, 2), keepdim=True)).ceil() - 1)
    return ((weights * unit + 0.5).floor() / unit).float()


def _resized(frames: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(N, T, 3, H, W) and the weights of (N, h, H) rows and (N, w, W) columns -> (N, 3, T, h, w), whole numbers."""
    num_frames, height = frames.shape[1], frames.shape[3]
    across = torch.bmm(frames.flatten(1, 3).float(), columns.mT).add_(0.5).floor_()  # rounded as on the CPU
    across = across.unflatten(1, (-1, height)).transpose(2, 3).flatten(1, 2)  # (N, T * 3 * w, H)
    down = torch.bmm(across, rows.mT).add_(0.5).floor_().clamp_(0, 255)
    return down.unflatten(1, (num_frames, 3, -1)).permute(0, 2, 1, 4, 3)


def to_pixels(clip: torch.Tensor, mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD) -> np.ndarray:
    """A clip to show: (3, T, H, W) normalised -> (T, H, W, 3) uint8."""
    scaled = clip * _by_channel(std, clip.device) + _by_channel(mean, clip.device)
    return scaled.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()


_OTHER_SIDE = {
    "left to right": "right to left",
    "right to left": "left to right",
    "camera left": "camera right",
    "camera right": "camera left",
    "counter clockwise": "clockwise",
    "clockwise": "counter clockwise",
}
_SIDED = re.compile("|".join(_OTHER_SIDE))
_BARE = {"left": "right", "right": "left", "左": "右", "右": "左"}
_BARE_SIDE = re.compile(r"\b(?:left|right)(?=(?:wards?)?\b)|[左右]")
_COUNTER_CLOCKWISE = re.compile(r"(?:counter|anti)[- ]?clockwise")


def flipped_labels(classes: tuple[str, ...]) -> np.ndarray:
    """The label of each class after a horizontal flip, int64 (num_classes,), by the class names.

    "... from left to right" becomes "... from right to left"; cameras turned left or right and clockwise motion are
    swapped too. A sided class whose opposite is not in `classes` gets -1: it must not be flipped. A bare "left" or
    "right" is a side only if swapping it gives another class ("Swiping left", not "Pulling it right out").
    """

    def canonical(name: str) -> str:
        """Lower-case words: "TurnLeft", "turn_left" and "Turn-left" are "turn left"."""
        words = re.sub(r"[_\-\s]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).lower()
        return _COUNTER_CLOCKWISE.sub("counter clockwise", words)

    names = [canonical(name) for name in classes]
    labels = {name: label for label, name in enumerate(names)}
    flipped = []
    for name in names:
        swapped = labels.get(_BARE_SIDE.sub(lambda side: _BARE[side.group()], name))
        sided = labels.get(canonical(_SIDED.sub(lambda side: _OTHER_SIDE[side.group()], name)), -1)
        flipped.append(sided if swapped is None or sided != labels[name] else swapped)
    return np.array(flipped)
