import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba

from ctlib import cost, models
from ctlib.backbones import PLACEMENTS
from ctlib.config import ModelConfig
from ctlib.teaching import anatomy, lesson4, shell

EVERY_OTHER = ("every other",) * 4


def test_a_resblock_s_flow_and_a_ct_block_s():
    torch.manual_seed(0)
    network = models.build_model(ModelConfig(num_classes=2, backbone="laptop", blocks=((1,), (), (), ())))
    features = torch.rand(1, 64, 4, 6, 6)
    plain, replaced = network.backbone.layer1[2], network.backbone.layer1[1]
    steps = lesson4.block_flow(plain, features)
    assert [what for what, _ in steps] == [
        "features X", "1x1 convolution, BN, ReLU", "3x3 convolution, BN, ReLU", "1x1 convolution, BN",
        "sum with X, ReLU",
    ]  # fmt: skip
    assert [shape for _, shape in steps] == [(c, 4, 6, 6) for c in (64, 16, 16, 64, 64)]
    steps = lesson4.block_flow(replaced, features)
    assert [what.split(":")[0] for what, _ in steps[2:5]] == [
        "sub-operation 1", "point-wise convolution, BN, ReLU", "sub-operation 2"
    ]  # fmt: skip
    assert [shape for _, shape in steps] == [(c, 4, 6, 6) for c in (64, 16, 16, 16, 16, 64, 64)]
    for block in (plain, replaced):  # left as they were
        assert block.training and not any(layer._forward_hooks for layer in block.modules())


@pytest.mark.parametrize(
    ("stages", "placement"),
    [
        (EVERY_OTHER, "stage2-5"),
        (("all but the first",) * 4, "all but first"),
        (("none", "none", "every other", "every other"), "stage4-5"),
    ],
)
def test_the_choices_are_the_placements(stages, placement):
    config = lesson4.config_of("resnet101", "CT-Block", stages)
    assert config.blocks == tuple(map(tuple, PLACEMENTS[placement]((3, 4, 23, 3))))


def test_no_stage_replaced_is_tsn():
    assert lesson4.config_of("resnet50", "CSN-Module", ("none",) * 4) == models.model_config("tsn_r50")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("resnet50", "CT", EVERY_OTHER), "unknown module 'CT'"),
        (("resnet50", "CT-Block", ("every second",) * 4), "unknown choice 'every second'"),
        (("inception_v3", "CT-Block", EVERY_OTHER), "needs a ResNet backbone"),
    ],
)
def test_unknown_names_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        lesson4.config_of(*arguments)


def test_the_view_s_numbers_are_the_counter_s():
    config = lesson4.config_of("laptop", "simple CT-Block", ("none", "every other", "none", "none"), 4, num_classes=3)
    view = lesson4.network(config, "simple CT-Block", 64)
    shared = {"num_classes": 3, "num_frames": 4}
    blocks = ((), (1, 3), (), ())
    with torch.device("meta"):
        ours = models.build_model(
            models.model_config("ctnet_laptop", blocks=blocks, pointwise=False, excitation="none", **shared)
        )
        dense = models.build_model(models.model_config("ctnet_laptop", blocks=blocks, module="c3d", **shared))
        tsn = models.build_model(models.model_config("tsn_laptop", **shared))
    ours, dense, tsn = (cost.count(network, 4, 64) for network in (ours, dense, tsn))
    numbers = view.numbers
    assert numbers["blocks replaced"] == "2 of 16" and numbers["parameters"] == f"{ours.params:,}"
    assert numbers["GFLOPs, one view of 4 x 64 x 64"] == f"{ours.gflops:.2f}"
    assert numbers["share of TSN"] == f"{100 * ours.gflops / tsn.gflops:.1f} %"
    assert numbers["share of the dense 3D network"] == f"{100 * ours.gflops / dense.gflops:.1f} %"
    assert "2 of 16 blocks replaced (simple CT-Block)" in view.alt and len(view.figure.axes) == 2


def test_with_no_block_replaced_all_three_networks_are_one():
    config = lesson4.config_of("quickstart", "CT-Block", ("none",) * 4, 2)
    numbers = lesson4.network(config, "CT-Block", 32).numbers
    assert numbers["share of TSN"] == numbers["share of the dense 3D network"] == "100.0 %"
    assert numbers["weights of the 2D backbone that stay"] == "100.0 %"


def test_the_block_explorer_counts_as_the_counter_does():
    view = lesson4.block(2, pointwise=False, excitation="none")
    config = ModelConfig(blocks=((1,), (), (), ()), pointwise=False, excitation="none")
    plain, replaced = (anatomy.parts(config, 56)[place] for place in (3, 2))  # 14 x 14 pixels in stage 2
    for name, part in (("ResBlock", plain), ("CT-Block", replaced)):
        assert view.numbers[f"{name}, GFLOPs"] == f"{part.gflops:.3f}"
        assert view.numbers[f"{name}, parameters"] == f"{part.params:,}"
    assert "sub-operation 2" in view.alt and "point-wise" not in view.alt


def test_placements_are_drawn_one_cell_per_block():
    rows = pd.DataFrame({"blocks": [((), (1,)), ((1, 2), (1,))], "top-1": ["16.9 %", "42.3 %"]}, index=["one", "two"])
    (axes,) = lesson4.placements((3, 2), rows).axes
    dark = [patch.get_xy() for patch in axes.patches if patch.get_facecolor() == to_rgba(shell.DARK)]
    assert len(axes.patches) == 10 and [round(y + 0.36) for _, y in dark] == [0, 1, 1, 1]
    assert {"16.9 %", "42.3 %", "top-1", "stage 2", "stage 3"} <= {text.get_text() for text in axes.texts}
