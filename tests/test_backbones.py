"""The 2D networks under the classifier: torchvision's, with its names and weights, and what is replaced in them."""

import urllib.error

import pytest
import torch
import torchvision

import ctlib
from ctlib.backbones import BACKBONES, INCEPTION_BLOCKS, ClipModule, CTBlock, InceptionBackbone
from ctlib.config import ModelConfig
from ctlib.models import build_model, model_config


def test_the_backbone_is_torchvision_s_resnet():
    """The same state dict gives the same features, so ImageNet weights mean what they should."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50().double().eval()
    ours = build_model(ModelConfig(backbone="resnet50", blocks="none", num_classes=1000)).double().eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.backbone.load_state_dict(state)
    ours.fc.load_state_dict(theirs.fc.state_dict())
    frames = torch.randn(2, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(ours(frames[:, :, None]), theirs(frames), rtol=1e-9, atol=1e-9)


def replaced(backbone):
    return [[i for i, block in enumerate(stage) if isinstance(block, CTBlock)] for stage in backbone.stages]


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
        assert replaced(build_model(ModelConfig(blocks=blocks)).backbone) == expected


def test_the_laptop_s_maps_keep_their_size_in_the_last_stage():
    backbone = BACKBONES["laptop"]()
    sizes = []
    for stage in backbone.stages:
        stage[-1].register_forward_hook(lambda block, inputs, maps: sizes.append(maps.shape[-1]))
    assert backbone(torch.randn(1, 3, 64, 64), 1).shape == (1, 512, 4, 4) and sizes == [16, 8, 4, 4]


def test_sub_dimensions_follow_the_bottleneck_width():
    with torch.device("meta"):
        backbone = ctlib.ctnet_r50(num_classes=2).backbone
    assert [stage[1].conv2.dims for stage in backbone.stages] == [(8, 8), (16, 8), (16, 16), (32, 16)]


def test_the_inception_backbone_is_torchvision_s():
    """Frames come normalised by ImageNet's mean and deviation; torchvision's weights change that by themselves too."""
    torch.manual_seed(0)
    theirs = torchvision.models.inception_v3(aux_logits=True, transform_input=True, init_weights=False).double().eval()
    ours = build_model(model_config("tsn_inception_v3", num_classes=1000)).double().eval()
    ours.backbone.load_published(theirs.state_dict())
    ours.fc.load_state_dict(theirs.fc.state_dict())
    frames = torch.randn(2, 3, 76, 90, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(ours(frames[:, :, None]), theirs(frames), rtol=1e-6, atol=1e-6)


def test_convolutions_of_inception_are_replaced_by_name():
    with torch.device("meta"):
        backbone = ctlib.ctnet_inception_v3(num_classes=2).backbone
        found = tuple(name.removeprefix("body.") for name, m in backbone.named_modules() if isinstance(m, ClipModule))
        assert found == INCEPTION_BLOCKS
        dims = [module.module.dims for module in backbone.replaced()]
        assert dims == [(12, 8)] * 4 + [(24, 16)]
        with pytest.raises(ValueError, match="unknown 3x3 convolution of InceptionV3 'Mixed_5b.branch3x3_2': did you"):
            ctlib.ctnet_inception_v3(num_classes=2, blocks=("Mixed_5b.branch3x3_2",))
        with pytest.raises(ValueError, match="unknown 3x3 convolution of InceptionV3 'Mixed_6a.branch3x3'"):
            ctlib.ctnet_inception_v3(num_classes=2, blocks=("Mixed_6a.branch3x3",))  # it has a stride
        with pytest.raises(ValueError, match="must be 'none' or names of convolutions"):
            ctlib.ctnet_inception_v3(num_classes=2, blocks="stage5")


def test_frames_of_inception_meet_in_its_modules_only():
    torch.manual_seed(0)
    frames = torch.randn(1, 3, 4, 76, 76, dtype=torch.double)
    for blocks, meet in (("none", False), (INCEPTION_BLOCKS, True)):
        backbone = InceptionBackbone()
        backbone.replace(blocks, lambda channels, out: ctlib.ct_module.CTModule(channels, out_channels=out))
        network = ctlib.models.VideoClassifier(backbone, ModelConfig(backbone="inception_v3")).double().eval()
        other = frames.clone()
        other[:, :, 3] += 1
        with torch.no_grad():
            first = (network.forward_features(frames) - network.forward_features(other))[:, :, 0].abs().max().item()
        assert (first > 1e-9) == meet


def test_blocks_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="stage 3 has blocks 0 to 3, got 4"):
        ctlib.ctnet_r50(num_classes=2, blocks=((), (4,), (), ()))
    with pytest.raises(ValueError, match="cannot be replaced"):
        ctlib.ctnet_r50(num_classes=2, blocks=((0,), (), (), ()))
    with pytest.raises(ValueError, match="indices in each of the four stages"):
        ctlib.ctnet_r50(num_classes=2, blocks=((1,), (1,)))


def test_a_block_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"stage 2 names a block twice: \(1, 1\)"):
        ctlib.ctnet_r50(num_classes=2, blocks=((1, 1), (), (), ()))
    with pytest.raises(ValueError, match="name a convolution twice"):
        ctlib.ctnet_inception_v3(num_classes=2, blocks=("Mixed_5b.branch3x3dbl_2",) * 2)


def test_resnet_101_spreads_seven_modules_over_its_long_stage():
    with torch.device("meta"):
        assert replaced(ctlib.ctnet_r101(num_classes=2).backbone) == [[1], [1, 3], [2, 5, 8, 11, 14, 17, 20], [1]]


def put_in_the_cache(folder, name, weights):
    """A file of the published name in torch.hub's cache; the digest in a name is that of downloads and not checked."""
    torch.manual_seed(0)
    options = {} if name.startswith("resnet") else {"aux_logits": True, "init_weights": False}
    theirs = getattr(torchvision.models, name)(**options)
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(theirs.state_dict(), folder / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[-1])
    return theirs


def test_imagenet_weights_come_from_the_cache_and_stay_around_the_module(tmp_path, monkeypatch):
    """Without a network: torch.hub's cache holds a file of the published name, made here."""
    theirs = put_in_the_cache(tmp_path, "resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V1)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = ctlib.ctnet_r50(num_classes=7, weights="imagenet")
    block, source = network.backbone.layer2[1], theirs.layer2[1]
    assert isinstance(block, CTBlock)
    for part in ("conv1", "bn1", "conv3", "bn3"):
        assert torch.equal(getattr(block, part).weight, getattr(source, part).weight)
    assert torch.equal(network.backbone.conv1.weight, theirs.conv1.weight)
    seeded = build_model(network.config, seed=1)  # draws what is new, and only that
    for name, weight in seeded.named_parameters():
        source = name.removeprefix("backbone.")
        new = name.startswith("fc.") or ".conv2.sub_operations." in name or ".conv2.pointwise." in name
        assert new or torch.equal(weight, theirs.get_parameter(source)), name
    assert not torch.equal(seeded.fc.weight, network.fc.weight)


def test_imagenet_weights_that_cannot_be_read_or_downloaded_name_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.ResNet101_Weights.IMAGENET1K_V1
    file = tmp_path / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[-1]

    def unreachable(*_arguments, **_options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        ValueError, match=f"no ImageNet weights for 'resnet101': {file} does not exist and .* cannot be downloaded"
    ):
        ctlib.ctnet_r101(num_classes=2, weights="imagenet")
    file.parent.mkdir(parents=True, exist_ok=True)
    for content in (b"", b"<html>not found</html>"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{file} holds no weights"):
            ctlib.ctnet_r101(num_classes=2, weights="imagenet")


def test_imagenet_weights_of_inception(tmp_path, monkeypatch):
    theirs = put_in_the_cache(tmp_path, "inception_v3", torchvision.models.Inception_V3_Weights.IMAGENET1K_V1)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    body = ctlib.ctnet_inception_v3(num_classes=7, weights="imagenet").backbone.body
    assert torch.equal(body.Mixed_7c.branch1x1.conv.weight, theirs.Mixed_7c.branch1x1.conv.weight)
    assert torch.equal(body.Mixed_5b.branch3x3dbl_3.bn.weight, theirs.Mixed_5b.branch3x3dbl_3.bn.weight)


def test_what_is_new_starts_as_the_reference_says():
    """Kaiming (normal, fan-out) for convolutions; batch norms at 1 and 0."""
    torch.manual_seed(0)
    module = ctlib.ctnet_r50(num_classes=2).backbone.layer4[1].conv2
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
    conv = module.sub_operations[0].spatial[0]
    fan_out = conv.out_channels * 9  # as Kaiming counts it: all outputs, whatever the groups
    assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
