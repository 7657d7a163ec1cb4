import dataclasses

import pytest
import torch
from torch import nn

from ctlib.config import RecipeConfig
from ctlib.models import build_model, model_config
from ctlib.training.optimizer import learning_rate, parameter_groups


def test_learning_rate_of_chosen_steps():
    recipe = RecipeConfig(epochs=45, batch=64, lr=0.02, warmup=10)
    rates = [learning_rate(recipe, step, 100) for step in (0, 499, 999, 1000, 2750, 4499)]
    assert rates == pytest.approx([0.02 / 1000, 0.01, 0.02, 0.02, 0.01, 0], abs=1e-6)
    smaller = dataclasses.replace(recipe, batch=32)
    assert learning_rate(smaller, 1000, 100) == pytest.approx(0.01)  # scales with the batch
    assert learning_rate(RecipeConfig(epochs=1, warmup=0), 0, 10) == pytest.approx(0.02)


def test_parameters_are_grouped_as_the_authors_do():
    network = build_model(model_config("ctnet_quickstart"))
    groups = parameter_groups(network, 5e-4)
    assert [(group["weight_decay"], group["scale"]) for group in groups] == [(5e-4, 1), (0, 1), (0, 2)]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    assert len(groups[1]["params"]) == 2 * len(norms)
    assert any(parameter is network.fc.bias for parameter in groups[2]["params"])


def test_one_batch_can_be_learned_by_heart():
    torch.manual_seed(0)
    network = build_model(model_config("ctnet_quickstart", num_classes=16, dropout=0.0))
    optimizer = torch.optim.SGD(parameter_groups(network, 0), lr=0.02, momentum=0.9)
    clips, labels = torch.randn(8, 3, 4, 32, 32), torch.arange(8)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
