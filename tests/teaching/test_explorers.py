import itertools
import math

import ipywidgets
import numpy as np
import pytest
import torch

from ctlib import cost, temporal
from ctlib.ct_module import CTModule
from ctlib.teaching import explorers
from ctlib.tensorize import TensorSeparableConv

PLAIN = {"pointwise": False, "excitation": "none"}


@pytest.mark.parametrize("dims", [(4, 4), (6, 2), (2, 3, 2), (12,)])
def test_reached_channels_are_those_that_the_module_s_gradient_finds(dims):
    channels = math.prod(dims)
    module = CTModule(channels, dims, **PLAIN)
    for channel in (0, channels - 2):
        field = cost.interact_field(module, 3, 3, channel=channel)
        assert explorers.reached_channels(dims, len(dims), channel).sum() == field.channels == channels
        first = cost.interact_field(module.sub_operations[0], 3, 3, channel=channel)
        measured = first.reached.flatten(1).any(1).numpy()
        assert (measured == explorers.reached_channels(dims, 1, channel)).all()


def test_reached_channels_before_any_sub_operation_is_the_output_itself():
    assert np.flatnonzero(explorers.reached_channels((4, 3), 0, 7)).tolist() == [7]
    assert np.flatnonzero(explorers.reached_channels((2, 3, 2), 2, 7)).tolist() == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(((4, 3), 3), "0 to 2 sub-operations, got 3"), (((4, 3), 1, 12), "0 to 11, got 12")],
)
def test_reached_channels_refuses_what_is_not_there(arguments, text):
    with pytest.raises(ValueError, match=text):
        explorers.reached_channels(*arguments)


@pytest.mark.parametrize(
    ("dims", "kernels"), [((8, 8), (3, 3, 3)), ((16, 4), ((3, 3, 3), (5, 5, 5))), ((4, 2, 2), (3, 1, 1))]
)
def test_tensor_cost_is_what_the_module_has_and_the_counter_counts(dims, kernels):
    module = CTModule(math.prod(dims), dims, kernels, **PLAIN)
    found = explorers.tensor_cost(dims, kernels, 4, 7)
    assert found.params == sum(parameter.numel() for parameter in module.parameters())
    batch_norms = sum(2 * 4 * 49 * layer.num_features for layer in module.modules() if hasattr(layer, "num_features"))
    products = sum(conv.weight.numel() * 4 * 49 for conv in module.modules() if isinstance(conv, TensorSeparableConv))
    assert found.gflops == pytest.approx((products + batch_norms) / 1e9)


def test_tensor_cost_of_the_dense_convolution_is_c3d_s():
    dense = temporal.C3D(16)
    found = explorers.tensor_cost((4, 4), (3, 3, 3), 4, 7)
    assert found.dense_params == sum(parameter.numel() for parameter in dense.parameters())
    assert found.dense_gflops == pytest.approx((16 * 16 * 27 + 2 * 16) * 4 * 49 / 1e9)
    assert found.share == pytest.approx(100 * found.gflops / found.dense_gflops)


@pytest.mark.parametrize("connection", ["parallel", "serial", "coupling"])
@pytest.mark.parametrize("kernels", [((3, 3, 3),), ((3, 3, 3), (1, 5, 5)), ((5, 1, 1), (3, 3, 3), (1, 3, 3))])
def test_paths_lead_where_the_gradient_does(connection, kernels):
    ways = explorers.paths(kernels, connection)
    module = CTModule(8, (8,) * len(kernels), kernels, connection, **PLAIN)
    field = cost.interact_field(module, 11, 11)
    assert field.box == ways.shape
    start = [(11 - extent) // 2 for extent in ways.shape]
    inside = field.places[tuple(slice(s, s + e) for s, e in zip(start, ways.shape, strict=True))]
    assert (inside.numpy() == (ways > 0)).all() and field.positions == (ways > 0).sum()


def test_paths_count_every_choice_of_steps():
    ways = explorers.paths(((3, 3, 3),) * 2)
    steps = [(0, y, x) for y, x in itertools.product((-1, 0, 1), repeat=2)] + [(t, 0, 0) for t in (-1, 0, 1)]
    counted = np.zeros((5, 5, 5), dtype=int)
    for a, b in itertools.product(steps, repeat=2):
        counted[tuple(2 + np.add(a, b))] += 1
    assert (ways == counted).all() and ways.sum() == 144


@pytest.mark.parametrize(
    ("arguments", "text"), [((((2, 3, 3),),), "odd extents"), ((((3, 3, 3),), "paralel"), "did you mean 'parallel'")]
)
def test_paths_refuses_even_kernels_and_unknown_connections(arguments, text):
    with pytest.raises(ValueError, match=text):
        explorers.paths(*arguments)


def test_manner_is_table_1_s():
    def measured(module):
        return [explorers.manner(part, 8) for part in explorers.parts_of(module)]

    assert measured(temporal.C3D(8)) == ["STC"]
    assert measured(temporal.R2Plus1D(8)) == ["SC", "TC"]
    assert measured(temporal.CSN(8)) == ["C", "ST"]
    assert measured(CTModule(8, **PLAIN)) == ["STC", "STC"]


def test_the_channel_grid_s_view_says_what_is_reached_and_what_it_costs():
    view = explorers.tensorization(12, (4, -1), 1, (3, 3, 3), 2, 5)
    assert view.numbers["C = C_1 x ... x C_K"] == "12 = 4 x 3"
    assert view.numbers["channels that reach one output after 1 of 2"] == "4 of 12"
    assert view.numbers["parameters"] == f"{12 * (4 + 3) * 12 + 2 * 4 * 12:,}"
    assert "4 of them" in view.alt and view.table().shape == (7, 1)
    with pytest.raises(ValueError, match="5 does not divide"):
        explorers.tensorization(12, (5, -1), 1)


def test_the_field_s_view_counts_positions():
    view = explorers.interaction(2, 5, channels=16)  # more sub-operations than there are: all
    assert view.numbers["positions inside it"] == "45 of 125" and view.numbers["channels after 2 of 2"] == "16 of 16"
    assert explorers.interaction(3, 1, connection="serial").numbers["positions inside it"] == "27 of 27"
    assert len(view.figure.axes) == 4


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 5, 5)])
def test_special_cases_are_the_modules_compared_with(kernel):
    for name, build in (("C3D", temporal.C3D), ("R(2+1)D", temporal.R2Plus1D), ("CSN", temporal.CSN)):
        setting = explorers.special_case(name, 8, kernel)
        if kernel == (3, 3, 3):
            assert [p.shape for p in build(8).parameters()] == [
                p.shape for p in CTModule(8, **setting, **PLAIN).parameters()
            ]
        for after, field in enumerate(explorers.fields(CTModule(8, **setting, **PLAIN), 8)):
            numbers = list(explorers.interaction(2, after, kernel, channels=8, module=name).numbers.values())
            assert numbers[0] == f"{field.channels} of 8" and numbers[1] == " x ".join(map(str, field.box))
            assert numbers[2].startswith(f"{field.positions} of ")


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="unknown module 'C3'"):
        explorers.interaction(2, 1, module="C3")


def test_fields_grow_part_by_part():
    def counts(module):
        return [(field.channels, field.box, field.positions) for field in explorers.fields(module, 8)]

    alone, cube = (1, (1, 1, 1), 1), (8, (3, 3, 3), 27)
    assert counts(temporal.C3D(8)) == [alone, cube]
    assert counts(temporal.R2Plus1D(8)) == [alone, (8, (1, 3, 3), 9), cube]
    assert counts(temporal.CSN(8)) == [alone, (8, (1, 1, 1), 1), cube]
    after = [alone, (2, (3, 3, 3), 11), (4, (5, 5, 5), 45), (8, (7, 7, 7), 119)]
    assert counts(CTModule(8, 3, **PLAIN)) == after
    mixed = counts(CTModule(8, 3, excitation="none"))  # the point-wise convolutions let all channels in from the second
    assert [channels for channels, _, _ in mixed] == [1, 2, 8, 8]


def test_table_1_stops_each_module_at_its_last_part():
    modules = {"C3D": temporal.C3D(8), "CT, K = 2": CTModule(8, (4, 2), **PLAIN)}
    measured = {name: explorers.fields(module, 8) for name, module in modules.items()}
    view = explorers.table_1(measured, 2)
    assert view.numbers == {
        "C3D": "channels: 8, positions: 27, box 3 x 3 x 3",
        "CT, K = 2": "channels: 8, positions: 45, box 5 x 5 x 5",
    }
    titles = [axes.get_title() for axes in view.figure.axes]
    assert "C3D\n1 of 1" in titles and "CT, K = 2\n2 of 2" in titles and "45 positions" in titles


def test_animated_views_are_a_picture_a_view():
    from io import BytesIO

    from PIL import Image

    moving = explorers.animated([explorers.interaction(2, after) for after in range(3)])
    assert Image.open(BytesIO(moving.gif)).n_frames == 3


class TestExplorer:
    def explorer(self):
        return explorers.Explorer(
            lambda c_1, after: explorers.tensorization(12, (c_1, -1), after),
            c_1=ipywidgets.IntSlider(4, 1, 12),
            after=ipywidgets.IntSlider(1, 0, 2),
        )

    def test_a_move_redraws_figure_and_numbers(self):
        explorer = self.explorer()
        before, text = explorer.image.value, explorer.text.value
        assert 'src="data:image/png;base64,iVBOR' in before and "12 = 4 x 3" in text
        explorer.controls["c_1"].value = 6
        assert explorer.image.value != before and "12 = 6 x 2" in explorer.text.value
        assert 'alt="Grid of 12 channels as 6 x 2.' in explorer.image.value

    def test_what_cannot_be_is_said_and_the_picture_stays(self):
        explorer = self.explorer()
        before = explorer.image.value
        explorer.controls["c_1"].value = 5
        assert "Not possible" in explorer.text.value and "5 does not divide" in explorer.text.value
        assert explorer.image.value == before
        explorer.controls["c_1"].value = 3
        assert "Not possible" not in explorer.text.value

    def test_its_static_picture_carries_the_text_for_who_cannot_see_it(self, monkeypatch):
        shown = []
        monkeypatch.setattr(explorers, "display", lambda data, metadata, raw: shown.append((data, metadata)))
        self.explorer().show()
        ((data, metadata),) = shown
        assert "application/vnd.jupyter.widget-view+json" in data and data["image/png"].startswith("iVBOR")
        assert metadata["image/png"]["alt"].startswith("Grid of 12 channels")


def test_torch_is_left_as_it_was():
    state = torch.get_rng_state()
    explorers.interaction(2, 1)
    assert torch.equal(state, torch.get_rng_state())
