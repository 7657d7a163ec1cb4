"""Activation checkpointing: compute a block's activations again in the backward pass, instead of keeping them."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: torch.Tensor, before: Callable[[], None]) -> torch.Tensor:
    """`block(x)`, of which the backward pass keeps `x` only (Chen et al., 2016).

    Results are the same to the bit: loss, gradients, and the running statistics of batch norms. `before` is called
    when the block is about to be computed again.
    """
    if torch.compiler.is_compiling():  # the compiler plans what is recomputed, and leaves updates out of it
        return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
    contexts = nullcontext(), _Again(block, before)
    # Blocks draw no random numbers, and a CUDA graph could not read the generator's state.
    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts)


class _Again:
    """Inside, a module works on copies of its buffers, so that batch norms do not count a batch twice."""

    def __init__(self, module: nn.Module, before: Callable[[], None]):
        self.buffers = [layer._buffers for layer in module.modules()]
        self.before = before

    def __enter__(self) -> None:
        self.before()
        self.kept = [dict(buffers) for buffers in self.buffers]
        for buffers in self.buffers:
            buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()})

    def __exit__(self, *_error) -> None:
        for buffers, kept in zip(self.buffers, self.kept, strict=True):
            buffers.update(kept)
