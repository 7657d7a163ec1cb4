import math

import numpy as np
import pytest

from ctlib import cost
from ctlib.ct_module import CTModule, special_case
from ctlib.teaching import lesson1
from ctlib.tensorize import TensorSeparableConv

PLAIN = {"pointwise": False, "excitation": "none"}


@pytest.mark.parametrize("dims", [(4, 4), (6, 2), (2, 3, 2), (12,)])
def test_reached_channels_are_those_that_the_module_s_gradient_finds(dims):
    channels = math.prod(dims)
    module = CTModule(channels, dims, **PLAIN)
    assert lesson1.reached_channels(dims, len(dims)).sum() == cost.interact_field(module, 3, 3).channels == channels
    first = cost.interact_field(module.sub_operations[0], 3, 3)
    assert (first.reached.flatten(1).any(1).numpy() == lesson1.reached_channels(dims, 1)).all()


def test_reached_channels_before_any_sub_operation_is_the_output_itself():
    assert np.flatnonzero(lesson1.reached_channels((4, 3), 0)).tolist() == [0]
    assert np.flatnonzero(lesson1.reached_channels((2, 3, 2), 2)).tolist() == [0, 1, 2, 3, 4, 5]


def test_reached_channels_refuses_more_sub_operations_than_there_are():
    with pytest.raises(ValueError, match="0 to 2 sub-operations, got 3"):
        lesson1.reached_channels((4, 3), 3)


@pytest.mark.parametrize(("dims", "kernel"), [((8, 8), (3, 3, 3)), ((16, 4), (3, 5, 5)), ((4, 2, 2), (3, 1, 1))])
def test_tensor_cost_is_what_the_module_has_and_the_counter_counts(dims, kernel):
    module = CTModule(math.prod(dims), dims, kernel, **PLAIN)
    counted = lesson1.tensor_cost(dims, kernel, 4, 7)
    assert counted.params == sum(parameter.numel() for parameter in module.parameters())
    batch_norms = sum(2 * 4 * 49 * layer.num_features for layer in module.modules() if hasattr(layer, "num_features"))
    products = sum(conv.weight.numel() * 4 * 49 for conv in module.modules() if isinstance(conv, TensorSeparableConv))
    assert counted.gflops == pytest.approx((products + batch_norms) / 1e9)


def test_tensor_cost_of_the_dense_convolution_is_c3d_s():
    dense = special_case("c3d", 16)
    counted = lesson1.tensor_cost((4, 4), (3, 3, 3), 4, 7)
    assert counted.dense_params == sum(parameter.numel() for parameter in dense.parameters())
    assert counted.dense_gflops == pytest.approx((16 * 16 * 27 + 2 * 16) * 4 * 49 / 1e9)
    assert counted.share == pytest.approx(100 * counted.gflops / counted.dense_gflops)


def test_the_channel_grid_s_view_says_what_is_reached_and_what_it_costs():
    view = lesson1.tensorization(12, (4, -1), 1, (3, 3, 3), 2, 5)
    assert view.numbers["C = C_1 x ... x C_K"] == "12 = 4 x 3"
    assert view.numbers["channels reached after 1 of 2"] == "4 of 12"
    assert view.numbers["parameters"] == f"{12 * (4 + 3) * 12 + 2 * 4 * 12:,}"
    assert "4 of them" in view.alt and len(view.numbers) == 7
    with pytest.raises(ValueError, match="5 does not divide"):
        lesson1.tensorization(12, (5, -1), 1)


def test_no_line_hides_the_cells_of_a_large_grid():
    (axes,) = lesson1.tensorization(512, (1, 2, -1), 3).figure.axes
    assert len(axes.lines) == 255 and max(line.get_linewidth() for line in axes.lines) < 0.2
    assert axes.collections[0].get_linewidth() == 0 and not axes.texts


@pytest.mark.parametrize("operation", lesson1.OPERATIONS)
def test_the_block_shows_the_inputs_that_the_module_s_output_depends_on(operation):
    view = lesson1.passing(operation, channel=0, frame=3, shape=(5, 5, 5))
    module = CTModule(6, (3, 2), **PLAIN)
    if operation == "both":
        field = cost.interact_field(module, 5, 5, 6)
    else:
        field = cost.interact_field(module.sub_operations[operation == "along c_2"], 5, 5, 6)
    assert view.numbers["channels summed over"] == f"{field.channels} of 6"
    assert view.numbers["positions summed over"] == f"{field.positions} of 125"


def test_the_block_s_window_is_cut_off_at_the_first_frame():
    assert [lesson1.passing("along c_2", 5, frame).numbers["positions summed over"] for frame in (1, 2, 4)] == [
        "10 of 100", "11 of 100", "10 of 100",
    ]  # fmt: skip
