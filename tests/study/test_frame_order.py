"""How many frames of a clip a network sees, measured with random weights."""

import pytest
import torch

import ctlib
from ctlib import cost
from ctlib.study import frame_order


def made(name, seed=0):
    torch.manual_seed(seed)
    return ctlib.create_model(f"{name}_quickstart", num_classes=16)


@pytest.mark.parametrize(("name", "frames"), [("tsn", 1), ("tsm", 17), ("ctnet", 33)])
def test_without_differences_and_gates_they_are_the_interact_field_in_time(name, frames):
    network = made(name)
    assert frame_order.frames_seen(frame_order.as_trained(network), 33) == frames
    assert cost.interact_field(network, 33, size=32).box[0] == frames


@pytest.mark.parametrize(("name", "frames"), [("teinet", 25), ("tea", 33), ("pem", 33)])
def test_networks_of_differences_see_as_much_from_any_start(name, frames):
    assert [frame_order.frames_seen(frame_order.as_trained(made(name, seed)), 33) for seed in (0, 1)] == [frames] * 2


def test_tdn_sees_three_frames_of_each_segment_at_the_start_and_all_once_trained():
    network = made("tdn").double().eval()
    assert frame_order.frames_seen(network, 35) == 21
    assert frame_order.frames_seen(frame_order.as_trained(network), 35) == 35


def test_what_was_drawn_stays_and_what_starts_equal_is_drawn():
    network = made("teinet")
    trained = dict(frame_order.as_trained(network).named_parameters())
    for name, parameter in network.named_parameters():
        drawn = parameter.unique().numel() > parameter.numel() / 2
        assert torch.equal(trained[name].float(), parameter) == drawn, name
        assert trained[name].unique().numel() > 1, name
