import numpy as np
import pytest
import torch

from ctlib import models
from ctlib.ct_module import Parallel, Serial
from ctlib.teaching import explorers_networks as networks
from ctlib.teaching import figures_networks


def test_the_flow_of_excitation_is_figure_4_with_the_module_s_shapes():
    part = Parallel(16, 4, (3, 3, 3), "te")
    found = networks.excitation_flow(part, torch.rand(1, 16, 8, 6, 6))
    assert [what for what, _ in found["spatial"]] == [
        "$X$", "$X^S$: S-TSConv 1 x 3 x 3, 4 groups, BN, ReLU", "T-Pool: mean over T", "S-TSConv 1 x 3 x 3, 4 groups",
        "BN, ReLU", "S-TSConv 1 x 3 x 3, 4 groups", "Sigmoid", "$U = X^S \\otimes$ Sigmoid(...)",
    ]  # fmt: skip
    assert [found["temporal"][at][0] for at in (0, 2, -1)] == [
        "$X$", "S-Pool: mean over H, W", "$V = X^T \\otimes$ Sigmoid(...)"
    ]  # fmt: skip
    assert [found["channel"][at][0] for at in (0, 1, -1)] == [
        "$R = U + V$", "S-Pool: mean over H, W", "$X_k = R \\otimes$ Sigmoid(...)"
    ]  # fmt: skip
    shapes = {branch: [shape for _, shape in steps] for branch, steps in found.items()}
    assert shapes["spatial"][2:4] == [(16, 1, 6, 6), (4, 1, 6, 6)]
    assert shapes["temporal"][-2:] == shapes["channel"][-2:] == [(16, 8, 1, 1), (16, 8, 6, 6)]
    assert all(layer.training and not layer._forward_hooks for layer in part.modules())  # left as it was


def test_the_flow_tells_another_connection_apart():
    found = networks.excitation_flow(Serial(16, 4, (3, 3, 3), "te"), torch.rand(1, 16, 8, 6, 6))
    assert found["temporal"][0][0] == "$U$" and found["channel"][0][0] == "$V$"


def test_the_flow_s_figure_draws_every_step_once():
    flow = networks.excitation_flow(Parallel(16, 4, (3, 3, 3), "te"), torch.rand(1, 16, 4, 6, 6))
    texts = [text.get_text().split("\n")[0] for text in figures_networks.excitation(flow).axes[0].texts]
    assert texts.count("$X$") == texts.count("$R = U + V$") == 1 and texts.count("Sigmoid") == 3


def test_attention_maps_are_the_gates_and_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    config = models.model_config("ctnet_quickstart", num_classes=2, blocks=((1,), (), (), ()))
    model = models.build_model(config)
    module = model.backbone.layer1[1].conv2
    clips = torch.randn(2, 3, 4, 32, 32)
    maps = networks.attention_maps(model, clips, module)
    assert [tuple(gate.shape) for gate in maps[0].values()] == [(2, 16, 1, 8, 8), (2, 16, 4, 1, 1), (2, 16, 4, 1, 1)]
    assert all(gate.min() > 0 and gate.max() < 1 for part in maps for gate in part.values())
    assert model.training and not module.sub_operations[0].excitation.spatial._forward_hooks
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
    assert networks.order_of("forwards", 4, 1).tolist() == [0, 1, 2, 3]
    assert networks.order_of("backwards", 4).tolist() == [3, 2, 1, 0]
    shuffled = networks.order_of("shuffled", 8)
    assert sorted(shuffled) == list(range(8)) and shuffled.tolist() != list(range(8))
    assert networks.order_of("one frame, repeated", 4).tolist() == [2, 2, 2, 2]
    with pytest.raises(ValueError, match="did you mean 'backwards'"):
        networks.order_of("backward", 4)


def test_shuffled_and_of_one_frame_a_clip_and_its_reverse_are_the_same_input():
    """So no network can be right on more than half of them."""
    first = torch.rand(20, 3, 8, 2, 2)
    clips = torch.stack([first, first.flip(2)], 1).flatten(0, 1)
    for order in ("shuffled", "one frame, repeated"):
        shown = networks.in_order(clips, order)
        assert torch.equal(shown[0::2], shown[1::2])
    assert len({tuple(networks.order_of("shuffled", 8, pair)) for pair in range(0, 40, 2)}) > 15  # one for each pair
    assert not torch.equal(networks.in_order(clips, "shuffled"), networks.in_order(clips, "shuffled", seed=1))
    assert torch.equal(networks.in_order(clips, "backwards")[0::2], clips[1::2])


def test_the_browser_shows_what_was_said_of_the_clip_in_this_order():
    clips = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(2, 3, 4, 8, 8)
    scores = {"a network": torch.tensor([[0.0, 3.0], [0.0, 0.1]])}
    view = networks.browse(clips, ["falling", "rising"], 1, "backwards", scores, ["late", "early"])
    assert view.numbers["a network says"] == "early (52 %)" and view.numbers["clip"] == "1: rising"
    assert view.alt == "The 4 frames of a clip, backwards: rising."
