import pytest
import torch
from torch import nn

import ctlib
from ctlib import cost
from ctlib.backbones import CTBlock
from ctlib.ct_module import SPECIAL_CASES, CTModule, special_case
from ctlib.models import model_config


@pytest.fixture(scope="module")
def ctnet():
    return ctlib.ctnet_r50(num_classes=174, num_frames=8)


def test_the_convention_on_a_small_network():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(self.bn(self.conv(x)).mean((2, 3, 4)))

    counted = cost.count(Net(), num_frames=2, size=6)
    positions = 2 * 6 * 6
    assert counted.gflops * 1e9 == pytest.approx(27 * 3 * 4 * positions + 2 * 4 * positions + 4 * 5)
    assert counted.params == (27 * 3 * 4 + 4) + 8 + 25


def test_counting_leaves_the_model_as_it_was(ctnet):
    before = {key: value.clone() for key, value in ctnet.state_dict().items()}
    training = ctnet.training
    cost.count(ctnet)
    assert ctnet.training == training
    assert all(torch.equal(before[key], value) for key, value in ctnet.state_dict().items())


def test_the_breakdown_names_every_layer_that_counts(ctnet):
    table = cost.breakdown(ctnet)
    assert table.gflops.sum() == pytest.approx(cost.count(ctnet).gflops, rel=1e-12)
    stem = 49 * 3 * 64 * 8 * 128 * 128 / 1e9
    assert table.gflops[table.layer == "backbone.conv1"].item() == pytest.approx(stem)
    assert table.gflops[table.layer == "fc"].item() == pytest.approx(8 * 2048 * 174 / 1e9)
    assert set(table.kind) == {"product", "batch norm"} and not table.duplicated("layer").any()


def test_stages_and_parts_hold_all_of_it(ctnet):
    stages = cost.by_stage(ctnet)
    assert stages.to_numpy().sum() == pytest.approx(cost.count(ctnet).gflops, rel=1e-12)
    assert list(stages.index) == ["stem", "stage 2", "stage 3", "stage 4", "stage 5", "head"]
    formula = cost.ct_block_formula(64, (8, 64, 64))
    assert stages.excitation["stage 2"] == pytest.approx(formula["excitation"] / 1e9, rel=1e-12)
    assert stages["point-wise"]["stage 2"] == pytest.approx(formula["point-wise"] / 1e9, rel=1e-12)
    with torch.device("meta"):
        tsn = cost.by_stage(ctlib.tsn_r50(num_classes=174))
        assert (tsn[["point-wise", "excitation"]] == 0).all(axis=None)
        assert (tsn["1x1 and stem"] == stages["1x1 and stem"]).all()
        with pytest.raises(ValueError, match="only ResNets have stages"):
            cost.by_stage(ctlib.tsn_inception_v3(num_classes=2), size=75)


def test_products_between_sub_layers_and_layers_called_twice_are_counted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x):
            x = self.inner(x.mean((2, 3))[..., :2])
            return self.inner(x) @ self.inner.weight

    rows = cost.breakdown(nn.Sequential(Net()), num_frames=2, size=6)
    assert rows.layer.tolist() == ["0.inner", "0.inner", "0"] and rows.kind.tolist() == ["product"] * 3
    assert (1e9 * rows.gflops).round().tolist() == [3 * 2 * 2] * 3


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"dims": 3},
        {"dims": 4, "pointwise": False},
        {"dims": (-1, 4), "excitation": "none"},
        {"kernels": ((1, 1, 1), (5, 5, 5)), "excitation": "none"},
    ],
)
def test_the_formula_of_a_block_is_the_count(parts):
    """Every CT-Block of CT-Net R50, at 8 x 256 x 256."""
    with torch.device("meta"):
        network = ctlib.ctnet_r50(num_classes=2, **parts)
    table = cost.breakdown(network)
    blocks = [(name, module) for name, module in network.named_modules() if isinstance(module, CTBlock)]
    assert len(blocks) == 7
    for name, block in blocks:
        channels = block.conv1.out_channels
        side = 64 * 64 // channels
        formula = cost.ct_block_formula(channels, (8, side, side), **parts)
        within = table[table.layer.str.startswith(name + ".")]
        excitation = within.layer.str.contains(".excitation.")
        assert formula["excitation"] / 1e9 == pytest.approx(within.gflops[excitation].sum(), rel=1e-12)
        assert sum(formula.values()) / 1e9 == pytest.approx(within.gflops.sum(), rel=1e-12)


def parallel_positions(k):
    """Sums of k steps, each in the plane t = 0 or along the line h = w = 0, and at most 1 in each axis."""
    steps = {(0, h, w) for h in (-1, 0, 1) for w in (-1, 0, 1)} | {(t, 0, 0) for t in (-1, 0, 1)}
    reached = {(0, 0, 0)}
    for _ in range(k):
        reached = {tuple(a + b for a, b in zip(at, step, strict=True)) for at in reached for step in steps}
    return reached


@pytest.mark.parametrize(("k", "positions"), [(1, 11), (2, 45), (3, 119), (4, 249)])
def test_interact_field_of_ct_is_a_box_of_which_parallel_reaches_a_part(k, positions):
    field = cost.interact_field(CTModule(16, k, excitation="none"))
    assert field.channels == 16 and field.box == (2 * k + 1,) * 3 and field.positions == positions
    found = {tuple(place) for place in (field.places.nonzero() - 5).tolist()}
    assert found == parallel_positions(k)


@pytest.mark.parametrize("connection", ["serial", "coupling"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_interact_field_of_other_connections_is_the_whole_box(connection, k):
    field = cost.interact_field(CTModule(16, k, connection=connection, excitation="none"))
    assert field.channels == 16 and field.box == (2 * k + 1,) * 3 and field.positions == (2 * k + 1) ** 3


@pytest.mark.parametrize("name", SPECIAL_CASES)
def test_interact_field_of_c3d_r2plus1d_and_csn(name):
    field = cost.interact_field(special_case(name, 6))
    assert field.channels == 6 and field.box == (3, 3, 3) and field.positions == 27
    assert field.reached.shape == (6, 11, 11, 11) and field.reached.all(0).sum() == 27


def test_interact_field_grows_sub_operation_by_sub_operation():
    module = CTModule(12, (4, 3), excitation="none", pointwise=False)
    first = cost.interact_field(module.sub_operations[0], channel=5)
    assert first.reached.flatten(1).any(1).nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert cost.interact_field(module, channel=5).channels == 12


def test_interact_field_with_excitation_is_the_whole_clip():
    field = cost.interact_field(CTModule(16), num_frames=9, size=7)
    assert field.positions == 9 * 7 * 7 and field.channels == 16
    assert cost.interact_field(CTModule(16, excitation="se"), num_frames=9, size=7).positions == 9 * 7 * 7


def test_interact_field_does_not_depend_on_what_was_learned():
    torch.manual_seed(0)
    module = CTModule(16, 4, excitation="none")
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.1, 2)
    field = cost.interact_field(module)
    assert (field.channels, field.box, field.positions) == (16, (9, 9, 9), 249)
    biased = nn.Conv3d(4, 4, 3, padding=1)
    nn.init.constant_(biased.bias, -5)
    assert cost.interact_field(nn.Sequential(biased, nn.ReLU())).positions == 27


def test_interact_field_of_nothing():
    with pytest.raises(ValueError, match="no convolution to take the channels from"):
        cost.interact_field(nn.ReLU())
    alone = cost.interact_field(nn.ReLU(), channels=3)
    assert (alone.channels, alone.box, alone.positions) == (1, (1, 1, 1), 1)
    assert cost.InteractField(torch.zeros(1, 3, 3, 3, dtype=torch.bool)).box == (0, 0, 0)


def test_interact_field_of_networks():
    """TSN sees one frame; four CT-Modules of two sub-operations see eight further to either side."""
    tsn = ctlib.build_model(model_config("tsn_quickstart", num_classes=2))
    assert cost.interact_field(tsn, num_frames=5, size=32).box[0] == 1
    ctnet = ctlib.build_model(model_config("ctnet_quickstart", num_classes=2, excitation="none"))
    before = {key: value.clone() for key, value in ctnet.state_dict().items()}
    assert cost.interact_field(ctnet, num_frames=21, size=32).box[0] == 17
    assert all(torch.equal(before[key], value) for key, value in ctnet.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_latency_says_what_was_timed_and_restores_the_mode(precision):
    network = ctlib.build_model(model_config("tsn_quickstart", num_classes=2))
    network.backbone.bn1.eval()  # as with a frozen batch norm
    called = []
    network.register_forward_hook(lambda *_: called.append(torch.is_autocast_enabled("cpu")))
    timed = cost.latency(network, num_frames=2, size=32, batch=3, precision=precision, seconds=0.05)
    assert 0 < timed.low <= timed.milliseconds <= timed.high and timed.calls == len(called) - 2 >= 1
    assert set(called) == {precision == "bf16"}
    assert (timed.batch, timed.num_frames, timed.size, timed.precision, timed.device) == (3, 2, 32, precision, "cpu")
    assert timed.clips_per_second == pytest.approx(3000 / timed.milliseconds)
    assert timed.hardware and network.training and not network.backbone.bn1.training


def test_latency_is_the_median_of_single_calls(monkeypatch):
    times = iter([50.0, 50.0, 1.0, 9.0, 2.0, 3.0, 100.0])  # two to warm up
    monkeypatch.setattr(cost, "timed", lambda call, device: next(times) / 1000)
    timed = cost.latency(ctlib.build_model(model_config("tsn_quickstart", num_classes=2)), 2, 32, seconds=0.115)
    assert (timed.milliseconds, timed.low, timed.high, timed.calls) == (3, 2, 9, 5)


def test_latency_refuses_what_it_would_not_time_right():
    network = ctlib.build_model(model_config("tsn_quickstart", num_classes=2))
    with pytest.raises(ValueError, match="unknown precision 'fp8'"):
        cost.latency(network, precision="fp8")
    with pytest.raises(ValueError, match="at least 1, got 0, 8 and 256"):
        cost.latency(network, batch=0)
    with pytest.raises(ValueError, match=r"must be in float32, got torch\.float64"):
        cost.latency(network.double())


def frozen_in_part():
    layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    layers[1].eval()  # frozen, as some train them
    return layers


def test_eval_with_hooks_restores_the_mode_of_every_module():
    layers, outputs = frozen_in_part(), []
    with cost.eval_with_hooks(layers, {layers[0]: lambda _layer, _inputs, output: outputs.append(output)}):
        assert not any(layer.training for layer in layers.modules())
        layers(torch.ones(3, 2))
    assert len(outputs) == 1 and outputs[0].shape == (3, 2)
    assert [layer.training for layer in layers] == [True, False, True] and layers.training
    assert not layers[0]._forward_hooks


def test_an_error_inside_eval_with_hooks_leaves_no_hook():
    layers = frozen_in_part()
    with pytest.raises(KeyError), cost.eval_with_hooks(layers, {layers[0]: print}):
        raise KeyError
    assert layers.training and not layers[0]._forward_hooks
