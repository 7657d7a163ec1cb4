"""bLVNet-TAM: its costs and sizes, what a TAM computes, and which frames the branches see."""

import pytest
import torch
from torch import nn

from ctlib import cost
from ctlib.models import Classifier, VideoClassifier, model_config
from ctlib.rivals.blvnet import BACKBONES, Bottleneck, TemporalAggregation

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


def small():
    """The small network's body, with batch norms as after training; they start by hiding the residuals."""
    torch.manual_seed(1)
    body = BACKBONES["blvnet_tam_small"]().body.double().eval()
    for norm in (part for part in body.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1)
    return body


# Published: 24, 48 and 62.3 GFLOPs, without batch norms; 25,020,142 parameters with 174 classes.
@pytest.mark.parametrize(
    ("classes", "frames", "size", "gflops", "params"),
    [(174, 16, 224, 23.85, 25_020_142), (174, 32, 224, 47.70, 25_020_142), (400, 32, 256, 62.31, 25_483_216)],
)
def test_costs_are_those_that_were_published(classes, frames, size, gflops, params):
    with torch.device("meta"):
        config = model_config("tsn_r50", num_classes=classes)
        network = VideoClassifier(BACKBONES["blvnet_tam_50"](), config)
    assert isinstance(network.fc, Classifier) and network.fc.in_features == 2048
    table = cost.breakdown(network, frames, size)
    assert round(table.gflops[table.kind == "product"].sum(), 2) == gflops
    assert sum(parameter.numel() for parameter in network.parameters()) == params


def test_features_are_of_pairs_of_frames_and_a_32nd_of_the_size():
    body = small()
    for frames, height, width, maps in ((2, 32, 32, (1, 1)), (6, 64, 33, (2, 2)), (4, 1, 1, (1, 1))):
        features = body(random_clips(2, 3, frames, height, width))
        assert features.shape == (2, 512, frames // 2, *maps) and features.isfinite().all()
    with pytest.raises(ValueError, match="takes frames in pairs: their number must be even, got 7"):
        body(random_clips(1, 3, 7, 32, 32))


def test_a_tam_is_a_weighted_sum_of_three_frames_and_a_relu():
    module, clips = TemporalAggregation(4).double(), random_clips(2, 4, 3, 2, 2)
    before, this, after = module.weight.flatten(1).unbind(1)
    zeros = torch.zeros_like(clips[:, :, :1])
    last, following = torch.cat([zeros, clips[:, :, :-1]], 2), torch.cat([clips[:, :, 1:], zeros], 2)
    weighted = sum(w[:, None, None, None] * x for w, x in ((before, last), (this, clips), (after, following)))
    torch.testing.assert_close(module(clips), weighted.relu(), **CLOSE)


def test_a_tam_of_the_frame_alone_keeps_what_comes_out_of_a_relu():
    module, clips = TemporalAggregation(4).double(), random_clips(2, 4, 3, 2, 2).relu()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.0, 1.0, 0.0]).view(1, 1, 3, 1, 1))
    assert torch.equal(module(clips), clips)


def without_aggregation(body):
    for part in body.modules():
        if isinstance(part, TemporalAggregation):
            with torch.no_grad():
                part.weight.copy_(torch.tensor([0.0, 1.0, 0.0]).view(1, 1, 3, 1, 1))
    return body


def test_without_tams_no_pair_of_frames_sees_another():
    clips, other = random_clips(1, 3, 6, 32, 32), random_clips(1, 3, 6, 32, 32)
    other[:, :, 2] += 1
    for body, alone in ((small(), False), (without_aggregation(small()), True)):
        changed = (body(clips) - body(other)).abs().amax((0, 1, 3, 4)) > 1e-9
        assert changed[1] and (changed.sum() == 1) == alone


def test_the_first_frame_of_a_pair_is_seen_by_the_little_branch_and_the_second_by_the_big_one():
    body = without_aggregation(small())
    clips = random_clips(1, 3, 4, 32, 32)
    for branch, seen in (("little", [0, 2]), ("big", [1, 3])):
        alone = without_aggregation(small())
        for layer in getattr(alone.stem, {"little": "big", "big": "little"}[branch]).parameters():
            nn.init.zeros_(layer)
        other = clips.clone()
        other[:, :, [frame for frame in range(4) if frame not in seen]] += 1
        assert torch.equal(alone(clips), alone(other)) and not torch.equal(body(clips), body(other))


def test_a_block_starts_as_its_shortcut():
    block, clips = Bottleneck(16, 16).double().eval(), random_clips(1, 16, 2, 4, 4).relu()
    assert torch.equal(block(clips), clips)
    strided = Bottleneck(16, 16, stride=2).double().eval()
    averages = nn.functional.avg_pool2d(clips[0].transpose(0, 1), 3, 2, 1).transpose(0, 1)[None]
    torch.testing.assert_close(strided(clips), averages, **CLOSE)
