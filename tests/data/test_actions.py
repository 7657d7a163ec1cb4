import math

import numpy as np
import pytest

from ctlib.data.actions import ACTIONS, EASY, choose, class_names

S = np.linspace(0, 1, 49)


def drawn(name, seed=0, plain=1.0):
    return ACTIONS[name].poses(S, np.random.default_rng(seed), plain)


def angles(poses, centre):
    return np.unwrap(np.arctan2(poses[:, 1] - centre[1], poses[:, 0] - centre[0]))


@pytest.mark.parametrize("seed", range(5))
def test_what_moves_does_what_the_first_class_says(seed):
    (pushed,), (falling,), (turning,) = drawn("push", seed), drawn("fall", seed), drawn("turn", seed)
    assert (np.diff(pushed[:, 0]) > 0).all() and np.ptp(pushed[:, 1]) < 1e-9
    assert (np.diff(falling[:, 1]) > 0).all() and np.ptp(falling[:, 0]) < 1e-9
    assert (np.diff(turning[:, 4]) > 0).all()
    growing, stretched, appearing = (drawn(name, seed)[0] for name in ("grow", "stretch", "appear"))
    assert (np.diff(growing[:, 2:4], axis=0) > 0).all()
    assert (np.diff(stretched[:, 2]) > 0).all() and np.ptp(stretched[:, 3]) == 0
    assert (np.diff(appearing[:, 5]) > 0).all() and appearing[-1, 5] == 1
    for name in ("meet", "cover"):
        one, other = drawn(name, seed)
        assert (np.diff(np.hypot(*(one - other)[:, :2].T)) < 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_hop_is_one_sudden_step_to_the_right(seed):
    (hopping,) = drawn("hop", seed)
    steps = np.diff(hopping[:, 0])
    assert np.unique(steps.round(9)).tolist() == [0, 0.24] and np.count_nonzero(steps) == 2


@pytest.mark.parametrize("seed", range(5))
def test_of_two_events_each_is_the_same_backwards_and_only_their_order_differs(seed):
    (thing,) = drawn("order", seed)
    faded, swollen = thing[:, 5] < 0.999, thing[:, 2] > 1.001
    assert faded.any() and swollen.any() and S[faded].max() + 0.2 < S[swollen].min()  # with a pause between
    fading = thing[faded, 5]
    assert np.allclose(fading, fading[::-1], atol=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_the_larger_one_moves_first_and_both_return(seed):
    large, small = drawn("first", seed)
    assert large[0, 2] > 1.5 * small[0, 2]
    moved = [np.hypot(*(one - one[0])[:, :2].T) > 1e-6 for one in (large, small)]
    assert S[moved[0]].max() < S[moved[1]].min()
    assert np.allclose(large[0], large[-1]) and np.allclose(small[0], small[-1])


@pytest.mark.parametrize("seed", range(5))
def test_the_one_in_front_passes_to_the_right(seed):
    behind, front = drawn("pass", seed)
    assert (np.diff(front[:, 0]) > 0).all() and (np.diff(behind[:, 0]) < 0).all()
    assert front[0, 0] < behind[0, 0] and front[-1, 0] > behind[-1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_speeding_up_is_along_a_line_and_ever_faster(seed):
    (thing,) = drawn("speed", seed)
    steps = np.hypot(*np.diff(thing[:, :2], axis=0).T)
    assert (np.diff(steps) > 0).all() and math.isclose(steps.sum(), 0.6)
    slope = np.degrees(np.arctan2(*(thing[-1] - thing[0])[1::-1])) % 90
    assert 30 <= slope <= 60  # diagonal: it is no push and no fall


@pytest.mark.parametrize("seed", range(5))
def test_the_mark_goes_round_on_a_still_object(seed):
    thing, mark = drawn("mark", seed)
    assert np.ptp(thing, axis=0).max() == 0
    turned = np.degrees(np.diff(angles(mark, thing[0]))[[0, -1]])
    assert (turned > 0).all() and (mark[:, 1] < thing[:, 1]).all()  # on its upper half
    assert mark[0, 2] < 0.5 * thing[0, 2]


@pytest.mark.parametrize("name", ACTIONS)
def test_a_less_plain_action_changes_less_from_frame_to_frame(name):
    """Except the change of pace, whose way stays as long."""
    full, faint = (sum(np.abs(np.diff(one, axis=0)).sum() for one in drawn(name, 0, plain)) for plain in (1.0, 0.3))
    assert faint < full or name == "speed"


def test_actions_are_chosen_by_name():
    assert len(choose("all")) == len(ACTIONS) >= 12 and choose("easy") == choose(EASY)
    assert class_names(("fall", "mark")) == (*ACTIONS["fall"][:2], *ACTIONS["mark"][:2])
    assert len(set(class_names("all"))) == 2 * len(ACTIONS)


@pytest.mark.parametrize(
    ("actions", "text"),
    [
        ("hard", "unknown set of actions 'hard'"),
        (("fall", "trun"), "unknown action 'trun': did you mean 'turn'"),
        ((), "actions must be at least one, each named once"),
        (("fall", "fall"), "actions must be at least one, each named once"),
    ],
)
def test_unknown_actions_are_refused(actions, text):
    with pytest.raises(ValueError, match=text):
        choose(actions)
