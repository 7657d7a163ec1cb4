import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ctlib.config import DataConfig
from ctlib.data.clips import test_loader as make_loader
from ctlib.evaluate import Scores, evaluate, interval
from ctlib.models import build_model, model_config


def test_topk_is_percent_of_all_videos():
    logits = torch.tensor([[3.0, 2, 1], [1, 3, 2], [1, 2, 3], [3, 2, 1]])
    scores = Scores(logits, torch.tensor([0, 2, 0, 2]))
    assert scores.topk(1) == pytest.approx(25) and scores.topk(2) == pytest.approx(50)
    assert scores.topk(5) == pytest.approx(100)


def test_views_are_averaged_as_logits_and_every_video_counts_once(val_samples):
    class MeanColour(nn.Module):
        def forward(self, clips):
            return clips.mean((2, 3, 4))

    loader = make_loader(val_samples, 4, DataConfig(size=16, short_side=24, clips=2, crops=3, workers=0), batch=5)
    model = MeanColour().train()
    scores = evaluate(model, loader, Accelerator(cpu=True))
    assert scores.labels.tolist() == [sample.label for sample in val_samples]
    expected = torch.stack([loader.dataset[i][0].mean((2, 3, 4)).mean(0) for i in range(len(val_samples))])
    torch.testing.assert_close(scores.logits, expected)
    assert model.training


def test_tsn_answers_a_video_and_its_reverse_alike_and_ctnet_does_not(val_samples):
    """From decoded files on: what makes 50 % the exact bound of frame averaging."""
    loader = make_loader(val_samples, 8, DataConfig(size=32, clips=2, workers=0), batch=8)
    apart = {}
    for name in ("tsn_quickstart", "ctnet_quickstart"):
        torch.manual_seed(0)
        network = build_model(model_config(name, num_classes=16))
        nn.init.normal_(network.fc.weight)
        scores = evaluate(network, loader, Accelerator(cpu=True))
        forward, backward = scores.logits[::2], scores.logits[1::2]
        apart[name] = ((forward - backward).norm() / forward.norm()).item()
        if name == "tsn_quickstart":
            assert torch.equal(forward.argmax(1), backward.argmax(1))
            assert scores.topk(1) <= 50
    assert apart["tsn_quickstart"] < 1e-5 < 1e-4 < apart["ctnet_quickstart"]


def test_the_interval_is_over_groups():
    right = np.array([True, False] * 50)
    alone = interval(right, list(map(str, range(100))))
    paired = interval(right, [str(i // 2) for i in range(100)])
    assert alone[0] == paired[0] == 50
    assert alone[1] == pytest.approx(198.4 * right.std(ddof=1) / 10, rel=1e-3)  # t of 99 degrees: 1.984
    assert paired[1] == 0  # each pair is half right: no spread at all
