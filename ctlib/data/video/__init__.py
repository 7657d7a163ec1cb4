"""From videos to frames: exactly the frames asked for, and little else is decoded.

A source is a video file, or a folder of numbered JPEG or PNG files, one per frame.

In a video file a frame is identified by its time stamp. The times of all compressed frames are read and sorted.
Decoding starts at the last key frame not after the wanted frame, and ends at the frame with the wanted time. No
container seeks, which go wrong with B-frames and open groups of pictures. Some packets are no frame (VP8 hides some,
MPEG-4 packs two in one) or have no time (AVI). Frames are then counted from the first one.

Frames are turned and mirrored as a player shows them. All frames of a source have one size.

`decoder="decord"` uses decord for the files on which its random access is exact. It gives the same pixels and takes
1.3 to 5 times as long, so it is not the default.

Damage is an error wherever the container or the decoder detects it. VP8, VP9, JPEG and in part HEVC have no checksums,
so changed bytes within a frame can go unnoticed. A damaged WebM or WMV file can lose frames in its middle.

`container` opens files and reads their compressed frames, `readers` decode the ones that are needed, and `pixels` turns
these into RGB. A room of its own, as callers need the functions of this page alone.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from ctlib.config import check_choice
from ctlib.data.video.container import Entry, Packets, kind, opened, stated_seconds
from ctlib.data.video.pixels import VideoError, read_image
from ctlib.data.video.readers import (
    CountedFrames,
    DecordFrames,
    Images,
    TimedFrames,
    image_names,
    order_contradicts,
)

# In these codecs one packet is one frame, and in these containers every packet has a time.
_TIMED_CODECS = {"h264", "hevc", "vp9", "av1", "mjpeg"}
_TIMED_CONTAINERS = {"mov", "matroska"}  # MP4 and WebM among them

# decord's random access is exact in these, with closed groups of pictures. It silently returned other frames
# from others, MPEG-4 and HEVC among them.
_DECORD_CODECS = {"h264", "vp9"}
DECODERS = ("pyav", "decord")

Indices = Sequence[int] | np.ndarray
Choice = Indices | Callable[[int], Indices]


class VideoInfo(NamedTuple):
    """What a source's header states; None if it does not."""

    codec: str  # FFmpeg's name, or "images" for a folder of frames
    num_frames: int | None  # stated by MP4 and AVI, not by WebM
    height: int  # pixels, before a player rotates the frame
    width: int
    fps: Fraction | None  # mean
    seconds: float | None


def probe(source: str | os.PathLike) -> VideoInfo:
    """Read the header; nothing is decoded except the first image of a folder.

    Raises:
        VideoError: the source is missing, empty or not a video.
    """
    source = os.fspath(source)
    if os.path.isdir(source):
        names = image_names(source)
        height, width, _ = read_image(os.path.join(source, names[0])).shape
        return VideoInfo("images", len(names), height, width, None, None)
    with opened(source) as (container, stream):
        seconds = stated_seconds(container, stream)
        codec = stream.codec_context.codec.canonical_name
        return VideoInfo(codec, stream.frames or None, stream.height, stream.width, stream.average_rate, seconds)


def count_frames(source: str | os.PathLike) -> int:
    """How many frames a source really has, whatever its header states.

    Raises:
        VideoError: the source is missing, empty, truncated or not a video.
    """
    with _opened(source) as video:
        return video.length


def read_frames(
    source: str | os.PathLike, indices: Choice, listed: int | None = None, decoder: str = "pyav"
) -> np.ndarray:
    """The frames at `indices`, in the order asked for: uint8 (len(indices), H, W, 3), RGB.

    Args:
        source: a video file or a folder of numbered images.
        indices: from 0, in any order, repeats allowed; or a function from the number of frames to these.
        listed: the number of frames in an annotation. It is what the function gets, even if the video has more.
        decoder: "pyav", or "decord" for files on which that is exact.

    Raises:
        VideoError: the source is missing, empty, truncated, damaged where it was decoded or not a video. Or it has no
            frame at an index, fewer than `listed`, or is one on which decord is not exact.
    """
    with _opened(source, decoder) as video:
        count = video.length
        if listed is not None and count < listed:
            raise VideoError(f"{os.fspath(source)}: has {count} frames, its list says {listed}")
        chosen = np.asarray(indices(count if listed is None else listed) if callable(indices) else indices)
        if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
            raise TypeError(f"indices must be one integer or more, got shape {chosen.shape} of {chosen.dtype}")
        outside = chosen[(chosen < 0) | (chosen >= count)]
        if outside.size:
            raise VideoError(f"{os.fspath(source)}: has {count} frames, asked for frame {outside[0]}")
        frames, missing = None, set(chosen.tolist())
        for index, frame in video.frames(sorted(missing)):
            frames = np.empty((len(chosen), *frame.shape), np.uint8) if frames is None else frames
            _check_one_size(source, {frames.shape[1:], frame.shape})
            frames[chosen == index] = frame
            missing.discard(index)
    if missing:
        raise VideoError(f"{os.fspath(source)}: frame {min(missing)} did not come out")
    return frames


def iterate_frames(source: str | os.PathLike) -> Iterator[np.ndarray]:
    """All frames in order, uint8 (H, W, 3), RGB, one in memory at a time.

    Raises:
        VideoError: as `read_frames`, when the iteration reaches the fault.
    """
    size = None
    with _opened(source) as video:
        for place, (index, frame) in enumerate(video.frames(range(video.length))):
            if index != place:
                raise VideoError(f"{os.fspath(source)}: frame {place} comes out in another order than its time states")
            size = size or frame.shape
            _check_one_size(source, {size, frame.shape})
            yield frame


def _check_one_size(source: str | os.PathLike, shapes: set[tuple[int, ...]]) -> None:
    if len(shapes) > 1:
        sizes = " and ".join(f"{height} x {width}" for height, width, _ in sorted(shapes))
        raise VideoError(f"{os.fspath(source)}: has frames of different sizes, {sizes}")


@contextmanager
def _opened(source: str | os.PathLike, decoder: str = "pyav"):
    """The reader of a source, for one call: it has `length` and `frames(ascending indices)`."""
    check_choice("decoder", decoder, DECODERS)
    source = os.fspath(source)
    if os.path.isdir(source):
        yield Images(source)
        return
    with opened(source) as (container, stream), ExitStack() as reopened:
        packets = Packets(source, container, stream, reopened)
        entries = packets.entries
        times = {entry.pts for entry in entries}
        timed = kind(container) in _TIMED_CONTAINERS and None not in times and len(times) == len(entries)
        timed = timed and not order_contradicts(source, stream.codec_context, packets)
        codec = stream.codec_context.codec.canonical_name
        if decoder == "decord" and (not timed or codec not in _DECORD_CODECS or _has_open_groups(entries)):
            raise VideoError(f"{source}: decord's random access is not exact in it ({codec}): use the decoder 'pyav'")
        reader = TimedFrames if timed and codec in _TIMED_CODECS else CountedFrames
        video = reader(source, stream.codec_context, packets)
        yield DecordFrames(source, stream, video) if decoder == "decord" else video


def _has_open_groups(entries: list[Entry]) -> bool:
    """Whether a frame is shown before the key frame that it is decoded after."""
    keys = accumulate(entries, lambda key, entry: entry if entry.is_keyframe else key)
    return any(key.is_keyframe and entry.pts < key.pts for key, entry in zip(keys, entries, strict=True))
