import itertools
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ctlib import files
from ctlib.commands import main
from ctlib.config import DataConfig
from ctlib.data import cache, clips, encoding, transforms, video
from ctlib.data.catalog import Samples
from ctlib.data.workers import end_workers

RAM = DataConfig(size=24, flip=True, workers=0, cache="ram", clips=2, crops=3, short_side=28)


@pytest.fixture
def decoded(monkeypatch):
    """How often each video was read from its file."""
    counts, read = Counter(), video.read_frames

    def counted(source, *arguments):
        counts[str(source)] += 1
        return read(source, *arguments)

    monkeypatch.setattr(video, "read_frames", counted)
    return counts


def of_each_epoch(loader, epochs=(0, 1)):
    batches = []
    for epoch in epochs:
        if isinstance(loader.sampler, clips.EpochSampler):
            loader.sampler.set_epoch(epoch)
        batches += list(loader)
    end_workers(loader)
    return batches


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("where", "workers"), [("ram", 0), ("ram", 2), ("disk", 2)])
def test_clips_that_are_kept_are_those_from_files(train_samples, val_samples, where, workers, monkeypatch):
    monkeypatch.setattr(cache, "_BLOCK", 1_000_000)  # several blocks
    config = DataConfig(**{**RAM.to_dict(), "workers": workers, "cache": where})
    kept = [cache.keep(samples, config) for samples in (train_samples, val_samples)]
    if where == "ram":
        assert len(kept[0].blocks) > 3 and all(block.is_shared() for block in kept[0].blocks)
    else:
        kept = [pickle.loads(pickle.dumps(videos)) for videos in kept]  # as where workers do not fork
    train, test = (
        [
            of_each_epoch(clips.train_loader(train_samples, 4, config, batch=8, seed=1, kept=in_memory[0])),
            of_each_epoch(clips.test_loader(val_samples, 4, config, batch=24, kept=in_memory[1])),
        ]
        for in_memory in (kept, (None, None))
    )
    for one, two in zip(train + test, test + train, strict=True):
        assert len(one) == len(two) > 0
        for (first, labels), (second, others) in zip(one, two, strict=True):
            assert torch.equal(first, second) and torch.equal(labels, others)


def test_each_video_is_decoded_once(train_samples, decoded):
    kept = cache.keep(train_samples, RAM)
    for _ in range(3):
        of_each_epoch(clips.train_loader(train_samples, 4, RAM, batch=8, seed=1, kept=kept))
    assert len(decoded) == 32 and set(decoded.values()) == {1}
    assert cache.keep(train_samples, DataConfig(cache="none")) is None


def test_a_file_of_decoded_videos_serves_later_runs_until_a_video_changes(tmp_path, decoded):
    samples = several_kinds(tmp_path)
    config = DataConfig(**{**RAM.to_dict(), "cache": "disk"})
    first = cache.keep(samples, config)
    again = cache.keep(samples, config)
    assert len(decoded) == 3 and set(decoded.values()) == {1} and again.path == first.path
    assert all(np.array_equal(first._all_of(index), again._all_of(index)) for index in range(3))
    os.utime(samples[0].source, (0, 0))
    assert cache.keep(samples, config).path != first.path and decoded[str(samples[1].source)] == 2


def test_what_killed_runs_left_is_removed_before_room_is_asked_for(tmp_path, train_samples):
    config = DataConfig(**{**RAM.to_dict(), "cache": "disk"})
    path = cache.decoded_file(train_samples, config)
    path.parent.mkdir()
    left = [f".{path.name}.1-0123abcd", f".{path.stem}.json.2-0123abcd", ".decoded-ff.bytes.3-0123abcd"]
    held, other = path.with_name(".decoded-aa.bytes.4-0123abcd"), path.with_name(".arrow-ff.5-0123abcd")
    for name in (*left, held, other):
        (path.parent / name).write_bytes(b"0" * 1000)
    with files.writing(path.with_name("decoded-aa.bytes")):  # its writer lives
        cache.check_room([train_samples], config)
        assert {file.name for file in path.parent.glob(".*.*-*")} == {held.name, other.name}
        path.with_name(left[0]).touch()
        cache.keep(train_samples, config)
        assert {file.name for file in path.parent.glob(".*.*-*")} == {held.name, other.name} and path.is_file()


def files_of(path):
    return {file.name for file in path.parent.iterdir()}


def on_disk(config=RAM):
    return DataConfig(**{**config.to_dict(), "cache": "disk"})


@pytest.fixture
def three_files(tmp_path):
    """Files of decoded videos of three lists, in the order of their use; nobody uses them any more."""
    lists = [several_kinds(tmp_path / name) for name in "abc"]
    paths = [cache.keep(samples, on_disk()).path for samples in lists]
    for age, path in zip((300, 200, 100), paths, strict=True):
        os.utime(path, (time.time() - age,) * 2)
    return lists, paths


def test_files_unused_for_longest_are_deleted_where_another_needs_room(three_files, tmp_path, monkeypatch):
    lists, paths = three_files
    size = paths[0].stat().st_size
    assert files_of(paths[0]) == {path.with_suffix(suffix).name for path in paths for suffix in (".bytes", ".json")}
    cache.check_room(lists, on_disk())  # nothing is to be written
    monkeypatch.setattr(cache, "MOST_ON_DISK", 3.5 * size)
    new = several_kinds(tmp_path / "d")
    cache.keep(lists[0], on_disk())  # used again: no longer the oldest
    cache.check_room([new], on_disk())
    assert [path.is_file() for path in paths] == [True, False, True]
    monkeypatch.setattr(cache, "MOST_ON_DISK", size / 2)
    cache.check_room([new, lists[0]], on_disk())  # a list's own file stays
    assert files_of(paths[0]) == {paths[0].name, paths[0].with_suffix(".json").name}


def test_files_are_deleted_until_another_fits_the_disk(three_files, tmp_path, monkeypatch):
    _, paths = three_files
    size = paths[0].stat().st_size

    def usage(_folder):
        return SimpleNamespace(free=3.5 * size - sum(path.stat().st_size for path in paths if path.is_file()))

    new = several_kinds(tmp_path / "d")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=-2.5 * size))
    with pytest.raises(ValueError, match="are free: set data.cache to 'none'"):
        cache.check_room([new], on_disk())
    assert all(path.is_file() for path in paths)  # it would not fit even without them
    monkeypatch.setattr(cache.shutil, "disk_usage", usage)
    cache.check_room([new], on_disk())
    assert [path.is_file() for path in paths] == [False, True, True]


def test_a_list_that_cannot_fit_deletes_nothing_beside_files_in_use(three_files, tmp_path, monkeypatch):
    lists, paths = three_files
    size = paths[0].stat().st_size
    kept = cache.keep(lists[0], on_disk())
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=-1.5 * size))
    with pytest.raises(ValueError, match="are free"):
        cache.check_room([several_kinds(tmp_path / "d")], on_disk())  # without the file in use it would fit
    assert all(path.is_file() for path in paths) and kept.path == paths[0]


def test_what_another_process_is_writing_needs_room_once(tmp_path, monkeypatch):
    samples = several_kinds(tmp_path)
    path = cache.decoded_file(samples, on_disk())
    path.parent.mkdir()
    needed = cache.needed_bytes(samples)
    path.with_name(f".{path.name}.7-0123abcd").write_bytes(bytes(needed // 2))
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed - needed // 2))
    with files.writing(path):
        cache.check_room([samples], on_disk())
    with pytest.raises(ValueError, match="are free"):  # its writer was killed
        cache.check_room([samples], on_disk())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text('{"places": 5, "errors": {}}'),
        lambda path: path.with_suffix(".json").write_text('{"places": [[0, 0], null], "errors": []}'),
        lambda path: path.with_suffix(".json").write_text('{"places": [], "errors": {"one": ""}}'),
    ],
)
def test_files_that_are_damaged_are_written_again(tmp_path, spoil, decoded):
    samples = several_kinds(tmp_path)
    first = cache.keep(samples, on_disk())
    frames = [first._all_of(index).copy() for index in range(3)]
    spoil(first.path)
    again = cache.keep(samples, on_disk())
    assert all(np.array_equal(again._all_of(index), frames[index]) for index in range(3))
    assert set(decoded.values()) == {2}


def test_a_table_without_its_file_goes(three_files):
    _, paths = three_files
    paths[1].unlink()
    assert cache.make_room(0) == 0
    assert [path.with_suffix(".json").is_file() for path in paths] == [True, False, True]


def test_a_video_that_can_be_read_again_is_no_longer_skipped(tmp_path, monkeypatch):
    samples, read = several_kinds(tmp_path), video.read_frames
    skipping = DataConfig(**{**RAM.to_dict(), "cache": "disk", "on_error": "skip"})

    def fails(source, *arguments):
        if str(source).endswith("wide.mp4"):
            raise video.VideoError(f"{source}: Permission denied")
        return read(source, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(video, "read_frames", fails)
        for _ in range(2):
            assert list(cache.keep(samples, skipping).errors) == [2]
    kept = cache.keep(samples, skipping)
    assert not kept.errors and kept.shape(2) == (9, 24, 48)


def test_an_image_that_is_written_again_makes_another_file(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number,) * 3).save(tmp_path / "a" / f"{number:05}.png")
    samples = Samples([("a", 0, 3)], ("a",), tmp_path)
    first = cache.keep(samples, on_disk())
    Image.new("RGB", (8, 8), (99,) * 3).save(tmp_path / "a" / "00001.png")
    again = cache.keep(samples, on_disk())
    assert [frames._all_of(0)[:, 0, 0, 0].tolist() for frames in (first, again)] == [[0, 1, 2], [0, 99, 2]]


def use(samples, ready):
    kept = cache.keep(samples, on_disk())
    ready.set()
    time.sleep(60)
    return kept


def test_a_file_in_use_stays_and_the_command_deletes_the_others(three_files, capsys):
    lists, paths = three_files
    (paths[0].parent / "arrow-0123").mkdir()
    context = multiprocessing.get_context("fork")
    ready, here = context.Event(), cache.keep(lists[0], on_disk())
    other = context.Process(target=use, args=(lists[1], ready))
    other.start()
    assert ready.wait(10)
    assert main(["clear-cache"]) == 0
    assert [path.is_file() for path in paths] == [True, True, False]
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert main(["clear-cache"]) == 0
    assert [path.is_file() for path in paths] == [True, False, False]
    del here
    assert main(["clear-cache"]) == 0 and files_of(paths[0]) == {"arrow-0123"}
    assert capsys.readouterr().out.endswith(f"0.0 GB of decoded videos were deleted from {paths[0].parent}\n")


def keep_and_clear(samples, rounds, queue):
    wrong = 0
    for _ in range(rounds):
        kept = cache.keep(samples, on_disk())
        again = pickle.loads(pickle.dumps(kept))  # as where workers do not fork
        wrong += not np.array_equal(again.read(0, np.arange), video.read_frames(samples[0].source, np.arange))
        del kept, again
        cache.make_room(math.inf)
    queue.put(wrong)


def test_several_processes_that_use_and_clear_a_file_at_once_read_the_right_frames(tmp_path):
    samples = several_kinds(tmp_path)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=keep_and_clear, args=(samples, 5, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [0, 0, 0]
    for process in processes:
        process.join()
    assert not files_of(tmp_path / "cache" / "any")


def several_kinds(folder):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    shapes = {"short": (5, 32, 32), "long": (40, 32, 32), "wide": (9, 24, 48)}
    for name, shape in shapes.items():
        encoding.write_frames(folder / f"{name}.mp4", rng.integers(0, 255, (*shape, 3), dtype=np.uint8))
    return Samples([(f"{name}.mp4", 0, 7 if name == "long" else None) for name in shapes], ("a",), folder)


def test_videos_may_differ_in_length_and_size(tmp_path):
    samples = several_kinds(tmp_path)
    kept = cache.keep(samples, RAM)
    assert [kept.shape(index) for index in range(3)] == [(5, 32, 32), (7, 32, 32), (9, 24, 48)]  # 7: as listed
    for index in range(3):
        frames = kept.read(index, lambda length: np.array([length - 1, 0, 2, 2]))
        last = kept.shape(index)[0] - 1
        assert np.array_equal(frames, video.read_frames(samples[index].source, [last, 0, 2, 2]))
    with pytest.raises(ValueError, match="gpu.* needs frames of one size: .*long.mp4 has 32 x 32 .*wide.mp4 24 x 48"):
        cache.VideosOnDevice(kept, "cpu")


def test_a_video_that_cannot_be_read_stops_at_once_or_is_skipped(tmp_path, arrow_root, val_samples):
    shutil.copytree(arrow_root, tmp_path / "data")
    (tmp_path / "data" / "val" / "000002_forward.mp4").write_bytes(b"")
    samples = Samples(
        [(s.source.split("arrow/")[-1], s.label, 48) for s in itertools.islice(val_samples, 8)],
        val_samples.classes,
        tmp_path / "data",
        "mirrored",
    )
    for workers in (0, 2):  # in one line from another process too
        with pytest.raises(video.VideoError, match="^/.*/000002_forward.mp4: the file is empty$"):
            cache.keep(samples, DataConfig(**{**RAM.to_dict(), "workers": workers}))
    skipping = DataConfig(**{**RAM.to_dict(), "on_error": "skip"})
    with pytest.warns(UserWarning, match="skipped"):
        plain = of_each_epoch(clips.test_loader(samples, 4, skipping, 12), (0,))
    on_disk = DataConfig(**{**skipping.to_dict(), "cache": "disk"})
    ways = cache.keep(samples, skipping), cache.keep(samples, on_disk), cache.keep(samples, on_disk)
    for kept in (*ways, cache.VideosOnDevice(cache.keep(samples, skipping), "cpu")):
        with pytest.warns(UserWarning, match="skipped: .*000002_forward.mp4: the file is empty"):
            batches = of_each_epoch(clips.test_loader(samples, 4, skipping, 12, kept), (0,))
        labels = torch.cat([labels for _, labels in batches])
        assert (labels == clips.SKIPPED).nonzero().tolist() == [[4]]
        assert torch.equal(labels, torch.cat([labels for _, labels in plain]))
        assert all(len(one) == len(other) for (one, _), (other, _) in zip(batches, plain, strict=True))


def pixels_apart(one, two):
    """The largest difference of normalised clips, in 255ths."""
    std = 255 * torch.tensor(transforms.IMAGENET_STD)[:, None, None, None]
    return ((one - two) * std).abs().max().item()


def test_clips_cut_on_the_device_are_those_of_the_cpu_within_1_of_255(train_samples, val_samples):
    """The same code as on a GPU, on the CPU as the device."""
    config = DataConfig(**{**RAM.to_dict(), "cache": "gpu"})
    kept = [cache.VideosOnDevice(cache.Videos(samples, config), "cpu") for samples in (train_samples, val_samples)]
    pairs = [
        (clips.train_loader(train_samples, 4, config, 8, 1, None, on_device) for on_device in (kept[0], None)),
        (clips.test_loader(val_samples, 4, config, 24, on_device) for on_device in (kept[1], None)),
    ]
    for loaders in pairs:
        ours, plain = map(of_each_epoch, loaders)
        assert len(ours) == len(plain) > 0
        for (one, labels), (two, others) in zip(ours, plain, strict=True):
            assert one.shape == two.shape and one.dtype == two.dtype and torch.equal(labels, others)
            assert pixels_apart(one, two) < 1.001
            assert (one - two).abs().mean() < 2e-3


@pytest.mark.parametrize("size", [20, 32, 56])
@pytest.mark.parametrize("shape", [(32, 32), (40, 56), (56, 41)])
def test_any_box_is_resized_as_on_the_cpu_within_1_of_255(size, shape):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 2, *shape, 3), dtype=np.uint8)  # noise: neighbours differ as much as they can
    boxes = [transforms.random_crop(*shape, size, rng) for _ in frames]
    flips = (rng.random(12) < 0.5).tolist()
    batch = torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
    ours = transforms.train_views_of_batch(batch, size, boxes, flips)
    plain = [transforms.train_view(*item[:1], size, *item[1:]) for item in zip(frames, boxes, flips, strict=True)]
    assert pixels_apart(ours, torch.stack(plain)) < 1.001
    for short_side, crops in ((size, 1), (size + 7, 3)):
        ours = transforms.test_views_of_batch(batch, size, short_side, crops)
        plain = [transforms.test_views(clip, size, short_side, crops) for clip in frames]
        assert pixels_apart(ours, torch.stack(plain)) < 1.001


def test_what_does_not_fit_is_refused_before_anything_is_decoded(train_samples, val_samples, monkeypatch, decoded):
    assert cache.needed_bytes(train_samples) == 32 * 48 * 32 * 32 * 3
    cache.check_room((train_samples, val_samples), RAM)
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: SimpleNamespace(available=9_000_000))
    with pytest.raises(
        ValueError, match="data.cache 'ram' needs 0.00944 GB for the decoded videos, and 0.009 GB of mem"
    ):
        cache.check_room((train_samples, val_samples), RAM)
    cache.check_room((train_samples,), RAM)
    cache.check_room((train_samples, val_samples), DataConfig(cache="none"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # each process has its own copy
    with pytest.raises(ValueError, match="needs 0.00944 GB"):
        cache.check_room((train_samples,), RAM)
    assert not decoded
    on_disk = DataConfig(**{**RAM.to_dict(), "cache": "disk"})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    with pytest.raises(ValueError, match=r"'disk' needs 0.00472 GB .* and 0.001 GB of disk \(.*cache\) are free"):
        cache.check_room((train_samples,), on_disk)
    cache.keep(train_samples, on_disk)
    cache.check_room((train_samples,), on_disk)  # it is there


@pytest.mark.gpu
def test_clips_cut_on_a_gpu_are_those_of_the_cpu_within_1_of_255(train_samples):
    config = DataConfig(**{**RAM.to_dict(), "cache": "gpu"})
    kept = cache.keep(train_samples, config)
    ours, plain = (
        of_each_epoch(clips.train_loader(train_samples, 4, config, 8, 1, None, on_device)) for on_device in (kept, None)
    )
    for (one, labels), (two, others) in zip(ours, plain, strict=True):
        assert one.is_cuda and torch.equal(labels.cpu(), others) and pixels_apart(one.cpu(), two) < 1.001
