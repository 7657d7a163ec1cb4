"""Frames to videos: H.264 files whose frames are quickly reached, the same frames giving the same file."""

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain

import numpy as np


def write_frames(path: str | os.PathLike, frames: np.ndarray, fps: int = 24, quantiser: int = 26) -> None:
    """Write frames as an H.264 file in which each frame is coded by itself, all at one quantiser.

    So a frame decodes to the same pixels wherever it stands: the reversed clip decodes to exactly
    the reversed frames. (Constant quality instead of a constant quantiser would not do: x264 then
    spends bits by what comes before and after, and a network could read the direction from that.)

    Args:
        path: the file to write, .mp4.
        frames: uint8 (n, H, W, 3), RGB, H and W even.
        fps: frames a second that a player shows.
        quantiser: H.264's, from 0 (lossless) to 51.

    Raises:
        ValueError: another shape or dtype, or an odd height or width.
    """
    if frames.ndim != 4:
        raise ValueError(f"frames must be uint8 (n, H, W, 3), got {frames.dtype} {frames.shape}")
    options = {
        "preset": "superfast",
        "qp": str(quantiser),
        "g": "1",
        "bf": "0",
        "x264-params": "rc-lookahead=0:aq-mode=0:scenecut=0:mbtree=0",
    }
    _encode(path, frames, fps, options)


def write_video(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    fps: int | float | Fraction,
    gop: int = 8,
    crf: int = 18,
) -> None:
    """Write frames, one in memory at a time, as an H.264 file of which any frame is quickly reached.

    Every `gop`-th frame can be decoded by itself, and none waits for a later one.

    Args:
        path: the file to write, .mp4. An error on the way leaves what was written so far.
        frames: uint8 (H, W, 3) each, RGB, all of one size, H and W even.
        fps: frames a second that a player shows.
        gop: frames from a key frame to the next.
        crf: x264's constant quality, from 0 (lossless) to 51.

    Raises:
        ValueError: no frames, another shape or dtype, an odd height or width, or frames of different sizes.
    """
    options = {
        "preset": "veryfast",
        "tune": "fastdecode",  # simpler entropy coding and no deblocking: half the time to decode, 6 % more bytes
        "crf": str(crf),
        "g": str(gop),
        "bf": "0",
        # Without its look-ahead: with it, about one file in a hundred differed between two processes.
        "x264-params": "open-gop=0:scenecut=0:rc-lookahead=0:mbtree=0",
    }
    _encode(path, frames, Fraction(fps).limit_denominator(65535), options)


def _encode(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: int | Fraction, options: dict) -> None:
    """Write frames with x264; the same frames give the same file."""
    import av

    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("there are no frames to write")
    _check_frame(first)
    with av.open(f"file:{os.fspath(path)}", "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in chain([first], frames):
            if frame.shape != first.shape:
                raise ValueError(f"frames must be of one size, got {first.shape} and {frame.shape}")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _check_frame(frame: np.ndarray) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 (n, H, W, 3), got {frame.dtype}, each {frame.shape}")
    if frame.shape[0] % 2 or frame.shape[1] % 2:
        raise ValueError(f"height and width must be even, got {frame.shape[0]} x {frame.shape[1]}")
