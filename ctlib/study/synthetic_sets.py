"""Two small synthetic data sets, laid out as UCF101 and HMDB51 are published, with three splits each.

*ucf101* has coloured shapes that move, *hmdb51* stick figures that act. They are video files on which to try, without a
download, what is meant for these two. They are no benchmark.
"""

import colorsys
import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ctlib import files
from ctlib.config import Config, at_least, check_choice

VERSION = 1  # of the pictures: a change of them makes another data set
FOLDS = (1, 2, 3)
HEIGHT, WIDTH = 48, 64  # pixels: UCF101's 240 x 320, divided by 5


@dataclass(frozen=True)
class SyntheticConfig(Config):
    """How large a synthetic data set is; equal values give equal files.

    A group is a scene, as in UCF101: a background, colours, and a shape or a figure that acts out all classes. No group
    is on both sides of a split, and each split tests other groups.
    """

    groups: int = at_least(4, 25)  # per class; each split tests a third of them
    clips: int = at_least(1, 1)  # videos per group
    num_frames: int = at_least(8, 24)  # per video
    seed: int = at_least(0, 0)

    def tests(self, fold: int) -> range:
        """The groups that a split tests, counted from 1."""
        count = (self.groups - 1) // 3
        return range(1 + count * (fold - 1), 1 + count * fold)


# The actions.
#
# An action turns t, (n,) float and 1 per repetition, into poses. Lengths are in heights of the picture, with its centre
# at 0 and y downwards; angles in radians. Played backwards or mirrored, each is the same action.

_TURN = 2 * math.pi

# Of a shape: x, y, scale, angle.
SHAPE_ACTIONS: dict[str, Callable] = {
    "Bouncing": lambda t: (0, 0.2 - 0.4 * np.abs(np.sin(math.pi * t)), 1, 0),
    "Circling": lambda t: (0.2 * np.cos(_TURN * t), 0.2 * np.sin(_TURN * t), 1, 0),
    "Pulsing": lambda t: (0, 0, 1 + 0.35 * np.sin(_TURN * t), 0),
    "Shaking": lambda t: (0.1 * np.sin(2.5 * _TURN * t), 0, 1, 0),
    "Spinning": lambda t: (0, 0, 1, _TURN * t),
    "Swinging": lambda t: _swing(0.9 * np.sin(_TURN * t)),
}


def _swing(angle):
    return 0.35 * np.sin(angle), 0.35 * np.cos(angle) - 0.3, 1, -angle


# Of a figure, as differences from standing still: lengths x and lift, angles of the whole figure (turn), its
# torso (lean), both upper arms (arms), one arm and its forearm alone, both legs (stride) and one alone (leg).
FIGURE_ACTIONS: dict[str, Callable] = {
    "bow": lambda t: {"lean": 0.65 * (1 - np.cos(_TURN * t))},
    "cartwheel": lambda t: {"turn": _TURN * t, "arms": 1.6 + 0 * t, "stride": 0.5 + 0 * t},
    "jump": lambda t: {"lift": 0.16 * np.abs(np.sin(math.pi * t)), "arms": 1.2 * np.abs(np.sin(math.pi * t))},
    "kick": lambda t: {"leg": 0.75 * (1 - np.cos(_TURN * t)), "arms": 0.4 + 0 * t},
    "walk": lambda t: {"x": 0.25 * np.sin(_TURN * t / 2), "stride": 0.5 * np.abs(np.sin(_TURN * t))},
    "wave": lambda t: {"arm": 1.8 + 0 * t, "forearm": 1.1 * np.sin(_TURN * t) + 0.4},
}
ACTIONS = {"ucf101": SHAPE_ACTIONS, "hmdb51": FIGURE_ACTIONS}


# Drawing.


class _Scene:
    """What the videos of a group share: the background, and who acts before it."""

    def __init__(self, rng: np.random.Generator):
        hue, value = rng.uniform(), rng.uniform(0.25, 0.85)
        self.colour = _rgb(hue, rng.uniform(0.4, 1), (value + 0.5) % 1)
        self.background = _pattern(rng, _rgb(rng.uniform(), rng.uniform(0, 0.5), value))
        self.corners, self.depth = int(rng.integers(2, 5)), rng.uniform(0.45, 0.7)
        self.size, self.thickness = rng.uniform(0.9, 1.15), rng.uniform(1, 1.4)
        self.beside = rng.uniform(-0.12, 0.12, 2) * (1, 0.5)


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))


def _pattern(rng, colour: tuple[int, ...]) -> Image.Image:
    """Stripes or checks of two shades, twice as large as a frame."""
    y, x = np.mgrid[: 2 * HEIGHT, : 2 * WIDTH]
    angle, step = rng.uniform(0, math.pi), rng.uniform(8, 26)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    field = np.sign(np.sin(_TURN * along / step))
    if rng.random() < 0.5:
        field *= np.sign(np.sin(_TURN * across / step))
    shades = np.array(colour) * (1 - 0.12 * (1 + field[..., None]) / 2)
    return Image.fromarray(shades.astype(np.uint8))


def _points(points: np.ndarray) -> list[tuple[float, float]]:
    """Points (k, 2) in heights from the centre to pixels of a picture of twice the size."""
    return [tuple(point) for point in (points * 2 * HEIGHT + (WIDTH, HEIGHT)).tolist()]


def _draw_shape(draw: ImageDraw.ImageDraw, scene: _Scene, place, x, y, scale, angle) -> None:
    angles = angle + math.pi * np.arange(2 * scene.corners) / scene.corners
    radii = 0.19 * scene.size * scale * np.where(np.arange(2 * scene.corners) % 2, scene.depth, 1)
    outline = np.stack([x + radii * np.sin(angles), y - radii * np.cos(angles)], axis=1)
    draw.polygon(_points(outline + place), fill=scene.colour)


def _limb(start: np.ndarray, length: float, angle: float) -> np.ndarray:
    """The end of a limb; an angle of 0 hangs down, and grows away from the body to the right."""
    return start + length * np.array([math.sin(angle), math.cos(angle)])


def _draw_figure(
    draw, scene: _Scene, place, x=0.0, lift=0.0, turn=0.0, lean=0.0, arms=0.0, arm=0.0, forearm=0.0, stride=0.0, leg=0.0
) -> None:
    hip = place + np.array([x, 0.08 - lift])
    neck = _limb(hip, 0.24 * scene.size, math.pi + turn + lean)
    lines = [[hip, neck]]
    for side, one in ((-1, 0), (1, 1)):
        upper = turn + side * (0.35 + arms + one * arm)
        elbow = _limb(neck, 0.14, upper)
        lines.append([neck, elbow, _limb(elbow, 0.14, upper + side * one * forearm)])
        lines.append([hip, _limb(hip, 0.3, turn + side * (0.15 + stride + one * leg))])
    for line in lines:
        draw.line(_points(np.array(line)), fill=scene.colour, width=round(7 * scene.thickness), joint="curve")
    head = _limb(neck, 0.09, math.pi + turn + lean)
    draw.ellipse([*_points(head[None] - 0.07)[0], *_points(head[None] + 0.07)[0]], fill=scene.colour)


def render(data: str, action: str, group: int, clip: int, config: SyntheticConfig = SyntheticConfig()) -> np.ndarray:
    """Draw a video: uint8 (n, 48, 64, 3), the same for the same arguments.

    Raises:
        ValueError: an unknown data set or action.
    """
    check_choice("synthetic data set", data, ACTIONS)
    check_choice(f"action of {data}", action, ACTIONS[data])
    key = [VERSION, config.seed, list(ACTIONS).index(data), group]
    scene = _Scene(np.random.default_rng(key))
    rng = np.random.default_rng([*key, clip, list(ACTIONS[data]).index(action)])
    t = rng.uniform() + rng.choice((-1, 1)) * np.linspace(0, rng.uniform(1.2, 2.2), config.num_frames)
    place, mirrored = scene.beside + rng.uniform(-0.04, 0.04, 2), rng.random() < 0.5
    poses, frames = ACTIONS[data][action](t), []
    for index in range(config.num_frames):
        picture = scene.background.copy()
        draw = ImageDraw.Draw(picture)
        if data == "ucf101":
            _draw_shape(draw, scene, place, *(np.broadcast_to(part, t.shape)[index] for part in poses))
        else:
            _draw_figure(draw, scene, place, **{part: values[index] for part, values in poses.items()})
        frames.append(np.asarray(picture.reduce(2)))
    frames = np.stack(frames).astype(np.int16) + rng.integers(-6, 7, (config.num_frames, HEIGHT, WIDTH, 1))
    return np.clip(frames[:, :, ::-1] if mirrored else frames, 0, 255).astype(np.uint8)


# Files.


def write(
    data: str,
    root: str | Path,
    config: SyntheticConfig = SyntheticConfig(),
    on_videos: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a synthetic data set in its publisher's layout: AVI files in class folders, and lists of three splits.

    It is written beside `root` and renamed, so `root` holds a whole data set or nothing. An existing `root` stays as it
    is.

    Args:
        data: "ucf101" or "hmdb51", whose layout it is.
        on_videos: called with how many videos are written and how many there will be.

    Raises:
        ValueError: an unknown data set, or `root` is something else than this data set.
    """
    check_choice("synthetic data set", data, ACTIONS)
    root, stamp = Path(root), {"synthetic": data, "version": VERSION, **config.to_dict()}
    if root.exists():
        stamped = root / "synthetic.json"
        if not stamped.is_file() or files.read_json(stamped) != stamp:
            raise ValueError(f"{root} exists and is not this synthetic data set: delete it, or choose another folder")
        return root
    with files.whole_folder(root) as partial:
        videos = _LAYOUTS[data](partial, config)
        for done, (path, action, group, clip) in enumerate(videos, start=1):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_avi(path, render(data, action, group, clip, config))
            if on_videos is not None:
                on_videos(done, len(videos))
        files.write_json(partial / "synthetic.json", stamp)
    return root


def _all_videos(config: SyntheticConfig) -> list[tuple[int, int]]:
    """(group, clip) of a class's videos, both counted from 1."""
    return list(itertools.product(range(1, config.groups + 1), range(1, config.clips + 1)))


def _write_ucf101(root: Path, config: SyntheticConfig) -> list[tuple]:
    """Write the lists. Groups that no split tests are always trained on, as UCF101's last ones are."""
    folder = root / "ucfTrainTestlist"
    folder.mkdir()
    listed = [
        (f"{action}/v_{action}_g{group:02d}_c{clip:02d}.avi", number, action, group, clip)
        for number, action in enumerate(SHAPE_ACTIONS, start=1)
        for group, clip in _all_videos(config)
    ]
    (folder / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(SHAPE_ACTIONS, start=1)))
    for fold in FOLDS:
        tests = config.tests(fold)
        train = [f"{path} {number}\n" for path, number, _, group, _ in listed if group not in tests]
        test = [f"{path}\n" for path, _, _, group, _ in listed if group in tests]
        (folder / f"trainlist{fold:02d}.txt").write_text("".join(train))
        (folder / f"testlist{fold:02d}.txt").write_text("".join(test))
    return [(root / "UCF-101" / path, *key) for path, _, *key in listed]


def _write_hmdb51(root: Path, config: SyntheticConfig) -> list[tuple]:
    """Write the lists. No split uses the last group, as some of HMDB51's videos are in none."""
    folder, videos = root / "testTrainMulti_7030_splits", []
    folder.mkdir()
    for action in FIGURE_ACTIONS:
        names = {(group, clip): f"made_g{group:02d}_{action}_{clip}.avi" for group, clip in _all_videos(config)}
        videos += [(root / "hmdb51_org" / action / name, action, *key) for key, name in names.items()]
        for fold in FOLDS:
            uses = {key: 0 if key[0] == config.groups else 2 if key[0] in config.tests(fold) else 1 for key in names}
            text = "".join(f"{name} {uses[key]} \n" for key, name in names.items())
            (folder / f"{action}_test_split{fold}.txt").write_text(text)
    return videos


_LAYOUTS = {"ucf101": _write_ucf101, "hmdb51": _write_hmdb51}


def _write_avi(path: Path, frames: np.ndarray) -> None:
    """MPEG-4 in AVI, as UCF101 and HMDB51 have them."""
    import av

    with av.open(f"file:{os.fspath(path)}", "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "12", "bf": "0", "qmin": "3", "qmax": "3"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
