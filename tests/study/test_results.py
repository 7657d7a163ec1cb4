"""The tables of the study, collected from run folders that are written here without training."""

import json
import random
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from ctlib import files
from ctlib.study import comparisons, predictions, results
from ctlib.study.results import collect
from ctlib.training import evaluate
from ctlib.training.evaluate import Protocol, Scores
from tests.training.test_mutations import mutated

VIDEOS = [f"val/{pair:06d}_{way}.mp4" for pair in range(20) for way in ("forward", "backward")]
LABELS = torch.arange(40) % 4
RESULT = {
    "epochs": 2, "size": 48, "clips": 1, "crops": 1, "videos": 40, "skipped": 0, "listed": 40,
    "fingerprint": "aa-bb", "data": "arrow", "precision": "fp32", "micro_batch": 8, "hardware": "CPU", "commit": "abc",
}  # fmt: skip


def scores_of(frames, seed, clips=1, size=48):
    """Scores of a network that is right on most videos."""
    generator = torch.Generator().manual_seed(1000 * seed + 10 * frames + clips)
    logits = 0.7 * torch.eye(4)[LABELS] + torch.rand(40, 4, generator=generator)
    protocol = Protocol("x", "digest", frames, size, 48, "centre", clips, 1, "fp32", gflops=frames / 7, params=1000)
    return Scores(logits, LABELS, tuple("abcd"), "bb", (protocol,))


RESOLVED = {"micro_batch": 8, "precision": "fp32", "num_classes": 4, "fingerprint": "aa", "start_digest": ""}


def write_run(runs_dir, name, seed, rows, tests=(), frames=8, **differing):
    """A finished run; `tests` are (size, clips, rows) beside its own."""
    folder = runs_dir / name / f"seed{seed}"
    own = scores_of(frames, seed)
    top1, top5 = own.topk(1), own.topk(5)
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    predictions = pd.DataFrame(
        {"source": VIDEOS, "label": LABELS, "predicted": own.logits.argmax(1), "confidence": 0.5}
    )
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.1 + 0.2, 1 / 3], "top1": [None, 50 + seed]})
    files.write_csv(folder / "history.csv", history)
    files.write_csv(folder / "predictions.csv", predictions)
    asked = {"seed": seed, "data": {"root": "~/x"}, "rows": rows}
    files.write_json(folder / "config.json", {"asked": asked, "resolved": RESOLVED})
    result = {"seed": seed, "rows": rows, "top1": top1, "top5": top5, "num_frames": frames, "seconds": 60.5 + frames}
    files.write_json(folder / "result.json", RESULT | result | {"gflops": frames / 7, "params": 1000} | differing)
    listed = []
    for size, clips, served in tests:
        path = f"scores/{size}_{clips}.npz"
        scores_of(frames, seed, clips, size).save(folder / path)
        listed.append({"size": size, "short_side": 48, "clips": clips, "crops": 1, "rows": served, "scores": path})
    files.write_json(folder / "tests.json", {"classes": list("abcd"), "tests": listed})
    return folder


ENSEMBLE = ["6", "CT-Net_EN 8+16"]


@pytest.fixture
def study(tmp_path):
    """Runs of Tables 2b, 2h and 6: four trainings of two seeds, a test at another size, an ensemble of seed 0."""
    runs, tables = tmp_path / "runs", tmp_path / "tables"
    runs.mkdir()
    files.write_json(runs / "study.json", {"scale": "laptop", "overrides": ""})
    for seed in (0, 1):
        write_run(runs, "plain", seed, [["2b", "2D"], ["2a", "CT-Module"]])
        write_run(runs, "plain_1d", seed, [["2b", "1D"], ["2b", "custom"]][: 2 - seed])
        rows = [["2h", "train 224, test 224"], ["2h", "train 224, test 256"]]
        write_run(runs, "small", seed, rows, [(56, 1, rows[1:])])
    for frames in (8, 16):
        rows = [["6", f"CT-Net {frames}"], ["6", f"CT-Net {frames}x1x2"], ENSEMBLE]
        write_run(runs, f"ctnet_{frames}", 0, rows, [(48, 2, rows[1:2]), (48, 1, [ENSEMBLE])], frames)
    return runs, tables


def test_every_row_and_seed_is_a_line_with_the_accuracy_of_its_predictions(study):
    assert collect(*study) == 6 + 2 + 2 + 2 + 1  # own tests, at another size, with two clips, an ensemble
    lines = results.measured(study[1])
    assert list(lines.columns) == results.COLUMNS and len(lines) == 16
    for line in lines.itertuples():
        right = results.correct(study[1], line.table, line.row, line.seed)
        assert len(right) == line.videos == 40 and 100 * right.mean() == pytest.approx(line.top1, abs=1e-4)
    assert right.index.tolist() == VIDEOS
    left = [study[1] / f".{name}.4711-0123abcd" for name in ("runs.csv", "predictions.npz")]  # by a killed call
    for partial in left:
        partial.touch()
    assert collect(*study) == 0 and not any(partial.exists() for partial in left)
    pd.testing.assert_frame_equal(results.measured(study[1]), lines)


def test_tests_and_ensembles_have_their_own_protocol_and_cost(study):
    collect(*study)
    lines = results.measured(study[1]).set_index(["table", "row", "seed"])
    assert lines["size"]["2h", "train 224, test 256", 1] == 56 and lines["size"]["2h", "train 224, test 224", 1] == 48
    twice = lines.loc["6", "CT-Net 16x1x2", 0]
    assert (twice.clips, twice["views"], twice.gflops, twice.frames) == (2, 2, 2 * 16 / 7, "16")
    assert twice.top1 == scores_of(16, 0, clips=2).topk(1)
    both = lines.loc["6", ENSEMBLE[1], 0]
    assert (both.run, both.frames, both.params) == ("ctnet_8/seed0 + ctnet_16/seed0", "8+16", 2000)
    assert both.gflops == 8 / 7 + 16 / 7 and both.train_seconds == 2 * 60.5 + 24
    assert both.top1 == evaluate.ensemble([scores_of(8, 0), scores_of(16, 0)]).topk(1)


def test_the_tables_are_complete_without_the_run_folders(study):
    runs, tables = study
    collect(runs, tables)
    before, right = results.measured(tables), results.correct(tables, *ENSEMBLE, 0)
    for folder in runs.glob("*/seed*"):
        shutil.rmtree(folder)
    assert collect(runs, tables) == 0
    write_run(runs, "plain_3d", 0, [["2b", "3D"]])
    assert collect(runs, tables) == 1
    after = results.measured(tables)
    assert after[after.row == "3D"].seed.tolist() == [0] and after.row.tolist().index("custom") > 4
    pd.testing.assert_frame_equal(after[after.row != "3D"].reset_index(drop=True), before)
    assert results.correct(tables, *ENSEMBLE, 0).equals(right)
    histories = pd.read_csv(tables / "histories.csv")
    by_epoch = results.by_epoch(tables, after).set_index(["table", "row"])
    assert set(by_epoch.epoch) == {2} and tuple(ENSEMBLE) not in by_epoch.index
    assert by_epoch.top1["2b", "3D"] == 50 and by_epoch.top1["2h", "train 224, test 224"] == 50.5
    assert ("2h", "train 224, test 256") not in by_epoch.index  # another test of the same network
    assert len(histories) == 2 * 9 and set(histories.loss) == {0.1 + 0.2, 1 / 3}
    found = pd.read_csv(tables / "comparisons.csv", dtype={"table": str})
    assert found.result.tolist() == comparisons.pairs(after).result.tolist() and len(found) == 250
    assert "key" not in found and found.counted.sum() == 90


def test_a_block_that_one_row_has_alone_is_not_measured_but_recorded(study):
    runs, tables = study
    collect(runs, tables)
    before = results.measured(tables)
    write_run(runs, "plain", 2, [["2b", "2D"], ["2a", "CT-Module"]])
    write_run(runs, "plain", 3, [["2b", "2D"]])
    write_run(runs, "plain_1d", 3, [["2b", "1D"]])
    assert collect(runs, tables) == 3
    after = results.measured(tables).set_index(["table", "row"])
    assert after.seed["2b", "2D"].tolist() == [0, 1, 3] and after.seed["2b", "1D"].tolist() == [0, 1, 3]
    assert after.seed["2a", "CT-Module"].tolist() == [0, 1, 2]  # the only row of its table
    assert results.measured(tables, ["2b"], ["2D"]).seed.tolist() == [0, 1, 2, 3]  # the only one asked for
    assert len(results.by_row(results.read_runs(tables))) == len(after) + 1 == len(before) + 4


def test_a_run_that_was_trained_again_replaces_its_rows_and_outdated_ensembles(study):
    runs, tables = study
    collect(runs, tables)
    shutil.rmtree(runs / "ctnet_16")
    assert collect(runs, tables) == 0 and len(results.measured(tables, ["6"])) == 5
    write_run(runs, "ctnet_8", 0, [["6", "CT-Net 8"]], commit="def")
    assert collect(runs, tables) == 1
    lines = results.measured(tables, ["6"]).set_index("row")
    assert set(lines.index) == {"CT-Net 8", "CT-Net 16", "CT-Net 16x1x2"} and lines.commit["CT-Net 8"] == "def"
    with np.load(tables / "predictions.npz") as content:
        assert not any("+" in name or "ctnet_8/seed0 48px 1x2" in name for name in content["bb/tests"])


def test_videos_that_were_not_read_count_nowhere(study):
    runs, tables = study
    folder = write_run(runs, "plain_3d", 0, [["2b", "3D"]], skipped=1, top1=50.0)
    predictions = pd.read_csv(folder / "predictions.csv")
    predictions.loc[3, "label"] = -1
    files.write_csv(folder / "predictions.csv", predictions)
    with pytest.raises(ValueError, match="table 2b needs runs with one coverage, got '100.0' in plain"):
        collect(runs, tables)
    shutil.rmtree(runs / "plain"), shutil.rmtree(runs / "plain_1d")
    collect(runs, tables)
    right = results.correct(tables, "2b", "3D", 0)
    assert len(right) == 39 and VIDEOS[3] not in right.index
    assert results.measured(tables, ["2b"]).videos.tolist() == [39]
    assert len(results.correct(tables, "2h", "train 224, test 224", 0)) == 40


@pytest.mark.parametrize(
    ("differing", "said"), [({"fingerprint": "cc-bb"}, "one fingerprint"), ({"precision": "bf16"}, "one precision")]
)
def test_runs_that_must_not_be_compared_leave_the_tables_as_they_were(study, differing, said):
    runs, tables = study
    collect(runs, tables)
    before = {path.name: path.read_bytes() for path in tables.iterdir()}
    write_run(runs, "plain_3d", 0, [["2b", "3D"]], **differing)
    with pytest.raises(ValueError, match=f"table 2b needs runs with {said}, got .* in plain_3d/seed0"):
        collect(runs, tables)
    shutil.rmtree(runs / "plain_3d")
    for about in ({"scale": "gpu", "overrides": ""}, {"scale": "laptop", "overrides": "recipe.epochs=3"}):
        files.write_json(runs / "study.json", about)
        shutil.rmtree(runs / "small", ignore_errors=True)
        with pytest.raises(ValueError, match="the study needs runs with one (scale|overrides)"):
            collect(runs, tables)
    assert {path.name: path.read_bytes() for path in tables.iterdir()} == before


def test_unfinished_runs_wait_and_damaged_ones_are_named(study):
    runs, tables = study
    (runs / "small" / "seed0" / "tests.json").unlink()
    collect(runs, tables)
    lacking = results.missing(tables, "laptop", (0, 1), ["2h"])
    assert lacking.to_numpy().tolist() == [
        ["2h", "train 224, test 224", 0], ["2h", "train 224, test 256", 0],
        ["2h", "train 256, test 256", 0], ["2h", "train 256, test 256", 1],
    ]  # fmt: skip
    path = runs / "plain" / "seed0" / "result.json"
    path.write_text(json.dumps({"top1": 3}))
    with pytest.raises(ValueError, match="plain/seed0/result.json is damaged: it lacks rows"):
        collect(runs, tables)


@pytest.mark.parametrize("name", ["tables/runs.csv", "tables/predictions.npz", "runs/small/seed0/tests.json"])
def test_tables_that_were_changed_are_read_or_refused_in_one_line(study, name):
    runs, tables = study
    collect(*study)
    path, draw, refused = tables.parent / name, random.Random(1), 0
    content = path.read_bytes()
    for _ in range(60):
        path.write_bytes(mutated(content, draw))
        try:
            results.measured(tables)
            predictions.read(tables)
            results.read_tests(runs / "small" / "seed0" / "tests.json")
        except ValueError as error:
            refused += 1
            text = str(error)
            assert str(path) in text and len(text) < 700 and text.isprintable(), text
    assert refused > 20


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("top1", "nan", "row 1, top1 must be a number, got 'nan'"),
        ("gflops", "inf", "row 1, gflops must be a number, got inf"),
        ("seed", "x", "row 1, seed must be a number, got 'x'"),
        ("rows", '[["9z", "q"]]', r"row 1, rows must be \[table, row\] pairs, got '\[\[\"9z"),
    ],
)
def test_a_value_that_is_none_is_named(study, column, value, text):
    _, tables = study
    collect(*study)
    runs = pd.read_csv(tables / "runs.csv", dtype=str, keep_default_na=False)
    runs.loc[0, column] = value
    files.write_csv(tables / "runs.csv", runs)
    with pytest.raises(ValueError, match=f"runs.csv is damaged: {text}"):
        results.measured(tables)


def test_nothing_collected_is_no_error(tmp_path):
    assert collect(tmp_path / "runs", tmp_path / "tables") == 0 and not (tmp_path / "tables").exists()
    assert results.measured(tmp_path / "tables").empty
    assert len(results.missing(tmp_path, "laptop", [0], ["2c"])) == 3
    with pytest.raises(ValueError, match="has no test of Table 2b, row '1D', seed 0"):
        results.correct(tmp_path, "2b", "1D", 0)
