"""Tensor Excitation of a sub-operation, Eq. (6) to (8): its plain version, and the one that is the fastest here."""

from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec

import torch
from torch.nn import functional as F

from ctlib.kernels import choice
from ctlib.kernels.operations import average
from ctlib.kernels.passes import Gate, Gates, excite_in_passes


def excite_plain(spatial: torch.Tensor, temporal: torch.Tensor, gates: Gates) -> torch.Tensor:
    """The two branches, each after its ReLU and times its gate, added; and the sum times the channel gate."""
    spatial, temporal = F.relu(spatial), F.relu(temporal)
    map_gate = gates[0].of(average(spatial, (2,)))
    both = spatial * map_gate + temporal * gates[1].of(average(temporal, (3, 4)))
    return both * gates[2].of(average(both, (3, 4)))


def excite(spatial: torch.Tensor, temporal: torch.Tensor, gates: Gates) -> torch.Tensor:
    """`excite_plain`: on a GPU in the fastest way; on a CPU over `spatial` itself, where no gradient is asked for."""
    if torch.compiler.is_compiling():  # a compiler joins passes itself
        return excite_plain(spatial, temporal, gates)
    if choice.applies(spatial):
        sigmoids = tuple(Gate(torch.sigmoid) for _ in gates)  # batch norms of the gates must not see what is timed
        ways = {name: partial(way, gates=sigmoids) for name, way in excite_ways().items()}
        return excite_ways()[choice.fastest("excitation", ways, spatial, temporal)](spatial, temporal, gates=gates)
    if torch.is_grad_enabled():
        return excite_plain(spatial, temporal, gates)
    spatial, temporal = spatial.relu_(), temporal.relu_()
    map_gate, frame_gate = gates[0].of(average(spatial, (2,))), gates[1].of(average(temporal, (3, 4)))
    both = spatial.mul_(map_gate).addcmul_(temporal, frame_gate)
    return both.mul_(gates[2].of(average(both, (3, 4))))


@cache
def excite_ways() -> dict[str, Callable[..., torch.Tensor]]:
    """By name, the plain one first."""
    ways = {"plain": excite_plain}
    if find_spec("triton") is not None:
        ways["triton"] = _excite_in_triton
    return ways


def _excite_in_triton(spatial: torch.Tensor, temporal: torch.Tensor, gates: Gates) -> torch.Tensor:
    from ctlib.kernels.passes_triton import TRITON  # its import may fail, as a way may

    with torch.cuda.device_of(spatial):  # where Triton launches
        return excite_in_passes(spatial, temporal, gates, TRITON)
