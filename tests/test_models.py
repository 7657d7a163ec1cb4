import pytest
import torch

import ctlib
from ctlib.config import ModelConfig
from ctlib.models import MODELS, build_model, freeze_trunk, model_config, name_of
from ctlib.temporal import MODULES
from ctlib.train import parameter_groups

CLIP = (2, 3, 8, 64, 64)


@pytest.fixture(params=["ctnet_quickstart", "tsn_quickstart"])
def network(request):
    torch.manual_seed(0)
    return build_model(model_config(request.param, num_classes=5))


def test_logits_are_finite_and_every_parameter_gets_a_gradient(network):
    logits = network(torch.randn(CLIP))
    assert logits.shape == (2, 5) and logits.isfinite().all()
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_clip_without_frames_is_refused(network):
    with pytest.raises(ValueError, match=r"at least one frame, got \(1, 3, 0, 32, 32\)"):
        network(torch.zeros(1, 3, 0, 32, 32))


@pytest.mark.parametrize("name", [name for name in MODELS if "quickstart" not in name])
def test_the_networks_of_the_paper_take_any_clip(name):
    with torch.device("meta"):
        network = build_model(model_config(name, num_classes=3)).eval()
        for frames, height, width in ((1, 76, 76), (5, 128, 98), (24, 76, 256)):
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


def test_only_ctnet_tells_a_clip_from_its_reverse():
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
    with pytest.raises(ValueError, match="unknown trunk 'resnet5'"):
        build_model(ModelConfig(trunk="resnet5"))
    with pytest.raises(ValueError, match="unknown blocks"):
        build_model(ModelConfig(trunk="quickstart", blocks="stage1"))
    with pytest.raises(ValueError, match="no ImageNet weights for the trunk 'quickstart'"):
        build_model(ModelConfig(trunk="quickstart", weights="imagenet"))


def test_every_named_model_can_be_configured():
    for name in MODELS:
        assert name_of(model_config(name, num_classes=3, dropout=0.1)) == name
    assert name_of(model_config("ctnet_r50", excitation="se")) == "custom"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_compared_with_stands_in_the_same_blocks(module):
    torch.manual_seed(0)
    network = build_model(model_config("ctnet_quickstart", num_classes=5, module=module))
    kinds = {type(block.conv2) for block in network.trunk.replaced()}
    assert kinds == {MODULES[module]} and len(list(network.trunk.replaced())) == 4
    logits = network(torch.randn(CLIP))
    (logits * torch.randn_like(logits)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_parts_that_nothing_would_read_are_refused():
    with pytest.raises(ValueError, match="dims, connection would stand in replaced blocks, and blocks is 'none'"):
        ctlib.tsn_r50(num_classes=2, dims=3, connection="seriel")
    with pytest.raises(ValueError, match="module would stand in replaced blocks"):
        ctlib.tsn_r50(num_classes=2, module="c3d")
    with pytest.raises(ValueError, match="ctnet_r50 is a network on resnet50, got the trunk 'quickstart'"):
        ctlib.ctnet_r50(num_classes=2, trunk="quickstart")
    with pytest.raises(ValueError, match="unknown weights 'imagenett': did you mean 'imagenet'"):
        ctlib.ctnet_r50(num_classes=2, weights="imagenett")
    with pytest.raises(ValueError, match="dims, excitation are parts of the CT-Module, which 'c3d' does not have"):
        ModelConfig(module="c3d", dims=3, excitation="se")
    with pytest.raises(ValueError, match="unknown module 'cd3': did you mean 'c3d'"):
        build_model(ModelConfig(module="cd3"))


@pytest.mark.parametrize("name", [name for name in MODELS if "quickstart" not in name])
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


def test_the_frozen_trunk_of_the_released_trainer_is_an_option():
    network = build_model(model_config("ctnet_quickstart", num_classes=5))
    freeze_trunk(network)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    blocks = [f"trunk.layer{stage}.1." for stage in (1, 2, 3, 4)]
    assert trained == {name for name, _ in network.named_parameters() if name.startswith((*blocks, "fc."))}
    grouped = [parameter for group in parameter_groups(network, 0.1) for parameter in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in network.parameters() if p.requires_grad}
    tsn = build_model(model_config("tsn_quickstart", num_classes=5))
    freeze_trunk(tsn)
    assert {name for name, p in tsn.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}


def compiled(network, clips):
    return torch.compile(network, fullgraph=True, backend="aot_eager")  # a graph break would raise


def exported(network, clips):
    return torch.export.export(network, (clips,)).module()


def decomposed(network, clips):
    return torch.export.export(network, (clips,)).run_decompositions().module()


NETWORKS = ["ctnet_quickstart", "tsn_quickstart", "ctnet_r50", "ctnet_inception_v3"]
WAYS = [*((name, way) for name in NETWORKS for way in (compiled, exported)), ("ctnet_quickstart", decomposed)]


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_compiled_and_exported_networks_give_the_same(name, way):
    torch.manual_seed(0)
    network = build_model(model_config(name, num_classes=3, num_frames=2)).eval()
    clips = torch.randn(2, 3, 2, 76, 76)
    with torch.no_grad():
        torch.testing.assert_close(way(network, clips)(clips), network(clips), rtol=1e-4, atol=1e-5)


def test_exported_with_any_number_of_clips_frames_and_pixels():
    torch.manual_seed(0)
    network = build_model(model_config("ctnet_quickstart", num_classes=3)).eval()
    dim = torch.export.Dim
    sizes = {0: dim.AUTO, 2: dim.AUTO, 3: dim.AUTO, 4: dim.AUTO}
    program = torch.export.export(network, (torch.randn(2, 3, 4, 64, 96),), dynamic_shapes=(sizes,))
    clips = torch.randn(3, 3, 6, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(clips), network(clips), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_a_compiled_network_gives_the_same_gradients():
    torch.manual_seed(0)
    network = build_model(model_config("ctnet_quickstart", num_classes=3, dropout=0.0)).double()
    clips, weights = torch.randn(2, 3, 4, 64, 64, dtype=torch.double), torch.randn(2, 3, dtype=torch.double)
    (network(clips) * weights).sum().backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    (torch.compile(network, fullgraph=True)(clips) * weights).sum().backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-9)
