import numpy as np
import pytest
import torch

from ctlib import models
from ctlib.ct_module import Parallel, Serial
from ctlib.teaching import lesson3


def test_the_flow_of_excitation_is_figure_4_with_the_module_s_shapes():
    part = Parallel(16, 4, (3, 3, 3), "te")
    steps = lesson3.excitation_flow(part, torch.rand(1, 16, 8, 6, 6))
    assert [what for what, _ in steps["spatial"]] == [
        "$X$", "$X^S$: S-TSConv 1 x 3 x 3, 4 groups, BN, ReLU", "T-Pool: mean over T", "S-TSConv 1 x 3 x 3, 4 groups",
        "BN, ReLU", "S-TSConv 1 x 3 x 3, 4 groups", "Sigmoid", "$U = X^S \\otimes$ Sigmoid(...)",
    ]  # fmt: skip
    assert [steps["temporal"][at][0] for at in (0, 2, -1)] == [
        "$X$", "S-Pool: mean over H, W", "$V = X^T \\otimes$ Sigmoid(...)"
    ]  # fmt: skip
    assert [steps["channel"][at][0] for at in (0, 1, -1)] == [
        "$R = U + V$", "S-Pool: mean over H, W", "$X_k = R \\otimes$ Sigmoid(...)"
    ]  # fmt: skip
    shapes = {branch: [shape for _, shape in noted] for branch, noted in steps.items()}
    assert shapes["spatial"][2:4] == [(16, 1, 6, 6), (8, 1, 6, 6)]
    assert shapes["temporal"][-2:] == shapes["channel"][-2:] == [(16, 8, 1, 1), (16, 8, 6, 6)]
    assert all(layer.training and not layer._forward_hooks for layer in part.modules())  # left as it was


def test_the_flow_of_a_serial_connection():
    steps = lesson3.excitation_flow(Serial(16, 4, (3, 3, 3), "te"), torch.rand(1, 16, 8, 6, 6))
    assert steps["temporal"][0][0] == "$U$" and steps["channel"][0][0] == "$V$"


def test_the_flow_s_figure_draws_every_step_once():
    flow = lesson3.excitation_flow(Parallel(16, 4, (3, 3, 3), "te"), torch.rand(1, 16, 4, 6, 6))
    texts = [text.get_text().split("\n")[0] for text in lesson3.excitation(flow).axes[0].texts]
    assert texts.count("$X$") == texts.count("$R = U + V$") == 1 and texts.count("Sigmoid") == 3


def test_attention_maps_are_the_gates_and_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    config = models.model_config("ctnet_quickstart", num_classes=2, blocks=((1,), (), (), ()))
    model = models.build_model(config)
    module = model.backbone.layer1[1].conv2
    clips = torch.randn(2, 3, 4, 32, 32)
    maps = lesson3.attention_maps(model, clips, module)
    assert [tuple(gate.shape) for gate in maps[0].values()] == [(2, 16, 1, 8, 8), (2, 16, 4, 1, 1), (2, 16, 4, 1, 1)]
    assert all(gate.min() > 0 and gate.max() < 1 for part in maps for gate in part.values())
    assert model.training and not module.sub_operations[0].excitation.spatial._forward_hooks
    backwards = lesson3.attention_maps(model, clips.flip(2), module)
    assert torch.allclose(maps[0]["spatial"], backwards[0]["spatial"], atol=1e-5)


def test_the_attention_s_view_takes_one_channel_or_their_mean():
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    gates = {"spatial": torch.rand(3, 1, 2, 2), "temporal": torch.rand(3, 4, 1, 1), "channel": torch.rand(3, 4, 1, 1)}
    assert lesson3.attention_over_time(frames, gates).numbers["shown"] == "mean of 3 channels"
    one = lesson3.attention_over_time(frames, gates, 1)
    values = gates["temporal"][1]
    assert one.numbers["temporal gate, over the frames"] == f"{values.min():.2f} to {values.max():.2f}"
    with pytest.raises(ValueError, match="to 2, got 3"):
        lesson3.attention_over_time(frames, gates, 3)
