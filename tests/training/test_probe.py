import copy

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from ctlib.models import build_model, freeze_backbone, model_config, recompute_blocks
from ctlib.training import probe
from ctlib.training.probe import training_cost


def make(name="ctnet_quickstart", recomputed=False):
    torch.manual_seed(0)
    network = build_model(model_config(name, num_classes=5))
    recompute_blocks(network, recomputed)
    return network


def peak_of_a_step(network, num_frames, size, batch):
    """MB, by PyTorch's profiler: of a real step, the second one, with gradients and momentum."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    clips, labels = torch.randn(batch, 3, num_frames, size, size), torch.zeros(batch, dtype=torch.long)

    def step():
        F.cross_entropy(network(clips), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    held = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    held += sum(state["momentum_buffer"].nbytes for state in optimizer.state.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    now = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return (held + peak) / 1e6


@pytest.mark.parametrize(("name", "size"), [("ctnet_quickstart", 48), ("tsn_quickstart", 64)])
def test_memory_is_what_a_step_takes_and_recomputing_takes_less(name, size):
    """Estimated on two clips of eight, from above: gradients and activations are at their most at different times."""
    estimates, measured = {}, {}
    for recomputed in (False, True):
        network = make(name, recomputed)
        cost = training_cost(network, 8, size, batch=8, seconds=0)
        assert (cost.batch, cost.micro_batch, cost.clips_probed) == (8, 8, 2)
        estimates[recomputed], measured[recomputed] = cost.memory_mb, peak_of_a_step(network, 8, size, 8)
        assert 0.98 < estimates[recomputed] / measured[recomputed] < 1.15
    assert estimates[True] < 0.7 * estimates[False] and measured[True] < 0.7 * measured[False]


def test_the_network_and_the_random_numbers_stay_as_they_are():
    network = make(recomputed=True)
    network.backbone.layer1.eval()
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    before = copy.deepcopy(network)
    generator = torch.get_rng_state()
    training_cost(network, 4, 32, batch=4)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in network.modules()] == [module.training for module in before.modules()]
    for mine, theirs in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.stride() == theirs.stride()
        assert mine.grad is None or mine is network.fc.weight
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(network.buffers(), before.buffers(), strict=True))
    assert network.fc.weight.grad.eq(1).all() and network.backbone.recompute


def test_memory_grows_with_the_clips_at_once_and_time_with_the_batch(monkeypatch):
    calls = []

    def passes(model, clips, precision):
        calls.append((len(clips), precision))
        return 0.01 * len(clips)

    network = make()
    whole = training_cost(network, 4, 32, batch=8, seconds=0)
    held = sum(t.nbytes for t in network.buffers()) + 3 * sum(t.nbytes for t in network.parameters())
    assert training_cost(network, 4, 32, 8, micro_batch=4, seconds=0).memory_mb - held / 1e6 == pytest.approx(
        (whole.memory_mb - held / 1e6) / 2
    )
    monkeypatch.setattr(probe, "_passes", passes)
    cost = training_cost(network, 4, 32, batch=96, micro_batch=12, precision="bf16", seconds=0.2)
    assert cost.seconds_a_step == pytest.approx(0.96) and (cost.micro_batch, cost.clips_probed) == (12, 12)
    assert calls == [(2, "bf16"), (2, "bf16"), (4, "bf16"), (8, "bf16"), (12, "bf16")]
    assert training_cost(network, 4, 32, batch=3, micro_batch=64).micro_batch == 3


def test_time_is_of_the_order_of_a_step():
    network = make("tsn_quickstart")
    clips, labels = torch.randn(16, 3, 4, 48, 48), torch.zeros(16, dtype=torch.long)
    F.cross_entropy(network(clips), labels).backward()
    step = min(probe._passes(network, clips, "fp32") for _ in range(5))
    assert 0.3 * step < training_cost(network, 4, 48, batch=16).seconds_a_step < 20 * step  # others use the machine


def test_frozen_parameters_need_neither_gradients_nor_momentum():
    network = make()
    everything = training_cost(network, 2, 32, batch=2, seconds=0).memory_mb
    freeze_backbone(network)
    frozen = sum(p.nbytes for p in network.parameters() if not p.requires_grad) / 1e6
    assert training_cost(network, 2, 32, batch=2, seconds=0).memory_mb < everything - 2 * frozen


@pytest.mark.parametrize("given", [{"batch": 0}, {"micro_batch": 0}, {"num_frames": 0}, {"size": 0}])
def test_nothing_to_train_on_is_refused(given):
    with pytest.raises(ValueError, match="must be at least 1"):
        training_cost(make(), **given)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="unknown precision 'bf61': did you mean 'bf16'"):
        training_cost(make(), precision="bf61")


@pytest.mark.parametrize(("fits", "text"), [(20, "at micro-batch 64 on a GPU: try 16"), (0, "not even one clip fits")])
def test_a_micro_batch_that_does_not_fit_is_refused_with_one_that_does(monkeypatch, fits, text):
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")

    def passes(clips):
        if clips > fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return 1.0

    with pytest.raises(ValueError, match=text):
        probe._probe_gpu(make(), passes, 64, seconds=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_whole_micro_batches_are_probed():
    network = make().cuda()
    cost = training_cost(network, 8, 64, batch=32, micro_batch=16, precision="bf16")
    assert cost.clips_probed == 16 and cost.seconds_a_step > 0
    assert training_cost(network, 8, 64, 32, 32, "bf16").memory_mb > 1.5 * cost.memory_mb
