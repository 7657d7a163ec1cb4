"""What a user types after `ctlib` to use a trained network."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ctlib import checkpoints, prediction
from ctlib.commands import main, networks
from ctlib.data import encoding
from ctlib.data.views import View
from ctlib.display import overlay
from ctlib.models import build_model, model_config
from tests import ROOT

VIEW = View(num_frames=2, size=32, short_side=32, sampling="mirrored")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    model = build_model(model_config("tsn_quickstart", num_classes=16, num_frames=2))
    nn.init.normal_(model.fc.weight)
    return model, tmp_path_factory.mktemp("networks") / "c.safetensors"


@pytest.fixture
def checkpoint(trained, val_samples):
    model, path = trained
    if not path.exists():
        checkpoints.save(path, model, val_samples.classes, VIEW)
    return str(path)


@pytest.fixture
def clips(tmp_path):
    """Two videos, and between them a file that is none."""
    frames = np.random.default_rng(0).integers(0, 255, (12, 40, 48, 3), dtype=np.uint8)
    for name in ("a.mp4", "c.mp4"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        encoding.write_video(tmp_path / "clips" / name, frames, fps=12)
    (tmp_path / "clips" / "b.mp4").write_text("no video")
    return tmp_path / "clips"


def test_predict_prints_classes_with_their_probabilities(checkpoint, clips, capsys):
    assert main(["predict", str(clips / "a.mp4"), "--checkpoint", checkpoint]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"{clips / 'a.mp4'}  (12 frames, 1.0 s)" and len(lines) == 5
    shares = [float(line.split()[0]) for line in lines]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100.2
    command = ["predict", str(clips / "a.mp4"), "--checkpoint", checkpoint, "--seconds", "0.5", "--top", "1"]
    assert main(command) == 0
    _, first, second, mean, line = capsys.readouterr().out.splitlines()
    assert first.startswith("  0.0 to 0.5 s  ") and second.startswith("  0.5 to 1.0 s  ")
    assert mean == "  mean of 2 windows" and " %  " in line


def test_without_a_checkpoint_the_network_that_ships_labels_as_the_readme_says(
    val_samples, tmp_path, monkeypatch, capsys
):
    line, _ = re.findall(r"^\.venv/bin/ctlib (predict .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    source, _, _ = val_samples[0]
    shutil.copy(source, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("clip.mp4  (48 frames, 2.0 s)\n") and len(shown.out.splitlines()) == 6
    assert shown.err.endswith(
        "no --checkpoint: labels are those of ctnet_quickstart_arrow, which knows 16 synthetic actions\n"
    )


def test_predict_names_a_video_that_cannot_be_read_and_labels_the_others(checkpoint, clips, capsys):
    assert main(["predict", str(clips), "--checkpoint", checkpoint, "--json"]) == 1
    shown = capsys.readouterr()
    records = json.loads(shown.out)
    assert [record["video"][-5:] for record in records] == ["a.mp4", "b.mp4", "c.mp4"]
    assert "b.mp4" in records[1]["error"] and len(records[0]["top"]) == 5 and records[0]["top"] == records[2]["top"]
    assert shown.err.startswith(f"python -m ctlib predict: {clips / 'b.mp4'}: ") and shown.err.count("\n") == 1


def test_predict_writes_any_file_name_as_json(checkpoint, clips, capsysbinary):
    name = os.fsdecode(os.fsencode(clips) + b"/\xff.mp4")
    shutil.copy(clips / "a.mp4", name)
    assert main(["predict", name, "--checkpoint", checkpoint, "--json"]) == 0
    (record,) = json.loads(capsysbinary.readouterr().out)
    assert record["video"] == name


@pytest.mark.parametrize(
    ("encoding", "name", "shown"),
    [
        ("utf-8", b"\xff.mp4", b"\xff.mp4"),
        ("ascii", "\u00e9.mp4".encode(), b"\\xe9.mp4"),
        ("utf-8", b"a\nb.mp4", b"a b.mp4"),
    ],
)
def test_predict_prints_any_file_name_in_a_line(checkpoint, clips, monkeypatch, encoding, name, shown):
    path = os.fsdecode(os.fsencode(clips) + b"/" + name)
    shutil.copy(clips / "a.mp4", path)
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding))
    assert main(["predict", path, "--checkpoint", checkpoint]) == 0
    assert out.getvalue().splitlines()[0] == os.fsencode(clips) + b"/" + shown + b"  (12 frames, 1.0 s)"


def test_predict_writes_overlays(checkpoint, clips, tmp_path, capsys):
    command = ["predict", str(clips / "*.mp4"), "--checkpoint", checkpoint, "--overlay"]
    assert main([*command, str(tmp_path / "out")]) == 1  # b.mp4 is no video
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "c.mp4"]
    assert "out/c.mp4: no tube: the network's last map has " in capsys.readouterr().err
    one = ["predict", str(clips / "a.mp4"), *command[2:]]
    assert main([*one, str(tmp_path / "out")]) == 0
    assert "out/a.mp4: replaced; no tube: " in capsys.readouterr().err
    (tmp_path / "folder.MP4").mkdir()
    for arguments, out, text in (
        (command, tmp_path / "one.mp4", "3 videos are named: give --overlay a folder"),
        (command, clips, "an overlay would replace its video"),
        (one, tmp_path / "out.avi", "an overlay is an .mp4 file or a folder, got"),
        (one, tmp_path / "folder.MP4", "folder.MP4: it is a folder"),
        (one, clips / "b.mp4" / "a.mp4", "b.mp4 is no folder"),
    ):
        assert main([*arguments, str(out)]) == 2, text
        shown = capsys.readouterr()
        assert text in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_overlays_of_a_folder_of_class_folders_lie_in_such_folders(checkpoint, clips, tmp_path):
    (clips / "b.mp4").unlink()
    for name in ("down", "left"):
        shutil.copytree(clips, tmp_path / "set" / name)
    command = ["predict", str(tmp_path / "set"), "--checkpoint", checkpoint, "--overlay", str(tmp_path / "out")]
    assert main(command) == 0
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.mp4"))
    assert written == ["down/a.mp4", "down/c.mp4", "left/a.mp4", "left/c.mp4"]
    assert main([*command[:-1], str(tmp_path / "set")]) == 2  # each would replace its video


def test_overlays_are_named_as_shortly_as_keeps_them_apart():
    assert networks._names(["x/v.avi", "z/frames.1", "z/w.mov"]) == ["v.mp4", "frames.1.mp4", "w.mp4"]
    assert networks._names(["z/x/v.avi", "z/y/v.mp4"]) == ["x/v.mp4", "y/v.mp4"]
    assert networks._names(["x/v.avi", "x/v.webm"]) == ["v.avi.mp4", "v.webm.mp4"]


def test_records_are_printed_when_an_overlay_fails_or_the_command_is_interrupted(
    checkpoint, clips, tmp_path, capsys, monkeypatch
):
    (clips / "b.mp4").unlink()
    command = ["predict", str(clips), "--checkpoint", checkpoint, "--json", "--overlay", str(tmp_path / "out")]

    def fails(path, scores, trained):
        if path.name == "c.mp4":
            raise OSError(28, "No space left on device", str(path))
        return ""

    monkeypatch.setattr(overlay, "write", fails)
    assert main(command) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert len(first["top"]) == len(second["top"]) == 5 and "overlay_error" not in first
    assert "No space left on device: " in second["overlay_error"]

    def interrupted(source, *_):
        if source.endswith("c.mp4"):
            raise KeyboardInterrupt
        return score(source, *_)

    score = prediction.score
    monkeypatch.setattr(prediction, "score", interrupted)
    assert main(command) == 130
    assert json.loads(capsys.readouterr().out) == [first]


def test_predict_warns_of_doubtful_labels_in_a_line_each(checkpoint, clips, capsys):
    (clips / "b.mp4").rename(clips / "b.gif")
    assert main(["predict", str(clips), "--checkpoint", checkpoint, "--size", "16", "--windows", "12"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("python -m ctlib predict: ")]
    assert [line.removeprefix("python -m ctlib predict: ") for line in lines] == [
        f"left out in the folder {clips}: 1 .gif",
        f"size 16 is below the 32 pixels of {checkpoint}",
        *(f"{clips / name}: a clip of 2 frames repeats some, as a window has 1" for name in ("a.mp4", "c.mp4")),
    ]


def test_predict_ends_quietly_when_nobody_reads_its_labels(checkpoint, clips):
    command = f"{sys.executable} -m ctlib predict {clips}/a.mp4 --checkpoint {checkpoint} 2>&1 >&3 | cat >&2"
    script = f"set -o pipefail; {{ {command}; }} 3> >(exec true); "
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 141 and done.stderr == ""


def test_predict_says_what_is_wrong_before_it_begins(checkpoint, clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    video = str(clips / "a.mp4")
    for arguments, text in (
        ([video, "--checkpoint", str(tmp_path / "none.safetensors")], "no checkpoint"),
        ([video, "--checkpoint", video], "a.mp4 is no checkpoint, or damaged: it cannot be read"),
        ([video, "--checkpoint", ""], "no checkpoint is named"),
        ([video, "--checkpoint", checkpoint, "--top", "0"], "top must be at least 1, got 0"),
        ([video, "--checkpoint", checkpoint, "--size", "64", "--short-side", "8"], "size must be at most short_side"),
        ([str(tmp_path / "x*"), "--checkpoint", checkpoint], "no video matches"),
        ([video, "--checkpoint", checkpoint, "--device", "cuda"], "this machine has no CUDA device"),
    ):
        assert main(["predict", *arguments]) == 2
        shown = capsys.readouterr()
        assert text in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_evaluate_tests_a_checkpoint_on_a_data_set(checkpoint, arrow_root, tmp_path, capsys):
    command = ["evaluate", checkpoint, "--root", str(arrow_root), "--workers", "0", "--save", str(tmp_path), "--json"]
    assert main(command) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["videos"], record["listed"], record["clips"], record["crops"]) == (32, 32, 1, 1)
    assert (record["num_frames"], record["size"], record["sampling"]) == (2, 32, "mirrored")
    low, high = record["top1_interval"]
    assert 0 <= low <= record["top1"] <= high <= 100 and record["top1"] <= record["top5"]
    (saved,) = tmp_path.iterdir()
    before = saved.stat().st_mtime_ns
    assert main(command[:-1]) == 0 and saved.stat().st_mtime_ns == before
    text = capsys.readouterr().out
    assert f"top-1     {record['top1']:.2f} %" in text and "videos    32 of 32 listed of arrow" in text
    assert main([*command, "--clips", "2", "--sampling", "sparse"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 2 and len(list(tmp_path.iterdir())) == 2
    assert main([*command[:-2], str(saved / "x")]) == 2  # below a file; said before a video is read
    assert f"{saved / 'x'} cannot be made: {saved} is no folder\n" in capsys.readouterr().err


def test_evaluate_says_how_much_of_a_folder_it_tests(trained, clips, tmp_path, capsys):
    root = tmp_path / "set"
    for name in ("left", "right"):
        for number in range(5):
            (root / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(clips / "a.mp4", root / name / f"{number}.mp4")
    record = {"data": "folder", "fingerprint": "aa-bb", "val_share": 0.4}
    file = tmp_path / "c.safetensors"
    checkpoints.save(file, build_model(model_config("tsn_quickstart", num_classes=2)), ("left", "right"), VIEW, record)
    command = ["evaluate", str(file), "--data", "folder", "--root", str(root), "--workers", "0"]
    for arguments, text in (
        ([], "4 of 10 videos in the folder (val_share 0.4; --split all: all of them)\n"),
        (["--val-share", "0.2"], "2 of 10 videos in the folder (val_share 0.2; --split all: all of them)\n"),
        (["--split", "all"], "10 of 10 videos in the folder\n"),
    ):
        assert main([*command, *arguments]) == 0
        shown = capsys.readouterr()
        assert text in shown.out
        assert f"{file} was tested on other videos of folder: it may have been trained on some of these\n" in shown.err
    assert main([*command, "--split", "all", "--val-share", "0.2"]) == 2
    assert "val_share divides a folder, and all of it was asked for, got 0.2" in capsys.readouterr().err
    for name in ("train", "test"):
        shutil.copytree(root, tmp_path / "split" / name)
    assert main([*command[:5], str(tmp_path / "split"), *command[6:], "--split", "test"]) == 0
    assert "10 of 20 videos in the folder\n" in capsys.readouterr().out
    (root / ("long " * 40)).mkdir()
    shutil.copy(clips / "a.mp4", root / ("long " * 40))
    assert main([*command, "--split", "all"]) == 2
    error = capsys.readouterr().err
    assert "1 that it does not have, such as 'long long" in error and len(error) < 350


def test_evaluate_says_what_is_missing(trained, checkpoint, arrow_root, tmp_path, capsys):
    old = tmp_path / "old.safetensors"
    checkpoints.save(old, trained[0], [f"class {index}" for index in range(16)])
    for arguments, text in (
        ([str(old), "--root", str(arrow_root)], "does not say at which size its network was tested: give --size"),
        ([checkpoint, "--data", "folder"], "--root must name the folder of the data: folder"),
        (
            [str(old), "--root", str(arrow_root), "--size", "32"],
            "has 16 classes, other ones than the 16 of the data: 16 that it does not have",
        ),
        ([str(tmp_path / "none.safetensors")], "no checkpoint"),
    ):
        assert main(["evaluate", *arguments]) == 2
        shown = capsys.readouterr().err
        assert text in shown and shown.count("\n") == 1
