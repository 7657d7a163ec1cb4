"""Exercises of the teaching notebooks: blank cells made from the solutions, and checks that say what is wrong.

An exercise stands in `exercises_tensors` (notebooks 1 and 2) or `exercises_networks` (3 to 5), once. A teacher's copy
of a notebook, with the solutions in it:

    python -m ctlib.teaching.exercises notebooks/1_channel_tensorization.ipynb solved.ipynb
"""

import re
import sys

from ctlib.config import check_choice
from ctlib.teaching import exercises_networks, exercises_tensors
from ctlib.teaching.answers import NotYet

BOOK = exercises_tensors.EXERCISES | exercises_networks.EXERCISES

_MARK = re.compile(r"  # to (?:fill in|mend: (.+))$")
_TAG = re.compile(r"exercise-(\d\.\d)-(question|answer|check)")


def blank(name: str) -> str:
    """The cell that a reader gets: the solution with `...`, or what is to be mended, in its marked lines.

    Raises:
        ValueError: there is no such exercise.
    """
    check_choice("exercise", name, BOOK)
    lines = []
    for line in BOOK[name].solution.strip().splitlines():
        if mark := _MARK.search(line):
            line = re.sub(r"^(\s*(?:return|[\w, ]+ =) ).*$", rf"\1{mark[1] or '...'}", line)
        lines.append(line)
    return "\n".join(lines)


def solution(name: str) -> str:
    """The same cell, filled in.

    Raises:
        ValueError: there is no such exercise.
    """
    check_choice("exercise", name, BOOK)
    return "\n".join(_MARK.sub("", line) for line in BOOK[name].solution.strip().splitlines())


def check(name: str, answers: dict) -> str:
    """What there is to say of an answer: that it is right and what follows from it, or what is wrong with it.

    Args:
        name: of the exercise, such as "1.2".
        answers: the names that its cell sets -> their values; a notebook gives its `globals()`.

    Raises:
        ValueError: there is no such exercise.
    """
    check_choice("exercise", name, BOOK)
    try:
        return f"Exercise {name}: right. {BOOK[name].check(answers)}"
    except NotYet as wrong:
        return f"Exercise {name}: not yet. {wrong}"
    except KeyError as missing:
        return f"Exercise {name}: not yet. {missing} is not there: run the cell above first"
    except Exception as error:  # whatever a reader's code raises is an answer too
        return f"Exercise {name}: not yet. Your code raises {type(error).__name__}: {error}"


def cells(name: str) -> dict[str, str]:
    """The three cells of an exercise: "question" (markdown), "answer" and "check" (code) -> their sources."""
    question = f"**Exercise {name}** ({BOOK[name].level}). {BOOK[name].question.strip()}"
    return {"question": question, "answer": blank(name), "check": f'print(exercises.check("{name}", globals()))'}


def fill(notebook, solved: bool = False):
    """Write the exercises' cells of a notebook anew: blank, or with the solutions in them.

    The cells are known by their tags, such as "exercise-1.2-answer".

    Args:
        notebook: of nbformat; changed in place.
        solved: solutions in place of blanks.

    Returns:
        The notebook.
    """
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if found := _TAG.fullmatch(tag):
                name, part = found.groups()
                cell.source = solution(name) if solved and part == "answer" else cells(name)[part]
    return notebook


def main(arguments: list[str]) -> None:
    import nbformat  # only here: a library of the tests and of Jupyter

    if len(arguments) != 2:
        raise SystemExit("usage: python -m ctlib.teaching.exercises NOTEBOOK.ipynb SOLVED.ipynb")
    source, target = arguments
    nbformat.write(fill(nbformat.read(source, 4), solved=True), target)


if __name__ == "__main__":
    main(sys.argv[1:])
