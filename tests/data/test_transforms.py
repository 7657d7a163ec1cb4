import numpy as np
import pytest
import torch

from ctlib.data import transforms
from ctlib.data.actions import ACTIONS, class_names


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (64, 64), (100, 176)])
def test_random_crops_stay_inside_and_vary(height, width):
    rng = np.random.default_rng(0)
    boxes = {transforms.random_crop(height, width, 30, rng) for _ in range(500)}
    short = min(height, width)
    sides = {int(short * scale) for scale in transforms.SCALES}
    assert len(boxes) > 30
    for top, left, h, w in boxes:
        assert top >= 0 and left >= 0 and top + h <= height and left + w <= width
        assert h in sides and w in sides


def test_a_side_close_to_the_size_becomes_the_size():
    rng = np.random.default_rng(0)
    sides = {side for _ in range(200) for side in transforms.random_crop(256, 340, 222, rng)[2:]}
    assert 222 in sides and 224 not in sides  # 0.875 x 256 = 224 is within 2 pixels of 222


def test_three_crops_run_along_the_longer_side():
    assert transforms.test_crops(10, 30, 10, 3) == [(0, 0, 10, 10), (0, 20, 10, 10), (0, 10, 10, 10)]
    assert transforms.test_crops(30, 10, 10, 3) == [(0, 0, 10, 10), (20, 0, 10, 10), (10, 0, 10, 10)]
    assert transforms.test_crops(30, 20, 10, 1) == [(10, 5, 10, 10)]
    with pytest.raises(ValueError, match="crops must be 1 or 3, got 5"):
        transforms.test_crops(30, 20, 10, 5)


def test_a_training_view_is_the_box_and_its_flip():
    frames = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3)).astype(np.uint8)
    view = transforms.train_view(frames, 12, (3, 5, 12, 12), flip=False)
    assert view.shape == (3, 4, 12, 12) and view.dtype == torch.float32
    assert np.array_equal(transforms.to_pixels(view), frames[:, 3:15, 5:17])
    flipped = transforms.train_view(frames, 12, (3, 5, 12, 12), flip=True)
    assert torch.equal(flipped, view.flip(3))
    grey = transforms.train_view(np.full((1, 8, 8, 3), 255, np.uint8), 8, (0, 0, 8, 8), flip=False)
    expected = (1 - torch.tensor(transforms.IMAGENET_MEAN)) / torch.tensor(transforms.IMAGENET_STD)
    torch.testing.assert_close(grey[:, 0, 0, 0], expected)


def test_test_views_are_crops_of_the_resized_clip():
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 3)).astype(np.uint8)
    views = transforms.test_views(frames, 16, short_side=16, crops=3)
    assert views.shape == (3, 3, 2, 16, 16)
    for view, left in zip(views, (0, 16, 8), strict=True):
        assert np.array_equal(transforms.to_pixels(view), frames[:, :, left : left + 16])


def test_flips_swap_labels_by_name():
    classes = class_names("all")
    flipped = transforms.flipped_labels(classes)
    names = {classes[a]: classes[b] for a, b in enumerate(flipped) if a != b}
    sided = [ACTIONS[name] for name in ("push", "turn", "hop", "pass", "mark")]
    forward, backward = ({action[side]: action[1 - side] for action in sided} for side in (0, 1))
    assert names == forward | backward
    assert list(flipped[flipped]) == list(range(len(classes)))


@pytest.mark.parametrize(
    "names",
    [
        ("swipe_left", "swipe_right"),
        ("left_to_right", "right_to_left"),
        ("TurnLeft", "TurnRight"),
        ("turn leftward", "turn rightward"),
        ("左", "右"),
        ("turn-clockwise", "turn_counter_clockwise"),
    ],
)
def test_flips_swap_however_the_sides_are_spelt(names):
    assert transforms.flipped_labels(names).tolist() == [1, 0]
    assert transforms.flipped_labels(("rightly done", "upright", "theft")).tolist() == [0, 1, 2]


def test_flips_of_something_something_s_names():
    classes = (
        "Turning the camera left while filming something",
        "Pulling [something] out, but then pulling it right out",
        "Turning the camera right while filming something",
        "Spinning anticlockwise",
        "Spinning Clockwise",
        "Moving from left to right",
        "Swiping Left",
        "Swiping Right",
    )
    assert transforms.flipped_labels(classes).tolist() == [2, 1, 0, 4, 3, -1, 7, 6]  # no partner for the sixth
