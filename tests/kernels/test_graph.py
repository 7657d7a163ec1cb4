import pytest
import torch

from ctlib.kernels import graph
from tests.kernels.graph_steps import learns_as_without_graphs, replayed_on_the_cpu


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    monkeypatch.setattr(graph, "capture", replayed_on_the_cpu)


@pytest.mark.parametrize("adds", [True, False])
def test_steps_as_graphs_learn_the_same(adds):
    learns_as_without_graphs(adds, "cpu")


def test_a_step_that_cannot_be_captured_is_refused_in_one_line(monkeypatch):
    def refuses(function, device):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")

    monkeypatch.setattr(graph, "capture", refuses)
    model = torch.nn.Linear(2, 2)
    text = r"cannot be a CUDA graph \(.*not permitted when stream is capturing.*\): set compute.graph=false"
    with pytest.raises(ValueError, match=text):
        graph.StepGraph(lambda x: 2 * x, model)(torch.ones(3))
    model(torch.ones(2)).sum().backward()
    with pytest.raises(ValueError, match=text):
        graph.UpdateGraph(lambda: torch.zeros(()), torch.optim.SGD(model.parameters(), 0.1))([0.1])


def test_a_graph_takes_inputs_of_one_shape():
    step = graph.StepGraph(lambda x: 2 * x, torch.nn.Linear(2, 2))
    assert step(torch.ones(3)).tolist() == [2, 2, 2] and step(torch.zeros(3)).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"of inputs of \(3,\) got \(2,\)"):
        step(torch.ones(2))


def test_scores_of_a_graph_stay_when_it_is_replayed():
    network = graph.InferenceGraph(torch.nn.Linear(2, 3))
    one, two = torch.ones(1, 2), torch.zeros(1, 2)
    first = network(one)
    second = network(two)
    assert torch.equal(first, network.network(one)) and torch.equal(second, network.network(two))
    assert not first.requires_grad


def test_a_graph_that_is_captured_in_inference_mode_serves_outside_too():
    network, clips = graph.InferenceGraph(torch.nn.Linear(2, 3)), torch.ones(1, 2)
    with torch.inference_mode():
        inside = network(clips)
    assert torch.equal(network(clips), inside)
