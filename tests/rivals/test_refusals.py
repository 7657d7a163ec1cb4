"""What a system cannot be used for is said in one line, before work starts."""

from types import SimpleNamespace

import pytest
import torch

import ctlib
from ctlib import models
from ctlib.models import freeze_backbone, recompute_blocks
from ctlib.training.network import make_network
from ctlib.training.recipes import run_config
from ctlib.training.run import resolve


def trained_of(name, **parts):
    network = ctlib.create_model(name, 5, **parts)
    freeze_backbone(network)
    return {key for key, parameter in network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["stm", "smallbig", "non_local", "tdn", "tsm", "teinet"])
def test_a_frozen_backbone_keeps_what_has_weights_and_trains_what_is_new(name):
    pretrained = {key for key, _ in ctlib.create_model("tsn_quickstart", 5).named_parameters()} - {
        "fc.weight",
        "fc.bias",
    }
    new = {key for key, _ in ctlib.create_model(f"{name}_quickstart", 5).named_parameters()} - pretrained
    assert trained_of(f"{name}_quickstart") == new


def test_without_weights_only_the_classifier_is_not_frozen_and_a_run_is_refused():
    assert trained_of("tea_quickstart") == trained_of("slowfast_small") == {"fc.weight", "fc.bias"}
    with torch.device("meta"):
        new = trained_of("nl_i3d_r50")
    assert new and all(".after." in key or key.startswith("fc.") for key in new)
    config = run_config("arrow", "tea_quickstart", "", "recipe.frozen=backbone")
    run = SimpleNamespace(model=config.model, config=config)
    with pytest.raises(ValueError, match="tea_quickstart starts from random weights: recipe.frozen must be 'none'"):
        make_network(run)


def test_whole_networks_have_no_blocks_to_recompute():
    recompute_blocks(ctlib.create_model("eco_small", 5), False)
    with pytest.raises(ValueError, match="'eco_small' has no blocks to recompute: set compute.recompute=false"):
        recompute_blocks(ctlib.create_model("eco_small", 5))
    recompute_blocks(ctlib.create_model("tsm_quickstart", 5))


def test_a_network_with_boxes_is_not_trained_exported_compiled_or_explained(tmp_path):
    with pytest.raises(ValueError, match="'nl_i3d_gcn_small' needs boxes .* cannot be trained here"):
        resolve(run_config("arrow", "nl_i3d_gcn_small"))
    network, clips = ctlib.create_model("nl_i3d_gcn_small", 5), torch.zeros(1, 3, 8, 32, 32)
    with pytest.raises(ValueError, match="needs boxes of objects beside the clips: no export of it"):
        ctlib.export(network, tmp_path / "network.onnx", 32)
    with pytest.raises(ValueError, match="needs boxes of objects beside the clips: no compilation of it"):
        ctlib.compiled(network.eval())
    with pytest.raises(ValueError, match="needs boxes of objects beside the clips: no saliency of it"):
        ctlib.saliency.saliency_tubes(network, clips)
    with pytest.raises(ValueError, match="this network needs boxes"):
        ctlib.cost.latency(network, 8, 32)


def test_another_size_than_c3d_takes_is_refused_before_data_are_made():
    with pytest.raises(ValueError, match="'c3d_vgg_small' takes frames of 32 pixels alone, got 48: set data.size=32"):
        resolve(run_config("arrow", "c3d_vgg_small", "", "data.size=48"))


def test_weights_that_do_not_fit_are_refused_before_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(models, "published", lambda backbone: pytest.fail("asked for"))
    with pytest.raises(ValueError, match="'tea' has blocks of its own: weights must be None, got 'imagenet'"):
        ctlib.create_model("tea_r50", 5, weights="imagenet")


def test_a_name_that_is_taken_is_refused_unless_its_own_cell_runs_again(monkeypatch):
    for name in ("MODELS", "OWN_DATA", "_SYSTEMS", "BACKBONES"):
        monkeypatch.setattr(models, name, dict(getattr(models, name)))
    for name in ("tsn", "ctnet", "ct", "csn", "tsm"):
        with pytest.raises(ValueError, match=f"there is a system called '{name}' already: choose another name"):
            models.register(name, lambda backbone: None)
    for _ in range(2):
        models.register("echo", lambda backbone: None)
    with pytest.raises(ValueError, match="there is a network called 'eco_small' already"):
        models.register_backbone("eco_small", lambda: None)


@pytest.mark.slow
def test_an_export_that_fails_is_one_line(tmp_path):
    pytest.importorskip("onnxscript")
    network = ctlib.create_model("slowfast_small", 5)
    with pytest.raises(
        ValueError, match=r"'slowfast_small' cannot be exported for clips of 10 x 32 x 32 \(T x H x W\)"
    ):
        ctlib.export(network, tmp_path / "network.onnx", 32, 10)
    assert not list(tmp_path.iterdir())
