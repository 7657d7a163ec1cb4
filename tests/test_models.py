import copy

import pytest
import torch
from torch import distributed

import ctlib
from ctlib import backbones, cost
from ctlib.config import ModelConfig
from ctlib.ct_module import SPECIAL_CASES, CTModule, special_case
from ctlib.kernels import recompute
from ctlib.kernels.layout import use_channels_last
from ctlib.models import (
    MODELS,
    VideoClassifier,
    build_model,
    compile_blocks,
    freeze_backbone,
    initialise,
    model_config,
    name_of,
    recompute_blocks,
)
from ctlib.training.recipes import parameter_groups

CLIP = (2, 3, 8, 64, 64)


@pytest.fixture(params=["ctnet_quickstart", "tsn_quickstart"])
def network(request):
    torch.manual_seed(0)
    return build_model(model_config(request.param, num_classes=5))


def test_features_and_head_make_the_scores_and_without_classes_features_take_their_place(network):
    clips, network = torch.randn(CLIP), network.eval()
    features = network.forward_features(clips)
    assert features.shape[:3] == (2, network.num_features, 8)
    assert torch.equal(network.forward_head(features), network(clips))
    pooled = network.forward_head(features, pre_logits=True)
    torch.testing.assert_close(network.get_classifier()(pooled), network(clips))
    network.reset_classifier(7)
    assert network(clips).shape == (2, 7) and network.num_classes == network.config.num_classes == 7
    network.reset_classifier(0)
    assert torch.equal(network(clips), pooled)
    same = build_model(network.config)
    same.load_state_dict(network.state_dict())
    assert torch.equal(same.eval()(clips), pooled)
    assert cost.count(same, 8, 64).params == sum(parameter.numel() for parameter in network.backbone.parameters())


def test_a_new_classifier_is_of_the_networks_type(network):
    network.double().reset_classifier(3)
    assert network(torch.randn(CLIP, dtype=torch.double)).dtype == torch.double
    assert network.get_classifier().weight.abs().max() < 0.01  # scores near 0


def test_networks_of_one_seed_start_alike_where_they_have_the_same_part():
    differences = ({"excitation": "none"}, {"module": "c3d"}, {"module": "csn"}, {"blocks": "none"}, {"num_classes": 9})
    networks = [
        build_model(ModelConfig(**{"backbone": "quickstart", "num_classes": 5, **parts}), seed=3).state_dict()
        for parts in ({}, *differences)
    ]
    first = networks[0]
    for other in networks[1:]:
        same = {key for key in first.keys() & other.keys() if first[key].shape == other[key].shape}
        assert {"backbone.conv1.weight", "backbone.layer4.1.conv3.weight"} <= same
        assert all(torch.equal(first[key], other[key]) for key in same)
    assert not torch.equal(first["fc.weight"][:5], networks[-1]["fc.weight"][:5])  # another shape is another part
    again, other = (build_model(model_config("ctnet_quickstart", num_classes=5), seed).state_dict() for seed in (3, 4))
    random = {key for key, value in first.items() if value.numel() > 1 and value.float().std() > 0}
    assert all(torch.equal(first[key], again[key]) and not torch.equal(first[key], other[key]) for key in random)


def test_weights_drawn_by_name_are_distributed_as_those_drawn_in_order():
    config = ModelConfig(backbone="quickstart", excitation="se", num_classes=50)
    before = torch.random.get_rng_state()
    torch.manual_seed(0)
    in_order = build_model(config)
    drawn = torch.random.get_rng_state()
    by_name = copy.deepcopy(in_order)
    initialise(by_name, 0)
    assert torch.equal(torch.random.get_rng_state(), drawn)  # the global generator is left alone
    torch.random.set_rng_state(before)
    for (name, one), two in zip(in_order.named_parameters(), by_name.parameters(), strict=True):
        assert bool(one.std() > 0) == bool(two.std() > 0), name
        if one.numel() >= 1000:
            assert 0.8 < one.std() / two.std() < 1.25 and not torch.equal(one, two), name
    flat = [parameter.flatten() for parameter in by_name.parameters() if parameter.numel() == 2304]
    assert torch.corrcoef(torch.stack(flat)).fill_diagonal_(0).abs().max() < 0.1  # layers of one shape differ


def test_logits_are_finite_and_every_parameter_gets_a_gradient(network):
    logits = network(torch.randn(CLIP))
    assert logits.shape == (2, 5) and logits.isfinite().all()
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_clip_without_frames_is_refused(network):
    with pytest.raises(ValueError, match=r"at least one frame, got \(1, 3, 0, 32, 32\)"):
        network(torch.zeros(1, 3, 0, 32, 32))


OF_THE_PAPER = [name for name in MODELS if name in ctlib.__all__]


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_the_paper_s_networks_take_any_clip(name):
    with torch.device("meta"):
        network = build_model(model_config(name, num_classes=3)).eval()
        for frames, height, width in ((1, 76, 76), (5, 76, 128)):
            assert network(torch.zeros(2, 3, frames, height, width)).shape == (2, 3)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 64, 64), (3, 32, 96), (16, 50, 34), (5, 2, 2)])
def test_any_number_of_frames_and_any_even_size(network, frames, height, width):
    assert network.eval()(torch.randn(1, 3, frames, height, width)).shape == (1, 5)


def test_a_clip_does_not_depend_on_its_batch(network):
    network = network.double().eval()
    clips = torch.randn(CLIP, dtype=torch.double)
    torch.testing.assert_close(network(clips)[1:], network(clips[1:]))


def test_a_state_dict_makes_the_round_trip(network):
    clips = torch.randn(CLIP)
    twin = build_model(network.config)
    twin.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(clips), twin.eval()(clips))


def test_only_ctnet_scores_a_reversed_clip_differently():
    torch.manual_seed(0)
    clips = torch.randn(CLIP, dtype=torch.double)
    differences = {}
    for name in ("ctnet_quickstart", "tsn_quickstart"):
        torch.manual_seed(0)
        network = build_model(model_config(name, num_classes=5)).double().eval()
        torch.nn.init.normal_(network.fc.weight)
        forward, backward = network(clips), network(clips.flip(2))
        differences[name] = ((forward - backward).norm() / forward.norm()).item()
    assert differences["tsn_quickstart"] < 1e-12
    assert differences["ctnet_quickstart"] > 1e-4


def test_parameter_groups_hold_every_parameter_once():
    network = build_model(model_config("ctnet_quickstart", num_classes=5))
    groups = parameter_groups(network, weight_decay=0.1)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in network.parameters()} and len(grouped) == len(set(grouped))
    assert [(group["weight_decay"], group["scale"]) for group in groups] == [(0.1, 1), (0, 1), (0, 2)]
    assert groups[2]["params"] == [network.fc.bias]


def test_batch_first_and_three_colours_are_needed():
    network = build_model(model_config("tsn_quickstart", num_classes=5))
    with pytest.raises(ValueError, match=r"clips must be \(N, 3, T, H, W\), got \(2, 8, 3, 64, 64\)"):
        network(torch.zeros(2, 8, 3, 64, 64))


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'ctnet_r50'"):
        model_config("ctnet_r5O")
    with pytest.raises(ValueError, match="unknown key of ModelConfig 'excitaton': did you mean 'excitation'"):
        ctlib.ctnet_r50(num_classes=2, excitaton="se")
    with pytest.raises(ValueError, match="unknown backbone 'resnet5'"):
        build_model(ModelConfig(backbone="resnet5"))
    with pytest.raises(ValueError, match="unknown blocks"):
        build_model(ModelConfig(backbone="quickstart", blocks="stage1"))
    with pytest.raises(ValueError, match="the backbone 'quickstart' has no ImageNet weights"):
        build_model(ModelConfig(backbone="quickstart", weights="imagenet"))


def test_every_named_model_can_be_configured():
    for name in MODELS:
        assert name_of(model_config(name, num_classes=3, dropout=0.1)) == name
    assert name_of(model_config("ctnet_r50", excitation="se")) == "custom"


@pytest.mark.parametrize("module", SPECIAL_CASES)
def test_c3d_r2plus1d_and_csn_replace_the_same_blocks(module):
    torch.manual_seed(0)
    network = build_model(model_config("ctnet_quickstart", num_classes=5, module=module))
    modules = [block.conv2 for block in network.backbone.replaced()]
    assert [str(found) for found in modules] == [str(special_case(module, width)) for width in (16, 32, 64, 128)]
    logits = network(torch.randn(CLIP))
    (logits * torch.randn_like(logits)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_parts_without_effect_are_refused():
    with pytest.raises(ValueError, match="dims, connection would be in replaced blocks, and blocks is 'none'"):
        ctlib.tsn_r50(num_classes=2, dims=3, connection="seriel")
    with pytest.raises(ValueError, match="module would be in replaced blocks"):
        ctlib.tsn_r50(num_classes=2, module="c3d")
    with pytest.raises(ValueError, match="ctnet_r50 is a network on resnet50, got backbone 'quickstart'"):
        ctlib.ctnet_r50(num_classes=2, backbone="quickstart")
    with pytest.raises(ValueError, match="unknown weights 'imagenett': did you mean 'imagenet'"):
        ctlib.ctnet_r50(num_classes=2, weights="imagenett")
    with pytest.raises(ValueError, match="dims, excitation are parts of the CT-Module, which 'c3d' does not have"):
        ModelConfig(module="c3d", dims=3, excitation="se")
    with pytest.raises(ValueError, match="unknown module 'cd3': did you mean 'c3d'"):
        build_model(ModelConfig(module="cd3"))


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_each_named_network_classifies_and_trains_all_of_itself(name):
    torch.manual_seed(0)
    network = getattr(ctlib, name)(num_classes=3, num_frames=2, dropout=0.0)
    size = 76 if "inception" in name else 34
    logits = network(torch.randn(2, 3, 2, size, size))
    assert logits.shape == (2, 3) and logits.isfinite().all()
    (logits * torch.randn_like(logits)).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


def test_inception_refuses_frames_below_its_smallest():
    with torch.device("meta"):
        network = ctlib.ctnet_inception_v3(num_classes=2)
        assert network.eval()(torch.zeros(1, 3, 3, 76, 98)).shape == (1, 2)
        with pytest.raises(ValueError, match=r"'inception_v3' needs frames of at least 75 x 75 pixels, got 74 x 80"):
            network(torch.zeros(1, 3, 3, 74, 80))


def test_the_frozen_backbone_of_the_released_trainer_is_an_option():
    network = build_model(model_config("ctnet_quickstart", num_classes=5))
    freeze_backbone(network)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    blocks = [f"backbone.layer{stage}.1." for stage in (1, 2, 3, 4)]
    assert trained == {name for name, _ in network.named_parameters() if name.startswith((*blocks, "fc."))}
    grouped = [parameter for group in parameter_groups(network, 0.1) for parameter in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in network.parameters() if p.requires_grad}
    tsn = build_model(model_config("tsn_quickstart", num_classes=5))
    freeze_backbone(tsn)
    assert {name for name, p in tsn.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}


def small(name):
    """As few layers as hold all kinds: compiling takes its time for each."""
    torch.manual_seed(0)
    if name == "inception":
        backbone = backbones.InceptionBackbone(width=2)
        backbone.body, backbone.out_channels = backbone.body[:8], 256 * 2 // 32  # up to Mixed_5b
        backbone.replace(("Mixed_5b.branch3x3dbl_2",), lambda channels, out: CTModule(channels, out_channels=out))
    else:
        backbone = backbones.ResNetBackbone((2, 1, 1, 1), width=8)
        if name == "ctnet":
            backbone.replace(((1,), (), (), ()), lambda channels, _: CTModule(channels))
    return VideoClassifier(backbone, ModelConfig(num_classes=3, dropout=0.0))


def compiled(network, clips):
    return torch.compile(network, fullgraph=True, backend="aot_eager")  # a graph break would raise


def exported(network, clips):
    return torch.export.export(network, (clips,)).module()


def decomposed(network, clips):
    return torch.export.export(network, (clips,)).run_decompositions().module()


NETWORKS = ["ctnet", "tsn", "inception"]
WAYS = [*((name, way) for name in NETWORKS for way in (compiled, exported)), ("ctnet", decomposed)]
LONGER = [("inception", compiled), ("ctnet", compiled), ("ctnet", decomposed)]


@pytest.mark.parametrize(
    ("name", "way"), [pytest.param(*one, marks=[pytest.mark.slow] if one in LONGER else []) for one in WAYS]
)
def test_compiled_and_exported_networks_give_the_same(name, way):
    network, clips = small(name).eval(), torch.randn(2, 3, 2, 76, 76)
    with torch.no_grad():
        torch.testing.assert_close(way(network, clips)(clips), network(clips), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_network_takes_another_number_of_frames():
    network, clips = small("ctnet").eval(), torch.randn(2, 3, 4, 48, 48)
    fast = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        for some in (clips, clips[:1, :, :2]):
            torch.testing.assert_close(fast(some), network(some), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_exported_with_any_number_of_clips_frames_and_pixels():
    network = small("ctnet").eval()
    dim = torch.export.Dim
    sizes = {0: dim.AUTO, 2: dim.AUTO, 3: dim.AUTO, 4: dim.AUTO}
    program = torch.export.export(network, (torch.randn(2, 3, 4, 64, 96),), dynamic_shapes=(sizes,))
    clips = torch.randn(3, 3, 6, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(clips), network(clips), rtol=1e-4, atol=1e-5)


def double(name, **parts):
    """A network in float64: in float32, gradients of a deep network differ by percents between mere layouts."""
    torch.manual_seed(0)
    return build_model(model_config(name, num_classes=3, **parts)).double()


def training_step(network, clips, call=None):
    """What one step computes: the loss, each gradient, and the batch norms' statistics after it."""
    torch.manual_seed(1)  # of dropout
    logits = (network if call is None else call)(clips)
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(clips)))
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    return loss.detach(), gradients, {name: buffer.clone() for name, buffer in network.named_buffers()}


CLIPS = torch.randn(2, 3, 4, 76, 76, dtype=torch.double, generator=torch.Generator().manual_seed(0))
EXACT, CLOSE = {"rtol": 0, "atol": 0}, {"rtol": 1e-8, "atol": 1e-10}


@pytest.mark.parametrize("parts", [{}, {"module": "c3d"}, {"excitation": "se", "connection": "coupling"}])
def test_layouts_train_the_same(parts):
    network = double("ctnet_quickstart", **parts)
    other = copy.deepcopy(network)
    use_channels_last(other, False)
    assert network.backbone.layer2[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(parameter.is_contiguous() for parameter in other.parameters())
    torch.testing.assert_close(training_step(other, CLIPS), training_step(network, CLIPS), **CLOSE)


def test_a_layout_is_no_part_of_a_state_dict_or_of_a_cost(tmp_path):
    network = double("ctnet_quickstart")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other = build_model(network.config).double()
    use_channels_last(other, False)
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert other.backbone.layer2[0].conv2.weight.is_contiguous()
    torch.testing.assert_close(other.eval()(CLIPS), network.eval()(CLIPS), **CLOSE)
    assert cost.count(other, 8, 64) == cost.count(network, 8, 64)
    use_channels_last(other)
    assert torch.equal(other(CLIPS), network(CLIPS))


@pytest.mark.parametrize(
    "name", ["ctnet_quickstart", "tsn_quickstart", pytest.param("ctnet_inception_v3", marks=pytest.mark.slow)]
)
def test_recomputing_blocks_trains_the_same_to_the_bit(name):
    """Batch norms follow a batch once: their running statistics and their count of batches are compared too."""
    network = double(name, dropout=0.5)
    other = copy.deepcopy(network)
    recompute_blocks(other)
    for _ in range(2):
        torch.testing.assert_close(training_step(other, CLIPS), training_step(network, CLIPS), **EXACT)
    assert network.state_dict().keys() == other.state_dict().keys()
    assert {int(value) for key, value in other.state_dict().items() if "num_batches" in key} == {2}


def test_recomputing_blocks_with_other_batch_norms():
    """Synchronised, and frozen: each keeps to its own way."""
    network = double("ctnet_quickstart")
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.backbone.layer1.eval()
    other = copy.deepcopy(network)
    recompute_blocks(other)
    torch.testing.assert_close(training_step(other, CLIPS), training_step(network, CLIPS), **EXACT)
    assert (network.backbone.layer1[0].bn1.num_batches_tracked, network.backbone.layer2[0].bn1.num_batches_tracked) == (
        0,
        1,
    )


def test_recomputing_blocks_of_a_frozen_backbone():
    network = double("ctnet_quickstart")
    freeze_backbone(network)
    other = copy.deepcopy(network)
    recompute_blocks(other)
    expected = training_step(network, CLIPS)
    assert expected[1]["backbone.conv1.weight"] is None and expected[1]["fc.weight"] is not None
    torch.testing.assert_close(training_step(other, CLIPS), expected, **EXACT)


def test_blocks_are_recomputed_in_training_only(monkeypatch):
    network = double("ctnet_quickstart")
    recompute_blocks(network)
    called = []
    checkpoint = recompute.checkpoint

    def noted(block, *inputs, **options):
        called.append(block)
        return checkpoint(block, *inputs, **options)

    monkeypatch.setattr(recompute, "checkpoint", noted)
    with torch.no_grad():
        network(CLIPS)
    network.eval()(CLIPS)
    assert not called
    network.train()(CLIPS)
    assert called == [block for stage in network.backbone.stages for block in stage]
    recompute_blocks(network, False)
    network(CLIPS)
    assert len(called) == 8


def test_recomputing_blocks_of_a_distributed_network():
    network = double("ctnet_quickstart")
    other = copy.deepcopy(network)
    recompute_blocks(other)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(other)
        torch.testing.assert_close(training_step(other, CLIPS, parallel), training_step(network, CLIPS), **EXACT)
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_training_a_compiled_network_is_the_same_for_any_batch():
    network = small("ctnet").double()
    other = copy.deepcopy(network)
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    for clips in (CLIPS, CLIPS[[0, 1, 0]]):
        torch.testing.assert_close(training_step(other, clips, compiled), training_step(network, clips), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "graphs"), [("ctnet_laptop", 12), ("tsn_laptop", 8)])
def test_compiled_blocks_of_equal_shapes_share_a_graph_and_train_as_before(name, graphs):
    network = build_model(model_config(name, num_classes=3, num_frames=2, dropout=0.0), seed=0).double()
    other = copy.deepcopy(network)
    compiled = []
    torch.compiler.reset()  # of what other tests compiled
    compile_blocks(other, backend=lambda graph, _: compiled.append(graph) or graph)
    clips = torch.randn(2, 3, 2, 32, 32, dtype=torch.double)
    for _ in range(2):
        torch.testing.assert_close(training_step(other, clips), training_step(network, clips), **CLOSE)
    assert len(compiled) == graphs and other.state_dict().keys() == network.state_dict().keys()


@pytest.mark.slow
def test_a_compiler_that_plans_the_backward_pass_recomputes_blocks_too():
    """On TSN: in the backward pass of CT-Net, "aot_eager" assumes other layouts than convolutions return."""
    network = small("tsn").double()
    other = copy.deepcopy(network)
    recompute_blocks(other)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(training_step(other, CLIPS, compiled), training_step(network, CLIPS), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True])
def test_training_a_network_compiled_to_kernels_is_the_same(recomputed):
    network = small("ctnet").double()  # without dropout, whose random numbers are the compiler's own
    other = copy.deepcopy(network)
    recompute_blocks(other, recomputed)
    compiled = torch.compile(other, fullgraph=True)
    torch.testing.assert_close(training_step(other, CLIPS, compiled), training_step(network, CLIPS), **CLOSE)


def test_the_number_of_frames_may_differ_between_a_pass_and_its_recomputed_blocks():
    network = double("ctnet_quickstart", dropout=0.0)
    other = copy.deepcopy(network)
    recompute_blocks(other)
    losses = [model(CLIPS).square().sum() for model in (network, other)]
    with torch.no_grad():
        other.eval()(CLIPS[:, :, :3])  # another T, before the backward pass
    other.train()
    for loss in losses:
        loss.backward()
    for mine, theirs in zip(other.parameters(), network.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
