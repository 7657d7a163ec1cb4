import dataclasses

import pytest
import torch
from torch import nn

from ctlib.config import RecipeConfig
from ctlib.data.catalog import DATASETS
from ctlib.models import MODELS, build_model, model_config
from ctlib.training import recipes


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("something", (45, 64, 0.02, 10, 0.9, 5e-4, 20.0, 0.3)),
        ("kinetics", (110, 64, 0.01, 10, 0.9, 1e-4, 20.0, 0.5)),
    ],
)
def test_the_paper_s_recipes_are_its_appendix(name, values):
    config = recipes.run_config("list", "ctnet_r50", name)
    recipe = config.recipe
    optimizer = (recipe.epochs, recipe.batch, recipe.lr, recipe.warmup, recipe.momentum, recipe.weight_decay)
    assert (*optimizer, recipe.clip_norm, config.model.dropout) == values
    assert config.model.weights == "imagenet"


@pytest.mark.parametrize("data", sorted(DATASETS))
def test_every_data_set_has_a_recipe_that_every_network_takes(data):
    for model in MODELS:
        config = recipes.run_config(data, model)
        assert (config.data.name, config.name) == (data, model)
    assert config.recipe.warmup < config.recipe.epochs
    assert set(recipes.DEFAULTS) == set(DATASETS) and set(recipes.DEFAULTS.values()) <= set(recipes.RECIPES)


def test_overrides_reach_their_part():
    text = "recipe.lr=1e-3 model.dims=[-1,4] data.flip=false compute.micro_batch=8 arrow.seed=3 model.excitation=se"
    config = recipes.run_config("arrow", "ctnet_r50", overrides=text, seed=5, **{"recipe.epochs": 2})
    assert (config.recipe.lr, config.recipe.epochs, config.seed) == (1e-3, 2, 5)
    assert (config.model.dims, config.model.excitation) == ((-1, 4), "se")
    assert (config.data.flip, config.compute.micro_batch, config.arrow.seed) == (False, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"data": "something-v3"}, "unknown data 'something-v3': did you mean 'something-v"),
        ({"recipe": "somthing"}, "unknown recipe 'somthing': did you mean 'something'"),
        ({"model": "ctnet_r51"}, "unknown model 'ctnet_r51': did you mean 'ctnet_r"),
        ({"overrides": "recipe.epoch=3"}, "unknown key of RecipeConfig 'epoch': did you mean 'epochs'"),
        ({"overrides": "recipes.epochs=3"}, "unknown part of a run 'recipes': did you mean 'recipe'"),
        ({"overrides": "epochs=3"}, "overrides are part.name=value separated by spaces, got 'epochs=3'"),
        ({"overrides": "recipe.epochs=-1"}, "epochs must be at least 1, got -1"),
        ({"overrides": "arrow.sise=3"}, "unknown key of ArrowConfig 'sise': did you mean 'size'"),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(arguments, text):
    with pytest.raises(ValueError, match=text):
        recipes.run_config(**{"data": "arrow", "model": "ctnet_quickstart", **arguments})


def test_learning_rate_of_chosen_steps():
    recipe = RecipeConfig(epochs=45, batch=64, lr=0.02, warmup=10)
    rates = [recipes.learning_rate(recipe, step, 100) for step in (0, 499, 999, 1000, 2750, 4499)]
    assert rates == pytest.approx([0.02 / 1000, 0.01, 0.02, 0.02, 0.01, 0], abs=1e-6)
    smaller = dataclasses.replace(recipe, batch=32)
    assert recipes.learning_rate(smaller, 1000, 100) == pytest.approx(0.01)  # scales with the batch
    assert recipes.learning_rate(RecipeConfig(epochs=1, warmup=0), 0, 10) == pytest.approx(0.02)


def test_parameters_are_grouped_as_the_authors_do():
    network = build_model(model_config("ctnet_quickstart"))
    groups = recipes.parameter_groups(network, 5e-4)
    assert [(group["weight_decay"], group["scale"]) for group in groups] == [(5e-4, 1), (0, 1), (0, 2)]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    assert len(groups[1]["params"]) == 2 * len(norms)
    assert any(parameter is network.fc.bias for parameter in groups[2]["params"])


def test_one_batch_can_be_learned_by_heart():
    torch.manual_seed(0)
    network = build_model(model_config("ctnet_quickstart", num_classes=16, dropout=0.0))
    optimizer = torch.optim.SGD(recipes.parameter_groups(network, 0), lr=0.02, momentum=0.9)
    clips, labels = torch.randn(8, 3, 4, 32, 32), torch.arange(8)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_a_recipe_s_weights_are_left_out_where_they_do_not_fit():
    start = {name: recipes.run_config("arrow", name).model.weights for name in ("tsm_quickstart", "tea_quickstart")}
    assert start == {"tsm_quickstart": "shapes", "tea_quickstart": None}
    assert recipes.run_config("arrow", "slowfast_small").model.weights is None
