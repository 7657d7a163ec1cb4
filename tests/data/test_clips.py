import multiprocessing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ctlib.config import DataConfig
from ctlib.data import clips, encoding, transforms, video
from ctlib.data.catalog import Samples
from ctlib.data.check import check
from ctlib.data.workers import end_workers
from tests.data.videos import COUNT, LAYOUTS, numbers


def test_a_test_item_holds_the_frames_of_its_indices(val_samples):
    dataset = clips.ClipDataset(val_samples, num_frames=8, size=32)
    views, label = dataset[5]
    frames = video.read_frames(val_samples[5].source, [3, 9, 15, 21, 26, 32, 38, 44])
    assert views.shape == (1, 3, 8, 32, 32) and label == val_samples[5].label
    assert np.array_equal(transforms.to_pixels(views[0]), frames)


def test_views_are_clips_by_crops(val_samples):
    dataset = clips.ClipDataset(val_samples, num_frames=4, size=16, short_side=24, clips=2, crops=3)
    views, _ = dataset[0]
    assert views.shape == (6, 3, 4, 16, 16)
    one = clips.ClipDataset(val_samples, num_frames=4, size=16, short_side=24, crops=3)[0][0]
    assert torch.equal(views[:3], one)  # the crops of a clip stay together


def test_a_mirrored_pair_shows_the_same_frames_in_opposite_order(val_samples):
    dataset = clips.ClipDataset(val_samples, num_frames=8, size=32, clips=2)
    forward, backward = dataset[2][0], dataset[3][0]
    assert torch.equal(forward, backward.flip(2))


def test_a_training_item_depends_on_seed_epoch_and_index_alone(train_samples):
    def item(seed, epoch, index):
        return clips.ClipDataset(train_samples, 4, 32, train=True, flip=True, seed=seed)[epoch, index][0]

    assert torch.equal(item(0, 1, 2), item(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(item(0, 1, 2), item(*other))


def test_flipped_clips_get_the_label_of_the_other_side(train_samples):
    index = next(i for i, sample in enumerate(train_samples) if sample.label == 0)
    frames = train_samples[index]
    dataset = clips.ClipDataset(train_samples, 8, 32, train=True, flip=True)
    still = clips.ClipDataset(train_samples, 8, 32, train=True, flip=False)
    seen = set()
    for epoch in range(20):
        (clip, label), (plain, plain_label) = dataset[epoch, index], still[epoch, index]
        assert plain_label == frames.label == 0
        flipped = not torch.equal(clip, plain)
        assert label == (1 if flipped else 0)  # pushed from right to left, once flipped
        if flipped:
            assert torch.equal(clip, plain.flip(3))
        seen.add(flipped)
    assert seen == {True, False}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_same_batches_with_any_number_of_workers(train_samples, workers):
    loader = clips.train_loader(train_samples, 4, DataConfig(size=32, flip=True, workers=workers), batch=6, seed=3)
    loader.sampler.set_epoch(2)
    batches = [(clip.sum().item(), label.tolist()) for clip, label in loader]
    assert len(batches) == 32 // 6
    plain = clips.ClipDataset(train_samples, 4, 32, train=True, flip=True, seed=3)
    order = np.random.default_rng([3, 2]).permutation(32)
    expected = [plain[2, int(i)] for i in order[:6]]
    assert batches[0][1] == [label for _, label in expected]
    assert batches[0][0] == pytest.approx(torch.stack([clip for clip, _ in expected]).sum().item())


class Reader:
    """Counts frames, as `check` wants it, and compares what it reads on the way."""

    def __init__(self, dataset):
        self.dataset, self.expected = dataset, dataset[0][0].numpy()

    def __call__(self, source):
        indices = [COUNT - 1, 0, 31, 17]
        assert numbers(video.read_frames(source, indices)) == indices
        assert np.array_equal(self.dataset[0][0].numpy(), self.expected)
        return COUNT


@pytest.mark.slow
def test_spawned_workers_give_the_same(val_samples, sources, tmp_path):
    """As on a Mac and on Windows: functions, data set and samples travel to another interpreter."""
    samples = Samples([(name, 0, None) for name in (*LAYOUTS, "missing.mp4")], ("a",), sources)
    decode = Reader(clips.ClipDataset(val_samples, 4, 32, clips=2))
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        summary = check(samples, tmp_path, workers=1, decode=decode)
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert summary == (len(samples), len(samples), len(LAYOUTS), {"missing": 1})


def test_every_epoch_has_each_video_once_in_another_order():
    sampler = clips.EpochSampler(20, batch=1, seed=0)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert [e for e, _ in keys] == [epoch] * 20 and sorted(i for _, i in keys) == list(range(20))
        orders.append(keys)
    assert [i for _, i in orders[0]] != [i for _, i in orders[1]]


def with_a_bad_video(samples, path):
    rows = [(str(path), 0, 48), *samples][: len(samples)]
    return Samples(rows, samples.classes, Path("/"), samples.sampling)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_video_stops_with_its_name(train_samples, tmp_path, workers):
    (tmp_path / "broken.mp4").write_bytes(b"")
    samples = with_a_bad_video(train_samples, tmp_path / "broken.mp4")
    loader = clips.test_loader(samples, 4, DataConfig(size=32, workers=workers), batch=8)
    with pytest.raises(video.VideoError, match="broken.mp4: the file is empty"):
        list(loader)
    processes = loader._iterator._workers if workers else []
    end_workers(loader)
    assert [process.exitcode for process in processes] == [0] * workers


def test_a_video_shorter_than_its_list_says_stops_with_its_name(train_samples, tmp_path):
    encoding.write_frames(tmp_path / "short.mp4", np.zeros((20, 32, 32, 3), np.uint8))
    samples = with_a_bad_video(train_samples, tmp_path / "short.mp4")
    for train, key in ((False, 0), (True, (0, 0))):
        with pytest.raises(video.VideoError, match=r"short\.mp4.* 20 .* 48"):
            clips.ClipDataset(samples, 2, 32, train=train)[key]  # although both frames asked for may be there


def test_an_unreadable_video_is_skipped_by_name_when_asked(train_samples, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"")
    samples = with_a_bad_video(train_samples, tmp_path / "broken.mp4")
    testing = clips.ClipDataset(samples, 4, 32, clips=2, crops=3, on_error="skip")
    with pytest.warns(UserWarning, match=r"skipped: .*broken\.mp4: the file is empty"):
        views, label = testing[0]
    assert label == clips.SKIPPED and views.shape == testing[1][0].shape and (views == 0).all()
    training = clips.ClipDataset(samples, 4, 32, train=True, on_error="skip")
    with pytest.warns(UserWarning, match="skipped"):
        clip, label = training[0, 0]
    assert label == clips.SKIPPED and clip.shape == training[0, 1][0].shape


def several_sizes(folder):
    rng = np.random.default_rng(0)
    shapes = [(24, 32), (40, 26), (32, 32), (24, 32), (150, 200), (28, 60)]  # one so large that it is resized first
    for index, shape in enumerate(shapes):
        encoding.write_frames(folder / f"{index}.mp4", rng.integers(0, 255, (9, *shape, 3), dtype=np.uint8))
    return Samples([(f"{index}.mp4", 0, None) for index in range(len(shapes))], ("a",), folder)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("pinned", [False, True])
def test_raw_batches_become_the_same_views_within_1_of_255(tmp_path, workers, pinned):
    samples = several_sizes(tmp_path)
    config = DataConfig(size=24, flip=True, short_side=30, clips=2, crops=3, workers=workers)
    for make, batch in ((partial(clips.train_loader, seed=1), 3), (clips.test_loader, 12)):
        raw, plain = (make(samples, 4, config, batch=batch, raw=raw) for raw in (True, False))
        for loader in (raw, plain):
            if isinstance(loader.sampler, clips.EpochSampler):
                loader.sampler.set_epoch(1)
        count = 0
        for (one, labels), (two, others) in zip(raw, plain, strict=True):
            assert one.frames.dtype == torch.uint8 and torch.equal(labels, others)
            assert max(one.frames.shape[3:]) <= 64
            if pinned:  # makes lists of tuples
                one = one._replace(sides=[list(of) for of in one.sides], flips=list(one.flips))
            views = transforms.views_of(one)
            assert views.shape == two.shape and transforms.views_of(two) is two
            std = 255 * torch.tensor(transforms.IMAGENET_STD)[:, None, None, None]
            assert ((views - two) * std).abs().max() < 1.001
            count += len(labels)
        assert count == len(samples)


def test_a_raw_clip_that_cannot_be_read_is_skipped(train_samples, tmp_path):
    samples = with_a_bad_video(train_samples, tmp_path / "bad.mp4")
    for make in (partial(clips.train_loader, seed=0), clips.test_loader):
        loader = make(samples, 4, DataConfig(size=32, workers=0, on_error="skip", flip=False), batch=4, raw=True)
        with pytest.warns(UserWarning, match="skipped: .*bad.mp4"):
            batches = [(transforms.views_of(batch), labels) for batch, labels in loader]
        labels = torch.cat([labels for _, labels in batches])
        assert (labels == clips.SKIPPED).sum() == 1
        assert all(views.isfinite().all() for views, _ in batches)


def test_flips_follow_the_data_set_by_default(train_samples):
    def flips(**options):
        return (clips.ClipDataset(train_samples, 4, 32, train=True, **options).flipped >= 0).any()

    assert train_samples.flip and flips() and not flips(flip=False)
    train_samples.flip = False
    assert not flips() and flips(flip=True)


def test_a_video_shorter_than_the_clip_is_spread(tmp_path):
    encoding.write_frames(tmp_path / "short.mp4", np.zeros((3, 32, 32, 3), np.uint8))
    samples = Samples([("short.mp4", 0, None)], ("a",), tmp_path)
    assert clips.ClipDataset(samples, 8, 32)[0][0].shape == (1, 3, 8, 32, 32)


def test_refusals(train_samples):
    with pytest.raises(ValueError, match="a batch of 64 needs as many training videos, the list has 32"):
        clips.train_loader(train_samples, 4, DataConfig(size=32), batch=64, seed=0)
    with pytest.raises(ValueError, match="short_side must be at least size, got 16 and 32"):
        clips.ClipDataset(train_samples, 4, 32, short_side=16)
    with pytest.raises(ValueError, match="even number of frames per clip, got 5"):
        clips.ClipDataset(train_samples, 5, 32)
    with pytest.raises(ValueError, match="unknown sampling 'mirored': did you mean 'mirrored'"):
        clips.ClipDataset(train_samples, 4, 32, sampling="mirored")
