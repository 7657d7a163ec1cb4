"""PEM and the TD loss."""

import pytest
import torch

from ctlib import cost
from ctlib.backbones import ResNetBackbone
from ctlib.config import ModelConfig
from ctlib.models import VideoClassifier
from ctlib.rivals.pem import ProgressiveEnhancement, pem, temporal_diversity

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


@pytest.mark.parametrize(
    ("classes", "frames", "size", "gflops", "params"),
    [
        (174, 8, 224, 33.04, 26.905),  # published GFLOPs: 33
        pytest.param(174, 16, 224, 66.07, 26.905, marks=pytest.mark.slow),  # 66
        (174, 8, 256, 43.14, 26.905),  # 259 of six views
        pytest.param(400, 16, 256, 86.29, 27.369, marks=pytest.mark.slow),  # 86
    ],
)
def test_costs_are_those_that_were_published(classes, frames, size, gflops, params):
    with torch.device("meta"):
        backbone = ResNetBackbone((3, 4, 6, 3))
        pem(backbone)
        counted = cost.count(VideoClassifier(backbone, ModelConfig(num_classes=classes, blocks="none")), frames, size)
    assert (round(counted.gflops, 2), round(counted.params / 1e6, 3)) == (gflops, params)


def test_the_memory_runs_forward_from_the_difference_to_the_next_frame():
    module, clips = ProgressiveEnhancement(32).double(), random_clips(1, 32, 6, 3, 3)
    changed = clips.clone()
    changed[:, :, 3] += 1
    differ = [not torch.equal(module(clips)[:, :, t], module(changed)[:, :, t]) for t in range(6)]
    assert differ == [False, False, True, True, True, True]


def test_gates_are_those_of_the_formula():
    module, clips = ProgressiveEnhancement(32).double(), random_clips(2, 32, 3, 2, 2)
    means, memory = clips.mean((3, 4)), torch.zeros(2, 2, dtype=torch.double)
    u, v, w = *module.keep.weight.flatten(), module.keep.bias
    for t in range(3):
        if t < 2:
            difference = module.of_next(means[:, :, [t + 1]]) - module.of_this(means[:, :, [t]])
        difference = difference[:, :, 0] if t < 2 else torch.zeros_like(memory)
        kept = (u * memory + v * difference + w).sigmoid()
        memory = kept * memory + (1 - kept) * difference
        gates = module.expand(memory[:, :, None]).sigmoid()[:, :, :, None]
        torch.testing.assert_close(module(clips)[:, :, t], clips[:, :, t] * gates, **CLOSE)


# The TD loss.


def test_the_td_loss_is_one_for_a_still_clip_and_zero_for_orthogonal_maps():
    still = random_clips(2, 1, 6, 4, 4).expand(-1, 5, -1, -1, -1).flatten(0, 1)
    assert abs(temporal_diversity(still, 5) - 1) < 1e-9
    orthogonal = torch.eye(16, dtype=torch.double)[:4, None].expand(-1, 6, -1).unflatten(2, (4, 4))
    assert temporal_diversity(orthogonal, 4) == 0
    assert temporal_diversity(still[:2], 1) == 0
    backbone = ResNetBackbone((1, 1, 1, 1), width=8)
    pem(backbone)
    assert abs(backbone.extra_loss(still, 5) - 0.1) < 1e-9


def test_the_gradient_of_the_td_loss_is_finite_where_maps_are_zero():
    for maps in (torch.zeros(4, 2, 3, 3), torch.zeros(4, 2, 3, 3).index_fill(0, torch.tensor([1]), 1.0)):
        maps.requires_grad_()
        loss = temporal_diversity(maps, 4)
        loss.backward()
        assert loss == 0 and maps.grad.isfinite().all()


def test_the_td_loss_is_the_mean_over_pairs_and_over_the_first_channels():
    features = random_clips(8, 6, 3, 3)  # two clips
    cosine = torch.nn.functional.cosine_similarity
    clips = features.flatten(2).unflatten(0, (2, 4))[:, :, :3]
    expected = torch.stack([cosine(clips[:, i], clips[:, j], 2) for i in range(4) for j in range(i)]).mean()
    torch.testing.assert_close(temporal_diversity(features, 4), expected, **CLOSE)
    assert temporal_diversity(features.half(), 4).dtype == torch.float32
    changed = torch.cat([features[:, :3], features[:, 3:].flip(0, 2)], 1)
    assert torch.equal(temporal_diversity(changed, 4), temporal_diversity(features, 4))
