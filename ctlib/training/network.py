"""The network of a run: how it begins, its running statistics, and what it adds to the loss."""

import copy

import torch
from accelerate import Accelerator
from torch import nn

from ctlib import checkpoints
from ctlib.backbones import Backbone
from ctlib.kernels import BATCH_NORMS
from ctlib.models import VideoClassifier, build_model, freeze_backbone, recompute_blocks, use_channels_last
from ctlib.training.run import Run


def make_network(run: Run) -> VideoClassifier:
    """The network that a run begins with, laid out and frozen as its configuration says.

    Raises:
        ValueError: a network that does not fit its start, or a micro-batch that it cannot be trained on.
    """
    model = build_model(run.model, run.config.seed)
    if run.config.start:
        checkpoints.start_from(run.config.start, model, run.samples["train"].classes)
    use_channels_last(model, run.config.compute.channels_last)
    recompute_blocks(model, run.config.compute.recompute)
    if run.config.recipe.frozen == "backbone":
        if run.model.weights is None and not run.config.start:
            raise ValueError(f"{run.config.name} starts from random weights: recipe.frozen must be 'none'")
        freeze_backbone(model)
    alone = run.processes == 1 or not run.config.compute.sync_batch_norm
    if run.micro_batch == 1 and alone:
        _refuse_single_values(model, run.model.num_frames, run.config.data.size)
    return model


@torch.no_grad()
def _refuse_single_values(model: VideoClassifier, num_frames: int, size: int) -> None:
    """Raise ValueError if one clip leaves a batch norm a single value, which has no variance."""
    without_data = copy.deepcopy(model).to("meta").train()
    try:
        without_data(torch.empty(1, 3, num_frames, size, size, device="meta"))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"batch norms cannot be trained on 1 clip of {size} x {size} pixels, of which one sees a single value: "
            "set a larger recipe.batch or compute.micro_batch, or a larger data.size"
        ) from None


class ExtraLoss:
    """What a backbone asks to be added to the loss, of the features that it gave last. The record shows none of it."""

    def __init__(self, backbone: Backbone):
        self.loss = None
        backbone.register_forward_hook(self._add)

    def _add(self, backbone: Backbone, inputs: tuple, features: torch.Tensor) -> None:
        if backbone.training:
            self.loss = backbone.extra_loss(features, backbone.frames_out or inputs[1])

    def taken(self) -> torch.Tensor | float:
        """The loss, 0 in evaluation mode. It is not kept, nor are the activations behind it."""
        loss, self.loss = self.loss, None
        return 0.0 if loss is None else loss


class RunningStatistics:
    """Batch norms' running statistics, updated once per step with the mean over its micro-batches.

    So the network is the same however a batch is shared between processes and divided into micro-batches.
    """

    def __init__(self, network: nn.Module, micro_batches: int, accelerator: Accelerator):
        norms = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
        self.running = [part for norm in norms for part in (norm.running_mean, norm.running_var)]
        self.counters = [norm.num_batches_tracked for norm in norms]
        self.micro_batches, self.accelerator = micro_batches, accelerator
        self.divided = micro_batches * accelerator.num_processes > 1
        self.begin_step()

    def begin_step(self) -> None:
        if self.divided:
            self.before = torch.cat(self.running)
            self.counted = torch.stack(self.counters)
            self.sums = torch.zeros_like(self.before)

    def after_micro_batch(self) -> None:
        if self.divided:
            self.sums += torch.cat(self.running)
            self._set(self.before)

    def after_step(self) -> None:
        if self.divided:
            self._set(self.accelerator.reduce(self.sums / self.micro_batches, "mean"))
            for counter, count in zip(self.counters, self.counted + 1, strict=True):
                counter.copy_(count)
            self.begin_step()

    def _set(self, values: torch.Tensor) -> None:
        for part, value in zip(self.running, values.split([len(part) for part in self.running]), strict=True):
            part.copy_(value)
