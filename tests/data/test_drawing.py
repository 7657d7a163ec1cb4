"""Shapes drawn to a look, and many poses in one call."""

import numpy as np
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
