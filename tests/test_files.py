"""What writers that are killed leave, and who may remove it."""

import errno
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from ctlib import files
from ctlib.data import encoding

PARTIAL = "4711-0123abcd"


def leave(folder, name, kind="folder"):
    """What a killed writer of `name` leaves in a folder."""
    path = folder / f".{name}.{PARTIAL}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        path.mkdir()
        path = path / "video.mp4"
    path.write_text("partial")
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["arrow-1", "my [1] set*", "it's.v2"])
def test_the_next_writer_of_a_folder_removes_what_killed_ones_left(tmp_path, name):
    kept = [".git", ".arrow-personal", f".{name}-private", f".{name}.4711", f".other.{PARTIAL}", "arrow-2"]
    for other in kept:
        (tmp_path / other).mkdir()
    for _ in range(2):
        leave(tmp_path, name).parent.rename(tmp_path / f".{name}.{len(names(tmp_path))}-0123abcd")
    with files.whole_folder(tmp_path / name) as partial:
        (partial / "a").touch()
        assert names(tmp_path) == sorted([*kept, partial.name, f".{(tmp_path / name).stem}.lock"])
    assert names(tmp_path) == sorted([*kept, name]) and names(tmp_path / name) == ["a"]
    with pytest.raises(FileExistsError, match="exists already"), files.whole_folder(tmp_path / name):
        pass


def test_a_failed_writer_leaves_nothing_that_is_taken_for_a_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.whole_folder(tmp_path / "set"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    with files.whole_folder(tmp_path / "set"):
        pass
    assert names(tmp_path) == ["set"]


def test_of_several_writers_one_writes_and_the_others_wait(tmp_path):
    written, refused = [], []

    def write():
        try:
            with files.whole_folder(tmp_path / "set") as partial:
                time.sleep(0.05)
                written.append(partial)
        except FileExistsError as error:
            refused.append(error)

    writers = [threading.Thread(target=write) for _ in range(5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(written) == 1 and len(refused) == 4 and names(tmp_path) == ["set"]


def write_and_wait(root, ready):
    with files.whole_folder(root):
        ready.set()
        time.sleep(60)


def test_what_a_living_writer_writes_stays_until_it_is_killed(tmp_path):
    leave(tmp_path, "set-1")
    leave(tmp_path, "set-3.bytes", "file")
    leave(tmp_path, "other")
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    writer = context.Process(target=write_and_wait, args=(tmp_path / "set-2", ready))
    writer.start()
    assert ready.wait(10)
    files.remove_abandoned(tmp_path, "set-*")
    left = names(tmp_path)
    assert len(left) == 3 and left[0] == f".other.{PARTIAL}" and left[2] == ".set-2.lock"
    assert left[1].startswith(f".set-2.{writer.pid}-")
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    files.remove_abandoned(tmp_path, "set-*")
    assert names(tmp_path) == left[:1]


def test_the_next_writer_of_a_file_removes_what_killed_ones_left(tmp_path):
    path = tmp_path / "my [1] set*.csv"
    leave(tmp_path, path.name, "file")
    kept = leave(tmp_path, "b.csv", "file")

    def write(partial):
        partial.write_text("written by the slower one")
        files.write_text(path, "by the faster one")
        assert names(tmp_path) == sorted([kept.name, partial.name, path.name])

    files.write_atomically(path, write)
    assert names(tmp_path) == sorted([kept.name, path.name]) and path.read_text() == "written by the slower one"


def test_a_full_disk_is_reported_with_the_file(tmp_path):
    def write(partial):
        partial.write_text("begun")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left on device: .*/a.json"):
        files.write_atomically(tmp_path / "a.json", write)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_reported_by_the_writer_of_videos(tmp_path):
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    path = tmp_path / "none" / "a.mp4"
    with pytest.raises(FileNotFoundError, match="No such file or directory: '.*/none/a.mp4'"):
        files.write_atomically(path, lambda partial: encoding.write_video(partial, frames, fps=12))
    (tmp_path / "none").write_text("a file")
    with pytest.raises(NotADirectoryError, match="Not a directory: '.*/none/a.mp4'"):
        files.write_atomically(path, lambda partial: partial.write_text("x"))
