import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ctlib.teaching import exercises
from ctlib.teaching.answers import NotYet, expect, given
from ctlib.tensorize import rotate


def answered(code):
    """The names that an answer sets, in a notebook that has imported what its own do."""
    names = {"rotate": rotate, "torch": torch}
    exec(code, names)
    return names


@pytest.mark.parametrize("name", exercises.BOOK)
class TestEach:
    def test_the_solution_passes_its_check(self, name):
        assert exercises.check(name, answered(exercises.solution(name))).startswith(f"Exercise {name}: right. ")

    def test_the_blank_cell_fails_it_and_runs(self, name):
        said = exercises.check(name, answered(exercises.blank(name)))
        assert said.startswith(f"Exercise {name}: not yet. ")
        assert "still blank" in said or "..." not in exercises.blank(name)

    def test_a_cell_that_was_not_run_is_named(self, name):
        assert "is not there: run the cell above first" in exercises.check(name, {})

    def test_neither_cell_carries_the_book_s_marks(self, name):
        for source in (exercises.blank(name), exercises.solution(name)):
            assert "# to " not in source
        assert exercises.blank(name) != exercises.solution(name)


WRONG = [
    ("1.1", "channel = 5\ncoordinates = (2, 1)", "c_2 running fastest"),
    ("1.1", "channel = 9\ncoordinates = (1, 2)", "You have c_2 first"),
    ("1.1", "channel = 7\ncoordinates = (2, 1)", "7 is not c_2"),
    ("1.2", "weights = 2304\nshare = 12.5", "That is one group"),
    ("1.2", "weights = 128 * 128 * 9\nshare = 100", "That is the dense convolution"),
    ("1.2", "weights = 18432\nshare = 6.25", "not 6.25 %"),
    ("1.3", "def turn(x, size):\n    return x", "The order is as it was"),
    ("1.3", "def turn(x, size):\n    x", "needs a `return`"),
    ("1.3", "def turn(x, size):\n    return x.unflatten(1, (size, -1)).transpose(1, 2).flatten(1, 2)", "other way"),
    ("1.3", "def turn(x, size):\n    return x.unflatten(1, (-1, size)).transpose(1, 2)", "merge the two axes"),
    ("1.3", "def turn(x, size):\n    return x.flip(1)", "no turn of the grid"),
    ("1.3", "def turn(x, size):\n    return x.missing()", "Your code raises AttributeError"),
    (
        "1.4",
        "def ct_module(x, convolutions, sizes):\n    first, second = convolutions\n"
        "    return second(rotate(first(x), sizes[0]))",
        "come out in another order",
    ),
    ("1.5", "dims = (12, 10)", "more than 70 %"),
    ("1.5", "dims = (30, 2, 2)", "at least 4"),
    ("1.5", "dims = (7, 5)", "multiply to 35, needed 120"),
    ("2.1", "def extent(num_dims, kernel):\n    return num_dims * kernel", "counts the middle 2 times"),
    (
        "2.1",
        "def extent(num_dims, kernel):\n    return 2 * num_dims + 1",
        "kernel 5: 9 positions, your function says 5",
    ),
    ("2.2", "positions = 125", "whole box"),
    ("2.2", "positions = 121", "counts ways"),
    ("2.2", "positions = 44", "Not 44"),
    ("2.3", "def reached(steps, times):\n    return steps | {(0, 0, 0)}", "go on from what was reached"),
    ("2.3", "def reached(steps, times):\n    return {(times, 0, 0)}", "begin with"),
    (
        "2.4",
        'manner = {"C3D": ["STC"], "R(2+1)D": ["S", "T"], "CSN": ["C", "ST"], "CT-Module": ["STC", "STC"]}',
        "it mixes other channels too, C is missing",
    ),
    (
        "2.4",
        'manner = {"C3D": ["STC"], "R(2+1)D": ["SC", "TC"], "CSN": ["C", "STC"], "CT-Module": ["STC", "STC"]}',
        "CSN, part 2: it does not mix other channels, C is too much",
    ),
    ("2.4", 'manner = {"C3D": ["ST", "C"]}', "1 convolution(s)"),
    ("2.5", "kernels = ((3, 3, 3), (3, 3, 3))", "The box is 5 x 5 x 5"),
    ("2.5", "kernels = ((5, 5, 5), (5, 3, 3))", "more than 14,400"),
    ("2.5", "kernels = ((4, 3, 3), (5, 3, 3))", "odd extents"),
    ("3.1", "shapes = {'spatial': (8, 4, 6, 6)}", "spatial: T is averaged over, so 1 is left; you have 4"),
    ("3.2", "def spatial_gate(x, attend):\n    return x", "never called"),
    ("3.2", "def spatial_gate(x, attend):\n    return x * attend(x).sigmoid()", "pool over time first"),
    (
        "3.2",
        "def spatial_gate(x, attend):\n    return attend(x.mean(2, keepdim=True)).sigmoid()",
        "the attention alone",
    ),
    ("3.2", "def spatial_gate(x, attend):\n    return x * attend(x.mean(2, keepdim=True))", "sigmoid is missing"),
    ("3.3", "blind = ['place in the map'] * 3", "spatial gate averages over T"),
    ("4.1", "blocks = [(0,), (), (), ()]", "block 0 changes the shape"),
    ("4.1", "blocks = [(1,), (1, 4), (1, 3, 5), (1,)]", "Stage 3 has 4 blocks, 0 to 3"),
    ("4.1", "blocks = [(1, 2), (1, 3), (1, 3, 5), (1,)]", "Stage 2: every other block"),
    ("4.2", "shape = (1024, 8, 14, 14)", "halved nowhere"),
    ("4.2", "shape = (256, 16, 14, 14)", "four times as many"),
    ("4.2", "shape = (512, 16, 28, 28)", "after stage 4: 4 times 256"),
    ("4.3", "def on_clips(module, frames, num_frames):\n    return frames", "never called"),
    (
        "4.3",
        "def on_clips(module, frames, num_frames):\n    return module(frames)",
        "(N, C, T, H, W) = (2, 3, 4, 5, 5)",
    ),
    (
        "4.3",
        "def on_clips(module, frames, num_frames):\n    clips = frames.unflatten(0, (-1, num_frames)).transpose(1, 2)\n"
        "    return module(clips).flatten(0, 1)",
        "must come back as frames",
    ),
    (
        "4.4",
        "def share(channels, sizes):\n    return 12 * sum(sizes) / (9 * channels)",
        "point-wise convolution is missing",
    ),
    (
        "4.4",
        "def share(channels, sizes):\n    return (12 * sum(sizes) + channels) / (9 * channels)",
        "C = 64 = 4 x 4 x 4: between K sub-operations there are K - 1",
    ),
    ("4.4", "def share(channels, sizes):\n    return 0.5", "the share is 0.4444, your function says 0.5000"),
    ("4.5", "blocks_of_mine = ((), (), (), ())", "more than 38"),
    ("4.5", "blocks_of_mine = ((1, 2), (1, 2, 3), (1, 2, 3, 4, 5), (1, 2))", "Which stage's blocks hold most"),
    ("4.5", "blocks_of_mine = ((0,), (), (), ())", "stage 2 has the blocks 1 to 2 to replace, got 0"),
    ("4.5", "blocks_of_mine = ((1,), (1,))", "each of the four stages"),
    ("4.5", "blocks_of_mine = 7", "Four tuples"),
    ("5.1", "most_right = 2", "two different answers"),
    ("5.2", "def frame_average(frames, weight):\n    return frames[:, 0] @ weight", "Reversing the frames changes"),
    ("5.2", "def frame_average(frames, weight):\n    return (frames @ weight).sum(1)", "not the mean"),
    ("5.3", "def sees_the_arrow(clip):\n    return (clip[1:] - clip[:-1]).abs().sum()", "get the same value"),
    ("5.3", "def sees_the_arrow(clip):\n    return clip[0]", "The reverse is to get the negative"),
]


@pytest.mark.parametrize(("name", "code", "text"), WRONG)
def test_a_wrong_answer_hears_what_is_wrong_with_it(name, code, text):
    said = exercises.check(name, answered(code))
    assert said.startswith(f"Exercise {name}: not yet. ") and text in said, said


def test_an_unknown_exercise_is_named():
    for function in (exercises.blank, exercises.solution, lambda name: exercises.check(name, {})):
        with pytest.raises(ValueError, match="unknown exercise '9.9'"):
            function("9.9")


def test_the_helpers_tell_blank_from_none_from_wrong():
    for value, text in ((..., "still blank"), ((1, ...), "still blank"), (None, "needs a `return`")):
        with pytest.raises(NotYet, match=text):
            given(value)
    assert given(0) == 0
    with pytest.raises(NotYet, match="swapped"):
        expect(2, 1, {2: "swapped"}, "{value}?")
    with pytest.raises(NotYet, match=r"3\?"):
        expect(3, 1, {2: "swapped"}, "{value}?")
    expect(1, 1, {}, "")


def notebook_of(name):
    cells = [new_markdown_cell("text"), new_code_cell("1 + 1")]
    for part in ("question", "answer", "check"):
        make = new_markdown_cell if part == "question" else new_code_cell
        cells.append(make("old", metadata={"tags": [f"exercise-{name}-{part}"]}))
    return new_notebook(cells=cells)


def test_fill_writes_the_exercises_cells_and_no_others():
    blank = exercises.fill(notebook_of("1.3"))
    assert [cell.source for cell in blank.cells[:2]] == ["text", "1 + 1"]
    assert [cell.source for cell in blank.cells[2:]] == list(exercises.cells("1.3").values())
    solved = exercises.fill(notebook_of("1.3"), solved=True)
    assert solved.cells[3].source == exercises.solution("1.3")


def test_the_command_writes_a_teacher_s_copy(tmp_path):
    nbformat.write(notebook_of("1.1"), tmp_path / "in.ipynb")
    exercises.main([str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")])
    assert "channel = 2 * 4 + 1" in nbformat.read(tmp_path / "out.ipynb", 4).cells[3].source
    assert nbformat.read(tmp_path / "in.ipynb", 4).cells[3].source == "old"
    with pytest.raises(SystemExit, match="usage"):
        exercises.main([])
