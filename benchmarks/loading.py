"""How many clips per second one core loads: ctlib, frame by frame as in 2019, and decoding whole videos.

A clip is 8 frames of a video of 300 (sparse sampling, segment centres), its short side resized to 256 pixels, the
centre 256 x 256 cropped, as normalised float32. The methods take turns on the same synthetic videos; the result is
the median over the rounds.

    python benchmarks/loading.py [--json results.json]
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as pil_transforms

from ctlib.data import encoding, transforms, video
from ctlib.data.sampling import SAMPLINGS
from ctlib.data.transforms import IMAGENET_MEAN, IMAGENET_STD

FRAMES, HEIGHT, WIDTH, FPS = 300, 240, 320, 25
CLIP_FRAMES, SIZE = 8, 256
JPEG_QUALITY = 90
ROUGHNESS = 1.5


# ---------------------------------------------------------------- the videos


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random picture, soft like a frame of a compressed video, in pale colours: (height, width, 3) uint8."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency**ROUGHNESS
    picture = np.fft.irfft2(spectrum, (height, width))
    picture /= picture.std((1, 2), keepdims=True)
    picture = 0.18 * picture[:1] + 0.04 * picture
    return (255 * np.clip(picture + 0.5, 0, 1)).astype(np.uint8).transpose(1, 2, 0)


def synthetic_frames(seed: int) -> Iterator[np.ndarray]:
    """A camera that pans over a texture, three textured squares that move in front of it, and sensor noise."""
    rng = np.random.default_rng(seed)
    background = texture(rng, HEIGHT + 80, WIDTH + 80)
    squares = [texture(rng, 64, 64) for _ in range(3)]
    phases, paces = rng.uniform(0, 2 * np.pi, (4, 2)), rng.uniform(0.01, 0.05, (4, 2))
    for index in range(FRAMES):
        places = (1 + np.sin(phases + paces * index)) / 2
        y, x = (80 * places[0]).astype(int)
        frame = background[y : y + HEIGHT, x : x + WIDTH].copy()
        for square, place in zip(squares, places[1:], strict=True):
            y, x = (place * (HEIGHT - 64, WIDTH - 64)).astype(int)
            frame[y : y + 64, x : x + 64] = square
        yield np.clip(frame + rng.normal(0, 1, frame.shape), 0, 255).astype(np.uint8)


def write_long(path: Path, frames: Iterator[np.ndarray]) -> None:
    """As published videos usually are: x264's defaults, a key frame every 250 frames, B-frames between."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "250", "bf": "3"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_images(folder: Path, frames: Iterator[np.ndarray]) -> None:
    folder.mkdir()
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"img_{number:05d}.jpg", quality=JPEG_QUALITY)


REWRITERS = {
    "short GOP": lambda path, frames: encoding.write_video(path, frames, FPS),
    "intra": lambda path, frames: encoding.write_video(path, frames, FPS, gop=1),
    "JPEG": write_images,
}


def make_videos(folder: Path, count: int) -> dict[str, list[Path]]:
    """`count` videos as published, and the same frames in the layouts used for training."""
    videos = {layout: [] for layout in ("long GOP", *REWRITERS)}
    for seed in range(count):
        published = folder / f"long {seed}.mp4"
        write_long(published, synthetic_frames(seed))
        videos["long GOP"].append(published)
        for layout, write in REWRITERS.items():
            videos[layout].append(folder / f"{layout} {seed}{'' if layout == 'JPEG' else '.mp4'}")
            write(videos[layout][-1], video.iterate_frames(published))
    return videos


def kilobytes(path: Path) -> float:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1000


# ---------------------------------------------------------------- the methods


def indices(num_frames: int) -> np.ndarray:
    return SAMPLINGS["sparse"].test(num_frames, CLIP_FRAMES).ravel()


def decode_clip(path: Path) -> np.ndarray:
    """(8, 240, 320, 3) uint8."""
    return video.read_frames(path, indices)


def ours(path: Path) -> torch.Tensor:
    """(1, 3, 8, 256, 256), as `ClipDataset` in testing."""
    return transforms.test_views(decode_clip(path), SIZE, SIZE, crops=1)


def frame_by_frame(folder: Path) -> torch.Tensor:
    """(24, 256, 256): as in the code released in 2019, each step on each frame."""
    images = [Image.open(folder / f"img_{index + 1:05d}.jpg").convert("RGB") for index in indices(FRAMES)]
    images = [pil_transforms.resize(image, SIZE) for image in images]
    images = [pil_transforms.center_crop(image, SIZE) for image in images]
    stacked = np.concatenate([np.array(image) for image in images], axis=2)
    clip = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
    for channel, mean, std in zip(clip, IMAGENET_MEAN * CLIP_FRAMES, IMAGENET_STD * CLIP_FRAMES, strict=True):
        channel.sub_(mean).div_(std)
    return clip


def decode_whole(path: Path) -> torch.Tensor:
    """(1, 3, 8, 256, 256): all frames to pixels, as in torchvision's `read_video`, then those of the clip."""
    with whole_video(path) as decoded:
        frames = [frame.to_ndarray(format="rgb24") for frame in decoded]
    return transforms.test_views(np.stack([frames[i] for i in indices(len(frames))]), SIZE, SIZE, crops=1)


def decode_whole_few_pixels(path: Path) -> torch.Tensor:
    """The same, with only the frames of the clip converted to pixels."""
    with whole_video(path) as decoded:
        frames = list(decoded)
        kept = [frames[i].to_ndarray(format="rgb24") for i in indices(len(frames))]
    return transforms.test_views(np.stack(kept), SIZE, SIZE, crops=1)


@contextmanager
def whole_video(path: Path) -> Iterator[Iterator[av.VideoFrame]]:
    with av.open(os.fspath(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        yield container.decode(video=0)


def check_same(made: dict[str, list[Path]]) -> None:
    """All methods give the same clip, up to resizing and compression."""
    reference = ours(made["JPEG"][0])
    stacked = frame_by_frame(made["JPEG"][0]).reshape(CLIP_FRAMES, 3, SIZE, SIZE).transpose(0, 1)
    videos = [made[layout][0] for layout in made if layout != "JPEG"]
    clips = [stacked[None], *(way(path) for way in (ours, decode_whole, decode_whole_few_pixels) for path in videos)]
    for clip in clips:
        difference = (clip - reference).abs().mean().item()
        if difference > 0.1:
            raise AssertionError(f"two methods give different clips: mean difference {difference:.2f}")


# ---------------------------------------------------------------- the measurement


def clips_per_second(way: Callable[[Path], object], paths: list[Path]) -> float:
    """Per second of processor time, which other programs on the machine disturb little."""
    start = time.process_time()
    for path in paths:
        way(path)
    return len(paths) / (time.process_time() - start)


Name = tuple[str, str]  # layout, way


def in_turn(ways: dict[Name, tuple[Callable, list[Path]]], rounds: int) -> dict[Name, list[float]]:
    """Clips per second of each method in each round, after a first round that warms up files and code."""
    measured = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, (way, paths) in ways.items():
            speed = clips_per_second(way, paths)
            if turn:
                measured[name].append(speed)
    return measured


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=6, help="videos in each layout")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the record there")
    options = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        made = make_videos(Path(folder), options.videos)
        check_same(made)
        ways = {("JPEG", "frame by frame"): (frame_by_frame, made["JPEG"])}
        ways |= {(layout, "ours"): (ours, paths) for layout, paths in made.items()}
        for name, way in (("whole video", decode_whole), ("whole, 8 to pixels", decode_whole_few_pixels)):
            ways |= {(layout, name): (way, paths) for layout, paths in made.items() if layout != "JPEG"}
        # Each step includes those before it.
        steps = {(layout, "open and list"): (video.count_frames, paths) for layout, paths in made.items()}
        steps |= {(layout, "and decode"): (decode_clip, paths) for layout, paths in made.items()}
        measured = in_turn(ways | steps, options.rounds)
        sizes = {layout: statistics.mean(map(kilobytes, paths)) for layout, paths in made.items()}

    medians = {name: statistics.median(speeds) for name, speeds in measured.items()}
    protocol = {
        "clip": f"{CLIP_FRAMES} of {FRAMES} frames of {WIDTH} x {HEIGHT}, to float32 {SIZE} x {SIZE}",
        "videos": f"{options.videos} synthetic, {FPS} frames per second; kB each: "
        + ", ".join(f"{layout} {size:.0f}" for layout, size in sizes.items()),
        "measured": f"clips per second of processor time, {options.rounds} rounds in turn, one thread, files in memory",
        "machine": f"{processor()}, {platform.system()} {platform.machine()}",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "av", "pillow", "numpy")),
    }
    print(report(protocol, medians, measured, list(made)))
    if options.json:
        speeds = [{"layout": layout, "way": way, "rounds": measured[layout, way]} for layout, way in ways]
        options.json.write_text(json.dumps({"protocol": protocol, "clips_a_second": speeds}, indent=1) + "\n")


def report(protocol: dict, medians: dict, measured: dict, layouts: list[str]) -> str:
    lines = [f"{name + ':':<10}{text}" for name, text in protocol.items()]
    jpeg = medians["JPEG", "frame by frame"]
    lines += ["", f"{'clips per second':<32}{'median':>8}{'lowest':>8}{'highest':>8}{'ours is':>12}{'times':>8}"]

    def row(layout: str, way: str, against: str = "", ratio: float | None = None) -> str:
        speeds = measured[layout, way]
        times = "" if ratio is None else f"{ratio:.1f}"
        name = f"{layout}, {way}"
        return f"{name:<32}{medians[layout, way]:8.1f}{min(speeds):8.1f}{max(speeds):8.1f}{against:>12}{times:>8}"

    lines.append(row("JPEG", "frame by frame"))
    for layout in layouts:
        speed = medians[layout, "ours"]
        lines.append(row(layout, "ours", "(a)", speed / jpeg))
        for way, name in (("whole video", "(b)"), ("whole, 8 to pixels", "(c)")):
            if layout != "JPEG":
                lines.append(row(layout, way, name, speed / medians[layout, way]))
    lines += ["ours against (a) frame by frame on JPEG files, (b) and (c) the whole of the same video", ""]

    lines.append(f"{'ours, ms per clip':<19}{'open and list':>16}{'decode':>10}{'transform':>12}{'in all':>10}")
    for layout in layouts:
        opened, read, done = (1000 / medians[layout, step] for step in ("open and list", "and decode", "ours"))
        lines.append(f"{layout:<19}{opened:16.1f}{read - opened:10.1f}{done - read:12.1f}{done:10.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
