"""X3D: its published costs, widths and depths, and its blocks."""

import pytest
import torch
from torch import nn

from ctlib import cost
from ctlib.config import ModelConfig
from ctlib.models import VideoClassifier
from ctlib.rivals.x3d import BACKBONES, Block, SqueezeExcitation, eights


def network(name, classes=5):
    return VideoClassifier(BACKBONES[name](), ModelConfig(backbone=name, blocks="none", num_classes=classes))


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


@pytest.mark.parametrize(
    ("name", "size", "gflops", "params"),
    [
        ("x3d_m", 256, 6.18, 3.794),  # published: 6.2
        ("x3d_l", 356, 24.76, 6.153),  # 24.8
        ("x3d_xl", 312, 35.84, 11.096),
        ("x3d_xl", 356, 48.41, 11.096),  # 48.4 and 11.0 million
    ],
)
def test_products_are_those_that_were_published(name, size, gflops, params):
    with torch.device("meta"):
        model = network(name, 400)
    table = cost.breakdown(model, 16, size)
    assert round(table.gflops[table.kind == "product"].sum(), 2) == gflops
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 3) == params


@pytest.mark.parametrize(
    ("name", "widths", "depths"),
    [("x3d_m", (24, 48, 96, 192), (3, 5, 11, 7)), ("x3d_xl", (32, 72, 136, 280), (5, 10, 25, 15))],
)
def test_stages_have_the_widths_and_depths_of_the_paper_and_excite_every_other_block(name, widths, depths):
    with torch.device("meta"):
        blocks = [part for part in BACKBONES[name]().modules() if isinstance(part, Block)]
    made = [block.residual[-1].num_features for block in blocks]
    assert made == [width for width, depth in zip(widths, depths, strict=True) for _ in range(depth)]
    excites = [any(isinstance(part, SqueezeExcitation) for part in block.modules()) for block in blocks]
    assert excites == [index % 2 == 0 for depth in depths for index in range(depth)]


def test_channels_are_rounded_to_eights_but_never_down_by_more_than_a_tenth():
    assert [eights(channels) for channels in (0.5, 8, 11.9, 12, 34.8, 69.6, 139.2, 278.4)] == [
        8, 8, 16, 16, 32, 72, 136, 280,
    ]  # fmt: skip


def test_a_block_starts_as_its_shortcut():
    clips = random_clips(1, 16, 3, 4, 4)
    assert torch.equal(Block(16, 16, 1, True).double().eval()(clips), clips.relu())
    block = Block(16, 24, 2, False).double().eval()
    assert torch.equal(block(clips), block.shortcut(clips).relu()) and block(clips).shape == (1, 24, 3, 2, 2)


def test_excitation_gates_each_channel_by_the_clip_s_means():
    module, clips = SqueezeExcitation(32).double(), random_clips(2, 32, 3, 4, 4)
    gates = module(clips) / clips
    torch.testing.assert_close(gates, gates[:, :, :1, :1, :1].expand_as(gates))
    assert gates.min() > 0 and gates.max() < 1 and gates[0, :, 0, 0, 0].std() > 0
    shuffled = clips.flatten(2)[:, :, torch.randperm(48)].unflatten(2, (3, 4, 4))
    torch.testing.assert_close((module(shuffled) / shuffled)[:, :, :1], gates[:, :, :1])


def test_features_are_averages_whatever_the_clip_s_size():
    model = network("x3d_small").double().eval()
    assert model.backbone.pooled
    for shape in ((2, 3, 1, 1, 1), (2, 3, 8, 32, 32), (1, 3, 5, 33, 47)):
        assert model.forward_features(random_clips(*shape)).shape == (shape[0], 256, 1, 1, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of pytorchvideo, for old calls
def test_it_scores_as_pytorchvideo_s_does():
    x3d = pytest.importorskip("pytorchvideo.models.x3d")
    torch.manual_seed(0)
    ours = network("x3d_m").double().eval()
    theirs = x3d.create_x3d(
        input_clip_length=4, input_crop_size=64, model_num_class=5, width_factor=2.0, depth_factor=2.2,
        head_activation=None,
    )  # fmt: skip
    theirs = theirs.double().eval()
    first = next(part for part in ours.modules() if isinstance(part, Block))
    first.shortcut[1] = nn.Identity()  # the authors' code has this batch norm, but pytorchvideo does not
    state = theirs.state_dict()
    for value in state.values():
        if value.ndim == 1:  # of batch norms, and biases
            value.uniform_(0.5, 1.5)
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)))  # the same order of layers
    clips = random_clips(2, 3, 4, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(clips), theirs(clips), rtol=1e-9, atol=0)
