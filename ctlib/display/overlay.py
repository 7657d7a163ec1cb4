"""A video with a network's answer on it: the label of each window below the picture, and its Saliency Tube over it."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from ctlib import files, saliency
from ctlib.checkpoints import Checkpoint
from ctlib.data import encoding, video
from ctlib.data.views import View
from ctlib.display import saliency_figures
from ctlib.prediction import VideoScores, clips_of

SHOWN = 240, 480  # pixels: the least and the most that a frame's shorter side has
BAR = 28  # pixels below a frame, for the label
FPS = 12  # of a folder of images, which states none


def write(path: str | Path, scores: VideoScores, trained: Checkpoint) -> str:
    """Write the video of `scores` as an MP4 with labels, and with tubes where the network's last map is fine enough.

    A window's tube explains its most probable class. It lies on the part of the frame that the network saw; between the
    frames that it saw, it is interpolated.

    Args:
        path: the file to write, .mp4; it is whole or as it was.
        scores: of `prediction.score`.
        trained: the network that gave them.

    Returns:
        Why there is no tube; empty if there is one.

    Raises:
        video.VideoError: the video cannot be read.
        ValueError, TypeError: a network without a linear head on averages (`saliency.saliency_tubes`).
    """
    maps = _maps(scores, trained)
    reason = saliency.too_coarse(maps.shape[2:])
    frames = _frames(scores, trained.view, None if reason else maps)
    fps = video.probe(scores.source).fps or FPS
    files.write_atomically(Path(path), lambda partial: encoding.write_video(partial, frames, fps))
    return reason


def _maps(scores: VideoScores, trained: Checkpoint) -> torch.Tensor:
    """The normalised map of each window, of its most probable class: (windows, T, h, w) in [0, 1]."""
    weight, maps = next(trained.model.parameters()), []
    for clips in clips_of(scores.source, trained.view, scores.indices):
        raw, _ = saliency.raw_maps(trained, clips.to(weight.device, weight.dtype))
        raw = saliency.resized(raw, (clips.shape[2], *raw.shape[2:]))
        maps.append(saliency.normalised(raw).cpu())
    return torch.cat(maps)


def _frames(scores: VideoScores, view: View, maps: torch.Tensor | None) -> Iterator[np.ndarray]:
    """The frames to write, uint8 (H, W, 3), of even sides."""
    window = 0
    for number, frame in enumerate(video.iterate_frames(scores.source)):
        window += number >= scores.bounds[window][1]
        picture = _resized(frame)
        if maps is not None:
            heat = _heat(maps[window].numpy(), scores.indices[window], number, picture.shape[:2], view)
            picture = saliency_figures.overlay(picture[None], heat[None])[0]
        (answer,) = scores.top(1, window)
        bar = _bar(f"{100 * answer['probability']:.0f} %  {answer['label']}", picture.shape[1])
        yield np.concatenate([picture, bar])


def _resized(frame: np.ndarray) -> np.ndarray:
    short = min(frame.shape[:2])
    scale = min(max(short, SHOWN[0]), SHOWN[1]) / short
    height, width = (2 * round(side * scale / 2) for side in frame.shape[:2])
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def _heat(maps: np.ndarray, indices: np.ndarray, number: int, sides: tuple[int, int], view: View) -> np.ndarray:
    """The tube at a frame, on the whole frame; 0 beside the crop that the network saw: (H, W)."""
    # Between the seen frames before and after this one; a frame may be seen twice.
    place = np.interp(number, indices, np.arange(len(indices)))
    before, share = int(place), place % 1
    after = min(before + 1, len(indices) - 1)
    at = ((1 - share) * maps[before] + share * maps[after]).astype(np.float32)
    side = round(view.size / view.short_side * min(sides))
    top, left = ((extent - side) // 2 for extent in sides)
    heat = np.zeros(sides, np.float32)
    heat[top : top + side, left : left + side] = Image.fromarray(at).resize((side, side), Image.Resampling.BILINEAR)
    return heat


@functools.lru_cache(maxsize=16)
def _bar(text: str, width: int) -> np.ndarray:
    """A dark bar with a text, in letters that fit and, where the smallest do not, cut: (BAR, width, 3)."""
    name = font_manager.findfont("DejaVu Sans")
    for size in range(16, 8, -1):
        font = ImageFont.truetype(name, size)
        if font.getlength(text) <= width - 12:
            break
    while len(text) > 1 and font.getlength(text) > width - 12:
        text = f"{text[:-2]}…"
    bar = Image.new("RGB", (width, BAR), (24, 24, 24))
    ImageDraw.Draw(bar).text((6, BAR // 2), text, "white", font, anchor="lm")
    return np.asarray(bar)
