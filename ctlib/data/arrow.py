"""Arrow of Time, the built-in data set: actions in pairs, the second the first played backwards.

The two classes of a pair share every single frame; only the order of the frames tells them apart. A network that
averages frame scores, such as TSN, cannot pass 50 %: anything above is temporal modelling.

Synthetic data, not a benchmark: textured shapes on textured backgrounds, random in position, size, speed, phase and
orientation. They are written as real video files, with a training and a validation list.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ctlib import files
from ctlib.config import ArrowConfig
from ctlib.data import actions, drawing
from ctlib.data.encoding import write_frames

VERSION = 3  # of the drawing: other pixels are another data set
MARGIN = 1.3  # the background is wider than the picture, since the camera shakes


class Rendered(NamedTuple):
    """A clip as drawn, before encoding."""

    frames: np.ndarray  # uint8 (n, H, W, 3)
    mask: np.ndarray  # bool (n, H, W), where the acting object is


def _progress(rng, n: int, difficulty: float) -> np.ndarray:
    """Progress of the action, (n,) from 0 to 1: still before and after it, smooth in between."""
    still = 0.15 + 0.25 * difficulty
    start, end = rng.uniform(0, still), 1 - rng.uniform(0, still)
    s = np.clip((np.linspace(0, 1, n) - start) / (end - start), 0, 1)
    ease = rng.uniform(0, 1)
    return (1 - ease) * s + ease * s * s * (3 - 2 * s)


def plainness(config: ArrowConfig, split: str, pair: int) -> float:
    """How plain the action of a pair is: 1 as plain as can be, near 0 it can hardly be seen.

    Training clips are plain enough to learn from. Test clips go down to what can hardly be seen: by their action's
    power (`actions.Action`), so that a network which learned an action is still not right in all of its clips.
    """
    return _plainness(config, split, pair, _generator(config, split, pair))


def _generator(config: ArrowConfig, split: str, pair: int) -> np.random.Generator:
    return np.random.default_rng([VERSION, config.seed, ("train", "val").index(split), pair])


def _plainness(config: ArrowConfig, split: str, pair: int, rng: np.random.Generator) -> float:
    plain = rng.uniform(max(0.0, 1 - 3 * config.difficulty), 1.0)
    return plain ** _action(config, pair).power if split == "val" else plain


def _action(config: ArrowConfig, pair: int) -> actions.Action:
    chosen = actions.choose(config.actions)
    return chosen[pair % len(chosen)]


class _Scene(NamedTuple):
    """The random choices of a pair, except the noise, which `rng` gives next."""

    background: torch.Tensor  # (4, wide, wide)
    shake: np.ndarray  # (n, 2)
    layers: list[tuple[torch.Tensor, np.ndarray, float, bool]]  # sprite, poses, radius, whether it acts; back to front
    progress: np.ndarray  # (n,), of the action
    rng: np.random.Generator


def _scene(config: ArrowConfig, split: str, pair: int) -> _Scene:
    rng = _generator(config, split, pair)
    plain = _plainness(config, split, pair, rng)
    n, size, hard = config.num_frames, config.size, config.difficulty
    wide = int(size * MARGIN)
    background = drawing.background(rng, wide, 0.2 + 0.4 * hard)
    shake = drawing.drift(rng, n, 0.05 * hard)

    layers = []
    for _ in range(rng.binomial(4, hard)):
        where = drawing.pose(np.zeros(n), *rng.uniform(-0.45, 0.45, 2), angle=rng.uniform(0, 2 * math.pi))
        where[:, :2] += shake + drawing.drift(rng, n, 0.1 * hard)
        layers.append((drawing.sprite(rng, 24), where, rng.uniform(0.04, 0.08), False))
    radius = rng.uniform(0.16, 0.22)
    progress = _progress(rng, n, hard)
    drifting = shake + drawing.drift(rng, n, 0.02 * hard)  # all objects of an action alike
    for poses in _action(config, pair).poses(progress, rng, plain):
        poses[:, :2] += drifting
        layers.append((drawing.sprite(rng, 32), poses, radius, True))
    return _Scene(background, shake, layers, progress, rng)


def _painted(scene: _Scene, size: int, layers: list | None = None) -> torch.Tensor:
    """The scene without noise, with all layers or those given: (n, 3, size, size), 0 to 1."""
    poses = drawing.pose(np.zeros(len(scene.shake))) + np.pad(scene.shake, ((0, 0), (0, 4)))
    picture, _ = drawing.layer(scene.background, poses, 0.4 * MARGIN, size)
    for sprite, poses, radius, _ in scene.layers if layers is None else layers:
        colour, coverage = drawing.layer(sprite, poses, radius, size)
        picture = picture + coverage * (colour - picture)
    return picture


def _mask(scene: _Scene, size: int) -> np.ndarray:
    """Where the acting objects are, bool (n, size, size)."""
    mask = torch.zeros(len(scene.shake), 1, size, size, dtype=torch.bool)
    for sprite, poses, radius, acting in scene.layers:
        if acting:
            mask |= drawing.layer(sprite, poses, radius, size)[1] > 0.25
    return mask[:, 0].numpy()


def render(config: ArrowConfig, split: str, pair: int) -> Rendered:
    """Draw the forward clip of a pair, deterministic in (seed, split, pair). The actions take turns."""
    scene = _scene(config, split, pair)
    n, size = config.num_frames, config.size
    noise = torch.from_numpy(scene.rng.standard_normal((n, 1, size, size), dtype=np.float32))
    picture = 255 * _painted(scene, size) + 6 * config.difficulty * noise
    picture = picture.round().clamp(0, 255).to(torch.uint8)
    return Rendered(picture.permute(0, 2, 3, 1).contiguous().numpy(), _mask(scene, size))


class Truth(NamedTuple):
    """The ground truth of a video."""

    mask: np.ndarray  # bool (n, H, W), where the acting object is (with two, either)
    acting: np.ndarray  # bool (n,), the frames during the action


def truth(root: str | Path, source: str | Path) -> Truth:
    """Where the object is in each frame of a written video, and when it acts; drawn again, not measured.

    An object that is less than a quarter opaque ("Something appearing") is in no mask.

    Args:
        root: the folder that `write` made.
        source: a path that ends like its videos, such as "val/000003_backward.mp4".

    Raises:
        ValueError: `source` has another name, or `root` holds another version of the data set.
        FileNotFoundError: `root` is not an Arrow of Time data set.
    """
    stamp = Path(root) / "arrow.json"
    if not stamp.is_file():
        raise FileNotFoundError(f"{root} is not an Arrow of Time data set: it has no {stamp.name}")
    values = files.read_json(stamp, ("version",))
    version = values.pop("version")
    if version != VERSION:
        raise ValueError(f"{root} holds version {version} of Arrow of Time, this ctlib draws version {VERSION}")
    name = re.search(r"(train|val)/(\d{6})_(forward|backward)\.mp4$", Path(source).as_posix())
    if not name:
        raise ValueError(f"needed a video of Arrow of Time, such as val/000003_backward.mp4, got {source}")
    split, pair, direction = name.groups()
    try:
        config = ArrowConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{stamp} is damaged: {error}") from None
    scene = _scene(config, split, int(pair))
    mask, acting = _mask(scene, config.size), (scene.progress > 0) & (scene.progress < 1)
    return Truth(mask[::-1], acting[::-1]) if direction == "backward" else Truth(mask, acting)


# ---------------------------------------------------------------- files


class _PairWriter(Dataset):
    """Item i draws pair i of a split and writes its two videos: their lines of the list, or why it could not."""

    def __init__(self, config: ArrowConfig, split: str, pairs: int, folder: Path):
        self.config, self.split, self.pairs, self.folder = config, split, pairs, folder
        self.actions = len(actions.choose(config.actions))

    def __len__(self) -> int:
        return self.pairs

    def __getitem__(self, pair: int) -> list[str] | OSError:
        frames = render(self.config, self.split, pair).frames
        lines = []
        for backward, (direction, shown) in enumerate({"forward": frames, "backward": frames[::-1]}.items()):
            name = f"{self.split}/{pair:06d}_{direction}.mp4"
            try:
                write_frames(self.folder / name, shown)
            except OSError as error:  # the disk is full, say; raised here, it would be the traceback of a worker
                return OSError(error.errno, os.strerror(error.errno or 0), str(self.folder / name))
            lines.append(f"{name} {len(shown)} {2 * (pair % self.actions) + backward}\n")
        return lines


def pair_of(source: str) -> str:
    """The part of the file name that the two clips of a mirrored pair share."""
    return Path(source).stem.rsplit("_", 1)[0]


def write(
    config: ArrowConfig,
    root: str | Path,
    workers: int | None = None,
    on_clips: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the data set: videos, `classes.txt`, `train.txt`, `val.txt` and `arrow.json`.

    It is written beside `root` and renamed: `root` holds a whole data set or does not exist.

    Args:
        root: the folder to make; must not exist.
        workers: processes that draw and encode; None: one for each core that this process may use. Files are the same.
        on_clips: called with the number of clips written and of all.

    Raises:
        FileExistsError: `root` exists.
        OSError: it cannot be written; the disk is full, say.
    """
    root = Path(root)
    workers = _cores() if workers is None else workers
    with files.whole_folder(root) as partial:
        done, total = 0, config.train_clips + config.val_clips
        for split, clips in (("train", config.train_clips), ("val", config.val_clips)):
            (partial / split).mkdir()
            writer = _PairWriter(config, split, clips // 2, partial)
            with open(partial / f"{split}.txt", "w", encoding="utf-8") as lines:
                for pair_lines in DataLoader(writer, batch_size=None, num_workers=min(workers, len(writer))):
                    if isinstance(pair_lines, OSError):
                        raise pair_lines
                    lines.writelines(pair_lines)
                    done += len(pair_lines)
                    if on_clips is not None:
                        on_clips(done, total)
        files.write_text(partial / "classes.txt", "\n".join(actions.class_names(config.actions)) + "\n")
        files.write_json(partial / "arrow.json", _stamp(config))
    return root


def folder_of(config: ArrowConfig) -> Path:
    """Where this data set lies in `files.cache_dir`, or will lie: each configuration has a folder of its own."""
    digest = hashlib.sha256(json.dumps(_stamp(config), sort_keys=True).encode()).hexdigest()[:10]
    return files.cache_dir() / f"arrow-{digest}"


def ensure(config: ArrowConfig, on_clips: Callable[[int, int], None] | None = None) -> Path:
    """The folder of this data set in the cache, written now if it does not exist.

    Of several processes that call this at once, one writes and the others wait for it.
    """
    root = folder_of(config)
    if not root.exists():
        files.remove_abandoned(root.parent, "arrow-*")
        try:
            write(config, root, on_clips=on_clips)
        except FileExistsError:
            if not root.exists():
                raise
    return root


def _cores() -> int:
    """The cores that this process may use, which a cluster may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stamp(config: ArrowConfig) -> dict:
    return {"version": VERSION, **config.to_dict()}
