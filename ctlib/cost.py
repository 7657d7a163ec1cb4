"""What a network costs, in the paper's convention.

GFLOPs are multiply-accumulates of convolutions and linear layers plus 2 operations an output
element of every batch norm, in 1e9, of one view (one clip, one crop). With this convention the
counts meet the published ones; other papers and tools leave batch norm out or count a
multiply-accumulate as two.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """GFLOPs of one view, and the number of parameters (a count, not millions)."""

    gflops: float
    params: int


def count(model: nn.Module, num_frames: int = 8, size: int = 256) -> Cost:
    """Count a network on one clip of `num_frames` frames of `size` x `size` pixels.

    Nothing is computed: the network is copied to the meta device, so any size costs milliseconds
    and no memory, and the model given is left as it is.

    Args:
        model: takes (N, 3, T, H, W).
        num_frames: T.
        size: pixels, height and width.
    """
    model = copy.deepcopy(model).to("meta").eval()
    clip = torch.zeros(1, 3, num_frames, size, size, device="meta")
    norm_elements = 0

    def add(_module, _inputs, output):
        nonlocal norm_elements
        norm_elements += output.numel()

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(add)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip)
    operations = counter.get_total_flops() / 2 + 2 * norm_elements  # the counter has 2 a multiply-accumulate
    return Cost(operations / 1e9, sum(parameter.numel() for parameter in model.parameters()))
