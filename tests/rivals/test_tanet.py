"""TANet: its costs, what its module computes, and that it is built for a number of frames."""

import copy

import pytest
import torch
from torch import nn

from ctlib import cost
from ctlib.backbones import ResNetBackbone
from ctlib.models import VideoClassifier, model_config
from ctlib.rivals.tanet import TemporalAdaptive, tanet

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


# Published: 33 GFLOPs at 224 pixels, 43.1 at 256, 25.1 million parameters.
@pytest.mark.parametrize(("frames", "size", "gflops"), [(8, 224, 32.93), (8, 256, 43.01)])
def test_costs_are_those_that_were_published(frames, size, gflops):
    with torch.device("meta"):
        backbone = ResNetBackbone((3, 4, 6, 3))
        tanet(backbone, frames)
        network = VideoClassifier(backbone, model_config("tsn_r50", num_classes=174))
    counted = cost.count(network, frames, size)
    assert (round(counted.gflops, 2), counted.params) == (gflops, 25_127_246)
    sums, pixels = 0, (size // 4) ** 2
    for stage, depth in enumerate((3, 4, 6, 3)):
        first, rest = pixels / 4 ** max(stage - 1, 0), pixels / 4**stage  # the 3x3 convolution has the stride
        sums += 3 * 64 * 2**stage * frames * (first + (depth - 1) * rest)
    table = cost.breakdown(network, frames, size)
    assert table[table.layer.str.endswith("before.module")].gflops.sum() == pytest.approx(sums / 1e9)


def drawn(channels=8, frames=4):
    torch.manual_seed(1)
    return TemporalAdaptive(channels, frames).double().eval()


def test_each_clip_and_channel_is_convolved_with_a_kernel_of_its_own():
    module, clips = drawn(), random_clips(2, 8, 4, 3, 5)
    means = clips.mean((3, 4))
    gated = clips * module.gates(means)[..., None, None]
    kernels = module.kernel(means.flatten(0, 1))
    torch.testing.assert_close(kernels.sum(1), torch.ones(16, dtype=torch.double), **CLOSE)
    planes = gated.flatten(3).flatten(0, 1)[None]
    convolved = nn.functional.conv2d(planes, kernels.view(16, 1, 3, 1), padding=(1, 0), groups=16)
    torch.testing.assert_close(module(clips), convolved.view_as(clips), **CLOSE)


def test_with_open_gates_and_a_kernel_of_the_frame_alone_it_is_tsn():
    torch.manual_seed(1)
    tsn = ResNetBackbone((1, 1, 1, 1), width=8).double().eval()
    network = copy.deepcopy(tsn)
    tanet(network, 4)
    network.double().eval()
    frames = random_clips(4, 3, 32, 32)
    assert not torch.equal(network(frames, 4), tsn(frames, 4))
    for part in network.modules():
        if isinstance(part, TemporalAdaptive):
            part.gates, part.kernel = nn.Sequential(nn.Identity(), Ones()), ThisFrame()
    torch.testing.assert_close(network(frames, 4), tsn(frames, 4), **CLOSE)


class Ones(nn.Module):
    def forward(self, x):
        return torch.ones_like(x)


class ThisFrame(nn.Module):
    def forward(self, means):
        return means.new_tensor([0.0, 1.0, 0.0]).expand(len(means), 3)


def test_weights_of_a_resnet_keep_their_names():
    backbone = ResNetBackbone((1, 1, 1, 1), width=8)
    names = backbone.state_dict().keys()
    tanet(backbone, 4)
    assert names <= backbone.state_dict().keys()


def test_another_number_of_frames_is_refused():
    assert drawn()(random_clips(1, 8, 4, 2, 2)).shape == (1, 8, 4, 2, 2)
    with pytest.raises(ValueError, match="this TANet is built for clips of 4 frames, got 3"):
        drawn()(random_clips(1, 8, 3, 2, 2))
