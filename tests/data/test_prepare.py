import errno
import json
import multiprocessing
import os
import resource

import numpy as np
import pytest

from ctlib import files
from ctlib.data import prepare as preparing
from ctlib.data import video
from ctlib.data.catalog import Samples, load_samples
from ctlib.data.prepare import prepare
from tests.data.videos import cut, encode, everything, moving, save_images


def numbered(length, height=48, width=64):
    """Frames that show their number by their brightness, (length, height, width, 3)."""
    frames = np.zeros((length, height, width, 3), np.uint8)
    frames += (20 + 10 * np.arange(length, dtype=np.uint8))[:, None, None, None]
    return frames


def numbers(source):
    """The numbers that the frames of a video show."""
    frames = video.read_frames(source, range(video.count_frames(source)))
    return np.round((frames.mean((1, 2, 3)) - 20) / 10).astype(int).tolist()


CLASSES = ("one", "two, 二")


def splits_of(root, train, val):
    return {
        "train": Samples([(name, number % 2, None) for number, name in enumerate(train)], CLASSES, root, "dense"),
        "val": Samples([(name, number % 2, None) for number, name in enumerate(val)], CLASSES, root, "dense"),
    }


@pytest.fixture
def data(tmp_path):
    """Five training videos of several kinds, two of them bad, and one for testing."""
    root = tmp_path / "data"
    encode(root / "a b" / "long.mp4", frames=numbered(20, width=96), options={"g": "250", "bf": "3"})
    encode(root / "a b" / "视频.avi", "mpeg4", numbered(20), options={"g": "12", "bf": "2", "b": "4M"})
    save_images(root / "folder.1", numbered(20))
    (root / "text.mp4").write_text("no video")
    encode(root / "val.webm", "libvpx-vp9", numbered(9))
    return splits_of(root, ["a b/long.mp4", "text.mp4", "a b/视频.avi", "no.mp4", "folder.1"], ["val.webm"])


def test_the_result_is_the_same_data_set_with_smaller_frames(tmp_path, data):
    import av

    before, out = everything(tmp_path / "data"), tmp_path / "out"
    seen = []
    made = prepare(data, out, short_side=32, gop=4, on_done=lambda *counts: seen.append(counts))
    assert seen == [(done, 6) for done in range(7)]
    assert (made.encoded, made.listed, made.good) == (4, {"train": 5, "val": 1}, {"train": 3, "val": 1})
    assert made.failed == {"unreadable": 1, "missing": 1}
    assert made.loading.videos == 3 and made.loading.before > 0 and made.loading.after > 0
    assert everything(tmp_path / "data") == before

    train, val = (load_samples("list", out, split) for split in ("train", "val"))
    assert [train.path(i) for i in range(3)] == ["videos/a b/long.mp4", "videos/a b/视频.mp4", "videos/folder.1.mp4"]
    assert [(label, frames) for _, label, frames in train] == [(0, 20), (0, 20), (0, 20)]
    assert val[0][1:] == (0, 9) and val.classes == train.classes == CLASSES
    assert (out / "failed.csv").read_text().splitlines()[0] == "path,reason"
    reasons = dict(line.split(",", 1) for line in (out / "failed.csv").read_text().splitlines()[1:])
    assert reasons["no.mp4"] == "missing" and reasons["text.mp4"].startswith("unreadable: ")
    record = json.loads((out / "prepared.json").read_text())
    assert record["parameters"] == {"short_side": 32, "gop": 4}
    assert record["splits"]["train"] == {"listed": 5, "videos": 3, "fingerprint": data["train"].fingerprint}
    assert record["sampling"] == "dense" and record["flip"] is False and record["clips_per_second"]["videos"] == 3

    for source, _, frames in [*train, *val]:
        assert numbers(source) == list(range(frames))
        with av.open(source) as container:
            packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
        assert all(packet.pts == packet.dts for packet in packets)  # no frame waits for a later one
        assert [packet.is_keyframe for packet in packets] == [index % 4 == 0 for index in range(frames)]
    assert video.read_frames(train[0].source, [0]).shape == (1, 32, 64, 3)
    assert not list(out.rglob("*partial*"))


@pytest.mark.parametrize(
    ("before", "after"), [((48, 64), (48, 64)), ((49, 65), (48, 64)), ((100, 176), (64, 112)), ((176, 99), (114, 64))]
)
def test_sizes(tmp_path, before, after):
    save_images(tmp_path / "data" / "video", numbered(2, *before))
    prepare({"train": splits_of(tmp_path / "data", ["video"], [])["train"]}, tmp_path / "out", 64, workers=1)
    assert video.read_frames(tmp_path / "out" / "videos" / "video.mp4", [1]).shape[1:3] == after


def test_only_what_is_new_is_done_again(tmp_path, data):
    out = tmp_path / "out"
    prepare(data, out, 32)
    before = everything(out / "videos")
    assert prepare(data, out, 32).encoded == 0
    assert everything(out / "videos") == before

    encode(tmp_path / "data" / "val.webm", "libvpx-vp9", numbered(5))
    encode(tmp_path / "data" / "no.mp4", frames=numbered(6))
    (out / "videos" / "a b" / "long.mp4").unlink()
    with open(out / "done.csv", "a") as file:
        file.write("videos/folder.1.mp4,3")  # cut off in the writing
    made = prepare(data, out, 32)
    assert made.encoded == 3 and made.failed == {"unreadable": 1}
    now = everything(out / "videos")
    assert {path.name for path in now if now[path] != before.get(path)} == {"val.mp4", "no.mp4", "long.mp4"}
    assert load_samples("list", out, "val")[0].num_frames == 5
    assert [sample.num_frames for sample in load_samples("list", out, "train")] == [20, 20, 6, 20]


def test_an_interrupted_call_leaves_no_partial_video_and_resumes(tmp_path, data):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    others = set(multiprocessing.active_children())  # of earlier tests
    with pytest.raises(KeyboardInterrupt):
        prepare(data, out, 32, on_done=stop)
    assert set(multiprocessing.active_children()) <= others
    assert not (out / "train.txt").exists() and not (out / ".partial").exists()
    (out / ".partial").mkdir()  # as a killed call leaves it
    (out / ".partial" / "0.mp4").write_text("partial")
    kept = everything(out / "videos")
    for path in kept:
        assert numbers(path) == list(range(video.count_frames(path)))
    assert prepare(data, out, 32).encoded == 4 - len(kept)
    assert kept.items() <= everything(out / "videos").items()
    assert not (out / ".partial").exists()


def test_a_full_disk_stops_it_and_makes_no_video_bad(tmp_path):
    encode(tmp_path / "data" / "a.mp4", frames=moving(60))
    samples = splits_of(tmp_path / "data", ["a.mp4"], [])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(OSError, match="too large"):
            prepare({"train": samples["train"]}, tmp_path / "out", 64, gop=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "out" / "failed.csv").read_text() == "path,reason\n"
    assert not list((tmp_path / "out").rglob("*.mp4"))


@pytest.mark.parametrize("moment", ["first", "last"])
def test_a_folder_whose_first_call_was_killed_or_found_no_room_is_not_refused(tmp_path, data, moment, monkeypatch):
    out, replace = tmp_path / "out", os.replace

    def full(source, target):
        if str(target).endswith("prepared.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left on device: .*prepared.json"):
        prepare(data, out, 32)
    monkeypatch.setattr(os, "replace", replace)
    if moment == "last":
        prepare(data, out, 32)
    for name in ("prepared.json", "train.txt") if moment == "last" else ("prepared.json",):
        (out / f".{name}.4711-0123abcd").write_text("{")  # as a killed call leaves it
    assert prepare(data, out, 32).good == {"train": 3, "val": 1}
    assert [path.name for path in out.glob(".*")] == [".lock"]


@pytest.mark.parametrize("name", ["parameters", "versions", "splits"])
def test_a_damaged_record_is_named(tmp_path, data, name):
    record = {"parameters": {"short_side": 32, "gop": 8}, "versions": {}, "splits": {}}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prepared.json").write_text(json.dumps(record | {name: 3}))
    with pytest.raises(ValueError, match=rf"prepared\.json is damaged: {name} must hold keys, got 3"):
        prepare(data, tmp_path / "out", 32)
    assert not (tmp_path / "out" / "videos").exists()


def test_two_calls_do_not_fill_one_folder(tmp_path, data):
    with files.locked(tmp_path / "out"), pytest.raises(ValueError, match="another process is writing to .*out"):
        prepare(data, tmp_path / "out", 32)
    prepare(data, tmp_path / "out", 32)


def test_two_sources_never_become_one_file(tmp_path):
    root = tmp_path / "data"
    for name, length in {"a.mp4": 3, "a.avi": 4, "A.mp4": 5, "b.mp4": 6}.items():
        encode(root / name, "mpeg4", numbered(length))
    samples = splits_of(root, ["a.mp4", "a.avi", "b.mp4"], ["A.mp4"] if len(list(root.iterdir())) == 4 else [])
    if not len(samples["val"]):
        del samples["val"]
    prepare(samples, tmp_path / "out", 32, workers=1)
    lines = (tmp_path / "out" / "train.txt").read_text().splitlines()
    assert (
        lines[0].startswith("videos/a.mp4.mp4 ")
        and lines[1] == "videos/a.avi.mp4 4 1"
        and lines[2] == "videos/b.mp4 6 0"
    )
    names = dict.fromkeys(["a.avi", "a.mp4", "a.avi.mp4"])
    assert list(preparing._targets(names, root).values()) == [
        f"videos/{name}.mp4" for name in ("a.avi", "a.mp4", "a.avi~")
    ]


def test_a_file_name_that_is_no_text_becomes_one(tmp_path):
    root = tmp_path / "data"
    names = [os.fsdecode(name) for name in (b"a\xff.mp4", b"a\xfe.mp4", b"b\xff.mp4")]
    for length, name in enumerate(names, start=4):
        os.rename(encode(root / "new.mp4", frames=moving(length)), root / name)
    samples = splits_of(root, names, [])
    del samples["val"]
    prepare(samples, tmp_path / "out", 32, workers=1)
    lines = (tmp_path / "out" / "train.txt").read_text(encoding="utf-8").splitlines()
    assert [line.rpartition(" ")[0] for line in lines] == [
        "videos/a\ufffd.mp4.mp4 4",
        "videos/a\ufffd.mp4~.mp4 5",
        "videos/b\ufffd.mp4 6",
    ]
    assert prepare(samples, tmp_path / "out", 32, workers=1).encoded == 0


def test_a_truncated_video_is_left_out(tmp_path):
    root = tmp_path / "data"
    cut(encode(root / "cut.avi", "mpeg4", moving(60)))
    encode(root / "short.mp4", frames=moving(4))
    encode(root / "good.mp4", frames=moving(4))
    rows = [("cut.avi", 0, None), ("short.mp4", 0, 5), ("good.mp4", 0, 4)]
    made = prepare({"val": Samples(rows, CLASSES, root)}, tmp_path / "out", 32)
    assert made.failed == {"truncated": 1, "fewer frames than listed": 1}
    assert [path.name for path in (tmp_path / "out" / "videos").iterdir()] == ["good.mp4"]


def test_invalid_parameters(tmp_path, data):
    out = tmp_path / "out"
    for arguments, message in [
        ({"short_side": 33}, "even"),
        ({"gop": 0}, "gop"),
        ({"out": tmp_path / "data" / "small"}, "own folder"),
        ({"out": tmp_path / "data"}, "own folder"),
        ({"out": tmp_path}, "not empty"),
        ({"splits": {}}, "at least one split"),
        ({"splits": data | {"val": Samples([("val.webm", 0, None)], ("x",), tmp_path / "data")}}, "classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare(**{"splits": data, "out": out} | arguments)
        assert not out.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    bad = {"train": splits_of(tmp_path / "data", ["text.mp4"], [])["train"]}
    with pytest.raises(ValueError, match="no video of train could be read"):
        prepare(bad, out, 32)
    with pytest.raises(ValueError, match="begun with .*'gop': 8}, not .*'gop': 9}"):
        prepare(data, out, 32, gop=9)
