"""What an exercise of the teaching notebooks is, and how an answer to one is judged."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real


class NotYet(Exception):
    """An answer that is not right, and why."""


class Answers(dict):
    """The names that a reader's cell sets, with their values; one that it does not set raises NotYet."""

    def __missing__(self, name):
        raise NotYet(f"{name!r} is not there: run the cell above first")


@dataclass(frozen=True)
class Exercise:
    """A question; the code that answers it; a function that judges an answer.

    In `solution`, a line that ends in `# to fill in` is what the reader writes; `# to mend: x` gives them
    x in its place. `check` takes the names that the cell sets, returns what a right answer shows, and raises
    `NotYet` with what is wrong with any other.
    """

    level: str  # recall, predict, apply, build, repair or open
    question: str  # markdown
    solution: str  # code
    check: Callable[[dict], str]


def given(value):
    """`value`, unless it is still blank. Raises NotYet."""
    if value is ... or (isinstance(value, (tuple, list)) and any(part is ... for part in value)):
        raise NotYet("It is still blank: replace the dots")
    if value is None:
        raise NotYet("It is None: a function needs a `return`")
    return value


def plain(value):
    """Numbers and tuples of them, whatever held them: a list, a range, an array, a tensor, a scalar of NumPy."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, (tuple, list, range)) else value


def same(value, right) -> bool:
    """Whether two answers are equal, part by part; numbers up to what 32 bits leave of them."""
    value, right = plain(value), plain(right)
    if isinstance(value, tuple) and isinstance(right, tuple):
        return len(value) == len(right) and all(map(same, value, right))
    if isinstance(value, Real) and isinstance(right, Real):
        return math.isclose(value, right, rel_tol=1e-5)
    return value == right


def expect(value, right, mistakes: dict, otherwise: str) -> None:
    """Raise NotYet unless `value` is `right`; `mistakes` says what known wrong values come from."""
    value = plain(given(value))
    if not same(value, right):
        known = (why for mistake, why in mistakes.items() if same(value, mistake))
        raise NotYet(next(known, otherwise.format(value=value)))
