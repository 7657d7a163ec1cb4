"""From frames to H.264 files in which any frame is reached quickly; equal frames give equal files."""

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain

import numpy as np


def write_frames(path: str | os.PathLike, frames: np.ndarray, fps: int = 24, quantiser: int = 26) -> None:
    """Write frames as H.264, each coded by itself with one quantiser.

    A frame then decodes to the same pixels wherever it is: the reversed clip gives exactly the reversed frames.
    (With constant quality x264 spends bits by the frames before and after, which gives the direction away.)

    Args:
        path: the file to write, .mp4.
        frames: uint8 (n, H, W, 3), RGB, H and W even.
        quantiser: H.264's, from 0 (lossless) to 51.

    Raises:
        ValueError: another shape or dtype, or an odd height or width.
    """
    x264 = "rc-lookahead=0:aq-mode=0:scenecut=0:mbtree=0"
    options = {"preset": "superfast", "qp": str(quantiser), "g": "1", "bf": "0", "x264-params": x264}
    _encode(path, frames, fps, options)


def write_video(
    path: str | os.PathLike, frames: Iterable[np.ndarray], fps: int | float | Fraction, gop: int = 8, crf: int = 18
) -> None:
    """Write frames as H.264, one in memory at a time, with a key frame every `gop` frames and no B-frames.

    Args:
        path: the file to write, .mp4. After an error it holds what was written until then.
        frames: uint8 (H, W, 3) each, RGB, all of one size, H and W even.
        gop: frames from one key frame to the next.
        crf: x264's constant quality, from 0 (lossless) to 51.

    Raises:
        ValueError: no frames, another shape or dtype, an odd height or width, or frames of different sizes.
    """
    options = {
        "preset": "veryfast",
        "tune": "fastdecode",  # simpler entropy coding, no deblocking: half the decoding time for 6 % more bytes
        "crf": str(crf),
        "g": str(gop),
        "bf": "0",
        # No look-ahead: with it, about one file in a hundred differed between two processes.
        "x264-params": "open-gop=0:scenecut=0:rc-lookahead=0:mbtree=0",
    }
    _encode(path, frames, Fraction(fps).limit_denominator(65535), options)


def _encode(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: int | Fraction, options: dict) -> None:
    import av

    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("there are no frames to write")
    if first.ndim != 3 or first.shape[2] != 3 or first.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 (n, H, W, 3), got {first.dtype}, each {first.shape}")
    if first.shape[0] % 2 or first.shape[1] % 2:
        raise ValueError(f"height and width must be even, got {first.shape[0]} x {first.shape[1]}")
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
