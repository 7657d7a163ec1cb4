import functools
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from ctlib import files
from ctlib.data import digests, video
from ctlib.data.catalog import Samples
from ctlib.data.check import ProcessPool, check, journal, read_check, run_each
from tests.data.videos import cut, encode, encode_sound, everything, moving, save_images

LENGTH = 12


def samples_of(root, names, listed=()):
    return Samples([(name, 0, dict(listed).get(name)) for name in names], ("a",), root)


def test_every_fault_has_its_reason_and_no_video_changes(tmp_path):
    root = tmp_path / "data"
    codecs = {"h264.mp4": "libx264", "sub/mpeg4.avi": "mpeg4", "vp9.webm": "libvpx-vp9"}
    good = [encode(root / name, codec, moving()) for name, codec in codecs.items()]
    # Whole, though it states more frames than it has: some were dropped when it was made.
    times = [time for time in range(2 * LENGTH) if time % 4 in (0, 3)]
    good += [encode(root / "dropped.avi", "mpeg4", moving(), times=times)]
    save_images(root / "folder", moving())
    save_images(root / "short folder", moving(LENGTH - 1))
    (root / "empty folder").mkdir()
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("no video")
    encode_sound(root / "sound.mp4")
    for name, codec in {"cut.mp4": "libx264", "cut.avi": "mpeg4", "cut.webm": "libvpx-vp9"}.items():
        cut(encode(root / name, codec, moving(60), {"g": "1"}))
    encode(root / "short.mp4", frames=moving())
    before = everything(root)
    expected = {
        "no.mp4": "missing",
        "no folder": "missing",
        "empty folder": "unreadable",
        "empty.mp4": "unreadable",
        "text.mp4": "unreadable",
        "sound.mp4": "no video stream",
        "cut.mp4": "unreadable",
        "cut.avi": "truncated",
        "cut.webm": "truncated",
        "short.mp4": "fewer frames than listed",
        "short folder": "fewer frames than listed",
    }
    names = [path.relative_to(root).as_posix() for path in good] + ["folder"]
    samples = samples_of(root, [*names, *expected], {"short.mp4": LENGTH + 1, "short folder": LENGTH, "folder": LENGTH})
    summary = check(samples, tmp_path / "checked")
    frames, reasons = read_check(tmp_path / "checked")
    assert frames == dict.fromkeys(names, LENGTH)
    assert {path: reason.partition(":")[0] for path, reason in reasons.items()} == expected
    assert reasons["short.mp4"].endswith(f"listed {LENGTH + 1}, decoded {LENGTH}")
    assert "seconds" in reasons["cut.avi"] and "seconds" in reasons["cut.webm"]
    assert str(root) not in "".join(reasons.values())
    assert (summary.checked, summary.listed, summary.good) == (len(samples), len(samples), len(names))
    assert summary.bad["unreadable"] == 4 and list(summary.bad)[0] == "unreadable" and sum(summary.bad.values()) == 11
    assert everything(root) == before


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, 1e10])
def test_a_limit_that_is_none_is_refused(tmp_path, seconds):
    samples = made(tmp_path / "data", ["n1"])
    with pytest.raises(ValueError, match="the limit of a video must be above 0 and below a million seconds, got "):
        check(samples, tmp_path / "checked", limit_seconds=seconds)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a file that is always full")
def test_a_full_disk_is_reported_with_the_list_that_it_cuts(tmp_path, monkeypatch):
    def opened(path, mode, **options):
        return open("/dev/full", "w", newline="") if mode == "a" else open(path, mode, **options)  # noqa: SIM115

    monkeypatch.setattr(sys.modules[check.__module__], "open", opened, raising=False)
    full = r"^\[Errno 28\] No space left on device: '.*bad.csv'$"
    with pytest.raises(OSError, match=full), journal(tmp_path / "bad.csv", ("path", "reason")):
        pass


def count_or_fail(source):
    """A decoder that does what the file's name says."""
    name = Path(source).stem
    time.sleep(0.05)
    if name == "hangs":
        while True:
            time.sleep(1)
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "broken":
        raise video.VideoError(f"{source}: a reason")
    if name == "bug":
        raise TypeError("a bug of ours")
    return int(name[1:])


def made(root, names):
    """A root with sources of these names, for `count_or_fail`."""
    root.mkdir(exist_ok=True)
    for name in names:
        (root / name).mkdir()  # a folder of frames has no container that could state another number
    return samples_of(root, names)


def test_a_decoder_that_hangs_or_crashes_makes_the_video_bad(tmp_path):
    others = set(multiprocessing.active_children())  # of earlier tests
    samples = made(tmp_path / "data", ["n1", "hangs", "n2", "dies", "n3", "n4"])
    began = time.monotonic()
    summary = check(samples, tmp_path / "checked", limit_seconds=1, decode=count_or_fail)
    assert time.monotonic() - began < 10
    good, bad = read_check(tmp_path / "checked")
    assert good == {"n1": 1, "n2": 2, "n3": 3, "n4": 4}
    assert bad == {"hangs": "hangs: not done after 1 seconds", "dies": "crash: its process ended with SIGKILL"}
    assert summary.bad == {"hangs": 1, "crash": 1}
    assert set(multiprocessing.active_children()) <= others


def test_an_interrupted_check_resumes(tmp_path):
    others = set(multiprocessing.active_children())  # of earlier tests
    samples, folder = made(tmp_path / "data", [f"n{i}" for i in range(1, 9)] + ["broken"]), tmp_path / "checked"

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(samples, folder, on_done=stop, decode=count_or_fail)
    assert set(multiprocessing.active_children()) <= others
    good, bad = read_check(folder)
    assert len(good) + len(bad) == 4

    with open(folder / "good.csv", "a") as file:
        file.write("n8,1")  # of n8,123: killed in the middle of a line
    (folder / ".good.csv.4711-0123abcd").touch()  # of one that was killed while it wrote a list anew
    assert read_check(folder) == (good, bad)
    seen = []
    summary = check(samples, folder, on_done=lambda *counts: seen.append(counts), decode=count_or_fail)
    assert seen == [(done, 9) for done in range(4, 10)] and summary == (5, 9, 8, {"unreadable": 1})
    assert read_check(folder) == ({f"n{i}": i for i in range(1, 9)}, {"broken": "unreadable: a reason"})
    assert {path.name for path in folder.iterdir()} == {"good.csv", "bad.csv", ".lock"}


def test_nothing_is_checked_twice_unless_asked(tmp_path):
    samples, folder = made(tmp_path / "data", ["n1", "n2", "dies"]), tmp_path / "checked"
    other = samples_of(samples.root, ["n1", "n7"])  # another split, in the same folder
    (samples.root / "n7").mkdir()
    check(samples, folder, decode=count_or_fail)
    check(other, folder, decode=count_or_fail)
    kept = everything(folder)
    assert check(samples, folder, decode=count_or_fail).checked == 0
    assert everything(folder).keys() == kept.keys() and read_check(folder)[0] == {"n1": 1, "n2": 2, "n7": 7}
    shutil.rmtree(samples.root / "dies")
    assert check(samples, folder, decode=count_or_fail, again="bad").checked == 1
    shutil.rmtree(samples.root / "n2")
    summary = check(samples, folder, decode=count_or_fail, again="all")
    assert summary.checked == 3 and read_check(folder)[0]["n7"] == 7
    with pytest.raises(ValueError, match="again"):
        check(samples, folder, again="some")


def of_size(source):
    """A decoder for which a byte, or a file in a folder, is a frame; none is an error."""
    frames = len(os.listdir(source)) if os.path.isdir(source) else os.path.getsize(source)
    if not frames:
        raise video.VideoError(f"{source}: empty")
    return frames


def test_what_changed_since_it_was_checked_is_checked_again(tmp_path):
    root, folder = tmp_path / "data", tmp_path / "checked"
    names = ["same", "longer", "touched", "gone", "repaired", "came", "frames"]
    (root / "frames").mkdir(parents=True)
    for name in ("same", "longer", "touched", "gone"):
        (root / name).write_bytes(b"12345")
    for name in ("repaired", "frames/1.jpg"):
        (root / name).touch()
    samples = samples_of(root, names)
    assert check(samples, folder, decode=of_size).bad == {"unreadable": 1, "missing": 1}
    assert check(samples, folder, decode=of_size).checked == 0 and samples.only_good(folder).notes == ()
    (root / "longer").write_bytes(b"1234567")
    os.utime(root / "touched", ns=(0, 5))
    (root / "gone").unlink()
    (root / "frames" / "2.jpg").touch()
    for name in ("repaired", "came"):
        (root / name).write_bytes(b"123")
    kept = samples.only_good(folder)
    assert kept.notes == ("6 of 7 videos have changed since they were checked, such as 'came': run check-videos again",)
    assert {kept.path(index): kept[index].num_frames for index in range(len(kept))} == {
        "same": 5,
        **dict.fromkeys(("longer", "touched", "gone", "frames")),
    }
    assert check(samples, folder, decode=of_size).checked == 6
    assert read_check(folder) == (
        {"same": 5, "longer": 7, "touched": 5, "repaired": 3, "came": 3, "frames": 2},
        {"gone": "missing"},
    )
    assert check(samples, folder, decode=of_size).checked == 0
    assert samples.only_good(folder).notes == ()


def test_results_of_earlier_checks_count_and_get_the_new_columns(tmp_path):
    samples, folder = made(tmp_path / "data", ["n1", "n2", "broken"]), tmp_path / "checked"
    folder.mkdir()
    (folder / "good.csv").write_text("path,frames\nn1,1\n")
    (folder / "bad.csv").write_text("path,reason\nbroken,truncated\n")
    assert check(samples, folder, decode=count_or_fail).checked == 1
    first, one, two = (folder / "good.csv").read_text().splitlines()
    assert (first, one) == ("path,frames,bytes,modified", "n1,1,,") and two.startswith("n2,2,0,")
    assert (folder / "bad.csv").read_text() == "path,reason,bytes,modified\nbroken,truncated,,\n"
    assert read_check(folder) == ({"n1": 1, "n2": 2}, {"broken": "truncated"})
    assert samples_of(samples.root, ["n1", "n2"]).only_good(folder).notes == ()


def test_a_root_that_is_gone_costs_no_result(tmp_path):
    samples, folder = made(tmp_path / "data", ["n1"]), tmp_path / "checked"
    check(samples, folder, decode=count_or_fail)
    shutil.rmtree(samples.root)
    with pytest.raises(FileNotFoundError, match="data is gone; the results so far are kept"):
        check(samples, folder, decode=count_or_fail)
    assert read_check(folder) == ({"n1": 1}, {})


def test_a_list_that_states_more_frames_has_its_videos_checked_again(tmp_path):
    samples, folder = made(tmp_path / "data", ["n5", "n9"]), tmp_path / "checked"
    check(samples, folder, decode=count_or_fail)
    more = samples_of(samples.root, ["n5", "n9"], {"n5": 6, "n9": 9})
    assert check(more, folder, decode=count_or_fail) == (1, 2, 1, {"fewer frames than listed": 1})
    assert read_check(folder) == ({"n9": 9}, {"n5": "fewer frames than listed: listed 6, decoded 5"})


def test_names_survive_the_lists_and_a_root_that_moves(tmp_path):
    names = ["a,b/n1", 'say "x"/n2', "视频/n3", " spaced /n4"]
    samples = samples_of(tmp_path / "data", names)
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
    check(samples, tmp_path / "data" / ".checked", decode=count_or_fail)
    (tmp_path / "data").rename(tmp_path / "moved")
    good, bad = read_check(tmp_path / "moved" / ".checked")
    assert good == {name: number for number, name in enumerate(names, start=1)} and bad == {}
    assert check(samples_of(tmp_path / "moved", names), tmp_path / "moved" / ".checked").checked == 0


def test_other_errors_do_not_make_a_video_bad(tmp_path):
    with pytest.raises(TypeError, match="a bug of ours"):
        check(made(tmp_path / "data", ["n1", "bug"]), tmp_path / "checked", decode=count_or_fail)
    assert "bug" not in read_check(tmp_path / "checked")[1]
    gone = samples_of(tmp_path / "gone", ["broken"])
    with pytest.raises(FileNotFoundError, match="gone"):
        check(gone, tmp_path / "checked", decode=count_or_fail)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("path,frames\na,1\nb\n", "", "good.csv, line 3"),
        ("path,frames\na,many\n", "", "good.csv, line 2: needed a number"),
        ("path,frames\na,0\n", "", "good.csv, line 2"),
        ("frames,path\n", "", "good.csv, line 1"),
        ('path,frames\n"a"b,1\n', "", "good.csv, line 2"),
        ("path,frames\na,1\n", "path,reason\na,missing\n", "bad.csv, line 2: 'a' is in good.csv too"),
        ("", "path,reason\na,\n", "bad.csv, line 2"),
        ("path,frames,bytes,modified\na,1,2\n", "", "good.csv, line 2"),
        ("path,frames,bytes,modified\na,1,2,soon\n", "", "good.csv, line 2: needed a time in nanoseconds"),
        ("path,frames,bytes,modified\na,,2,3\n", "", "good.csv, line 2: needed a number of frames"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, good, bad, message):
    (tmp_path / "good.csv").write_text(good)
    (tmp_path / "bad.csv").write_text(bad)
    with pytest.raises(ValueError, match=message):
        read_check(tmp_path)


def test_there_must_be_a_folder_of_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match="check-videos"):
        read_check(tmp_path / "none")
    assert read_check(tmp_path) == ({}, {})


def test_a_pool_that_broke_is_an_error_that_says_so(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Unexpected error within the Pool")

    monkeypatch.setattr(ProcessPool, "schedule", refuse)
    with pytest.raises(ChildProcessError, match="the worker processes ended before their work: Unexpected"):
        next(run_each(count_or_fail, Path(), {"n1": ()}, workers=1, limit_seconds=1))


def test_two_checks_do_not_write_to_one_folder(tmp_path, monkeypatch):
    samples = made(tmp_path / "data", ["n1"])
    check(samples, tmp_path / "checked", decode=count_or_fail)
    monkeypatch.setattr(files, "locked", functools.partial(files.locked, timeout=0))
    with files.locked(tmp_path / "checked"):
        for write in (check, digests.compare):
            with pytest.raises(ValueError, match="another process is writing to .*checked"):
                write(samples, tmp_path / "checked")
