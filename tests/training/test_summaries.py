from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from ctlib import paper
from ctlib.config import RunConfig
from ctlib.data.catalog import Samples
from ctlib.training import records, summaries
from ctlib.training.evaluate import Protocol, Scores, ensemble
from tests.training.test_records import run_of

SAMPLES = Samples([(f"v{index}", index % 2, None) for index in range(10)], ["a", "b"], "/nowhere", listed=12)


def test_the_accuracy_on_arrow_of_time_counts_pairs_as_one_piece_of_evidence():
    sources = [f"val/{pair:06d}_{way}.mp4" for pair in range(4) for way in ("forward", "backward")]
    predictions = pd.DataFrame(
        {"source": sources, "label": [0, 1, 2, 3, 0, 1, 2, 3], "predicted": [0, 0, 2, 3, 4, 5, 2, 2]}
    )
    accuracy = summaries.accuracy(predictions, "arrow")
    assert accuracy.mean == 50 and summaries.right_pair(predictions) == 75
    means = pd.Series([0.5, 1.0, 0.0, 0.5])
    assert accuracy.margin == pytest.approx(318.2 * means.std() / 2, rel=1e-3)  # t of 3 degrees: 3.182
    assert (accuracy.low, accuracy.high) == (0, 100)  # a percentage ends there


def test_other_accuracies_have_wilson_s_interval_over_the_videos_that_were_read():
    sources = [f"val/{pair:06d}_{way}.mp4" for pair in range(4) for way in ("forward", "backward")]
    predictions = pd.DataFrame({"source": sources, "label": [0, 1] * 4, "predicted": [0] * 8})
    assert summaries.accuracy(predictions, "arrow")[:3] == (50, 50, 50)  # each pair is half right
    interval = summaries.accuracy(predictions, "something-v1")
    assert interval.low < 30 and interval.high > 70
    predictions.loc[1:, "label"] = -1
    assert summaries.accuracy(predictions, "something-v1").high == pytest.approx(100)


def test_an_action_is_right_in_its_pair_and_then_in_its_direction():
    predictions = pd.DataFrame({"label": [0, 1, 1, 2, 3, -1], "predicted": [0, 0, 3, 4, 5, 0]})
    table = summaries.by_pair(predictions, ["push", "fall", "grow"]).set_index("action")
    assert table.loc["push"].tolist() == pytest.approx([3, 100 / 3, 200 / 3, 50])
    assert table.loc["fall", ["videos", "top1", "right_pair"]].tolist() == [2, 0, 0] and np.isnan(
        table.direction["fall"]
    )
    assert table.videos["grow"] == 0 and np.isnan(table.top1["grow"])


def test_run_labels_have_seeds_where_names_repeat():
    table = pd.DataFrame({"name": ["TSN", "CT-Net", "CT-Net"], "seed": [0, 0, 1]})
    assert summaries.run_labels(table) == ["TSN", "CT-Net, seed 0", "CT-Net, seed 1"]


def runs(**changed):
    """Runs of `records.load` as far as averages look at them: TSN with one seed, CT-Net with two."""
    own = {"data": "folder", "fingerprint": "f", "sampling": "sparse", "num_frames": 8, "size": 48, "short_side": 48}
    own |= {"clips": 1, "crops": 1, "precision": "fp32", "micro_batch": 8, "params": 5, "videos": 9, "folder": "x"}
    table = pd.DataFrame({"name": ["TSN", "CT-Net", "CT-Net"], "seed": [0, 0, 1], "top1": [40.0, 80.0, 90.0]})
    table = table.assign(gflops=[1.0, 2.0, 2.0], **{"recipe.lr": 0.1, "model.dims": [(2, 2)] * 3}, **own)
    return table.assign(**changed)


def test_runs_of_one_name_are_averaged_over_their_seeds():
    points = summaries.averaged(runs()).set_index("name")
    assert points.top1.to_dict() == {"TSN": 40, "CT-Net": 85} and points.seeds.to_dict() == {"TSN": 1, "CT-Net": 2}
    assert np.isnan(points["std"]["TSN"]) and points["std"]["CT-Net"] == pytest.approx(50**0.5)
    assert summaries.averaged(runs()[:0]).empty


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"size": [48, 64, 64], "clips": [1, 1, 2]},
            r"the runs differ in size \(48 in TSN; 64 in CT-Net\), clips \(1 in TSN, CT-Net; 2 in CT-Net\): draw runs",
        ),
        (
            {"recipe.lr": [0.1, 0.1, 0.2]},
            r"the runs 'CT-Net' differ in recipe.lr \(0.1 in CT-Net; 0.2 in CT-Net\): give",
        ),
        ({"seed": [0, 1, 1]}, "the runs 'CT-Net' have seed 1 twice"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_by_what_differs(changed, text):
    with pytest.raises(ValueError, match=text):
        summaries.averaged(runs(**changed))


def scored(num_frames, crops=1, clips=1, right=6, model="ctnet_r50", gflops=10.0):
    """Scores of ten videos, of which the last could not be read and `right` are right."""
    labels = torch.tensor([index % 2 for index in range(9)] + [-1])
    answers = torch.where(torch.arange(10) < right, labels, 1 - labels).clamp(0, 1)
    protocol = Protocol(model, "0" * 16, num_frames, 256, 256, "sparse", clips, crops, "fp32", gflops, 21_000_000)
    logits = torch.nn.functional.one_hot(answers, 2).float()
    return Scores(logits, labels, SAMPLES.classes, SAMPLES.fingerprint, (protocol,))


def test_the_table_of_what_was_tested_has_table_6_s_rows():
    eight, sixteen = [scored(8), scored(8, 3, 2)], [scored(16, gflops=20.0), scored(16, 3, 2, gflops=20.0)]
    both = [ensemble(views) for views in zip(sixteen, eight, strict=True)]
    table = summaries.tested({"A": eight, "B": sixteen, "B + A": both}, SAMPLES, "something-v1")
    assert table.row.tolist() == [
        "CT-Net 8", "CT-Net 8x3x2", "CT-Net 16", "CT-Net 16x3x2", "CT-Net_EN 8+16", "CT-Net_EN (8+16)x3x2",
    ]  # fmt: skip
    assert table.gflops.tolist() == [10, 60, 20, 120, 30, 180]
    assert table.views[:2].tolist() == ["1 x 1", "3 x 2"] and table.frames[4] == "8+16"
    assert (
        table.top1.tolist() == pytest.approx([100 * 6 / 9] * 6)
        and set(table.videos) == {9}
        and set(table.listed) == {12}
    )
    low, high = stats.binomtest(6, 9).proportion_ci(method="wilson")
    assert (table.low[0], table.high[0]) == pytest.approx((100 * low, 100 * high))
    published = summaries.published_6("something-v1", table.row)
    assert len(published) == 16 and published.run.sum() == 5  # the paper has no 8+16 with more views
    assert not published.run["CT-Net 12"] and published.run["CT-Net_EN 8+16"]


def test_another_network_is_no_row_of_table_6():
    table = summaries.tested({"TSN": [scored(8, model="tsn_r50")]}, SAMPLES, "something-v1")
    assert table.row.tolist() == [""]


def test_every_row_of_table_6_has_the_name_that_is_given_to_its_like():
    names = []
    for line in paper.table("6").itertuples():
        frames = map(int, str(line.frames).split("+"))
        protocols = [scored(count, line.crops, line.clips).protocols[0] for count in frames]
        names.append(summaries.table_6_row(protocols[::-1]))
    assert names == list(summaries.published_6("something-v2", []).index)


def test_what_table_6_publishes_is_of_the_data_set_asked_for():
    first = summaries.published_6("something-v1", ["CT-Net 8x3x2"]).loc["CT-Net 8x3x2"]
    assert first.tolist() == ["8", "3 x 2", 224, 51.7, 80.1, True]
    assert summaries.published_6("something-v2", []).loc["CT-Net_EN 8+16", "top1"] == 66.2
    assert summaries.published_6("arrow", []).empty


def test_ensembles_are_asked_for_by_frames():
    frames = {"A": 8, "B": 16, "C": 24}
    assert summaries.ensembles("all 8+16", frames) == {"A + B + C": ["A", "B", "C"], "A + B": ["A", "B"]}
    assert summaries.ensembles("", frames) == {} and summaries.ensembles("all", {"A": 8}) == {}
    for text, message in (
        ("8+12", "the ensemble 8\\+12 needs one network of 12 frames, and none has it"),
        ("8", "different numbers of frames"),
        ("8+8", "different numbers of frames"),
        ("A+B", "different numbers of frames"),
    ):
        with pytest.raises(ValueError, match=message):
            summaries.ensembles(text, frames)
    with pytest.raises(ValueError, match=r"one network of 8 frames, and 2 have \(A, D\) it"):
        summaries.ensembles("8+16", {**frames, "D": 8})


def test_checkpoints_are_called_as_their_records_say(tmp_path):
    paths = []
    for name, seed in (("TSN", 0), ("CT-Net", 0), ("CT-Net", 1)):
        folder = records.RunFolder(tmp_path / name / f"seed{seed}")
        folder.start(run_of(RunConfig(name=name, seed=seed)))
        paths.append(folder.checkpoint)
    others = [tmp_path / "x" / "ckpt.pth.tar", tmp_path / "TSN" / "seed0" / "other.pt"]
    names = summaries.checkpoint_names([*paths, *others])
    assert names == ["TSN", "CT-Net, seed 0", "CT-Net, seed 1", "ckpt.pth.tar", "other.pt"]
    assert summaries.checkpoint_names([Path("/a/segment8/c.pt"), Path("/a/segment16/c.pt")]) == [
        "segment8",
        "segment16",
    ]
    twice = [Path("/a/seed0/c.pt"), Path("/b/seed0/c.pt")]
    assert summaries.checkpoint_names(twice) == [str(path) for path in twice]


def test_a_run_is_summarised_with_its_protocol():
    predictions = pd.DataFrame({"source": ["a", "b"], "label": [0, 1], "predicted": [0, 0], "confidence": [0.5, 0.5]})
    result = {
        "name": "TSN", "seed": 3, "data": "folder", "top1": 50.0, "top5": 100.0, "videos": 2, "listed": 4, "skipped": 0,
        "num_frames": 8, "size": 224, "clips": 2, "crops": 3, "train_videos": 9, "train_listed": 10, "epochs": 2,
        "seconds": 61.2, "sessions": [{}, {}], "processes": 4, "hardware": "4 GPUs", "precision": "bf16",
        "peak_memory_mb": 12345,
    }  # fmt: skip
    rows = summaries.run_summary(result, predictions)
    assert rows.name == "TSN" and "right pair, %" not in rows
    expected = {
        "top-1, %": "50.0",
        "95 % interval": "9.5 to 90.5",
        "tested on": "2 of 4 listed videos of folder",
        "clip": "8 frames of 224 x 224, 2 clip(s) x 3 crop(s)",
        "seconds": "61 in 2 session(s)",
        "computed by": "4 process(es) on 4 GPUs, bf16",
        "peak memory, MB": "12,345",
    }
    assert {key: rows[key] for key in expected} == expected


PREDICTIONS = pd.DataFrame(
    {
        "source": [f"v{index}" for index in range(8)],
        "label": [0, 0, 0, 1, 1, 2, -1, 2],
        "predicted": [0, 1, 1, 1, 2, 1, 0, 1],
        "confidence": [0.9, 0.5, 0.8, 0.9, 0.6, 0.3, 0.9, 0.7],
    }
)


def test_accuracy_by_class_leaves_out_what_was_not_read():
    table = summaries.by_class(PREDICTIONS, ["a", "b", "c", "none"])
    assert table["class"].tolist() == ["a", "b", "c", "none"] and table.videos.tolist() == [3, 2, 2, 0]
    assert table.top1[:3].tolist() == pytest.approx([100 / 3, 50, 0]) and np.isnan(table.top1[3])
    with_videos = table[table.videos > 0]
    assert (with_videos.top1 * with_videos.videos).sum() / 7 == pytest.approx(100 * 2 / 7)


def test_the_most_confused_pairs_come_with_their_videos():
    table = summaries.most_confused(PREDICTIONS, ["a", "b", "c"])
    assert table.true.tolist() == ["c", "a", "b"] and table.confused_with.tolist() == ["b", "b", "c"]
    assert table.videos.tolist() == [2, 2, 1] and table.share.tolist() == pytest.approx([100, 200 / 3, 50])
    assert table.examples.tolist() == [[7, 5], [2, 1], [4]]  # the most confident first
    assert PREDICTIONS.source[table.examples[1][0]] == "v2"
    assert len(summaries.most_confused(PREDICTIONS, ["a", "b", "c"], most=1)) == 1
    right = PREDICTIONS.assign(predicted=PREDICTIONS.label)
    assert list(summaries.most_confused(right, ["a", "b", "c"]).columns) == list(table.columns)


def test_views_are_written_as_in_table_6():
    assert summaries.parse_views("1x1 1x2  3x2") == ((1, 1), (1, 2), (3, 2))
    for text in ("", "2x1", "1x0", "3 x 2", "1x1 1x1", "3x", "x"):
        with pytest.raises(ValueError, match="views must be crops x clips"):
            summaries.parse_views(text)
