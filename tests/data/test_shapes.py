"""Still Shapes: the answers are what the pictures show, and equal seeds give equal pictures."""

import math

import numpy as np
import pytest
import torch

from ctlib.config import ArrowConfig
from ctlib.data import arrow, drawing, shapes
from ctlib.data.transforms import IMAGENET_MEAN, IMAGENET_STD

SIZE = 96
NAMES = list(shapes.QUESTIONS)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def pool():
    return shapes.make_pool(0, "train", shapes=60, backgrounds=8, size=SIZE)


def scenes_of(count=1, **changed):
    """Lone objects in the middle, round, opaque."""
    zero = np.zeros(count)
    pose = np.stack([drawing.pose(zero), drawing.pose(zero, 0.3, opacity=0.0)])
    scenes = shapes.Scenes(np.zeros((2, count), int), pose, np.full((2, count), 0.2))
    return scenes._replace(**changed)


def answered(scenes, pool, name):
    """The answers to a question in words."""
    words = (*shapes.QUESTIONS[name], None)
    return [words[label] for label in shapes.answers(scenes, pool)[:, NAMES.index(name)]]


def masks(scenes, pool):
    """Where each first object is, (n, SIZE, SIZE), and the coordinates of the pixels in heights of the picture."""
    coverage = drawing.layer(pool.shapes[scenes.shape[0]], scenes.pose[0], scenes.radius[0], SIZE)[1][:, 0] > 0.2
    axis = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    return coverage.numpy(), axis


def test_equal_seeds_give_equal_pictures_and_others_other_ones(pool):
    pictures, labels = shapes.pictures(pool, rng(), 6, SIZE)
    assert pictures.shape == (6, 3, SIZE, SIZE) and pictures.dtype == torch.float32
    assert labels.shape == (6, len(shapes.QUESTIONS)) and labels.dtype == torch.int64
    again = shapes.pictures(shapes.make_pool(0, "train", 60, 8, SIZE), rng(), 6, SIZE)
    assert torch.equal(pictures, again[0]) and torch.equal(labels, again[1])
    for other in (shapes.make_pool(0, "test", 60, 8, SIZE), shapes.make_pool(1, "train", 60, 8, SIZE)):
        assert not torch.equal(other.shapes[0], pool.shapes[0])
        assert not torch.equal(other.backgrounds[0], pool.backgrounds[0])


def test_no_shape_and_no_background_is_one_of_arrow_of_time_s(pool):
    looks = set()
    for pair in range(40):
        scene = arrow._scene(ArrowConfig(difficulty=0.5), "train", pair)
        looks |= {tuple(sprite[:3].mean((1, 2)).tolist()) for sprite, *_ in scene.layers}
    assert not looks & {tuple(shape[:3].mean((1, 2)).tolist()) for shape in pool.shapes}


def test_pictures_are_normalised_as_networks_expect_them(pool):
    pictures, _ = shapes.pictures(pool, rng(), 16, 32)
    pixels = pictures * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6 and 0.3 < pixels.mean() < 0.7


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_pictures_is_drawn(pool, count):
    for seed in range(5):
        assert shapes.pictures(pool, rng(seed), count, 32)[0].isfinite().all()


def test_every_answer_occurs_and_no_other(pool):
    labels = shapes.answers(shapes.random_scenes(pool, rng(), 4000), pool)
    for name, column in zip(NAMES, labels.T, strict=True):
        assert set(column) == set(range(-1 if name != "objects" else 0, len(shapes.QUESTIONS[name]))), name


def test_place_is_the_centre_of_the_mask(pool):
    pose = drawing.pose(
        np.zeros(25), np.repeat(np.linspace(-0.32, 0.32, 5), 5), np.tile(np.linspace(-0.32, 0.32, 5), 5)
    )
    scenes = scenes_of(25, radius=np.full((2, 25), 0.12))
    scenes.pose[0] = pose
    mask, axis = masks(scenes, pool)
    share = mask / mask.sum((1, 2), keepdims=True)
    x, y = (share.sum(1) * axis).sum(1), (share.sum(2) * axis).sum(1)
    five = [np.digitize(place, [-0.24, -0.08, 0.08, 0.24]) for place in (x, y)]
    assert answered(scenes, pool, "across") == [shapes.QUESTIONS["across"][i] for i in five[0]]
    assert answered(scenes, pool, "down") == [shapes.QUESTIONS["down"][i] for i in five[1]]


def test_stretch_and_angle_are_those_of_the_mask(pool):
    count = 60
    stretch, angle = rng().uniform(1, 1.8, count), rng(1).uniform(0, 2 * math.pi, count)
    scenes = scenes_of(count, shape=np.tile(np.arange(count), (2, 1)), radius=np.full((2, count), 0.24))
    scenes.pose[0] = drawing.pose(angle, 0.0, 0.0, stretch, 1 / stretch, angle)
    mask, axis = masks(scenes, pool)
    x, y = np.meshgrid(axis, axis)
    for i, (stretched, turned) in enumerate(
        zip(answered(scenes, pool, "stretch"), answered(scenes, pool, "angle"), strict=True)
    ):
        (shortest, longest), vectors = np.linalg.eigh(np.cov(x[mask[i]], y[mask[i]]))
        ratio, seen = math.sqrt(longest / shortest), math.degrees(math.atan2(*vectors[::-1, 1])) % 180
        if min(abs(ratio - edge) for edge in (1.4, 2.2)) > 0.1:
            assert stretched == shapes.QUESTIONS["stretch"][np.digitize(ratio, [1.4, 2.2])]
            assert (turned == "round") == (ratio < 1.4)
            if turned != "round":
                assert abs((seen - int(turned) + 90) % 180 - 90) < 15 + 3


def test_hue_size_and_opacity_are_the_object_s(pool):
    other = pool._replace(hues=np.arange(len(pool.hues)) / 6 + 0.01)
    scenes = scenes_of(
        6, shape=np.tile(np.arange(6), (2, 1)), radius=np.tile([0.13, 0.18, 0.23, 0.3, 0.2, 0.2], (2, 1))
    )
    scenes.pose[0, :, 5] = [0.3, 0.6, 0.9, 1.0, 1.0, 1.0]
    assert answered(scenes, other, "hue") == list(shapes.HUES)
    assert answered(scenes, other, "size") == ["tiny", "small", "medium", "large", "small", "small"]
    assert answered(scenes, other, "opacity") == ["faint", "half", "full", "full", "full", "full"]


def test_two_objects_are_asked_for_what_is_between_them(pool):
    scenes = scenes_of(4, shape=np.tile([[0], [1]], 4))
    scenes.pose[1] = drawing.pose(np.zeros(4), [0.3, 0.0, -0.32, 0.45], [0.0, 0.42, 0.32, -0.45])
    other = pool._replace(hues=np.array([pool.hues[0], 0.67]))
    assert answered(scenes, other, "objects") == ["two"] * 4
    assert answered(scenes, other, "gap") == ["overlapping", "close", "close", "far"]
    assert answered(scenes, other, "line") == ["0", "90", "135", "135"]
    assert answered(scenes, other, "front") == ["blue", None, None, None]
    assert answered(scenes, other, "across") == [None] * 4 and answered(scenes_of(1), other, "gap") == [None]
