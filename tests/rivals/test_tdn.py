"""TDN: five frames of each segment, and differences between them and between segments."""

import numpy as np
import pytest
import torch
from torch import nn

import ctlib
from ctlib import cost
from ctlib.backbones import InceptionBackbone, ResNetBackbone
from ctlib.config import ModelConfig
from ctlib.data.sampling import SAMPLINGS
from ctlib.models import VideoClassifier
from ctlib.rivals.parts import TemporalConv
from ctlib.rivals.tdn import LongTerm, tdn
from ctlib.training.recipes import RECIPES, run_config
from ctlib.training.run import resolve

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


def made(change=lambda backbone: None, depths=(1, 2, 1, 1), width=16, classes=5):
    torch.manual_seed(0)
    backbone = ResNetBackbone(depths, width)
    change(backbone)
    return VideoClassifier(backbone, ModelConfig(num_classes=classes, blocks="none")).eval()


def test_its_cost_is_the_published_one():
    with torch.device("meta"):
        counted = cost.count(made(tdn, (3, 4, 6, 3), 64, 174), 5 * 8, 224)
    assert (round(counted.gflops, 2), round(counted.params / 1e6, 3)) == (35.88, 24.383)  # published: 36


def test_a_clip_of_five_frames_a_segment_gives_the_features_of_its_segments():
    network = made(tdn).double()
    assert network.forward_features(random_clips(2, 3, 15, 64, 32)).shape == (2, 512, 3, 2, 1)
    with pytest.raises(
        ValueError, match="T must be a multiple of 5 .*, got 8: for 8 segments set model.num_frames=40 data.s"
    ):
        network(random_clips(1, 3, 8, 32, 32))
    with pytest.raises(ValueError, match="this system sits on a ResNet, got InceptionBackbone"):
        tdn(InceptionBackbone(width=2))


def test_the_short_term_module_starts_as_the_backbone_s_stem_and_first_stage():
    backbone = ResNetBackbone((2, 1, 1, 1), width=8)
    started = tdn(backbone)
    short = backbone.short_term
    assert torch.equal(short.conv.weight[:, 7], backbone.conv1.weight.mean(1))
    for ours, theirs in zip(short.stage.parameters(), backbone.layer1.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours is not theirs and ours in started
    assert short.conv.weight in started and short.bn.weight not in started


def test_without_differences_and_neighbours_it_is_tsn_on_the_middle_frames():
    network, tsn = made(tdn).double(), made().double()
    tsn.load_state_dict({key: value for key, value in network.state_dict().items() if key in tsn.state_dict()})
    for part in network.modules():
        if isinstance(part, LongTerm):
            nn.init.zeros_(part.bn_out.weight)
        if isinstance(part, TemporalConv):
            part.start = ((1, (0.0, 1.0, 0.0)),)
            part.reset_parameters()
    clips = random_clips(1, 3, 10, 32, 32)
    assert (network(clips) - tsn(clips[:, :, 2::5])).abs().max() > 1e-6
    network.backbone.shares = 1, 0
    torch.testing.assert_close(network(clips), tsn(clips[:, :, 2::5]), **CLOSE)


def test_brightness_that_all_five_frames_share_does_not_reach_the_differences():
    short = made(tdn).double().backbone.short_term
    segments = random_clips(2, 5, 3, 32, 32)
    for one, other in zip(short(segments), short(segments + random_clips(2, 1, 3, 32, 32)), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert (short(segments)[0] - short(segments.flip(1))[0]).abs().max() > 1e-3


def test_long_term_gates_depend_on_the_segments_beside_and_on_the_frame_alone_at_neither():
    module, clips = LongTerm(32).double().eval(), random_clips(1, 32, 5, 4, 4)
    changed = clips.clone()
    changed[:, :, 2] += random_clips(32, 4, 4)
    differ = [not torch.equal(module(clips)[:, :, t], module(changed)[:, :, t]) for t in range(5)]
    assert differ == [False, True, True, True, False]
    lone = clips[:, :, :1]
    assert torch.equal(module(lone), lone)  # no difference, and the batch norms are new: gates of zero
    nn.init.zeros_(module.bn_out.weight)
    assert torch.equal(module(clips), clips)


def test_by_name_it_is_built_for_eight_segments():
    assert ctlib.create_model("tdn_quickstart", 5).config.num_frames == 40
    assert ctlib.create_model("tdn_quickstart", 5, num_frames=20).config.num_frames == 20
    for recipe in ("laptop", "transfer"):
        assert run_config("arrow", "tdn_quickstart", recipe).model.num_frames == 40
        assert run_config("arrow", "tsm_quickstart", recipe).model.num_frames == {"laptop": 8, "transfer": 16}[recipe]
    assert run_config("arrow", "tdn_quickstart", "laptop", "model.num_frames=20").model.num_frames == 20


@pytest.mark.parametrize("name", ctlib.list_models("tdn_*"))
def test_a_run_by_name_samples_neighbours_unless_another_sampling_is_asked_for(name):
    for recipe in RECIPES:
        assert run_config("arrow", name, recipe).data.sampling == "neighbours"
    assert run_config("arrow", name, "", "data.sampling=dense").data.sampling == "dense"
    assert run_config("arrow", name, "", **{"data.sampling": "sparse"}).data.sampling == "sparse"
    assert run_config("arrow", "tsm_quickstart").data.sampling is None


def test_its_run_sees_five_neighbouring_frames_of_each_segment(arrow_root):
    given = {"data.root": str(arrow_root), "compute.device": "cpu"}
    with pytest.raises(ValueError, match="five frames of an even number of segments, got 25 frames"):
        resolve(run_config("arrow", "tdn_quickstart", **given, **{"model.num_frames": 25}))
    assert resolve(run_config("arrow", "tdn_quickstart", "kinetics", **given, **{"recipe.batch": 16})).data.clips == 4
    run = resolve(run_config("arrow", "tdn_quickstart", **given))
    assert (run.view.sampling, run.view.num_frames) == ("neighbours", 40)
    chosen = SAMPLINGS[run.data.sampling].train(48, run.model.num_frames, np.random.default_rng(0))
    assert (chosen.reshape(8, 5) - chosen.reshape(8, 5)[:, 2:3])[1:-1].tolist() == [[-2, -1, 0, 1, 2]] * 6
