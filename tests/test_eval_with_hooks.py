import pytest
import torch
from torch import nn

from ctlib.cost import eval_with_hooks


def network():
    layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    layers[1].eval()  # frozen, as some train them
    return layers


def test_inside_it_is_in_evaluation_mode_and_heard_and_after_it_is_as_it_was():
    layers, heard = network(), []
    with eval_with_hooks(layers, {layers[0]: lambda _layer, _inputs, output: heard.append(output)}):
        assert not any(layer.training for layer in layers.modules())
        layers(torch.ones(3, 2))
    assert len(heard) == 1 and heard[0].shape == (3, 2)
    assert [layer.training for layer in layers] == [True, False, True] and layers.training
    assert not layers[0]._forward_hooks


def test_an_error_inside_leaves_nothing_behind():
    layers = network()
    with pytest.raises(KeyError), eval_with_hooks(layers, {layers[0]: print}):
        raise KeyError
    assert layers.training and not layers[0]._forward_hooks
