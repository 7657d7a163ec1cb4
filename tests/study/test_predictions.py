"""The stored predictions, of runs that are written without training."""

import numpy as np
import pandas as pd
import pytest

from ctlib.config import ArrowConfig
from ctlib.data import arrow
from ctlib.data.actions import EASY, class_names
from ctlib.study import comparisons, predictions, results
from tests.study.test_comparisons import lines

VIDEOS = [f"val/{pair:06d}_{way}.mp4" for pair in range(2) for way in ("forward", "backward")]


def stored(folder, answers, labels=(0, 1, 2, 3)):
    """The measured lines of Table 2b, and their predictions: row -> the answers of each block."""
    measured = lines({row: [50.0] * len(blocks) for row, blocks in answers.items()})
    measured["classes_digest"] = predictions.classes_digest(class_names(EASY))
    frame = pd.DataFrame({"label": np.array(labels, np.uint8)}, VIDEOS)
    for row, blocks in answers.items():
        for seed, answer in enumerate(blocks):
            frame[f"runs/{row}/seed{seed} 48px 1x1"] = np.array(answer, np.uint8)
    predictions.write(folder, {"bb": frame})
    return measured


def test_agreement_counts_the_videos_that_only_one_row_is_right_on(tmp_path):
    answers = {"2D": [[0, 1, 2, 0], [0, 1, 2, 3]], "1D": [[0, 0, 0, 3], [0, 1, 2, 3]], "3D": [[0, 1, 2, 3]]}
    measured = stored(tmp_path, answers)
    compared = comparisons.pairs(measured, ["2b"])
    shares = predictions.agreement(tmp_path, measured, compared)
    first = compared.index[(compared.higher == "2D") & (compared.lower == "1D")][0]
    assert shares.loc[first].tolist() == [25, 12.5]  # 2 of 4 and 1 of 4 in the first block, none in the second
    assert shares.loc[compared.index[(compared.higher == "3D") & (compared.lower == "1D")][0]].tolist() == [50, 0]
    assert len(shares) == 2  # 4D was not run


def test_actions_are_pairs_of_classes_and_blocks_are_averaged(tmp_path):
    measured = stored(tmp_path, {"2D": [[0, 0, 3, 3], [0, 1, 0, 3]]})
    found = predictions.by_action(tmp_path, measured).set_index("action")
    push = found.loc["push"]
    assert push[["table", "row", "top1", "right_pair", "direction"]].tolist() == ["2b", "2D", 75, 100, 75]
    fall = found.loc["fall"]
    assert fall[["top1", "right_pair", "direction"]].tolist() == [50, 75, 75]  # direction: 1 of 2, then 1 of 1
    assert found.index.tolist() == list(EASY) and found.top1.isna().sum() == len(EASY) - 2


def test_other_data_have_no_actions(tmp_path):
    measured = stored(tmp_path, {"2D": [[0, 0, 3, 3]]}).assign(classes_digest="other")
    assert predictions.by_action(tmp_path, measured).empty
    assert predictions.by_action(tmp_path, measured[:0]).empty and predictions.read(tmp_path / "none") == {}


def test_clips_are_gathered_by_how_plain_they_are(tmp_path):
    config = ArrowConfig(val_clips=4, difficulty=0.4, seed=4)
    plain = [arrow.plainness(config, "val", pair) for pair in (0, 1)]
    measured = stored(tmp_path, {"2D": [[0, 0, 2, 2], [0, 1, 2, 2]], "1D": [[1, 1, 1, 1]]}).assign(videos=4)
    found = predictions.by_plainness(tmp_path, measured, config).set_index("row")
    assert found.loc["2D"].plain.tolist() == pytest.approx(plain)
    top1 = found.loc["2D"].set_index("plain").top1
    assert top1[plain[0]] == 75 and top1[plain[1]] == 50  # means of 50 and 100, and of 50 and 50
    assert found.loc["1D"].top1.tolist() == [50, 0]
    assert found.videos.tolist() == [2] * 4
    assert predictions.by_plainness(tmp_path, measured.assign(videos=6), config).empty


def test_videos_that_were_not_read_are_left_out(tmp_path):
    measured = stored(tmp_path, {"2D": [[0, 1, 255, 3]]}, labels=(0, 1, 255, 2))
    frame = predictions.of_measurement(predictions.read(tmp_path), next(measured.itertuples()))
    assert frame.index.tolist() == [VIDEOS[0], VIDEOS[1], VIDEOS[3]] and frame.label.tolist() == [0, 1, 2]


def test_the_committed_study_says_what_its_accuracies_say():
    folder = "results/ablations"
    measured = results.measured(folder, ["2g"])
    found = predictions.by_action(folder, measured)
    if found.empty:
        pytest.skip("the committed records are not of a set of actions")
    means = found.groupby("row").top1.mean()  # actions have 142 or 143 pairs of videos, so it is not quite the same
    assert means.to_dict() == pytest.approx(measured.groupby("row").top1.mean().to_dict(), abs=0.05)
    assert found.right_pair.between(0, 100).all()
