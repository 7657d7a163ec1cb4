"""A network as its parts, from the stem to the head: what comes out of each, what it costs, what it has (Figure 2(c)).

Nothing is computed: networks run on the meta device, where tensors have shapes and no numbers.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctlib.backbones import PLACEMENTS, CTBlock
from ctlib.config import ModelConfig, check_choice
from ctlib.models import VideoClassifier, build_model


class Part(NamedTuple):
    """The stem, a block, or the head of a network, as a clip passes it."""

    stage: str  # "stem", "stage 2" to "stage 5", "head"
    index: int  # of the block in its stage, from 0
    replaced: bool  # whether a module on clips stands in it
    shape: tuple[int, int, int, int]  # (C, T, H, W) of what comes out; of the head, the scores of every frame
    operations: int  # of one view, in the paper's convention (`operations_of`)
    params: int
    new: int  # those of them that ImageNet's weights have nothing for

    @property
    def gflops(self) -> float:
        return self.operations / 1e9


def operations_of(layer: nn.Module, output: torch.Tensor) -> int:
    """What one layer costs, in the convention of `cost`: products, and two operations an element of a batch norm.

    An output element of a convolution or a linear layer is a sum of as many products as one of its kernels has
    weights.
    """
    each = 2 if isinstance(layer, _BatchNorm) else layer.weight[0].numel()
    return each * output.numel()


def walk(model: VideoClassifier, num_frames: int = 8, size: int = 256) -> list[Part]:
    """Send one clip of `num_frames` frames of `size` x `size` pixels through a network, and note each part.

    A copy runs, so the model is left as it is.

    Raises:
        ValueError: the network's backbone has no stages.
    """
    if not hasattr(getattr(model, "backbone", None), "stages"):
        raise ValueError("stem, four stages of blocks and head are a ResNet's: this backbone has no stages")
    return _walk(_for_shapes(copy.deepcopy(model)), num_frames, size)


def _for_shapes(network: VideoClassifier) -> VideoClassifier:
    """Make it one that shapes pass quickly: batch norms, slow on the meta device, only hand on what comes."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = nn.Identity().forward
    return network.to("meta").eval()


def _walk(network: VideoClassifier, num_frames: int, size: int) -> list[Part]:
    backbone = network.backbone
    members = {("stem", 0): (backbone.conv1, backbone.bn1, backbone.maxpool)}
    for number, stage in enumerate(backbone.stages, start=2):
        members |= {(f"stage {number}", index): (block,) for index, block in enumerate(stage)}
    members["head", 0] = (network.fc,)
    shapes, operations, hooks = {}, Counter(), []
    for at, modules in members.items():

        def add(layer, _inputs, output, at=at):
            operations[at] += operations_of(layer, output)

        def note(_module, _inputs, output, at=at):
            t, c, h, w = output.shape if output.ndim == 4 else (*output.shape[1:], 1, 1)  # frames; the head's scores
            shapes[at] = c, t, h, w

        layers = [layer for module in modules for layer in module.modules() if hasattr(layer, "weight")]
        hooks += [layer.register_forward_hook(add) for layer in layers]
        hooks.append(modules[-1].register_forward_hook(note))
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, num_frames, size, size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for at, modules in members.items():
        replaced = isinstance(modules[0], CTBlock)
        fresh = [modules[0].conv2] if replaced else [network.fc] if at[0] == "head" else []
        found.append(Part(*at, replaced, shapes[at], operations[at], _count(modules), _count(fresh)))
    return found


def _count(modules: Sequence[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def parts(config: ModelConfig, size: int = 256) -> list[Part]:
    """What `walk` finds in the network of `config`, in milliseconds: fast enough to follow a slider.

    All blocks of a stage but the first are alike, so two short networks are walked, one with and one without the
    modules, and their blocks are put together.

    Args:
        config: of a network on a ResNet; its `num_frames` is T.
        size: pixels, height and width.

    Raises:
        ValueError: a backbone without stages, or blocks that it has not or that cannot be replaced.
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
    found = [kinds[False]["stem", 0]]
    for number, (depth, indices) in enumerate(zip(depths, placed, strict=True), start=2):
        if wrong := [index for index in indices if not 1 <= index < depth]:
            raise ValueError(f"stage {number} has the blocks 1 to {depth - 1} to replace, got {wrong[0]}")
        for index in range(depth):
            kind = kinds[index in indices][f"stage {number}", min(index, 1)]
            found.append(kind._replace(index=index))
    return [*found, kinds[False]["head", 0]]


@cache
def depths_of(backbone: str) -> tuple[int, ...]:
    """How many blocks the four stages of a ResNet of `backbones.BACKBONES` have.

    Raises:
        ValueError: an unknown backbone, or one without stages.
    """
    with torch.device("meta"):
        network = build_model(ModelConfig(backbone=backbone, blocks="none"))
    if not hasattr(network.backbone, "stages"):
        raise ValueError(f"stem, four stages of blocks and head are a ResNet's: {backbone!r} has no stages")
    return network.backbone.depths


@lru_cache(maxsize=64)
def _short(config: ModelConfig) -> VideoClassifier:
    """The network cut to two blocks a stage, for shapes."""
    with torch.device("meta"):
        network = build_model(config)
    for stage in network.backbone.stages:
        del stage[2:]
    return _for_shapes(network)


@lru_cache(maxsize=512)
def _kinds(config: ModelConfig, size: int) -> dict[tuple[str, int], Part]:
    return {(part.stage, part.index): part for part in _walk(_short(config), config.num_frames, size)}


def gflops(found: Sequence[Part]) -> float:
    """Of a whole network, one view."""
    return sum(part.operations for part in found) / 1e9


def kept(found: Sequence[Part]) -> float:
    """How much of ImageNet's weights (those of the backbone alone, no classifier) the network takes, in percent.

    What a replaced 3x3 convolution and its batch norm had is lost; `found` must be of a whole network.
    """
    taken = sum(part.params - part.new for part in found)
    lost = sum(_replaced_params(part.shape[0] // 4) for part in found if part.replaced)
    return 100 * taken / (taken + lost)


def _replaced_params(width: int) -> int:
    """Weights of the 3x3 convolution of a bottleneck `width` channels wide, and of its batch norm."""
    return 9 * width * width + 2 * width
