import dataclasses
import math

import pytest
import torch

from ctlib.config import ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.kernels import graph
from ctlib.models import build_model, model_config
from ctlib.training import plan as plans
from ctlib.training.network import make_network
from ctlib.training.plan import make_plan
from ctlib.training.run import resolve
from tests.kernels.graph_steps import replayed_on_the_cpu


@pytest.fixture
def run(arrow_root):
    return resolve(
        RunConfig(
            model=model_config("ctnet_quickstart", num_frames=4),
            data=DataConfig(root=str(arrow_root), size=32, workers=0),
            recipe=RecipeConfig(epochs=3, batch=8, lr=0.08, warmup=0.5),
            compute=ComputeConfig(device="cpu", micro_batch=4),
        )
    )


def test_a_plan_says_what_a_run_will_do_and_estimates_its_time(run):
    plan = make_plan(run, seconds=0)
    table = plan.table()
    assert table["data"] == "arrow, 16 classes" and table["steps"] == "3 epochs x 4 = 12"
    assert table["training videos"] == "32 of 32 listed (100.0 %)"
    assert table["batch"] == "8 clips = 1 process(es) x 2 micro-batch(es) of 4"
    assert table["learning rate"].startswith("peak 0.01 (0.08 x 8 / 64)")
    assert table["weights at the start"] == "random" and table["peak memory"] == "not measured on a CPU"
    assert plan.memory_mb is None and plan.load_seconds > 0 and plan.compute_seconds > 0
    step = max(plan.compute_seconds, 8 * plan.load_seconds)
    assert plan.seconds >= 12 * step and math.isfinite(plan.seconds)
    assert plan.model.params == sum(weights.numel() for weights in build_model(run.model).parameters())


def test_a_plan_says_why_a_setting_was_chosen_and_when_steps_are_too_few(run):
    plan = make_plan(run, seconds=0, reasons={"data.size": "48: pixels"})
    assert plan.table()["chosen data.size"] == "48: pixels"
    needed = "12 steps are too few to learn 16 classes, which takes about 480: set recipe.epochs to 120, or a smaller"
    assert plan.too_few_steps() == f"{needed} recipe.batch"
    recipe = dataclasses.replace(run.config.recipe, epochs=60)
    longer = dataclasses.replace(run, config=dataclasses.replace(run.config, recipe=recipe))
    assert dataclasses.replace(plan, run=longer).too_few_steps() == ""


def test_the_timed_step_of_a_run_with_graphs_is_one(run, monkeypatch):
    monkeypatch.setattr(graph, "capture", replayed_on_the_cpu)
    compute = dataclasses.replace(run.config.compute, graph=True)
    with_graph = dataclasses.replace(run, config=dataclasses.replace(run.config, compute=compute))
    model = make_network(run)
    before = {name: value.clone() for name, value in model.named_parameters()}
    step = plans._step(model, with_graph, 2)
    for _ in range(2):
        step()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_only_tested_epochs_take_the_time_of_a_test(run):
    plan = dataclasses.replace(make_plan(run, seconds=0), load_seconds=0.1, compute_seconds=0.0)
    recipe = dataclasses.replace(run.config.recipe, test_epochs=2)
    last = dataclasses.replace(
        plan, run=dataclasses.replace(run, config=dataclasses.replace(run.config, recipe=recipe))
    )
    assert plan.seconds == pytest.approx(3 * (32 + 32) * 0.1) and last.seconds == pytest.approx((3 + 2) * 32 * 0.1)


def test_a_cached_video_is_loaded_once(run):
    plan = dataclasses.replace(make_plan(run, seconds=0), load_seconds=0.1, compute_seconds=0.0)
    data = dataclasses.replace(run.config.data, cache="ram")
    cached = dataclasses.replace(plan, run=dataclasses.replace(run, config=dataclasses.replace(run.config, data=data)))
    assert cached.seconds == pytest.approx((32 + 32) * 0.1)


def test_more_processes_and_workers_load_faster(run):
    plan = dataclasses.replace(make_plan(run, seconds=0), load_seconds=0.1)
    data = dataclasses.replace(run.config.data, workers=4)
    several = dataclasses.replace(plan, run=dataclasses.replace(run, config=dataclasses.replace(run.config, data=data)))
    assert plan.loading(8) == pytest.approx(0.8) and several.loading(8) == pytest.approx(0.2)


@pytest.mark.gpu
def test_on_a_gpu_the_step_s_peak_memory_is_measured(run):
    on_gpu = resolve(dataclasses.replace(run.config, compute=ComputeConfig(micro_batch=4)))
    plan = make_plan(on_gpu, seconds=0)
    assert plan.memory_mb > 4 * 3 * plan.model.params / 1e6  # weights, gradients and momentum
