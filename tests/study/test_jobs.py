"""Scales, the runs behind tables, what their records say, and the batch; on networks trained for a step or two."""

import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

from ctlib.backbones import InceptionBackbone
from ctlib.data.arrow import pair_of
from ctlib.models import build_model, model_config
from ctlib.study import jobs as ablation
from ctlib.study import results, scales, sweep, tables
from ctlib.study.comparisons import averaged, judge
from ctlib.training import evaluate, records

TINY = (
    "data.size=24 data.workers=0 recipe.epochs=1 recipe.warmup=0 recipe.batch=8 arrow.train_clips=16 "
    "arrow.val_clips=32 arrow.size=24"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Table 2h with two seeds, and of Table 6 one ensemble with one seed."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTLIB_CACHE", str(out / "cache"))
        sweep.open_study(out, "laptop", TINY)
        wanted = ablation.jobs("laptop", ["2h"], seeds=(0, 1), overrides=TINY)
        wanted += ablation.jobs("laptop", ["6"], ["CT-Net_EN 8+16"], overrides=TINY)
        for job in wanted:
            sweep.complete(job, out)
    return out


# What stands for a row.


@pytest.mark.parametrize("scale", scales.SCALES)
def test_a_configuration_is_one_run_whatever_its_tables(scale):
    found = {}
    for table in scales.TABLES:
        for networks in scales.rows(table, scale).values():
            for network in networks:
                config = scales.training(network, table, scale).config
                assert found.setdefault(config.name, config) == config
    assert len({repr(dataclasses.replace(config, name="x")) for config in found.values()}) == len(found)
    assert len(found) == (34 if scale == "paper" else 30)
    jobs = ablation.jobs(scale, seeds=(0, 1))
    assert [job.training.config.name for job in jobs] == [*found, *found]
    assert [job.training.config.seed for job in jobs] == [0] * len(found) + [1] * len(found)


def test_rows_that_several_tables_share_name_all_of_them():
    rows = {job.training.config.name: job.rows for job in ablation.jobs("laptop")}
    shared = {"2a": "CT-Module", "2b": "2D", "2c": "parallel", "2d": "C_2 = floor(sqrt(C))", "2e": "+7 stage2-5"}
    shared |= {"2f": "C1 3x3x3, C2 3x3x3", "2g": "+CT-Module", "7": "CT-Module"}
    assert set(rows["ctnet_plain"]) == set(shared.items())
    assert set(rows["tsn"]) == {("2e", "+0 (TSN)"), ("2g", "Baseline (TSN)"), ("8", "TSN ResNet-50")}
    assert rows["c3d"] == (("2a", "C3D-Module"), ("7", "C3D-Module"))


def network_of(table, row):
    (network,) = tables.ROWS[table][row]
    return network


def config_of(table, row, scale, **given):
    return scales.training(network_of(table, row), table, scale, **given).config


def test_the_laptop_keeps_resnet_50_s_blocks_at_a_quarter_of_its_width():
    config = config_of("2g", "+CT-Module+PWConv+TE", "laptop").model
    assert config.backbone == "laptop" and config.weights is None
    small, full = (
        tables.counted(dataclasses.replace(config, backbone=backbone), 64) for backbone in ("laptop", "resnet50")
    )
    assert 14 < full.params / small.params < 17 and 12 < full.gflops / small.gflops < 17
    assert config_of("2b", "4D", "laptop").model.dims == 4
    assert config_of("8", "CT-Net InceptionV3", "laptop").data.size == 80


def test_the_thin_inception_has_a_quarter_of_every_channel():
    thin, full = (
        {name: tuple(weight.shape[:2]) for name, weight in build_model(model_config(name)).backbone.named_parameters()}
        for name in ("tsn_laptop_inception", "tsn_inception_v3")
    )
    stem = "body.Conv2d_1a_3x3.conv.weight"
    assert thin.pop(stem) == (8, 3) and full.pop(stem) == (32, 3)
    assert thin == {name: tuple(size // 4 for size in shape) for name, shape in full.items()}
    network = build_model(model_config("ctnet_laptop_inception", num_classes=3)).eval()
    assert network(torch.zeros(1, 3, 2, 80, 80)).shape == (1, 3) and len(list(network.backbone.replaced())) == 5
    with pytest.raises(ValueError, match="as others leave fractions of channels, got 7"):
        InceptionBackbone(width=7)
    with pytest.raises(ValueError, match="no ImageNet weights for the backbone 'laptop_inception'"):
        build_model(model_config("tsn_laptop_inception", weights="imagenet"))


@pytest.mark.parametrize(("row", "dims"), [("C_2 = 1", (-1, 1)), ("C_2 = 4", (-1, 2)), ("C_2 = 16", (-1, 8))])
def test_c_2_keeps_its_ratio_to_the_root_of_c(row, dims):
    assert config_of("2d", row, "laptop").model.dims == dims
    assert config_of("2d", row, "paper").model == dataclasses.replace(
        network_of("2d", row).config, dropout=0.3, weights="imagenet"
    )


@pytest.mark.parametrize(("scale", "small", "large"), [("laptop", 42, 48), ("gpu", 98, 112), ("paper", 224, 256)])
def test_224_and_256_keep_their_proportion(scale, small, large):
    chosen = scales.SCALES[scale]
    trained, tested = config_of("2h", "train 224, test 224", scale), config_of("2h", "train 224, test 256", scale)
    assert trained == tested and (trained.data.size, trained.data.short_side) == (small, large)
    further = scales.protocol(network_of("2h", "train 224, test 256"), chosen)
    assert further == {"data.size": large, "data.short_side": large, "data.clips": 1, "data.crops": 1}
    assert config_of("2h", "train 256, test 256", scale).data.size == large
    if scale != "paper":
        assert f"{small} and {large} pixels" in scales.remark("2h", scale)


def test_table_6_is_four_trainings_and_tests_of_them():
    jobs = {job.training.config.name: job for job in ablation.jobs("laptop", ["6"])}
    assert list(jobs) == ["ctnet", "ctnet_12frames", "ctnet_16frames", "ctnet_24frames"]
    for job in jobs.values():
        assert sorted(test["data.clips"] for test in job.tests) == [1, 2]
    assert not any("x3x2" in row for row in scales.rows("6", "laptop")) and "square" in scales.remark("6", "laptop")
    assert sum("x3x2" in row for row in scales.rows("6", "paper")) == 5


def test_table_7_is_2a_but_on_the_paper_s_data():
    assert config_of("7", "CSN-Module", "laptop") == config_of("2a", "CSN-Module", "laptop")
    config = config_of("7", "CSN-Module", "paper", roots={"mini-kinetics-200": "/data/k"})
    assert (config.data.name, config.data.root, config.name) == (
        "mini-kinetics-200",
        "/data/k",
        "csn_mini-kinetics-200",
    )
    assert (config.model.num_frames, config.data.clips, config.data.crops) == (8, 1, 1)
    assert "2a" in scales.remark("7", "gpu") and "mini-kinetics-200" in scales.remark("7", "paper")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: scales.rows("2z", "laptop"), "unknown table '2z'.*known are 2a, 2b"),
        (lambda: scales.rows("2a", "laptob"), "unknown scale 'laptob': did you mean 'laptop'.*laptop, gpu, paper"),
        (lambda: scales.rows("2a", "gpu", ["CT"]), "unknown row of Table 2a 'CT'.*C3D-Module"),
        (lambda: ablation.jobs("laptop", ["2a"], overrides="model.dims=3"), "what the rows say: leave out model.dims"),
        (lambda: ablation.jobs("laptop", ["2a"], overrides="data.clips=2"), "leave out data.clips"),
        (lambda: ablation.jobs("laptop", ["2a"], overrides="data.size=4"), "pixels from 16, got '4'"),
        (lambda: ablation.jobs("laptop", ["2a"], overrides="recipe.epoch=4"), "did you mean 'epochs'"),
        (lambda: tables.add_row("2f", "dims=3"), "'name: part=value ...', each part once, got 'dims=3'"),
        (lambda: tables.add_row("2f", "x: dim=3"), "unknown part of a row 'dim': did you mean 'dims'"),
        (lambda: tables.add_row("2f", "x: dropout=0.5"), "unknown part of a row 'dropout'"),  # which the recipe says
        (
            lambda: tables.add_row("2a", "CT-Module: excitation=se"),
            "Table 2a has a row 'CT-Module': give yours another",
        ),
        (lambda: sweep.sweep("x", "paper"), "mini_kinetics_200_root, something_v1_root must be the folder"),
    ],
)
def test_bad_input_names_what_there_is(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_row_of_one_s_own_is_one_line(monkeypatch):
    monkeypatch.setattr(tables, "ROWS", dict(tables.ROWS))
    assert tables.add_row("2f", "wide: kernels=[[5,3,3],[3,3,3]] excitation=se") == "wide"
    assert tables.swapped(tables.ROWS["2f"]["wide"]) == "kernels 5x3x3 and 3x3x3, excitation se"
    (job,) = ablation.jobs("laptop", ["2f"], ["wide"])
    assert job.training.config.name == "ctnet_se_kernels-5x3x3-3x3x3"
    assert job.training.config.model.kernels == ((5, 3, 3), (3, 3, 3))
    assert "wide" not in set(tables.ledger(["2f"]).row)


def test_what_a_row_swaps_is_told():
    told = {row: tables.swapped(networks) for row, networks in tables.ROWS["6"].items()}
    assert told["CT-Net 8"] == "nothing: the full CT-Net" and told["CT-Net 12x3x2"] == "frames 12, clips x crops 2 x 3"
    assert told["CT-Net_EN 8+16"] == "frames 8 + 16"
    assert tables.swapped(tables.ROWS["2e"]["+0 (TSN)"]) == "no block replaced (TSN)"


# What records say.


def test_measured_is_what_the_records_say(folder):
    lines = results.measured(folder, "laptop").set_index(["table", "row", "seed"])
    assert list(lines.reset_index().columns) == results.COLUMNS
    assert len(lines.loc["2h"]) == 6 and len(lines.loc["6"]) == 7  # 8 and 8x1x2 twice, 16, 16x1x2, 8+16
    record = records.RunFolder(folder / "runs" / "ctnet_21px" / "seed1").result()
    line = lines.loc["2h", "train 224, test 224", 1]
    assert line.top1 == record["top1"] and line.gflops == record["gflops"] and line["size"] == 21
    assert line.run == "runs/ctnet_21px/seed1" and line.videos == 32 and line.coverage == 100
    assert line.fingerprint == record["fingerprint"] and line.commit == record["commit"]
    larger = lines.loc["2h", "train 224, test 256", 1]
    assert larger.run == line.run and larger["size"] == 24 and larger.gflops > line.gflops
    views = lines.loc["6", "CT-Net 8x1x2", 0]
    assert views.views == 2 and views.gflops == pytest.approx(2 * lines.loc["6", "CT-Net 8", 0].gflops)
    assert len(set(lines.classes_digest)) == len(set(lines.fingerprint)) == 1
    averaged(lines.reset_index())  # which checks that they may be


def test_an_ensemble_is_its_networks_averaged(folder):
    line = results.measured(folder, "laptop", ["6"]).set_index("row").loc["CT-Net_EN 8+16"]
    assert line.run == "runs/ctnet/seed0 + runs/ctnet_16frames/seed0" and line.frames == "8+16"
    one_view = {"data.size": 24, "data.short_side": 24, "data.clips": 1, "data.crops": 1}
    parts = [
        ablation.kept_scores(records.RunFolder(folder / "runs" / name / "seed0"), one_view)
        for name in ("ctnet", "ctnet_16frames")
    ]
    together = evaluate.ensemble(parts)
    assert line.top1 == together.topk(1)
    assert line.gflops == pytest.approx(sum(part.protocols[0].gflops for part in parts))
    right = results.correct(folder, "laptop", "6", "CT-Net_EN 8+16", 0)
    assert 100 * right.mean() == pytest.approx(line.top1)
    assert (right.to_numpy() == (together.logits.argmax(1) == together.labels).numpy()).all()


def test_what_is_missing_is_told(folder):
    lacking = results.missing(folder, "laptop", (0, 1), ["2h", "6"])
    assert set(lacking.table) == {"6"}
    why = lacking.set_index(["row", "seed"]).why
    assert why["CT-Net 12", 0] == "ctnet_12frames to be trained" and ("CT-Net 8", 0) not in why
    assert why["CT-Net_EN 8+16", 1] == "ctnet_16frames to be trained"
    assert set(results.missing(folder, "laptop", (5,), ["2h"]).why) == {
        "ctnet_21px to be trained",
        "ctnet to be trained",
    }
    assert results.measured(folder / "nothing", "laptop").empty


def test_the_plan_says_what_is_finished(folder):
    plan = ablation.plan(folder, "laptop", ["2h", "6"], seeds=(0,), overrides=TINY).set_index("run")
    assert plan.state.to_dict() == {
        "ctnet_21px": "finished",
        "ctnet": "finished",
        "ctnet_12frames": "to be trained",
        "ctnet_16frames": "finished",
        "ctnet_24frames": "to be trained",
    }
    assert plan.minutes["ctnet_24frames"] > plan.minutes["ctnet_12frames"] > 0


def test_a_finished_run_is_not_done_again_nor_its_data_looked_for(folder, monkeypatch):
    monkeypatch.setattr(sweep, "resolve", lambda *_: pytest.fail("the data were looked for"))
    (job, _) = ablation.jobs("laptop", ["2h"], overrides=TINY)
    assert sweep.complete(job, folder) == job.training.folder(folder).result()


def test_a_run_that_is_trained_anew_keeps_no_tests_of_the_one_before(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    (job, _) = ablation.jobs("laptop", ["2h"], overrides=TINY)
    run = job.training.folder(copy)
    assert (run.path / "tests.json").is_file() and list((run.path / "scores").iterdir())
    (run.path / "result.json").unlink()
    monkeypatch.setattr(sweep, "resolve", lambda *_: SimpleNamespace(samples={}))
    monkeypatch.setattr(sweep, "train", lambda *_, **__: (_ for _ in ()).throw(InterruptedError("stopped")))
    with pytest.raises(InterruptedError):
        sweep.complete(job, copy)
    assert not (run.path / "tests.json").exists() and not (run.path / "scores").exists()


def test_records_are_read_without_checkpoints_and_tests_ask_for_them(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(folder / "cache"))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoint.pt", "cache"))
    before = results.measured(folder, "laptop", ["2h", "6"])
    pd.testing.assert_frame_equal(results.measured(copy, "laptop", ["2h", "6"]), before)
    for scores in (copy / "runs" / "ctnet_21px" / "seed0" / "scores").iterdir():
        scores.unlink()
    assert results.missing(copy, "laptop", (0,), ["2h"]).why.tolist() == ["ctnet_21px to be tested"]
    (job, _) = ablation.jobs("laptop", ["2h"], overrides=TINY)
    with pytest.raises(ValueError, match="checkpoint.pt is not there, and tests need it: delete its folder"):
        sweep.complete(job, copy)


def test_another_study_s_folder_is_refused(folder):
    with pytest.raises(ValueError, match="holds another study .*scale 'laptop' there, 'gpu' asked for.*another folder"):
        sweep.open_study(folder, "gpu", TINY)
    with pytest.raises(ValueError, match="holds another study .*overrides"):
        sweep.open_study(folder, "laptop", TINY + " recipe.lr=1.0")
    with pytest.raises(ValueError, match="holds the scale 'laptop', 'gpu' asked for"):
        results.measured(folder, "gpu")
    sweep.open_study(folder, "laptop", " ".join(reversed(TINY.split())))  # the same, in another order


def test_a_record_of_other_parameters_is_refused(folder):
    jobs = ablation.jobs("laptop", ["2h"], overrides=TINY + " recipe.lr=0.5")
    with pytest.raises(ValueError, match="other parameters .*recipe.lr is 0.056 in the record, 0.5 was asked for"):
        ablation.state(jobs[0], folder)


def test_a_broken_record_is_no_matter_to_other_rows(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    (copy / "runs" / "ctnet_21px" / "seed0" / "config.json").write_text("{}")
    row = ["train 256, test 256"]
    assert results.measured(copy, "laptop", ["2h"], row).seed.tolist() == [0, 1]
    assert results.missing(copy, "laptop", [0], ["2h"], row).empty
    assert results.differences(copy, "laptop", "2h", row).empty
    with pytest.raises(ValueError, match="ctnet_21px/seed0/config.json is damaged: it lacks asked"):
        results.measured(copy, "laptop", ["2h"])


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("study.json", "", "Expecting value"),
        ("runs/ctnet/seed0/result.json", '{"top1": 50', "Expecting"),
        ("runs/ctnet/seed0/result.json", '{"top1": 50}', "it lacks seconds"),
        ("runs/ctnet/seed0/result.json", '{"top1": 50, "seconds": 1}', "it lacks seed, gflops"),
        ("runs/ctnet/seed0/result.json", "[]", "it holds list and no keys"),
        ("runs/ctnet/seed0/tests.json", "{}", "it lacks classes"),
        ("runs/ctnet/seed0/tests.json", '{"classes": null}', "classes is no list of names, but None"),
    ],
)
def test_a_damaged_record_is_named(folder, tmp_path, name, text, why):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    (copy / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is damaged: {why}"):
        results.measured(copy, "laptop", ["2h"])


def test_a_record_without_its_parameters_is_named_and_stops_no_sweep(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    (copy / "runs" / "ctnet" / "seed0" / "config.json").unlink()
    with pytest.raises(ValueError, match="ctnet/seed0 holds no config.json"):
        results.measured(copy, "laptop", ["2h"])
    (job,) = ablation.jobs("laptop", ["2h"], ["train 256, test 256"], overrides=TINY)
    assert not sweep._finished(job, copy)


@pytest.mark.parametrize("top1", ["NaN", "null", '"85"'])
def test_an_accuracy_that_is_no_number_is_no_seed(folder, tmp_path, top1):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    path = copy / "runs" / "ctnet" / "seed0" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top1": "here"}).replace('"here"', top1))
    with pytest.raises(ValueError, match="ctnet/seed0/result.json is damaged: top1 is"):
        results.measured(copy, "laptop", ["2h"])


def test_scores_that_are_not_of_the_run_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cache", "checkpoint.pt"))
    run = records.RunFolder(copy / "runs" / "ctnet_21px" / "seed0")
    (path,) = (run.path / "scores").iterdir()
    scores = evaluate.Scores.load(path)
    (own,) = scores.protocols

    in_half = scores._replace(protocols=(dataclasses.replace(own, precision="bf16"),))
    in_half.save(path)
    measured = results.measured(copy, "laptop", ["2h"]).set_index(["row", "seed"])
    assert measured.precision["train 224, test 256", 0] == "fp32, tested in bf16"
    with pytest.raises(ValueError, match="needs runs with one precision"):
        results.differences(copy, "laptop", "2h")

    other = scores._replace(protocols=(dataclasses.replace(own, checkpoint="f" * 16),))
    other.save(path.with_name("other.npz"))
    with pytest.raises(ValueError, match="and .*other.npz are the same test: delete those that are not"):
        results.measured(copy, "laptop", ["2h"])
    scores._replace(fingerprint="another list").save(path.with_name("other.npz"))
    with pytest.raises(ValueError, match="other.npz must hold one network's scores of the run's test list .*another"):
        results.measured(copy, "laptop", ["2h"])


def test_a_row_of_one_s_own_at_another_width_is_told(monkeypatch):
    monkeypatch.setattr(tables, "ROWS", dict(tables.ROWS))
    assert scales.remark("2b", "laptop") == scales.remark("2b", "paper") == ""
    tables.add_row("2b", "8 by 8: dims=[-1,8]")
    assert "4 for 8" in scales.remark("2b", "laptop") and not scales.remark("2b", "paper")
    assert "2 for 4, 8 for 16, 1 stays 1" in scales.remark("2d", "laptop")


def test_costs_are_counted_without_reading_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where none are
    plan = ablation.plan(tmp_path / "out", "paper", ["2a"])
    assert (plan.state == "to be trained").all() and plan.gflops.min() > 30 and plan.minutes.isna().all()


def test_differences_are_paired_over_seeds_or_over_videos(folder):
    lines = results.measured(folder, "laptop", ["2h"])
    top1 = lines.pivot_table(index="seed", columns="row", values="top1")
    found = results.differences(folder, "laptop", "2h")
    row = found.loc["train 224, test 224"]
    judged = judge(top1["train 224, test 224"] - top1["train 256, test 256"], 32)
    assert (row.seeds, row.over) == (2, "seeds") and (row.difference, row.low, row.high) == judged[:3]
    assert row.resolved == (judged.low > 0 or judged.high < 0)

    found = results.differences(folder, "laptop", "6")
    row = found.loc["CT-Net 16"]
    ours, theirs = (results.correct(folder, "laptop", "6", name, 0) for name in ("CT-Net 16", "CT-Net 8"))
    by_pair = (ours.astype(int) - theirs.astype(int)).groupby(pair_of).mean()
    assert (row.seeds, row.over, row.resolved) == (1, "test videos", None)
    assert row.difference == pytest.approx(100 * by_pair.mean()) and row.low <= row.difference <= row.high
    told = results.told(found, "6")
    assert "One seed resolves nothing about training" in told and "CT-Net 16: " in told
    assert "One seed" not in results.told(results.differences(folder, "laptop", "2h"), "2h")
    assert "Nothing can be compared yet" in results.told(results.differences(folder, "laptop", "2a"), "2a")


# The batch.

# Stands for papermill: says that it began; fails for one run, or waits; else leaves the last file of the record.
STAND_IN = """
import json, pathlib, sys, time
executed, given = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
executed.write_text(json.dumps(given))
if {what!r} in executed.name:
    {does}
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path / "cache"))

    def use(what, does):
        code = STAND_IN.format(what=what, does=does)
        monkeypatch.setattr(
            sweep, "command", lambda _, executed, given: [sys.executable, "-c", code, str(executed), json.dumps(given)]
        )

    return use


def test_a_batch_does_every_run_once_and_then_every_table_and_a_failure_stops_nothing(tmp_path, stand_in):
    stand_in("serial_seed0", "sys.exit('no such luck')")
    (tmp_path / "n.ipynb").touch()
    told = []
    out = tmp_path / "out"
    failed = sweep.sweep(out, "laptop", (0, 1), ["2c"], 2, TINY, notebook=tmp_path / "n.ipynb", tell=told.append)
    assert failed == [str(out / "notebooks" / "ctnet_plain_serial_seed0.ipynb")]
    assert told[0] == "6 runs, 0 of them finished" and len(told) == 1 + 6 + 1
    assert sum("failed (no such luck" in line for line in told) == 1 and "run 6 of 6" in told[6] + told[5]
    given = {path.stem: json.loads(path.read_text()) for path in (out / "notebooks").iterdir()}
    assert len(given) == 6 and given["ctnet_plain_seed1"] | {"overrides": ""} == {
        "scale": "laptop", "overrides": "", "out_dir": str(out), "table": "2c", "rows": "parallel", "seeds": "1",
    }  # fmt: skip
    shown = json.loads((out / "2c.ipynb").read_text())
    assert (shown["table"], shown["seeds"], shown["train"]) == ("2c", "0 1", "False")


def test_a_batch_passes_over_what_is_finished(folder, stand_in, tmp_path):
    stand_in("no such name", "pass")
    (tmp_path / "n.ipynb").touch()
    told = []
    assert not sweep.sweep(folder, "laptop", (0, 1), ["2h"], 2, TINY, notebook=tmp_path / "n.ipynb", tell=told.append)
    assert told[0] == "4 runs, 4 of them finished" and len(told) == 2 and told[1].startswith("table 1 of 1  2h: done")


def test_a_record_of_another_run_stops_its_notebook_alone(folder, stand_in, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    (copy / "runs" / "ctnet" / "seed0" / "config.json").write_text("{}")
    stand_in("ctnet_seed0", "sys.exit('of another run')")
    (tmp_path / "n.ipynb").touch()
    told = []
    failed = sweep.sweep(copy, "laptop", (0, 1), ["2h"], 2, TINY, notebook=tmp_path / "n.ipynb", tell=told.append)
    assert told[0] == "4 runs, 3 of them finished" and failed == [str(copy / "notebooks" / "ctnet_seed0.ipynb")]


@pytest.fixture
def batch(stand_in, tmp_path, monkeypatch):
    """A sweep of Table 2h, with two seeds, over records of which some lack their last file; with a stand-in."""
    monkeypatch.setattr(sweep, "_LOOK", 0.05)
    (tmp_path / "n.ipynb").touch()

    def run(out, what="no such name", does="pass", tell=lambda _: None):
        stand_in(what, does)
        return sweep.sweep(out, "laptop", (0, 1), ["2h"], 1, TINY, notebook=tmp_path / "n.ipynb", tell=tell)

    return run


@pytest.fixture
def two_left(folder, tmp_path):
    """The records, but for the last files of seed 1."""
    out = shutil.copytree(folder, tmp_path / "out", ignore=shutil.ignore_patterns("cache", ".locks", "*.ipynb"))
    for name in ("ctnet", "ctnet_21px"):
        (out / "runs" / name / "seed1" / "tests.json").unlink()
    (out / ".locks").mkdir()
    return out


def finish(out, name):
    (out / "runs" / name / "seed1" / "tests.json").write_text('{"classes": []}')


def executed(out):
    return sorted(path.name for path in out.glob("*.ipynb")) + sorted(
        path.name for path in out.glob("notebooks/*.ipynb")
    )


def test_sweeps_on_one_folder_divide_the_runs(two_left, batch):
    other, told = FileLock(two_left / ".locks" / "ctnet_21px_seed1.lock"), []
    other.acquire()  # the other sweep is at one of the two runs

    def tell(line):
        told.append(line)
        if len(told) == 1:
            finish(two_left, "ctnet")  # and ends the other, which this one has counted
        if "waiting for it" in line:
            finish(two_left, "ctnet_21px")
            other.release()

    assert not batch(two_left, tell=tell)
    assert [line.split("  [")[0] for line in told[:-1]] == [
        "4 runs, 2 of them finished",
        "run 1 of 2  ctnet_seed1: done by another sweep",
        "1 left to another sweep, which is at them: waiting for it",
        "run 2 of 2  ctnet_21px_seed1: done by another sweep",
    ]
    assert told[1].endswith("[0 failed]") and executed(two_left) == ["2h.ipynb"]


def test_what_another_sweep_gave_up_is_done_here(two_left, batch):
    finish(two_left, "ctnet")
    at_it = records.RunFolder(
        two_left / "runs" / "ctnet_21px" / "seed1"
    ).locked()  # no sweep, but its notebook still runs
    at_it.__enter__()

    def tell(line):
        if "waiting for it" in line:
            assert not executed(two_left)
            at_it.__exit__(None, None, None)

    assert not batch(two_left, tell=tell)
    assert executed(two_left) == ["2h.ipynb", "ctnet_21px_seed1.ipynb"]


def test_a_batch_that_waits_for_another_can_be_stopped(two_left, batch):
    finish(two_left, "ctnet")
    told = []

    def tell(line):
        told.append(line)
        if "waiting for it" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    lock = FileLock(two_left / ".locks" / "ctnet_21px_seed1.lock")
    with lock, pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        batch(two_left, tell=tell)
    assert told[-1].startswith("stopping") and not executed(two_left)


def test_a_batch_whose_lines_cannot_be_told_ends_and_says_why(two_left, batch):
    def tell(line):
        if line.startswith("run"):
            raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        batch(two_left, "ctnet_seed1", "time.sleep(60)", tell)
    assert "ctnet_21px_seed1.ipynb" in executed(two_left) and "2h.ipynb" not in executed(two_left)


def test_a_closed_terminal_stops_a_batch_although_it_cannot_be_told(two_left, batch):
    def tell(line):
        if line.startswith("run"):
            os.kill(os.getpid(), signal.SIGHUP)
        if line.startswith("stopping"):
            raise OSError("Input/output error")

    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        batch(two_left, "ctnet_seed1", "time.sleep(60)", tell)
    assert "2h.ipynb" not in executed(two_left)


def test_the_second_signal_ends_what_does_not_stop_by_itself(two_left, batch):
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"

    def signal_twice():
        path = two_left / "notebooks" / "ctnet_21px_seed1.ipynb"
        while not path.is_file() or path.read_text() != "deaf":
            pause.wait(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        pause.wait(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    pause = threading.Event()
    threading.Thread(target=signal_twice, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        batch(two_left, "ctnet", f"{deaf}; executed.write_text('deaf'); time.sleep(60)")
    assert executed(two_left) == ["ctnet_21px_seed1.ipynb"]


def test_a_batch_that_is_stopped_tells_its_notebooks_and_begins_no_more(tmp_path, stand_in):
    stand_in("ctnet", "time.sleep(60)")
    (tmp_path / "n.ipynb").touch()
    out = tmp_path / "out"

    def stop_when_two_run():
        while len(list((out / "notebooks").glob("*.ipynb"))) < 2:
            pause.wait(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    pause = threading.Event()
    watcher = threading.Thread(target=stop_when_two_run, daemon=True)
    watcher.start()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        sweep.sweep(out, "laptop", (0, 1), ["2c"], 2, TINY, notebook=tmp_path / "n.ipynb", tell=lambda _: None)
    assert len(list((out / "notebooks").iterdir())) == 2 and not (out / "2c.ipynb").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_papermill_is_given_numbers_as_text(tmp_path):
    words = sweep.command("n.ipynb", tmp_path / "x.ipynb", {"table": "6", "train": "False"})
    assert words[1:5] == ["-m", "papermill", "n.ipynb", str(tmp_path / "x.ipynb")]
    assert words[-6:] == ["-r", "table", "6", "-p", "train", "False"]


def test_a_batch_of_none_side_by_side_is_an_error(tmp_path):
    (tmp_path / "n.ipynb").touch()
    with pytest.raises(ValueError, match="side_by_side must be at least 1, got 0"):
        sweep.sweep(tmp_path / "out", side_by_side=0, notebook=tmp_path / "n.ipynb")
    assert not (tmp_path / "out").exists()


def test_a_batch_without_its_notebook_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no notebook .*none.ipynb"):
        sweep.sweep(tmp_path, notebook=tmp_path / "none.ipynb")
    assert not list(tmp_path.iterdir())


def test_the_references_are_rows_of_their_tables():
    assert list(scales.REFERENCES) == list(scales.TABLES)
    for table, row in scales.REFERENCES.items():
        assert row in scales.rows(table, "laptop")
    assert np.isfinite(ablation.plan("none", "laptop", ["8"]).minutes).all()
