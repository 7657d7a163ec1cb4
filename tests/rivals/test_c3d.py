"""C3D: its published cost, its one size, and what time-symmetric kernels cannot tell."""

import re

import pytest
import torch
from torch import nn

from ctlib import cost
from ctlib.config import ModelConfig
from ctlib.models import VideoClassifier
from ctlib.rivals.c3d import BACKBONES


def network(name, classes=5):
    return VideoClassifier(BACKBONES[name](), ModelConfig(backbone=name, blocks="none", num_classes=classes))


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


def test_products_are_those_that_were_published():
    with torch.device("meta"):
        model = network("c3d_vgg", 101)
    table = cost.breakdown(model, 16, 112)
    assert round(table.gflops.sum(), 2) == 38.55 and set(table.kind) == {"product"}  # published: 38.5
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == 78.41  # 78.4


def test_eight_convolutions_and_two_hidden_layers():
    with torch.device("meta"):
        body = BACKBONES["c3d_vgg"]().body
    convolutions = [part.out_channels for part in body if isinstance(part, nn.Conv3d)]
    assert convolutions == [64, 128, 256, 256, 512, 512, 512, 512]
    hidden = [(part.in_features, part.out_features) for part in body if isinstance(part, nn.Linear)]
    assert hidden == [(512 * 4 * 4, 4096), (4096, 4096)]


@pytest.mark.parametrize("shape", [(8, 32, 40), (8, 64, 64)])
def test_clips_of_another_size_are_refused(shape):
    got = " x ".join(map(str, shape))
    with pytest.raises(ValueError, match=re.escape(f"this C3D needs clips of 8 x 32 x 32 (T x H x W), got {got}")):
        network("c3d_vgg_small")(torch.zeros(1, 3, *shape))


@pytest.mark.parametrize(("name", "frames", "size"), [("c3d_vgg_small", 8, 32), ("c3d_vgg", 16, 112)])
def test_clips_of_another_number_of_frames_are_refused(name, frames, size):
    with torch.device("meta"):
        model, clips = network(name), torch.zeros(1, 3, 4, size, size)
        with pytest.raises(ValueError, match=f"this network is built for clips of {frames} frames, got 4"):
            model(clips)


def test_with_kernels_symmetric_in_time_a_clip_and_its_reverse_score_the_same():
    model, clips = network("c3d_vgg_small").double().eval(), random_clips(2, 3, 8, 32, 32)
    nn.init.normal_(model.fc.weight)
    with torch.no_grad():
        assert (model(clips) - model(clips.flip(2))).abs().max() > 0.01
        for part in model.modules():
            if isinstance(part, nn.Conv3d):
                part.weight.copy_((part.weight + part.weight.flip(2)) / 2)
        torch.testing.assert_close(model(clips), model(clips.flip(2)), rtol=1e-9, atol=1e-12)


def test_its_start_keeps_the_scale_of_activations():
    model = network("c3d_vgg_small").double()
    features = model.forward_features(random_clips(8, 3, 8, 32, 32))
    assert model.backbone.pooled and features.shape == (8, 128, 1, 1, 1)
    assert 0.1 < features.square().mean().sqrt() < 10
