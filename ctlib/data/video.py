"""Video files to frames and back: only the frames asked for are decoded.

decord's random access is exact for VP9 and for H.264 with closed groups of pictures; MPEG-4 AVI files with B-frames,
and H.264 with open groups, are known to give a wrong frame now and then and are to be re-encoded first.
"""

import os
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np


class VideoError(Exception):
    """A video that cannot be read as asked; the message names the file and the reason."""


@contextmanager
def _reader(path: str | os.PathLike):
    """A decord reader that lives for one call only: kept ones hold memory and do not survive a fork."""
    import decord  # after torch, which `ctlib` has imported: the other order has crashed processes

    decord.logging.set_level(decord.logging.QUIET)
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise VideoError(f"{path}: " + ("is a folder, not a video file" if os.path.isdir(path) else "no such file"))
    if os.path.getsize(path) == 0:
        raise VideoError(f"{path}: the file is empty")
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except (RuntimeError, decord.DECORDError) as error:
        raise VideoError(f"{path}: not a readable video ({_reason(error)})") from None
    try:
        yield reader
    except (RuntimeError, decord.DECORDError) as error:
        raise VideoError(f"{path}: decoding failed ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The line of decord's message that says something, without its C++ file and stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Stack trace", "[bt]"))] or ["no reason given"]
    return told[0].rsplit(": ", 1)[-1][:200]


def count_frames(path: str | os.PathLike) -> int:
    """How many frames the video has.

    Raises:
        VideoError: the file is missing, empty, truncated or not a video.
    """
    with _reader(path) as reader:
        return len(reader)


def read_frames(path: str | os.PathLike, indices: Sequence[int]) -> np.ndarray:
    """The frames of a video at `indices`, counted from 0, in the order asked for.

    Args:
        path: the video file.
        indices: any order, repeats allowed; none below 0.

    Returns:
        uint8 (len(indices), H, W, 3), RGB.

    Raises:
        VideoError: the file is missing, empty, truncated or not a video, or has no frame at an index.
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or indices.size == 0 or indices.dtype.kind not in "iu":
        raise TypeError(f"indices must be one integer or more, got shape {indices.shape} of {indices.dtype}")
    with _reader(path) as reader:
        outside = indices[(indices < 0) | (indices >= len(reader))]
        if outside.size:
            raise VideoError(f"{os.fspath(path)}: has {len(reader)} frames, asked for frame {outside[0]}")
        # One by one: get_batch is no faster, and fails where `_unpadded` has something to do.
        return np.stack([_unpadded(reader[index].asnumpy()) for index in indices.tolist()])


def _unpadded(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) of a frame that decord gave with its row padding as further channels (at 16, 24, 48, 72 pixels)."""
    height, width, _ = frame.shape
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


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
    import av

    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 (n, H, W, 3), got {frames.dtype} {frames.shape}")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"height and width must be even, got {frames.shape[1]} x {frames.shape[2]}")
    options = {
        "preset": "superfast",
        "qp": str(quantiser),
        "g": "1",
        "bf": "0",
        "x264-params": "rc-lookahead=0:aq-mode=0:scenecut=0:mbtree=0",
    }
    with av.open(os.fspath(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
