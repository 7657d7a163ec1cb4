import pandas as pd
import pytest

from ctlib import study


def test_arrow_accuracy_counts_pairs_as_one_piece_of_evidence():
    sources = [f"val/{pair:06d}_{way}.mp4" for pair in range(4) for way in ("forward", "backward")]
    predictions = pd.DataFrame(
        {"source": sources, "label": [0, 1, 2, 3, 0, 1, 2, 3], "predicted": [0, 0, 2, 3, 4, 5, 2, 2]}
    )
    accuracy = study.arrow_accuracy(predictions)
    assert accuracy.top1 == 50 and accuracy.right_pair == 75
    means = pd.Series([0.5, 1.0, 0.0, 0.5])
    assert accuracy.half == pytest.approx(318.2 * means.std() / 2, rel=1e-3)  # t of 3 degrees: 3.182


def test_runs_are_told_apart_by_seed_where_names_repeat():
    table = pd.DataFrame({"name": ["TSN", "CT-Net", "CT-Net"], "seed": [0, 0, 1]})
    assert study.run_labels(table) == ["TSN", "CT-Net, seed 0", "CT-Net, seed 1"]
