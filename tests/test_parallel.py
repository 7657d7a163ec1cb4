"""Training on two CPU processes: the gradients and weights of one that accumulates the same micro-batches."""

import pytest
import torch

from ctlib import runs, train
from ctlib.config import ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.models import model_config


@pytest.fixture
def config(arrow_root):
    return RunConfig(
        name="tiny",
        model=model_config("ctnet_quickstart", num_classes=16, num_frames=4, dropout=0.5),
        data=DataConfig(root=str(arrow_root), size=32, flip=True, workers=0),
        recipe=RecipeConfig(epochs=2, batch=8, lr=0.1, warmup=0.5),
        compute=ComputeConfig(micro_batch=4, threads=1),
    )


def state_of(folder):
    return torch.load(runs.RunFolder(folder).checkpoint, weights_only=True)["state_dict"]


def test_two_processes_train_the_network_of_one_that_accumulates(config, tmp_path):
    steps, lines = [], []
    together = train.train(
        config, tmp_path / "two", processes=2, on_step=lambda *at: steps.append(at), on_epoch=lines.append
    )
    alone = train.train(config, tmp_path / "one")
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert all(torch.equal(one[key], two[key]) for key in one)
    history = [runs.RunFolder(tmp_path / name).history() for name in ("one", "two")]
    for column in ("loss", "train_top1", "lr", "top1", "top5"):
        assert history[0][column].tolist() == pytest.approx(history[1][column].tolist(), rel=1e-12)
    assert runs.RunFolder(tmp_path / "one").predictions().equals(runs.RunFolder(tmp_path / "two").predictions())
    assert (alone["processes"], together["processes"]) == (1, 2)
    assert alone["micro_batch"] == together["micro_batch"] == 4
    assert [done for done, _, _ in steps] == list(range(1, 9)) and [line["epoch"] for line in lines] == [1, 2]
