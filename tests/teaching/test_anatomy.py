from dataclasses import replace

import pytest
import torch
from torch import nn

from ctlib import cost, models
from ctlib.backbones import BACKBONES
from ctlib.config import ModelConfig
from ctlib.teaching import anatomy


def meta(config):
    with torch.device("meta"):
        return models.build_model(config)


def test_a_configuration_s_parts_are_those_of_its_network_at_every_length_and_size():
    config = ModelConfig(num_classes=5, num_frames=3, backbone="laptop", blocks=((), (3, 1), (), (2,)))
    network = meta(config)
    assert anatomy.parts(config, 72) == anatomy.walk(network, 3, 72)  # a size that is not halved evenly
    assert anatomy.parts(replace(config, num_frames=5), 64) == anatomy.walk(network, 5, 64)


def test_a_network_s_gflops_and_parameters_are_the_counter_s():
    config = ModelConfig(num_classes=5, num_frames=3, backbone="quickstart", excitation="se", dims=3)
    parts = anatomy.parts(config, 72)
    counted = cost.count(meta(config), 3, 72)
    assert anatomy.gflops(parts) == pytest.approx(counted.gflops, rel=1e-12)
    assert sum(part.params for part in parts) == counted.params


@pytest.mark.parametrize(("name", "gflops"), [("ctnet_r50", 37.32), ("tsn_r50", 42.94)])
def test_the_published_networks_cost_what_they_should(name, gflops):
    assert anatomy.gflops(anatomy.parts(models.model_config(name))) == pytest.approx(gflops, abs=0.005)


def test_the_parts_of_ctnet_in_the_order_of_a_clip():
    parts = anatomy.parts(models.model_config("ctnet_r50", num_classes=174), 224)
    assert [part.stage for part in parts[:5]] == ["stem", *["stage 2"] * 3, "stage 3"] and len(parts) == 18
    replaced = [(part.stage, part.index) for part in parts if part.replaced]
    expected = {"stage 2": (1,), "stage 3": (1, 3), "stage 4": (1, 3, 5), "stage 5": (1,)}
    assert replaced == [(stage, index) for stage, indices in expected.items() for index in indices]
    assert parts[0].shape == (64, 8, 56, 56) and parts[3].shape == (256, 8, 56, 56)
    assert parts[-2].shape == (2048, 8, 7, 7) and parts[-1].shape == (174, 8, 1, 1)


def test_every_layer_s_cost_by_the_rule_is_what_the_counter_says():
    config = ModelConfig(num_classes=3, num_frames=2, backbone="quickstart")
    network = meta(config).eval()
    rows = cost.breakdown(network, 2, 32).set_index("layer").gflops
    taken = {}
    for name, layer in network.named_modules():
        if hasattr(layer, "weight"):
            layer.register_forward_hook(
                lambda layer, _inputs, output, name=name: taken.update({name: anatomy.operations_of(layer, output)})
            )
    with torch.no_grad():
        network(torch.zeros(1, 3, 2, 32, 32, device="meta"))
    assert set(taken) == set(rows.index)
    for name, operations in taken.items():
        assert operations / 1e9 == pytest.approx(rows[name], rel=1e-12), name


def test_the_model_walked_is_left_as_it_was():
    torch.manual_seed(0)
    network = models.build_model(ModelConfig(num_classes=2, backbone="quickstart"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    anatomy.walk(network, 2, 32)
    assert network.training and not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_what_is_new_is_what_the_published_weights_have_nothing_for():
    config = ModelConfig(num_classes=7, backbone="quickstart", blocks=((1,), (), (), (1,)))
    published = BACKBONES["quickstart"]()
    names = dict(published.named_parameters())
    parts, network = anatomy.parts(config, 32), meta(config)
    fresh = sum(p.numel() for name, p in network.named_parameters() if name.removeprefix("backbone.") not in names)
    assert sum(part.new for part in parts) == fresh
    taken = sum(p.numel() for name, p in network.named_parameters() if name.removeprefix("backbone.") in names)
    assert anatomy.kept(parts) == pytest.approx(100 * taken / sum(p.numel() for p in names.values()))
    assert anatomy.kept(anatomy.parts(replace(config, blocks="none"), 32)) == 100


def test_depths_of_the_residual_networks():
    assert anatomy.depths_of("resnet50") == (3, 4, 6, 3) and anatomy.depths_of("resnet101") == (3, 4, 23, 3)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"backbone": "inception_v3", "blocks": "none"}, "needs a ResNet backbone"),
        ({"blocks": ((0,), (), (), ())}, "first block of a stage changes the shape"),
        ({"blocks": ((), (4,), (), ())}, "stage 3 has blocks 0 to 3, got 4"),
        ({"blocks": "stage25"}, "did you mean 'stage2-5'"),
        ({"blocks": ((1,), (1,))}, "each of the four stages of a ResNet, got"),
    ],
)
def test_impossible_blocks_are_refused(parts, text):
    with pytest.raises(ValueError, match=text):
        anatomy.parts(ModelConfig(**parts))


def test_only_networks_on_a_resnet_can_be_walked():
    with pytest.raises(ValueError, match="needs a ResNet backbone"):
        anatomy.walk(nn.Linear(2, 2))
