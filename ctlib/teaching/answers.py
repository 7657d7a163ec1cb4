"""What an exercise of the teaching notebooks is, and how an answer to one is judged."""

from collections.abc import Callable
from dataclasses import dataclass


class NotYet(Exception):
    """An answer that is not right, and why."""


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


def expect(value, right, mistakes: dict, otherwise: str) -> None:
    """Raise NotYet unless `value` is `right`; `mistakes` says what known wrong values come from."""
    value = given(value)
    if value != right:
        known = (why for mistake, why in mistakes.items() if mistake == value)
        raise NotYet(next(known, otherwise.format(value=value)))
