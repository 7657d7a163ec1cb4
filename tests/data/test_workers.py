"""What a loader's processes need, and how their ends are told."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ctlib.config import DataConfig
from ctlib.data import clips, workers
from ctlib.data.video import VideoError

BUS = (
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)


def free(monkeypatch, megabytes):
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: SimpleNamespace(free=megabytes * 1e6))


@pytest.mark.parametrize("raw", [False, True])
def test_too_little_shared_memory_is_refused_before_a_process_starts(val_samples, tmp_path, monkeypatch, raw):
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    config = DataConfig(size=112, clips=2, crops=3, workers=2)
    pixels = 2 * 112 * 112 * 16 // 9 if raw else 2 * 3 * 112 * 112 * 4  # raw: frames of 16:9, a byte each
    batch = 16 // 6 * 3 * 8 * pixels / 1e6
    free(monkeypatch, 4 * batch - 0.1)
    with pytest.raises(
        ValueError, match=f"{tmp_path} has .* MB free, .* need {4 * batch:.1f} MB: set data.workers=0, or"
    ):
        clips.test_loader(val_samples, 8, config, 16, raw=raw)
    free(monkeypatch, 4 * batch)
    clips.test_loader(val_samples, 8, config, 16, raw=raw)
    free(monkeypatch, 0)
    clips.test_loader(val_samples, 8, DataConfig(size=112, workers=0), 16, raw=raw)
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "none")  # as on a Mac
    clips.test_loader(val_samples, 8, config, 16, raw=raw)


class Ends(Dataset):
    """Its processes end as told."""

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise self.how


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        (VideoError("/data/a b.mp4: no frame 3"), VideoError, r"/data/a b.mp4: no frame 3"),
        (FileNotFoundError("no folder /data"), FileNotFoundError, r"no folder /data"),
        ("killed", OSError, r"a loader process was killed, perhaps as memory ran out: .* \(DataLoader worker \(pid.*"),
    ],
)
def test_what_ends_a_process_is_one_line(how, kind, text):
    with pytest.raises(kind, match=f"^{text}$") as error, workers.one_line_errors():
        list(DataLoader(Ends(how), num_workers=1, multiprocessing_context="fork"))
    assert type(error.value) is kind and str(error.value).isprintable() and error.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BUS, "loader processes have too little of /dev/shm: set data.workers=0"),
        ("unable to write to file </torch_12_3_4>: No space left on device (28)", "too little of /dev/shm: set data"),
        ("unable to open shared memory object </torch_1> in read-write mode", "too little of /dev/shm"),
        ("Too many open files. Communication with the workers is no longer possible.", "raise `ulimit -n`"),
        ("DataLoader timed out after 600 seconds", "a loader process gives no clip: .* check-videos finds it"),
        ("DataLoader worker (pid(s) 4, 5) exited unexpectedly", "a loader process was killed"),
    ],
)
def test_what_the_machine_lacks_is_named_with_what_helps(text, reason):
    with pytest.raises(OSError, match=reason) as error, workers.one_line_errors():
        raise RuntimeError(text)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: out of memory"), ValueError("a"), torch.OutOfMemoryError()]
)
def test_other_errors_are_as_they_were(error):
    with pytest.raises(type(error)) as caught, workers.one_line_errors():
        raise error
    assert caught.value is error
