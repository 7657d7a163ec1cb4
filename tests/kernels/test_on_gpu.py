"""What only a GPU can show: kernels that are compiled for it, ways that are timed on it, graphs that are captured."""

import copy
import dataclasses

import pytest
import torch

from ctlib import kernels
from ctlib.config import ArrowConfig, ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.data import arrow, clips
from ctlib.data.transforms import views_of
from ctlib.deploy import compiled, optimize
from ctlib.kernels import choice
from ctlib.kernels.graph import StepGraph, untouched
from ctlib.models import build_model, model_config
from ctlib.study import systems
from ctlib.training import processes, records, train
from tests.kernels.excitation_in_passes import as_close_in_half_precision, same_in_double_precision
from tests.kernels.folded_excitation import LARGE, SMALL, equal_in
from tests.kernels.graph_steps import learns_as_without_graphs

pytestmark = pytest.mark.gpu
ON_GPU = torch.device("cuda")


@pytest.fixture
def on_gpu_by_default():
    with torch.device(ON_GPU):
        yield


@pytest.mark.parametrize("check", [same_in_double_precision, as_close_in_half_precision])
def test_the_passes_of_excitation_are_the_plain_way(on_gpu_by_default, check):
    pytest.importorskip("triton")
    from ctlib.kernels.passes_triton import TRITON

    check(TRITON)


@pytest.mark.parametrize("way", ["plain", "triton", "one clip"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.double, 1e-10), (torch.float32, 2e-3), (torch.bfloat16, 0.02)])
def test_a_folded_sub_operation_is_the_same_in_each_way(way, dtype, rtol):
    equal_in(way, "cuda", dtype, rtol, SMALL + LARGE)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_chosen_ways_score_and_learn_as_the_plain_ones(precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # float32 is float32
    config = model_config("ctnet_laptop", num_classes=5, num_frames=8, dropout=0.0)
    model = build_model(config, seed=0).to(ON_GPU)
    data = torch.randn(4, 3, 8, 48, 48, device=ON_GPU)
    results = {}
    for mode in ("plain", "auto"):
        copied = copy.deepcopy(model).train()
        with choice.using(mode), torch.autocast("cuda", precision, enabled=precision != torch.float32):
            scores = copied(data)
            scores.square().sum().backward()
            with torch.no_grad():
                results[mode] = [scores.float(), optimize(copied.eval())(data).float()]
        results[mode].append(torch.cat([parameter.grad.flatten() for parameter in copied.parameters()]))
    allowed = 1e-2 if precision == torch.float32 else 0.3  # of gradients through a network's many layers
    for auto, plain in zip(results["auto"], results["plain"], strict=True):
        assert (auto - plain).norm() <= allowed * plain.norm()
    assert "excitation 4x16x8x12x12" in kernels.report()


def test_raw_clips_become_views_on_the_gpu(train_samples):
    raw, plain = (
        clips.train_loader(train_samples, 4, DataConfig(size=24, workers=2), batch=8, seed=0, raw=raw)
        for raw in (True, False)
    )
    for (one, labels), (two, others) in zip(raw, plain, strict=True):
        assert one.frames.is_pinned() and torch.equal(labels, others)
        views = views_of(one._replace(frames=one.frames.to(ON_GPU, non_blocking=True)))
        assert (views.cpu() - two).abs().max() < 1.01 / 255 / 0.224


@pytest.mark.parametrize("adds", [True, False])
def test_steps_as_graphs_learn_the_same(adds):
    learns_as_without_graphs(adds, "cuda")


@pytest.mark.parametrize("kernels", ["plain", "auto"])
def test_a_run_takes_its_steps_as_graphs(kernels, tmp_path):
    """One step: small networks are chaotic, and what rounding changes in it is a part of the lot in the next ones."""
    few = ArrowConfig(train_clips=8, val_clips=8, size=32)
    config = RunConfig(
        model=model_config("ctnet_quickstart", num_classes=16, num_frames=4, dropout=0.5),
        data=DataConfig(root=str(arrow.write(few, tmp_path / "arrow", workers=0)), size=32, workers=0),
        recipe=RecipeConfig(epochs=1, batch=8, warmup=0),
        compute=ComputeConfig(precision="fp32", kernels=kernels),
    )
    losses = []
    for graph in (False, True):
        compute = dataclasses.replace(config.compute, graph=graph)
        train.train(dataclasses.replace(config, compute=compute), tmp_path / str(graph))
        losses.append(records.RunFolder(tmp_path / str(graph)).history().loss[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def trained(folder, tmp_path, compute, **data) -> list[float]:
    """The losses of two epochs of two steps each."""
    few = ArrowConfig(train_clips=16, val_clips=4, size=32)
    config = RunConfig(
        model=model_config("ctnet_quickstart", num_classes=16, num_frames=4, dropout=0.0),
        data=DataConfig(root=str(arrow.write(few, tmp_path / "arrow", workers=0)), size=32, workers=0, **data),
        recipe=RecipeConfig(epochs=2, batch=8, warmup=0, lr=0.01),
        compute=ComputeConfig(**compute),
    )
    train.train(config, tmp_path / folder)
    return records.RunFolder(tmp_path / folder).history().loss.tolist()


@pytest.mark.parametrize("graph", [False, True])
def test_half_precision_with_a_scaler_learns_as_single_precision(graph, tmp_path):
    """Its first steps may be skipped, as the scale is too large; what is left of them must not be random memory."""
    single = trained("fp32", tmp_path, {"precision": "fp32"})
    half = trained("fp16", tmp_path, {"precision": "fp16", "graph": graph})
    assert half == pytest.approx(single, rel=0.2)


@pytest.mark.parametrize(("compute", "data"), [({"micro_batch": 4}, {}), ({}, {"cache": "gpu"})])
def test_a_run_with_graphs_learns_in_micro_batches_and_from_the_gpu_s_memory(compute, data, tmp_path):
    same = {"precision": "fp32", "kernels": "plain"} | compute
    plain, graph = (trained(str(on), tmp_path, same | {"graph": on}, **data) for on in (False, True))
    assert graph == pytest.approx(plain, rel=0.05)


def test_a_run_that_was_begun_on_a_cpu_goes_on_as_graphs(tmp_path, monkeypatch):
    stopping = []

    def stop_after(step, *_):
        stopping.append(step)
        if len(stopping) == 1:
            processes.stop()

    begun = train.train

    def interrupted(config, folder):
        begun(config, folder, on_step=stop_after)

    monkeypatch.setattr(train, "train", interrupted)
    with pytest.raises(processes.Interrupted):
        trained("run", tmp_path, {"device": "cpu", "precision": "fp32"})
    monkeypatch.setattr(train, "train", begun)
    assert len(trained("run", tmp_path, {"precision": "fp32", "graph": True})) == 2


@pytest.mark.parametrize("name", sorted(systems.SMALL.values()))
def test_every_system_takes_its_step_as_a_graph(name):
    """Nothing in its forward and backward pass waits for the device, which a capture would refuse."""
    frames, size = systems.clip_of(name)
    model = build_model(model_config(name, num_classes=5, num_frames=frames, dropout=0.0), seed=0).to(ON_GPU).train()
    data = torch.randn(2, 3, frames, size, size, device=ON_GPU)

    def step(batch):
        loss = model(batch).logsumexp(1).sum()
        loss.backward()
        return loss.detach()

    with untouched(model):
        expected = step(data)
    assert StepGraph(step, model, adds=False)(data).item() == pytest.approx(expected.item(), rel=1e-2)


def test_a_small_batch_scores_the_same_as_a_graph():
    """Batches of another shape, and the same ones again: nothing is compiled."""
    model = build_model(model_config("ctnet_laptop", num_classes=5, num_frames=8), seed=0).to(ON_GPU).eval()
    fast = compiled(model)
    assert_scores_as(model, fast, (1, 4, 1))
    assert len(fast.graphs) == 2


@pytest.mark.slow  # a compiler takes minutes
def test_a_compiled_network_scores_the_same():
    model = build_model(model_config("ctnet_laptop", num_classes=5, num_frames=8), seed=0).to(ON_GPU).eval()
    assert_scores_as(model, compiled(model), (12,))


def assert_scores_as(model, fast, batches):
    for batch in batches:
        data = torch.randn(batch, 3, 8, 48, 48, device=ON_GPU)
        with torch.no_grad():
            torch.testing.assert_close(fast(data), model(data), rtol=1e-2, atol=1e-2)
