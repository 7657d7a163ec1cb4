"""Video files: what may be opened, which stream is the video, and its compressed frames."""

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import NamedTuple

from ctlib.data.video.pixels import VideoError, decoding

# Playlists and scripts are not among these: FFmpeg would read the files and addresses that they name.
_FORMATS = "mov,matroska,avi,flv,asf,mpeg,mpegts,mpegvideo,ogg,gif"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}

_STATING = {"mov", "matroska", "avi", "flv", "asf"}  # containers whose headers state the video's length
_STILLS = {"mjpeg", "png", "bmp", "gif", "webp"}  # codecs of cover pictures

# Where a header states the size of its file: bytes before the number, how far after their start it lies, and its form.
_SIZES = {"asf": (bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"), 40, "<Q"), "flv": (b"filesize\0", 9, ">d")}

_KEPT = 2**25  # bytes of compressed frames that stay in memory; those of larger files are read again when needed


class Entry(NamedTuple):
    """What a container says of a compressed frame."""

    pts: int | None  # when it is shown, in the stream's time base
    is_keyframe: bool
    is_discard: bool  # needed for others, and not shown

    @classmethod
    def of(cls, packet) -> "Entry":
        return cls(packet.pts, packet.is_keyframe, packet.is_discard)


@contextmanager
def opened(path: str):
    """An open file and its video stream, with one decoding thread: the loader has worker processes instead.

    Raises:
        VideoError: the file is missing, empty, no container that is read here, or has no video stream.
    """
    if not os.path.isfile(path):
        raise VideoError(f"{path}: no such file")
    if os.path.getsize(path) == 0:
        raise VideoError(f"{path}: the file is empty")
    with _demuxer(path) as container:
        stream = _video_stream(path, container)
        if stream.codec_context is None:
            raise VideoError(f"{path}: not a readable video (no decoder for its codec)")
        stream.codec_context.thread_count = 1
        yield container, stream


def _demuxer(path: str):
    import av

    with decoding(path, "not a readable video"):
        try:
            # "file:", since "a:b.mp4" would be a protocol; a title that is not UTF-8 is no damage.
            return av.open(f"file:{path}", metadata_errors="replace", options=dict(_OPTIONS))
        except UnicodeDecodeError:
            raise ValueError("its header is damaged") from None
        except av.ArgumentError:
            raise ValueError(f"damaged, or its container is none of {_FORMATS}") from None


def _video_stream(path: str, container):
    """The stream that FFmpeg takes for the best, cover pictures apart."""
    from av.stream import Disposition

    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not videos:
        cover = ", only a cover picture" if container.streams.video else ""
        raise VideoError(f"{path}: has no video stream{cover}")
    best = container.streams.best("video")
    return best if best in videos else videos[0]


def kind(container) -> str:
    """FFmpeg's first name of a container's format."""
    return container.format.name.partition(",")[0]


def stated_seconds(container, stream) -> float | None:
    """The length in the header; WebM states one of all streams together."""
    import av

    if kind(container) == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # a cut file's duration is guessed from its size
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _stated_bytes(path: str, form: str) -> float:
    """The size of an ASF or FLV file in its header; 0 if that does not state it."""
    if form not in _SIZES:
        return 0
    mark, offset, number = _SIZES[form]
    with open(path, "rb") as file:
        header = file.read(2**16)
    at = header.find(mark)
    return 0 if at < 0 else struct.unpack_from(number, header[at + offset :].ljust(8, b"\0"))[0]


def _has_index(container, stream) -> bool:
    """Whether the file says where each frame lies, so that its length need not be known."""
    return kind(container) == "mov" and stream.frames > 0


class Packets:
    """The compressed frames of an open file that is not truncated, in decoding order.

    Where the file is opened a second time, `open_files` closes that.

    Raises:
        VideoError: reading fails, the file is truncated, or it holds no video frame.
    """

    def __init__(self, path: str, container, stream, open_files: ExitStack):
        self.path, self.stream_index, self._open_files = path, stream.index, open_files
        self.entries: list[Entry] = []  # the packets themselves, as long as they stay in memory
        self._are_kept, self._again, self._next = True, None, 0
        size, ends, last = 0, {}, None  # ends: the last moment of each stream
        indexed = _has_index(container, stream)
        # All streams, if the header states the length of the longest.
        packets = container.demux(*([stream] if stream.duration is not None else []))
        with self._reading():
            for packet in packets:
                if not indexed:
                    time = packet.dts if packet.pts is None else packet.pts
                    if time is not None:
                        ends[packet.stream] = max(time + (packet.duration or 0), ends.get(packet.stream, 0))
                if packet.stream is stream and packet.size:
                    last, size = packet, size + packet.size
                    if self._are_kept and size > _KEPT:
                        self._are_kept, self.entries = False, [Entry.of(earlier) for earlier in self.entries]
                    self.entries.append(packet if self._are_kept else Entry.of(packet))
        if not self.entries:
            raise VideoError(f"{path}: its video stream has no frames")
        if len(self.entries) == 1 and container.streams.audio and stream.codec_context.codec.canonical_name in _STILLS:
            raise VideoError(f"{path}: has no video stream, only a picture beside sound")
        end = max((float(time * of.time_base) for of, time in ends.items()), default=0.0)
        self._check_whole(container, stream, end, not last.is_corrupt)

    def _reading(self) -> decoding:
        return decoding(self.path, lambda: f"reading failed after frame {len(self.entries)}")

    def _check_whole(self, container, stream, end: float, whole_last: bool) -> None:
        form, held = kind(container), os.path.getsize(self.path)
        if _has_index(container, stream):
            # The index says where each frame lies. Edit lists may state another length than what they leave.
            listed = stream.index_entries
            missing = len(self.entries) < len(listed) and any(entry.pos + entry.size > held for entry in listed)
            if missing or not whole_last:
                many = f"{len(listed)} frames, the file holds {len(self.entries) - (not whole_last)}"
                raise VideoError(f"{self.path}: truncated: its index lists {many}")
        elif form in _STATING:
            seconds = stated_seconds(container, stream) or 0.0
            # Whole files fall short by a few frames too: dropped ones, or a last one without a stated duration.
            ends_early = end < seconds - max(0.25, 0.05 * seconds)
            short = ends_early or not whole_last
            late = (container.start_time or 0) > 0
            # FFmpeg ignores the length that a cut ASF states, and an FLV's does not say whether it counts from 0.
            stated = _stated_bytes(self.path, form) if short or form == "asf" or late else 0
            if stated > held:
                raise VideoError(f"{self.path}: truncated: the header states {stated:.0f} bytes, the file has {held}")
            if ends_early:
                lengths = f"the header states {seconds:.2f} seconds, the file ends at {end:.2f}"
                remedy = "if it is whole, its header is wrong: remux it"
                raise VideoError(f"{self.path}: truncated: {lengths} ({remedy})")
            if short:
                raise VideoError(f"{self.path}: truncated: its last frame is cut")

    def between(self, first: int, last: int) -> Iterator:
        """The packets `first` to `last`, by their place in decoding order."""
        if self._are_kept:
            yield from self.entries[first : last + 1]
            return
        if self._again is None or first < self._next:
            self._open_files.close()
            container = self._open_files.enter_context(_demuxer(self.path))
            stream = container.streams[self.stream_index]
            self._again, self._next = (packet for packet in container.demux(stream) if packet.size), 0
        for _ in islice(self._again, first - self._next):
            self._next += 1
        while self._next <= last:
            with self._reading():
                packet = next(self._again, None)
            if packet is None:
                raise VideoError(f"{self.path}: changed while it was read")
            self._next += 1
            yield packet
