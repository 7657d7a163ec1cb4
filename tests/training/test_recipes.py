import pytest

from ctlib.data.catalog import DATASETS
from ctlib.models import MODELS
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
@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_data_set_has_a_recipe_that_every_network_takes(data, model):
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
