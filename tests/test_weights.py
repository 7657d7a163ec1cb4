"""Weights: saved, checked by their digests, listed, and loaded into backbones and whole networks."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import WeightsEnum

import ctlib
from ctlib import Weights, checkpoints, cost, files, weights
from ctlib.backbones import BACKBONES
from ctlib.config import ArrowConfig, ModelConfig
from ctlib.data import arrow
from ctlib.data.catalog import load_samples
from ctlib.data.clips import ClipDataset
from ctlib.models import build_model, model_config
from ctlib.training.recipes import run_config
from ctlib.weights import catalog
from tests import ROOT


@pytest.fixture
def made(tmp_path):
    """A backbone with random weights, and its file."""
    torch.manual_seed(1)
    backbone = BACKBONES["quickstart"]()
    path = tmp_path / "mine.safetensors"
    digest = weights.save_shapes(path, backbone.state_dict(), {"backbone": "quickstart", "steps": 3})
    assert digest == files.digest(path)
    return backbone, path


def test_a_file_keeps_convolutions_in_half_precision_and_batch_norms_as_they_are(made):
    backbone, path = made
    state = load_file(path)
    assert state.keys() == backbone.state_dict().keys() and path.stat().st_size < 4e6
    assert state["conv1.weight"].dtype == torch.float16 and state["bn1.running_var"].dtype == torch.float32
    assert torch.equal(state["conv1.weight"], backbone.conv1.weight.half())


def test_a_network_starts_from_a_file_and_its_replaced_convolutions_are_new(made):
    backbone, path = made
    network = build_model(ModelConfig(backbone="quickstart", weights=str(path))).backbone
    torch.testing.assert_close(network.conv1.weight, backbone.conv1.weight, rtol=1e-3, atol=1e-4)
    assert network.conv1.weight.dtype == torch.float32
    assert torch.equal(network.layer1[0].conv2.weight, backbone.layer1[0].conv2.weight.half().float())
    assert "layer1.1.conv2.weight" in backbone.state_dict() and "layer1.1.conv2.weight" not in network.state_dict()


@pytest.mark.parametrize("backbone", weights.SHAPES)
def test_the_package_s_own_weights_load(backbone):
    network = build_model(ModelConfig(backbone=backbone, blocks="none", weights="shapes"))
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert weights.start_digest(backbone, "shapes") == weights.find("shapes", backbone).meta["digest"]


@pytest.mark.parametrize(
    "load", [lambda: weights.shapes("quickstart"), lambda: ctlib.create_model("tsn_quickstart", weights="arrow")]
)
def test_weights_of_the_package_are_checked_by_their_digest(load, tmp_path, monkeypatch):
    def damaged(kind, network):
        path = tmp_path / f"{kind}_{network}.safetensors"
        path.write_bytes(packaged(kind, network).read_bytes()[:-1] + b"?")
        return path

    packaged = catalog.packaged
    monkeypatch.setattr(catalog, "packaged", damaged)
    monkeypatch.delitem(
        vars(Weights.TSN_QUICKSTART_ARROW.value), "header", raising=False
    )  # it was read before, perhaps
    with pytest.raises(ValueError, match="quickstart.safetensors is damaged: its (content|digest) is .*not .*"):
        load()


def test_the_list_says_of_each_what_it_reached():
    table = ctlib.list_weights()
    assert list(table.index) == [one.name for one in Weights] and len(table) == 8
    assert not table.isna().any().any() and table.top1.between(0, 100).all()
    assert all(len(line) < 80 for line in str(table).splitlines())
    for one in Weights:
        assert isinstance(one, WeightsEnum) and copy.deepcopy(one) is one and one.meta["network"] == one.network
        if one.kind != "imagenet":
            assert files.digest(one.file) == one.meta["digest"] and one.file.stat().st_size < 4e6
    assert Weights.RESNET50_IMAGENET.url == "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    assert list(ctlib.list_weights("*arrow").index) == ["CTNET_QUICKSTART_ARROW", "TSN_QUICKSTART_ARROW"]
    assert Weights.RESNET50_IMAGENET.file.name == "resnet50-0676ba61.pth"


def test_the_page_about_them_states_the_same_numbers():
    rows = [line for line in (ROOT / "ctlib" / "weights" / "README.md").read_text().splitlines() if line[:3] == "| `"]
    assert len(rows) == len(Weights)
    for row in rows:
        name, *cells = (cell.strip(" `") for cell in row.strip("| ").split("|"))
        meta = Weights[name].meta
        assert any(cell.split()[0] == f"{meta['top1']:.1f}" for cell in cells), row
        assert any(cell in (f"{meta['gflops']:.3f}", f"{meta['gflops']:.2f}") for cell in cells), row
        if "interval" in meta:
            low, high = meta["interval"]
            assert f"({low:.1f} to {high:.1f})" in row


@pytest.mark.parametrize("one", Weights)
def test_gflops_are_those_that_are_counted(one):
    if one.is_whole:
        network = ctlib.create_model(one.network, num_classes=16)
    else:
        network = build_model(ModelConfig(num_classes=0, backbone=one.network, blocks="none"))
    counted = cost.count(network, one.meta["num_frames"], one.meta["size"]).gflops
    assert one.meta["gflops"] == pytest.approx(counted, abs=5e-5)


# The first test videos of the quickstart's run: the predicted class, and its probability in the record.
RECORDED = {
    "CTNET_QUICKSTART_ARROW": [(0, 0.9873), (1, 0.9882), (2, 0.9888), (3, 0.9663), (4, 0.6979), (5, 0.9842)],
    "TSN_QUICKSTART_ARROW": [(0, 0.4238), (0, 0.4238), (5, 0.3352), (5, 0.3352), (5, 0.2695), (5, 0.2695)],
}


@pytest.fixture(scope="module")
def first_videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("first") / "arrow"
    return load_samples("arrow", arrow.write(ArrowConfig(train_clips=2, val_clips=6), root, workers=0), "val")


@pytest.mark.parametrize("name", RECORDED)
def test_the_shipped_networks_give_the_predictions_of_their_record(first_videos, name):
    one = Weights[name]
    view, network = one.transforms(), ctlib.create_model(one.network, weights=one).eval()
    clips = torch.stack([view(first_videos[index].source) for index in range(6)])
    probabilities, predicted = network(clips).softmax(1).max(1)
    assert predicted.tolist() == [label for label, _ in RECORDED[name]]
    torch.testing.assert_close(probabilities, torch.tensor([p for _, p in RECORDED[name]]), rtol=0, atol=2e-3)
    assert torch.equal(checkpoints.load(one.file).model(clips), network(clips))
    assert one.meta["classes"] == first_videos.classes and one.meta["top1"] == one.meta["top1_trained"]


def test_transforms_give_the_clips_that_the_run_was_tested_on(first_videos):
    one = Weights.CTNET_QUICKSTART_ARROW
    dataset = ClipDataset(first_videos, one.meta["num_frames"], one.meta["size"], short_side=one.meta["short_side"])
    view = one.transforms()
    assert torch.equal(view(first_videos[2].source), dataset[2][0][0])
    frames = ctlib.data.video.read_frames(first_videos[2].source, lambda length: np.arange(length))
    assert len(frames) == 48 and torch.equal(view(frames), dataset[2][0][0])
    assert torch.equal(view(frames[view.indices(48)]), dataset[2][0][0])
    assert one.transforms(size=32)(frames).shape == (3, 8, 32, 32)
    with pytest.raises(ValueError, match=r"frames must be uint8 \(T, H, W, 3\), got float32 \(48, 64, 64, 3\)"):
        view(frames.astype(np.float32))


def test_a_trained_network_takes_other_classes_and_gives_features():
    whole = ctlib.create_model("ctnet_quickstart", weights="ctnet_quickstart_arrow")
    other = ctlib.create_model("ctnet_quickstart", num_classes=3, weights=Weights.CTNET_QUICKSTART_ARROW, dropout=0.5)
    features = ctlib.create_model("ctnet_quickstart", num_classes=0, weights="arrow")
    assert whole.num_classes == 16 and whole.training and other.config.dropout == 0.5
    for network in (other, features):
        state = network.backbone.state_dict()
        assert all(torch.equal(state[key], value) for key, value in whole.backbone.state_dict().items())
    assert other.fc.weight.shape[0] == 3 and other.fc.weight.std() < 0.01 < whole.fc.weight.std()


def test_a_backbone_s_weights_may_be_a_member():
    given = ctlib.create_model("tsm_quickstart", 3, weights=Weights.QUICKSTART_SHAPES)
    assert given.config.weights == "shapes"
    assert torch.equal(given.backbone.conv1.weight, Weights.QUICKSTART_SHAPES.get_state_dict()["conv1.weight"].float())
    assert ctlib.create_model("tsm_quickstart", 3, weights="quickstart_shapes").config.weights == "shapes"


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("tsn_quickstart", {"weights": Weights.CTNET_QUICKSTART_ARROW}, "are weights of 'ctnet_quickstart', got 'tsn_"),
        ("tsm_quickstart", {"weights": "arrow"}, "'tsm_quickstart' has no weights 'arrow': ctnet_quickstart, tsn_qui"),
        ("ctnet_quickstart", {"weights": "arrow", "excitation": "none"}, "as it is, without other parts"),
        ("ctnet_quickstart", {"weights": "arow", "num_classes": 2}, "unknown weights 'arow': did you mean 'arrow'"),
        ("ctnet_quickstart", {"weights": "nope"}, "unknown weights 'nope': known are imagenet, shapes, arrow, ctnet_"),
        ("ctnet_quickstart", {"weights": "shapes"}, "ctnet_quickstart needs num_classes"),
        ("ctnet_quickstrat", {}, "did you mean 'ctnet_quickstart'"),
        ("ctnet_r50", {"num_classes": 2, "weights": Weights.RESNET101_IMAGENET}, "of 'resnet101', and the backbone is"),
    ],
)
def test_weights_that_do_not_fit_are_named(name, options, text):
    with pytest.raises((ValueError, TypeError), match=text):
        ctlib.create_model(name, **options)


def test_a_configuration_takes_a_backbone_s_weights_alone():
    with pytest.raises(ValueError, match="'arrow' are weights of a whole network"):
        build_model(ModelConfig(backbone="quickstart", weights="arrow"))
    with pytest.raises(ValueError, match=r"CTNET_QUICKSTART_ARROW are of a whole network: ctlib.create_model\('ctnet"):
        model_config("ctnet_r50", num_classes=2, weights=Weights.CTNET_QUICKSTART_ARROW)


@pytest.mark.parametrize(
    ("backbone", "given", "text"),
    [
        ("resnet50", "shapes", "the backbone 'resnet50' has no weights of Still Shapes: "),
        ("quickstart", "shape", "unknown weights 'shape': did you mean 'shapes'"),
        ("quickstart", "{path}/none.safetensors", "no weights for 'quickstart': .*none.safetensors does not exist"),
        ("laptop", "{path}/mine.safetensors", "holds weights of the backbone 'quickstart', not of 'laptop'"),
        ("quickstart", "{path}/cut.safetensors", "cut.safetensors is damaged: "),
        ("quickstart", "{path}/other.safetensors", "other.safetensors has no header of this package"),
    ],
)
def test_what_is_wrong_with_weights_is_said(made, backbone, given, text):
    _, path = made
    (path.parent / "cut.safetensors").write_bytes(path.read_bytes()[:1000])
    save_file({"a": torch.zeros(1)}, path.parent / "other.safetensors")
    with pytest.raises(ValueError, match=text):
        build_model(ModelConfig(backbone=backbone, weights=given.format(path=path.parent)))


def test_a_recipe_s_weights_are_left_to_the_backbones_that_have_them():
    assert run_config("list", "ctnet_r50").model.weights == "imagenet"
    assert run_config("list", "ctnet_quickstart").model.weights is None
    given = run_config("list", "ctnet_quickstart", overrides="model.weights=imagenet")
    with pytest.raises(ValueError, match="the backbone 'quickstart' has no ImageNet weights"):
        weights.check_weights(given.model.weights, given.model.backbone)
