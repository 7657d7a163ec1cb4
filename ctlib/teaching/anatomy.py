"""A network part by part, from the stem to the head: shapes, operations and parameters (lesson 4, Figure 2(c)).

Networks run on the meta device, where tensors have shapes but no numbers, so nothing is computed.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn

from ctlib.backbones import CTBlock
from ctlib.config import ModelConfig
from ctlib.cost import eval_with_hooks
from ctlib.kernels import BATCH_NORMS
from ctlib.models import VideoClassifier, build_model


class Part(NamedTuple):
    """The stem, a block, or the head of a network."""

    stage: str  # "stem", "stage 2" to "stage 5", "head"
    index: int  # of the block in its stage, from 0
    replaced: bool  # whether a clip module replaces its 3x3 convolution
    shape: tuple[int, int, int, int]  # (C, T, H, W) of the output; for the head, the scores of each frame
    operations: int  # of one view, in the paper's convention (`operations_of`)
    params: int
    new: int  # parameters for which ImageNet has no weights

    @property
    def gflops(self) -> float:
        return self.operations / 1e9


def operations_of(layer: nn.Module, output: torch.Tensor) -> int:
    """Operations of one layer: products, and two operations per output element of a batch norm (as in `cost`).

    An output element of a convolution or linear layer sums as many products as one of its kernels has weights.
    """
    each = 2 if isinstance(layer, BATCH_NORMS) else layer.weight[0].numel()
    return each * output.numel()


def walk(model: VideoClassifier, num_frames: int = 8, size: int = 256) -> list[Part]:
    """The parts of a network on a ResNet, for one clip of `num_frames` x `size` x `size`. The model is left unchanged.

    Raises:
        ValueError: the network's backbone has no stages.
    """
    return _walk(_for_shapes(copy.deepcopy(model)), num_frames, size)


def parts(config: ModelConfig, size: int = 256) -> list[Part]:
    """The same from a configuration, fast enough to follow a slider: blocks of a stage that are alike run once."""
    network, places = _short(replace(config, num_frames=8))
    walked = {(part.stage, part.index): part for part in _walk(network, config.num_frames, size)}
    return [walked[stage, kind]._replace(index=index) for stage, index, kind in places]


@lru_cache(maxsize=32)
def _short(config: ModelConfig) -> tuple[VideoClassifier, list[tuple[str, int, int]]]:
    """The network with one block of each kind, and the stage, index and kind of each part of the whole."""
    with torch.device("meta"):
        network = _for_shapes(build_model(config))
    places = [("stem", 0, 0)]
    for number, stage in enumerate(network.backbone.stages, start=2):
        alike = [(index > 0, isinstance(block, CTBlock)) for index, block in enumerate(stage)]
        kinds = list(dict.fromkeys(alike))
        places += [(f"stage {number}", index, kinds.index(kind)) for index, kind in enumerate(alike)]
        for index in reversed(range(len(alike))):
            if alike[index] in alike[:index]:
                del stage[index]
    return network, [*places, ("head", 0, 0)]


def depths_of(backbone: str) -> tuple[int, ...]:
    """The number of blocks in each of the four stages of a ResNet of `backbones.BACKBONES`."""
    return _short(ModelConfig(backbone=backbone, blocks="none"))[0].backbone.depths


def _for_shapes(network: VideoClassifier) -> VideoClassifier:
    """Put a network on the meta device and skip its batch norms, which are slow there and keep shapes."""
    if not hasattr(getattr(network, "backbone", None), "stages"):
        raise ValueError("the network needs a ResNet backbone, with a stem and four stages of blocks")
    for layer in network.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.forward = nn.Identity().forward
    return network.to("meta").eval()


def _walk(network: VideoClassifier, num_frames: int, size: int) -> list[Part]:
    backbone = network.backbone
    members = {("stem", 0): (backbone.conv1, backbone.bn1, backbone.maxpool)}
    for number, stage in enumerate(backbone.stages, start=2):
        members |= {(f"stage {number}", index): (block,) for index, block in enumerate(stage)}
    members["head", 0] = (network.fc,)
    shapes, operations, hooks = {}, Counter(), {}
    for key, modules in members.items():

        def record(layer, _inputs, output, key=key, last=modules[-1]):
            if hasattr(layer, "weight"):
                operations[key] += operations_of(layer, output)
            if layer is last:
                t, c, h, w = output.shape if output.ndim == 4 else (*output.shape[1:], 1, 1)  # frames; head's scores
                shapes[key] = c, t, h, w

        layers = [layer for module in modules for layer in module.modules() if hasattr(layer, "weight")]
        hooks |= dict.fromkeys([*layers, modules[-1]], record)
    with torch.no_grad(), eval_with_hooks(network, hooks):
        network(torch.zeros(1, 3, num_frames, size, size, device="meta"))
    parts = []
    for key, modules in members.items():
        replaced = isinstance(modules[0], CTBlock)
        new = [modules[0].conv2] if replaced else [network.fc] if key[0] == "head" else []
        parts.append(Part(*key, replaced, shapes[key], operations[key], _params(modules), _params(new)))
    return parts


def _params(modules: Sequence[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def gflops(parts: Sequence[Part]) -> float:
    """GFLOPs of a whole network, one view."""
    return sum(part.operations for part in parts) / 1e9


def kept(parts: Sequence[Part]) -> float:
    """The share of ImageNet's backbone weights that a whole network keeps, in percent.

    A replaced 3x3 convolution loses its weights and those of its batch norm.
    """
    taken = sum(part.params - part.new for part in parts)
    widths = [part.shape[0] // 4 for part in parts if part.replaced]
    lost = sum(9 * width * width + 2 * width for width in widths)
    return 100 * taken / (taken + lost)
