"""The cost of a network: counted in the paper's convention, by formula, and timed; and its interact field.

GFLOPs are multiply-accumulates of convolutions and linear layers, plus 2 operations per output
element of every batch norm. They are in 1e9, for one view (one clip, one crop). In this convention
the counts equal the published ones. Other papers and tools leave batch norm out, or count a
multiply-accumulate as two.
"""

import copy
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ctlib.config import check_choice
from ctlib.ct_module import Kernel, kernel_of_each
from ctlib.excitation import reduction_of
from ctlib.kernels import BATCH_NORMS
from ctlib.tensorize import TensorSeparableConv, resolve_dims


@dataclass(frozen=True)
class Cost:
    """GFLOPs of one view, and the number of parameters (not in millions)."""

    gflops: float
    params: int


def count(model: nn.Module, num_frames: int = 8, size: int = 256) -> Cost:
    """Count the cost of one clip of `num_frames` frames of `size` x `size` pixels.

    A copy of the network runs on the meta device, which computes nothing. Clips of any size take a fraction of a
    second and no memory.

    Args:
        model: takes (N, 3, T, H, W).
        num_frames: T.
        size: pixels, height and width.
    """
    gflops = breakdown(model, num_frames, size).gflops.sum()
    return Cost(float(gflops), sum(parameter.numel() for parameter in model.parameters()))


def breakdown(model: nn.Module, num_frames: int = 8, size: int = 256) -> pd.DataFrame:
    """The GFLOPs of `count`, layer by layer in the order of the forward pass.

    Arguments as in `count`.

    Returns:
        One row per call of a layer that counts: `layer` (its name in the model), `kind` ("product" of convolutions,
        linear layers and matrices, or "batch norm") and `gflops`, without those of its sub-layers. Products of single
        elements are seen where a layer states them (`dynamic_products`), as TANet's and CorrNet's do.
    """
    on_meta = {id(tensor): tensor.to("meta") for tensor in model.buffers()}  # so that the copy holds no weights
    on_meta |= {id(weights): nn.Parameter(weights.to("meta"), weights.requires_grad) for weights in model.parameters()}
    model = copy.deepcopy(model, on_meta).eval()
    clip = torch.zeros(1, 3, num_frames, size, size, device="meta")
    rows = []
    running = [[0, 0]]  # of each layer that is, the outermost first: what was counted before it, and in its sub-layers

    def watch(name: str, layer: nn.Module) -> None:
        def enter(_layer, _inputs):
            running.append([counter.get_total_flops(), 0])

        def leave(_layer, _inputs, output):
            before, within = running.pop()
            whole = counter.get_total_flops() - before
            running[-1][1] += whole
            if whole > within:
                rows.append((name, "product", (whole - within) / 2e9))  # a multiply-accumulate is counted as 2
            if dynamic := getattr(layer, "dynamic_products", None):
                rows.append((name, "product", dynamic(output) / 1e9))
            if isinstance(layer, BATCH_NORMS):
                rows.append((name, "batch norm", 2 * output.numel() / 1e9))

        if isinstance(layer, BATCH_NORMS):
            layer.forward = nn.Identity().forward  # its shapes are enough, and tracing it takes a third of the time
        layer.register_forward_pre_hook(enter)
        layer.register_forward_hook(leave)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for name, layer in model.named_modules():
            watch(name, layer)
        model(clip)
    return pd.DataFrame(rows, columns=["layer", "kind", "gflops"])


def by_stage(model: nn.Module, num_frames: int = 8, size: int = 256) -> pd.DataFrame:
    """The GFLOPs of a network on a ResNet, by stage and part. Arguments as in `count`.

    Returns:
        A row for the stem, each of stages 2 to 5, and the head. Columns are "1x1 and stem", "3x3 or sub-operations"
        (with their batch norms), "point-wise" and "excitation".

    Raises:
        ValueError: the backbone has no stages.
    """
    if not hasattr(getattr(model, "backbone", None), "stages"):
        raise ValueError("only ResNets have stages: for another network, use `breakdown`")
    table = breakdown(model, num_frames, size)
    stages = {f"backbone.layer{number - 1}.": f"stage {number}" for number in (2, 3, 4, 5)} | {"fc": "head"}
    parts = {".excitation.": "excitation", ".pointwise.": "point-wise", r"\.(?:conv|bn)2": "3x3 or sub-operations"}
    table["stage"], table["part"] = "stem", "1x1 and stem"
    for start, stage in stages.items():
        table.loc[table.layer.str.startswith(start), "stage"] = stage
    for pattern, part in reversed(parts.items()):
        table.loc[table.layer.str.contains(pattern), "part"] = part
    order = ["1x1 and stem", *reversed(parts.values())]
    summed = table.pivot_table(index="stage", columns="part", values="gflops", aggfunc="sum", fill_value=0.0)
    return summed.reindex(index=["stem", *stages.values()], columns=order, fill_value=0.0)


def ct_block_formula(
    channels: int,
    size: tuple[int, int, int],
    dims: int | tuple[int, ...] = 2,
    kernels: Kernel | Sequence[Kernel] = (3, 3, 3),
    pointwise: bool = True,
    excitation: str = "te",
) -> dict[str, int]:
    """The operations of one CT-Block by formula, part by part; equal to what `breakdown` counts (section 3).

    Args:
        channels: C, the bottleneck's width; the block has 4C at both ends.
        size: (T, H, W) of the features.
        dims, kernels, pointwise: as in `CTModule`, with the parallel connection.
        excitation: "te" or "none".

    Returns:
        Operations (not 1e9) of "1x1 convolutions", "sub-operations", "point-wise" and "excitation".
    """
    check_choice("excitation", excitation, ("te", "none"))
    num_frames, area = size[0], size[1] * size[2]
    c, positions = channels, num_frames * area
    dims = resolve_dims(channels, dims)
    parts = {"1x1 convolutions": positions * (4 * c * c + 2 * c) + positions * (4 * c * c + 2 * 4 * c)}
    parts["sub-operations"] = sum(
        positions * c * c_k * (h * w + t) + 2 * (2 * c * positions)  # two batch norms
        for c_k, (t, h, w) in zip(dims, kernel_of_each(kernels, dims), strict=True)
    )
    parts["point-wise"] = (len(dims) - 1) * positions * (c * c + 2 * c) if pointwise else 0
    parts["excitation"] = 0
    for c_k in dims if excitation == "te" else ():
        hidden = c // reduction_of(c_k)
        for taps, places in ((9, area), (3, num_frames), (1, num_frames)):  # spatial, temporal, channel
            # Reducing takes C/r outputs of C_k inputs, expanding C outputs of C_k/r: the same number.
            parts["excitation"] += places * (2 * hidden * c_k * taps + 2 * hidden)
    return parts


@contextmanager
def eval_with_hooks(network: nn.Module, after: Mapping[nn.Module, Callable] | None = None) -> Iterator[None]:
    """Inside, `network` is in evaluation mode with forward hooks; afterwards, even after an error, it is as before.

    Every module gets back its own mode, since some may be frozen in evaluation mode.

    Args:
        network: any module.
        after: module -> a forward hook, called with the module, its inputs (a tuple) and its output.
    """
    modes = [(module, module.training) for module in network.modules()]
    hooks = []
    try:
        hooks += [module.register_forward_hook(hook) for module, hook in (after or {}).items()]
        network.eval()
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training


# The dtypes of autocast, by name; "fp32" is without autocast.
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Latency:
    """How long one forward pass took, and under what conditions."""

    milliseconds: float  # the median of all calls
    low: float  # the first quartile, milliseconds
    high: float  # the third
    calls: int
    batch: int  # clips per call
    num_frames: int
    size: int  # pixels
    precision: str  # "tf32" where a GPU rounds the float32 inputs of convolutions to it
    device: str
    hardware: str
    threads: int  # of the CPU

    @property
    def clips_per_second(self) -> float:
        return 1000 * self.batch / self.milliseconds


def latency(
    model: nn.Module, num_frames: int = 8, size: int = 256, batch: int = 1, precision: str = "fp32", seconds: float = 3
) -> Latency:
    """Time a network's forward pass on its device.

    After two calls to warm up, calls are timed one by one for `seconds`, each until the device has finished.
    Compare networks only by times of one session, measured in turn.

    Args:
        model: takes (N, 3, T, H, W), in float32; its mode is restored.
        num_frames: T.
        size: pixels, height and width.
        batch: N, clips per call.
        precision: "fp32", or "bf16" or "fp16" by autocast.
        seconds: how long to time; at least one call is made.

    Raises:
        ValueError: an unknown precision, a model that is not in float32, or fewer than one clip, frame or pixel.
    """
    check_choice("precision", precision, PRECISIONS)
    parameter = next(model.parameters())
    device = parameter.device
    if parameter.dtype != torch.float32:
        raise ValueError(f"the model must be in float32, got {parameter.dtype}: set `precision` for another")
    if min(batch, num_frames, size) < 1:
        raise ValueError(f"batch, num_frames and size must be at least 1, got {batch}, {num_frames} and {size}")
    clips = torch.zeros(batch, 3, num_frames, size, size, device=device)
    times = []
    autocast = torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")
    with eval_with_hooks(model), torch.inference_mode(), autocast:
        for _ in range(2):
            timed(lambda: model(clips), device)
        while not times or sum(times) < 1000 * seconds:
            times.append(1000 * timed(lambda: model(clips), device))
    low, median, high = torch.tensor(times).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    if precision == "fp32" and device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        precision = "tf32"
    return Latency(
        median, low, high, len(times), batch, num_frames, size, precision, device.type, hardware(device),
        torch.get_num_threads(),
    )  # fmt: skip


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def hardware(device: torch.device) -> str:
    """The name of the GPU, or the number and name of this machine's processors."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.processor() or platform.machine()}"


@dataclass(frozen=True)
class InteractField:
    """The inputs that one output depends on: Table 1's interact field, measured.

    `reached` is bool (C, T, H, W): True where a change of the input can change the output.
    """

    reached: torch.Tensor

    @property
    def channels(self) -> int:
        """How many input channels are reached, at any position."""
        return int(self.reached.flatten(1).any(1).sum())

    @property
    def places(self) -> torch.Tensor:
        """Bool (T, H, W): the positions from which some channel is reached."""
        return self.reached.any(0)

    @property
    def positions(self) -> int:
        """How many positions are reached, at most the box's volume."""
        return int(self.places.sum())

    @property
    def box(self) -> tuple[int, int, int]:
        """Extents of the bounding box of those positions, (t, h, w); zeros if there are none."""
        places = self.places.nonzero()
        if not len(places):
            return 0, 0, 0
        return tuple((places.amax(0) - places.amin(0) + 1).tolist())


def interact_field(
    module: nn.Module, num_frames: int = 11, size: int = 11, channels: int | None = None, channel: int = 0
) -> InteractField:
    """The set of inputs (channel, t, h, w) that one output depends on, by gradient.

    It is measured on a copy without what hides a dependence in CT-Net, TSN and plain convolutions. Weights and inputs
    are positive, and batch norms and biases as new, so no paths cancel and every ReLU is the identity. Maxima become
    means. The sigmoid of a gate, whose gradient would vanish, becomes `x / (1 + |x|)`.

    It can miss a dependence in networks that subtract: a difference of equal inputs is zero, and shuts the gate that it
    opens. Layers with other parameters than weights of convolutions and linear layers keep their start. For such
    networks `study.frame_order.frames_seen` draws random weights.

    Args:
        module: a module on clips, or a network (then its features count, not its scores).
        num_frames: T of the input clip. A field that reaches its border is cut off there.
        size: pixels, its height and width.
        channels: C of the clip; that of the module's first convolution if not given.
        channel: the output is this channel, in the middle of the clip.

    Raises:
        ValueError: `channels` is not given and the module has no convolution.

    Example:
        >>> from ctlib.ct_module import CTModule
        >>> field = interact_field(CTModule(16, excitation="none"))
        >>> field.channels, field.box, field.positions
        (16, (5, 5, 5), 45)
    """
    module = copy.deepcopy(module).cpu().double().eval()
    convolutions = TensorSeparableConv, nn.Conv2d, nn.Conv3d
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, BATCH_NORMS):
                layer.reset_parameters()  # weight 1, bias 0, mean 0, variance 1
            elif isinstance(layer, (*convolutions, nn.Linear)):
                layer.weight.fill_(1 / layer.weight[0].numel())  # so that values stay near 1
                if getattr(layer, "bias", None) is not None:
                    layer.bias.zero_()
    if channels is None:
        first = next((layer for layer in module.modules() if isinstance(layer, convolutions)), None)
        if first is None:
            raise ValueError("the module has no convolution to take the channels from: give `channels`")
        channels = first.channels if isinstance(first, TensorSeparableConv) else first.in_channels
    clip = torch.ones(1, channels, num_frames, size, size, dtype=torch.double, requires_grad=True)
    with _Smooth():
        output = getattr(module, "forward_features", module)(clip)
    middle = tuple(extent // 2 for extent in output.shape[2:])
    output[(0, channel, *middle)].backward()
    return InteractField(clip.grad[0] != 0)


class _Smooth(TorchFunctionMode):
    """Replaces functions whose gradient would hide a dependence."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        return _INSTEAD.get(function, function)(*arguments, **(keywords or {}))


def _mean_pool2d(x, kernel_size, stride=None, padding=0, *_rest, **_more):
    return F.avg_pool2d(x, kernel_size, stride, padding)


_INSTEAD = {torch.Tensor.sigmoid: F.softsign, torch.sigmoid: F.softsign, torch.max_pool2d: _mean_pool2d}
