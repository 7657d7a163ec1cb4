import pytest
import torch

from ctlib.excitation import EXCITATIONS, NoExcitation, SqueezeExcitation, TensorExcitation


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(2, 16, 4, 6, 8)


def positive(gate):
    """The gate with weights above 0, so that no ReLU hides what it depends on."""
    for conv in (gate.reduce, gate.expand):
        conv.weight.data.abs_()
    return gate


BRANCHES = {"spatial": (2, 16, 1, 6, 8), "temporal": (2, 16, 4, 1, 1), "channel": (2, 16, 4, 1, 1)}


@pytest.mark.parametrize("branch", BRANCHES)
def test_gates_lie_between_0_and_1_and_keep_what_they_do_not_pool(features, branch):
    gate = getattr(TensorExcitation(16, 4), branch)
    attention = gate.attention(features)
    assert attention.shape == BRANCHES[branch]
    assert attention.min() > 0 and attention.max() < 1
    torch.testing.assert_close(gate(features), features * attention)


@pytest.mark.parametrize("name", EXCITATIONS)
def test_an_open_gate_leaves_the_features_as_they_are(features, name, monkeypatch):
    excitation = EXCITATIONS[name](16, 4)
    for branch in BRANCHES:
        gate = getattr(excitation, branch)
        if hasattr(gate, "attention"):
            monkeypatch.setattr(gate, "attention", lambda x: torch.ones_like(x))
        assert torch.equal(gate(features), features)


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_gate_depends_on_its_own_sub_dimension_alone(features, branch):
    gate = positive(getattr(TensorExcitation(16, 4), branch).eval())
    features = features.abs()
    other = features.clone()
    other[:, 6] += 1  # of the group of channels 4 to 7
    changed = (gate.attention(features) != gate.attention(other)).flatten(2).any(2)[0]
    assert changed.nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_what_each_branch_can_see(features):
    features, excitation = features.abs(), TensorExcitation(16, 4).eval()
    reversed_in_time = features.flip(2)
    torch.testing.assert_close(
        excitation.spatial.attention(features), excitation.spatial.attention(reversed_in_time)
    )  # the mean over time has no order
    moved = features.roll(1, dims=4)
    torch.testing.assert_close(excitation.temporal.attention(features), excitation.temporal.attention(moved))
    # The temporal gate's two convolutions look two frames away, the channel gate at one frame.
    later = features.clone()
    later[:, :, 3] += 1
    for branch, frames in (("temporal", [1, 2, 3]), ("channel", [3])):
        gate = positive(getattr(excitation, branch))
        changed = (gate.attention(features) != gate.attention(later)).transpose(1, 2).flatten(2).any(2)[0]
        assert changed.nonzero().flatten().tolist() == frames


@pytest.mark.parametrize(
    ("channels", "size", "reduction"),
    [(64, 16, 4), (16, 8, 4), (16, 4, 2), (18, 6, 3), (16, 2, 1), (16, 1, 1), (35, 7, 1)],
)
def test_the_reduction_is_the_largest_up_to_4_that_divides_the_size_and_leaves_two_channels(channels, size, reduction):
    assert TensorExcitation(channels, size).spatial.reduce.out_channels == channels // reduction


def test_squeeze_and_excitation_sits_at_the_end_and_sees_all_channels(features):
    excitation = SqueezeExcitation(16, 4)
    assert torch.equal(excitation.spatial(features), features)
    attention = excitation.channel.attention(features)
    assert attention.shape == (2, 16, 1, 1, 1)
    assert attention.min() > 0 and attention.max() < 1
    assert not SqueezeExcitation.gates_branches and not NoExcitation.gates_branches and TensorExcitation.gates_branches
