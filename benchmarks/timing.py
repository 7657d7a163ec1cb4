"""What the benchmarks share: calls timed in turn, their summary, and the roofline of a network."""

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ctlib import cost
from ctlib.kernels import BATCH_NORMS, choice

Call = Callable[[torch.Tensor], object]


def drawn(model: nn.Module) -> nn.Module:
    """With statistics and scales as after training, so that folding changes weights."""
    torch.manual_seed(0)
    for norm in (layer for layer in model.modules() if isinstance(layer, BATCH_NORMS)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1)
    return model.eval()


class Clock:
    """Times calls in turn, on a CPU or a GPU."""

    def __init__(self, device: torch.device, rounds: int):
        self.device, self.rounds = device, rounds

    def once(self, call: Call, *arguments) -> float:
        self.wait()
        began = time.perf_counter()
        call(*arguments)
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def in_turn(self, calls: dict[str, Call], *arguments) -> dict[str, list[float]]:
        """Seconds of each call in each round, after two rounds to warm up. Each round begins with another call."""
        times = {name: [] for name in calls}
        names = list(calls)
        for number in range(self.rounds + 2):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                seconds = self.once(calls[name], *arguments)
                if number > 1:
                    times[name].append(seconds)
        return times


def summarise(times: dict[str, list[float]], clips: int, references: dict[str, str], **more) -> list[dict]:
    """One row per call: median and quartiles, clips per second, and the ratio to its reference."""
    lines = []
    for name, seconds in times.items():
        low, middle, high = statistics.quantiles(seconds, n=4)
        line = {**more, "name": name, "ms": 1000 * middle, "ms_low": 1000 * low, "ms_high": 1000 * high}
        line["clips_a_second"] = clips / middle
        other = references.get(name)
        if other in times:
            ratios = [mine / its for mine, its in zip(seconds, times[other], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            line |= {"beside": other, "ratio": middle, "ratio_low": low, "ratio_high": high}
        lines.append({key: round(value, 3) if isinstance(value, float) else value for key, value in line.items()})
        ratio = f"   {line['ratio']:.2f} of {other} ({low:.2f} to {high:.2f})" if other in times else ""
        print(f"  {name:32} {line['ms']:8.1f} ms{ratio}", flush=True)
    return lines


def inference(model: Call, precision: torch.dtype = torch.float32) -> Call:
    """Without gradients, on clips of the network's precision."""

    def call(clips: torch.Tensor) -> object:
        with torch.no_grad():
            return model(clips.to(precision))

    return call


def stepping(model: nn.Module, labels: torch.Tensor, precision: torch.dtype = torch.float32) -> Call:
    """A training step of a network on the device of the labels: forward, backward and SGD."""
    device = labels.device
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step(clips: torch.Tensor) -> None:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = F.cross_entropy(model(clips), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write: each tensor of an operation once, views not at all."""

    bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        out = function(*arguments, **(keywords or {}))
        makes_new = function.name().startswith(("aten::new_", "aten::empty"))  # reads no more than a shape
        if not function.is_view and not makes_new:
            tensors = [part for part in tree_leaves((arguments, keywords, out)) if isinstance(part, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


class Rates(NamedTuple):
    """What a device does at most, measured."""

    products: dict[str, float]  # operations per second of a matrix product and of a dense convolution
    copy: float  # bytes per second, read and written

    def to_dict(self) -> dict:
        tflops = {name: round(value / 1e12, 3) for name, value in self.products.items()}
        return {"tflops": tflops, "gb_a_second": round(self.copy / 1e9, 1)}


def rates(clock: Clock, precision: torch.dtype, side: int, batch: int) -> Rates:
    """Of products of (side, side) matrices, of convolutions of 16 * batch frames, and of a copy of at most 256 MB."""
    device = clock.device
    square = torch.randn(side, side, device=device, dtype=precision)
    extent = min(32, side // 64)
    frames = torch.randn(16 * batch, 256, extent, extent, device=device, dtype=precision)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=precision)
    frames, kernel = (part.contiguous(memory_format=torch.channels_last) for part in (frames, kernel))
    large = torch.ones(min(2**28, 64 * side**2), dtype=torch.uint8, device=device)
    other = torch.empty_like(large)

    def best(function: Callable, *arguments) -> float:
        """Seconds of one of ten calls, so that the time to start them is a small part."""

        def ten() -> None:
            for _ in range(10):
                function(*arguments)

        return min(clock.once(ten) for _ in range(7)) / 10

    products = {
        "matrix product": 2 * side**3 / best(torch.mm, square, square),
        "dense 3x3 convolution": 2
        * frames.numel()
        * kernel[0].numel()
        / best(partial(F.conv2d, padding=1), frames, kernel),
    }  # the better one counts: on a CPU, matrix products may be slower than convolutions
    return Rates(products, 2 * large.numel() / best(other.copy_, large))


def over_roofline(seconds: float, network: nn.Module, call: Call, clips: torch.Tensor, least: Rates) -> dict:
    """Time over the least that the rates allow for the operations and bytes of a call of a network."""
    batch, _, frames, size, _ = clips.shape
    with Traffic() as traffic, choice.using("plain"):  # it does not see what Triton launches
        call(clips)
    # A product and a sum are two operations.
    operations = 2e9 * batch * cost.count(copy.deepcopy(network).float(), frames, size).gflops
    rate = max(least.products.values())
    floor = max(operations / rate, traffic.bytes / least.copy)
    return {
        "ms": round(1000 * seconds, 2),
        "floor_ms": round(1000 * floor, 2),
        "over_floor": round(seconds / floor, 2),
        "share_of_peak": round(operations / seconds / rate, 3),
        "bound_by": "operations" if operations / rate > traffic.bytes / least.copy else "bytes",
    }
