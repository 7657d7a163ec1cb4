"""What holds of every system, and what is pinned of each."""

import copy
import functools
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

import ctlib
from ctlib import checkpoints, cost, rivals
from ctlib.deploy import export, optimize
from ctlib.kernels import BATCH_NORMS
from ctlib.models import build_model, model_config, name_of
from ctlib.rivals import FROM_SCRATCH, SYSTEMS
from ctlib.rivals.gsf import GateShiftFuse, GSFBlock
from ctlib.rivals.gsm import GateShift
from ctlib.rivals.non_local import NonLocal
from ctlib.rivals.parts import QUARTERS, SHIFT, TemporalConv
from ctlib.rivals.stm import MotionModule
from ctlib.rivals.tea import NEXT_AND_LAST, SAME, MotionExcitation
from ctlib.rivals.teinet import MotionEnhanced
from ctlib.rivals.tsm import TemporalShift
from ctlib.study import frame_order

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


# Networks on clips.
WHOLE = ["ir_csn", "ip_csn", "r2plus1d", "slowfast", "i3d", "nl_i3d"]
WHOLE += ["eco", "x3d", "c3d_vgg", "blvnet_tam", "corrnet"]


def named(system):
    return f"{system}_small" if system in WHOLE else f"{system}_quickstart"


def drawn(name, **parts):
    """In double precision and evaluation mode, with batch norms as after training."""
    return copy.deepcopy(drawn_once(name, **parts))


@functools.cache
def drawn_once(name, **parts):
    network = build_model(model_config(named(name), num_classes=5, **parts), seed=0).double().eval()
    torch.manual_seed(1)
    for part in network.modules():
        if isinstance(part, (GateShift, NonLocal)):  # which start as if they were not there
            for parameter in part.parameters():
                nn.init.normal_(parameter, std=0.1)
    for norm in (part for part in network.modules() if isinstance(part, BATCH_NORMS)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1)
    return network


FOR_EIGHT = {"tanet", "corrnet", "c3d_vgg"}  # built for clips of 8 frames


def frames_of(name, count):
    """T of a clip of so many frames, or segments of TDN of five frames each, as far as the system allows it."""
    if name in FOR_EIGHT:
        return 8
    return {"tdn": 5 * count, "blvnet_tam": count + count % 2}.get(name, count)


def random_clips(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.double)


LONGER = {"ip_csn", "r2plus1d", "nl_i3d", "eco", "x3d", "corrnet"}


@pytest.fixture(
    params=[pytest.param(one, marks=[pytest.mark.slow] if one in LONGER else []) for one in (*SYSTEMS, *WHOLE)]
)
def name(request):
    return request.param


def test_it_takes_any_number_of_clips_and_frames_and_any_size(name):
    network = drawn(name)
    sizes = ((1, 1, 32, 32), (2, 3, 33, 47), (3, 8, 32, 40))
    for n, t, height, width in sizes[:1] if name == "c3d_vgg" else sizes:
        scores = network(random_clips(n, 3, frames_of(name, t), height, width))
        assert scores.shape == (n, 5) and scores.isfinite().all()
        assert scores.std(1).min() > 0


def test_every_parameter_has_a_gradient(name):
    network = drawn(name).train()
    network(random_clips(2, 3, frames_of(name, 4), 32, 32)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


def test_it_computes_in_bfloat16(name):
    network, clips = drawn(name).float(), random_clips(1, 3, frames_of(name, 4), 32, 32).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(clips).isfinite().all()


def test_its_start_depends_on_the_seed_alone(name):
    states = []
    for other in (1, 2):
        torch.manual_seed(other)
        states.append(build_model(model_config(named(name), num_classes=5), seed=0).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_clips_of_a_batch_do_not_see_each_other(name):
    network, clips = drawn(name), random_clips(3, 3, frames_of(name, 4), 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(clips)[1:2], network(clips[1:2]), **CLOSE)


ORDER_BLIND = {"smallbig", "non_local"}  # a maximum and an attention without positions


def test_it_tells_a_clip_from_its_reverse_or_cannot(name):
    moved = frame_order.apart(frame_order.as_trained(drawn(name)), frames_of(name, 8))
    assert (moved["reversed"] < 1e-9) == (name in ORDER_BLIND) and (name in ORDER_BLIND or moved["reversed"] > 1e-4)
    assert (moved["permuted"] < 1e-9) == (name == "non_local")  # SmallBigNet sees which frames are neighbours


def test_every_frame_reaches_the_features(name):
    reached = frame_order.reach(frame_order.as_trained(drawn(name)), frames_of(name, 4))
    assert reached.shape[1] == frames_of(name, 4) and (reached.max(0) > 0).all() and (reached.max(1) == 1).all()


def test_tsn_sees_each_frame_alone_and_no_order():
    network = frame_order.as_trained(drawn("tsn"))
    assert max(frame_order.apart(network, 8).values()) < 1e-9
    assert (frame_order.reach(network, 4) > 0).tolist() == torch.eye(4).bool().tolist()


def test_it_is_saved_and_loaded_with_its_classes(name, tmp_path):
    network = drawn(name).float()
    checkpoints.save(tmp_path / "c.safetensors", network, np.array(list("abcde")))
    trained = checkpoints.load(tmp_path / "c.safetensors")
    clips = random_clips(1, 3, frames_of(name, 4), 32, 32).float()
    with torch.no_grad():
        assert torch.equal(trained.model.eval()(clips), network(clips))
    assert name_of(trained.model.config) == named(name)


# Batch norms that no convolution can take, of the small networks.
LEFT = {"smallbig": 36, "gsm": 8, "gsf": 16, "ip_csn": 4, "r2plus1d": 8, "eco": 6}


def test_optimized_for_inference_it_scores_the_same(name):
    network, clips = drawn(name), random_clips(2, 3, frames_of(name, 4), 32, 32)
    optimized = optimize(network)
    with torch.no_grad():
        torch.testing.assert_close(optimized(clips), network(clips), rtol=1e-7, atol=1e-9)
    assert sum(isinstance(part, BATCH_NORMS) for part in optimized.modules()) == LEFT.get(name, 0)


def test_it_is_pickled(name):
    network, clips = drawn(name), random_clips(1, 3, frames_of(name, 4), 32, 32)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(network))(clips), network(clips))


def test_it_is_explained_by_tubes_of_the_clip_s_size(name):
    if drawn(name).backbone.pooled:
        with pytest.raises(ValueError, match="pools over the clip before its last layers"):
            ctlib.saliency.saliency_tubes(drawn(name), random_clips(1, 3, 8, 32, 32), 1)
        return
    clips = random_clips(1, 3, frames_of(name, 8), 32, 32)
    tubes, scores = ctlib.saliency.saliency_tubes(drawn(name), clips, 1)
    assert tubes.shape == (1, clips.shape[2], 32, 32) and tubes.isfinite().all() and scores.shape == (1, 5)


@pytest.mark.slow
def test_exported_it_scores_the_same_for_any_number_of_clips(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network, frames = drawn(name).float(), frames_of(name, 8)
    export(network, tmp_path / "network.onnx", 32, frames)
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    for count in (1, 3):
        clips = random_clips(count, 3, frames, 32, 32).float()
        (scores,) = session.run(None, {"clips": clips.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(scores), network(clips), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_it_compiles_without_a_break_and_scores_the_same(name):
    size = 32 if name == "c3d_vgg" else 64  # maps of one pixel have layouts on which a compiler errs
    network, clips = drawn(name).float(), random_clips(2, 3, frames_of(name, 4), size, size).float()
    torch.compiler.reset()
    with torch.no_grad():
        whole = torch.compile(network, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(whole(clips), network(clips), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in FROM_SCRATCH])
def test_pretrained_weights_of_the_backbone_are_taken(name):
    network = ctlib.create_model(f"{name}_quickstart", num_classes=5, weights="shapes")
    tsn = ctlib.create_model("tsn_quickstart", num_classes=5, weights="shapes")
    ours, theirs = network.backbone.state_dict(), tsn.backbone.state_dict()
    assert theirs.keys() <= ours.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


# Published costs (Tables 3 and 4 of the CT-Net paper; STM's own paper), with batch norms as in `cost.count`.
COSTS = [
    ("tsm_r50", 174, 8, 224, 32.88, 23.865),
    ("tsm_r50", 400, 16, 256, 85.89, 24.328),
    ("teinet_r50", 174, 8, 224, 33.05, 29.894),
    ("teinet_r50", 400, 16, 256, 86.33, 30.357),
    ("tea_r50", 174, 8, 224, 34.74, 24.456),
    ("tea_r50", 400, 16, 256, 90.76, 24.919),
    ("stm_r50", 174, 8, 224, 33.26, 24.036),
    ("stm_r50", 174, 16, 224, 66.51, 24.036),
    ("smallbig_r101", 400, 32, 256, 545.53, 43.415),  # published: 546
    ("gsm_r50", 174, 8, 224, 33.32, 23.974),  # not published
    ("gsf_r50", 174, 8, 224, 34.16, 24.303),  # not published
    ("smallbig_r50", 174, 8, 224, 52.18, 23.908),
    ("non_local_r50", 174, 8, 224, 55.14, 31.223),
]


# The same without batch norms, which these papers leave out.
PRODUCTS = [
    ("ir_csn_101", 400, 32, 256, 73.76, 22.214),  # published: 73.8
    ("ir_csn_152", 400, 32, 256, 96.72, 29.704),  # 96.7
    ("ip_csn_101", 400, 32, 256, 83.02, 24.602),  # 83.0
    ("ip_csn_152", 400, 32, 256, 108.8, 33.017),  # 108.8
    ("r2plus1d_34", 400, 32, 112, 152.36, 63.697),  # 152
    ("slowfast_r50_4x16", 400, 32, 256, 36.1, 34.48),  # 36.1
    ("slowfast_r50_8x8", 400, 32, 256, 65.72, 34.566),  # 65.7
    ("slowfast_r101_8x8", 400, 32, 256, 106.52, 53.775),  # 106: half of the next
    ("slowfast_r101_16x8", 400, 64, 256, 213.04, 53.775),  # 213
    ("i3d_inception_s3d", 400, 64, 224, 107.9, 12.078),  # 108
    ("i3d_inception", 400, 64, 224, 111.15, 12.697),  # not published
    ("tsn_bn_inception", 101, 25, 224, 50.79, 10.374),  # not published
]


@pytest.mark.parametrize(("model", "classes", "frames", "size", "gflops", "params"), PRODUCTS)
def test_products_are_those_that_were_published(model, classes, frames, size, gflops, params):
    with torch.device("meta"):  # which draws no weights
        network = ctlib.create_model(model, classes, frames)
    table = cost.breakdown(network, frames, size)
    assert round(table.gflops[table.kind == "product"].sum(), 2) == gflops
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 3) == params


@pytest.mark.parametrize(("model", "classes", "frames", "size", "gflops", "params"), COSTS)
def test_costs_are_those_that_were_published(model, classes, frames, size, gflops, params):
    with torch.device("meta"):
        counted = cost.count(ctlib.create_model(model, classes, frames), frames, size)
    assert (round(counted.gflops, 2), round(counted.params / 1e6, 3)) == (gflops, params)


def test_names_are_listed_by_pattern_and_unknown_ones_are_refused():
    assert ctlib.list_models("teinet*") == ["teinet_laptop", "teinet_quickstart", "teinet_r101", "teinet_r50"]
    assert {"ctnet_r50", "tsn_laptop", "stm_r50"} <= set(ctlib.list_models())
    assert rivals.tsm_quickstart(num_classes=3).fc.out_features == 3
    with pytest.raises(AttributeError, match="no attribute 'tsm_r5'"):
        rivals.tsm_r5(3)
    with pytest.raises(AttributeError, match="no attribute 'tsm_r50' .networks: ctlib.create_model or ctlib.rivals"):
        ctlib.tsm_r50(174)
    with pytest.raises(ValueError, match="tsm_r5"):
        ctlib.create_model("tsm_r5", 10)
    with pytest.raises(ValueError, match="'tsm' is in all blocks: blocks must be 'all', got 'stage5'"):
        ctlib.create_model("tsm_r50", 10, blocks="stage5")
    with pytest.raises(ValueError, match="no block of a network on clips can be replaced"):
        ctlib.create_model("ir_csn_small", 10, blocks="stage5")
    for name in ("ir_csn_101", "i3d_inception"):
        with pytest.raises(ValueError, match=f"the backbone '{name}' has no ImageNet weights"):
            ctlib.create_model(name, 10, weights="imagenet")
    with pytest.raises(ValueError, match="'tea' has blocks of its own: weights must be None, got 'shapes'"):
        ctlib.create_model("tea_quickstart", 10, weights="shapes")
    with pytest.raises(ValueError, match="excitation are parts of the CT-Module, which 'tsm' does not have"):
        ctlib.create_model("tsm_r50", 10, excitation="none")


# TSM.


def test_tsm_without_a_shift_is_tsn():
    network, tsn = drawn("tsm"), drawn("tsn")
    tsn.load_state_dict(network.state_dict())
    for part in network.modules():
        if isinstance(part, TemporalShift):
            part.share = 0
    clips = random_clips(1, 3, 4, 32, 32)
    torch.testing.assert_close(network(clips), tsn(clips), **CLOSE)


def test_a_shift_moves_an_eighth_of_the_channels_each_way():
    clips = random_clips(1, 16, 3, 2, 2)
    shifted = TemporalShift()(clips)
    assert torch.equal(shifted[:, :2, :2], clips[:, :2, 1:]) and not shifted[:, :2, 2].any()
    assert torch.equal(shifted[:, 2:4, 1:], clips[:, 2:4, :2]) and not shifted[:, 2:4, 0].any()
    assert torch.equal(shifted[:, 4:], clips[:, 4:])


def test_of_resnet_101_every_second_block_shifts():
    network = ctlib.create_model("tsm_r101", 10)
    shifts = [sum(isinstance(part, TemporalShift) for part in stage.modules()) for stage in network.backbone.stages]
    assert shifts == [3, 4, 12, 3]


# TEINet.


def test_temporal_interaction_starts_as_tsm_s_shift():
    clips = random_clips(2, 16, 4, 3, 3)
    torch.testing.assert_close(TemporalConv(16, SHIFT).double()(clips), TemporalShift()(clips), **CLOSE)


def test_motion_enhancement_leaves_the_last_frame_and_gates_by_the_next():
    module, clips = MotionEnhanced(16).double(), random_clips(1, 16, 4, 3, 3)
    gated = module(clips)
    assert torch.equal(gated[:, :, 3], clips[:, :, 3])
    changed = clips.clone()
    changed[:, :, 2] += 1
    other = module(changed)
    assert torch.equal(other[:, :, 0], gated[:, :, 0]) and not torch.equal(other[:, :, 1], gated[:, :, 1])


# TEA.


def test_motion_excitation_without_its_last_batch_norm_changes_nothing():
    module, clips = MotionExcitation(32).double().eval(), random_clips(1, 32, 3, 4, 4)
    assert not torch.equal(module(clips), clips)
    nn.init.zeros_(module.bn_out.weight)
    assert torch.equal(module(clips), clips)


def test_temporal_convolutions_of_tea_start_as_the_frame_itself_or_its_neighbours():
    clips = random_clips(1, 8, 3, 2, 2)
    assert torch.equal(TemporalConv(8, SAME).double()(clips), clips)
    out = TemporalConv(8, NEXT_AND_LAST).double()(clips)
    torch.testing.assert_close(out[:, :4, :2], clips[:, :4, 1:], **CLOSE)
    torch.testing.assert_close(out[:, 4:, 1:], clips[:, 4:, :2], **CLOSE)


# SlowFast.


def test_the_slow_path_sees_one_frame_in_alpha_and_the_others_by_way_of_the_fast_one():
    body = drawn("slowfast").backbone.body
    clips = random_clips(1, 3, 8, 32, 32)
    other = clips.clone()
    other[:, :, [1, 2, 3, 5, 6, 7]] += 1
    slow = body.out_channels * 8 // 9
    with torch.no_grad():
        assert not torch.equal(body(clips)[:, :slow], body(other)[:, :slow])
        for lateral in body.lateral:
            nn.init.zeros_(lateral[1].weight)
            nn.init.zeros_(lateral[1].bias)
        one, two = body(clips), body(other)
    assert one.shape[2] == 2 and torch.equal(one[:, :slow], two[:, :slow])
    assert not torch.equal(one[:, slow:], two[:, slow:])


# Names in pytorchvideo -> ours. Blocks 1 to 4 are the stages.
_SLOWFAST = {
    r"blocks.0.multipathway_blocks.(\d)\.": r"backbone.body.path\1.stem.",
    r"blocks.(\d).multipathway_fusion\.": r"backbone.body.lateral.\1.",
    r"blocks.(\d).multipathway_blocks.(\d).res_blocks\.": r"backbone.body.path\2.stages.after\1.",
    **{f"branch2.{kind}_{letter}": f"{ours}{1 + index}" for index, letter in enumerate("abc")
       for kind, ours in (("conv", "conv"), ("norm", "bn"))},
    "branch1_conv": "downsample.0", "branch1_norm": "downsample.1", "conv_fast_to_slow": "0",
    r"\.conv\.": ".0.", r"\.norm\.": ".1.", "path0": "slow", "path1": "fast", r"blocks\.6\.proj": "fc",
    **{f"after{stage}": f"{stage - 1}" for stage in range(1, 5)},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of pytorchvideo, for old calls
def test_slowfast_scores_as_pytorchvideo_s_does():
    slowfast = pytest.importorskip("pytorchvideo.models.slowfast")
    torch.manual_seed(0)
    pool = {"head_pool": nn.AdaptiveAvgPool3d, "head_output_size": ((1, 1, 1), (1, 1, 1))}
    theirs = slowfast.create_slowfast(model_num_class=5, **pool).double().eval()
    state = {}
    for name, value in theirs.state_dict().items():
        if value.ndim == 1:  # of batch norms, and biases
            value.uniform_(0.5, 1.5)
        for pattern, ours in _SLOWFAST.items():
            name = re.sub(pattern, ours, name)
        state[name] = value
    ours = ctlib.create_model("slowfast_r50_8x8", 5, num_frames=32).double().eval()
    ours.load_state_dict(state)
    clips = random_clips(1, 3, 32, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(clips), theirs([clips[:, :, ::4], clips]), rtol=1e-9, atol=0)


# STM.


def test_stm_with_neither_neighbours_nor_motion_is_tsn():
    network, tsn = drawn("stm"), drawn("tsn")
    tsn.load_state_dict({key: value for key, value in network.state_dict().items() if key in tsn.state_dict()})
    quiet = copy.deepcopy(network)
    for part in quiet.modules():
        if isinstance(part, TemporalConv):
            part.start = ((1, (0.0, 1.0, 0.0)),)
            part.reset_parameters()
        if isinstance(part, MotionModule):
            nn.init.zeros_(part.expand.weight)
    clips = random_clips(1, 3, 4, 32, 32)
    torch.testing.assert_close(quiet(clips), tsn(clips), **CLOSE)
    assert (network(clips) - tsn(clips)).abs().max() > 1e-6


def test_a_temporal_convolution_starts_with_a_quarter_from_before_and_a_quarter_from_after():
    clips = random_clips(1, 8, 3, 2, 2)
    out = TemporalConv(8, QUARTERS).double()(clips)
    torch.testing.assert_close(out[:, :2, 1:], clips[:, :2, :2], **CLOSE)
    torch.testing.assert_close(out[:, 2:6], clips[:, 2:6], **CLOSE)
    torch.testing.assert_close(out[:, 6:, :2], clips[:, 6:, 1:], **CLOSE)


def test_a_smallbig_or_non_local_network_starts_as_tsn():
    clips, tsn = random_clips(1, 3, 4, 32, 32), drawn("tsn")
    for name in ("smallbig", "non_local"):
        network = build_model(model_config(f"{name}_quickstart", num_classes=5), seed=0).double().eval()
        state = network.state_dict()
        state.update(tsn.state_dict())
        network.load_state_dict(state)
        torch.testing.assert_close(network(clips), tsn(clips), **CLOSE)


INTERLEAVED = [0, 2, 1, 3, 4, 6, 5, 7]  # eight channels after a gate shift


def test_a_gate_shift_network_starts_blind_to_order():
    features = random_clips(2, 8, 4, 3, 3)
    assert torch.equal(GateShift(8).double()(features), features[:, INTERLEAVED])  # all stays in its frame
    network = build_model(model_config("gsm_quickstart", num_classes=5), seed=0).double().eval()
    assert max(frame_order.apart(network, 8).values()) < 1e-12


def test_a_gate_shift_moves_what_its_gates_let_through():
    module, clips = GateShift(4).double().eval(), random_clips(1, 4, 3, 2, 2)
    nn.init.constant_(module.gate.bias, 20.0)  # tanh is 1: all moves
    moved = module(clips)
    torch.testing.assert_close(moved[:, :2, :2], clips[:, :2, 1:], **CLOSE)
    torch.testing.assert_close(moved[:, 2:, 1:], clips[:, 2:, :2], **CLOSE)
    assert moved[:, :2, 2].abs().max() < 1e-12 and moved[:, 2:, 0].abs().max() < 1e-12


def test_gate_shift_fuse_weighs_what_moved_against_what_stayed():
    module, clips = GateShiftFuse(4).double().eval(), random_clips(1, 4, 3, 2, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
        module.gate.bias.copy_(torch.tensor([0.5, 1 - 1e-15], dtype=torch.double).atanh())  # gates of 1/2 and of 1
        module.fuse[0].weight[0, 0, 1, 2] = 1.0  # the weight is the sigmoid of the next frame's mean of what moved
    moved = nn.functional.pad(clips[:, :2, 1:] / 2, (0, 0, 0, 0, 0, 1))
    means = moved.mean((3, 4), keepdim=True)
    weights = nn.functional.pad(means[:, :, 1:], (0, 0, 0, 0, 0, 1)).sigmoid()
    torch.testing.assert_close(module(clips)[:, :2], weights * moved + (1 - weights) * clips[:, :2] / 2, **CLOSE)
    torch.testing.assert_close(module(clips)[:, 2:, 1:], clips[:, 2:, :2] / 2, **CLOSE)  # its weights are 1/2


def test_gate_shift_fuse_stands_between_the_last_convolution_of_a_block_and_its_batch_norm():
    torch.manual_seed(1)
    plain = Bottleneck(8, 2).double().eval()
    nn.init.normal_(plain.bn3.bias)
    plain.bn3.running_mean.normal_()
    block = GSFBlock(copy.deepcopy(plain)).double().eval()
    for parameter in block.shift.parameters():
        nn.init.zeros_(parameter)  # gates of 0 and weights of 1/2: half of what is there
    block.shift.num_frames = 3
    plain.conv3.register_forward_hook(lambda layer, given, out: out[:, INTERLEAVED] / 2)
    frames = random_clips(3, 8, 4, 4)
    torch.testing.assert_close(block(frames), plain(frames), **CLOSE)


def test_a_non_local_block_is_attention_over_all_positions_of_the_clip():
    module, clips = NonLocal(4).double().eval(), random_clips(2, 4, 2, 4, 4)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    pooled = nn.functional.max_pool3d(clips, (1, 2, 2))
    query, key, value = (
        part(x).flatten(2).mT for part, x in ((module.theta, clips), (module.phi, pooled), (module.g, pooled))
    )
    seen = nn.functional.scaled_dot_product_attention(query, key, value).mT.unflatten(2, (2, 4, 4))
    torch.testing.assert_close(module(clips), clips + module.bn(module.out(seen)), **CLOSE)


def test_motion_features_of_a_static_clip_with_an_identity_kernel_are_zero():
    module = MotionModule(32, stride=1).double().eval()
    nn.init.dirac_(module.moved.weight, groups=2)
    static = random_clips(1, 32, 1, 4, 4).expand(-1, -1, 3, -1, -1)
    assert not module(static).any()


def test_a_number_of_frames_that_a_network_cannot_take_is_refused_when_it_is_built():
    assert model_config("corrnet_50").num_frames == model_config("corrnet_101").num_frames == 32
    assert model_config("c3d_vgg").num_frames == 16
    for name, frames, message in (
        ("corrnet_small", 16, "built for clips of 8 frames, got 16"),
        ("c3d_vgg_small", 16, "built for clips of 8 frames, got 16"),
        ("blvnet_tam_small", 7, "their number must be even, got 7"),
        ("tdn_quickstart", 8, "T must be a multiple of 5 .*, got 8"),
    ):
        with pytest.raises(ValueError, match=message):
            ctlib.create_model(name, 5, frames)


def test_the_package_stays_small():
    sizes = [len(path.read_text().splitlines()) for path in Path(rivals.__file__).parent.glob("*.py")]
    assert len(sizes) <= 24 and sum(sizes) <= 1800 and max(sizes) <= 200
