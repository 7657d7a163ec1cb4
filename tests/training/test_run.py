"""`resolve`: what a configuration leaves open is answered once, and what is wrong is an error before any work."""

import dataclasses

import pytest
import torch

from ctlib.config import ArrowConfig, ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.models import model_config
from ctlib.training.recipes import run_config
from ctlib.training.run import Machine, make_accelerator, resolve
from ctlib.weights import Weights


@pytest.fixture
def config(arrow_root):
    return RunConfig(
        model=model_config("ctnet_quickstart", num_classes=5, num_frames=4),
        data=DataConfig(root=str(arrow_root), size=32, workers=0),
        recipe=RecipeConfig(epochs=1, batch=8, warmup=0),
    )


def test_what_is_left_open_is_answered_and_the_configuration_stays(config, val_samples):
    run = resolve(config, Machine(processes=2))
    assert run.config is config and run.model.num_classes == 16 and run.config.model.num_classes == 5
    assert (run.processes, run.micro_batch, run.micro_batches_per_step) == (2, 4, 1)
    assert (run.data.sampling, run.data.flip, run.data.short_side) == ("mirrored", True, 32)
    assert run.config.data.sampling is None and run.config.data.flip is None
    assert run.precision in ("fp32", "bf16", "fp16") and run.start_digest == ""
    assert run.fingerprint.endswith(f"-{val_samples.fingerprint}") and run.root == config.data.root
    assert resolve(dataclasses.replace(config, compute=ComputeConfig(micro_batch=2))).micro_batches_per_step == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.precision = "bf16"


def test_a_start_takes_the_place_of_published_weights(config, tmp_path):
    (tmp_path / "start.pt").write_bytes(b"weights")
    model = dataclasses.replace(config.model, backbone="resnet50", weights="imagenet")
    started = resolve(dataclasses.replace(config, model=model, start=str(tmp_path / "start.pt")))
    assert started.model.weights is None and len(started.start_digest) == 16
    assert resolve(dataclasses.replace(config, model=model)).model.weights == "imagenet"
    shipped = resolve(dataclasses.replace(config, start="ctnet_quickstart_arrow"))
    assert shipped.start_digest == Weights.CTNET_QUICKSTART_ARROW.meta["digest"]


def test_the_file_of_still_shapes_is_part_of_what_was_asked(config, tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    model = dataclasses.replace(config.model, weights=str(tmp_path / "mine.safetensors"))
    assert len(resolve(dataclasses.replace(config, model=model)).start_digest) == 16
    with pytest.raises(ValueError, match="the backbone 'quickstart' has no ImageNet weights"):
        resolve(dataclasses.replace(config, model=dataclasses.replace(model, weights="imagenet")))
    with pytest.raises(ValueError, match="none.safetensors does not exist"):
        resolve(dataclasses.replace(config, model=dataclasses.replace(model, weights="none.safetensors")))


def test_the_built_in_data_is_written_where_no_folder_is_given(config, tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path))
    small = ArrowConfig(train_clips=8, val_clips=2, size=32)
    counts = []
    run = resolve(
        dataclasses.replace(config, data=DataConfig(), arrow=small), on_clips=lambda *count: counts.append(count)
    )
    assert counts[-1] == (10, 10) and len(run.samples["train"]) == 8 and run.config.data.root == ""
    assert run.root.startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"data": "something-v1"}, "root must be the folder that holds the data set something-v1, got ''"),
        ({"start": "no/such.pt"}, "no checkpoint no/such.pt"),
        ({"overrides": "recipe.batch=5000"}, "batch must be at most the 1280 training videos, got 5000"),
        ({"overrides": "model.num_frames=7"}, "mirrored sampling needs an even number of frames per clip, got 7"),
        ({"name": "../x"}, "name must be a folder's: .* got '../x'"),
        ({"data.root": "/no/such/folder"}, "no folder /no/such/folder"),
        ({"overrides": "compute.micro_batch=3"}, "a batch of 8 cannot be divided evenly into micro-batches of 3 on 1"),
        ({"processes": 3}, "a batch of 8 cannot be divided evenly into micro-batches of 2 on 3"),
        ({"model": "corrnet_small", "overrides": "model.num_frames=16"}, "built for clips of 8 frames, got 16"),
        ({"model": "tsn_inception_v3", "overrides": "data.size=64"}, "'inception_v3' needs frames of at least 75 x 75"),
        ({"overrides": "compute.sync_batch_norm=true"}, "sync_batch_norm needs GPUs, and"),
    ],
)
def test_what_is_wrong_is_an_error_before_any_work(tmp_path, monkeypatch, parameters, text):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path))
    given = {"data": "arrow", "model": "ctnet_quickstart", "compute.device": "cpu", **parameters}
    machine = Machine(given.pop("processes", 1))
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        resolve(run_config(**given), machine)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("precision", "device", "gpu", "bf16", "expected"),
    [
        ("auto", "auto", False, False, "fp32"),
        ("auto", "auto", True, True, "bf16"),
        ("auto", "auto", True, False, "fp16"),
        ("auto", "cpu", True, True, "fp32"),
        ("fp32", "auto", True, True, "fp32"),
        ("fp16", "auto", True, True, "fp16"),
    ],
)
def test_precision_follows_the_device(monkeypatch, precision, device, gpu, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert Machine().precision(ComputeConfig(precision=precision, device=device)) == expected


def test_one_notebook_may_change_its_mind_about_precision():
    for precision, name in (("bf16", "bf16"), ("fp32", "no")):
        accelerator = make_accelerator(ComputeConfig(device="cpu"), precision)
        assert (accelerator.mixed_precision, accelerator.device.type) == (name, "cpu")
