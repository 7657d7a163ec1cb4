"""A system in the harness: trained, tested in several views, joined with another network, and explained."""

import dataclasses

import pytest
import torch

from ctlib import checkpoints, saliency
from ctlib.config import ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.models import model_config
from ctlib.training import records, train
from ctlib.training.evaluate import Evaluation, ensemble, score


@pytest.mark.parametrize("name", ["tsm_quickstart", pytest.param("eco_small", marks=pytest.mark.slow)])
def test_a_system_is_trained_tested_in_views_joined_with_another_and_explained(name, arrow_root, val_samples, tmp_path):
    scored = []
    for model in (name, "tsn_quickstart"):
        config = RunConfig(
            name=model,
            model=model_config(model, num_classes=16, num_frames=4),
            data=DataConfig(root=str(arrow_root), size=32, workers=0),
            recipe=RecipeConfig(epochs=1, batch=16, warmup=0),
            compute=ComputeConfig(device="cpu"),
        )
        folder = records.RunFolder.of(config, tmp_path)
        result = train.train(config, folder.path)
        assert result["model"] == model and folder.is_finished(config)
        views = dataclasses.replace(config.data, clips=2, crops=3)
        scored.append(score(Evaluation(folder.checkpoint, val_samples, views, config.compute), tmp_path / "scores"))
        assert scored[-1].protocols[0].views == 6 and scored[-1].protocols[0].gflops == result["gflops"]
    both = ensemble(scored)
    torch.testing.assert_close(both.logits, (scored[0].logits + scored[1].logits) / 2)
    trained = checkpoints.load(records.RunFolder(tmp_path / name / "seed0").checkpoint)
    assert trained.classes == val_samples.classes
    tube = saliency.tube_of(arrow_root / val_samples.path(0), trained, size=32)
    assert tube.tube.shape == (4, 32, 32) and tube.scores.shape == (16,)
