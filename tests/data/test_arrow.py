import errno
import itertools
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import torch

from ctlib.data import arrow, drawing, video
from ctlib.data.actions import ACTIONS

CONFIG = arrow.ArrowConfig(train_clips=4, val_clips=4, size=32, difficulty=0.4)


def test_rendering_is_deterministic_and_pairs_differ():
    first, again = arrow.render(CONFIG, "train", 3), arrow.render(CONFIG, "train", 3)
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.mask, again.mask)
    assert first.frames.shape == (48, 32, 32, 3) and first.mask.shape == (48, 32, 32)
    for other in (("val", 3), ("train", 11)):
        assert not np.array_equal(arrow.render(CONFIG, *other).frames, first.frames)


# Pixel (16, 16) of frame 24 of each action.
DRAWN = (
    [0, 57, 230], [127, 118, 142], [83, 80, 100], [84, 104, 98], [155, 156, 157],
    [133, 140, 122], [149, 84, 3], [90, 96, 98], [172, 171, 171], [161, 155, 146],
    [170, 153, 128], [191, 207, 26], [107, 46, 200], [83, 27, 240],
)  # fmt: skip


def test_another_picture_needs_another_version():
    """Caches and records assume that equal settings give equal pixels; a change here needs another `arrow.VERSION`."""
    config = arrow.ArrowConfig(size=32, difficulty=0.4, actions="all")
    seen = [arrow.render(config, "val", pair).frames[24, 16, 16] for pair in range(len(ACTIONS))]
    assert arrow.VERSION == 3
    assert np.abs(np.array(seen, int) - np.array(DRAWN)).max() <= 3


def test_training_clips_are_plain_and_test_clips_go_down_to_what_can_hardly_be_seen():
    config = arrow.ArrowConfig(difficulty=0.2, actions=("push", "hop"))
    plain = {split: np.array([arrow.plainness(config, split, i) for i in range(400)]) for split in ("train", "val")}
    assert 0.4 <= plain["train"].min() < 0.42 and 0.98 < plain["train"].max() <= 1
    for index, name in enumerate(config.actions):
        power, of_action = ACTIONS[name].power, plain["val"][index::2]
        assert 0.4**power <= of_action.min() < 0.45**power and of_action.max() > 0.95
        assert np.mean(of_action < 0.7**power) == pytest.approx(0.5, abs=0.08)


def test_a_clip_is_as_plain_as_plainness_says():
    config = arrow.ArrowConfig(difficulty=0.2, actions=("push",))
    for split, pair in itertools.product(("train", "val"), range(6)):
        mask = arrow.render(config, split, pair).mask
        moved = (centre(mask[-1]) - centre(mask[0]))[1] / config.size
        assert moved == pytest.approx(0.6 * arrow.plainness(config, split, pair), abs=0.06)


@pytest.mark.parametrize("name", ACTIONS)
def test_the_object_stays_in_sight_and_something_changes(name):
    for pair in range(3):
        clip = arrow.render(arrow.ArrowConfig(difficulty=0.2, actions=(name,)), "val", pair)
        if name != "appear":
            assert clip.mask.any((1, 2)).all()
        change = np.abs(clip.frames.astype(float) - clip.frames[0]).mean((1, 2, 3)).max()
        assert change > 1.5


def centre(mask):
    return np.array([axis.mean() for axis in mask.nonzero()])  # y, x


def test_actions_move_as_named():
    config = arrow.ArrowConfig(difficulty=0.0)
    for start in (0, 8, 16):
        masks = {i: arrow.render(config, "val", start + i).mask for i in range(8)}
        assert (centre(masks[0][-1]) - centre(masks[0][0]))[1] > 5  # from left to right: x grows
        assert (centre(masks[1][-1]) - centre(masks[1][0]))[0] > 5  # falling: y grows
        assert masks[2][-1].sum() > 1.3 * masks[2][0].sum()  # growing
        assert masks[4][-1].sum() > masks[4][0].sum()  # appearing
        ys, xs = masks[5][0].nonzero()
        ye, xe = masks[5][-1].nonzero()
        assert xe.std() + ye.std() < xs.std() + ys.std()  # coming together


def test_clockwise_is_clockwise_on_the_screen():
    """The pose's angle turns a mark at the right of the object downwards."""
    sprite = np.zeros((4, 32, 32), np.float32)
    sprite[3, 14:18, 16:26] = 1  # a hand from the centre to the right
    poses = drawing.pose(np.array([0.0, 1.0]), angle=np.array([0.0, np.pi / 2]))
    _, coverage = drawing.layer(torch.from_numpy(sprite), poses, radius=0.3, size=64)
    (y0, x0), (y1, x1) = (centre(frame[0].numpy() > 0.5) for frame in coverage)
    assert x0 > 35 and abs(y0 - 31.5) < 1.5  # at three o'clock
    assert y1 > 35 and abs(x1 - 31.5) < 1.5  # a quarter on: six o'clock, lower on the screen


def test_a_written_data_set_is_mirrored_exactly(arrow_root):
    lines = (arrow_root / "val.txt").read_text().splitlines()
    assert len(lines) == 32
    for forward, backward in zip(lines[::2], lines[1::2], strict=True):
        (name_f, _, label_f), (name_b, _, label_b) = forward.split(), backward.split()
        assert int(label_b) == int(label_f) + 1 and arrow.pair_of(name_f) == arrow.pair_of(name_b)
        frames = [video.read_frames(arrow_root / name, range(48)) for name in (name_f, name_b)]
        assert np.array_equal(frames[0], frames[1][::-1])


def test_classes_are_balanced(arrow_root):
    for split in ("train", "val"):
        labels = [int(line.split()[-1]) for line in (arrow_root / f"{split}.txt").read_text().splitlines()]
        assert np.bincount(labels).tolist() == [2] * 16


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    a, b = (arrow.write(CONFIG, tmp_path / name, workers=workers) for name, workers in (("a", 0), ("b", 1)))
    files = sorted(path.relative_to(a) for path in a.rglob("*") if path.is_file())
    assert len(files) == 8 + 4
    for file in files:
        assert (a / file).read_bytes() == (b / file).read_bytes(), file
    assert json.loads((a / "arrow.json").read_text())["difficulty"] == 0.4


def test_an_interrupted_writing_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        arrow.write(CONFIG, tmp_path / "data", workers=0, on_clips=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, monkeypatch):
    def full(path, frames):
        raise av.error.OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"file:{path}")

    monkeypatch.setattr(arrow, "write_frames", full)
    for workers in (0, 1):
        with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: '[^\n]*/train/000000_forward.mp4'$"):
            arrow.write(CONFIG, tmp_path / "data", workers=workers)


def test_it_is_written_once_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path / "cache"))
    seen = []
    root = arrow.ensure(CONFIG, on_clips=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8, 8)
    stamp = (root / "arrow.json").stat().st_mtime_ns
    assert arrow.ensure(CONFIG, on_clips=lambda *_: pytest.fail("written again")) == root
    assert (root / "arrow.json").stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match="exists already"):
        arrow.write(CONFIG, root)


def test_two_calls_at_once_write_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(arrow, "_cores", lambda: 0)
    begun, written = threading.Barrier(2), []

    def call(_):
        begun.wait()
        return arrow.ensure(CONFIG, on_clips=lambda done, total: written.append(done))

    with ThreadPoolExecutor() as pool:
        first, second = pool.map(call, range(2))
    assert first == second and written == [2, 4, 6, 8]
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == [first]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_writer_that_is_killed_blocks_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(arrow, "_cores", lambda: 0)  # the loader's processes would end, and unlock, seconds later

    def die(done, total):
        os.kill(os.getpid(), signal.SIGKILL)

    writer = multiprocessing.get_context("fork").Process(target=arrow.ensure, args=(CONFIG, die))
    writer.start()
    writer.join()
    (partial,) = (path for path in tmp_path.iterdir() if path.is_dir())
    other = tmp_path / ".arrow-0123456789.4711-0123abcd"  # of another data set
    other.mkdir()
    root = arrow.ensure(CONFIG)
    assert not other.exists()
    assert partial.name.startswith(f".{root.name}.") and not partial.exists()
    assert len((root / "val.txt").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"num_frames": 50}, "num_frames must be a multiple of 48, got 50"),
        ({"train_clips": 3}, "clips come in pairs"),
        ({"difficulty": 1.5}, "difficulty must be at most 1, got 1.5"),
        ({"size": 33}, "size must be even"),
        ({"val_clips": 0}, "val_clips must be at least 2, got 0"),
    ],
)
def test_bad_settings(values, text):
    with pytest.raises(ValueError, match=text):
        arrow.ArrowConfig(**values)
