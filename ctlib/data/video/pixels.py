"""From decoded frames and image files to (H, W, 3) uint8, RGB, turned and mirrored as a player shows them."""

import struct
import zlib
from collections.abc import Callable

import numpy as np

from ctlib.files import OneLineError

# What decoders raise about a file. Errors of our own making, such as TypeError, are not among them.
_DECODERS_RAISE = (
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    SyntaxError,
    MemoryError,
    struct.error,
    zlib.error,
)
_IMAGES = ("JPEG", "PNG", "WEBP", "BMP")  # whatever the suffix says; other formats may run programs or name files

# What H.273 calls the matrices that FFmpeg does not convert.
_MATRICES = {3: "reserved", 8: "YCgCo", 10: "BT.2020 constant luminance", 11: "YDzDx", 14: "ICtCp", 15: "IPT-C2"}
_MATRICES |= {12: "chroma-derived", 13: "chroma-derived constant luminance", 16: "YCgCo-Re", 17: "YCgCo-Ro"}

Matrix = tuple[float, float, float, float]  # (a, b, c, d): a pixel at (x, y) is shown at (a x + c y, b x + d y)

_AS_STORED: Matrix = (1, 0, 0, 1)

# The orientation in EXIF, 2 to 8, as matrices; 1 and anything else: as stored.
_EXIF: dict[int, Matrix] = {
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
_ORIENTATION = 0x0112  # its tag


class VideoError(OneLineError, Exception):
    """A video that cannot be read as asked; the message names the file and the reason."""


class decoding:  # noqa: N801 - used as a function; a generator would take longer, and there is one per frame
    """What a decoder raises within becomes a VideoError: the file, the fault and the decoder's reason, in one line."""

    def __init__(self, path: str, fault: str | Callable[[], str]):
        self.path, self.fault = path, fault

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind, error: BaseException | None, _traceback) -> None:
        if error is None:
            return
        import av

        if isinstance(error, (av.FFmpegError, *_DECODERS_RAISE)):
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            text = text.replace(repr(self.path), "it").replace(self.path, "it")
            fault = self.fault() if callable(self.fault) else self.fault
            raise VideoError(f"{self.path}: {fault} ({' '.join(text.split())[:200]})") from None


def read_image(path: str) -> np.ndarray:
    """(H, W, 3) uint8 of a JPEG or PNG file, upright. 16-bit grey is scaled to 8 bits.

    Raises:
        VideoError: the file cannot be read.
    """
    from PIL import Image

    with decoding(path, "not a readable image"):
        try:
            with Image.open(path, formats=_IMAGES) as image:
                orientation = _orientation(image)
                if image.mode.startswith("I"):
                    pixels = _sixteen_bits(image)
                else:  # converting would copy what is RGB already
                    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        except Image.DecompressionBombError as error:
            raise ValueError(error) from None
    return _shown(pixels, _turns(_EXIF.get(orientation)))


def _orientation(image) -> int | None:
    """EXIF's; None where there is none that can be read, as viewers have it."""
    try:
        return image.getexif().get(_ORIENTATION)
    except _DECODERS_RAISE:
        return None


def _sixteen_bits(image) -> np.ndarray:
    """(H, W, 3) uint8 of 16-bit grey. PIL's own conversion would cut all values above 255."""
    grey = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


class ToPixels:
    """Decoded frames to (H, W, 3) uint8, turned and mirrored as the file asks."""

    def __init__(self, path: str):
        from av.video.reformatter import VideoReformatter

        self.path, self.matrix, self.turns = path, None, set()
        self.reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than using it

    def follow(self, frame) -> None:
        """Take note of a frame, in the order of showing; each one that comes out of the decoder is given.

        What a stream states of its orientation lies on one frame, and holds up to the next key frame (H.264, D.2.27).
        """
        matrix = display_matrix(frame)
        if matrix is not None or frame.key_frame:
            self.matrix = matrix

    def __call__(self, frame, index: int) -> np.ndarray:
        """The pixels of the frame that was given to `follow` last.

        Raises VideoError for a colour matrix that FFmpeg cannot convert, and for a turn by an odd angle, or one that
        other frames do not have.
        """
        matrix = int(frame.colorspace)
        colours = f"{frame.format.name}, colour matrix {matrix} ({_MATRICES.get(matrix, 'see H.273')})"
        with decoding(self.path, f"frame {index} cannot be converted to RGB from {colours}"):
            # One thread, as in decoding: starting more for each video takes longer than they save.
            pixels = self.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        a, b, c, d = self.matrix or _AS_STORED
        straight, turned = max(abs(a), abs(d)), max(abs(b), abs(c))
        if min(straight, turned) > 0.02 * max(straight, turned):
            raise VideoError(f"{self.path}: asks to be turned by an angle between quarter turns, matrix {self.matrix}")
        turns = _turns(self.matrix)
        self.turns.add(turns)
        if len(self.turns) > 1:
            raise VideoError(f"{self.path}: frame {index} is to be turned or mirrored otherwise than those before it")
        return _shown(pixels, turns)


def _turns(matrix: Matrix | None) -> tuple[bool, int, int]:
    """Whether rows become columns, then the steps down and across; a matrix of zeros says nothing."""
    a, b, c, d = matrix or _AS_STORED
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if turned else (a, d)
    return turned, -1 if down < 0 else 1, -1 if across < 0 else 1


def _shown(pixels: np.ndarray, turns: tuple[bool, int, int]) -> np.ndarray:
    """(H, W, 3), or (W, H, 3) after a turn."""
    turned, down, across = turns
    return np.ascontiguousarray((pixels.swapaxes(0, 1) if turned else pixels)[::down, ::across])


def display_matrix(frame) -> Matrix | None:
    """How a player turns and mirrors a decoded frame; None: not at all."""
    from av.sidedata.sidedata import SideDataContainer

    try:
        beside = SideDataContainer(frame)  # `frame.side_data` refers back to its frame, which then stays in memory
    except ValueError:  # data of a type that PyAV does not know, such as EXIF
        beside = SideDataContainer(_without_exif(frame))
    data = beside.get("DISPLAYMATRIX") if len(beside) else None
    if data is None:
        return None
    a, b, _, c, d = (np.frombuffer(bytes(data), np.int32)[:5] / 2**16).tolist()
    return a, b, c, d


def _without_exif(frame):
    from av.filter import Graph

    graph = Graph()
    begin = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    remove = graph.add("sidedata", "mode=delete:type=31")  # 31: EXIF
    graph.link_nodes(begin, remove, graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()
