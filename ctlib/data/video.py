"""Videos to frames: only what the frames asked for need is decoded, and each frame is the one asked for.

A source is a video file, or a folder of numbered JPEG or PNG files, a frame each.

A frame is told by its time stamp. The compressed file is read into memory, its frames put in the order of
their times, and decoding enters at the last key frame not after the frame wanted; the frame that comes out
with that very time is it. So nothing hangs on where a container's seek lands, which goes wrong with B-frames
and with open groups of pictures. Where a packet need not be a frame (VP8 has hidden ones, MPEG-4 packs two
in one) or has no time (AVI), frames are counted from the first one on.

decord can be chosen instead (`decoder="decord"`), for the files on which its random access is exact. It gives
the same pixels there, and takes 1.2 to 2 times as long, which is why it is not what is taken unasked.

Damage is an error wherever the container or the decoder notices it. VP8, VP9, JPEG and in part HEVC carry no
checks: bytes changed within one of their frames can go unnoticed, and a damaged WebM file can lose frames in
its middle.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import numpy as np

from ctlib.config import check_choice

# One packet is one frame in these codecs, and every packet has a time in these containers.
_TIMED_CODECS = {"h264", "hevc", "vp9", "av1", "mjpeg"}
_TIMED_CONTAINERS = {"mov", "matroska"}  # MP4 is of the one kind, WebM of the other
_STATING_CONTAINERS = _TIMED_CONTAINERS | {"avi"}  # their headers say how long the video is

# Random access by decord is exact in these, in groups of pictures that are closed. It was wrong on others, MPEG-4
# and HEVC among them, without a word.
_DECORD_CODECS = {"h264", "vp9"}
DECODERS = ("pyav", "decord")

# 00001.jpg, image_000001.jpg, img_00001.jpg; hidden files, and optical flow beside the frames, are not meant.
_NUMBERED = re.compile(r"(?!\.|flow)(.*?)(\d+)\.(?:jpe?g|png)", re.IGNORECASE)

Indices = Sequence[int] | np.ndarray
Choice = Indices | Callable[[int], Indices]


class VideoError(Exception):
    """A video that cannot be read as asked; the message names the file and the reason."""


class VideoInfo(NamedTuple):
    """What a source says of itself; None is what it does not say."""

    codec: str  # FFmpeg's name, or "images" for a folder of frames
    num_frames: int | None  # MP4 and AVI state it, WebM does not
    height: int  # pixels, before a player turns the frame
    width: int
    fps: Fraction | None  # mean
    seconds: float | None


def probe(source: str | os.PathLike) -> VideoInfo:
    """What the header says; nothing is decoded but the first image of a folder.

    Raises:
        VideoError: the source is missing, empty or not a video.
    """
    source = os.fspath(source)
    if os.path.isdir(source):
        files = _image_files(source)
        height, width, _ = _decoded_image(files[0]).shape
        return VideoInfo("images", len(files), height, width, None, None)
    with _container(source) as (container, stream):
        seconds = _stated_seconds(container, stream)
        codec = stream.codec_context.codec.canonical_name
        return VideoInfo(codec, stream.frames or None, stream.height, stream.width, stream.average_rate, seconds)


def count_frames(source: str | os.PathLike) -> int:
    """How many frames a source has: in fact, whatever its header says.

    Raises:
        VideoError: the source is missing, empty, truncated or not a video.
    """
    with _opened(source) as video:
        return len(video)


def read_frames(
    source: str | os.PathLike, indices: Choice, listed: int | None = None, decoder: str = "pyav"
) -> np.ndarray:
    """The frames at `indices`, counted from 0, in the order asked for.

    Args:
        source: a video file or a folder of numbered images.
        indices: any order, repeats allowed, none below 0; or a function from the number of frames to these.
        listed: how many frames an annotation promises. With more in fact, the function is given `listed`.
        decoder: "pyav", or "decord" for files on which that is exact.

    Returns:
        uint8 (len(indices), H, W, 3), RGB.

    Raises:
        VideoError: the source is missing, empty, truncated, damaged where it was decoded or not a video, has no
            frame at an index, or has fewer than `listed`; or decord is asked for where it is not exact.
    """
    with _opened(source, decoder) as video:
        count = len(video)
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
        told = " and ".join(f"{height} x {width}" for height, width, _ in sorted(sizes))
        raise VideoError(f"{os.fspath(source)}: has frames of different sizes, {told}")
    return np.stack([frames[index] for index in chosen.tolist()])


def iterate_frames(source: str | os.PathLike) -> Iterator[np.ndarray]:
    """All frames one after the other, uint8 (H, W, 3), RGB, one in memory at a time.

    Raises:
        VideoError: as `read_frames`, when the iteration comes to it.
    """
    with _opened(source) as video:
        for _, frame in video.frames(range(len(video))):
            yield frame


@contextmanager
def _opened(source: str | os.PathLike, decoder: str = "pyav"):
    """What reads a source: it has a length, and `frames`. Lives for one call only."""
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
        if decoder == "decord":
            if not timed or codec not in _DECORD_CODECS or _has_open_groups(packets):
                raise VideoError(
                    f"{source}: decord's random access is not exact in it ({codec}): take the decoder 'pyav'"
                )
            yield _DecordFrames(source, len(_TimedFrames(source, stream.codec_context, packets)))
        elif timed and codec in _TIMED_CODECS:
            yield _TimedFrames(source, stream.codec_context, packets)
        else:
            yield _CountedFrames(source, stream.codec_context, packets)


def _has_open_groups(packets: list) -> bool:
    """Whether a frame is shown before the key frame that it is decoded after."""
    key = None
    for packet in packets:
        key = packet.pts if packet.is_keyframe else key
        if key is not None and packet.pts < key:
            return True
    return False


# ---------------------------------------------------------------- folders of images


class _Images:
    """The frames of a folder."""

    def __init__(self, source: str):
        self.files = _image_files(source)

    def __len__(self) -> int:
        return len(self.files)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, _decoded_image(self.files[index])) for index in indices)


def _image_files(folder: str) -> list[str]:
    """Paths of the frames in the order of their numbers, which start at 0 or 1 and leave none out."""
    numbered, prefixes = {}, set()
    for name in os.listdir(folder):
        if match := _NUMBERED.fullmatch(name):
            number = int(match[2])
            if number in numbered:
                raise VideoError(f"{folder}: frame number {number} is there twice, {numbered[number]} and {name}")
            numbered[number] = name
            prefixes.add(match[1])
    if not numbered:
        raise VideoError(f"{folder}: a folder without numbered JPEG or PNG files")
    if len(prefixes) > 1:
        raise VideoError(f"{folder}: numbered files of several kinds, {sorted(prefixes)}")
    numbers = sorted(numbered)
    first = min(numbers[0], 1)
    for expected, number in enumerate(numbers, start=first):
        if number != expected:
            raise VideoError(f"{folder}: frame number {expected} is missing, of {first} to {numbers[-1]}")
    return [os.path.join(folder, numbered[number]) for number in numbers]


def _decoded_image(path: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(repr(path), "it").replace(path, "it")
        raise VideoError(f"{path}: not a readable image ({reason})") from None


# ---------------------------------------------------------------- files


@contextmanager
def _container(path: str):
    """An open file and its video stream, with one decoding thread: the loader's workers are the others."""
    import av

    if not os.path.isfile(path):
        raise VideoError(f"{path}: no such file")
    if os.path.getsize(path) == 0:
        raise VideoError(f"{path}: the file is empty")
    try:
        # "file:", else "a:b.mp4" were a protocol; a title in another encoding than UTF-8 is no damage.
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
    """How long the header says that the video is; WebM says so of all its streams together only."""
    import av

    if _kind(container) == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # the duration is guessed from the file's size if it is cut
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _packets(path: str, container, stream) -> list:
    """The compressed frames in the order of decoding, of a file that is all there."""
    import av

    packets, ends = [], {}  # of each stream, its last moment
    try:
        # All streams, where the length that the header states is that of the longest.
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
        # Whole files miss a few frames of what they state too: dropped ones, or a last one of no stated duration.
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
        # Before the first key frame nothing can be decoded; what an edit list hides is no frame of the video.
        shown = (packet.pts for packet in packets[min(self.key_places) :] if not packet.is_discard)
        self.times = sorted(time for time in shown if time >= self.key_times[0])
        self.places = {packet.pts: place for place, packet in enumerate(packets)}

    def __len__(self) -> int:
        return len(self.times)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(index, frame) for each of `indices`, which ascend."""
        runs, end = [], -1  # a run is a key frame and what is wanted after it, {time: index}
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
        """Decode from a key frame to the last frame wanted, and drain the decoder of what it held back."""
        needed = self.packets[self.key_places[key] : max(self.places[time] for time in wanted) + 1]
        for packet in chain(needed, [None]):
            index = self._index_at(needed[-1].pts if packet is None else packet.pts)
            for frame in _decoded(self.path, self.decoder, packet, index):
                if frame.pts < self.key_times[key]:
                    continue  # of the group before, and so without what it refers to (open groups)
                _check_intact(self.path, frame, self._index_at(frame.pts))
                if frame.pts in wanted:
                    yield wanted.pop(frame.pts), self.pixels(frame)
        self.decoder.flush_buffers()
        if wanted and key:  # what is called a key frame was the start of a gradual refresh
            yield from self._frames_from(key - 1, wanted)
        elif wanted:
            raise VideoError(f"{self.path}: decoding failed at frame {min(wanted.values())} (no frame came out)")

    def _index_at(self, time: int) -> int:
        return max(0, bisect_right(self.times, time) - 1)


class _CountedFrames:
    """The frames of any other file, decoded from the first one on."""

    def __init__(self, path: str, decoder, packets: list):
        self.path, self.decoder, self.packets, self.pixels = path, decoder, packets, _ToPixels()
        self.length = sum(1 for _ in self._decoded_frames())
        if not self.length:
            raise VideoError(f"{path}: no frame could be decoded")

    def __len__(self) -> int:
        return self.length

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(index, frame) for each of `indices`, which ascend."""
        wanted, last = set(indices), max(indices)
        for index, frame in enumerate(self._decoded_frames()):
            if index in wanted:
                yield index, self.pixels(frame)
            if index == last:
                return

    def _decoded_frames(self) -> Iterator:
        self.decoder.flush_buffers()
        index = 0
        for packet in chain(self.packets, [None]):
            for frame in _decoded(self.path, self.decoder, packet, index):
                _check_intact(self.path, frame, index)
                yield frame
                index += 1


class _DecordFrames:
    """The frames of a file by decord's random access; a reader lives for one call, as kept ones hold memory."""

    def __init__(self, path: str, length: int):
        import decord  # after torch, which `ctlib` has imported: the other order has crashed processes

        decord.logging.set_level(decord.logging.QUIET)
        self.path, self.length, self.errors = path, length, (RuntimeError, decord.DECORDError)
        try:
            self.reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        except self.errors as error:
            raise VideoError(f"{path}: decord cannot read it ({_first_line(error)})") from None
        if len(self.reader) != length:
            raise VideoError(f"{path}: has {length} frames, and {len(self.reader)} by decord: take the decoder 'pyav'")

    def __len__(self) -> int:
        return self.length

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(index, frame) for each of `indices`."""
        for index in indices:
            try:
                frame = self.reader[index].asnumpy()
            except self.errors as error:
                raise VideoError(f"{self.path}: decoding failed at frame {index} ({_first_line(error)})") from None
            # At 16, 24, 48 and 72 pixels decord gives frames with their row padding, as further channels.
            height, width, _ = frame.shape
            yield index, frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _decoded(path: str, decoder, packet, index: int) -> list:
    """The frames that come out of the decoder when a packet goes in; `index` is where that is, for the message."""
    import av

    try:
        return decoder.decode(packet)
    except av.FFmpegError as error:
        raise VideoError(f"{path}: decoding failed at frame {index} ({error.strerror})") from None


def _check_intact(path: str, frame, index: int) -> None:
    """Decoders fill in what is missing of a damaged frame, and say so."""
    if frame.is_corrupt:
        raise VideoError(f"{path}: decoding failed at frame {index} (its data is damaged)")


class _ToPixels:
    """Decoded frames to (H, W, 3) uint8, turned the way that the file says it is to be shown."""

    def __init__(self):
        from av.video.reformatter import VideoReformatter

        self.reformatter = VideoReformatter()  # one for all frames: it takes longer to set up than to use

    def __call__(self, frame) -> np.ndarray:
        pixels = self.reformatter.reformat(frame, format="rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))) if frame.rotation else pixels


def _first_line(error: Exception) -> str:
    """What a C++ error says, without its file and stack."""
    return str(error).partition("\n")[0].rpartition(", ")[2][:200]
