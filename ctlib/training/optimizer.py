"""What a step does to a network (appendix A.1): learning rate, weight decay, and batch norms' running statistics."""

import math

import torch
from accelerate import Accelerator
from torch import nn

from ctlib.config import RecipeConfig

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def learning_rate(recipe: RecipeConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (from 0): linear over the warm-up epochs, then a cosine to zero.

    It scales with the batch, lr * batch / 64. The authors change it once per epoch. Here it changes with every step,
    so that recipes of few epochs follow the same curve.
    """
    warm = round(recipe.warmup * steps_per_epoch)
    steps = recipe.epochs * steps_per_epoch
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
            if parameter.requires_grad:
                group = norms if isinstance(module, BATCH_NORMS) else biases if name == "bias" else weights
                group.append(parameter)
    return [
        {"params": weights, "weight_decay": weight_decay, "scale": 1.0},
        {"params": norms, "weight_decay": 0.0, "scale": 1.0},
        {"params": biases, "weight_decay": 0.0, "scale": 2.0},
    ]


class RunningStatistics:
    """Batch norms' running statistics, updated once per step with the mean over its micro-batches.

    So the network is the same however a batch is shared between processes and divided into micro-batches.
    """

    def __init__(self, network: nn.Module, accumulated: int, accelerator: Accelerator):
        norms = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
        self.running = [part for norm in norms for part in (norm.running_mean, norm.running_var)]
        self.counters = [norm.num_batches_tracked for norm in norms]
        self.accumulated, self.accelerator = accumulated, accelerator
        self.divided = accumulated * accelerator.num_processes > 1
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
            self._set(self.accelerator.reduce(self.sums / self.accumulated, "mean"))
            for counter, count in zip(self.counters, self.counted + 1, strict=True):
                counter.copy_(count)
            self.begin_step()

    def _set(self, values: torch.Tensor) -> None:
        for part, value in zip(self.running, values.split([len(part) for part in self.running]), strict=True):
            part.copy_(value)
