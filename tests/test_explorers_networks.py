import numpy as np
import pytest
import torch

from ctlib import models
from ctlib.excitation import TensorExcitation
from ctlib.teaching import explorers_networks as networks


def test_the_flow_of_excitation_is_figure_4_with_the_module_s_shapes():
    excitation = TensorExcitation(16, size=4)
    found = networks.excitation_flow(excitation, torch.rand(1, 16, 8, 6, 6))
    assert [what for what, _ in found["spatial"]] == [
        "features X", "mean over T", "TSConv 1 x 3 x 3, 4 groups", "BN", "ReLU", "TSConv 1 x 3 x 3, 4 groups",
        "sigmoid", "X times it",
    ]  # fmt: skip
    shapes = {branch: [shape for _, shape in steps] for branch, steps in found.items()}
    assert shapes["spatial"][1:3] == [(16, 1, 6, 6), (4, 1, 6, 6)]
    assert shapes["temporal"][-2:] == shapes["channel"][-2:] == [(16, 8, 1, 1), (16, 8, 6, 6)]
    assert excitation.spatial.bn.training and not excitation.spatial.reduce._forward_hooks  # left as it was


def test_attention_maps_are_the_gates_and_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    config = models.model_config("ctnet_quickstart", num_classes=2, blocks=((1,), (), (), ()))
    model = models.build_model(config)
    module = model.trunk.layer1[1].conv2
    clips = torch.randn(2, 3, 4, 32, 32)
    maps = networks.attention_maps(model, clips, module)
    assert [tuple(gate.shape) for gate in maps[0].values()] == [(2, 16, 1, 8, 8), (2, 16, 4, 1, 1), (2, 16, 4, 1, 1)]
    assert all(gate.min() > 0 and gate.max() < 1 for part in maps for gate in part.values())
    assert model.training and not module.sub_operations[0].excitation.spatial._forward_pre_hooks
    backwards = networks.attention_maps(model, clips.flip(2), module)
    assert torch.allclose(maps[0]["spatial"], backwards[0]["spatial"], atol=1e-5)


def test_the_attention_s_view_takes_one_channel_or_their_mean():
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    gates = {"spatial": torch.rand(3, 1, 2, 2), "temporal": torch.rand(3, 4, 1, 1), "channel": torch.rand(3, 4, 1, 1)}
    assert networks.attention_over_time(frames, gates).numbers["shown"] == "mean of 3 channels"
    one = networks.attention_over_time(frames, gates, 1)
    values = gates["temporal"][1]
    assert one.numbers["temporal gate, over the frames"] == f"{values.min():.2f} to {values.max():.2f}"
    with pytest.raises(ValueError, match="to 2, got 3"):
        networks.attention_over_time(frames, gates, 3)


def test_orders_of_frames():
    assert networks.order_of("forwards", 4).tolist() == [0, 1, 2, 3]
    assert networks.order_of("backwards", 4).tolist() == [3, 2, 1, 0]
    shuffled = networks.order_of("shuffled", 8)
    assert sorted(shuffled) == list(range(8)) and shuffled.tolist() != list(range(8))
    assert networks.order_of("one frame, repeated", 4).tolist() == [2, 2, 2, 2]
    with pytest.raises(ValueError, match="did you mean 'backwards'"):
        networks.order_of("backward", 4)


def test_the_browser_asks_each_network_about_the_clip_in_this_order():
    clips = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 3, 4, 8, 8)
    asked = {"first frame": lambda clip: torch.stack([clip[0, 0, 0, 0, 0], torch.tensor(1.5)])[None]}
    forwards, backwards = (
        networks.browse(clips, ["falling"], 0, order, asked, ["late", "early"]) for order in ("forwards", "backwards")
    )
    assert forwards.numbers["first frame says"].startswith("early")
    assert backwards.numbers["first frame says"].startswith("late")
    assert backwards.alt == "The 4 frames of a clip, backwards: falling."
