import pytest

from ctlib.teaching import exercises


def told(name, code):
    answers = {}
    exec(f"import torch\n{code}", answers)
    return exercises.check(name, answers)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("3.2", "def spatial_gate(x, attend):\n    x *= attend(x.mean(2, keepdim=True)).sigmoid()\n    return x"),
        ("3.2", "def spatial_gate(x, attend):\n    return x.mul_(attend(x.mean(2, keepdim=True)).sigmoid())"),
        ("3.3", "blind = ['Order of Frames', 'place in the map ', 'PLACE IN THE MAP']"),
        ("3.4", "def unseen(x):\n    x[:, :, 0, 0, 0] += 1; x[:, :, 1, 0, 0] -= 1\n"
         "    x[:, :, 0, 1, 1] -= 1; x[:, :, 1, 1, 1] += 1\n    return x"),
        ("5.3", "def sees_the_arrow(clip):\n    return (clip[-1:] - clip[:1])"),
    ],
)  # fmt: skip
def test_another_way_to_the_same_answer_is_right(name, code):
    assert told(name, code).startswith(f"Exercise {name}: right. ")


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("3.2", "def spatial_gate(x, attend):\n    return x * attend(x.mean(2, True).sigmoid())", "inside `attend`"),
        ("3.2", "def spatial_gate(x, attend):\n    return x * attend(x.amax(2, True)).sigmoid()", "is an average"),
        ("3.2", "def spatial_gate(x, attend):\n    return x * attend(x.mean(2, keepdim=True))", "sigmoid is missing"),
        ("3.3", "blind = ['order', 'place in the map', 'place in the map']", "spatial gate: 'order' is neither"),
        ("3.3", "blind = ['order of frames']", "Three answers are needed"),
        ("3.3", "blind = ['order of frames', 'order of frames', 'place in the map']", "averages over H and W"),
        ("3.4", "def unseen(x):\n    return x", "Nothing has changed"),
        ("3.4", "def unseen(x):\n    return x.flip(2)", "temporal gate sees it: for every frame"),
        ("3.4", "def unseen(x):\n    return x.flip(3)", "spatial gate sees it: for every pixel"),
        ("3.4", "def unseen(x):\n    return x.mean(2)", "the same shape"),
        ("5.3", "def sees_the_arrow(clip):\n    return clip[1:] - clip[:-1]", "one number, you give 7"),
        ("5.3", "def sees_the_arrow(clip):\n    return (clip[1:] * clip[:-1]).sum()", "the same value"),
    ],
)  # fmt: skip
def test_a_wrong_answer_hears_what_is_wrong_with_it(name, code, text):
    said = told(name, code)
    assert said.startswith(f"Exercise {name}: not yet. ") and text in said
