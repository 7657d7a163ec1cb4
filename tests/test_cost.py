import pytest
import torch
from torch import nn

import ctlib
from ctlib import cost


@pytest.fixture(scope="module")
def ctnet():
    return ctlib.ctnet_r50(num_classes=174, num_frames=8)


def test_ctnet_meets_the_published_cost(ctnet):
    counted = cost.count(ctnet, num_frames=8, size=256)
    assert counted.gflops == pytest.approx(37.3, abs=0.1)  # Table 2g
    assert counted.params == pytest.approx(21.0e6, abs=0.1e6)
    assert cost.count(ctnet, num_frames=8, size=224).gflops == pytest.approx(28.6, abs=0.1)  # Table 2h
    assert cost.count(ctnet, num_frames=16, size=256).gflops == pytest.approx(74.6, abs=0.1)  # Table 4


def test_tsn_meets_the_published_cost():
    counted = cost.count(ctlib.tsn_r50(num_classes=174, num_frames=8))
    assert counted.gflops == pytest.approx(43.0, abs=0.1)  # Table 2g
    assert counted.params == pytest.approx(23.9e6, abs=0.1e6)


@pytest.mark.parametrize(
    ("parts", "gflops"),
    [
        ({"dims": 1, "connection": "coupling", "excitation": "none", "pointwise": False}, 59.9),  # C3D, Table 2a
        ({"dims": 1, "excitation": "none", "pointwise": False}, 45.8),  # Table 2b
        ({"dims": 3, "excitation": "none", "pointwise": False}, 35.7),
        ({"dims": 4, "excitation": "none", "pointwise": False}, 35.6),
        ({"excitation": "none", "pointwise": False}, 36.3),
        ({"excitation": "none", "pointwise": False, "dims": (-1, 4)}, 37.6),  # Table 2d
        ({"excitation": "none", "pointwise": False, "blocks": "all but first"}, 31.5),  # Table 2e
        ({"excitation": "none", "pointwise": False, "blocks": "stage5"}, 41.9),
        ({"excitation": "none", "pointwise": False, "kernels": (5, 5, 5)}, 38.9),  # Table 2f
        ({"excitation": "none"}, 37.2),  # Table 2g
        ({"excitation": "se"}, 37.2),
    ],
)
def test_parts_swapped_meet_the_published_cost(parts, gflops):
    assert cost.count(ctlib.ctnet_r50(num_classes=174, **parts)).gflops == pytest.approx(gflops, abs=0.1)


def test_the_convention_by_hand():
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
