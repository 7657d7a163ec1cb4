import copy
import itertools

import numpy as np
import pytest
import torch

from ctlib import cost
from ctlib.ct_module import CTModule
from ctlib.teaching import lesson2

PLAIN = {"pointwise": False, "excitation": "none"}


def special(name, channels=8, kernel=(3, 3, 3)):
    return CTModule(channels, *lesson2.special_case(name, channels, kernel), "coupling", **PLAIN)


@pytest.mark.parametrize("connection", ["parallel", "serial", "coupling"])
@pytest.mark.parametrize("kernels", [((3, 3, 3),), ((3, 3, 3), (1, 5, 5)), ((5, 1, 1), (3, 3, 3), (1, 3, 3))])
def test_paths_lead_where_the_gradient_does(connection, kernels):
    ways = lesson2.paths(kernels, connection)
    module = CTModule(8, (8,) * len(kernels), kernels, connection, **PLAIN)
    field = cost.interact_field(module, 11, 11)
    assert field.box == ways.shape
    start = [(11 - extent) // 2 for extent in ways.shape]
    inside = field.places[tuple(slice(s, s + e) for s, e in zip(start, ways.shape, strict=True))]
    assert (inside.numpy() == (ways > 0)).all() and field.positions == (ways > 0).sum()


def test_paths_count_every_choice_of_steps():
    ways = lesson2.paths(((3, 3, 3),) * 2)
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
        lesson2.paths(*arguments)


def test_manner_is_table_1_s():
    def measured(module):
        return [lesson2.manner(part, 8) for part in module.sub_operations]

    assert measured(special("C3D")) == ["STC"]
    assert measured(special("R(2+1)D")) == ["SC", "TC"]
    assert measured(special("CSN")) == ["C", "ST"]
    assert measured(CTModule(8, **PLAIN)) == ["STC", "STC"]


def test_the_view_counts_positions():
    view = lesson2.interaction(2, 5, channels=16)  # more sub-operations than there are: all
    assert view.numbers["positions inside it"] == "45 of 125" and view.numbers["channels after 2 of 2"] == "16 of 16"
    assert lesson2.interaction(3, 1, connection="serial").numbers["positions inside it"] == "27 of 27"
    assert len(view.figure.axes) == 2 and view.figure.axes[1].get_title() == "45 positions in frames -2 to 2"
    assert lesson2.interaction(2, 0).figure.axes[1].get_title() == "1 position in frames -2 to 2"


def fields(module, channels):
    """What reaches one output after 0, 1, 2, ..., K sub-operations, each measured by gradient."""
    for after in range(len(module.sub_operations) + 1):
        partial = copy.deepcopy(module)
        partial.sub_operations, partial.dims = partial.sub_operations[:after], partial.dims[:after]
        partial.pointwise = partial.pointwise[: max(after - 1, 0)]  # one between two sub-operations
        yield cost.interact_field(partial, 11, 11, channels)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 5, 5)])
def test_the_explorer_s_numbers_are_measured_for_the_special_cases(kernel):
    for name in ("C3D", "R(2+1)D", "CSN"):
        for after, field in enumerate(fields(special(name, kernel=kernel), 8)):
            numbers = list(lesson2.interaction(2, after, kernel, channels=8, module=name).numbers.values())
            assert numbers[0] == f"{field.channels} of 8" and numbers[1] == " x ".join(map(str, field.box))
            assert numbers[2].startswith(f"{field.positions} of ")


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="unknown module 'C3'"):
        lesson2.interaction(2, 1, module="C3")


def test_fields_grow_part_by_part():
    def counts(module):
        return [(field.channels, field.box, field.positions) for field in fields(module, 8)]

    alone, cube = (1, (1, 1, 1), 1), (8, (3, 3, 3), 27)
    assert counts(special("C3D")) == [alone, cube]
    assert counts(special("R(2+1)D")) == [alone, (8, (1, 3, 3), 9), cube]
    assert counts(special("CSN")) == [alone, (8, (1, 1, 1), 1), cube]
    after = [alone, (2, (3, 3, 3), 11), (4, (5, 5, 5), 45), (8, (7, 7, 7), 119)]
    assert counts(CTModule(8, 3, **PLAIN)) == after
    mixed = counts(CTModule(8, 3, excitation="none"))  # the point-wise convolutions let all channels in from the second
    assert [channels for channels, _, _ in mixed] == [1, 2, 8, 8]


def test_the_explorer_sets_every_argument():
    explorer = lesson2.opening()
    explorer.controls["module"].value, explorer.controls["done"].value = "R(2+1)D", 1
    assert explorer.picture.alt == lesson2.interaction(2, 1, channels=64, module="R(2+1)D").alt


def test_torch_is_left_as_it_was():
    state = torch.get_rng_state()
    lesson2.interaction(2, 1)
    assert torch.equal(state, torch.get_rng_state())
