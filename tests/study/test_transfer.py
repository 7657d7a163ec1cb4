import dataclasses

import numpy as np
import pandas as pd
import pytest

from ctlib.config import DataConfig, RunConfig
from ctlib.files import write_json
from ctlib.study import transfer
from ctlib.study.transfer import SCRATCH, TUNED
from ctlib.training.records import RunFolder


@pytest.mark.parametrize("text", ["", "0", "1 4", "1 1", "first"])
def test_other_splits_are_refused(text):
    with pytest.raises(ValueError, match="folds must be some of 1 2 3, each once"):
        transfer.parse_folds(text)


def test_the_runs_differ_only_in_their_start():
    roots = {"ucf101": "u", "hmdb51": "h"}
    runs = transfer.configs(
        roots, (1, 3), "ctnet_quickstart", "recipe.lr=0.01", start="a.pt", scratch=True, recipe="laptop", seed=4
    )
    assert list(runs)[:3] == [("ucf101", TUNED, 1), ("ucf101", SCRATCH, 1), ("ucf101", TUNED, 3)] and len(runs) == 8
    tuned, scratch = runs["hmdb51", TUNED, 3], runs["hmdb51", SCRATCH, 3]
    assert (tuned.start, scratch.start) == ("a.pt", "") and (tuned.name, tuned.seed) == ("fine-tuned_split3", 4)
    assert dataclasses.replace(tuned.model, weights=None) == scratch.model  # a start takes the place of weights
    assert (tuned.data, tuned.recipe) == (scratch.data, scratch.recipe)
    assert (tuned.data.fold, tuned.data.root, tuned.recipe.lr) == (3, "h", 0.01)
    assert len(transfer.configs(roots, (2,), "ctnet_quickstart", start="a.pt")) == 2
    with pytest.raises(ValueError, match="leave data.fold=2 out of overrides"):
        transfer.configs(roots, (1, 2), "ctnet_quickstart", "data.fold=2", start="a.pt")


RESOLVED = {"micro_batch": 8, "precision": "fp32", "num_classes": 5, "fingerprint": "aa", "start_digest": ""}


def record(folder, data, start, fold, top1):
    config = RunConfig(start=start, data=DataConfig(name=data, fold=fold))
    run = RunFolder(folder / f"{data}{start}{fold}")
    run.path.mkdir()
    write_json(run.path / "config.json", {"asked": config.to_dict(), "resolved": RESOLVED})
    run.finish({"top1": top1, "videos": 50, "skipped": 2}, pd.DataFrame())
    return run


def test_three_splits_are_averaged_and_compared(tmp_path):
    top1 = {("ucf101", "a.pt"): (60, 64, 68), ("ucf101", ""): (30, 36, 36), ("hmdb51", "a.pt"): (50, 40, 45)}
    top1["hmdb51", ""] = (40, 45, 41)
    splits = transfer.by_split(
        record(tmp_path, *key, fold, value) for key, three in top1.items() for fold, value in enumerate(three, start=1)
    )
    table = transfer.averaged(splits)
    assert table.loc["ucf101", TUNED].tolist() == [60, 64, 68, 64, 4, 48, 20]
    assert list(table.columns) == ["split 1", "split 2", "split 3", "mean", "std", "videos", "chance"]

    gains = transfer.gains(splits)  # 30, 28, 32 and 10, -5, 4
    assert gains.loc["ucf101", ["splits", "mean", "std", "significant"]].tolist() == [3, 30, 2, True]
    assert gains.margin["ucf101"] == pytest.approx(4.303 * 2 / 3**0.5, abs=1e-3)
    assert gains.margin["hmdb51"] == pytest.approx(18.8, abs=0.05) and not gains.significant["hmdb51"]

    one = splits[splits.fold == 1]
    assert not transfer.gains(one).significant.any() and np.isnan(transfer.averaged(one)["std"]).all()
    assert transfer.gains(splits[splits.weights == TUNED]).empty


def test_what_is_published_is_table_5():
    table = transfer.published(["hmdb51"])
    assert list(table.columns) == ["backbone", "pretrain", "hmdb51"] and table.hmdb51["Our CT-Net"] == 73.2
    assert transfer.published(["ucf101", "hmdb51"]).ucf101["Our CT-Net"] == 96.2
