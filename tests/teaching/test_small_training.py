import math

import pytest
import torch

from ctlib import models
from ctlib.data.actions import ACTIONS
from ctlib.teaching import small_training


@pytest.fixture(scope="module")
def drawn():
    return small_training.draw(["push", "grow"], 2, "train", num_frames=4, size=16)


def build(blocks):
    torch.manual_seed(0)
    return models.build_model(models.model_config("tsn_quickstart", num_classes=4, blocks=blocks))


def test_clips_come_in_mirrored_pairs_of_the_actions_asked_for(drawn):
    assert drawn.clips.shape == (8, 3, 4, 16, 16)
    assert torch.equal(drawn.clips[0::2].flip(2), drawn.clips[1::2])
    assert drawn.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert drawn.classes == (*ACTIONS["push"][:2], *ACTIONS["grow"][:2])


def test_training_and_test_clips_differ_and_each_is_drawn_the_same_again(drawn):
    again = small_training.draw(["push", "grow"], 1, "train", num_frames=4, size=16)
    assert torch.equal(again.clips, drawn.clips[:4])
    assert not torch.equal(small_training.draw(["push", "grow"], 1, "val", num_frames=4, size=16).clips, again.clips)


def test_drawing_reports_its_progress():
    reports = []
    small_training.draw(["push", "fall"], 2, "val", 4, 16, on_clips=lambda done, total: reports.append((done, total)))
    assert reports == [(2, 4), (4, 4)]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((["pull"], 1, "train"), "unknown action 'pull'"),
        ((["push"], 1, "test"), "unknown split 'test'"),
        ((["push"], 0, "train"), "count must be at least 1, got 0"),
        (([], 1, "train"), "at least one, each named once"),
    ],
)
def test_drawing_refuses_unknown_actions_and_splits(arguments, text):
    with pytest.raises(ValueError, match=text):
        small_training.draw(*arguments)


FINE = {"actions": ["push"], "train_pairs": 8, "test_pairs": 1, "num_frames": 4, "size": 32, "epochs": 1}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"actions": ["pull"]}, "unknown action"),
        ({"actions": []}, "at least one, each named once"),
        ({"actions": ["fall", "fall"]}, "at least one, each named once"),
        ({"num_frames": 7}, "num_frames must be even.*got 7"),
        ({"num_frames": 0}, "num_frames must be even"),
        ({"size": 31}, "size must be at least 32"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"test_pairs": 0}, "test_pairs must be at least 1, got 0"),
        ({"train_pairs": 7}, "train_pairs must be at least 8.*got 7"),
    ],
)
def test_bad_parameters_are_refused_before_any_work(wrong, text):
    small_training.check(**FINE)
    with pytest.raises(ValueError, match=text):
        small_training.check(**FINE | wrong)


def test_accepted_parameters_can_be_drawn_and_trained_on():
    drawn = small_training.draw(FINE["actions"], FINE["train_pairs"], "train", FINE["num_frames"], FINE["size"])
    assert (
        len(small_training.train(build("none"), drawn, 10, lr=0.001)) == 10
    )  # ten steps, of which one would be warm-up


def test_training_learns_and_depends_on_its_seed_alone(drawn):
    losses = []
    for seed in (0, 0, 1):
        network = build("stage5")
        losses.append(small_training.train(network, drawn, 3, batch=4, lr=0.005, seed=seed))
        assert network.training
    assert losses[0] == losses[1] != losses[2]
    assert len(losses[0]) == 3 and all(map(math.isfinite, losses[0]))


def test_training_reports_each_epoch_and_refuses_too_large_a_batch(drawn):
    reports = []
    losses = small_training.train(build("none"), drawn, 2, 8, lr=0.001, on_epoch=lambda *row: reports.append(row))
    assert reports == list(zip((1, 2), losses, strict=True))
    with pytest.raises(ValueError, match="a batch of 16 needs as many clips, got 8"):
        small_training.train(build("none"), drawn, 1)


def test_frame_averaging_scores_a_clip_as_its_reverse_and_a_ct_block_does_not(drawn):
    plain, block = build("none"), build("stage5")
    scores = small_training.scores(plain, drawn.clips)
    assert torch.allclose(scores[0::2], scores[1::2], atol=1e-5 * scores.std().item())
    assert small_training.accuracy(scores.argmax(1), drawn.labels).both == 0
    scores = small_training.scores(block, drawn.clips)
    assert (scores[0::2] - scores[1::2]).abs().max() > 1e-4 * scores.std()
    assert plain.training and block.training  # the mode they came in


def test_accuracy_of_clips_actions_and_pairs():
    labels = torch.tensor([0, 1, 2, 3])
    assert small_training.accuracy(torch.tensor([0, 1, 2, 2]), labels) == (75, 100, 50)
    assert small_training.accuracy(torch.tensor([0, 0, 2, 2]), labels) == (50, 100, 0)
    assert small_training.accuracy(torch.tensor([2, 2, 0, 0]), labels) == (0, 0, 0)
