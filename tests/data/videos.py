"""Small videos for the tests: frames that carry their number, in every codec and container."""

import os
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from PIL import Image

from ctlib.data.encoding import write_frames, write_video

COUNT, HEIGHT, WIDTH, BITS = 60, 64, 96, 6


def coded(number):
    """A frame that shows its number in black and white blocks, over a texture that moves: (H, W, 3) uint8."""
    texture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    frame = np.roll(texture, number, axis=1) // 2 + 64
    for bit in range(BITS):
        frame[:32, 16 * bit : 16 * (bit + 1)] = 255 * (number >> bit & 1)
    return frame


def numbers(frames):
    """The numbers that coded frames show."""
    blocks = frames[:, 8:24].reshape(len(frames), 16, BITS, 16, 3).mean((1, 3, 4)) > 127
    return (blocks @ (1 << np.arange(BITS))).tolist()


def coded_frames(count=COUNT):
    return (coded(number) for number in range(count))


def moving(length=12, height=48, width=64):
    """Noise that shifts sideways, (length, height, width, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, 2 * index, axis=1) for index in range(length)])


def encode(path, codec="libx264", frames=None, options=None, times=None, container_options=None, pix_fmt="yuv420p"):
    """Write frames, at `times` in 25ths of a second if they do not follow one another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = iter(coded_frames() if frames is None else frames)
    first = next(frames)
    with av.open(os.fspath(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else pix_fmt
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(chain([first], frames)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index if times is None else times[index], Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def remux(path, out, is_key):
    """The same compressed frames in another container, marked as key frames where `is_key(place, mark)` says so."""
    with av.open(os.fspath(path)) as source, av.open(os.fspath(out), "w") as container:
        stream = source.streams.video[0]
        copied = container.add_stream_from_template(stream)
        packets = (packet for packet in source.demux(stream) if packet.size)
        for place, packet in enumerate(packets):
            packet.is_keyframe, packet.stream = is_key(place, packet.is_keyframe), copied
            container.mux(packet)
    return out


def filtered(path, out, bitstream_filter):
    """The same compressed frames after one of FFmpeg's bitstream filters, such as one that adds metadata to H.264."""
    with av.open(os.fspath(path)) as source, av.open(os.fspath(out), "w") as container:
        stream = source.streams.video[0]
        copied = container.add_stream_from_template(stream)
        change = av.bitstream.BitStreamFilterContext(bitstream_filter, stream)
        packets = (part if part.size else None for part in source.demux(stream))
        for packet in chain.from_iterable(map(change.filter, packets)):
            packet.stream = copied
            container.mux(packet)
    return out


def set_display_matrix(content, matrix):
    """The bytes of an MP4 whose track is to be shown by (a, b, c, d)."""
    content = bytearray(content)
    start = content.index(b"tkhd") + 44  # (a, b, u, c, d, v, x, y, w), 16.16 fixed point
    a, b, c, d = (round(value * 2**16) for value in matrix)
    content[start : start + 20] = np.array([a, b, 0, c, d], ">i4").tobytes()
    return content


def encode_sound(path):
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


def save_images(folder, frames=None, pattern="{:05d}.jpg", first=1):
    folder.mkdir(parents=True)
    for number, frame in enumerate(coded_frames() if frames is None else frames, start=first):
        Image.fromarray(frame).save(folder / pattern.format(number))
    return folder


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def everything(root):
    """Content and time of change of each file below a folder, by path."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


OPEN_GOP = "open-gop=1:keyint=12:min-keyint=12:scenecut=0:b-adapt=0"
HIDDEN = {"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "5", "b": "2M"}
ENCODED = {
    "h264 long GOP.mp4": ("libx264", {"g": "250", "bf": "3"}),
    "h264 long GOP.mkv": ("libx264", {"g": "24", "bf": "3"}),
    "h264 open GOP.mp4": ("libx264", {"bf": "3", "x264-params": OPEN_GOP}),
    "h264 refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}),
    "h264.avi": ("libx264", {"g": "24", "bf": "0"}),
    "h264 B.avi": ("libx264", {"g": "24", "bf": "3"}),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=24:bframes=3:log-level=none"}),
    "av1.mp4": ("libsvtav1", {"preset": "12", "g": "24", "svtav1-params": "lp=1"}),
    "vp9.webm": ("libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8", "b": "2M"}),
    "vp9 hidden.webm": ("libvpx-vp9", HIDDEN),
    "vp8.webm": ("libvpx", HIDDEN),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "0", "qscale": "3"}),
    "mpeg4 B.avi": ("mpeg4", {"g": "12", "bf": "2", "qscale": "3"}),
    "mpeg4 B.mp4": ("mpeg4", {"g": "12", "bf": "2", "qscale": "3"}),
    "mjpeg.avi": ("mjpeg", {}),
}
LAYOUTS = [*ENCODED, "h264 short GOP.mp4", "h264 intra.mp4", "h264 frames.mp4", "jpeg", "png"]


def encode_layouts(folder):
    """The same coded frames in every layout."""
    for name, (codec, options) in ENCODED.items():
        encode(folder / name, codec, options=options)
    write_video(folder / "h264 short GOP.mp4", coded_frames(), fps=25)
    write_video(folder / "h264 intra.mp4", coded_frames(), fps=25, gop=1)
    write_frames(folder / "h264 frames.mp4", np.stack(list(coded_frames())), fps=25)
    save_images(folder / "jpeg")
    save_images(folder / "png", pattern="img_{:06d}.png", first=0)
    return folder
