"""Which scaled network replaces a row's network, and as which run it is trained."""

import dataclasses

import pytest
import torch

from ctlib.backbones import InceptionBackbone
from ctlib.models import build_model, model_config
from ctlib.study import scales, tables
from ctlib.study.scales import Study, Views
from ctlib.study.synthetic_sets import SyntheticConfig


def network_of(table, row):
    (network,) = tables.ROWS[table][row]
    return network


def run_of(table, row, scale, **study):
    return Study(scale, **study).run(network_of(table, row), table)


def test_the_laptop_keeps_resnet_50_s_blocks_at_a_quarter_of_its_width():
    config = run_of("2g", "+CT-Module+PWConv+TE", "laptop").model
    assert config.backbone == "laptop" and config.weights == "shapes"
    small, full = (
        tables.counted(dataclasses.replace(config, backbone=backbone), 64) for backbone in ("laptop", "resnet50")
    )
    assert 14 < full.params / small.params < 17 and 8 < full.gflops / small.gflops < 11  # the last stage has no stride
    assert run_of("2b", "4D", "laptop").model.dims == 4
    assert run_of("8", "CT-Net InceptionV3", "laptop").data.size == 80


def test_the_thin_inception_has_a_quarter_of_every_channel():
    thin, full = (
        {name: tuple(weight.shape[:2]) for name, weight in build_model(model_config(name)).backbone.named_parameters()}
        for name in ("tsn_laptop_inception", "tsn_inception_v3")
    )
    stem = "body.Conv2d_1a_3x3.conv.weight"
    assert thin.pop(stem) == (8, 3) and full.pop(stem) == (32, 3)
    assert thin == {name: tuple(size // 4 for size in shape) for name, shape in full.items()}
    network = build_model(model_config("ctnet_laptop_inception", num_classes=3)).eval()
    assert network(torch.zeros(1, 3, 2, 80, 80)).shape == (1, 3) and len(list(network.backbone.replaced())) == 5
    with pytest.raises(ValueError, match="got 7"):
        InceptionBackbone(width=7)
    with pytest.raises(ValueError, match="the backbone 'laptop_inception' has no ImageNet weights"):
        build_model(model_config("tsn_laptop_inception", weights="imagenet"))


@pytest.mark.parametrize(("row", "dims"), [("C_2 = 1", (-1, 1)), ("C_2 = 4", (-1, 2)), ("C_2 = 16", (-1, 8))])
def test_c_2_keeps_its_ratio_to_the_root_of_c(row, dims):
    assert run_of("2d", row, "laptop").model.dims == dims
    published = dataclasses.replace(network_of("2d", row).config, dropout=0.3, weights="imagenet")
    assert run_of("2d", row, "paper").model == published


@pytest.mark.parametrize(("scale", "small", "large"), [("laptop", 56, 64), ("gpu", 98, 112), ("paper", 224, 256)])
def test_224_and_256_keep_their_proportion(scale, small, large):
    first, second = run_of("2h", "train 224, test 224", scale), run_of("2h", "train 224, test 256", scale)
    assert first == second and (first.data.size, first.data.short_side) == (small, large)
    assert Study(scale).views(network_of("2h", "train 224, test 256")) == Views(large, large, 1, 1)
    assert run_of("2h", "train 256, test 256", scale).data.size == large


def test_rows_of_three_crops_need_videos_that_are_not_square():
    assert not any("x3x2" in row for row in Study("laptop").rows("6"))
    assert sum("x3x2" in row for row in Study("paper").rows("6")) == 5


def test_table_7_is_2a_except_on_the_paper_s_data():
    assert run_of("7", "CSN-Module", "laptop") == run_of("2a", "CSN-Module", "laptop")
    run = run_of("7", "CSN-Module", "paper", roots={"mini-kinetics-200": "/data/k"})
    assert (run.data.name, run.data.root, run.name) == ("mini-kinetics-200", "/data/k", "csn_mini-kinetics-200")
    assert (run.model.num_frames, run.data.clips, run.data.crops) == (8, 1, 1)


def test_a_size_in_the_overrides_scales_all_sizes():
    study = Study("laptop", "data.size=24 recipe.epochs=1")
    assert study.sized.size == 24 and study.sized.inception_size == 75
    assert study.run(network_of("2h", "train 224, test 224"), "2h").data.size == 21
    assert study.run(network_of("2a", "CT-Module"), "2a").recipe.epochs == 1


def test_roots_are_folders_by_data_set():
    assert scales.parse_roots("something-v1=/data/s 'mini-kinetics-200=/data/k 400'") == {
        "something-v1": "/data/s", "mini-kinetics-200": "/data/k 400",
    }  # fmt: skip
    for folder in ("/Bob's data/a [1]", "/a 'b'", "/2024"):
        text = f'mini-kinetics-200={folder} something-v1="{folder}"'
        assert scales.parse_roots(text) == {"something-v1": folder, "mini-kinetics-200": folder}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Study("laptop").rows("2z"), "unknown table '2z'.*known are 2a, 2b"),
        (lambda: Study("laptob").rows("2a"), "unknown scale 'laptob': did you mean 'laptop'.*laptop, gpu, paper"),
        (lambda: Study("laptob"), "unknown scale 'laptob'"),
        (lambda: Study("gpu").rows("2a", ["CT"]), "unknown row of Table 2a 'CT'.*C3D-Module"),
        (lambda: run_of("2a", "CT-Module", "gpu", overrides="model.dims=3"), "rows say: leave out model.dims"),
        (lambda: run_of("2a", "CT-Module", "gpu", overrides="data.clips=2"), "leave out data.clips"),
        (lambda: run_of("2a", "CT-Module", "gpu", overrides="data.size=4"), "pixels from 16, got 4"),
        (lambda: run_of("2a", "CT-Module", "gpu", overrides="recipe.epoch=4"), "did you mean 'epochs'"),
        (lambda: scales.parse_roots("/data/s"), "roots are data=folder separated by spaces, got '/data/s'"),
        (lambda: scales.parse_roots("something-v3=/x"), "unknown data set of roots 'something-v3'"),
    ],
)
def test_bad_input_names_what_exists(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_the_references_are_rows_of_their_tables():
    assert list(tables.REFERENCES) == list(tables.TABLES) and set(tables.REMARKS) < set(tables.TABLES)
    for table, row in tables.REFERENCES.items():
        assert row in Study("laptop").rows(table)


def test_overrides_of_a_section_are_split_off():
    text = "recipe.lr=0.1 synthetic.groups=4 data.size=24"
    overrides, sizes = scales.split_overrides(text, "synthetic", SyntheticConfig)
    assert overrides == "recipe.lr=0.1 data.size=24" and (sizes.groups, sizes.clips) == (4, 1)
    with pytest.raises(ValueError, match="unknown key of SyntheticConfig 'group': did you mean 'groups'"):
        scales.split_overrides("synthetic.group=4", "synthetic", SyntheticConfig)


def test_what_the_overrides_change_is_listed():
    changed = scales.changes(Study(overrides="recipe.epochs=3 data.size=32"), "2b")
    assert changed.to_dict("index") == {
        "data.size": {"scale": 64, "here": 32},
        "data.short_side": {"scale": 64, "here": 32},
        "recipe.epochs": {"scale": 4, "here": 3},
    }
    assert scales.changes(Study(), "2b").empty
