import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from ctlib.checkpoints import save
from ctlib.commands import COMMANDS, main
from ctlib.data import encoding
from ctlib.data.catalog import load_samples
from ctlib.data.check import read_check
from ctlib.data.views import View
from ctlib.models import build_model, model_config
from ctlib.study import systems, tables
from tests import ROOT


def test_help_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "ctlib", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^    {command}\s", done.stdout, re.MULTILINE)


def test_the_console_script_calls_itself_by_its_name(capsys):
    """As pip's wrapper does it: the entry point's function, under the script's name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
    module, function = project["scripts"]["ctlib"].split(":")
    wrapper = f"import sys; sys.argv[0] = '/bin/ctlib'; from {module} import {function}; sys.exit({function}())"
    typed = [sys.executable, "-c", wrapper, "arrow", "--root", "x", "--num-frames", "50"]
    done = subprocess.run(typed, capture_output=True, text=True)
    needed = "num_frames must be a multiple of 48, got 50"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"ctlib arrow: {needed}\n")
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"ctlib {project['version']}\n"


def test_the_command_comes_first(capsys):
    for arguments in (["--", "arrow"], [], ["arow"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
    assert "invalid choice: 'arow'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0 and "usage: python -m ctlib " + command in capsys.readouterr().out


def test_arrow_writes_a_data_set(tmp_path, capsys):
    arguments = ["arrow", "--root", str(tmp_path / "data"), "--train-clips", "2", "--val-clips", "2", "--size", "16"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "data")
    assert len((tmp_path / "data" / "train.txt").read_text().splitlines()) == 2
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_costs_prints_the_ledger(capsys, monkeypatch):
    """Of three tables: the rest is counted in tests/study/test_tables.py."""
    ledger = tables.ledger(("2c", "6", "8"))  # counted once for both formats
    monkeypatch.setattr(tables, "ledger", lambda: ledger)
    few = {key: systems.SYSTEMS[key] for key in (("3", "TSM, 8 frames"), ("4", "SlowFast R101 8+32"))}
    monkeypatch.setattr(systems, "SYSTEMS", few)
    assert main(["costs"]) == 0
    text = capsys.readouterr().out
    assert "Table 4, SlowFast R101 8+32: The published 106" in text and "2 rows: 1 met, 1 near" in text
    assert "19 of 20 published GFLOPs are met." in text and "19 of 19 published numbers of parameters" in text
    assert "Table 6, CT-Net 16x1x2: It cannot be met" in text
    assert main(["costs", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [record["model"] for record in printed["systems"]] == ["tsm_r50", "slowfast_r101_8x8"]
    records = {(record["table"], record["row"]): record for record in printed["ctnet"]}
    assert {table for table, _ in records} == {"2c", "6", "8"}
    names = ("gflops_paper", "gflops", "params_paper", "params")
    ours = [37.3, pytest.approx(37.319419), 21_000_000, 20_959_150]
    assert [records["8", "CT-Net ResNet-50"][name] for name in names] == ours
    assert any(table == "2c" and record["gflops_paper"] is None for (table, _), record in records.items())


def test_export_writes_the_network_of_a_checkpoint(tmp_path, capsys):
    pytest.importorskip("onnxscript")
    model = build_model(model_config("tsn_quickstart", num_classes=2))
    save(tmp_path / "checkpoint.safetensors", model, ("left", "right"))
    arguments = ["export", str(tmp_path / "checkpoint.safetensors"), str(tmp_path / "model.onnx")]
    assert main(arguments) == 2 and "give size, in pixels" in capsys.readouterr().err
    view = View(num_frames=2, size=32, short_side=32, sampling="sparse")
    save(tmp_path / "checkpoint.safetensors", model, ("left", "right"), view)
    assert main(arguments) == 0
    assert (tmp_path / "model.onnx").is_file() and "model.onnx: " in capsys.readouterr().out
    assert main(["export", str(tmp_path / "none.pt"), *arguments[2:]]) == 2
    assert "none.pt" in capsys.readouterr().err


@pytest.fixture
def clips(tmp_path):
    """A data set of four good videos, two of them for training."""
    root = tmp_path / "clips"
    assert main(["arrow", "--root", str(root), "--train-clips", "2", "--val-clips", "2", "--size", "16"]) == 0
    return root


def test_check_videos_states_the_coverage(clips, capsys):
    command = ["check-videos", "list", str(clips), "--workers", "1"]
    capsys.readouterr()
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "train, videos checked: 2 of 2" in shown.out and "\r" not in shown.err  # lines, as this is no terminal
    assert "train: 2 of 2 videos are good (100.0 %)\nval: 2 of 2 videos are good (100.0 %)\n" in shown.out
    assert set(read_check(clips / ".checked")[0].values()) == {48}

    (clips / "train" / "000000_forward.mp4").write_text("no video")
    assert main([*command, "--out", str(clips.parent / "other"), "--split", "train"]) == 1
    assert "train: 1 of 2 videos are good (50.0 %)\n  unreadable: 1\n" in capsys.readouterr().out
    assert main(command) == 1  # the file has changed since it was checked
    assert main([*command, "--again", "all"]) == 1
    assert main([*command, "--fold", "2"]) == 2
    assert "has no option 'fold'" in capsys.readouterr().err
    assert main([*command, "--workers", "0"]) == 2
    assert main(["check-videos", "list", str(clips / "nowhere")]) == 2


def test_check_videos_says_in_a_line_what_is_odd_about_the_lists(clips, capsys):
    tested = (clips / "val.txt").read_text()
    (clips / "train.txt").write_text((clips / "train.txt").read_text() + tested)
    assert main(["check-videos", "list", str(clips), "--workers", "1"]) == 0
    odd = r"(?m)^\S.*check-videos: .*2 of 2 test videos are trained on too, such as 'val/000000.*$"
    errors = capsys.readouterr().err
    assert re.search(odd, errors) and "UserWarning" not in errors


def test_check_videos_compares_digests(clips, capsys):
    command = ["check-videos", "list", str(clips), "--workers", "1", "--digests"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "train: 2 digests kept, 0 equal, 0 changed" in first
    assert "val: the good videos were compared with their digests on 20" in first
    path = clips / "train" / "000000_forward.mp4"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a disk that rots leaves the time of change
    assert main(command[:-1]) == 0
    assert "compared with their digests on 20" in capsys.readouterr().out
    assert main(command) == 1
    assert "train: 1 of 2 videos are good (50.0 %)\n  changed: 1\n" in capsys.readouterr().out


def test_interrupted_check_videos_says_that_it_resumes(clips, capsys, monkeypatch):
    monkeypatch.setattr("ctlib.data.check.check", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        assert main(["check-videos", "list", str(clips)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted; results are kept" in capsys.readouterr().err


def test_prepare_makes_a_data_set_and_compares_loading(clips, capsys):
    (clips / "train" / "000000_forward.mp4").unlink()
    out = str(clips.parent / "small")
    assert main(["prepare", "list", str(clips), out, "--short-side", "8", "--workers", "1"]) == 1
    text = capsys.readouterr().out
    assert "train: 1 of 2 videos are re-encoded (50.0 %)\nval: 2 of 2 videos are re-encoded (100.0 %)\n" in text
    assert "  missing: 1\n" in text and "times as fast)" in text
    assert len(load_samples("list", out, "train")) == 1
    assert main(["prepare", "list", str(clips), out, "--short-side", "10"]) == 2
    assert "was begun with {'short_side': 8" in capsys.readouterr().err


def test_where_a_folder_says_test_the_commands_say_it_too(clips, capsys):
    root, out = clips.parent / "own", clips.parent / "small"
    for split in ("train", "test"):
        for video in sorted((clips / "train").iterdir()):
            (root / split / video.stem).mkdir(parents=True)
            shutil.copy(video, root / split / video.stem)
    assert main(["prepare", "folder", str(root), str(out), "--split", "test", "train", "--workers", "1"]) == 0
    assert {path.name for path in out.glob("t*.txt")} == {"train.txt"} and len(load_samples("list", out, "val")) == 2
    assert main(["check-videos", "folder", str(root), "--split", "test", "--workers", "1"]) == 0
    assert "val: 2 of 2 videos are good" in capsys.readouterr().out
    assert main(["check-videos", "list", str(clips), "--split", "test"]) == 2
    assert "unknown split 'test'" in capsys.readouterr().err


def test_a_bad_value_is_one_line(tmp_path, capsys):
    assert main(["arrow", "--root", str(tmp_path / "x"), "--num-frames", "50"]) == 2
    assert capsys.readouterr().err == "python -m ctlib arrow: num_frames must be a multiple of 48, got 50\n"


def test_train_prints_its_plan_trains_and_recognises_a_finished_run(arrow_root, tmp_path, capsys):
    command = ["train", str(tmp_path), "--root", str(arrow_root), "--model", "tsn_quickstart", "--name", "TSN", "--set"]
    command += ["recipe.epochs=2", "recipe.batch=8", "recipe.warmup=0"]
    command += ["data.size=32", "data.workers=0", "model.num_frames=2"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "training videos         32 of 32 listed (100.0 %)" in text
    assert "TSN  epoch 2/2" in text and (tmp_path / "TSN" / "seed0" / "result.json").is_file()
    assert main(command) == 0
    assert "already finished" in capsys.readouterr().out
    assert main([*command, "recipe.lr=0.1"]) == 2
    assert "holds a run with other parameters" in capsys.readouterr().err
    assert main([*command, "recipe.epohcs=1"]) == 2
    assert "unknown key of RecipeConfig 'epohcs': did you mean 'epochs'" in capsys.readouterr().err


def test_from_a_folder_of_clips_to_a_label_as_the_readme_says(tmp_path, monkeypatch, capsys):
    """Then the run is shared from another folder, though ROOT was relative."""
    route = r"^\.venv/bin/ctlib (train runs --data folder .*)\n\.venv/bin/ctlib (predict .*)$"
    train, predict = re.search(route, (ROOT / "README.md").read_text(), re.MULTILINE).groups()
    noise = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for index in range(5):
            frames = noise.integers(0, 255, (8, 48, 64, 3), dtype=np.uint8)
            encoding.write_video(tmp_path / "clips" / name / f"{index}.mp4", frames, fps=8)
    shutil.copy(tmp_path / "clips" / "left" / "0.mp4", tmp_path / "new.mp4")
    monkeypatch.chdir(tmp_path)
    for forgetful in (["train", "runs"], ["evaluate", "ctnet_quickstart_arrow"]):
        assert main([*forgetful, "--root", "clips"]) == 2
        assert capsys.readouterr().err.endswith(
            "clips has class folders and no classes.txt: did you mean --data folder?\n"
        )
    assert main([*train.replace("~/", "").split(), "--set", "recipe.epochs=1", "data.workers=0"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"to label a video: ctlib {predict.replace('new.mp4', 'VIDEO')}"
    assert main(predict.split()) == 0
    head, *labels = capsys.readouterr().out.splitlines()
    assert head == "new.mp4  (8 frames, 1.0 s)" and sorted(line.split()[-1] for line in labels) == ["left", "right"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["share", "../runs/ctnet_quickstart/seed0", "out"]) == 0
