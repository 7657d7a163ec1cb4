"""A grouped convolution as one with fewer, larger groups, whose weights are zero between the groups that were merged.

It does more products. On a GPU it may still take less time: tensor cores multiply dense blocks of 16 channels and
more, and libraries take small groups one by one.
"""

from collections.abc import Callable

import torch

from ctlib.kernels import choice

BLOCKS = (16, 32, 64, 128)  # channels of a merged group that are tried, besides all
Convolve = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]  # of x, weight and groups


def merged(weight: torch.Tensor, groups: int, merge: int) -> torch.Tensor:
    """(C_out, C_k, ...) of `groups` groups -> (C_out, merge * C_k, ...) of `groups / merge`: the same convolution.

    Example:
        >>> merged(torch.ones(4, 1), groups=4, merge=2).tolist()
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    apart = weight.unflatten(0, (groups // merge, merge, -1))  # (blocks, merge, C_out / groups, C_k, ...)
    which = torch.eye(merge, dtype=weight.dtype, device=weight.device)
    which = which.view(merge, 1, merge, *[1] * (weight.ndim - 1))
    whole = (apart.unsqueeze(3) * which).flatten(3, 4).flatten(0, 2)
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        return whole.contiguous(memory_format=torch.channels_last)
    return whole


def merges(channels: int, groups: int) -> dict[str, int]:
    """How many groups to merge, by the name of the way: none first."""
    size = channels // groups
    ways = {"groups": 1}
    for block in BLOCKS:
        if block > size and block % size == 0 and block < channels and groups % (block // size) == 0:
            ways[f"blocks of {block}"] = block // size
    return ways | {"dense": groups}


def fastest_merge(convolve: Convolve, x: torch.Tensor, weight: torch.Tensor, groups: int) -> int:
    """How many groups to merge for this input: 1 on a CPU, where grouped convolutions are the fastest."""
    if groups == 1 or not choice.applies(x):
        return 1
    options = merges(x.shape[1], groups)
    learned = torch.is_grad_enabled() and weight.requires_grad
    ways = {name: _Merging(convolve, groups, merge, learned) for name, merge in options.items()}
    return options[choice.fastest("convolution", ways, x, weight)]


class _Merging:
    """A convolution whose groups are merged; weights that are not learned are merged once, as in `FrozenConv2d`."""

    def __init__(self, convolve: Convolve, groups: int, merge: int, learned: bool):
        self.convolve, self.groups, self.merge, self.learned = convolve, groups, merge, learned
        self.weight: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self.merge == 1:
            return self.convolve(x, weight, self.groups)
        if self.learned or self.weight is None:
            self.weight = merged(weight, self.groups, self.merge)
        return self.convolve(x, self.weight, self.groups // self.merge)
