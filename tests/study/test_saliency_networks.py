"""The small networks whose saliency is measured."""

import dataclasses
import shlex

import pytest

from ctlib.study import saliency_networks
from ctlib.study.saliency_networks import NETWORKS


def test_the_networks_differ_in_what_replaces_the_convolution_and_train_on_one_data_set():
    runs = {name: saliency_networks.trainings(name, 2, overrides="recipe.epochs=1") for name in NETWORKS}
    for name, (small, large) in runs.items():
        half, whole = small.arrow, large.arrow
        assert (half, whole) == tuple(run.arrow for run in runs["TSN"])
        assert whole.size == large.data.size == 128 and half.size == small.data.size == 64
        assert (half.seed, half.difficulty, half.val_clips) == (whole.seed, whole.difficulty, whole.val_clips)
        assert small.model == large.model and small.seed == large.seed == 2
        assert small.name == f"{name}_half" and large.name == name
    small, large = saliency_networks.trainings("CSN", 0, "data.size=66 compute.device=cpu")
    assert (small.data.size, small.arrow.size, large.data.size, large.arrow.size) == (32, 32, 66, 66)
    assert small.compute.device == large.compute.device == "cpu"
    models = [large.model for _, large in runs.values()]
    assert [model.module for model in models] == ["ct", "c3d", "r2plus1d", "csn", "ct"]
    assert models[0].blocks == "none" and len({dataclasses.replace(model, module="ct") for model in models[1:]}) == 1
    with pytest.raises(ValueError, match="unknown network 'CTNet': did you mean 'CT-Net'"):
        saliency_networks.trainings("CTNet", 0)


def test_networks_are_trained_with_each_seed_from_0():
    runs = saliency_networks.all_trainings("CSN, CT-Net", 2, overrides="recipe.epochs=1")
    assert list(runs) == [("CSN", 0), ("CSN", 1), ("CT-Net", 0), ("CT-Net", 1)]
    assert runs["CSN", 1] == saliency_networks.trainings("CSN", 1, overrides="recipe.epochs=1")
    with pytest.raises(ValueError, match="num_seeds must be at least 1, got 0"):
        saliency_networks.all_trainings("CSN", 0)


def test_clips_are_shown_by_number_beside_files_or_one_of_each_of_three_actions():
    labels = [0, 1, 3, 3, 4]
    assert saliency_networks.shown_clips([4, 0], labels) == [4, 0]
    assert saliency_networks.shown_clips([], labels) == [0, 2, 4] and saliency_networks.shown_clips([], [7]) == [0]
    with pytest.raises(ValueError, match="clips must be numbers from 0 to 4, or files, got 5"):
        saliency_networks.shown_clips([5], labels)


@pytest.mark.parametrize("name", ["a 1.mp4", "Bob's 2.mp4", "[3] x.mp4", 'a "4".mp4'])
def test_numbers_and_files_stand_in_one_text(tmp_path, name):
    path = tmp_path / name
    path.touch()
    assert saliency_networks.parse_clips(f"4 {shlex.quote(str(path))} 0") == ([4, 0], [path])
    assert saliency_networks.parse_clips(str(path)) == ([], [path])
    assert saliency_networks.parse_clips("7") == ([7], []) and saliency_networks.parse_clips("") == ([], [])
    with pytest.raises(FileNotFoundError, match="no file .*b.mp4"):
        saliency_networks.parse_clips("0 b.mp4")
