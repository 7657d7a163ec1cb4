"""Textured shapes on textured backgrounds: what the built-in data sets are drawn with.

Lengths are in heights of the picture, with 0 at its centre and y downwards; angles in radians, clockwise on the screen.
"""

import colorsys
import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F


def pose(s, x=0.0, y=0.0, scale_x=1.0, scale_y=1.0, angle=0.0, opacity=1.0) -> np.ndarray:
    """(n, 6): x, y, scale_x, scale_y, angle, opacity."""
    return np.stack([np.broadcast_to(value, s.shape) for value in (x, y, scale_x, scale_y, angle, opacity)], axis=1)


def noise(rng, channels: int, size: int, cells: tuple[int, ...]) -> torch.Tensor:
    """Smooth random texture, (channels, size, size), roughly in [-1, 1]: one octave per entry of `cells`."""
    octaves = [
        F.interpolate(
            torch.from_numpy(rng.uniform(-1, 1, (1, channels, n, n)).astype(np.float32)), (size, size), mode="bicubic"
        )
        for n in cells
    ]
    return torch.cat(octaves).mean(0)


def background(rng, size: int, contrast: float) -> torch.Tensor:
    """A texture around a random grey, (4, size, size): RGB in [0, 1] and full coverage."""
    texture = 0.6 * noise(rng, 1, size, (3, 6, 12)) + 0.4 * noise(rng, 3, size, (3, 6, 12))
    colour = rng.uniform(0.35, 0.65) + contrast * texture
    return torch.cat([colour, torch.ones(1, size, size)]).clamp(0, 1)


class Look(NamedTuple):
    """How a shape looks, apart from its texture."""

    lobes: int  # of its outline, 2 to 5
    depth: float  # of the lobes, as a share of the radius
    phase: float  # the outline is deepest at the angles a with cos(lobes * a + phase) = 1
    hue: float  # 0 to 1
    saturation: float
    value: float


def random_look(rng) -> Look:
    outline = int(rng.integers(2, 6)), rng.uniform(0.1, 0.3), rng.uniform(0, 2 * math.pi)
    return Look(*outline, rng.uniform(), rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.0))


def sprite(rng, size: int, look: Look | None = None) -> torch.Tensor:
    """A textured shape, of a random look unless one is given, (4, size, size): RGB in [0, 1] and coverage."""
    look = look or random_look(rng)
    axis = torch.linspace(-1.25, 1.25, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    outline = 1 - look.depth * (1 + torch.cos(look.lobes * torch.atan2(y, x) + look.phase)) / 2
    coverage = ((outline - torch.hypot(x, y)) * size / 4).clamp(0, 1)
    colour = torch.tensor(colorsys.hsv_to_rgb(look.hue, look.saturation, look.value))
    texture = 0.5 * noise(rng, 3, size, (3, 5))
    return torch.cat([(colour[:, None, None] + texture).clamp(0, 1), coverage[None]])


def drift(rng, n: int, reach: float) -> np.ndarray:
    """A smooth random path, (n, 2), within about `reach` of 0."""
    t = np.linspace(0, 2 * math.pi, n)[:, None]
    waves = [np.sin(t * rng.uniform(0.3, 2.0, 2) + rng.uniform(0, 2 * math.pi, 2)) for _ in range(2)]
    return reach * (waves[0] + waves[1]) / 2


def layer(sprite: torch.Tensor, poses: np.ndarray, radius, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a sprite at each pose: RGB (n, 3, size, size) and coverage (n, 1, size, size).

    Args:
        sprite: (4, s, s), the same at every pose, or (n, 4, s, s), one for each.
        radius: of the sprite's shape at scale 1, or (n,) radii.
        size: pixels of the picture, height and width.
    """
    x, y, scale_x, scale_y, angle, opacity = torch.from_numpy(poses.astype(np.float32)).unbind(1)
    radius = torch.as_tensor(radius, dtype=torch.float32)
    cos, sin = angle.cos(), angle.sin()
    # From a point of the picture, in [-1, 1], to one of the sprite: shift, rotate back, scale back.
    to_x, to_y = 0.4 / (radius * scale_x), 0.4 / (radius * scale_y)  # the sprite's shape spans 0.8 of its picture
    theta = torch.stack(
        [
            torch.stack([cos, sin, -2 * (cos * x + sin * y)], 1) * to_x[:, None],
            torch.stack([-sin, cos, -2 * (cos * y - sin * x)], 1) * to_y[:, None],
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, [len(poses), 4, size, size], align_corners=False)
    drawn = F.grid_sample(sprite.expand(len(poses), -1, -1, -1), grid, align_corners=False)
    return drawn[:, :3], drawn[:, 3:] * opacity[:, None, None, None]
