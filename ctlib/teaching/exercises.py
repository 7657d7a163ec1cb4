"""Exercises of the teaching notebooks: blank cells made from the solutions, and checks that say what is wrong.

An exercise stands in `exercises_tensors` (notebooks 1 and 2) or `exercises_networks` (3 to 5), once. A teacher's copy
of a notebook, with the solutions in it; and the notebook's own exercises made anew and blank, after one was changed:

    python -m ctlib.teaching.exercises notebooks/1_channel_tensorization.ipynb solved.ipynb
    python -m ctlib.teaching.exercises --blank notebooks/1_channel_tensorization.ipynb
"""

import argparse
import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from ctlib.config import check_choice
from ctlib.teaching import exercises_networks, exercises_tensors
from ctlib.teaching.answers import Answers, NotYet

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
        return f"Exercise {name}: right. {BOOK[name].check(Answers(answers))}"
    except NotYet as wrong:
        return f"Exercise {name}: not yet. {wrong}"
    except Exception as error:  # whatever a reader's code raises is an answer too
        frames = traceback.walk_tb(error.__traceback__)
        theirs = any(frame.f_globals is answers for frame, _ in frames)  # else the check stumbles over what it is given
        what = "Your code raises" if theirs else "The check cannot use your answer:"
        return f"Exercise {name}: not yet. {what} {type(error).__name__}: {error}"


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


def main(arguments: Sequence[str] | None = None) -> None:
    """The command at the top of this file. Raises SystemExit, with one line, if it cannot be done."""
    import nbformat  # only here: a library of the tests and of Jupyter
    from jsonschema import ValidationError

    parser = argparse.ArgumentParser(prog="python -m ctlib.teaching.exercises", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("solved", type=Path, nargs="?", help="the copy that is written, with the solutions in it")
    parser.add_argument("--blank", action="store_true", help="make the notebook's own exercises anew, blank")
    options = parser.parse_args(arguments)
    source, target = options.notebook, options.solved
    if options.blank == (target is not None):
        parser.error("give either SOLVED, the copy to write, or --blank")
    if target is not None and target.resolve() == source.resolve():
        raise SystemExit(f"{target} is the blank notebook itself: give the copy another name")
    try:
        notebook = nbformat.read(source, 4)
        nbformat.write(fill(notebook, solved=not options.blank), target or source)
    except (OSError, ValueError, ValidationError) as error:  # no such file, no such folder, or no notebook
        raise SystemExit(f"{type(error).__name__}: {str(error).splitlines()[0]}") from None


if __name__ == "__main__":
    main()
