import pytest
import torch

from ctlib.teaching import lesson5


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
    assert not torch.equal(lesson5.in_order(clips, "shuffled"), lesson5.in_order(clips, "shuffled", seed=1))
    assert torch.equal(lesson5.in_order(clips, "backwards")[0::2], clips[1::2])


def test_the_browser_shows_the_predictions_for_this_order():
    clips = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(2, 3, 4, 8, 8)
    scores = {"a network": torch.tensor([[0.0, 3.0], [0.0, 0.1]])}
    view = lesson5.browse(clips, ["falling", "rising"], 1, "backwards", scores, ["late", "early"])
    assert view.numbers["a network predicts"] == "early (52 %)" and view.numbers["clip"] == "1: rising"
    assert view.alt == "The 4 frames of a clip, backwards: rising."
