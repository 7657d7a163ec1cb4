import dataclasses
import errno
import math
import multiprocessing
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from safetensors.torch import load_file
from torch import nn

import ctlib
from ctlib import checkpoints, files
from ctlib.backbones import Backbone
from ctlib.commands import main
from ctlib.config import ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.data import clips
from ctlib.data.clips import ClipDataset
from ctlib.data.video import VideoError
from ctlib.data.views import View
from ctlib.kernels import graph
from ctlib.models import model_config
from ctlib.training import network as network_of_run
from ctlib.training import processes, records, share, train, trainer
from ctlib.training.run import make_accelerator, resolve
from tests.kernels.graph_steps import replayed_on_the_cpu


@pytest.fixture(scope="module")
def config(arrow_root):
    return RunConfig(
        name="tiny",
        model=model_config("ctnet_quickstart", num_classes=16, num_frames=4),
        data=DataConfig(root=str(arrow_root), size=32, flip=True, workers=0),
        recipe=RecipeConfig(epochs=2, batch=8, warmup=0.5),
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A finished run: its folder, its result, and what its callbacks were called with."""
    folder, steps, rows = records.RunFolder(tmp_path_factory.mktemp("finished") / "run"), [], []
    result = train.train(config, folder.path, on_step=lambda *at: steps.append(at), on_epoch=rows.append)
    return SimpleNamespace(folder=folder, result=result, steps=steps, rows=rows)


def test_a_run_is_recorded_whole(finished):
    folder, result = finished.folder, finished.result
    assert sorted(path.name for path in folder.path.glob("[!.]*")) == [
        "checkpoint.safetensors",
        "config.json",
        "history.csv",
        "predictions.csv",
        "result.json",
    ]
    assert [at[:2] for at in finished.steps] == [(i, 8) for i in range(1, 9)]
    assert [row["epoch"] for row in finished.rows] == [1, 2] and folder.history().epoch.tolist() == [1, 2]
    row = records.load(folder.path.parent).iloc[0]
    expected = {
        "name": "tiny",
        "model": "ctnet_quickstart",
        "data": "arrow",
        "num_frames": 4,
        "size": 32,
        "clips": 1,
        "crops": 1,
        "seed": 0,
        "epochs": 2,
    }
    assert {key: row[key] for key in expected} == expected
    assert row.gflops > 0 and row.params > 1e5 and row.seconds > 0 and 0 <= row.top1 <= row.top5 <= 100
    predictions = folder.predictions()
    right = (predictions.label == predictions.predicted).mean()
    assert len(predictions) == 32 and row.top1 == pytest.approx(100 * right) == pytest.approx(result["top1"])
    saved = checkpoints.load(folder.checkpoint)
    assert saved.classes[0].startswith("Pushing") and saved.model.config.backbone == "quickstart"
    assert saved.view == View(num_frames=4, size=32, short_side=32, sampling="mirrored")


def test_a_checkpoint_remembers_its_record(finished):
    record = checkpoints.load(finished.folder.checkpoint).record
    assert record == {name: finished.result[name] for name in records.IN_CHECKPOINT}


def test_a_run_is_shared_in_half_precision_as_it_is_tested_then(finished, config, tmp_path, capsys):
    assert main(["share", str(finished.folder.path), str(tmp_path / "out")]) == 0
    loaded = ctlib.from_pretrained(tmp_path / "out")
    record = loaded.record
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: top-1 {record['top1']:.2f} %, before rounding ")
    full, state = finished.folder.checkpoint, load_file(tmp_path / "out" / "model.safetensors")
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 0.6 * full.stat().st_size
    assert state["fc.weight"].dtype == torch.float16 and state["fc.bias"].dtype == torch.float32
    assert torch.equal(loaded.model.fc.weight, checkpoints.load(full).model.fc.weight.half().float())
    assert loaded.view == checkpoints.load(full).view and checkpoints.located(tmp_path / "out").is_file()
    assert record["top1_trained"] == finished.result["top1"] and record["stored"] == "float16"
    samples = resolve(config).samples["val"]
    dataset = ClipDataset(samples, 4, 32)
    with torch.no_grad():
        predicted = loaded.model(torch.cat([dataset[i][0] for i in range(len(samples))])).argmax(1)
    right = predicted == torch.tensor([sample.label for sample in samples])
    assert record["top1"] == pytest.approx(100 * right.float().mean().item(), abs=1e-3)
    low, high = record["interval"]
    assert 0 <= low <= record["top1"] <= high <= 100
    assert f"Top-1 is {record['top1']:.1f} %" in (tmp_path / "out" / "README.md").read_text()
    assert main(["share", str(tmp_path / "out"), str(tmp_path / "again")]) == 2
    assert "out is a shared network, not a run: name the folder of its run" in capsys.readouterr().err
    assert main(["share", "ctnet_quickstart_arrow", str(tmp_path / "again")]) == 2
    assert "is no run, and ships already: ctlib.from_pretrained('ctnet_quickstart_arrow')" in capsys.readouterr().err


def test_a_run_is_not_shared_into_the_folder_of_a_run(finished, capsys):
    before = (finished.folder.path / "config.json").read_bytes()
    assert main(["share", str(finished.folder.path), str(finished.folder.path)]) == 2
    assert "config.json is not of a shared network, and would be replaced" in capsys.readouterr().err
    assert (finished.folder.path / "config.json").read_bytes() == before


def test_a_run_on_other_videos_is_not_shared(finished, tmp_path):
    copy = shutil.copytree(finished.folder.path, tmp_path / "run")
    files.write_json(copy / "result.json", {**finished.result, "fingerprint": "aa-bb"})
    with pytest.raises(ValueError, match="run was tested on other videos than lie in .* now"):
        share.share(copy, tmp_path / "out")
    (copy / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match="result.json"):
        share.share(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_videos_left_out_and_skipped_are_in_the_record(config, arrow_root, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(arrow_root, copy)
    names = (copy / "train.txt").read_text().split()[::3]
    (copy / names[3]).write_bytes(b"no video")
    data = dataclasses.replace(config.data, root=str(copy), on_error="skip", max_skipped=5.0)
    config = dataclasses.replace(config, data=data)
    with pytest.warns(UserWarning, match="skipped: .*not a readable video"):
        result = train.train(config, tmp_path / "run")
    assert (result["train_videos"], result["train_listed"], result["train_skipped"], result["skipped"]) == (
        32,
        32,
        1,
        0,
    )
    assert records.RunFolder(tmp_path / "run").history().skipped.tolist() == [1, 1]
    few = dataclasses.replace(config, data=dataclasses.replace(data, max_skipped=3.0))
    with (
        pytest.warns(UserWarning),
        pytest.raises(trainer.TrainingError, match="1 of the 32 training videos .* than the 3.0 %"),
    ):
        train.train(few, tmp_path / "few")

    folder = tmp_path / "checked"
    folder.mkdir()
    good = [name for split in ("train", "val") for name in (copy / f"{split}.txt").read_text().split()[::3]]
    good.remove(names[3])
    (folder / "good.csv").write_text("path,frames\n" + "".join(f"{name},48\n" for name in good))
    (folder / "bad.csv").write_text(f"path,reason\n{names[3]},empty\n")
    checked = dataclasses.replace(data, checked=str(folder), on_error="stop")
    result = train.train(dataclasses.replace(config, data=checked), tmp_path / "checked run")
    assert (result["train_videos"], result["train_listed"], result["videos"], result["listed"]) == (31, 32, 32, 32)
    assert (result["sampling"], result["flip"]) == ("mirrored", True)


@pytest.mark.parametrize("split", ["train", "val"])
def test_where_nothing_can_be_read_there_is_no_result(config, arrow_root, tmp_path, split):
    copy = shutil.copytree(arrow_root, tmp_path / "data")
    for path in (copy / split).glob("*.mp4"):
        path.write_bytes(b"")
    every = replaced(config, data={"root": str(copy), "on_error": "skip", "max_skipped": 100.0}, recipe={"epochs": 1})
    with (
        pytest.warns(UserWarning, match="skipped: .*the file is empty"),
        pytest.raises((trainer.TrainingError, VideoError), match="none of the 32 (training|test) videos could be read"),
    ):
        train.train(every, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def test_only_the_last_epochs_are_tested_where_asked_for(config, finished, tmp_path):
    rows = []
    result = train.train(replaced(config, recipe={"test_epochs": 1}), tmp_path, on_epoch=rows.append)
    history, every = records.RunFolder(tmp_path).history(), finished.folder.history()
    numbers = ["loss", "train_top1", "top1", "top5"]
    assert history[numbers].iloc[1].equals(every[numbers].iloc[1]) and result["top1"] == finished.result["top1"]
    assert history.loc[0, ["top1", "top5"]].isna().all() and math.isnan(rows[0]["top1"])
    assert history.loss.equals(every.loss)
    assert [RecipeConfig(epochs=20, test_epochs=n).first_tested for n in (0, 1, 2, 20, 30)] == [1, 20, 19, 1, 1]


def test_a_frozen_backbone_stays_as_it_was_and_the_rest_learns(config, finished, tmp_path):
    frozen = replaced(config, recipe={"frozen": "backbone", "epochs": 1}, model={"weights": "shapes"})
    folder = records.RunFolder(tmp_path)
    start = network_of_run.build_model(frozen.model, frozen.seed).state_dict()
    train.train(frozen, folder.path)

    def unchanged(folder):
        end = load_file(folder.checkpoint)
        return {key for key in start if torch.equal(start[key], end[key]) and "running" not in key}

    assert {"backbone.conv1.weight", "backbone.layer2.0.conv2.weight"} <= unchanged(folder)
    assert not any(key.startswith(("fc.", "backbone.layer2.1.")) for key in unchanged(folder))
    assert "backbone.conv1.weight" not in unchanged(finished.folder)


def test_each_epoch_draws_other_views_in_another_order(config, tmp_path, monkeypatch):
    keys = []
    item = ClipDataset.__getitem__

    def recorded(self, key):
        if self.train:
            keys.append(key)
        return item(self, key)

    monkeypatch.setattr(ClipDataset, "__getitem__", recorded)
    train.train(config, tmp_path)
    assert [epoch for epoch, _ in keys] == [0] * 32 + [1] * 32
    first, second = ([index for epoch, index in keys if epoch == wanted] for wanted in (0, 1))
    assert sorted(first) == sorted(second) == list(range(32)) and first != second


def test_a_finished_run_is_not_run_again(config, finished, tmp_path):
    tmp_path = shutil.copytree(finished.folder.path, tmp_path / "run")
    again = train.train(config, tmp_path, on_step=lambda *_: pytest.fail("trained again"))
    assert again == finished.result
    served = train.train(dataclasses.replace(config, rows=(("2a", "CT-Module"),)), tmp_path)
    assert served["rows"] == [["2a", "CT-Module"]] and train.train(config, tmp_path) == served
    with pytest.raises(ValueError, match="holds a run with other parameters .seed is 0 in the record, 1 was asked for"):
        train.train(dataclasses.replace(config, seed=1), tmp_path)


def test_a_finished_run_on_other_data_is_refused(config, finished, tmp_path, arrow_root):
    """The lists are the same; only the difficulty of the videos differs."""
    shutil.copytree(arrow_root, tmp_path / "data")
    stamp = tmp_path / "data" / "arrow.json"
    stamp.write_text(stamp.read_text().replace('"difficulty": 0.2', '"difficulty": 0.6'))
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path / "data")))
    with pytest.raises(ValueError, match="fingerprint is .* in the record, .* was asked for"):
        train.train(other, finished.folder.path)


def test_a_refused_or_interrupted_run_does_not_block_its_correction(config, tmp_path):
    wrong = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, batch=500))
    with pytest.raises(ValueError, match="batch must be at most the 32 training videos, got 500"):
        train.train(wrong, tmp_path)
    assert not (tmp_path / "config.json").exists()
    wrong = resolve(dataclasses.replace(config, seed=3))
    records.RunFolder(tmp_path).start(wrong)  # as an interrupted run leaves it
    assert train.train(config, tmp_path)["epochs"] == 2


def test_an_interrupted_run_is_run_again(config, tmp_path):
    def interrupt(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(config, tmp_path, on_epoch=interrupt)
    assert not (tmp_path / "result.json").exists()
    assert train.train(config, tmp_path)["epochs"] == 2


def test_the_same_seed_gives_the_same_numbers_with_any_number_of_workers(config, finished, tmp_path):
    two = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=2))
    train.train(two, tmp_path / "b")
    first, second = finished.folder, records.RunFolder(tmp_path / "b")
    numbers = ["loss", "train_top1", "top1"]
    assert first.history()[numbers].equals(second.history()[numbers])
    assert first.predictions().equals(second.predictions())
    weights = [load_file(run.checkpoint) for run in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    train.train(dataclasses.replace(config, seed=1), tmp_path / "c")
    assert not first.history().loss.equals(records.RunFolder(tmp_path / "c").history().loss)


def test_dropout_draws_the_same_in_every_network(config, tmp_path, monkeypatch):
    class Recorded(nn.Module):
        def forward(self, features):
            kept = nn.functional.dropout(torch.ones_like(features), 0.5, self.training)
            if self.training:
                masks.append(kept.bool())
            return features * kept

    build = network_of_run.build_model

    def recording(model, seed):
        network = build(model, seed)
        network.dropout = Recorded()
        return network

    monkeypatch.setattr(network_of_run, "build_model", recording)
    drawn = []
    for name, parts in (("tsn", {"blocks": "none"}), ("c3d", {"module": "c3d"}), ("ctnet", {})):
        masks = []
        train.train(replaced(config, model=parts, recipe={"epochs": 1}), tmp_path / name)
        drawn.append(torch.stack(masks))
    assert drawn[0].shape == (4, 8, 4, 512) and 0.45 < drawn[0].double().mean() < 0.55
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_training_from_memory_is_the_same_to_the_last_digit(config, finished, tmp_path):
    train.train(replaced(config, data={"cache": "ram", "workers": 1}), tmp_path)
    first, second = finished.folder, records.RunFolder(tmp_path)
    numbers = ["loss", "train_top1", "top1", "top5"]
    assert first.history()[numbers].equals(second.history()[numbers])
    assert first.predictions().equals(second.predictions())
    weights = [load_file(run.checkpoint) for run in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert train.train(config, tmp_path)["top1"] == finished.result["top1"]  # finished: the cache is no difference


def test_training_on_clips_cut_by_the_device_is_the_same_but_for_rounding(config, finished, tmp_path, monkeypatch):
    """As on a GPU, with the CPU for it."""
    keep = trainer.cache.keep
    monkeypatch.setattr(trainer.cache, "keep", lambda *given: trainer.cache.VideosOnDevice(keep(*given), "cpu"))
    train.train(replaced(config, data={"cache": "ram"}), tmp_path)
    first, second = finished.folder.history(), records.RunFolder(tmp_path).history()
    assert second.loss[0] == pytest.approx(first.loss[0], rel=0.02) and len(second) == 2


def test_a_cache_that_cannot_be_is_refused_before_work(config, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="data.cache 'gpu' needs a GPU, and there is none"):
        train.train(replaced(config, data={"cache": "gpu"}, compute={"device": "cpu"}), tmp_path)
    monkeypatch.setattr(trainer.cache.psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    with pytest.raises(ValueError, match="data.cache 'ram' needs 0.00944 GB"):
        train.train(replaced(config, data={"cache": "ram"}), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_loss_that_is_not_finite_stops_and_names_the_step(config, tmp_path, monkeypatch):
    build = network_of_run.build_model

    def broken(model, seed):
        network = build(model, seed)
        nn.init.constant_(network.fc.bias, float("nan"))
        return network

    monkeypatch.setattr(network_of_run, "build_model", broken)
    with pytest.raises(trainer.TrainingError, match=r"the loss is nan at step 1 \(epoch 1, learning rate"):
        train.train(config, tmp_path)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("lr", "decay", "text"),
    [
        (1e30, 0.0, "scores are not finite for .* the first of them val/.* at step 1 .epoch 1, learning rate 5e.29"),
        (1e38, 1e6, "the weights are not finite .backbone.* at step 1 .epoch 1, learning rate 5e.37"),
    ],
)
def test_a_last_step_that_ends_in_nothing_finite_is_no_accuracy(config, tmp_path, lr, decay, text):
    last = replaced(config, recipe={"epochs": 1, "batch": 32, "warmup": 0.0, "lr": lr, "weight_decay": decay})
    for _ in range(2):  # nor is it one that resumes
        with pytest.raises(trainer.TrainingError, match=text):
            train.train(last, tmp_path)
    assert not (tmp_path / "result.json").exists() and not (tmp_path / records.CHECKPOINT).exists()


def test_bad_data_stops_before_the_first_step(config, tmp_path):
    nowhere = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        train.train(nowhere, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_video_that_is_damaged_stops_with_its_name(config, tmp_path, arrow_root, split):
    copy = tmp_path / "data"
    shutil.copytree(arrow_root, copy)
    (copy / split / "000003_backward.mp4").write_bytes(b"no video")
    broken = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(copy), workers=2))
    before = multiprocessing.active_children()
    with pytest.raises(VideoError, match=f"^{copy}/{split}/000003_backward.mp4: not a readable video"):
        train.train(broken, tmp_path / "run")
    assert set(multiprocessing.active_children()) <= set(before)  # no loader process is left behind


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_trains_on_a_gpu(config, tmp_path, precision):
    result = train.train(dataclasses.replace(config, compute=ComputeConfig(precision=precision)), tmp_path)
    assert (result["device"], result["precision"]) == ("cuda", precision)


def test_bf16_trains_on_a_cpu_too(config, tmp_path):
    recipe, compute = dataclasses.replace(config.recipe, epochs=1), ComputeConfig(precision="bf16")
    assert train.train(dataclasses.replace(config, recipe=recipe, compute=compute), tmp_path)["precision"] == "bf16"


def replaced(config, **parts):
    """The configuration with some fields of some of its parts changed."""
    return dataclasses.replace(
        config, **{part: dataclasses.replace(getattr(config, part), **values) for part, values in parts.items()}
    )


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    few = {"blocks": ((1,), (), (), ())}  # compiling takes its time for each
    config = replaced(config, model=few, recipe={"epochs": 1, "lr": 1e-5}, compute={"device": "cpu"})  # rounding stays
    folder = records.RunFolder(tmp_path_factory.mktemp("plain"))
    train.train(config, folder.path)
    return config, folder


@pytest.mark.parametrize("below", [(), ("name", "seed0")])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(config, tmp_path, below):
    (tmp_path / "file").touch()
    folder = records.RunFolder(tmp_path.joinpath("file", *below))
    for begin in (folder.check_writable, lambda: train.train(config, folder.path)):
        with pytest.raises(OSError, match=f"^{folder.path} cannot be made: {tmp_path}/file is no folder$"):
            begin()


def test_a_folder_that_is_read_only_is_refused_and_a_finished_run_in_it_is_read(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # root may write anywhere
    folder = records.RunFolder(tmp_path / "a" / "seed0")
    with pytest.raises(
        PermissionError, match=f"{folder.path} cannot be written: {tmp_path} is read-only for this user"
    ):
        folder.check_writable()
    assert not folder.path.exists()
    finished.folder.check_writable()


def test_a_disk_that_is_full_at_the_end_is_named_with_the_file(finished, monkeypatch, tmp_path):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/result.json'") as error:
        files.write_json(tmp_path / "result.json", {})
    assert error.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_hold_the_states_is_refused_before_the_first_step(config, tmp_path, monkeypatch):
    monkeypatch.setattr(records.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    steps = []
    with pytest.raises(ValueError, match=r"run has 1 MB free, and the run's snapshots and checkpoint need \d+ MB"):
        train.train(config, tmp_path / "run", on_step=lambda *step: steps.append(step))
    assert not steps and not list((tmp_path / "run").glob("*.json"))


@pytest.mark.parametrize("micro_batch", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_a_step_as_a_graph_trains_to_the_same_weights(config, micro_batch, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "capture", replayed_on_the_cpu)
    config = replaced(config, recipe={"epochs": 2}, compute={"device": "auto", "micro_batch": micro_batch})
    plain = resolve(config)
    train.train(plain, tmp_path / "plain")
    with pytest.raises(ValueError, match=r"compute\.graph needs one GPU"):
        resolve(replaced(config, compute={"graph": True}))
    assert resolve(replaced(config, compute={"graph": None})).config.compute.graph is False
    graphed = dataclasses.replace(plain, config=replaced(config, compute={"graph": True}))
    train.train(graphed, tmp_path / "graph")
    one, two = (records.RunFolder(tmp_path / name) for name in ("plain", "graph"))
    assert (
        two.history()
        .drop(columns=["seconds", "clips_per_second"])
        .equals(one.history().drop(columns=["seconds", "clips_per_second"]))
    )
    one, two = (load_file(folder.checkpoint) for folder in (one, two))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_optimizer_of_a_run_that_goes_on_elsewhere_is_that_of_the_device(config, tmp_path):
    run = resolve(config)
    begun = trainer.Trainer(run, make_accelerator(config.compute, run.precision), records.RunFolder(tmp_path))
    state = {"model": begun.network.state_dict(), "optimizer": begun.optimizer.state_dict(), "scaler": None}
    state |= {part: getattr(begun, part) for part in ("epoch", "step", "totals", "seconds", "history", "sessions")}
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True  # as on a GPU
    begun._restore(state)
    assert not any(group["fused"] for group in begun.optimizer.param_groups)
    begun.close()


def test_what_a_backbone_adds_to_the_loss_is_learned_and_not_recorded(config, tmp_path, monkeypatch):
    plain = resolve(replaced(config, recipe={"epochs": 1}))
    train.train(plain, tmp_path / "plain")
    seen = []

    def shrink(features, num_frames):
        seen.append((len(features) / num_frames, num_frames))
        return 10 * features.square().mean()

    monkeypatch.setattr(Backbone, "extra_loss", staticmethod(shrink))
    train.train(plain, tmp_path / "shrunk")
    one, two = (records.RunFolder(tmp_path / name) for name in ("plain", "shrunk"))
    batch, frames = plain.micro_batch, plain.model.num_frames
    assert set(seen) == {(batch, frames)}  # of training clips only
    assert two.history().loss[0] < 3 * one.history().loss[0]  # of classes alone
    one, two = (load_file(folder.checkpoint) for folder in (one, two))
    assert not torch.equal(one["backbone.conv1.weight"], two["backbone.conv1.weight"])


def test_clips_that_travel_as_bytes_train_and_test_as_others(plain, tmp_path, monkeypatch):
    """The same code as on a GPU: pixels differ by at most 1 of 255."""
    config, first = plain
    monkeypatch.setattr(clips, "RAW_ON", {"cpu"})
    train.train(config, tmp_path)
    second = records.RunFolder(tmp_path)
    assert second.history().loss.tolist() == pytest.approx(first.history().loss.tolist(), rel=1e-3)
    same = second.predictions().confidence.to_numpy() == pytest.approx(
        first.predictions().confidence.to_numpy(), abs=1e-2
    )
    assert same and isinstance(second.result()["kernels"], dict)


@pytest.mark.parametrize(
    "compute",
    [
        {"channels_last": False},
        {"recompute": True},
        pytest.param({"compile": "eager"}, marks=pytest.mark.slow),
        pytest.param({"compile": "eager", "recompute": True}, marks=pytest.mark.slow),
        pytest.param({"threads": 2}, marks=pytest.mark.slow),  # threads wait for each other where cores are busy
    ],
    ids=str,
)
def test_how_a_step_is_computed_changes_no_more_than_rounding(plain, tmp_path, compute):
    config, first = plain
    train.train(replaced(config, compute=compute), tmp_path)
    second = records.RunFolder(tmp_path)
    one, two = (load_file(run.checkpoint) for run in (first, second))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)
    assert second.history().loss.tolist() == pytest.approx(first.history().loss.tolist(), rel=1e-4)
    assert first.result()["peak_memory_mb"] > 0
    # So a run computed one way counts as finished when the other way is asked for.
    assert train.train(replaced(config, compute=compute), first.path) == first.result()


def test_batches_that_cannot_be_shared_out_evenly_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match="a batch of 8 cannot be divided evenly into micro-batches of 3 on 1 process"):
        train.train(replaced(config, compute={"micro_batch": 3}), tmp_path / "run")
    with pytest.raises(ValueError, match="sync_batch_norm needs GPUs, and there is none"):
        train.train(replaced(config, compute={"sync_batch_norm": True}), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_micro_batch_of_unreadable_videos_teaches_nothing_and_stops_nothing(config, tmp_path, arrow_root):
    copy = tmp_path / "data"
    shutil.copytree(arrow_root, copy)
    names = (copy / "train.txt").read_text().split()[::3]
    for name in names[:6]:
        (copy / name).write_bytes(b"")
    some = replaced(
        config,
        data={"root": str(copy), "on_error": "skip", "max_skipped": 20.0, "size": 64},  # 32: one value a channel
        compute={"micro_batch": 1},
        recipe={"epochs": 1},
    )
    with pytest.warns(UserWarning, match="skipped: .*the file is empty"):
        result = train.train(some, tmp_path / "run")
    assert result["train_skipped"] == 6
    weights = load_file(tmp_path / "run" / records.CHECKPOINT)
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_training_starts_from_a_checkpoint(config, finished, tmp_path):
    still = replaced(config, recipe={"lr": 0.0, "epochs": 1})
    started = dataclasses.replace(still, start=str(finished.folder.checkpoint), seed=5)
    result = train.train(started, tmp_path / "second")
    second = records.RunFolder(tmp_path / "second")
    first, second = (load_file(run.checkpoint) for run in (finished.folder, second))
    learned = [key for key in first if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(first[key], second[key]) for key in learned)  # at a rate of 0
    resolved = records.RunFolder(tmp_path / "second").record()["resolved"]
    assert len(resolved["start_digest"]) == 16 and result["seed"] == 5
    other = dataclasses.replace(started, start=str(tmp_path / "second" / records.CHECKPOINT))
    with pytest.raises(ValueError, match="start_digest is .* in the record, .* was asked for"):
        train.train(other, tmp_path / "second")


def test_a_tensorboard_log_holds_what_was_learned(config, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logged = replaced(config, compute={"tracker": "tensorboard"}, recipe={"test_epochs": 1})
    train.train(logged, tmp_path)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("train/loss")) == 8
    history = records.RunFolder(tmp_path).history()
    assert [event.value for event in events.Scalars("train/top1")] == pytest.approx(history.train_top1.tolist())
    assert [event.value for event in events.Scalars("test/top1")] == pytest.approx(history.top1.tolist()[1:])


class Lines(GeneralTracker):
    """A tracker that appends to a list, as one for another service would to its log."""

    name, requires_logging_directory, logs = "lines", False, {}

    def __init__(self, project, **options):
        super().__init__()
        self.lines = self.logs.setdefault(project, [])

    tracker = property(lambda self: self.lines)

    def store_init_configuration(self, values):
        self.lines.append(values)

    def log(self, values, step=None, **_):
        self.lines.append({"step": step, **values})


def test_any_tracker_of_accelerate_logs_a_run_and_goes_on_when_it_resumes(config, finished, tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "lines", Lines)
    lines = Lines.logs["ctlib"] = []
    logged = replaced(config, compute={"tracker": "lines"})

    def stop_after(step, *_):
        if step == 6:
            processes.stop()

    with pytest.raises(processes.Interrupted):
        train.train(logged, tmp_path, on_step=stop_after)
    known = files.read_json(tmp_path / "tracker.json")
    result = train.train(logged, tmp_path)
    assert files.read_json(tmp_path / "tracker.json") == known and known["tracker"] == "lines"
    begun, *rest = lines
    assert begun["recipe.lr"] == config.recipe.lr and begun["model.kernels"] == "(3, 3, 3)"
    assert [line["step"] for line in rest if "train/loss" in line] == list(range(1, 9))
    assert rest[-1]["test/top1"] == result["top1"] == finished.result["top1"]


@pytest.mark.parametrize(
    ("tracker", "text"),
    [
        ("tensorbord", "unknown compute.tracker 'tensorbord': did you mean 'tensorboard'"),
        ("comet_ml", "compute.tracker 'comet_ml' needs its library, which is not installed: pip install comet-ml"),
    ],
)
def test_a_tracker_that_cannot_log_is_refused_before_any_work(config, tracker, text):
    with pytest.raises(ValueError, match=text):
        resolve(replaced(config, compute={"tracker": tracker}))
