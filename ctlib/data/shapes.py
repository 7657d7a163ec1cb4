"""Still Shapes: single pictures of one or two shapes, and the answers to questions about them.

What small backbones are pretrained on, as the paper's are on ImageNet (`training.pretrain`). Pictures are drawn with
the code of Arrow of Time (`drawing`), and nothing moves. Shapes and backgrounds are drawn once into a pool. A batch of
pictures is composed of them in a few calls: new places, sizes, angles and opacities each time.

Seeds begin with a number of their own, so no shape and no background is one of Arrow of Time's.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from ctlib.data import drawing
from ctlib.data.transforms import IMAGENET_MEAN, IMAGENET_STD

SEED = 1_000_001  # the first number of every seed here; Arrow of Time's begin with its version
SPLITS = ("train", "test")  # pools of other shapes and backgrounds

# The questions and their possible answers. Those from "hue" to "opacity" are about a lone object; the others, except
# "objects", are about two.
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
QUESTIONS: dict[str, tuple[str, ...]] = {
    "objects": ("one", "two"),
    "hue": HUES,
    "across": ("far left", "left", "centre", "right", "far right"),
    "down": ("top", "high", "centre", "low", "bottom"),
    "size": ("tiny", "small", "medium", "large"),
    "stretch": ("none", "some", "much"),
    "angle": ("round", "0", "30", "60", "90", "120", "150"),  # of the long axis, degrees clockwise from the right
    "opacity": ("faint", "half", "full"),
    "gap": ("overlapping", "close", "apart", "far"),
    "line": ("0", "45", "90", "135"),  # of the line through both, degrees clockwise
    "front": HUES,  # of the object in front, of two that overlap
}
UNANSWERED = -1  # the label of a question that a picture has no answer to


class Pool(NamedTuple):
    """Drawn shapes and backgrounds."""

    shapes: torch.Tensor  # (shapes, 4, 32, 32)
    hues: np.ndarray  # (shapes,), 0 to 1
    spread: np.ndarray  # (shapes, 2, 2), the covariance of the points of each shape, in its own lengths
    backgrounds: torch.Tensor  # (backgrounds, 4, wide, wide)


MARGIN = 1.3  # a background is wider than the picture, which shows a part of it
DISTRACTORS = 3  # at most, on a background


def make_pool(seed: int, split: str, shapes: int = 2400, backgrounds: int = 800, size: int = 64) -> Pool:
    """Draw the shapes, and the backgrounds with their distractors for pictures of about `size` pixels."""
    rng = np.random.default_rng([SEED, seed, SPLITS.index(split)])
    looks = [drawing.random_look(rng) for _ in range(shapes)]
    drawn = torch.stack([drawing.sprite(rng, 32, look) for look in looks])
    wide = int(size * MARGIN)
    behind = torch.stack([drawing.background(rng, wide, rng.uniform(0.2, 0.6)) for _ in range(backgrounds)])
    shown = rng.integers(DISTRACTORS + 1, size=backgrounds)
    for index in range(DISTRACTORS):
        place, angle = rng.uniform(-0.5, 0.5, (2, backgrounds)), rng.uniform(0, 2 * math.pi, backgrounds)
        poses = drawing.pose(shown, *place, angle=angle, opacity=index < shown)
        small = rng.uniform(0.03, 0.07, backgrounds) / MARGIN
        behind[:, :3] = _over(behind[:, :3], drawn[rng.integers(shapes, size=backgrounds)], poses, small)
    return Pool(drawn, np.array([look.hue for look in looks]), _spread(drawn[:, 3].numpy()), behind)


def _spread(coverage: np.ndarray) -> np.ndarray:
    """The covariances of points that are weighted by coverage: (n, size, size) -> (n, 2, 2)."""
    axis = np.linspace(-1.25, 1.25, coverage.shape[-1])
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    weight = coverage.reshape(len(coverage), -1) / coverage.sum((1, 2))[:, None]
    centred = points - (weight @ points)[:, None]
    return np.einsum("np,npi,npj->nij", weight, centred, centred)


ROOM = 0.4  # centres of objects lie within this of the picture's, across and down


class Scenes(NamedTuple):
    """What is in each of n pictures; lengths as in `drawing`."""

    shape: np.ndarray  # (2, n), indices into the pool, of the first object and of the second, which is in front
    pose: np.ndarray  # (2, n, 6), as from `drawing.pose`; opacity 0: there is no second object
    radius: np.ndarray  # (2, n)

    @property
    def two(self) -> np.ndarray:
        return self.pose[1, :, 5] > 0


def random_scenes(pool: Pool, rng: np.random.Generator, count: int) -> Scenes:
    """Draw what is in the pictures."""
    two = rng.uniform(size=count) < 0.35
    shape = rng.integers(len(pool.shapes), size=(2, count))
    radius = np.exp(rng.uniform(*np.log(SIZES[[0, -1]]), (2, count)))
    # As wide as `stretch` is narrow, so that the area says the size and not how far it is stretched.
    stretch = np.exp(rng.uniform(0, math.log(STRETCHES[-1]), (2, count)) * (rng.uniform(size=(2, count)) < 0.7))
    angle = rng.uniform(0, 2 * math.pi, (2, count))
    centre = rng.uniform(-ROOM, ROOM, (2, 2, count))
    # Of two objects, the second lies at a random distance and in a random direction of the first; they are smaller.
    radius[:, two] = np.minimum(radius[:, two], SIZES[-2])
    middle, distance, direction = 0.5 * centre[0], rng.uniform(0.05, 0.6, count), rng.uniform(0, 2 * math.pi, count)
    half = distance / 2 * np.stack([np.cos(direction), np.sin(direction)])
    centre[0], centre[1] = np.where(two, middle - half, centre[0]), middle + half
    opacity = rng.uniform(OPACITIES[0], OPACITIES[-1], (2, count))
    opacity[0] = np.where(two | (rng.uniform(size=count) < 0.5), 1.0, opacity[0])
    opacity[1] = two
    wide, narrow = stretch**0.5, stretch**-0.5
    pose = np.stack([drawing.pose(angle[i], *centre[i], wide[i], narrow[i], angle[i], opacity[i]) for i in (0, 1)])
    return Scenes(shape, pose, radius)


# Edges between answers, with the least and the largest value of what is drawn.
SIZES = np.array([0.12, 0.16, 0.21, 0.275, 0.36])
STRETCHES = np.array([1.0, 1.4, 2.2, 3.5])
OPACITIES = np.array([0.25, 0.5, 0.75, 1.0])
PLACES = np.linspace(-ROOM, ROOM, 6)
GAPS = np.array([0.0, 0.08, 0.2])  # between the rims of two objects


def answers(scenes: Scenes, pool: Pool) -> np.ndarray:
    """The label of each question, int64 (n, questions); `UNANSWERED` where the scene has no answer."""
    (x, y, wide, narrow, angle, opacity), second = scenes.pose[0].T, scenes.pose[1].T
    hue = _sector(2 * math.pi * pool.hues[scenes.shape], len(HUES))
    # A shape of two lobes is longer than wide before it is stretched.
    turned = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    turned = turned * np.stack([wide, narrow], -1)[:, None]
    spread = turned @ pool.spread[scenes.shape[0]] @ turned.transpose(0, 2, 1)
    across, down, both = spread[:, 0, 0], spread[:, 1, 1], spread[:, 0, 1]
    shortest, longest = np.linalg.eigvalsh(spread).T
    stretch = np.sqrt(longest / shortest)
    dx, dy = second[0] - x, second[1] - y
    gap = np.hypot(dx, dy) - scenes.radius.sum(0)
    lone = {
        "hue": hue[0],
        "across": _between(x, PLACES[1:-1]),
        "down": _between(y, PLACES[1:-1]),
        "size": _between(scenes.radius[0], SIZES[1:-1]),
        "stretch": _between(stretch, STRETCHES[1:-1]),
        "angle": np.where(stretch < STRETCHES[1], 0, 1 + _sector(np.arctan2(2 * both, across - down), 6)),
        "opacity": _between(opacity, OPACITIES[1:-1]),
    }
    pair = {
        "gap": _between(gap, GAPS),
        "line": _sector(2 * np.arctan2(dy, dx), 4),
        "front": np.where(gap < GAPS[0], hue[1], UNANSWERED),
    }
    labels = {"objects": scenes.two.astype(int)}
    labels |= {name: np.where(scenes.two, UNANSWERED, label) for name, label in lone.items()}
    labels |= {name: np.where(scenes.two, label, UNANSWERED) for name, label in pair.items()}
    return np.stack([labels[name] for name in QUESTIONS], axis=1).astype(np.int64)


def _between(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.searchsorted(edges, values, side="right")


def _sector(angle: np.ndarray, sectors: int) -> np.ndarray:
    """Which of the sectors of a circle an angle lies in; the first is centred on 0."""
    return np.round(angle / (2 * math.pi) * sectors).astype(int) % sectors


def paint(scenes: Scenes, pool: Pool, rng: np.random.Generator, size: int) -> torch.Tensor:
    """Draw the scenes on random backgrounds, with noise: (n, 3, size, size), 0 to 1."""
    count, hidden = scenes.shape.shape[1], (MARGIN - 1) / 2
    # Turned by a multiple of 90 degrees or mirrored, a background is another one.
    turn, mirrored = rng.integers(4, size=count) * math.pi / 2, rng.choice([-1.0, 1.0], count)
    shown = drawing.pose(turn, *rng.uniform(-hidden, hidden, (2, count)), mirrored, 1.0, turn)
    backgrounds = pool.backgrounds[rng.integers(len(pool.backgrounds), size=count)]
    picture, _ = drawing.layer(backgrounds, shown, 0.4 * MARGIN, size)
    first, second = (pool.shapes[indices] for indices in scenes.shape)
    two = scenes.two
    picture = _over(picture, first, scenes.pose[0], scenes.radius[0])
    if two.any():
        picture[two] = _over(picture[two], second[two], scenes.pose[1, two], scenes.radius[1, two])
    noise = torch.from_numpy(rng.standard_normal((count, 1, size, size), dtype=np.float32))
    strength = torch.from_numpy(rng.uniform(0, 6 / 255, (count, 1, 1, 1)).astype(np.float32))
    return (picture + strength * noise).clamp(0, 1)


def _over(pictures: torch.Tensor, shapes: torch.Tensor, poses: np.ndarray, radius: np.ndarray) -> torch.Tensor:
    colour, coverage = drawing.layer(shapes, poses, radius, pictures.shape[-1])
    return pictures + coverage * (colour - pictures)


def pictures(pool: Pool, rng: np.random.Generator, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of pictures and the answers about them.

    Returns:
        pictures (count, 3, size, size), normalised as a network expects them; labels (count, questions), int64.
    """
    scenes = random_scenes(pool, rng, count)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    painted = (paint(scenes, pool, rng, size) - mean) / std
    return painted, torch.from_numpy(answers(scenes, pool))
