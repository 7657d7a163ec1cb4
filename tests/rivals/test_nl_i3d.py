"""I3D on a ResNet, and NL-I3D."""

import pytest
import torch
from torch import nn

from ctlib import cost
from ctlib.backbones import ResNetBackbone
from ctlib.config import ModelConfig
from ctlib.kernels import BATCH_NORMS
from ctlib.models import VideoClassifier
from ctlib.rivals.nl_i3d import BACKBONES, R50, I3DBackbone
from ctlib.rivals.non_local import NonLocal

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
SMALL = {"depths": (1, 1, 1, 1), "width": 8}


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


def as_trained(network):
    torch.manual_seed(1)
    for norm in (part for part in network.modules() if isinstance(part, BATCH_NORMS)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    return network.double().eval()


def products(build, frames, size):
    with torch.device("meta"):
        network = VideoClassifier(build(), ModelConfig(num_classes=400, blocks="none"))
    table = cost.breakdown(network, frames, size)
    params = sum(parameter.numel() for parameter in network.parameters())
    return round(table.gflops[table.kind == "product"].sum(), 2), round(params / 1e6, 3)


@pytest.mark.parametrize(
    ("name", "gflops", "params"),
    [
        pytest.param("nl_i3d_r101", 359.11, 54.394, marks=pytest.mark.slow),  # published: 359, 54.3
        ("nl_i3d_r50", 281.53, 35.402),  # 282, 35.3
        ("i3d_r50", 173.09, 28.043),  # parameters: 28.0
    ],
)
def test_products_of_128_frames_are_those_that_were_published(name, gflops, params):
    assert products(BACKBONES[name], 128, 256) == (gflops, params)


def test_dense_i3d_has_the_published_cost():
    with torch.device("meta"):
        network = VideoClassifier(I3DBackbone(R50, dense=True), ModelConfig(num_classes=400, blocks="none"))
    assert round(cost.count(network, 32, 224).gflops, 2) == 153.06  # published: 153, with batch norms


@pytest.mark.parametrize(("frames", "dense", "rest"), [(32, False, 4), (9, False, 1), (1, False, 1), (8, True, 4)])
def test_an_eighth_of_the_frames_or_half_of_them_remain(frames, dense, rest):
    backbone = I3DBackbone(**SMALL, dense=dense)
    assert backbone(torch.zeros(2 * frames, 3, 64, 32), frames).shape == (2 * rest, 256, 2 * (1 + dense), 1 + dense)
    assert backbone.frames_out == rest


@pytest.mark.parametrize("dense", [True, False])
def test_with_inflated_weights_the_middle_of_a_still_clip_is_as_in_the_resnet(dense):
    still = as_trained(ResNetBackbone(**SMALL, last_stride=1 if dense else 2))
    backbone = as_trained(I3DBackbone(**SMALL, attending=((), (0,), (), ()), dense=dense))
    backbone.load_published(still.state_dict() | {"fc.weight": torch.zeros(5, 256)})
    frame, frames = random_clips(1, 3, 32, 32), 24 if dense else 64
    with torch.no_grad():
        features = backbone(frame.expand(frames, -1, -1, -1), frames)
        torch.testing.assert_close(features[len(features) // 2 - 1, None], still(frame, 1), **CLOSE)
    assert (features[0] - features[len(features) // 2 - 1]).abs().max() > 1e-3  # zeros stand before the first frame


def test_published_weights_of_another_depth_are_refused():
    with pytest.raises(KeyError, match="layer3.1.conv1.weight"):
        I3DBackbone(**SMALL).load_published(ResNetBackbone((1, 1, 2, 1), width=8).state_dict())


def test_non_local_blocks_start_as_the_identity():
    backbone, plain = (I3DBackbone(**SMALL, attending=where) for where in (((), (0,), (0,), ()), ((), (), (), ())))
    backbone.load_state_dict(plain.state_dict(), strict=False)
    frames = random_clips(8, 3, 32, 32)
    with torch.no_grad():
        before = backbone.double().eval()(frames, 8)
        torch.testing.assert_close(before, plain.double().eval()(frames, 8), **CLOSE)
        for part in backbone.modules():
            if isinstance(part, NonLocal):
                nn.init.ones_(part.bn.weight)
                nn.init.normal_(part.out.weight)
        assert (backbone(frames, 8) - before).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("nl_i3d_r50", ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"]),
        ("nl_i3d_r101", ["layer2.1", "layer2.3", "layer3.6", "layer3.13", "layer3.20"]),
    ],
)
def test_five_blocks_are_followed_by_a_non_local_one(name, after):
    with torch.device("meta"):
        body = BACKBONES[name]().body
    assert [key for key, part in body.named_modules() if isinstance(part, NonLocal)] == [
        f"{place}.after" for place in after
    ]
