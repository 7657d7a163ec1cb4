import math

import pytest
import torch

from ctlib.teaching import lesson5, small_training


def test_orders_of_frames():
    assert lesson5.order_of("forwards", 4, 1).tolist() == [0, 1, 2, 3]
    assert lesson5.order_of("backwards", 4).tolist() == [3, 2, 1, 0]
    shuffled = lesson5.order_of("shuffled", 8)
    assert sorted(shuffled) == list(range(8)) and shuffled.tolist() != list(range(8))
    assert lesson5.order_of("one frame, repeated", 4).tolist() == [2, 2, 2, 2]
    with pytest.raises(ValueError, match="did you mean 'backwards'"):
        lesson5.order_of("backward", 4)


def test_shuffled_and_of_one_frame_a_clip_and_its_reverse_are_the_same_input():
    """So no network can be right on more than half of them."""
    first = torch.rand(20, 3, 8, 2, 2)
    clips = torch.stack([first, first.flip(2)], 1).flatten(0, 1)
    for order in ("shuffled", "one frame, repeated"):
        shown = lesson5.in_order(clips, order)
        assert torch.equal(shown[0::2], shown[1::2])
    assert len({tuple(lesson5.order_of("shuffled", 8, pair)) for pair in range(0, 40, 2)}) > 15  # one for each pair
    assert torch.equal(lesson5.in_order(clips, "backwards")[0::2], clips[1::2])


def test_the_browser_shows_the_predictions_for_this_order():
    clips = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(2, 3, 4, 8, 8)
    scores = {"a network": torch.tensor([[0.0, 3.0], [0.0, 0.1]])}
    view = lesson5.browse(clips, ["falling", "rising"], 1, "backwards", 3, scores, ["late", "early"])
    assert view.numbers["a network predicts"] == "early (52 %)" and view.numbers["clip"] == "rising"
    assert view.alt == "Frame 3 of 4 of a clip, backwards: rising."


def test_a_loss_is_ln_c_and_the_price_of_guessing_if_labels_are_random():
    torch.manual_seed(0)
    scores = 3 * torch.randn(1, 4).expand(4, 4)
    loss = torch.nn.functional.cross_entropy(scores, torch.arange(4))  # each class once
    assert float(loss) == pytest.approx(math.log(4) + lesson5.price_of_guessing(scores), abs=1e-6)
    assert lesson5.price_of_guessing(torch.ones(2, 5)) == pytest.approx(0, abs=1e-6)


def test_a_watched_network_is_left_as_it_was():
    network = torch.nn.Linear(2, 3)
    with pytest.raises(KeyError), lesson5.watched(network) as prices:
        network(torch.rand(4, 2))
        raise KeyError
    assert len(prices) == 1 and not network._forward_hooks


def test_fewer_clips_have_as_many_of_each_class():
    data = small_training.draw(["push", "fall"], 6, "train", num_frames=2, size=16)
    few = lesson5.first_pairs(data, 5)
    assert few.labels.bincount().tolist() == [5, 5, 5, 5] and len(few.clips) == 20
    assert len(lesson5.first_pairs(data, 0).labels) == small_training.BATCH


def test_the_table_has_the_direction_where_the_action_is_right():
    class Fixed(torch.nn.Module):
        def forward(self, clips):
            return torch.eye(4)[[0, 1, 2, 2, 0, 0, 0, 1]][: len(clips)]

    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    data = small_training.Clips(torch.zeros(8, 3, 2, 4, 4), labels, ("a", "b", "c", "d"))
    row = lesson5.table({"fixed": Fixed()}, {"fixed": data}, data).loc["fixed"]
    assert row["top-1 test, %"] == row["top-1 training, %"] == 50 and row["right action, %"] == 75
    assert row["right direction, %"] == pytest.approx(200 / 3) and row["both of a pair right, %"] == 25
