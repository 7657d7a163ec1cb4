import json

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ctlib.teaching import exercise
from ctlib.teaching.exercise import NotYet, expect, given, same
from ctlib.tensorize import channel_shuffle


def answered(code):
    """The names that an answer sets, in a notebook that has imported what its own do."""
    names = {"channel_shuffle": channel_shuffle, "torch": torch, "np": np}
    exec(code, names)
    return names


@pytest.mark.parametrize("name", exercise.exercises())
class TestEach:
    def test_the_solution_passes_its_check(self, name):
        assert exercise.check(name, answered(exercise.solution(name))).startswith(f"Exercise {name}: right. ")

    def test_the_blank_cell_fails_it_and_runs(self, name):
        reply = exercise.check(name, answered(exercise.blank(name)))
        assert reply.startswith(f"Exercise {name}: not yet. ")
        assert "still blank" in reply or "..." not in exercise.blank(name)

    def test_a_cell_that_was_not_run_is_named(self, name):
        assert "is missing: run the cell above first" in exercise.check(name, {})

    def test_neither_cell_has_marks(self, name):
        for source in (exercise.blank(name), exercise.solution(name)):
            assert "# to " not in source
        assert exercise.blank(name) != exercise.solution(name)


MODULE = "def ct_module(x, convolutions, sizes):\n    for conv, size in zip(convolutions, sizes):\n"

RIGHT = [  # other than the solutions
    ("1.1", "channel = np.int64(9)\ncoordinates = [2, 1]"),
    ("1.1", "channel = torch.tensor(9)\ncoordinates = np.array([2, 1])"),
    (
        "1.2",
        "def shuffle(x, n):\n    return x.unflatten(1, (x.shape[1] // n, n)).transpose(2, 1).flatten(1, 2)",
    ),
    ("1.3", f"{MODULE}        x = channel_shuffle(conv(x), size)\n    return x"),
    ("1.4", "weights = torch.tensor(18432)\nshare = torch.tensor(12.5)"),
    ("1.5", "dims = [5, 4, 6]"),
    ("1.5", "dims = torch.tensor([4, 5, -1])"),
    ("2.1", "def extent(num_dims, kernel):\n    return 1.0 + num_dims * (kernel - 1)"),
    ("2.2", "positions = np.float32(65)"),
    (
        "2.3",
        "def reached(steps, times):\n    if not times:\n        return [[0, 0, 0]]\n"
        "    return [(np.array(a) + b).tolist() for a in reached(steps, times - 1) for b in steps]",
    ),
    (
        "2.4",
        "manner = {'C3D': 'stc', 'R(2+1)D': ['CS', 'CT'], 'CSN': ('C', 'TS'), 'CT-Module': ['TCS', {'S', 'T', 'C'}]}",
    ),
    ("2.5", "kernels = [[7, 3, 3], np.array([3, 3, 3])]"),
    ("3.2", "def spatial_gate(x, attend):\n    x *= attend(x.mean(2, keepdim=True)).sigmoid()\n    return x"),
    ("3.2", "def spatial_gate(x, attend):\n    return x.mul_(attend(x.mean(2, keepdim=True)).sigmoid())"),
    ("3.3", "blind = ['Order of Frames', 'position in the map ', 'POSITION IN THE MAP']"),
    (
        "3.4",
        "def unseen(x):\n    x[:, :, 0, 0, 0] += 1; x[:, :, 1, 0, 0] -= 1\n"
        "    x[:, :, 0, 1, 1] -= 1; x[:, :, 1, 1, 1] += 1\n    return x",
    ),
    ("4.1", "blocks = ([1], range(1, 4, 2), np.array([1, 3, 5]), [1])"),
    ("4.2", "shape = [1024, 16, 14, 14]"),
    ("4.2", "shape = torch.Size([1024, 16, 14, 14])"),
    (
        "4.4",
        "def share(channels, sizes):\n"
        "    return torch.tensor((sum(sizes) * 12 + (len(sizes) - 1) * channels) / (9 * channels))",
    ),
    ("4.5", "blocks_of_mine = [[1, 2], [1, 2, 3], [1, 3], []]"),
    ("5.3", "mean_loss = 2.29"),
    ("5.4", "def sees_the_arrow(clip):\n    return (clip[-1:] - clip[:1])"),
    (
        "6.1",
        "def margin_of_mean(values, t):\n    return torch.tensor(t * np.std(values, ddof=1) / np.sqrt(len(values)))",
    ),
    ("6.2", "std_of_differences = np.float32(0)"),
]


@pytest.mark.parametrize(("name", "code"), RIGHT)
def test_a_right_answer_in_another_form_is_right(name, code):
    reply = exercise.check(name, answered(code))
    assert reply.startswith(f"Exercise {name}: right. "), reply


WRONG = [
    ("1.1", "channel = 5\ncoordinates = (2, 1)", "c_2 running fastest"),
    ("1.1", "channel = 9\ncoordinates = (1, 2)", "You have c_2 first"),
    ("1.1", "channel = 7\ncoordinates = (2, 1)", "7 is not c_2"),
    ("1.4", "weights = 2304\nshare = 12.5", "That is one group"),
    ("1.4", "weights = 128 * 128 * 9\nshare = 100", "That is the dense convolution"),
    ("1.4", "weights = 18432\nshare = 6.25", "not 6.25 %"),
    ("1.2", "def shuffle(x, size):\n    return x", "The order has not changed"),
    ("1.2", "def shuffle(x, size):\n    x", "needs a `return`"),
    ("1.2", "def shuffle(x, size):\n    return x.unflatten(1, (size, -1)).transpose(1, 2).flatten(1, 2)", "other way"),
    ("1.2", "def shuffle(x, size):\n    return x.unflatten(1, (-1, size)).transpose(1, 2)", "merge the two axes"),
    ("1.2", "def shuffle(x, size):\n    return x.flip(1)", "is not a channel shuffle"),
    ("1.2", "def shuffle(x, size):\n    return x.missing()", "Your code raises AttributeError"),
    ("1.2", "def shuffle(x, size):\n    return {}['axis']", "Your code raises KeyError: 'axis'"),
    ("1.2", "def shuffle(x):\n    return x", "The check cannot use your answer: TypeError"),
    (
        "1.3",
        "def ct_module(x, convolutions, sizes):\n    first, second = convolutions\n"
        "    return second(channel_shuffle(first(x), sizes[0]))",
        "leave in another order",
    ),
    ("1.3", f"{MODULE}        x = conv(x)\n    return x", "It never shuffles"),
    ("1.3", f"{MODULE}        x = channel_shuffle(conv(x), len(x) // size)\n    return x", "by the wrong size"),
    ("1.3", f"{MODULE}        x = conv(channel_shuffle(x, size))\n    return x", "before it mixes"),
    ("1.3", f"{MODULE}        x = conv(conv(x))\n    return x", "Output 0 sees 4 of 12 channels"),
    ("1.3", f"{MODULE}        x = conv(x)\n    return x.flatten(1)", "(12, 12, 1, 1, 1) became (12, 12)"),
    ("1.4", "weights = 18432\nshare = 0.125", "in percent"),
    ("1.5", "dims = 3", "the sizes (C_1, ..., C_K), got 3"),
    ("1.5", "dims = (12, 10)", "more than 70 %"),
    ("1.5", "dims = (30, 2, 2)", "at least 4"),
    ("1.5", "dims = (7, 5)", "multiply to 35, needed 120"),
    ("2.1", "def extent(num_dims, kernel):\n    return num_dims * kernel", "counts the middle 2 times"),
    (
        "2.1",
        "def extent(num_dims, kernel):\n    return 2 * num_dims + 1",
        "kernel 5: 9 positions, your function says 5",
    ),
    ("2.2", "positions = 225", "whole box"),
    ("2.2", "positions = 169", "counts paths"),
    ("2.2", "positions = 45", "the line has 5 frames"),
    ("2.2", "positions = 44", "Not 44"),
    ("2.3", "def reached(steps, times):\n    return steps | {(0, 0, 0)}", "continue from what was reached"),
    ("2.3", "def reached(steps, times):\n    return {(times, 0, 0)}", "begin with"),
    (
        "2.4",
        'manner = {"C3D": ["STC"], "R(2+1)D": ["S", "T"], "CSN": ["C", "ST"], "CT-Module": ["STC", "STC"]}',
        "it mixes other channels too, C is missing",
    ),
    (
        "2.4",
        'manner = {"C3D": ["STC"], "R(2+1)D": ["SC", "TC"], "CSN": ["C", "STC"], "CT-Module": ["STC", "STC"]}',
        "CSN, part 2: it does not mix other channels, remove C",
    ),
    ("2.4", 'manner = {"C3D": ["ST", "C"]}', "1 convolution(s)"),
    ("2.4", 'manner = {"C3D": ["STC"]}', "R(2+1)D is not in `manner`"),
    ("2.4", 'manner = {"C3D": ["SXC"]}', "the letters are S, T and C, you have 'SXC'"),
    ("2.5", "kernels = 3", "two kernels (t, h, w)"),
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
    ("3.3", "blind = ['position in the map'] * 3", "spatial gate averages over T"),
    ("3.2", "def spatial_gate(x, attend):\n    return x * attend(x.mean(2, True).sigmoid())", "inside `attend`"),
    ("3.2", "def spatial_gate(x, attend):\n    return x * attend(x.amax(2, True)).sigmoid()", "is an average"),
    ("3.3", "blind = ['order', 'position in the map', 'position in the map']", "spatial gate: 'order' is neither"),
    ("3.3", "blind = ['order of frames']", "Give three answers"),
    ("3.3", "blind = ['order of frames', 'order of frames', 'position in the map']", "averages over H and W"),
    ("3.4", "def unseen(x):\n    return x", "Nothing has changed"),
    ("3.4", "def unseen(x):\n    return x.flip(2)", "temporal gate sees it: for every frame"),
    ("3.4", "def unseen(x):\n    return x.flip(3)", "spatial gate sees it: for every pixel"),
    ("3.4", "def unseen(x):\n    return x.mean(2)", "the same shape"),
    (
        "4.1",
        "blocks = [(1), (1, 3), (1, 3, 5), (1)]",
        "Stage 2: 1 is no tuple; a tuple of one number has a comma, (1,)",
    ),
    ("4.1", "blocks = [(1,), (1, 3), (1, 3, 5)]", "four stages of blocks, 2 to 5; you give 3"),
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
        "output as frames",
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
    ("4.5", "blocks_of_mine = ((0,), (), (), ())", "first block of a stage changes the shape"),
    ("4.5", "blocks_of_mine = ((1,), (1,))", "each of the four stages"),
    ("4.5", "blocks_of_mine = 7", "Four tuples"),
    ("5.1", "most_right = 2", "two different predictions"),
    ("5.2", "def frame_average(frames, weight):\n    return frames[:, 0] @ weight", "Reversing the frames changes"),
    ("5.2", "def frame_average(frames, weight):\n    return (frames @ weight).sum(1)", "not the mean"),
    ("5.3", "mean_loss = -np.log(0.85)", "where the guess is right"),
    ("5.3", "mean_loss = np.log(4)", "the loss of equal probabilities"),
    ("5.3", "mean_loss = -2.29", "minus the logarithm"),
    ("5.4", "def sees_the_arrow(clip):\n    return (clip[1:] - clip[:-1]).abs().sum()", "get the same value"),
    ("5.4", "def sees_the_arrow(clip):\n    return clip[0]", "The reverse must get the negative"),
    ("5.4", "def sees_the_arrow(clip):\n    return clip[1:] - clip[:-1]", "one number per clip, you return 7"),
    ("5.4", "def sees_the_arrow(clip):\n    return (clip[1:] * clip[:-1]).sum()", "the same value"),
    ("6.1", "def margin_of_mean(values, t):\n    return t * np.std(values) / len(values) ** 0.5", "ddof=1"),
    ("6.1", "def margin_of_mean(values, t):\n    return t * values.std(ddof=1)", "A mean of n runs varies less"),
    ("6.1", "def margin_of_mean(values, t):\n    return t * values.std(ddof=1) / len(values)", "not by n"),
    ("6.1", "def margin_of_mean(values, t):\n    return 0", "the margin is 2.34, your function says 0"),
    ("6.2", "std_of_differences = 4", "Subtract seed by seed first"),
    (
        "6.3",
        "def read(low, high, margin):\n    return 'inconclusive'",
        "'different', your function says 'inconclusive'",
    ),
    (
        "6.3",
        "def read(low, high, margin):\n"
        "    return 'different' if low > 0 or high < 0 else 'equal' if max(-low, high) <= 1 else 'inconclusive'",
        "Use the margin that is given",
    ),
    ("6.4", "seeds_needed = 8", "1.96 in place of t"),
]


@pytest.mark.parametrize(("name", "code", "text"), WRONG)
def test_a_wrong_answer_gets_the_reason(name, code, text):
    reply = exercise.check(name, answered(code))
    assert reply.startswith(f"Exercise {name}: not yet. ") and text in reply, reply


def test_an_unknown_exercise_is_named():
    for function in (exercise.blank, exercise.solution, lambda name: exercise.check(name, {})):
        with pytest.raises(ValueError, match="unknown exercise '9.9'"):
            function("9.9")


def test_the_helpers_distinguish_blank_none_and_wrong():
    for value, text in ((..., "still blank"), ((1, [...]), "still blank"), (None, "needs a `return`")):
        with pytest.raises(NotYet, match=text):
            given(value)
    assert given(0) == 0
    with pytest.raises(NotYet, match="swapped"):
        expect(2, 1, {2: "swapped"}, "{value}?")
    with pytest.raises(NotYet, match=r"3\?"):
        expect(3, 1, {2: "swapped"}, "{value}?")
    expect(1, 1, {}, "")


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ([1, 2], (1, 2)),
        (range(2), (0, 1)),
        (np.ones(2), (1, 1)),
        (torch.ones(1, 2), ((1, 1),)),
        (np.float32(0.1), 0.1),
        (1e-12, 0.0),
        (np.bool_(True), True),
        (torch.tensor([True]), [True]),
    ],
)
def test_the_container_of_numbers_does_not_matter(value, right):
    assert same(value, right) and same(right, value)


@pytest.mark.parametrize(
    ("value", "right"),
    [((1, 2), (1, 3)), ((1, 2), (1, 2, 3)), ((1,), 1), (0.1001, 0.1), ("9", 9), ("SC", "TC"), (True, 1), (0, False)],
)
def test_other_values_are_not_the_same(value, right):
    assert not same(value, right)


def test_a_marked_line_never_shows_its_solution(monkeypatch):
    def blank_of(solution):
        monkeypatch.setattr(exercise, "_exercise", lambda number: exercise.solved_by(solution)(lambda answers: ""))
        return exercise.blank("1.1")

    assert blank_of("a, b = 1, 2  # to fill in\ndef f():\n    return a == b  # to fill in").splitlines() == [
        "a, b = ...",
        "def f():",
        "    return ...",
    ]
    assert blank_of(r"text = ' '  # to correct: '\n\1'") == r"text = '\n\1'"
    for line in ("total += 3", "x[0] = 4", "print(5)"):
        with pytest.raises(ValueError, match="exercise 1.1: a marked line is"):
            blank_of(f"{line}  # to fill in")


CHECK = 'print(exercise.check("1.3", globals()))'


def notebook_of(name):
    cells = [new_markdown_cell("text"), new_code_cell("1 + 1")]
    for part in ("question", "answer", "check"):
        make = new_markdown_cell if part == "question" else new_code_cell
        ran = {} if part == "question" else {"execution_count": 7, "outputs": [new_output("stream", text="old")]}
        cells.append(make("old", metadata={"tags": [f"exercise-{name}-{part}"]}, **ran))
    return new_notebook(cells=cells)


def test_fill_writes_the_exercises_cells_and_no_others():
    blank = exercise.fill(notebook_of("1.3"))
    assert [cell.source for cell in blank.cells[:3]] == ["text", "1 + 1", "old"]
    assert [cell.source for cell in blank.cells[3:]] == [exercise.blank("1.3"), CHECK]
    solved = exercise.fill(notebook_of("1.3"), solved=True)
    assert solved.cells[3].source == exercise.solution("1.3")
    assert not solved.cells[3].outputs and solved.cells[3].execution_count is None


def test_the_command_writes_a_teacher_s_copy(tmp_path):
    nbformat.write(notebook_of("1.1"), tmp_path / "in.ipynb")
    exercise.main([str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")])
    assert "channel = 2 * 4 + 1" in nbformat.read(tmp_path / "out.ipynb", 4).cells[3].source
    assert nbformat.read(tmp_path / "in.ipynb", 4).cells[3].source == "old"


def test_the_command_writes_blank_exercises_again(tmp_path):
    path = tmp_path / "in.ipynb"
    nbformat.write(exercise.fill(notebook_of("1.1"), solved=True), path)
    exercise.main(["--blank", str(path)])
    assert nbformat.read(path, 4).cells[3].source == exercise.blank("1.1")


def test_the_command_refuses_to_write_over_the_blank_notebook(tmp_path):
    path = tmp_path / "in.ipynb"
    nbformat.write(notebook_of("1.1"), path)
    (tmp_path / "link.ipynb").symlink_to(path)
    for target in (path, tmp_path / "." / "in.ipynb", tmp_path / "link.ipynb"):
        with pytest.raises(SystemExit, match="is the blank notebook itself"):
            exercise.main([str(path), str(target)])
    assert nbformat.read(path, 4).cells[3].source == "old"


def test_the_command_fails_with_one_line(tmp_path, capsys):
    (tmp_path / "text.ipynb").write_text("no notebook")
    (tmp_path / "other.ipynb").write_text(json.dumps({"a": 1}))
    for name, text in (("none", "No such file"), ("text", "NotJSONError"), ("other", "Error")):
        with pytest.raises(SystemExit, match=text) as refused:
            exercise.main([str(tmp_path / f"{name}.ipynb"), str(tmp_path / "out.ipynb")])
        assert "\n" not in str(refused.value)
    for arguments in ([], ["a.ipynb"], ["a.ipynb", "b.ipynb", "--blank"]):
        with pytest.raises(SystemExit):
            exercise.main(arguments)
        assert "usage" in capsys.readouterr().err
