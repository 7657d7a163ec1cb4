import pytest
import torch
import torchvision

import ctlib
from ctlib.config import ModelConfig
from ctlib.models import MODELS, PLACEMENTS, ClipBlock, build_model, model_config, name_of
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


def test_the_trunk_is_torchvision_s_resnet():
    """The same state dict gives the same features, so ImageNet weights mean what they should."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50().double().eval()
    ours = build_model(ModelConfig(trunk="resnet50", blocks="none", num_classes=1000)).double().eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.trunk.load_state_dict(state)
    ours.fc.load_state_dict(theirs.fc.state_dict())
    frames = torch.randn(2, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(ours(frames[:, :, None]), theirs(frames), rtol=1e-9, atol=1e-9)


def replaced(trunk):
    return [[i for i, block in enumerate(stage) if isinstance(block, ClipBlock)] for stage in trunk.stages]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("none", [[], [], [], []]),
        ("stage5", [[], [], [], [1]]),
        ("stage4-5", [[], [], [1, 3, 5], [1]]),
        ("stage3-5", [[], [1, 3], [1, 3, 5], [1]]),
        ("stage2-5", [[1], [1, 3], [1, 3, 5], [1]]),
        ("all but first", [[1, 2], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2]]),
        (((2,), (), (4,), ()), [[2], [], [4], []]),
    ],
)
def test_which_blocks_are_replaced(blocks, expected):
    with torch.device("meta"):
        assert replaced(build_model(ModelConfig(blocks=blocks)).trunk) == expected


def test_sub_dimensions_follow_the_bottleneck_width():
    with torch.device("meta"):
        trunk = ctlib.ctnet_r50(num_classes=2).trunk
    assert [stage[1].conv2.dims for stage in trunk.stages] == [(8, 8), (16, 8), (16, 16), (32, 16)]


def test_imagenet_weights_come_from_the_cache_and_stay_around_the_module(tmp_path, monkeypatch):
    """Without a network: torch.hub's cache holds a file of the published name, made here."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    torch.save(theirs.state_dict(), tmp_path / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[-1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # torch.hub checks the digest in the name of what it downloads only; a file in the cache is trusted.
    network = ctlib.ctnet_r50(num_classes=7, weights="imagenet")
    block, source = network.trunk.layer2[1], theirs.layer2[1]
    assert isinstance(block, ClipBlock)
    for part in ("conv1", "bn1", "conv3", "bn3"):
        assert torch.equal(getattr(block, part).weight, getattr(source, part).weight)
    assert torch.equal(network.trunk.conv1.weight, theirs.conv1.weight)


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
    assert set(PLACEMENTS) >= {"none", "stage2-5"}
