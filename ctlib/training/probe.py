"""What a training step will take, measured before the first one."""

import copy
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ctlib.config import check_choice
from ctlib.cost import PRECISIONS


@dataclass(frozen=True)
class TrainingCost:
    """What a training step is expected to take on one device."""

    seconds_a_step: float  # its forward and backward passes; not loading, the optimizer, or other processes
    memory_mb: float  # 1e6 bytes at the peak: weights, gradients, momentum, and what the passes hold
    batch: int  # clips a step
    micro_batch: int  # clips at once
    clips_probed: int  # clips at once in the pass that was timed; fewer than `micro_batch`: scaled up


def training_cost(
    model: nn.Module,
    num_frames: int = 8,
    size: int = 256,
    batch: int = 64,
    micro_batch: int | None = None,
    precision: str = "fp32",
    seconds: float = 0.2,
) -> TrainingCost:
    """Estimate the time and memory of a training step where the network is: a copy of it trains on noise.

    On a GPU the passes are over whole micro-batches, so their memory is what training will need. On a
    CPU they are over few clips, two at first and twice as many while `seconds` last, and scaled up: an
    estimate, from above in memory. Only tensors are counted, not what libraries and the loader hold beside them.

    Args:
        model: takes (N, 3, T, H, W), neither compiled nor distributed; it is left as it is.
        num_frames: T.
        size: pixels, height and width.
        batch: clips a step on this device.
        micro_batch: clips at once, where a step gathers gradients from several; the batch if not given.
        precision: "fp32", or "bf16" or "fp16" by autocast.
        seconds: how long to time; one pass is made at least.

    Raises:
        ValueError: an unknown precision, fewer than one clip, frame or pixel, or a micro-batch that does
            not fit into the GPU's memory; the message names one that does.
    """
    check_choice("precision", precision, PRECISIONS)
    micro_batch = batch if micro_batch is None else min(micro_batch, batch)
    if min(micro_batch, num_frames, size) < 1:
        raise ValueError(
            "batch, micro_batch, num_frames and size must be at least 1, got "
            f"{batch}, {micro_batch}, {num_frames} and {size}"
        )
    like = next(model.parameters())
    on_gpu = like.device.type == "cuda"
    held = sum(_bytes(tensor) for tensor in (*model.parameters(), *model.buffers()))
    held += 2 * sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)
    with torch.random.fork_rng([like.device] if on_gpu else []):
        model = copy.deepcopy(model).train()
        for parameter in model.parameters():
            if parameter.requires_grad:  # gradients are counted above, so none are kept here
                parameter.register_post_accumulate_grad_hook(_drop_gradient)

        def passes(clips: int) -> float:
            noise = torch.randn(clips, 3, num_frames, size, size, device=like.device, dtype=like.dtype)
            return _passes(model, noise, precision)

        probe = _probe_gpu if on_gpu else _probe_cpu
        seconds_a_clip, bytes_at_once, probed = probe(model, passes, micro_batch, seconds)
    return TrainingCost(batch * seconds_a_clip, (held + bytes_at_once) / 1e6, batch, micro_batch, probed)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _drop_gradient(parameter: nn.Parameter) -> None:
    parameter.grad = None


def _passes(model: nn.Module, clips: torch.Tensor, precision: str) -> float:
    """Seconds of a forward and a backward pass, until the device has finished."""
    if clips.is_cuda:
        torch.cuda.synchronize(clips.device)
    began = time.perf_counter()
    with torch.autocast(clips.device.type, PRECISIONS[precision], enabled=precision != "fp32"):
        logits = model(clips)
        loss = F.cross_entropy(logits, logits.new_zeros(len(clips), dtype=torch.long))
    loss.backward()
    if clips.is_cuda:
        torch.cuda.synchronize(clips.device)
    return time.perf_counter() - began


def _probe_cpu(
    model: nn.Module, passes: Callable[[int], float], micro_batch: int, seconds: float
) -> tuple[float, float, int]:
    """Seconds a clip, bytes of `micro_batch` clips, and how many clips at once were timed."""
    clips = min(2, micro_batch)  # not one, of which some batch norms cannot have a variance
    with LiveTensors(model) as tensors:
        took = passes(clips)
    bytes_at_once = tensors.peak / clips * micro_batch
    if took > 20 * seconds:  # a first pass is slower, but by a third only on ResNet-50
        return took / clips, bytes_at_once, clips
    took = spent = passes(clips)
    while spent < seconds:
        clips = min(2 * clips, micro_batch)
        took = passes(clips)
        spent += took
    return took / clips, bytes_at_once, clips


class LiveTensors(TorchDispatchMode):
    """Follows the bytes of the tensors that are made inside and still held, and their peak."""

    def __init__(self, model: nn.Module):
        super().__init__()
        # By storage, as views share one. The model's own are not counted.
        self.known = WeakIdKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self.known[tensor.untyped_storage()] = True
        self.held = self.peak = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        outputs = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known[storage] = True
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return outputs

    def _add(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)


def _probe_gpu(
    model: nn.Module, passes: Callable[[int], float], micro_batch: int, seconds: float
) -> tuple[float, float, int]:
    """As `_probe_cpu`, of whole micro-batches.

    Raises:
        ValueError: they do not fit into the memory.
    """
    device = next(model.parameters()).device
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    fits = micro_batch
    while fits and not _fits(passes, fits):
        fits //= 2
    if fits < micro_batch:
        raise ValueError(
            f"out of memory at micro-batch {micro_batch} on {torch.cuda.get_device_name(device)}: "
            + (f"try {fits}" if fits else "not even one clip fits")
        )
    times = []
    while sum(times) < seconds:
        times.append(passes(micro_batch))
    bytes_at_once = torch.cuda.max_memory_allocated(device) - before
    return median(times) / micro_batch, bytes_at_once, micro_batch


def _fits(passes: Callable[[int], float], clips: int) -> bool:
    try:
        passes(clips)
    except torch.cuda.OutOfMemoryError:
        return False
    return True
