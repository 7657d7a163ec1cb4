"""The small networks whose saliency is measured: what differs between them, and what does not."""

import dataclasses

import pytest

from ctlib.study import saliency_networks


def test_the_networks_differ_in_what_replaces_the_convolution_and_train_on_one_data_set():
    found = {
        name: saliency_networks.trainings(name, seed=2, **{"recipe.epochs": 1}) for name in saliency_networks.NETWORKS
    }
    for name, (small, large) in found.items():
        half, whole = small.arrow, large.arrow
        assert (half, whole) == tuple(run.arrow for run in found["TSN"])
        assert whole.size == large.data.size == 128 and half.size == small.data.size == 64
        assert (half.seed, half.difficulty, half.val_clips) == (whole.seed, whole.difficulty, whole.val_clips)
        assert small.model == large.model and small.seed == large.seed == 2
        assert small.name == f"{name}_half" and large.name == name
    models = [large.model for _, large in found.values()]
    assert [model.module for model in models] == ["ct", "c3d", "r2plus1d", "csn", "ct"]
    assert models[0].blocks == "none" and len({dataclasses.replace(model, module="ct") for model in models[1:]}) == 1
    with pytest.raises(ValueError, match="unknown network 'CTNet': did you mean 'CT-Net'"):
        saliency_networks.trainings("CTNet", 0)


def test_networks_are_trained_with_each_seed_from_0():
    found = saliency_networks.all_trainings("CSN, CT-Net", 2, **{"recipe.epochs": 1})
    assert list(found) == [("CSN", 0), ("CSN", 1), ("CT-Net", 0), ("CT-Net", 1)]
    assert found["CSN", 1] == saliency_networks.trainings("CSN", 1, **{"recipe.epochs": 1})
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        saliency_networks.all_trainings("CSN", 0)
