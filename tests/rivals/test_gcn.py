"""NL-I3D + GCN: scores of clips and of the boxes in them."""

import numpy as np
import pytest
import torch
from torch import nn

import ctlib
from ctlib import checkpoints, cost
from ctlib.config import ModelConfig
from ctlib.deploy import optimize
from ctlib.kernels import BATCH_NORMS
from ctlib.models import VideoClassifier
from ctlib.rivals.gcn import BACKBONES, RegionBackbone, RegionGraphs
from ctlib.study.systems import on_clips_alone

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


def random_boxes(*shape, size=64):
    torch.manual_seed(1)
    corners = torch.rand(*shape, 2, 2, dtype=torch.double).sort(-2).values * size
    return corners.flatten(-2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    backbone = RegionBackbone((1, 2, 1, 1), ((), (1,), (), ()), width=8, channels=32)
    made = backbone.classifier(backbone, ModelConfig(num_classes=5, blocks="none")).double().eval()
    nn.init.normal_(made.fc.weight)
    return made.requires_grad_(False)


def test_its_cost_without_a_detector():
    with torch.device("meta"):
        backbone = BACKBONES["nl_i3d_gcn_r50"]()
        network = backbone.classifier(backbone, ModelConfig(num_classes=174, blocks="none"))
    counted = cost.count(on_clips_alone(network), 32, 224)
    # Published, with a detector that is not described: 303 and 62.2. NL-I3D takes 221.5 of these.
    assert (round(counted.gflops, 2), round(counted.params / 1e6, 2)) == (228.5, 38.7)


def test_without_boxes_or_with_others_it_refuses(network):
    clips = random_clips(2, 3, 8, 32, 32)
    with pytest.raises(ValueError, match="this network needs boxes of objects: call it with clips and boxes"):
        network(clips)
    with pytest.raises(ValueError, match=r"boxes must be \(2, 4, K, 4\) for these clips, got \(2, 8, 3, 4\)"):
        network(clips, random_boxes(2, 8, 3))
    with pytest.raises(ValueError, match="this network needs boxes"):
        cost.count(network, 8, 32)


@pytest.mark.parametrize(("n", "t", "height", "width", "k"), [(1, 1, 32, 32, 2), (2, 5, 33, 47, 1), (1, 8, 64, 32, 0)])
def test_it_takes_any_number_of_frames_and_boxes_and_any_size(network, n, t, height, width, k):
    scores = network(random_clips(n, 3, t, height, width), random_boxes(n, max(1, t // 2), k))
    assert scores.shape == (n, 5) and scores.isfinite().all()


def test_rows_of_zeros_are_no_boxes_and_their_order_in_a_frame_does_not_matter(network):
    clips, boxes = random_clips(2, 3, 8, 64, 64), random_boxes(2, 4, 3)
    boxes[1, 2:, 1:] = 0
    scores = network(clips, boxes)
    padded = torch.cat([boxes, torch.zeros(2, 4, 2, 4)], 2)[:, :, [3, 2, 0, 4, 1]]
    torch.testing.assert_close(network(clips, padded), scores, **CLOSE)
    torch.testing.assert_close(network(clips[1:], boxes[1:]), scores[1:], **CLOSE)  # clips do not see each other
    assert (network(clips, boxes * 0.8) - scores).abs().max() > 1e-3
    assert network(clips, boxes * 0).isfinite().all()


def test_the_graphs_know_which_frame_comes_next(network):
    nodes, boxes = random_clips(1, 4, 3, 32), random_boxes(1, 4, 3)
    there = torch.ones(1, 4, 3, dtype=torch.bool)
    out = network.graphs(nodes, boxes, there)
    for relation in network.graphs.beside:  # the same weights forward and backward
        relation.weights[1].weight.copy_(relation.weights[0].weight)
    same = network.graphs(nodes, boxes, there)
    torch.testing.assert_close(network.graphs(nodes.flip(1), boxes.flip(1), there), same, **CLOSE)
    assert (out - same).abs().max() > 1e-3


def test_boxes_that_overlap_nothing_have_no_neighbours():
    graphs = RegionGraphs(8).double()
    boxes = torch.tensor([[[[0, 0, 4, 4]], [[8, 8, 9, 9]], [[0, 0, 2, 4]]]], dtype=torch.double)
    there = torch.ones(1, 3, 1, dtype=torch.bool)
    nodes = random_clips(1, 3, 1, 8).requires_grad_()
    nn.init.zeros_(graphs.query.weight)  # all boxes are alike
    for relation in graphs.alike:
        nn.init.zeros_(relation.norm.weight)
    graphs(nodes, boxes, there).square().sum().backward()
    assert not nodes.grad.any()  # by way of boxes of neighbouring frames nothing arrives
    nodes.grad = None
    graphs(nodes, boxes[:, [0, 2, 1]], there).square().sum().backward()
    assert nodes.grad[0, :2].any() and not nodes.grad[0, 2].any()


def test_every_parameter_has_a_gradient_and_the_backbone_is_an_nl_i3d():
    torch.manual_seed(0)
    backbone = BACKBONES["nl_i3d_gcn_small"]()
    network = backbone.classifier(backbone, ModelConfig(num_classes=5, blocks="none")).double()
    assert isinstance(network, VideoClassifier)
    for part in network.modules():
        if hasattr(part, "theta"):  # a non-local block, which starts as if it were not there
            nn.init.ones_(part.bn.weight)
    network(random_clips(2, 3, 8, 32, 32), random_boxes(2, 4, 3, size=32)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


def test_it_is_saved_optimized_and_computed_in_bfloat16(tmp_path):
    torch.manual_seed(0)
    network = ctlib.create_model("nl_i3d_gcn_small", 5).eval().requires_grad_(False)
    nn.init.normal_(network.fc.weight)
    given = random_clips(2, 3, 8, 32, 32).float(), random_boxes(2, 4, 3, size=32).float()
    checkpoints.save(tmp_path / "c.safetensors", network, np.array(list("abcde")))
    assert torch.equal(checkpoints.load(tmp_path / "c.safetensors").model.eval()(*given), network(*given))
    optimized = optimize(network.double())
    assert not any(isinstance(part, BATCH_NORMS) for part in optimized.modules())
    given = [part.double() for part in given]
    torch.testing.assert_close(optimized(*given), network(*given), rtol=1e-7, atol=1e-9)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.float()(*(part.float() for part in given)).isfinite().all()
