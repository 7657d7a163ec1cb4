"""From videos to frames: exactly the frames asked for, and little else is decoded.

A source is a video file, or a folder of numbered JPEG or PNG files, one per frame.

In a video file a frame is identified by its time stamp. The compressed frames are read into memory and sorted by time.
Decoding starts at the last key frame not after the wanted frame, and ends at the frame with the wanted time. No
container seeks, which go wrong with B-frames and open groups of pictures. Some packets are no frame (VP8 hides some,
MPEG-4 packs two in one) or have no time (AVI). Frames are then counted from the first one.

`decoder="decord"` uses decord for the files on which its random access is exact. It gives the same pixels and takes
1.2 to 2 times as long, so it is not the default.

Damage is an error wherever the container or the decoder detects it. VP8, VP9, JPEG and in part HEVC have no checksums,
so changed bytes within a frame can go unnoticed. A damaged WebM file can lose frames in its middle.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np

from ctlib.config import check_choice

# In these codecs one packet is one frame, and in these containers every packet has a time.
_TIMED_CODECS = {"h264", "hevc", "vp9", "av1", "mjpeg"}
_TIMED_CONTAINERS = {"mov", "matroska"}  # MP4 and WebM among them
_STATING_CONTAINERS = _TIMED_CONTAINERS | {"avi"}  # their headers state the video's length

# decord's random access is exact in these, with closed groups of pictures. It silently returned other frames
# from others, MPEG-4 and HEVC among them.
_DECORD_CODECS = {"h264", "vp9"}
DECODERS = ("pyav", "decord")

# 00001.jpg, image_000001.jpg, img_00001.jpg; not hidden files, nor optical flow beside the frames.
_NUMBERED = re.compile(r"(?!\.|flow)(.*?)(\d+)\.(?:jpe?g|png)", re.IGNORECASE)

Indices = Sequence[int] | np.ndarray
Choice = Indices | Callable[[int], Indices]


class VideoError(Exception):
    """A video that cannot be read as asked; the message names the file and the reason."""


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
        files = _image_files(source)
        height, width, _ = _read_image(files[0]).shape
        return VideoInfo("images", len(files), height, width, None, None)
    with _container(source) as (container, stream):
        seconds = _stated_seconds(container, stream)
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
        frames = dict(video.frames(np.unique(chosen).tolist()))
    sizes = {frame.shape for frame in frames.values()}
    if len(sizes) > 1:
        both = " and ".join(f"{height} x {width}" for height, width, _ in sorted(sizes))
        raise VideoError(f"{os.fspath(source)}: has frames of different sizes, {both}")
    return np.stack([frames[index] for index in chosen.tolist()])


def iterate_frames(source: str | os.PathLike) -> Iterator[np.ndarray]:
    """All frames in order, uint8 (H, W, 3), RGB, one in memory at a time.

    Raises:
        VideoError: as `read_frames`, when the iteration reaches the fault.
    """
    with _opened(source) as video:
        for _, frame in video.frames(range(video.length)):
            yield frame


@contextmanager
def _opened(source: str | os.PathLike, decoder: str = "pyav"):
    """The reader of a source, for one call: it has `length` and `frames(ascending indices)`."""
    check_choice("decoder", decoder, DECODERS)
    source = os.fspath(source)
    if os.path.isdir(source):
        yield _Images(source)
        return
    with _container(source) as (container, stream):
        packets = _packets(source, container, stream)
        times = {packet.pts for packet in packets}
        timed = _kind(container) in _TIMED_CONTAINERS and None not in times and len(times) == len(packets)
        codec = stream.codec_context.codec.canonical_name
        if decoder == "decord" and (not timed or codec not in _DECORD_CODECS or _has_open_groups(packets)):
            raise VideoError(f"{source}: decord's random access is not exact in it ({codec}): use the decoder 'pyav'")
        reader = _TimedFrames if timed and codec in _TIMED_CODECS else _CountedFrames
        video = reader(source, stream.codec_context, packets)
        yield _DecordFrames(source, video.length) if decoder == "decord" else video


def _has_open_groups(packets: list) -> bool:
    """Whether a frame is shown before the key frame that it is decoded after."""
    keys = accumulate(packets, lambda key, packet: packet if packet.is_keyframe else key)
    return any(key.is_keyframe and packet.pts < key.pts for key, packet in zip(keys, packets, strict=True))


class _Images:
    def __init__(self, source: str):
        self.files = _image_files(source)
        self.length = len(self.files)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, _read_image(self.files[index])) for index in indices)


def _image_files(folder: str) -> list[str]:
    """Paths of the frames in the order of their numbers, which start at 0 or 1 and have no gap."""
    numbered, prefixes = {}, set()
    for name in os.listdir(folder):
        if match := _NUMBERED.fullmatch(name):
            prefixes.add(match[1])
            if (number := int(match[2])) in numbered:
                raise VideoError(f"{folder}: frame number {number} exists twice, {numbered[number]} and {name}")
            numbered[number] = name
    if not numbered:
        raise VideoError(f"{folder}: a folder without numbered JPEG or PNG files")
    if len(prefixes) > 1:
        raise VideoError(f"{folder}: numbered files of several kinds, {sorted(prefixes)}")
    first, last = min(1, *numbered), max(numbered)
    for number in range(first, last):
        if number not in numbered:
            raise VideoError(f"{folder}: frame number {number} is missing, of {first} to {last}")
    return [os.path.join(folder, numbered[number]) for number in range(first, last + 1)]


def _read_image(path: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(repr(path), "it").replace(path, "it")
        raise VideoError(f"{path}: not a readable image ({reason})") from None


@contextmanager
def _container(path: str):
    """An open file and its video stream, with one decoding thread: the loader has worker processes instead."""
    import av

    if not os.path.isfile(path):
        raise VideoError(f"{path}: no such file")
    if os.path.getsize(path) == 0:
        raise VideoError(f"{path}: the file is empty")
    try:
        # "file:", since "a:b.mp4" would be a protocol; a title that is not UTF-8 is no damage.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(f"{path}: not a readable video ({error.strerror})") from None
    except UnicodeDecodeError:
        raise VideoError(f"{path}: not a readable video (its header is damaged)") from None
    with container:
        stream = container.streams.best("video")
        if stream is None:
            raise VideoError(f"{path}: has no video stream")
        if stream.codec_context is None:
            raise VideoError(f"{path}: not a readable video (no decoder for its codec)")
        stream.codec_context.thread_count = 1
        yield container, stream


def _kind(container) -> str:
    return container.format.name.partition(",")[0]


def _stated_seconds(container, stream) -> float | None:
    """The length in the header; WebM states one of all streams together."""
    import av

    if _kind(container) == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # a cut file's duration is guessed from its size
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _packets(path: str, container, stream) -> list:
    """The compressed frames in decoding order, of a file that is not truncated."""
    import av

    packets, ends = [], {}  # ends: the last moment of each stream
    try:
        # All streams, if the header states the length of the longest.
        for packet in container.demux(*([stream] if stream.duration is not None else [])):
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                ends[packet.stream] = max(time + (packet.duration or 0), ends.get(packet.stream, 0))
            if packet.stream is stream and packet.size:
                packets.append(packet)
    except av.FFmpegError as error:
        raise VideoError(f"{path}: reading failed after frame {len(packets)} ({error.strerror})") from None
    if not packets:
        raise VideoError(f"{path}: its video stream has no frames")
    if _kind(container) in _STATING_CONTAINERS:
        stated = _stated_seconds(container, stream) or 0.0
        end = max((float(time * of.time_base) for of, time in ends.items()), default=0.0)
        # Whole files fall short by a few frames too: dropped ones, or a last one without a stated duration.
        if packets[-1].is_corrupt or end < stated - max(0.25, 0.05 * stated):
            raise VideoError(f"{path}: truncated: the header states {stated:.2f} seconds, the file ends at {end:.2f}")
    return packets


class _TimedFrames:
    """The frames of a file in which each packet is a frame and has a time."""

    def __init__(self, path: str, decoder, packets: list):
        self.path, self.decoder, self.packets, self.pixels = path, decoder, packets, _ToPixels()
        keys = sorted((packet.pts, place) for place, packet in enumerate(packets) if packet.is_keyframe)
        if not keys:
            raise VideoError(f"{path}: has no key frame to start from")
        self.key_times, self.key_places = zip(*keys, strict=True)
        # Nothing before the first key frame can be decoded; what an edit list hides is no frame of the video.
        shown = (packet.pts for packet in packets[min(self.key_places) :] if not packet.is_discard)
        self.times = sorted(time for time in shown if time >= self.key_times[0])
        self.places = {packet.pts: place for place, packet in enumerate(packets)}
        self.length = len(self.times)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        runs, end = [], -1  # a run: a key frame, and {time: index} of what is wanted after it
        for index in indices:
            time = self.times[index]
            key = bisect_right(self.key_times, time) - 1
            if not runs or self.key_places[key] > end + 1:
                runs.append((key, {}))
            runs[-1][1][time] = index
            end = max(end, self.places[time])
        for key, wanted in runs:
            yield from self._frames_from(key, wanted)

    def _frames_from(self, key: int, wanted: dict[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode from a key frame to the last wanted frame, then drain the decoder."""
        needed = self.packets[self.key_places[key] : max(self.places[time] for time in wanted) + 1]
        for packet in chain(needed, [None]):
            index = self._index_at(needed[-1].pts if packet is None else packet.pts)
            for frame in _decode(self.path, self.decoder, packet, index):
                if frame.pts < self.key_times[key]:
                    continue  # of the group before, without its references (open groups)
                _check_intact(self.path, frame, self._index_at(frame.pts))
                if frame.pts in wanted:
                    yield wanted.pop(frame.pts), self.pixels(frame)
        self.decoder.flush_buffers()
        if wanted and key:  # this key frame was only the start of a gradual refresh
            yield from self._frames_from(key - 1, wanted)
        elif wanted:
            raise VideoError(f"{self.path}: decoding failed at frame {min(wanted.values())} (no frame came out)")

    def _index_at(self, time: int) -> int:
        return max(0, bisect_right(self.times, time) - 1)


class _CountedFrames:
    """The frames of any other file, decoded from the first one on."""

    def __init__(self, path: str, decoder, packets: list):
        self.path, self.decoder, self.packets, self.pixels = path, decoder, packets, _ToPixels()
        self.length = sum(1 for _ in self._decoded())
        if not self.length:
            raise VideoError(f"{path}: no frame could be decoded")

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        wanted, last = set(indices), max(indices)
        for index, frame in enumerate(self._decoded()):
            if index in wanted:
                yield index, self.pixels(frame)
            if index == last:
                return

    def _decoded(self) -> Iterator:
        self.decoder.flush_buffers()
        index = 0
        for packet in chain(self.packets, [None]):
            for frame in _decode(self.path, self.decoder, packet, index):
                _check_intact(self.path, frame, index)
                yield frame
                index += 1


class _DecordFrames:
    """The frames of a file by decord's random access; readers that are kept open hold memory."""

    def __init__(self, path: str, length: int):
        import decord  # after torch, which `ctlib` has imported: the other order has crashed processes

        decord.logging.set_level(decord.logging.QUIET)
        self.path, self.length, self.errors = path, length, (RuntimeError, decord.DECORDError)
        try:
            self.reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        except self.errors as error:
            raise VideoError(f"{path}: decord cannot read it ({_first_line(error)})") from None
        if len(self.reader) != length:
            raise VideoError(f"{path}: has {length} frames, and {len(self.reader)} by decord: use the decoder 'pyav'")

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            try:
                frame = self.reader[index].asnumpy()
            except self.errors as error:
                raise VideoError(f"{self.path}: decoding failed at frame {index} ({_first_line(error)})") from None
            # At widths of 16, 24, 48 and 72 pixels decord returns the row padding as further channels.
            height, width, _ = frame.shape
            yield index, frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _decode(path: str, decoder, packet, index: int) -> list:
    """The frames that the decoder returns for a packet; `index` is for the error message."""
    import av

    try:
        return decoder.decode(packet)
    except av.FFmpegError as error:
        raise VideoError(f"{path}: decoding failed at frame {index} ({error.strerror})") from None


def _check_intact(path: str, frame, index: int) -> None:
    """Decoders fill the gaps of a damaged frame, and flag it."""
    if frame.is_corrupt:
        raise VideoError(f"{path}: decoding failed at frame {index} (its data is damaged)")


class _ToPixels:
    """Decoded frames to (H, W, 3) uint8, rotated as the file asks."""

    def __init__(self):
        from av.video.reformatter import VideoReformatter

        self.reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than using it

    def __call__(self, frame) -> np.ndarray:
        pixels = self.reformatter.reformat(frame, format="rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))) if frame.rotation else pixels


def _first_line(error: Exception) -> str:
    """The message of a C++ error, without its file and stack."""
    return str(error).partition("\n")[0].rpartition(", ")[2][:200]
