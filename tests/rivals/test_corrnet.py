"""CorrNet, our reading: its costs, what a correlation computes, and that it is built for a number of frames."""

import copy

import pytest
import torch
from torch import nn

from ctlib import cost
from ctlib.models import VideoClassifier, model_config
from ctlib.rivals.corrnet import BACKBONES, KERNEL, Correlation, CorrNet, Residual, correlation_sum
from ctlib.study.systems import SYSTEMS

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


# What comes out, not what was published: 115 and 224. That fits no reading that we know; see the module's docstring.
@pytest.mark.parametrize(
    ("name", "size", "gflops", "params"),
    [
        ("corrnet_50", 224, 115.18, 29_045_712),
        ("corrnet_101", 224, 186.28, 51_904_464),
        ("corrnet_101", 256, 243.30, 51_904_464),
    ],
)
def test_costs_are_pinned(name, size, gflops, params):
    with torch.device("meta"):
        network = VideoClassifier(BACKBONES[name](), model_config("tsn_r50", num_classes=400))
    counted = cost.count(network, 32, size)
    assert (round(counted.gflops, 2), counted.params) == (gflops, params)


@pytest.mark.parametrize(("name", "sides", "gflops"), [("50", (56, 28, 14), 0.51), ("101", (56, 28, 14, 14), 0.55)])
def test_the_correlation_takes_half_a_gflop(name, sides, gflops):
    with torch.device("meta"):
        network = VideoClassifier(BACKBONES[f"corrnet_{name}"](), model_config("tsn_r50", num_classes=4))
    correlations = [part for part in network.modules() if isinstance(part, Correlation)]
    products = sum(part.weight.numel() * side**2 for part, side in zip(correlations, sides, strict=True))
    rows = cost.breakdown(network, 32, 224)
    convolutions = rows.gflops[rows.kind == "product"].sum() - products / 1e9
    assert round(products / 1e9, 2) == gflops
    assert f"{gflops} for ResNet-{name}" in SYSTEMS["4", f"CorrNet R{name}"].note
    assert convolutions == pytest.approx({"50": 113.83, "101": 184.68}[name], abs=0.01)


def test_correlations_follow_three_stages_and_the_middle_of_the_third():
    def places(name):
        with torch.device("meta"):
            layers = [part for part in BACKBONES[name]().body if isinstance(part, Residual)]
        found = {index: part for index, part in enumerate(layers) if isinstance(part.shortcut, nn.Identity)}
        return {
            index: tuple(layer.weight.shape[:2])
            for index, part in found.items()
            for layer in part.residual
            if isinstance(layer, Correlation)
        }

    assert places("corrnet_50") == {3: (64, 32), 8: (128, 32), 15: (256, 16)}
    assert places("corrnet_101") == {3: (64, 32), 8: (128, 32), 21: (256, 16), 33: (256, 16)}


def test_a_correlation_is_a_weighted_mean_of_products_with_the_frame_before():
    module, clips = Correlation(4, 3, groups=2).double(), random_clips(2, 4, 3, 9, 8)
    nn.init.normal_(module.weight)
    maps = module(clips).unflatten(1, (2, KERNEL, KERNEL))
    for t, before in ((0, 0), (1, 0), (2, 1)):  # the first frame is its own
        for row, column, y, x in ((3, 3, 4, 4), (0, 6, 7, 1), (5, 2, 2, 6)):
            up, left = y + 2 * (row - 3), x + 2 * (column - 3)
            products = module.weight[:, t, row, column] * clips[:, :, t, y, x] * clips[:, :, before, up, left]
            torch.testing.assert_close(maps[:, :, row, column, t, y, x], products.unflatten(1, (2, 2)).mean(2), **CLOSE)
    assert not maps[:, :, 0, :, :, :6].any()  # above the frame is nothing


def test_without_a_displacement_a_static_clip_gives_its_mean_square():
    module = Correlation(4, 3, groups=2).double()
    static = random_clips(2, 4, 1, 5, 5).expand(-1, -1, 3, -1, -1)
    maps = module(static).unflatten(1, (2, KERNEL, KERNEL))
    torch.testing.assert_close(maps[:, :, 3, 3], static.square().unflatten(1, (2, 2)).mean(2), **CLOSE)


def test_a_shift_gives_the_mean_square_at_its_displacement():
    module, frame = Correlation(4, 2, groups=1).double(), random_clips(1, 4, 1, 8, 8)
    clips = torch.cat([frame, frame.roll(2, 4)], 2)  # two pixels to the right
    maps = module(clips).unflatten(1, (KERNEL, KERNEL))
    torch.testing.assert_close(maps[:, 3, 2, 1, :, 2:], frame.square().mean(1)[:, 0, :, :-2], **CLOSE)


def test_a_correlation_block_without_its_last_batch_norm_is_not_there():
    block, clips = correlation_sum(16, 3, groups=2).double().eval(), random_clips(1, 16, 3, 6, 6).relu()
    assert not torch.equal(block(clips), clips)
    nn.init.zeros_(block.residual[-1].weight)
    assert torch.equal(block(clips), clips)


def test_a_body_whose_correlations_are_silent_is_that_without_them():
    torch.manual_seed(1)
    body = CorrNet((1, 1, 1, 1), num_frames=4, width=8, groups=2).double().eval()
    clips, trunk = random_clips(1, 3, 4, 32, 32), copy.deepcopy(body)
    for index, part in reversed(list(enumerate(body))):
        if any(isinstance(layer, Correlation) for layer in part.modules()):
            nn.init.zeros_(body[index].residual[-1].weight)
            del trunk[index]
    assert len(trunk) == len(body) - 3 and torch.equal(body(clips), trunk(clips))


def test_another_number_of_frames_is_refused():
    body = BACKBONES["corrnet_small"]().body.double().eval()
    assert body(random_clips(2, 3, 8, 33, 40)).shape == (2, 512, 2, 2, 2)
    with pytest.raises(ValueError, match="this network is built for clips of 8 frames, got 4"):
        BACKBONES["corrnet_small"]()(random_clips(4, 3, 32, 32), 4)
