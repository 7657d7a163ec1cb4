import numpy as np
import pandas as pd
import pytest

from ctlib.config import DataConfig, ModelConfig, RunConfig
from ctlib.study import transfer
from ctlib.study.transfer import SCRATCH, TUNED
from ctlib.training.records import RunFolder


@pytest.mark.parametrize("text", ["", "0", "1 4", "1 1", "first"])
def test_other_splits_are_refused(text):
    with pytest.raises(ValueError, match="folds must be some of 1 2 3, each once"):
        transfer.folds_of(text)


def test_the_runs_are_alike_but_for_their_start():
    roots = {"ucf101": "u", "hmdb51": "h"}
    found = transfer.configs(roots, (1, 3), "ctnet_quickstart", "laptop", "recipe.lr=0.01", "a.pt", True, seed=4)
    assert list(found)[:3] == [("ucf101", TUNED, 1), ("ucf101", SCRATCH, 1), ("ucf101", TUNED, 3)] and len(found) == 8
    tuned, scratch = found["hmdb51", TUNED, 3], found["hmdb51", SCRATCH, 3]
    assert (tuned.start, scratch.start) == ("a.pt", "") and (tuned.name, tuned.seed) == ("fine-tuned_split3", 4)
    assert (tuned.model, tuned.data, tuned.recipe) == (scratch.model, scratch.data, scratch.recipe)
    assert (tuned.data.fold, tuned.data.root, tuned.recipe.lr) == (3, "h", 0.01)
    assert len(transfer.configs(roots, (2,), "ctnet_quickstart", start="a.pt")) == 2
    with pytest.raises(ValueError, match="leave data.fold=2 out of overrides"):
        transfer.configs(roots, (1, 2), "ctnet_quickstart", overrides="data.fold=2")


def record(folder, data, start, fold, top1):
    config = RunConfig(start=start, data=DataConfig(name=data, fold=fold), model=ModelConfig(num_classes=5))
    run = RunFolder(folder / f"{data}{start}{fold}")
    run.start(config)
    run.finish({"top1": top1, "videos": 50, "skipped": 2}, pd.DataFrame())
    return run


def test_what_three_splits_say(tmp_path):
    top1 = {("ucf101", "a.pt"): (60, 64, 68), ("ucf101", ""): (30, 36, 36), ("hmdb51", "a.pt"): (50, 40, 45)}
    top1["hmdb51", ""] = (40, 45, 41)
    splits = transfer.by_split(
        record(tmp_path, *key, fold, value) for key, three in top1.items() for fold, value in enumerate(three, start=1)
    )
    table = transfer.averaged(splits)
    assert table.loc["ucf101", TUNED].tolist() == [60, 64, 68, 64, 4]
    assert list(table.columns) == ["split 1", "split 2", "split 3", "mean", "spread"]

    gains = transfer.gains(splits)  # 30, 28, 32 and 10, -5, 4
    assert gains.loc["ucf101", ["splits", "mean", "spread", "resolved"]].tolist() == [3, 30, 2, True]
    assert gains.half["ucf101"] == pytest.approx(4.303 * 2 / 3**0.5, abs=1e-3)
    assert not gains.resolved["hmdb51"]
    told = transfer.told(splits)
    assert (
        "ucf101, fine-tuned: top-1 64.0 % (mean over 3 splits, spread 4.0; 48 test videos a split, chance 20 %)" in told
    )
    assert "+30.0 points, spread 2.0, t interval ± 5.0 over 3 splits: beyond it" in told
    assert "+3.0 points, spread 7.5, t interval ± 18.8 over 3 splits: within it, not resolved" in told

    one = splits[splits.fold == 1]
    assert not transfer.gains(one).resolved.any() and np.isnan(transfer.averaged(one).spread).all()
    assert transfer.told(one).count("on one split, which says nothing of how it varies: not resolved") == 2
    tuned = splits[splits.weights == TUNED]
    assert transfer.gains(tuned).empty and "not resolved" not in transfer.told(tuned)


def test_what_is_published_is_table_5():
    table = transfer.published(["hmdb51"])
    assert list(table.columns) == ["backbone", "pretrain", "hmdb51"] and table.hmdb51["Our CT-Net"] == 73.2
    assert transfer.published(["ucf101", "hmdb51"]).ucf101["Our CT-Net"] == 96.2
