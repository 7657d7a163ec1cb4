"""Shapes drawn to a look, many poses in one call, and marks."""

import math

import numpy as np
import pytest
import torch

from ctlib.data import drawing


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_look_of_its_own_is_the_one_that_is_drawn():
    look = drawing.random_look(rng())
    drawn, given = rng(), rng()
    drawing.random_look(given)
    assert torch.equal(drawing.sprite(drawn, 32), drawing.sprite(given, 32, look))
    green = drawing.sprite(rng(), 32, look._replace(hue=1 / 3, saturation=1.0, value=1.0))
    assert green[1].mean() > green[0].mean() + 0.5 and green[3].max() == 1 and green[3, 0, 0] == 0


def test_a_batch_of_sprites_and_radii_is_drawn_as_one_by_one():
    sprites = torch.stack([drawing.sprite(rng(seed), 32) for seed in range(3)])
    poses = drawing.pose(np.zeros(3), [-0.2, 0.0, 0.1], 0.1, 1.2, 0.8, [0.0, 1.0, 2.0], 0.7)
    radius = np.array([0.1, 0.2, 0.3])
    together = drawing.layer(sprites, poses, radius, 40)
    for i in range(3):
        alone = drawing.layer(sprites[i], poses[i : i + 1], radius[i], 40)
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_[i])


@pytest.mark.parametrize("degrees", [0, 90, 200])
@pytest.mark.parametrize(("value", "contrasting"), [(0.3, 1.0), (1.0, 0.0)])
def test_a_mark_is_a_spot_on_the_rim_that_contrasts(degrees, value, contrasting):
    look = drawing.Look(lobes=3, depth=0.1, phase=0.0, hue=0.0, saturation=0.0, value=value)
    plain = drawing.sprite(rng(), 64, look)
    (marked,) = drawing.mark(plain, np.array([math.radians(degrees)]))
    changed = (marked[:3] - plain[:3]).abs().sum(0) > 1e-6
    y, x = torch.nonzero(changed).float().mean(0) - 31.5
    assert math.degrees(math.atan2(y, x)) % 360 == pytest.approx(degrees, abs=2)
    assert 0.6 < math.hypot(x, y) / 31.5 * 1.25 < 0.9 and 0.01 < changed.float().mean() < 0.06
    assert torch.equal(marked[3], torch.maximum(marked[3], plain[3])) and changed[marked[3] == 0].sum() == 0
    row, column = round(31.5 + y.item()), round(31.5 + x.item())
    assert marked[:3, row, column].tolist() == pytest.approx([contrasting] * 3, abs=0.05)


def test_one_sprite_takes_a_mark_at_each_angle_and_each_sprite_its_own():
    sprites, angles = torch.stack([drawing.sprite(rng(seed), 32) for seed in range(2)]), np.array([0.0, 2.0])
    around = drawing.mark(sprites[0], angles)
    assert around.shape == (2, 4, 32, 32) and not torch.equal(around[0], around[1])
    each = drawing.mark(sprites, angles)
    assert torch.equal(each[0], around[0]) and torch.equal(each[1], drawing.mark(sprites[1], angles[1:])[0])
