"""A network part by part, from the stem to the head: shapes, operations and parameters (lesson 4, Figure 2(c)).

Networks run on the meta device, where tensors have shapes but no numbers, so nothing is computed.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import nn

from ctlib.backbones import PLACEMENTS, CTBlock
from ctlib.config import ModelConfig, check_choice
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
    if not hasattr(getattr(model, "backbone", None), "stages"):
        raise ValueError("the network needs a ResNet backbone, with a stem and four stages of blocks")
    return _walk(_for_shapes(copy.deepcopy(model)), num_frames, size)


def _for_shapes(network: VideoClassifier) -> VideoClassifier:
    """Put a network on the meta device and skip its batch norms, which are slow there and keep shapes."""
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


def parts(config: ModelConfig, size: int = 256) -> list[Part]:
    """The same parts as `walk`, from a configuration and fast enough to follow a slider.

    All blocks of a stage after the first are alike. So two short networks are walked, one with and one without clip
    modules, and their blocks are put together.

    Raises:
        ValueError: a backbone without stages, or blocks that do not exist or cannot be replaced.
    """
    depths = depths_of(config.backbone)
    placed = config.blocks
    if isinstance(placed, str):
        check_choice("blocks", placed, PLACEMENTS)
        placed = PLACEMENTS[placed](depths)
    if len(placed) != len(depths):
        raise ValueError(f"blocks must be the indices in each of the four stages, got {placed}")
    plain = ModelConfig(config.num_classes, config.num_frames, config.backbone, blocks="none")
    kinds = {False: _kinds(plain, size)}
    if any(map(len, placed)):
        kinds[True] = _kinds(replace(config, blocks=((1,),) * 4), size)
    blocks = []
    for number, (depth, indices) in enumerate(zip(depths, placed, strict=True), start=2):
        if wrong := [index for index in indices if not 1 <= index < depth]:
            raise ValueError(f"stage {number} has the blocks 1 to {depth - 1} to replace, got {wrong[0]}")
        for index in range(depth):
            kind = kinds[index in indices][f"stage {number}", min(index, 1)]
            blocks.append(kind._replace(index=index))
    return [kinds[False]["stem", 0], *blocks, kinds[False]["head", 0]]


@cache
def depths_of(backbone: str) -> tuple[int, ...]:
    """The number of blocks in each of the four stages of a ResNet of `backbones.BACKBONES`.

    Raises:
        ValueError: an unknown backbone, or one without stages.
    """
    with torch.device("meta"):
        network = build_model(ModelConfig(backbone=backbone, blocks="none"))
    if not hasattr(network.backbone, "stages"):
        raise ValueError(f"the backbone must be a ResNet, with four stages of blocks: {backbone!r} has no stages")
    return network.backbone.depths


@lru_cache(maxsize=64)
def _short(config: ModelConfig) -> VideoClassifier:
    """The network cut to two blocks per stage, for shapes."""
    with torch.device("meta"):
        network = build_model(config)
    for stage in network.backbone.stages:
        del stage[2:]
    return _for_shapes(network)


@lru_cache(maxsize=512)
def _kinds(config: ModelConfig, size: int) -> dict[tuple[str, int], Part]:
    return {(part.stage, part.index): part for part in _walk(_short(config), config.num_frames, size)}


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
