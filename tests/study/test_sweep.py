"""A run with its tests, and the loop over all runs; on networks trained for a step or two."""

import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import threading
import time

import pandas as pd
import pytest

from ctlib import files
from ctlib.commands import main
from ctlib.data.workers import STOPS
from ctlib.study import comparisons, results, sweep
from ctlib.study import jobs as study_jobs
from ctlib.study.jobs import is_finished, jobs, state, tables_dir
from ctlib.study.scales import Study
from tests.study.conftest import STUDY


def job_of(name, seed=0):
    return next(job for job in jobs(STUDY, ["2h", "6"], seeds=[seed]) if job.config.name == name)


def test_a_record_names_its_rows_and_the_tests_behind_them(small_study):
    job = job_of("ctnet_21px", 1)
    result = job.folder(small_study).result()
    assert result["rows"] == [["2h", "train 224, test 224"], ["2h", "train 224, test 256"]]
    (test,) = json.loads((job.folder(small_study).path / "tests.json").read_text())["tests"]
    assert test["rows"] == [["2h", "train 224, test 256"]] and (test["size"], test["clips"]) == (24, 1)
    assert (job.folder(small_study).path / test["scores"]).is_file()


def test_a_finished_run_is_not_done_again_and_learns_of_further_rows(small_study, tmp_path, monkeypatch):
    copy = shutil.copytree(small_study, tmp_path / "copy")
    monkeypatch.setattr(sweep, "resolve", lambda *_: pytest.fail("the data were read"))
    job = job_of("ctnet")
    before = job.folder(copy).result()
    assert sweep.complete(job, copy) == before
    custom = job._replace(config=dataclasses.replace(job.config, rows=(*job.config.rows, ("2b", "mine"))))
    assert (
        sweep.complete(custom, copy)["rows"] == [*before["rows"], ["2b", "mine"]] == job.folder(copy).result()["rows"]
    )


def test_a_run_that_is_trained_again_keeps_no_tests_of_the_one_before(small_study, tmp_path, monkeypatch):
    copy = shutil.copytree(small_study, tmp_path / "copy")
    job = job_of("ctnet_21px")
    folder = job.folder(copy).path
    assert (folder / "tests.json").is_file() and list((folder / "scores").iterdir())
    (folder / "result.json").unlink()
    monkeypatch.setattr(sweep, "resolve", lambda *_: None)
    monkeypatch.setattr(sweep, "train", lambda *_, **__: (_ for _ in ()).throw(InterruptedError("stopped")))
    with pytest.raises(InterruptedError):
        sweep.complete(job, copy)
    assert not (folder / "tests.json").exists() and not (folder / "scores").exists()


def test_tests_need_the_checkpoint(small_study, tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(small_study.parent / "study_cache"))
    copy = shutil.copytree(small_study, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint.*", "scores"))
    with pytest.raises(ValueError, match="checkpoint.safetensors does not exist, and tests need it: delete its folder"):
        sweep.complete(job_of("ctnet_21px"), copy)


def test_a_folder_of_another_study_is_refused(small_study):
    with pytest.raises(
        ValueError, match="holds another study .*scale 'laptop', and 'gpu' was asked for.*another folder"
    ):
        sweep.open_study(dataclasses.replace(STUDY, scale="gpu"), small_study)
    with pytest.raises(ValueError, match="holds another study .*overrides"):
        sweep.open_study(Study("laptop", STUDY.overrides + " recipe.lr=1.0"), small_study)
    sweep.open_study(Study("laptop", " ".join(reversed(STUDY.overrides.split()))), small_study)  # the same overrides


def test_tables_go_beside_a_folder_called_runs(tmp_path):
    assert tables_dir("results/runs").as_posix() == "results/ablations"
    assert tables_dir(tmp_path) == tmp_path


# The loop, with another command in place of a training: it finishes the run, fails, or waits.

COMMAND = """
import json, pathlib, sys, time, signal
folder = pathlib.Path(sys.argv[1])
print("begun", flush=True)
if {name!r} in str(folder):
    {does}
seed = int(folder.name[4:])
(folder / "result.json").write_text(json.dumps({{"top1": 50.0, "seconds": 1, "seed": seed, "hardware": {hardware!r}}}))
(folder / "done").touch()
"""


@pytest.fixture
def loop(tmp_path, monkeypatch):
    """The loop over Table 2c with seeds 0 and 1; its lines, and its result."""
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep, "_LOOK", 0.02)
    monkeypatch.setattr(sweep, "_write_data", lambda *_: None)
    monkeypatch.setattr(study_jobs, "kind_here", lambda compute: "EPYC")
    done = "finished", "to be trained"
    monkeypatch.setattr(study_jobs, "state", lambda job, out: done[not (job.folder(out).path / "done").exists()])

    def run(name, does, side_by_side=2, before=lambda out: None, seeds=(0, 1), **given):
        code = COMMAND.format(name=name, does=does, hardware="2 x EPYC")
        monkeypatch.setattr(
            sweep, "command", lambda study, job, out: [sys.executable, "-c", code, str(job.folder(out).path)]
        )
        lines, out = [], tmp_path / "out"
        before(out)
        wanted = jobs(STUDY, ["2c"], seeds=seeds)
        return lines, sweep.sweep(STUDY, out, wanted, side_by_side, show=lines.append, **given)

    return run


def test_every_run_is_done_once_and_a_failure_is_one_line_and_stops_nothing(loop):
    lines, swept = loop("serial/seed0", "sys.exit('no such luck')")
    assert swept == (["2c serial (ctnet_plain_serial), seed 0"], [], [], [])
    assert lines[0] == "6 runs, 0 of them finished" and len(lines) == 7 and lines[-1].startswith("6 of 6  ")
    (failed,) = [line for line in lines if "failed (" in line]
    assert "2c serial (ctnet_plain_serial), seed 0: failed (no such luck)" in failed
    lines, swept = loop("serial/seed0", "pass")
    assert lines[0] == "6 runs, 5 of them finished" and len(lines) == 2 and not swept.failed


def test_runs_are_spread_over_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for count, used, expected in ((0, [], ""), (1, [""], ""), (3, [], "0"), (3, ["0", "1", "0"], "2")):
        monkeypatch.setattr(sweep.torch.cuda, "device_count", lambda count=count: count)
        assert sweep._least_used_gpu(used) == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert sweep._least_used_gpu(["4"]) == "6"


def test_a_locked_run_is_left_to_the_process_that_holds_it(loop, tmp_path):
    job = jobs(STUDY, ["2c"])[0]
    with files.locked(job.folder(tmp_path / "out").path):
        lines, swept = loop("nothing", "pass")
    assert swept == ([], [job.label()], [], []) and len(lines) == 6


@pytest.mark.parametrize("number", STOPS)
def test_an_interrupted_loop_asks_its_runs_to_save_and_starts_no_more(loop, tmp_path, number):
    def interrupt(out):
        def when_two_run():
            while len([log for log in out.glob("*/*/log.txt") if log.read_text()]) < 2:
                time.sleep(0.02)
            time.sleep(0.3)  # until they have set their signal
            os.kill(os.getpid(), number)

        threading.Thread(target=when_two_run, daemon=True).start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as nohup does this one
    try:
        with pytest.raises(KeyboardInterrupt):
            loop("ctnet", SAVES, before=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGHUP, hangup)
    out = tmp_path / "out"
    assert len(list(out.glob("*/*/saved"))) == len(list(out.glob("*/*/log.txt"))) == 2


SAVES = "signal.signal(signal.SIGTERM, lambda *_: (folder / 'saved').touch() or sys.exit(1)); time.sleep(60)"


def test_when_the_time_is_over_runs_are_asked_to_save_and_no_more_begin(loop, tmp_path, monkeypatch):
    unknown = pd.DataFrame({"minutes": [math.nan] * 3})  # such runs are begun
    monkeypatch.setattr(sweep, "plan", lambda study, out, block, _: unknown[: len(block)])
    lines, swept = loop("ctnet", SAVES, minutes=4 / 60, seeds=(0,))
    assert len(swept.stopped) == 2 and len(swept.not_begun) == 1 and not swept.failed and len(lines) == 1
    assert len(list((tmp_path / "out").glob("*/*/saved"))) == 2


def test_a_run_that_does_not_fit_into_the_time_is_not_begun_nor_is_a_later_block(loop, tmp_path, monkeypatch):
    minutes = {"ctnet_plain_coupling": 5.0, "ctnet_plain_serial": 0.5}  # of the third nothing is known
    monkeypatch.setattr(study_jobs, "_minutes", lambda *_: minutes)
    monkeypatch.setattr(
        sweep, "plan", lambda *given: study_jobs.plan(*given).assign(minutes=lambda p: p.run.map(minutes))
    )
    _, swept = loop("nothing", "pass", minutes=1)
    assert swept.not_begun == [f"{LABELS[0]}, seed 0", *(f"{label}, seed 1" for label in LABELS)]
    assert not swept.stopped and len(list((tmp_path / "out").glob("*/seed0/done"))) == 2


LABELS = ["2c coupling (ctnet_plain_coupling)", "2c serial (ctnet_plain_serial)", "2c parallel (ctnet_plain)"]


def test_a_block_is_not_split_over_kinds_of_hardware(loop, tmp_path):
    def begun_elsewhere(out):
        folder = out / "other" / "seed0"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"seed": 0, "seconds": 1, "hardware": "NVIDIA H100"}))

    lines, swept = loop("nothing", "pass", before=begun_elsewhere)
    assert lines[1] == (
        "seed 0 is skipped: its runs are on NVIDIA H100, and a block is not split over kinds of hardware"
    )
    assert swept.not_begun == [f"{label}, seed 0" for label in LABELS] and len(lines) == 5
    assert len(list((tmp_path / "out").glob("*/seed1/done"))) == 3


def test_a_run_is_a_call_of_ctlib(small_study):
    study = Study("paper", "recipe.epochs=20 compute.device=cpu", {"something-v1": "/data/s 1"})
    words = sweep.command(study, jobs(study, ["2b"])[0], small_study)
    assert words[1:5] == ["-m", "ctlib", "ablations", str(small_study)]
    assert words[5:] == [
        "--scale", "paper", "--run", "ctnet_plain_1d", "--seeds", "0", "--something-v1-root", "/data/s 1",
        "--set", "recipe.epochs=20", "compute.device=cpu",
    ]  # fmt: skip
    on_gpu = sweep.command(dataclasses.replace(study, device="cuda"), jobs(study, ["2b"])[0], small_study)
    assert on_gpu[11:13] == ["--device", "cuda"]


def test_bad_input_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="side_by_side must be at least 1, got 0"):
        sweep.sweep(Study(), tmp_path / "out", [], side_by_side=0)
    with pytest.raises(ValueError, match="minutes must be above 0, got 0"):
        sweep.sweep(Study(), tmp_path / "out", [], minutes=0)
    with pytest.raises(ValueError, match="the folder of mini-kinetics-200 and of something-v1 is needed"):
        sweep.sweep(Study("paper"), tmp_path / "out", jobs(Study("paper"), ["2a", "7"]))
    assert not (tmp_path / "out").exists()


def test_a_broken_record_is_not_finished_and_stops_no_sweep(small_study, tmp_path):
    copy = shutil.copytree(small_study, tmp_path / "copy")
    job = job_of("ctnet")
    (job.folder(copy).path / "config.json").unlink()
    with pytest.raises(ValueError, match="holds no config.json"):
        state(job, copy)
    assert not is_finished(job, copy, results.measured(copy))


def test_the_command_line_lists_runs_and_does_one(small_study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CTLIB_CACHE", str(small_study.parent / "study_cache"))
    given = ["--set", *STUDY.overrides.split()]
    assert main(["ablations", str(tmp_path), "--tables", "2h", "--seeds", "0", "--list", *given]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["run"], first["seed"], first["gpus"], first["arrow"]["size"]) == ("ctnet_21px", 0, 0, 24)
    assert ["2h", "train 256, test 256"] in second["rows"] and not list(tmp_path.iterdir())
    copy = shutil.copytree(small_study, tmp_path / "copy")
    assert main(["ablations", str(copy), "--run", "ctnet_21px", "--seeds", "1", *given]) == 0
    assert "2h train 224, test 224 (ctnet_21px), seed 1: top-1" in capsys.readouterr().out
    assert main(["ablations", str(copy), "--run", "ctnet_22px", *given]) == 2
    assert "unknown run 'ctnet_22px': did you mean 'ctnet_21px'" in capsys.readouterr().err


def test_the_status_says_what_is_done_what_is_decided_and_what_comes_next(small_study, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparisons, "PAIRED", ())  # or the table would have no deviation
    given = ["--status", "--tables", "2h", "--set", *STUDY.overrides.split()]
    assert main(["ablations", str(tmp_path), *given]) == 0
    text = capsys.readouterr().out
    assert "runs done: 0\n" in text and "next block: 2 runs of seed 0; minutes, one run at a time: " in text
    assert "to the next look: 10 runs of seed 0, 1, 2, 3, 4" in text and "deviation" not in text
    assert not list(tmp_path.iterdir())
    copy = shutil.copytree(small_study, tmp_path / "copy")
    assert main(["ablations", str(copy), *given]) == 0
    text = capsys.readouterr().out
    assert "runs done: 4\n" in text and "residual standard deviation, points of top-1" in text
    assert "before the first look" in text and "next block: 2 runs of seed 2" in text
