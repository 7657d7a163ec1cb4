import math

import pytest
import torch

from ctlib import models
from ctlib.data import arrow
from ctlib.teaching import lessons


@pytest.fixture(scope="module")
def drawn():
    return lessons.draw([0, 2], 2, "train", num_frames=4, size=16)


def build(blocks):
    torch.manual_seed(0)
    return models.build_model(models.model_config("tsn_quickstart", num_classes=4, blocks=blocks))


def test_clips_come_in_mirrored_pairs_of_the_actions_asked_for(drawn):
    assert drawn.clips.shape == (8, 3, 4, 16, 16) and drawn.masks.shape == (8, 4, 16, 16)
    assert torch.equal(drawn.clips[0::2].flip(2), drawn.clips[1::2])
    assert (drawn.masks[0::2, ::-1] == drawn.masks[1::2]).all()
    assert drawn.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert drawn.classes == (arrow.CLASSES[0], arrow.CLASSES[1], arrow.CLASSES[4], arrow.CLASSES[5])


def test_training_and_test_clips_differ_and_each_is_drawn_the_same_again(drawn):
    again = lessons.draw([0, 2], 1, "train", num_frames=4, size=16)
    assert torch.equal(again.clips, drawn.clips[:4])
    assert not torch.equal(lessons.draw([0, 2], 1, "val", num_frames=4, size=16).clips, again.clips)


def test_drawing_tells_how_far_it_is():
    told = []
    lessons.draw([0, 1], 2, "val", 4, 16, on_clips=lambda done, total: told.append((done, total)))
    assert told == [(2, 4), (4, 4)]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([8], 1, "train"), "unknown action '8'|unknown action 8"),
        (([0], 1, "test"), "unknown split 'test'"),
        (([0], 0, "train"), "at least one action and one pair"),
        (([], 1, "train"), "at least one action and one pair"),
    ],
)
def test_drawing_refuses_what_is_not_there(arguments, text):
    with pytest.raises(ValueError, match=text):
        lessons.draw(*arguments)


FINE = {"actions": [0], "train_pairs": 8, "test_pairs": 1, "num_frames": 4, "size": 32, "epochs": 1}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"actions": [99]}, "unknown action"),
        ({"actions": []}, "at least one, each named once"),
        ({"actions": [1, 1]}, "at least one, each named once"),
        ({"num_frames": 7}, "num_frames must be even.*got 7"),
        ({"num_frames": 0}, "num_frames must be even"),
        ({"size": 31}, "size must be at least 32"),
        ({"epochs": 0}, "epochs and test_pairs must be at least 1"),
        ({"test_pairs": 0}, "epochs and test_pairs must be at least 1"),
        ({"train_pairs": 7}, "train_pairs must be at least 8.*got 7"),
    ],
)
def test_bad_parameters_are_refused_before_any_work(wrong, text):
    lessons.check(**FINE)
    with pytest.raises(ValueError, match=text):
        lessons.check(**FINE | wrong)


def test_what_is_let_pass_can_be_drawn_and_trained_on():
    drawn = lessons.draw(FINE["actions"], FINE["train_pairs"], "train", FINE["num_frames"], FINE["size"])
    assert len(lessons.train(build("none"), drawn, 10, lr=0.001)) == 10  # ten steps: one of them would be warm-up


def test_training_learns_and_depends_on_its_seed_alone(drawn):
    losses = []
    for seed in (0, 0, 1):
        network = build("stage5")
        losses.append(lessons.train(network, drawn, 3, batch=4, lr=0.005, seed=seed))
        assert network.training
    assert losses[0] == losses[1] != losses[2]
    assert len(losses[0]) == 3 and all(map(math.isfinite, losses[0]))


def test_training_tells_each_epoch_and_refuses_too_large_a_batch(drawn):
    told = []
    found = lessons.train(build("none"), drawn, 2, batch=8, lr=0.001, on_epoch=lambda *line: told.append(line))
    assert told == list(zip((1, 2), found, strict=True))
    with pytest.raises(ValueError, match="a batch of 16 needs as many clips, got 8"):
        lessons.train(build("none"), drawn, 1)


def test_frame_averaging_scores_a_clip_as_its_reverse_and_a_ct_block_does_not(drawn):
    plain, block = build("none"), build("stage5")
    found = lessons.scores(plain, drawn.clips)
    assert torch.allclose(found[0::2], found[1::2], atol=1e-5 * found.std().item())
    assert lessons.judge(found.argmax(1), drawn.labels).both == 0
    found = lessons.scores(block, drawn.clips)
    assert (found[0::2] - found[1::2]).abs().max() > 1e-4 * found.std()
    assert plain.training and block.training  # the mode they came in


def test_judging_tells_directions_actions_and_pairs_apart():
    labels = torch.tensor([0, 1, 2, 3])
    assert lessons.judge(torch.tensor([0, 1, 2, 2]), labels) == (75, 100, 50)
    assert lessons.judge(torch.tensor([0, 0, 2, 2]), labels) == (50, 100, 0)
    assert lessons.judge(torch.tensor([2, 2, 0, 0]), labels) == (0, 0, 0)
