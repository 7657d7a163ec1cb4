"""Ways to reach the frames of a source: each reader has `length` and `frames(ascending indices)`."""

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from ctlib.data.video.container import Packets
from ctlib.data.video.pixels import ToPixels, VideoError, decoding, display_matrix, read_image

# 00001.jpg, image_000001.jpg, img_00001.jpg; not hidden files, nor optical flow beside the frames.
_NUMBERED = re.compile(r"(?!\.|flow)(.*?)(\d+)\.(?:jpe?g|png)", re.IGNORECASE)

_REORDERED = 32  # compressed frames that are decoded to see whether their order is that of their times
_WINDOW = 256  # compressed frames in memory, while a real key frame is looked for
_INTRA = 1  # FFmpeg's picture type I


class Images:
    """The frames of a folder."""

    def __init__(self, source: str):
        self.source, self.names = source, image_names(source)
        self.length = len(self.names)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, read_image(os.path.join(self.source, self.names[index]))) for index in indices)


def image_names(folder: str) -> list[str]:
    """File names of the frames in the order of their numbers, which start at 0 or 1 and have no gap."""
    numbered, prefixes = {}, set()
    with decoding(folder, "not a readable folder"):
        names = os.listdir(folder)
    for name in names:
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
    return [numbered[number] for number in range(first, last + 1)]


class TimedFrames:
    """The frames of a file in which each compressed frame is a frame and has a time of its own.

    Containers mark key frames wrongly, or not at all. So decoding starts at a marked one, and goes back to an earlier
    one unless the first frame that comes out is a key frame to the decoder too. (FFmpeg marks those of H.264 itself.)
    """

    def __init__(self, path: str, decoder, packets: Packets):
        self.path, self.decoder, self.packets, self.pixels = path, decoder, packets, ToPixels(path)
        self.entries = entries = packets.entries
        self.withholds = _withholds(decoder)
        self.starts = [place for place, entry in enumerate(entries) if entry.is_keyframe]
        if not (self.starts and self.starts[0] == 0) and self.key_frame(next(packets.between(0, 0))):
            self.starts.insert(0, 0)
        if not self.starts:
            raise VideoError(f"{path}: has no key frame to start from")
        # Nothing before the first key frame can be decoded; what an edit list hides is no frame of the video.
        first = min(entries[place].pts for place in self.starts)
        shown = (entry.pts for entry in entries[self.starts[0] :] if not entry.is_discard)
        self.times = sorted(time for time in shown if time >= first)
        self.places = {entry.pts: place for place, entry in enumerate(entries)}
        self.length = len(self.times)
        if not self.length:
            raise VideoError(f"{path}: shows no frame")

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        runs, end = [], -1  # a run: where it starts, and {time: index} of what is wanted after that
        for index in indices:
            time = self.times[index]
            start = self.start_of(time)
            if not runs or start > end + 1:
                runs.append((start, {}))
            runs[-1][1][time] = index
            end = max(end, self.places[time])
        while runs:
            (start, wanted), *others = runs
            yield from self._run(start, wanted)
            runs = others
            if wanted:  # a mark is wrong, or begins a gradual refresh: one run from before it to the last wanted frame
                wanted = {time: index for _, part in ((start, wanted), *others) for time, index in part.items()}
                runs = [(self._key_frame_before(start, min(wanted.values())), wanted)]

    def start_of(self, time: int) -> int:
        """Where the last marked key frame lies that is neither decoded nor shown after the frame at a time."""
        number = bisect_right(self.starts, self.places[time]) - 1
        while number > 0 and self.entries[self.starts[number]].pts > time:
            number -= 1
        return self.starts[number]

    def _run(self, start: int, wanted: dict[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode from `start` to the last wanted frame and drain the decoder; what comes out leaves `wanted`."""
        end = max(self.places[time] for time in wanted)
        first, begun = self.entries[start].pts, self.withholds
        self.decoder.flush_buffers()
        packets = self.packets.between(start, end)
        for packet in chain([_not_discarded(next(packets))], packets, [None]):
            index = self._index_at(self.entries[end].pts if packet is None else packet.pts)
            for frame in decode(self.path, self.decoder, packet, index):
                if frame.pts < first:
                    continue  # of the group before, without its references (open groups)
                if not begun and not (frame.key_frame and frame.pts == first):
                    return  # a wrong mark
                begun = True
                check_intact(self.path, frame, self._index_at(frame.pts))
                self.pixels.follow(frame)
                if frame.pts in wanted:
                    index = wanted.pop(frame.pts)
                    yield index, self.pixels(frame, index)

    def _key_frame_before(self, start: int, index: int) -> int:
        """Where the last marked key frame before `start` lies that is one to the decoder too."""
        places = self.starts[: bisect_right(self.starts, start - 1)]
        while places:
            first = max(0, places[-1] - _WINDOW + 1)
            window = list(self.packets.between(first, places[-1]))
            while places and places[-1] >= first:
                place = places.pop()
                if self.withholds or self.key_frame(window[place - first]):
                    return place
        raise VideoError(f"{self.path}: decoding failed at frame {index} (no frame came out)")

    def key_frame(self, packet):
        """The frame of a packet that the decoder can start at; None if it cannot."""
        self.decoder.flush_buffers()
        try:
            frames = [
                frame for part in (_not_discarded(packet), None) for frame in decode(self.path, self.decoder, part, 0)
            ]
        except VideoError:
            return None
        finally:
            self.decoder.flush_buffers()
        return next((frame for frame in frames if frame.key_frame and frame.pts == packet.pts), None)

    def _index_at(self, time: int) -> int:
        return max(0, bisect_right(self.times, time) - 1)


def _not_discarded(packet):
    """A packet whose frame comes out of the decoder, though an edit list hides it."""
    if not packet.is_discard:
        return packet
    import av

    copy = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.time_base, copy.is_keyframe = packet.pts, packet.dts, packet.time_base, packet.is_keyframe
    return copy


class CountedFrames:
    """The frames of any other file, decoded and counted from the first key frame on."""

    def __init__(self, path: str, decoder, packets: Packets):
        self.path, self.decoder, self.packets, self.pixels = path, decoder, packets, ToPixels(path)
        self.length = sum(1 for _ in self._decoded())

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        wanted, last = set(indices), max(indices)
        for index, frame in enumerate(self._decoded()):
            if index in wanted:
                yield index, self.pixels(frame, index)
            if index == last:
                return

    def _decoded(self) -> Iterator:
        self.decoder.flush_buffers()
        index, some, begun = 0, False, _withholds(self.decoder)
        for packet in chain(self.packets.between(0, len(self.packets.entries) - 1), [None]):
            begun = begun or (packet is not None and packet.is_discard and packet.is_keyframe)  # which never comes out
            for frame in decode(self.path, self.decoder, packet, index):
                some, begun = True, begun or _starts(frame, packet)
                if not begun:  # decoded from grey, or from what a flush leaves in the decoder
                    continue
                check_intact(self.path, frame, index)
                self.pixels.follow(frame)
                yield frame
                index += 1
        if not index:
            fault = "has no key frame to start from" if some else "no frame could be decoded"
            raise VideoError(f"{self.path}: {fault}")


def _withholds(decoder) -> bool:
    """Whether a decoder shows nothing before it can: not even a gradual refresh that has begun."""
    return decoder.codec.canonical_name == "h264"


def _starts(frame, packet) -> bool:
    """Whether a frame was decoded without others; some decoders do not say so, and their containers do."""
    untyped = not frame.pict_type and packet is not None
    return frame.key_frame or frame.pict_type == _INTRA or (untyped and packet.is_keyframe)


def order_contradicts(path: str, decoder, packets: Packets) -> bool:
    """Whether frames come out in another order than their times state, as in an MP4 that lacks its `ctts`."""
    times = [entry.pts for entry in packets.entries] if decoder.has_b_frames else []
    if not times or times != sorted(times):
        return False  # nothing is reordered, or the container knows of it
    some = packets.between(0, min(_REORDERED, len(times)) - 1)
    try:
        shown = [frame.pts for packet in chain(some, [None]) for frame in decode(path, decoder, packet, 0)]
    except VideoError:
        return False  # which is found again where the frame is needed
    finally:
        decoder.flush_buffers()
    return shown != sorted(shown)


def decode(path: str, decoder, packet, index: int) -> list:
    """The frames that the decoder returns for a packet; `index` is for the error message."""
    with decoding(path, f"decoding failed at frame {index}"):
        return decoder.decode(packet)


def check_intact(path: str, frame, index: int) -> None:
    """Decoders fill the gaps of a damaged frame, and flag it."""
    if frame.is_corrupt:
        raise VideoError(f"{path}: decoding failed at frame {index} (its data is damaged)")


class DecordFrames:
    """The frames of a file by decord's random access; readers that are kept open hold memory.

    decord takes the container's marks of key frames for true. So its key frames must be PyAV's, and each one where it
    starts must be one to PyAV's decoder.

    Raises:
        VideoError: decord cannot read the file, or would give other frames or other pixels than PyAV.
    """

    def __init__(self, path: str, stream, video: TimedFrames):
        import torch  # noqa: F401, I001 - before decord: the other order has crashed processes
        import decord

        self.path, self.length, self.stream, self.video = path, video.length, stream, video
        self.errors, self.real_starts, self.form = (RuntimeError, decord.DECORDError), set(), None
        first = self._key_frame(video.starts[0])
        self._key_frame(video.starts[-1])  # whose colours decord may give to earlier frames too
        decord.logging.set_level(decord.logging.QUIET)
        try:
            self.reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        except (*self.errors, UnicodeEncodeError) as error:  # the second: of a name that is not UTF-8
            raise VideoError(f"{path}: decord cannot read it ({_first_line(error)})") from None
        if len(self.reader) != self.length:
            self._refuse(f"{self.length} frames, and {len(self.reader)} by decord")
        marked = [bisect_left(video.times, video.entries[place].pts) for place in video.starts]
        if [int(index) for index in self.reader.get_key_indices()] != marked:
            self._refuse("it takes other frames for key frames")
        video.pixels.follow(first)
        if not np.array_equal(self._frame(marked[0]), video.pixels(first, marked[0])):
            self._refuse("its first frame is another")

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            start = self.video.start_of(self.video.times[index])
            if start not in self.real_starts:
                self._key_frame(start)
            yield index, self._frame(index)

    def _frame(self, index: int) -> np.ndarray:
        try:
            frame = self.reader[index].asnumpy()
        except self.errors as error:
            raise VideoError(f"{self.path}: decoding failed at frame {index} ({_first_line(error)})") from None
        # At widths of 16, 24, 48 and 72 pixels decord returns the row padding as further channels.
        height, width, _ = frame.shape
        return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)

    def _key_frame(self, start: int):
        packet = next(self.video.packets.between(start, start))
        frame = self.video.key_frame(packet)
        if frame is None:
            self._refuse("it starts at a frame that is no key frame")
        form = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
        self.form = self.form or form
        self._refuse("its size or colours change" if form != self.form else _other_in_decord(self.stream, frame))
        self._refuse("it may be interlaced" if _may_be_interlaced(self.stream, packet) else "")
        self.real_starts.add(start)
        return frame

    def _refuse(self, reason: str) -> None:
        if reason:
            raise VideoError(f"{self.path}: decord would read it otherwise ({reason}): use the decoder 'pyav'")


_PROGRESSIVE = (0, 1)  # FFmpeg's field orders: not stated, and progressive


def _other_in_decord(stream, frame) -> str:
    """Why decord would give other pixels than those of a decoded key frame; "" if it would not."""
    if len(stream.container.streams.video) > 1:
        return "it has several video streams"
    if stream.codec_context.field_order not in _PROGRESSIVE or frame.interlaced_frame:
        return "it is interlaced"
    if any(component.bits > 8 for component in frame.format.components):
        return "its colours have more than 8 bits"
    a, b, c, d = display_matrix(frame) or (1, 0, 0, 1)
    return "it is to be mirrored" if a * d < b * c else ""


def _may_be_interlaced(stream, packet) -> bool:
    """Whether any frame from this key frame to the next may be (frame_mbs_only_flag; H.264, 7.4.2.1.1).

    That is not known, and so true, where the filter cannot read the headers; it is stricter than decoders are.
    """
    import av
    from av.bitstream import BitStreamFilterContext

    if stream.codec_context.codec.canonical_name != "h264":
        return False
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)  # at which the filter says what is in the headers
    try:
        with av.logging.Capture() as messages:
            BitStreamFilterContext("trace_headers", stream).filter(av.Packet(bytes(packet)))
    except av.FFmpegError:
        return True
    finally:
        av.logging.set_level(level)
    return any("frame_mbs_only_flag" in text and text.endswith("= 0\n") for _, _, text in messages)


def _first_line(error: Exception) -> str:
    """The message of a C++ error, without its file and stack."""
    return str(error).partition("\n")[0].rpartition(", ")[2][:200]
