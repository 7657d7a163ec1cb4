"""The exercises of the course: how an answer is judged, and how blank and solved cells are made.

A question stands in its notebook; its solution and its check stand in the lesson's module, where tests run them.
(nbgrader keeps all three in a notebook.) Write a teacher's copy of a notebook with the solutions, or write the
notebook's own exercise cells again, blank, after a solution was changed:

    python -m ctlib.teaching.exercise notebooks/learn/1_channel_tensorization.ipynb solved.ipynb
    python -m ctlib.teaching.exercise --blank notebooks/learn/1_channel_tensorization.ipynb
"""

import argparse
import importlib
import math
import pkgutil
import re
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from numbers import Real
from pathlib import Path

import ctlib.teaching
from ctlib.config import check_choice

_MARK = re.compile(r"  # to (?:fill in|correct: (.+))$")
_TAG = re.compile(r"exercise-(\d\.\d)-(answer|check)")


class NotYet(Exception):
    """An answer is not right; the message says why."""


class Answers(dict):
    """The names that a reader's cell sets, with their values; a missing name raises NotYet."""

    def __missing__(self, name):
        raise NotYet(f"{name!r} is missing: run the cell above first")


def solved_by(solution: str) -> Callable:
    """Give a check, named such as `_check_1_2`, the code that answers its exercise.

    A check takes the names that the answer sets. It returns what a right answer shows and raises `NotYet` otherwise.
    The reader writes the solution's lines that end in `# to fill in`; `# to correct: x` shows them x instead. These are
    of the form `name = value` or `return value`.
    """

    def give(check: Callable[[dict], str]) -> Callable[[dict], str]:
        check.solution = solution.strip()
        return check

    return give


@cache
def exercises() -> dict[str, Callable[[dict], str]]:
    """The checks of all exercises by number, such as "1.2", from the lesson modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(ctlib.teaching.__path__))
    lessons = [importlib.import_module(f"ctlib.teaching.{name}") for name in names if name.startswith("lesson")]
    checks = {name: value for lesson in lessons for name, value in vars(lesson).items() if hasattr(value, "solution")}
    return {name.removeprefix("_check_").replace("_", "."): check for name, check in checks.items()}


def _exercise(number: str) -> Callable[[dict], str]:
    check_choice("exercise", number, exercises())
    return exercises()[number]


def check(number: str, answers: dict) -> str:
    """Say that an answer, the `globals()` of a notebook, is right and what follows, or what is wrong with it."""
    judge = _exercise(number)
    try:
        return f"Exercise {number}: right. {judge(Answers(answers))}"
    except NotYet as reason:
        return f"Exercise {number}: not yet. {reason}"
    except Exception as error:  # a reader's code may raise anything
        frames = traceback.walk_tb(error.__traceback__)
        theirs = any(frame.f_globals is answers for frame, _ in frames)  # code of the notebook is the reader's
        what = "Your code raises" if theirs else "The check cannot use your answer:"
        return f"Exercise {number}: not yet. {what} {type(error).__name__}: {error}"


# ---------------------------------------------------------------- what checks are made of


def given(value):
    """Return `value`. Raise NotYet if it is still blank or None."""
    if _is_blank(value):
        raise NotYet("It is still blank: replace the dots")
    if value is None:
        raise NotYet("It is None: a function needs a `return`")
    return value


def _is_blank(value) -> bool:
    return value is ... or (isinstance(value, (tuple, list)) and any(map(_is_blank, value)))


def plain(value):
    """Numbers and tuples of numbers, from a list, range, array, tensor or NumPy scalar."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, (tuple, list, range)) else value


def same(value, right) -> bool:
    """Whether two answers are equal part by part, numbers to five digits."""
    value, right = plain(value), plain(right)
    if isinstance(value, tuple) and isinstance(right, tuple):
        return len(value) == len(right) and all(map(same, value, right))
    if isinstance(value, bool) or isinstance(right, bool):
        return value is right
    if isinstance(value, Real) and isinstance(right, Real):
        return math.isclose(value, right, rel_tol=1e-5, abs_tol=1e-8)
    return value == right


def expect(value, right, mistakes: dict, otherwise: str) -> None:
    """Raise NotYet unless `value` is `right`.

    Args:
        mistakes: a known wrong value -> what to say about it.
        otherwise: what to say about any other, with "{value}" in its place.
    """
    value = plain(given(value))
    if not same(value, right):
        known = (why for mistake, why in mistakes.items() if same(value, mistake))
        raise NotYet(next(known, otherwise.format(value=value)))


# ---------------------------------------------------------------- cells of a notebook


def blank(number: str) -> str:
    """The reader's cell: marked lines hold `...`, or the wrong code to correct."""
    lines = []
    for line in _exercise(number).solution.splitlines():
        if mark := _MARK.search(line):
            start = re.match(r"\s*(return|[\w, ]+ =) ", line)
            if start is None:
                raise ValueError(f"exercise {number}: a marked line is `name = value` or `return value`, got {line!r}")
            line = start[0] + (mark[1] or "...")
        lines.append(line)
    return "\n".join(lines)


def solution(number: str) -> str:
    """The same cell with the solution."""
    return "\n".join(_MARK.sub("", line) for line in _exercise(number).solution.splitlines())


def fill(notebook, solved: bool = False):
    """Write the cells with tags such as "exercise-1.2-answer" again, in place, and return the notebook."""
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if match := _TAG.fullmatch(tag):
                number, part = match.groups()
                answer = solution(number) if solved else blank(number)
                cell.source = answer if part == "answer" else f'print(exercise.check("{number}", globals()))'
                cell.outputs, cell.execution_count = [], None
    return notebook


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command at the top of this file. Raises SystemExit with one line if it fails."""
    import nbformat  # only here: it comes with the tests and with Jupyter

    parser = argparse.ArgumentParser(prog="python -m ctlib.teaching.exercise", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("solved", type=Path, nargs="?", help="the copy to write, with the solutions")
    target.add_argument("--blank", action="store_true", help="write the notebook's own exercise cells again, blank")
    options = parser.parse_args(arguments)
    source, target = options.notebook, options.solved
    if target is not None and target.resolve() == source.resolve():
        raise SystemExit(f"{target} is the blank notebook itself: give the copy another name")
    try:
        notebook = nbformat.read(source, 4)
        nbformat.write(fill(notebook, solved=not options.blank), target or source)
    except (OSError, ValueError, nbformat.ValidationError) as error:  # no such file or folder, or not a notebook
        first_line, *_ = str(error).split("\n")
        raise SystemExit(f"{type(error).__name__}: {first_line}") from None


if __name__ == "__main__":
    main()
