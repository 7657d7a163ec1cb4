"""Pretraining on Still Shapes: the loss over questions with answers, seeds, and what is refused."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ctlib.backbones import BACKBONES
from ctlib.data import shapes
from ctlib.training import pretrain as module
from ctlib.training.pretrain import Describer, pretrain, question_losses


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make = shapes.make_pool
    monkeypatch.setattr(shapes, "make_pool", lambda seed, split, *_, size=32: make(seed, split, 20, 4, size))
    monkeypatch.setattr(module, "TEST_PICTURES", 16)


def test_the_loss_is_the_mean_over_the_pictures_with_an_answer():
    logits = tuple(torch.randn(3, len(answers)) for answers in shapes.QUESTIONS.values())
    labels = torch.zeros(3, len(shapes.QUESTIONS), dtype=torch.int64)
    labels[1:, 1], labels[:, 2] = shapes.UNANSWERED, shapes.UNANSWERED
    losses = question_losses(logits, labels)
    assert losses[0] == pytest.approx(F.cross_entropy(logits[0], labels[:, 0]).item())
    assert losses[1] == pytest.approx(F.cross_entropy(logits[1][:1], labels[:1, 1]).item()) and losses[2] == 0


def test_a_seed_gives_the_same_backbone_and_the_loss_falls():
    steps = []
    first = pretrain("quickstart", 32, 12, batch=32, seed=3, on_step=lambda *step: steps.append(step))
    assert [step[:2] for step in steps] == [(i, 12) for i in range(1, 13)] and steps[-1][2] < steps[0][2]
    assert first.state.keys() == BACKBONES["quickstart"]().state_dict().keys()
    assert list(first.accuracy.index) == list(shapes.QUESTIONS)
    assert first.accuracy.apply(lambda column: column.dropna().between(0, 100)).all(axis=None)
    assert first.history.step.tolist() == [1, 12] and first.history.loss.tolist() == [steps[0][2], steps[-1][2]]
    by_question = first.history[list(shapes.QUESTIONS)].sum(axis=1)
    np.testing.assert_allclose(by_question, first.history.loss, rtol=1e-5)
    again, other = (pretrain("quickstart", 32, 2, batch=8, seed=seed).state["conv1.weight"] for seed in (3, 4))
    assert torch.equal(again, pretrain("quickstart", 32, 2, batch=8, seed=3).state["conv1.weight"])
    assert not torch.equal(again, other)


def test_accuracies_stand_beside_those_of_the_commonest_answer(monkeypatch):
    monkeypatch.setattr(module, "TEST_PICTURES", 300)
    model = Describer(BACKBONES["quickstart"]())
    torch.nn.init.zeros_(model.fc.weight)
    model.fc.bias.data.zero_()
    for scores in model.fc.bias.data.split(model.answers):
        scores[0] = 1.0
    table = module.accuracies(model, 32)
    assert model.training and table.accuracy["objects"] == table.commonest["objects"] > 50
    assert (table.accuracy <= table.commonest).all()


def test_every_question_trains_the_whole_backbone():
    model = Describer(BACKBONES["laptop"]())
    pictures, labels = shapes.pictures(shapes.make_pool(0, "train"), np.random.default_rng(0), 32, 32)
    question_losses(model(pictures), labels).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("quickstrat", 48, 1), "unknown backbone 'quickstrat': did you mean 'quickstart'"),
        (("laptop_inception", 64, 1), "laptop_inception needs pictures of at least 75 pixels, got 64"),
        (("quickstart", 32, 3, 8, 1e9), "the loss of step . is not finite: choose a smaller lr than 1000000000.0"),
    ],
)
def test_what_cannot_work_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        pretrain(*arguments)
