import copy

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ctlib import checkpoints, cost, files
from ctlib.config import ComputeConfig, DataConfig
from ctlib.data.catalog import Samples
from ctlib.data.clips import SKIPPED, ClipDataset
from ctlib.data.clips import test_loader as make_loader
from ctlib.data.views import View
from ctlib.models import NotFiniteError, build_model, model_config
from ctlib.training import evaluate as testing
from ctlib.training.evaluate import Evaluation, Protocol, Scores, ensemble, evaluate
from ctlib.training.processes import launch


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
        ({"fingerprint": "g"}, r"networks 1 and 2 .* other videos or classes: lists f \(2 videos\) and g"),
        ({"labels": (0, -1)}, "other videos"),
    ],
)
def test_an_ensemble_refuses_what_does_not_belong_together(other, text):
    logits = [[0.0, 1.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match=text):
        ensemble([scores(logits), scores(logits, **other)])
    with pytest.raises(ValueError, match="at least one network"):
        ensemble([])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_no_accuracy(val_samples, tmp_path, value):
    network = build_model(model_config("tsn_quickstart", num_classes=16))
    with torch.no_grad():
        network.fc.bias[3] = value
    loader = make_loader(val_samples, 2, DataConfig(size=32, workers=0), 16)
    with pytest.raises(NotFiniteError, match="not finite for 32 of 32 clips or videos, the first of them val/000000_f"):
        evaluate(network, loader, Accelerator(cpu=True))
    logits = torch.zeros(3, 16)
    logits[1, 3] = value
    for label, refused in ((1, True), (SKIPPED, False)):  # what was not read has no scores
        Scores(logits, torch.tensor([0, label, 2])).save(tmp_path / "s.npz")
        if refused:
            with pytest.raises(ValueError, match=r"s\.npz holds no scores, or is damaged .scores that are not finite"):
                Scores.load(tmp_path / "s.npz")
        else:
            assert Scores.load(tmp_path / "s.npz").skipped == 1


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


class Noise(Dataset):
    """Two views of each of `count` videos of noise; every fifth could not be read."""

    def __init__(self, count):
        self.samples = Samples([(f"v{index}", index % 3, None) for index in range(count)], ["a", "b", "c"], "/nowhere")

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        views = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(index))
        return views, -1 if index % 5 == 4 else self.samples[index].label


COUNTS = range(1, 10)  # videos; with batches of 2 in two processes, every remainder and fewer videos than processes


def small_network():
    torch.manual_seed(0)
    network = build_model(model_config("ctnet_quickstart", num_classes=3))
    nn.init.normal_(network.fc.weight)
    return network


def scored_lists(_send=None):
    """The scores of lists of every length, the batches counted, and how the network was wrapped; in any process."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    network = accelerator.prepare(small_network())
    before = copy.deepcopy(network.state_dict())
    results, steps = [], []
    for count in COUNTS:
        loader = accelerator.prepare(DataLoader(Noise(count), batch_size=2))
        scores = evaluate(network, loader, accelerator, on_step=lambda *step: steps.append(step))
        results.append((scores.logits.tolist(), scores.labels.tolist()))
    assert accelerator.unwrap_model(network).training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    return results, steps, type(network).__name__


@pytest.mark.slow
def test_two_processes_find_to_the_bit_what_one_computes_whatever_the_length_of_the_list():
    alone, _, _ = scored_lists()
    together, steps, kind = launch(scored_lists, processes=2)
    assert kind == "DistributedDataParallel"
    for count, one, two in zip(COUNTS, alone, together, strict=True):
        assert len(one[1]) == count
        assert one == two, count
    assert steps[:1] == [(1, 1)] and steps[-3:] == [(1, 3), (2, 3), (3, 3)]  # 9 videos: 5 batches, 3 in each process


def test_many_batches_from_workers_hold_no_files_open():
    """A tensor from a worker is a file; a system allows a process a thousand or so."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        loader = DataLoader(Noise(150), batch_size=1, num_workers=1)
        means = nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(1))
        scores = evaluate(means, loader, Accelerator(cpu=True))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(scores.labels) == 150 and scores.skipped == 30


PROTOCOL = Protocol("ctnet_r50", "0123456789abcdef", 8, 256, 256, "sparse", 2, 3, "bf16", 37.32, 20_959_150)


@pytest.fixture
def saved(tmp_path):
    whole = scores([[2.0, 1.0], [0.0, 1.0]], (0, -1), ("ein Stück", "b"))._replace(protocols=(PROTOCOL,))
    whole.save(tmp_path / "new" / "s.npz")
    return whole, tmp_path / "new" / "s.npz"


def same(first, second):
    return (
        torch.equal(first.logits, second.logits)
        and torch.equal(first.labels, second.labels)
        and first[2:] == second[2:]
    )


def test_scores_make_the_round_trip_and_an_ensemble_is_made_of_what_was_saved(saved):
    whole, path = saved
    loaded = Scores.load(path)
    assert same(loaded, whole) and loaded.protocols[0].views == 6
    assert [file.name for file in path.parent.iterdir()] == ["s.npz"]
    both = ensemble([loaded, loaded._replace(logits=-loaded.logits)])
    assert both.logits.abs().sum() == 0 and both.protocols == (PROTOCOL, PROTOCOL)
    both.save(path)
    assert same(Scores.load(path), both)


def test_saved_scores_are_plain_arrays(saved):
    with np.load(saved[1], allow_pickle=False) as content:
        assert {name: content[name].dtype.kind for name in content} == {"about": "U", "logits": "f", "labels": "i"}


def test_what_holds_no_scores_is_refused(saved, tmp_path):
    _, path = saved
    with pytest.raises(FileNotFoundError, match=r"no scores .*none\.npz"):
        Scores.load(tmp_path / "none.npz")
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[content.index(b"NUMPY", content.index(b"logits")) + 130] ^= 1  # one bit of the logits
    for other in (b"", b"text", content[: len(content) // 2], content[:-30], bytes(damaged)):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=r"s\.npz holds no scores, or is damaged \("):
            Scores.load(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ValueError, match="holds no scores"):
        Scores.load(path)
    np.savez(path, about='{"format": 2}', logits=np.zeros((1, 2), np.float32), labels=np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="format 2, this version of ctlib reads 1"):
        Scores.load(path)
    np.savez(path, about='{"format": 1}', logits=np.zeros((2, 2), np.float32), labels=np.zeros(1, np.int64))
    with pytest.raises(ValueError, match=r"logits float32 \(2, 2\), labels int64 \(1,\)"):
        Scores.load(path)


def test_a_checkpoint_is_scored_once_per_protocol(val_samples, tmp_path):
    network = build_model(model_config("ctnet_quickstart", num_classes=16, num_frames=4))
    nn.init.normal_(network.fc.weight)
    checkpoints.save(tmp_path / "c.safetensors", network, val_samples.classes)
    data, compute = DataConfig(size=32, clips=2, workers=0), ComputeConfig(device="cpu", micro_batch=16)
    steps = []

    def score(data=data, compute=compute):
        steps.clear()
        evaluation = Evaluation(tmp_path / "c.safetensors", val_samples, data, compute)
        return testing.score(evaluation, tmp_path / "saved", lambda *step: steps.append(step))

    first = score()
    loader = make_loader(val_samples, 4, data, 16)
    assert torch.equal(first.logits, evaluate(network, loader, Accelerator(cpu=True)).logits)
    assert steps == [(step, 4) for step in (1, 2, 3, 4)]
    (protocol,) = first.protocols
    counted = cost.count(network, 4, 32)
    assert protocol == Protocol(
        "ctnet_quickstart", files.digest(tmp_path / "c.safetensors"), 4, 32, 32, "mirrored", 2, 1, "fp32",
        counted.gflops, counted.params,
    )  # fmt: skip
    assert same(score(), first) and steps == []
    assert score(compute=ComputeConfig(device="cpu", precision="bf16")).protocols[0].precision == "bf16" and steps
    assert score(data=DataConfig(size=32, workers=0)).protocols[0].clips == 1 and steps
    nn.init.zeros_(network.fc.weight)
    checkpoints.save(tmp_path / "c.safetensors", network, val_samples.classes)  # another network under the same name
    assert not same(score(), first) and steps
    assert len(list((tmp_path / "saved").iterdir())) == 4


def test_a_network_is_tested_on_the_frames_that_it_was_trained_for(val_samples, tmp_path):
    path, network = tmp_path / "c.safetensors", build_model(model_config("tdn_quickstart", num_classes=16))
    compute = ComputeConfig(device="cpu")

    def protocol(**data):
        return Evaluation(path, val_samples, DataConfig(size=32, **data), compute).protocol()

    checkpoints.save(path, network, val_samples.classes, View(40, 32, 32, "neighbours"))
    asked = protocol(), protocol(sampling="sparse"), protocol(clips=4)
    assert [one.sampling for one in asked] == ["neighbours", "sparse", "neighbours"]
    evaluation = Evaluation(path, val_samples, DataConfig(size=32, workers=0), compute)
    clip = evaluation.loader(asked[0]).dataset[0][0]
    neighbours = ClipDataset(val_samples, 40, 32, sampling="neighbours")
    assert torch.equal(clip, neighbours[0][0]) and not torch.equal(clip, ClipDataset(val_samples, 40, 32)[0][0])


def test_a_list_with_missing_videos_is_not_scored(arrow_root, val_samples, tmp_path):
    checkpoints.save(
        tmp_path / "c.safetensors", build_model(model_config("tsn_quickstart", num_classes=16)), val_samples.classes
    )
    rows = [(val_samples.path(0), 0, None), ("val/lost.mp4", 1, None)]
    samples = Samples(rows, val_samples.classes, arrow_root)
    evaluation = Evaluation(tmp_path / "c.safetensors", samples, DataConfig(size=32), ComputeConfig(device="cpu"))
    with pytest.raises(
        FileNotFoundError, match="1 of the 2 test videos do not exist or are empty, such as 'val/lost.mp4'"
    ):
        testing.score(evaluation, tmp_path / "saved")


def test_predictions_name_each_video(val_samples):
    logits = torch.zeros(len(val_samples), 16)
    logits[:, 3] = 2.0
    labels = torch.tensor([sample.label for sample in val_samples])
    table = Scores(logits, labels).predictions(val_samples)
    assert table.source[1] == val_samples.path(1) and table.label.tolist() == labels.tolist()
    assert set(table.predicted) == {3}
    assert table.confidence[0] == pytest.approx(logits[0].softmax(0)[3].item(), abs=1e-4)
