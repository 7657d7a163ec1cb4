"""The actions of Arrow of Time, in pairs: the second of a pair is the first played backwards.

An action maps its progress to the poses of one or two objects. What must be seen to tell a pair apart differs: a motion
within a few frames, a far jump, the order of two events, which of two objects does what, a change of pace, a detail.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ctlib.config import check_choice
from ctlib.data.drawing import pose

Poses = list[np.ndarray]  # of each object, (n, 6) as `drawing.pose` gives; back to front


class Action(NamedTuple):
    """A pair of classes, and how it is drawn."""

    forward: str  # name of the class
    backward: str  # of the class that is the same clips played backwards
    needs: str  # what must be seen to tell the two apart
    # Progress (n,) from 0 to 1, random numbers, and how plain the action is (1: as plain as can be) -> poses.
    poses: Callable[[np.ndarray, np.random.Generator, float], Poses]
    power: float  # a test clip is as plain as a training clip, to this power: the higher, the more are hardly seen


def _place(rng, room: float = 0.22) -> np.ndarray:
    return rng.uniform(-room, room, 2)


def _path(s, rng, extent, angle):
    """Positions along a line of length `extent` in direction `angle` through a random place."""
    room = max(0.0, 0.38 - extent / 2)
    along, across = rng.uniform(-room, room), rng.uniform(-0.12, 0.12)
    x, y = (s - 0.5) * extent + along, across
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def _bump(s: np.ndarray, start: float, end: float) -> np.ndarray:
    """From 0 to 1 and back between two times of progress: the same forwards and backwards."""
    return np.sin(math.pi * np.clip((s - start) / (end - start), 0, 1))


def _push(s, rng, plain):
    x, y = _path(s, rng, 0.6 * plain, 0.0)
    return [pose(s, x, y)]


def _fall(s, rng, plain):
    x, y = _path(s, rng, 0.6 * plain, math.pi / 2)
    return [pose(s, x, y)]


def _grow(s, rng, plain):
    scale = 0.7 * (1 + 1.2 * plain) ** s
    return [pose(s, *_place(rng), scale, scale)]


def _turn(s, rng, plain):
    """A long thing that leans to the right or the left of upright, and never lies flat."""
    extent = math.radians(110) * plain
    angle = rng.uniform(math.radians(-60), math.radians(60) - extent)
    return [pose(s, *_place(rng), 0.65, 1.9, angle + s * extent)]


def _appear(s, rng, plain):
    return [pose(s, *_place(rng), opacity=1 - plain * (1 - s))]


def _meet(s, rng, plain):
    angle, (x, y) = rng.uniform(0, math.pi), _place(rng, 0.1)
    gap = 0.14 + (1 - s) * 0.22 * plain
    dx, dy = gap * math.cos(angle), gap * math.sin(angle)
    return [pose(s, x + dx, y + dy, 0.8, 0.8), pose(s, x - dx, y - dy, 0.8, 0.8)]


def _cover(s, rng, plain):
    angle, (x, y) = rng.uniform(0, 2 * math.pi), _place(rng, 0.1)
    gap = (1 - s) * 0.5 * plain
    return [pose(s, x, y), pose(s, x + gap * math.cos(angle), y + gap * math.sin(angle), 1.15, 1.15)]


def _stretch(s, rng, plain):
    return [pose(s, *_place(rng), 0.8 * (1 + 1.7 * plain) ** s, 0.8, rng.uniform(0, math.pi))]


def _hop(s, rng, plain):
    """Three places, each at another height."""
    x, step, y = rng.uniform(-0.12, 0.12), 0.02 + 0.22 * plain, rng.uniform(-0.25, 0.25, 3)
    hops = np.minimum(np.floor(3 * s), 2).astype(int)
    return [pose(s, x + step * (hops - 1), y[hops], 0.8, 0.8)]


def _order(s, rng, plain):
    scale = 1 + 0.7 * plain * _bump(s, 0.62, 1.0)
    return [pose(s, *_place(rng), scale, scale, opacity=1 - 0.9 * plain * _bump(s, 0.0, 0.38))]


def _first(s, rng, plain):
    """Two objects beside each other, of which each moves away and back."""
    beside, (x, y), away = rng.uniform(0, 2 * math.pi), _place(rng, 0.08), rng.uniform(0, 2 * math.pi, 2)
    moved = [0.42 * plain * _bump(s, 0.0, 0.45), 0.42 * plain * _bump(s, 0.55, 1.0)]
    dx, dy = 0.19 * math.cos(beside), 0.19 * math.sin(beside)
    large = pose(s, x + dx + moved[0] * math.cos(away[0]), y + dy + moved[0] * math.sin(away[0]), 1.15, 1.15)
    small = pose(s, x - dx + moved[1] * math.cos(away[1]), y - dy + moved[1] * math.sin(away[1]), 0.65, 0.65)
    return [large, small]


def _pass(s, rng, plain):
    """Two things that change sides, the larger in front."""
    (x, y), extent, across = _place(rng, 0.1), 0.05 + 0.5 * plain, rng.uniform(-0.08, 0.08)
    behind = pose(s, x + (0.5 - s) * extent, y - across, 0.7, 0.7)
    return [behind, pose(s, x + (s - 0.5) * extent, y + across, 1.15, 1.15)]


def _speed(s, rng, plain):
    angle = math.radians(rng.choice((45, 135, 225, 315)) + rng.uniform(-15, 15))
    x, y = _path(s ** (1 + 2.2 * plain), rng, 0.6, angle)
    return [pose(s, x, y)]


def _mark(s, rng, plain):
    """A mark on the upper half of a thing's rim."""
    (x, y), extent = _place(rng, 0.18), math.radians(130) * plain
    angle = rng.uniform(math.radians(-155), math.radians(-25) - extent) + s * extent
    return [pose(s, x, y, 1.25, 1.25), pose(s, x + 0.17 * np.cos(angle), y + 0.17 * np.sin(angle), 0.6, 0.6)]


MOTION = "motion within a few frames"
# Their powers were set on lists of other seeds than the study's: see results/ablations/plan.md.
ACTIONS: dict[str, Action] = {
    "push": Action("Pushing something from left to right", "Pushing something from right to left", MOTION, _push, 2.2),
    "fall": Action("Something falling down", "Something rising up", MOTION, _fall, 2.0),
    "grow": Action("Something growing", "Something shrinking", MOTION, _grow, 1.9),
    "turn": Action("Turning something clockwise", "Turning something counter-clockwise", MOTION, _turn, 2.5),
    "appear": Action("Something appearing", "Something disappearing", MOTION, _appear, 2.4),
    "meet": Action("Two things coming together", "Two things moving apart", MOTION, _meet, 2.2),
    "cover": Action("Covering something", "Uncovering something", MOTION, _cover, 1.3),
    "stretch": Action("Stretching something", "Squeezing something", MOTION, _stretch, 3.0),
    "hop": Action("Hopping from left to right", "Hopping from right to left", "wide field", _hop, 4.5),
    "order": Action("Fading, then swelling", "Swelling, then fading", "long order", _order, 2.2),
    "first": Action("The larger one moving first", "The smaller one moving first", "conjunction", _first, 1.2),
    "pass": Action(
        "Passing in front from left to right", "Passing in front from right to left", "conjunction", _pass, 1.7
    ),
    "speed": Action("Something speeding up", "Something slowing down", "change of pace", _speed, 2.5),
    "mark": Action("A mark turning clockwise", "A mark turning counter-clockwise", "fine detail", _mark, 4.0),
}
EASY = ("push", "fall", "grow", "turn", "appear", "meet", "cover", "order")  # the quickstart's
SETS = {"easy": EASY, "all": tuple(ACTIONS)}


def choose(actions: str | tuple[str, ...]) -> tuple[Action, ...]:
    """The actions that a name of `SETS` or names of `ACTIONS` mean, in the order given.

    Raises:
        ValueError: an unknown name, none, or one named twice.
    """
    if isinstance(actions, str):
        check_choice("set of actions", actions, SETS)
        actions = SETS[actions]
    for name in actions:
        check_choice("action", name, ACTIONS)
    if not actions or len(set(actions)) < len(actions):
        raise ValueError(f"actions must be at least one, each named once, got {actions}")
    return tuple(ACTIONS[name] for name in actions)


def class_names(actions: str | tuple[str, ...]) -> tuple[str, ...]:
    """Two for each action: class 2j is action j, class 2j + 1 the same played backwards. Raises as `choose`."""
    return tuple(name for action in choose(actions) for name in (action.forward, action.backward))
