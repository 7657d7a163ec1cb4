"""The networks whose saliency is measured."""

import shlex

import pytest

from ctlib.study import saliency_networks
from ctlib.study.saliency_networks import NETWORKS
from ctlib.study.scales import Study
from tests.study.conftest import STUDY


def test_the_networks_are_runs_of_the_study_and_differ_in_what_replaces_the_convolution():
    found = saliency_networks.of_study(", ".join(NETWORKS), 2, Study(overrides="recipe.epochs=1"))
    assert list(found) == [(name, seed) for name in NETWORKS for seed in (0, 1)]
    assert [found[name, 0].config.name for name in NETWORKS] == ["tsn", "c3d", "r2plus1d", "csn", "ctnet"]
    models = [found[name, 0].config.model for name in NETWORKS]
    assert models[0].blocks == "none" and [one.module for one in models] == ["ct", "c3d", "r2plus1d", "csn", "ct"]
    assert {job.config.recipe.epochs for job in found.values()} == {1} and found["CSN", 1].config.seed == 1
    with pytest.raises(ValueError, match="unknown network 'CTNet': did you mean 'CT-Net'"):
        saliency_networks.of_study("TSN, CTNet", 1, Study())
    with pytest.raises(ValueError, match="num_seeds must be at least 1, got 0"):
        saliency_networks.of_study("CSN", 0, Study())


def test_finished_runs_are_read_and_nothing_is_started(small_study, monkeypatch):
    monkeypatch.setattr(saliency_networks, "ProcessPoolExecutor", lambda *_: pytest.fail("started processes"))
    ((job, result),) = saliency_networks.train_all(saliency_networks.of_study("CT-Net", 1, STUDY).values(), small_study)
    assert job.config.name == "ctnet" and 0 <= result["top1"] <= 100


def test_the_first_clips_of_a_list_are_a_list(val_samples):
    few = saliency_networks.first(val_samples, 3)
    assert [few[index] for index in range(3)] == [val_samples[index] for index in range(3)] and len(few) == 3
    assert few.classes == val_samples.classes and len(saliency_networks.first(val_samples, 10**6)) == len(val_samples)
    with pytest.raises(ValueError, match="num_clips must be at least 1, got 0"):
        saliency_networks.first(val_samples, 0)


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
