import pytest
import torch

from ctlib.ct_module import Parallel
from ctlib.teaching import lesson3


def test_the_flow_of_excitation_is_figure_4_with_the_module_s_shapes():
    part, features = Parallel(16, 4, (3, 3, 3), "te").eval(), torch.rand(1, 16, 8, 6, 6)
    steps = lesson3.excitation_flow(part, (16, 8, 6, 6))
    assert [what for what, _ in steps["spatial"]] == [
        "$X$", "$X^S$: S-TSConv 1 x 3 x 3, 4 groups, BN, ReLU", "T-Pool: mean over T", "S-TSConv 1 x 3 x 3, 4 groups",
        "BN, ReLU", "S-TSConv 1 x 3 x 3, 4 groups", "Sigmoid", "$U = X^S \\otimes$ Sigmoid(...)",
    ]  # fmt: skip
    assert [steps["temporal"][at][0] for at in (0, 2, -1)] == [
        "$X$", "S-Pool: mean over H, W", "$V = X^T \\otimes$ Sigmoid(...)"
    ]  # fmt: skip
    assert [steps["channel"][at][0] for at in (0, 1, -1)] == [
        "$R = U + V$", "S-Pool: mean over H, W", "$X_k = R \\otimes$ Sigmoid(...)"
    ]  # fmt: skip
    for branch, noted in steps.items():
        gate = getattr(part.excitation, branch)
        assert noted[-2][1] == tuple(gate.attention(features).shape[1:])
        assert noted[-5][1][0] == len(gate.reduce.weight) == 8 and noted[-1][1] == (16, 8, 6, 6)


def test_the_flow_s_figure_draws_every_step_once():
    flow = lesson3.excitation_flow(Parallel(16, 4, (3, 3, 3), "te"), (16, 4, 6, 6))
    texts = [text.get_text().split("\n")[0] for text in lesson3.excitation(flow).axes[0].texts]
    assert texts.count("$X$") == texts.count("$R = U + V$") == 1 and texts.count("Sigmoid") == 3


@pytest.fixture(scope="module")
def drawn():
    return lesson3.films(60, torch.Generator().manual_seed(0))


class TestFilms:
    def test_every_film_shows_every_colour_in_two_frames_and_the_label_is_the_one_beside_the_bar(self, drawn):
        shown = drawn.clips.unflatten(1, (2, 3))
        squares, bars = (
            shown[..., 3:, :].sum((-2, -1)) > 0,
            shown[..., 0, :].sum((2, -1)) > 0,
        )  # by colour, frame
        assert (squares.sum(-1) == 2).all() and (squares.sum(2)[..., 1:7] == 1).all()
        assert bars.sum((1, 2)).eq(1).all() and bars[torch.arange(60), drawn.film, drawn.frame].all()
        beside = squares[torch.arange(60), drawn.film, :, drawn.frame]
        assert beside.int().argmax(1).equal(drawn.labels)
        assert not shown[..., 1:3, :].any()  # two rows of pixels apart

    def test_a_moved_bar_asks_about_another_frame_of_the_same_film(self, drawn):
        moved = lesson3.bar_moved(drawn)
        assert ((moved.frame - drawn.frame) % 6 == 1).all() and moved.film.equal(drawn.film)
        assert moved.clips[..., 1:, :].equal(drawn.clips[..., 1:, :])
        assert not moved.labels.equal(drawn.labels)
        back = moved
        for _ in range(5):
            back = lesson3.bar_moved(back)
        assert back.clips.equal(drawn.clips) and back.labels.equal(drawn.labels)


@pytest.mark.parametrize(
    ("kind", "sees"),
    [
        ({}, True), ({"held": ("spatial", "temporal")}, True), ({"held": ("spatial", "channel")}, True),
        ({"held": lesson3.GATES}, False), ({"held": ("temporal", "channel")}, False), ({"excitation": "se"}, False),
    ],
)  # fmt: skip
def test_only_a_gate_over_time_sees_in_which_frame_the_bar_is(drawn, kind, sees):
    torch.manual_seed(0)
    network = lesson3.Watcher(**kind)
    lesson3.learn(network, drawn, 2, every=2)
    before, after = (lesson3.snapshot(network, films, 0).scores for films in (drawn, lesson3.bar_moved(drawn)))
    assert ((before - after).abs().max() > 1e-4) == sees
    assert network.training and not network.part.excitation.channel._forward_hooks


def test_learning_takes_snapshots_and_open_gates_cost(drawn, monkeypatch):
    after = {}
    for price in (0.0, 50.0):
        monkeypatch.setattr(lesson3, "PRICE", price)
        torch.manual_seed(0)
        first, *_, last = snapshots = lesson3.learn(lesson3.Watcher(), drawn, 32, every=8)
        assert [one.step for one in snapshots] == [0, 8, 16, 24, 32]
        after[price] = last.gates["temporal"].mean()
    assert first.gates["temporal"].shape == first.gates["channel"].shape == (60, 16, 8)
    assert after[50.0] < after[0.0] - 0.05


def test_opening_separates_the_bar_s_frame_and_film(drawn):
    gate = torch.zeros(60, 2, 8, 8)
    gate[torch.arange(60), drawn.film, :, drawn.frame] = 1
    gate[torch.arange(60), 1 - drawn.film, :, drawn.frame] = 0.5
    assert list(lesson3.opening(gate.flatten(1, 2), drawn).values()) == [1, 0.5, 0]


def test_the_view_of_two_films_says_what_the_network_answers(drawn):
    gates = {"temporal": torch.full((60, 16, 8), 0.25)}
    scores = torch.nn.functional.one_hot(drawn.labels, 3).float()
    view = lesson3.watched(drawn, 3, lesson3.Snapshot(7, gates, scores), "temporal")
    answer = lesson3.COLOURS[drawn.labels[3]]
    assert view.numbers["the network says"] == f"{answer} (right)" and view.numbers["in its other frames"] == "0.25"
    assert view.numbers["accuracy on 60 pairs"] == "100.0 %"
    wrong = lesson3.watched(drawn, 3, lesson3.Snapshot(7, gates, -scores), "temporal")
    assert "(WRONG)" in wrong.numbers["the network says"]
    with pytest.raises(ValueError, match="gate"):
        lesson3.watched(drawn, 3, lesson3.Snapshot(7, gates, scores), "channel")
