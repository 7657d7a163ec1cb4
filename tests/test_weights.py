"""Weights of Still Shapes: saved, checked, loaded into a backbone, and what a run keeps of them."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import ctlib
from ctlib import files, weights
from ctlib.backbones import BACKBONES
from ctlib.config import ModelConfig
from ctlib.models import build_model
from ctlib.training.recipes import run_config


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


@pytest.mark.parametrize("backbone", sorted(weights.SHAPES))
def test_the_package_s_own_weights_load(backbone):
    network = build_model(ModelConfig(backbone=backbone, blocks="none", weights="shapes"))
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert weights.shapes_file(backbone).stat().st_size < 4e6
    assert weights.start_digest(backbone, "shapes") == weights.SHAPES[backbone]


def test_weights_of_the_package_are_checked_by_their_digest(made, monkeypatch):
    _, path = made
    monkeypatch.setattr(weights, "shapes_file", lambda *names: path)
    monkeypatch.setattr(weights, "SHAPES", {"quickstart": files.digest(path)})
    assert ctlib.ctnet_r50 and weights.shapes("quickstart")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="mine.safetensors is damaged: its digest is .{16}, not .{16}$"):
        weights.shapes("quickstart")


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
