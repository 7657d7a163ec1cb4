"""Ways of an operation that are chosen by timing: as on a GPU, but here on the CPU."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from ctlib import kernels
from ctlib.ct_module import CTModule
from ctlib.deploy import optimize
from ctlib.excitation import TensorExcitation
from ctlib.kernels import choice, folded, gating, merging, operations
from ctlib.kernels.passes import PYTORCH, excite_in_passes
from ctlib.models import build_model, model_config, recompute_blocks
from tests.kernels.excitation_in_passes import (
    as_close_in_half_precision,
    features,
    nan_stays_nan,
    same_in_double_precision,
)


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.setattr(choice, "_choices", {})
    for name in ("_used", "_met", "_tried"):
        monkeypatch.setattr(choice, name, set())


@pytest.fixture
def on_this_device(monkeypatch):
    monkeypatch.setattr(choice, "DEVICES", {"cpu"})


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1), (1, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize(("size", "out"), [(8, 64), (8, 32), (1, 64)])
def test_merged_groups_convolve_as_before_and_have_the_same_gradients(kernel, size, out):
    x, weight = features(2, 64, 3, 5, 4), features(out, size, *kernel)
    groups = 64 // size
    expected = operations.convolve_plain(x, weight, None, groups)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (x, weight), upstream)
    merges = merging.merges(64, groups)
    assert list(merges) == ["groups", "blocks of 16", "blocks of 32", "dense"]
    for merge in merges.values():
        merged = operations._convolve(x, merging.merged(weight, groups, merge), groups // merge)
        torch.testing.assert_close(merged, expected, rtol=1e-10, atol=1e-10)
        for found, wanted in zip(torch.autograd.grad(merged, (x, weight), upstream), gradients, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1), (1, 1, 1)])
def test_merged_groups_are_as_close_as_the_plain_ones_in_half_precision(kernel):
    x, weight = features(2, 64, 3, 5, 4), features(64, 8, *kernel)
    x, weight = (value.detach().bfloat16().double().requires_grad_() for value in (x, weight))
    upstream = torch.randn_like(x).bfloat16()

    def values(merge, dtype):
        given = [value.detach().to(dtype).requires_grad_() for value in (x, weight)]
        out = operations._convolve(given[0], merging.merged(given[1], 8, merge) if merge > 1 else given[1], 8 // merge)
        return [out.detach(), *torch.autograd.grad(out, given, upstream.to(dtype))]

    exact, plain = values(1, torch.double), values(1, torch.bfloat16)
    for merge in list(merging.merges(64, 8).values())[1:]:
        for found, ours, wanted in zip(values(merge, torch.bfloat16), plain, exact, strict=True):
            assert (found - wanted).norm() <= 1.5 * (ours - wanted).norm() + 0.005 * wanted.norm()


@pytest.mark.parametrize("check", [same_in_double_precision, as_close_in_half_precision, nan_stays_nan])
def test_excitation_in_six_passes_is_the_plain_one_with_its_gradients(check):
    check(PYTORCH)


def test_excitation_in_triton_is_the_plain_one_with_its_gradients():
    """Through its interpreter, which must be asked for before Triton is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.kernels.excitation_in_passes"]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


def test_a_frozen_gate_passes_gradients_on():
    excitation = TensorExcitation(16, 8).double().requires_grad_(False)
    spatial, temporal = features(2, 16, 3, 6, 5), features(2, 16, 3, 6, 5)
    for way in (gating.excite_plain, lambda *x: excite_in_passes(*x, PYTORCH)):
        out = way(spatial, temporal, excitation.gates()).sum()
        gradients = torch.autograd.grad(out, (spatial, temporal))
        if way is gating.excite_plain:
            expected = gradients
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-10)


def test_on_a_cpu_nothing_is_timed():
    CTModule(16)(torch.randn(1, 16, 2, 4, 4)).sum().backward()
    assert "nothing was chosen" in kernels.report() and choice.recorded() == {}


def test_every_shape_is_timed_once_and_the_fastest_way_is_taken(on_this_device, monkeypatch):
    timed = []
    monkeypatch.setattr(
        choice, "_milliseconds", lambda way, inputs, backward, rounds=5: timed.append(way) or 9 / len(timed)
    )
    x, weight = torch.randn(1, 64, 2, 4, 4), torch.randn(64, 8, 1, 3, 3)
    assert merging.fastest_merge(operations._convolve, x, weight, 8) == 1 and not timed  # without gradients, at first
    for _ in range(2):
        assert merging.fastest_merge(operations._convolve, x, weight, 8) == 8  # the last one timed
    assert len(timed) == 4
    merging.fastest_merge(operations._convolve, x, weight.requires_grad_(), 8)
    assert len(timed) == 8
    keys = ["convolution 1x64x2x4x4 by 64x8x1x3x3, float32, " + what for what in ("inference", "training")]
    assert choice.recorded() == dict.fromkeys(keys, "dense")
    assert f"{keys[0]}: dense (groups 9.000 ms, " in kernels.report()
    choice.begin_record({keys[0]: "groups"})
    assert choice.recorded() == {keys[0]: "groups"}  # also of a run that has no step left
    assert merging.fastest_merge(operations._convolve, x, weight.detach(), 8) == 1 and len(timed) == 9  # tried once
    assert choice.recorded() == {keys[0]: "groups"}


def test_a_merged_weight_stays_where_a_graph_of_another_shape_reads_it(on_this_device, monkeypatch):
    conv = folded.as_conv2d(torch.randn(64, 8, 1, 3, 3), None, 8)
    merges = {1: 8, 8: 2}  # by the number of clips
    monkeypatch.setattr(folded, "fastest_merge", lambda convolve, x, weight, groups: merges[len(x)])
    small, large = torch.randn(1, 64, 4, 4), torch.randn(8, 64, 4, 4)
    scores = conv(small)
    lies_at = conv.kept[8][1].data_ptr()
    conv(large)
    assert torch.equal(conv(small), scores) and conv.kept[8][1].data_ptr() == lies_at
    with torch.no_grad():
        conv.weight.mul_(2)
    assert torch.allclose(conv(small), 2 * scores)


def test_a_benchmark_may_ask_for_one_way_of_what_was_timed(on_this_device):
    x = torch.randn(2, 64, 3, 5, 4, requires_grad=True)
    for size in (8, 32):
        operations.convolve(x, torch.randn(64, size, 1, 1, 1, requires_grad=True), None, 64 // size)
    before = {key: kept.way for key, kept in choice._choices.items()}
    assert choice.timed_ways() == ["groups", "blocks of 16", "blocks of 32", "dense"]
    with choice.preferring("blocks of 16"):
        assert [kept.way for kept in choice._choices.values()] == ["blocks of 16", "groups"]
    assert {key: kept.way for key, kept in choice._choices.items()} == before


def test_a_record_of_one_run_does_not_decide_in_the_next(on_this_device):
    x, ways = torch.ones(3, requires_grad=True), {"plain": lambda x: 2 * x, "fast": lambda x: x + x}
    choice.begin_record({"double 3, float32, training": "fast"})
    choice.begin_record()
    assert choice.recorded() == {} and choice.fastest("double", ways, x) in ways
    assert "from a record" not in kernels.report()


def test_for_graphs_ways_are_chosen_apart(on_this_device):
    x, weight = torch.randn(1, 16, 2, 4, 4), torch.randn(16, 4, 1, 3, 3).requires_grad_()
    merging.fastest_merge(operations._convolve, x, weight, 4)
    with choice.in_graphs():
        merging.fastest_merge(operations._convolve, x, weight, 4)
    key = "convolution 1x16x2x4x4 by 16x4x1x3x3, float32, training"
    assert list(choice.recorded()) == [key, f"{key} in a graph"]


def test_a_way_that_fails_is_left_out_and_named_and_the_plain_one_is_not(on_this_device):
    def fails(x):
        raise RuntimeError("no compiler")

    for _ in range(2):
        assert choice.fastest("double", {"plain": lambda x: 2 * x, "fast": fails}, torch.ones(3)) == "plain"
    assert "fast failed: RuntimeError: no compiler" in kernels.report()
    with pytest.raises(RuntimeError, match="no compiler"):
        choice.fastest("other", {"plain": fails, "fast": lambda x: x}, torch.ones(3, requires_grad=True))


def test_a_way_of_a_record_that_cannot_be_had_here_is_chosen_anew(on_this_device):
    def fails(x):
        raise RuntimeError("no compiler")

    x = torch.ones(3, requires_grad=True)
    choice.begin_record({"double 3, float32, training": "fast"})
    assert choice.fastest("double", {"plain": lambda x: 2 * x, "fast": fails}, x) == "plain"
    assert choice.recorded() == {"double 3, float32, training": "plain"}


def test_one_setting_takes_the_plain_way_everywhere(on_this_device):
    with choice.using("plain"):
        CTModule(16)(torch.randn(1, 16, 2, 4, 4))
        assert choice.recorded() == {}
    with pytest.raises(ValueError, match="unknown kernels 'fast'"):
        kernels.use("fast")


@pytest.fixture
def ways_that_run_here(monkeypatch):
    ways = {"plain": gating.excite_plain, "passes": partial(excite_in_passes, passes=PYTORCH)}
    for module in (gating, folded):
        monkeypatch.setattr(module, "excite_ways", lambda: ways)


@pytest.fixture
def always_the_last(ways_that_run_here, monkeypatch):
    """All groups merged, and excitation in passes of PyTorch."""
    monkeypatch.setattr(choice, "_timed", lambda ways, inputs, backward: choice.Choice(list(ways)[-1]))


def test_a_network_in_chosen_ways_scores_and_learns_as_before(on_this_device, always_the_last):
    model = build_model(model_config("ctnet_quickstart", num_classes=5, num_frames=4, dropout=0.0), seed=0).double()
    clips = torch.randn(2, 3, 4, 32, 32, dtype=torch.double)
    results = {}
    for mode in ("plain", "auto"):
        with choice.using(mode):
            model.zero_grad()
            scores = model.train()(clips)
            scores.square().sum().backward()
            ready = optimize(model.eval())
            with torch.no_grad():
                ready(clips)
                results[mode] = [scores, model(clips), ready(clips), ready(clips)]
            results[mode] += [parameter.grad.clone() for parameter in model.parameters()]
            model.load_state_dict(build_model(model.config, seed=0).double().state_dict())
    used = choice.recorded()
    assert {way for key, way in used.items() if "excitation" in key} == {"passes"}
    assert {way for key, way in used.items() if key.startswith("convolution")} == {"dense"}
    for auto, plain in zip(results["auto"], results["plain"], strict=True):
        torch.testing.assert_close(auto, plain, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("recompute", [False, True])
def test_ways_are_timed_within_a_network_that_learns_and_one_that_is_optimized(
    on_this_device, ways_that_run_here, monkeypatch, recompute
):
    monkeypatch.setattr(choice, "GAIN", 9.0)  # so that other ways than the plain one are taken too
    config = model_config("ctnet_quickstart", num_classes=5, num_frames=2, dropout=0.0, blocks=((1,), (), (), (1,)))
    clips = torch.randn(2, 3, 2, 32, 32, dtype=torch.double)
    results = {}
    for mode in ("plain", "auto"):
        model = build_model(config, seed=0).double()
        recompute_blocks(model, recompute)
        calls = []
        model.backbone.layer4[1].conv1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with choice.using(mode):
            model(clips).square().sum().backward()
            assert len(calls) == 1 + recompute
            ready = optimize(model.eval())
            with torch.no_grad():
                scores = [ready(clips[:count]) for count in (2, 2, 2, 1, 1, 1)]
            with torch.no_grad():
                for parameter in ready.parameters():
                    parameter.mul_(0.9)  # what was merged must follow
                scores += [ready(clips), ready.bfloat16()(clips.bfloat16())]
        results[mode] = [parameter.grad for parameter in model.parameters()] + scores[:-1]
    assert {key.rsplit(", ")[-1] for key in choice._choices} == {"training", "inference"}
    for auto, plain in zip(results["auto"], results["plain"], strict=True):
        torch.testing.assert_close(auto, plain, rtol=1e-8, atol=1e-10)


def test_a_compiled_network_takes_what_was_chosen_before(on_this_device, always_the_last):
    class Whole(nn.Module):
        def forward(self, x):
            return module(x)

    module = CTModule(16).double().eval()
    clips = torch.randn(1, 16, 2, 4, 4, dtype=torch.double)
    with torch.no_grad():
        module(clips)
        expected = module(clips)
        graphs = []
        whole = torch.compile(Whole(), backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True)
        torch.testing.assert_close(whole(clips), expected)
    groups = {node.args[6] for node in graphs[0].graph.nodes if "conv2d" in str(node.target) and len(node.args) > 6}
    groups |= {node.kwargs["groups"] for node in graphs[0].graph.nodes if "groups" in node.kwargs}
    assert groups == {1}
