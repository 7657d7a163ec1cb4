"""Training by the paper's recipe (appendix A.1), on a laptop's CPU or a GPU.

SGD with momentum; the learning rate warms up linearly and then follows a cosine to zero. Hugging
Face Accelerate carries device and precision. A run is recorded in its folder, and one that is
finished is not run again.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from ctlib import checkpoints, cost, runs
from ctlib.config import DataConfig, RecipeConfig, RunConfig
from ctlib.data.catalog import Samples, load_samples
from ctlib.data.clips import SKIPPED, test_loader, train_loader
from ctlib.evaluate import Scores, evaluate
from ctlib.models import build_model, freeze_trunk, name_of


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, and why."""


def learning_rate(recipe: RecipeConfig, step: int, steps_an_epoch: int) -> float:
    """The learning rate of a step (from 0): linear over the warm-up epochs, then a cosine to zero.

    It scales with the batch, lr * batch / 64. The authors change it once an epoch; here it changes
    every step, so that recipes of a few epochs follow the same curve.
    """
    warm = round(recipe.warmup * steps_an_epoch)
    steps = recipe.epochs * steps_an_epoch
    peak = recipe.lr * recipe.batch / 64
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameters by how they are trained: `scale` multiplies the learning rate.

    As the authors do: no weight decay on batch norms and biases, and biases at twice the rate.
    Frozen parameters are in no group.
    """
    weights, norms, biases = [], [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            group = norms if isinstance(module, _BatchNorm) else biases if name == "bias" else weights
            group.append(parameter)
    return [
        {"params": weights, "weight_decay": weight_decay, "scale": 1.0},
        {"params": norms, "weight_decay": 0.0, "scale": 1.0},
        {"params": biases, "weight_decay": 0.0, "scale": 2.0},
    ]


def train(
    config: RunConfig,
    folder: str | Path,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> dict:
    """Train a network, test it after each epoch, and record the run; or find that it was run before.

    What is reported is the network after the last epoch: none is chosen by its test accuracy.

    Args:
        config: the run.
        folder: where the record goes.
        on_step: called with the steps done and their number.
        on_epoch: called with each line of the history.

    Returns:
        The record's `result.json`.

    Raises:
        ValueError: parameters that do not fit the data, or a folder that holds another run.
        TrainingError: a loss that is not finite, or more unreadable videos than may be skipped.
        video.VideoError: a video that cannot be read.
    """
    began = time.perf_counter()
    data, recipe = config.data, config.recipe
    train_samples, test_samples = (
        load_samples(data.name, data.root, split, **data.options()) for split in ("train", "val")
    )
    lists = f"{train_samples.fingerprint}-{test_samples.fingerprint}"
    config = dataclasses.replace(config, data=dataclasses.replace(data, fingerprint=lists))
    folder = runs.RunFolder(folder)
    if folder.is_finished(config):
        return folder.result()
    if len(train_samples.classes) != config.model.num_classes:
        raise ValueError(
            f"the model has {config.model.num_classes} classes, {data.name} has {len(train_samples.classes)}"
        )

    set_seed(config.seed)
    AcceleratorState._reset_state(reset_partial_state=True)  # a notebook's second run may differ in precision or device
    accelerator = Accelerator(cpu=recipe.device == "cpu", mixed_precision=_precision(recipe))
    model = build_model(config.model)
    if recipe.frozen == "trunk":
        freeze_trunk(model)
    counted = cost.count(model, config.model.num_frames, data.size)
    optimizer = torch.optim.SGD(parameter_groups(model, recipe.weight_decay), lr=recipe.lr, momentum=recipe.momentum)
    trainset = train_loader(train_samples, config.model.num_frames, data, recipe.batch, config.seed)
    testset = test_loader(test_samples, config.model.num_frames, data, recipe.batch)
    model, optimizer, trainset, testset = accelerator.prepare(model, optimizer, trainset, testset)
    folder.start(config)

    history = []
    for epoch in range(recipe.epochs):
        epoch_began = time.perf_counter()
        trainset.set_epoch(epoch)
        row = _train_epoch(model, optimizer, trainset, accelerator, config, epoch, on_step)
        scores = evaluate(model, testset, accelerator)
        _refuse_many(scores.skipped, len(test_samples), data, "test")
        row |= {"top1": scores.topk(1), "top5": scores.topk(5), "seconds": time.perf_counter() - epoch_began}
        history.append(row)
        folder.write_history(history)
        if on_epoch is not None:
            on_epoch(row)

    result = {
        **_protocol(config, train_samples, test_samples),
        "short_side": testset.dataset.short_side,
        "train_skipped": max(row["skipped"] for row in history),
        "skipped": scores.skipped,
        "top1": scores.topk(1),
        "top5": scores.topk(5),
        "gflops": counted.gflops,
        "params": counted.params,
        "seconds": time.perf_counter() - began,
        "precision": {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision),
        **runs.provenance(accelerator.device),
    }
    checkpoints.save(folder.checkpoint, accelerator.unwrap_model(model), train_samples.classes)
    folder.finish(result, _predictions(test_samples, scores))
    return result


def _train_epoch(model, optimizer, loader, accelerator, config, epoch, on_step) -> dict:
    """One pass over the training list; returns the epoch's line of the history, so far as it goes."""
    recipe = config.recipe
    mean_loss = MeanMetric().to(accelerator.device)
    top1 = MulticlassAccuracy(config.model.num_classes, average="micro").to(accelerator.device)
    model.train()
    skipped, rate = 0, 0.0
    for index, (clips, labels) in enumerate(loader):
        read = labels != SKIPPED
        if not read.all():
            skipped += int((~read).sum())
            _refuse_many(skipped, len(loader.dataset), config.data, "training")
            clips, labels = clips[read], labels[read]
            if not len(labels):
                continue  # nothing to learn from in this step
        step = epoch * len(loader) + index
        rate = learning_rate(recipe, step, len(loader))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        with accelerator.autocast():
            logits = model(clips)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {step + 1} (epoch {epoch + 1}, learning rate {rate:.4g}): "
                "training stopped; a lower learning rate or a longer warm-up may help"
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        mean_loss.update(loss.detach())
        top1.update(logits.detach(), labels)
        if on_step is not None:
            on_step(step + 1, recipe.epochs * len(loader))
    return {
        "epoch": epoch + 1,
        "lr": rate,
        "loss": mean_loss.compute().item(),
        "train_top1": 100 * top1.compute().item(),
        "skipped": skipped,
    }


def _refuse_many(skipped: int, videos: int, data: DataConfig, which: str) -> None:
    if 100 * skipped > data.max_skipped * videos:
        raise TrainingError(
            f"{skipped} of the {videos} {which} videos could not be read, more than the {data.max_skipped} % that may "
            "be skipped: see the warnings above for their names, or run check-videos"
        )


def _precision(recipe: RecipeConfig) -> str:
    """Accelerate's name of the precision; auto is fp32 on a CPU, and bf16 or else fp16 on a GPU."""
    if recipe.precision == "auto":
        if recipe.device == "cpu" or not torch.cuda.is_available():
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return {"fp32": "no"}.get(recipe.precision, recipe.precision)


def _protocol(config: RunConfig, train_samples: Samples, test_samples: Samples) -> dict:
    """What the accuracies were measured on, and how."""
    return {
        "name": config.name,
        "model": name_of(config.model),
        "data": config.data.name,
        "fingerprint": config.data.fingerprint,
        "train_videos": len(train_samples),
        "train_listed": train_samples.listed,
        "videos": len(test_samples),
        "listed": test_samples.listed,
        "sampling": config.data.sampling or test_samples.sampling,
        "flip": train_samples.flip if config.data.flip is None else config.data.flip,
        "num_frames": config.model.num_frames,
        "size": config.data.size,
        "clips": config.data.clips,
        "crops": config.data.crops,
        "averaged": "logits",
        "seed": config.seed,
        "epochs": config.recipe.epochs,
    }


def _predictions(samples: Samples, scores: Scores) -> pd.DataFrame:
    confidence, predicted = scores.logits.softmax(1).max(1)
    return pd.DataFrame(
        {
            "source": [samples.path(index) for index in range(len(samples))],
            "label": scores.labels.numpy(),
            "predicted": predicted.numpy(),
            "confidence": confidence.numpy().round(4),
        }
    )
