"""What graphs are checked by: on a CPU, where nothing can be captured, and on a GPU."""

import copy

import torch
from torch.nn import functional as F

from ctlib.kernels import graph
from ctlib.models import build_model, model_config


def replayed_on_the_cpu(function, device):
    """`graph.capture` without a GPU: what is replayed is the function itself."""
    assert device.type == "cpu"
    for _ in range(graph.WARM_UPS):
        function()
    output = function()
    return lambda: output.copy_(function()), output


def learns_as_without_graphs(adds: bool, device: str) -> None:
    """Three steps with other clips, dropout and learning rates, of two micro-batches each if gradients are added."""
    torch.manual_seed(0)
    start = build_model(model_config("ctnet_quickstart", num_classes=5, num_frames=4, dropout=0.5), seed=0)
    start = start.double().to(device).train()
    clips = torch.randn(3, 2 if adds else 1, 4, 3, 4, 32, 32, dtype=torch.double, device=device)
    learned = [_after(copy.deepcopy(start), clips, adds, graphs) for graphs in (False, True)]
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name], value, rtol=1e-6, atol=1e-8)
        assert value.ndim < 2 or not torch.equal(value, start.state_dict()[name])


def _after(model, clips, adds, graphs) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    labels = torch.arange(clips.shape[2], device=clips.device)

    def step(batch):
        loss = F.cross_entropy(model(batch), labels)
        loss.backward()
        return loss.detach()

    def update():
        optimizer.step()
        optimizer.zero_grad(set_to_none=not graphs)
        return labels.sum()

    def update_at(rates):
        optimizer.param_groups[0]["lr"] = rates[0]
        update()

    if graphs:
        step, update_at = graph.StepGraph(step, model, adds), graph.UpdateGraph(update, optimizer)
    for number, batch in enumerate(clips):
        for turn, micro_batch in enumerate(batch):
            torch.manual_seed(10 * number + turn)
            step(micro_batch)
        update_at([(number + 1) / 128])  # exact in single precision, in which a graph has it
    return model.state_dict()
