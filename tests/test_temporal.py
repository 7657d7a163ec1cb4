"""C3D, R(2+1)D and CSN are the CT-Module with other hyper-parameters (section 3.3, Discussion)."""

import pytest
import torch
from torch import nn

from ctlib.ct_module import CTModule
from ctlib.temporal import MODULES

C = 12
# K, C_k and kernel of each: the three hyper-parameters that the paper names.
SPECIAL_CASES = {
    "c3d": {"dims": 1, "kernels": (3, 3, 3)},
    "r2plus1d": {"dims": (C, C), "kernels": ((1, 3, 3), (3, 1, 1))},
    "csn": {"dims": (C, 1), "kernels": ((1, 1, 1), (3, 3, 3))},
}
# The same as plain layers: channels in, channels out, kernel, groups.
PLAIN = {
    "c3d": [((3, 3, 3), 1)],
    "r2plus1d": [((1, 3, 3), 1), ((3, 1, 1), 1)],
    "csn": [((1, 1, 1), 1), ((3, 3, 3), C)],
}


def plain(name):
    layers = []
    for kernel, groups in PLAIN[name]:
        padding = tuple(extent // 2 for extent in kernel)
        conv = nn.Conv3d(C, C, kernel, padding=padding, groups=groups, bias=False)
        layers += [conv, nn.BatchNorm3d(C), nn.ReLU()]
    return nn.Sequential(*layers)


def randomise(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)


def copy_weights(source, target):
    values = list(source.state_dict().values())
    keys = list(target.state_dict())
    assert [value.shape for value in values] == [value.shape for value in target.state_dict().values()]
    target.load_state_dict(dict(zip(keys, values, strict=True)))


@pytest.mark.parametrize("name", SPECIAL_CASES)
@pytest.mark.parametrize("training", [True, False])
def test_each_is_a_special_case_of_the_ct_module(name, training):
    torch.manual_seed(0)
    drop_in = MODULES[name](C).double().train(training)
    randomise(drop_in)
    parts = {**SPECIAL_CASES[name], "connection": "coupling", "pointwise": False, "excitation": "none"}
    special = CTModule(C, **parts).double().train(training)
    layers = plain(name).double().train(training)
    copy_weights(drop_in, special)
    copy_weights(drop_in, layers)
    clips = torch.randn(2, C, 5, 6, 8, dtype=torch.double)
    torch.testing.assert_close(drop_in(clips), special(clips), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(drop_in(clips), layers(clips), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODULES)
def test_channels_may_change_and_every_parameter_is_trained(name):
    torch.manual_seed(0)
    module = MODULES[name](8, 12)
    out = module(torch.randn(2, 8, 3, 6, 4))
    assert out.shape == (2, 12, 3, 6, 4)
    (out * torch.randn_like(out)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
