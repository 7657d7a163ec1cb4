import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ctlib.config import DataConfig
from ctlib.data.clips import test_loader as make_loader
from ctlib.evaluate import Scores, ensemble, evaluate, interval
from ctlib.models import build_model, model_config


def test_topk_is_percent_of_all_videos():
    logits = torch.tensor([[3.0, 2, 1], [1, 3, 2], [1, 2, 3], [3, 2, 1]])
    scores = Scores(logits, torch.tensor([0, 2, 0, 2]))
    assert scores.topk(1) == pytest.approx(25) and scores.topk(2) == pytest.approx(50)
    assert scores.topk(5) == pytest.approx(100)


def scores(logits, labels=(0, 1), classes=("a", "b"), fingerprint="f"):
    return Scores(torch.tensor(logits), torch.tensor(labels), classes, fingerprint)


def test_an_ensemble_averages_logits_of_the_same_videos():
    first, second = scores([[2.0, 1.0], [0.0, 1.0]]), scores([[-4.0, 1.0], [1.0, 3.0]])
    both = ensemble([first, second])
    assert both.logits.tolist() == [[-1, 1], [0.5, 2]] and both.topk(1) == 50
    assert ensemble([first]).logits.tolist() == first.logits.tolist()


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"classes": ("b", "a")}, "networks 1 and 2 .* other classes or another order: 'a' and 'b'"),
        ({"classes": ("a", "b", "c")}, "2 and 3 classes"),
        ({"fingerprint": "g"}, r"other videos: lists f \(2 videos\) and g"),
        ({"labels": (0, -1)}, "other videos"),
    ],
)
def test_an_ensemble_refuses_what_does_not_belong_together(other, text):
    logits = [[0.0, 1.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match=text):
        ensemble([scores(logits), scores(logits, **other)])
    with pytest.raises(ValueError, match="at least one network"):
        ensemble([])


def test_a_network_with_other_classes_than_the_list_is_refused(val_samples):
    loader = make_loader(val_samples, 4, DataConfig(size=16, workers=0), batch=5)
    with pytest.raises(
        ValueError, match="other classes or another order: .*load the checkpoint with the list's classes"
    ):
        evaluate(nn.Identity(), loader, Accelerator(cpu=True), val_samples.classes[::-1])


def test_skipped_videos_count_nowhere():
    part = scores([[0.0, 1.0], [0.0, 1.0], [5.0, 1.0]], labels=(1, 0, -1))
    assert part.skipped == 1 and part.topk(1) == 50


def test_views_are_averaged_as_logits_and_every_video_counts_once(val_samples):
    class MeanColour(nn.Module):
        def forward(self, clips):
            return clips.mean((2, 3, 4))

    loader = make_loader(val_samples, 4, DataConfig(size=16, short_side=24, clips=2, crops=3, workers=0), batch=5)
    model = MeanColour().train()
    scores = evaluate(model, loader, Accelerator(cpu=True))
    assert scores.labels.tolist() == [sample.label for sample in val_samples]
    assert (scores.classes, scores.fingerprint) == (val_samples.classes, val_samples.fingerprint)
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
