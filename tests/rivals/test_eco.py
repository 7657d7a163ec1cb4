"""ECO: its published costs, and how its 2D and 3D networks share the frames."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctlib import cost
from ctlib.config import ModelConfig
from ctlib.models import VideoClassifier
from ctlib.rivals.eco import BACKBONES, ECO, Residual, halved


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


def on_meta(name, classes):
    with torch.device("meta"):
        backbone = BACKBONES[name]()
        return VideoClassifier(backbone, ModelConfig(backbone=name, blocks="none", num_classes=classes))


def gflops(model, frames):
    table = cost.breakdown(model, frames, 224)
    return table.gflops[table.kind == "product"].sum()


@pytest.mark.parametrize(
    ("name", "frames", "counted", "params"),
    [
        ("eco_lite", 16, 46.49, 37.388),
        ("eco_full", 8, 32.68, 47.231),  # published: 32 and 47.5 million
        ("eco_full", 16, 65.36, 47.231),  # 64
    ],
)
def test_products_are_those_that_were_published(name, frames, counted, params):
    model = on_meta(name, 174)
    assert round(gflops(model, frames), 2) == counted
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 3) == params


def test_tsn_on_bn_inception_scores_the_mean_of_its_frames():
    torch.manual_seed(1)
    backbone = BACKBONES["tsn_bn_inception"]()
    model = VideoClassifier(backbone, ModelConfig(backbone="tsn_bn_inception", blocks="none", num_classes=5)).double()
    clips = random_clips(1, 3, 2, 64, 64)
    with torch.no_grad():
        scores, alone = model.eval()(clips), [model(clips[:, :, [t]]) for t in range(2)]
    torch.testing.assert_close(scores, sum(alone) / 2, rtol=1e-9, atol=1e-12)
    assert scores.std() > 0


def test_four_eco_lite_cost_what_was_published_for_the_ensemble():
    model = on_meta("eco_lite", 174)
    assert round(sum(gflops(model, frames) for frames in (16, 20, 24, 32)), 2) == 267.30  # published: 267
    assert round(4 * sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 149.6  # 150


def test_the_largest_pool_is_that_of_bn_inception_and_halves_odd_sizes_too():
    frames = random_clips(1, 2, 12, 8).relu()
    assert torch.equal(halved()(frames), F.max_pool2d(frames, 3, 2, ceil_mode=True))
    assert [halved()(torch.ones(1, 1, side, side)).shape[3] for side in (1, 2, 3, 7, 14)] == [1, 1, 2, 4, 7]


def test_a_residual_block_adds_to_the_sum_before_batch_norm_and_relu():
    block, clips = Residual(4, 4, 1).double().eval(), random_clips(1, 4, 4, 4, 4)
    assert clips.min() < 0 and not torch.equal(block(clips), clips)
    for parameter in block.residual[-1].parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(clips), clips)
    assert Residual(4, 8, 2).double()(clips).shape == (1, 8, 2, 2, 2)


def test_in_eco_full_the_2d_network_averages_frames_and_only_the_3d_one_knows_their_order():
    body, clips = ECO(full=True, share=8).double().eval(), random_clips(2, 3, 8, 40, 33)
    lite = ECO(full=False, share=8).double().eval()
    lite.load_state_dict({key: value for key, value in body.state_dict().items() if not key.startswith("images.")})
    with torch.no_grad():
        features, other = body(clips), body(clips[:, :, torch.randperm(8)])
        assert torch.equal(features[:, :64], lite(clips))
    assert features.shape == (2, 64 + 128, 2, 2, 2) and body.out_channels == 192
    assert torch.equal(features[:, 64:, 0], features[:, 64:, 1])
    torch.testing.assert_close(features[:, 64:], other[:, 64:], rtol=1e-9, atol=1e-12)
    assert (features[:, :64] - other[:, :64]).abs().max() > 1e-4 * features[:, :64].abs().max()


def test_before_the_3d_network_frames_do_not_see_each_other():
    body, clips = BACKBONES["eco_small"]().body.double().eval(), random_clips(1, 3, 4, 32, 32)
    with torch.no_grad():
        alone = torch.cat([body.shared(frame) for frame in clips[0].transpose(0, 1).split(1)])
        torch.testing.assert_close(body.shared(clips[0].transpose(0, 1)), alone, rtol=1e-9, atol=1e-12)
        for number in (1, 2, 5, 8):
            assert body(clips[:, :, :1].expand(-1, -1, number, -1, -1)).shape == (1, 128, -(-number // 4), 1, 1)
