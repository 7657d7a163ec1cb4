"""Do saved GFLOPs save time? CT-Net as built and optimized, beside TSN, a plain CT-Net and other networks.

All are timed in turn, round after round, on random clips and with random weights. A ratio is the median over
rounds of the ratio of two times in one round. Sections:

    ways      one clip 8 x 256 x 256: as built, optimized, compiled, in ONNX Runtime
    growth    optimized networks at other numbers of frames, sizes and batches
    memory    peak memory of the tensors of a forward pass, without the weights
    training  forward, backward and step, and peak memory
    floor     time over the least that the machine's matrix products and copies allow
    where     time of the parts of the optimized CT-Net, beside the convolutions that they replace in TSN

    python benchmarks/speed.py [--record results.json] [--figure results.png] [--device cuda]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from plain import PlainCTNet
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.video import r2plus1d_18, s3d

from ctlib import cost
from ctlib.deploy import compiled, export, optimize
from ctlib.kernels import BATCH_NORMS
from ctlib.kernels.folded import FoldedSubOperation
from ctlib.models import ctnet_r50, recompute_blocks, tsn_r50
from ctlib.training import records

CLASSES = 174
SECTIONS = ("ways", "growth", "memory", "training", "floor", "where")  # the last on a CPU only
Call = Callable[[torch.Tensor], object]


# ---------------------------------------------------------------- the networks


def drawn(model: nn.Module) -> nn.Module:
    """With statistics and scales as after training, so that folding changes weights."""
    torch.manual_seed(0)
    for norm in (layer for layer in model.modules() if isinstance(layer, BATCH_NORMS)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1)
    return model.eval()


def built(num_frames: int) -> dict[str, nn.Module]:
    ctnet = drawn(ctnet_r50(CLASSES, num_frames))
    plain = PlainCTNet(CLASSES, num_frames)
    plain.load_state_dict(ctnet.state_dict())
    networks = {
        "plain CT-Net": plain.eval(),
        "CT-Net": ctnet,
        "TSN": drawn(tsn_r50(CLASSES, num_frames)),
        "R(2+1)D-18": drawn(r2plus1d_18(num_classes=CLASSES)),
    }
    if num_frames >= 16:  # torchvision's takes no fewer
        networks["S3D"] = drawn(s3d(num_classes=CLASSES))
    return networks


def by_onnx_runtime(model: nn.Module, num_frames: int, size: int, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning would slow the next call
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder) / "model.onnx", size, num_frames)
        session = onnxruntime.InferenceSession(Path(folder) / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {"clips": clips.numpy()})[0])


# ---------------------------------------------------------------- times


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


def inference(model: Call, precision: torch.dtype, device: torch.device) -> Call:
    """Without gradients; in another precision by autocast, unless the network itself has that precision."""
    by_autocast = precision != torch.float32 and next(model.parameters()).dtype == torch.float32

    def call(clips: torch.Tensor) -> object:
        with torch.no_grad(), torch.autocast(device.type, precision, enabled=by_autocast):
            return model(clips if by_autocast else clips.to(precision))

    return call


# ---------------------------------------------------------------- the sections


def ways(clock: Clock, precision: torch.dtype, onnx: bool) -> list[dict]:
    networks = {name: model.to(clock.device) for name, model in built(8).items()}
    calls, by_runtime = dict(networks), {}
    for name in ("CT-Net", "TSN"):
        calls[f"{name}, optimized"] = optimize(networks[name]).to(precision)
        calls[f"{name}, compiled"] = compiled(optimize(networks[name]).to(precision))
        if onnx:
            by_runtime[f"{name}, ONNX Runtime"] = by_onnx_runtime(networks[name], 8, 256, torch.get_num_threads())
    clips = torch.randn(1, 3, 8, 256, 256, device=clock.device)
    calls = {name: inference(call, precision, clock.device) for name, call in calls.items()} | by_runtime
    scores = calls["CT-Net"](clips).float()
    tolerance = 1e-4 if precision == torch.float32 else 5e-2
    for name in [name for name in calls if "CT-Net" in name]:
        error = ((calls[name](clips).float() - scores).norm() / scores.norm()).item()
        if not error <= tolerance:
            raise AssertionError(f"{name} gives other scores than CT-Net: {error:.1e} relative, {tolerance} allowed")
    references = {name: "plain CT-Net" for name in calls if name.startswith("CT-Net")}
    references |= {name: "CT-Net" + name.removeprefix("TSN") for name in calls if name.startswith("TSN")}
    times = clock.in_turn(calls, clips)
    lines = summarise(times, 1, references, frames=8, size=256, batch=1)
    pairs = {f"CT-Net{way}": f"TSN{way}" for way in ("", ", optimized", ", compiled", ", ONNX Runtime")}
    print("  CT-Net beside TSN, each in the same way:")
    for mine, other in pairs.items():
        if other in times:
            ratio = statistics.median(a / b for a, b in zip(times[mine], times[other], strict=True))
            lines.append(
                {"name": mine, "beside": other, "ratio": round(ratio, 3), "frames": 8, "size": 256, "batch": 1}
            )
            print(f"  {mine:32} {ratio:.2f} of {other}", flush=True)
    gflops = {name: cost.count(networks[name], 8, 256).gflops for name in ("CT-Net", "TSN")}
    print(f"  GFLOPs: CT-Net {gflops['CT-Net']:.2f}, TSN {gflops['TSN']:.2f}: {gflops['CT-Net'] / gflops['TSN']:.2f}")
    return lines


def growth(clock: Clock, precision: torch.dtype) -> list[dict]:
    lines = []
    shapes = [(1, 8, 224), (1, 8, 256), (1, 16, 224), (1, 16, 256), (4, 8, 224)]
    shapes += [(32, 8, 224), (32, 8, 256)] if clock.device.type == "cuda" else []
    for batch, frames, size in shapes:
        networks = {name: model.to(clock.device) for name, model in built(frames).items()}
        calls = {
            **{name: networks[name] for name in networks if name not in ("CT-Net", "TSN")},
            **{f"{name}, optimized": optimize(networks[name]).to(precision) for name in ("TSN", "CT-Net")},
        }
        if clock.device.type == "cuda":
            calls |= {f"{name}, compiled": compiled(calls[f"{name}, optimized"]) for name in ("TSN", "CT-Net")}
        calls = {name: inference(call, precision, clock.device) for name, call in calls.items()}
        clips = torch.randn(batch, 3, frames, size, size, device=clock.device)
        print(f"  {batch} x {frames} x {size} x {size}")
        references = {f"CT-Net, {way}": f"TSN, {way}" for way in ("optimized", "compiled")}
        few = Clock(clock.device, min(clock.rounds, 5))
        lines += summarise(few.in_turn(calls, clips), batch, references, frames=frames, size=size, batch=batch)
    return lines


def memory(device: torch.device, precision: torch.dtype) -> list[dict]:
    if device.type == "cpu":
        print("  not measured on a CPU")
        return []
    networks = {name: model.to(device) for name, model in built(8).items()}
    networks |= {f"{name}, optimized": optimize(networks[name]).to(precision) for name in ("CT-Net", "TSN")}
    lines = []
    for name, model in networks.items():
        clips = torch.randn(1, 3, 8, 256, 256, device=device)
        call = inference(model, precision, device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call(clips)
        peak = torch.cuda.max_memory_allocated(device) - before
        lines.append({"name": name, "frames": 8, "size": 256, "batch": 1, "memory_mb": round(peak / 1e6, 1)})
        print(f"  {name:32} {lines[-1]['memory_mb']:8,.0f} MB at the peak", flush=True)
    return lines


def held_at_the_peak(step: Call, clips: torch.Tensor) -> float:
    """MB of the networks and of one step, of a GPU."""
    torch.cuda.reset_peak_memory_stats(clips.device)
    step(clips)
    return torch.cuda.max_memory_allocated(clips.device) / 1e6


def training(clock: Clock, precision: torch.dtype) -> list[dict]:
    batch, frames, size = (16, 8, 256) if clock.device.type == "cuda" else (2, 8, 256)
    networks = built(frames)
    del networks["R(2+1)D-18"]
    networks["CT-Net, recomputed"] = ctnet_r50(CLASSES, frames)
    recompute_blocks(networks["CT-Net, recomputed"])
    labels = torch.arange(batch, device=clock.device)

    def stepping(model: nn.Module) -> Call:
        model.to(clock.device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

        def step(clips: torch.Tensor) -> None:
            with torch.autocast(clock.device.type, precision, enabled=precision != torch.float32):
                loss = F.cross_entropy(model(clips), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    steps = {name: stepping(model) for name, model in networks.items()}
    clips = torch.randn(batch, 3, frames, size, size, device=clock.device)
    memory = {name: held_at_the_peak(step, clips) for name, step in steps.items()} if clips.is_cuda else {}
    references = dict.fromkeys(("CT-Net", "CT-Net, recomputed", "TSN"), "plain CT-Net")
    few = Clock(clock.device, min(clock.rounds, 5))
    times = few.in_turn(steps, clips)
    lines = summarise(times, batch, references, frames=frames, size=size, batch=batch)
    ratio = statistics.median(a / b for a, b in zip(times["CT-Net"], times["TSN"], strict=True))
    print(f"  CT-Net beside TSN: {ratio:.2f}")
    for line in lines if memory else ():
        line["memory_mb"] = round(memory[line["name"]])
        line["memory_ratio"] = round(memory[line["name"]] / memory["plain CT-Net"], 3)
        print(f"  {line['name']:32} {line['memory_mb']:,} MB at the peak, {line['memory_ratio']:.2f} of plain")
    return [*lines, {"name": "CT-Net", "beside": "TSN", "ratio": round(ratio, 3)}]


def where(clock: Clock) -> list[dict]:
    """Milliseconds in the parts of all seven CT-Modules, and in the 3x3 convolutions that they replace."""
    ctnet, tsn = optimize(drawn(ctnet_r50(CLASSES))), optimize(drawn(tsn_r50(CLASSES)))
    spent: dict[str, float] = {}
    replacing = "TSN: the 3x3 convolutions that they replace"  # without their ReLUs
    clips = torch.randn(1, 3, 8, 256, 256)

    def watch(name: str, layer: nn.Module) -> None:
        began = []
        layer.register_forward_pre_hook(lambda *_: began.append(time.perf_counter()))
        layer.register_forward_hook(
            lambda *_: spent.__setitem__(name, spent.get(name, 0) + time.perf_counter() - began.pop())
        )

    for block in ctnet.backbone.replaced():
        watch("all", block.conv2)
        for step in block.conv2:
            if isinstance(step, FoldedSubOperation):
                watch("spatial convolutions", step.spatial)
                watch("temporal convolutions", step.temporal)
                for gate in step.gates:
                    watch("gates (convolutions of TE)", gate)
            else:
                watch("point-wise convolution", step)
    for stage, depth in zip(tsn.backbone.stages, (3, 4, 6, 3), strict=True):
        for index in range(1, depth, 2):
            watch(replacing, stage[index].conv2)
    with torch.inference_mode():
        for number in range(clock.rounds + 2):
            if number == 2:
                spent.clear()
            ctnet(clips)
            tsn(clips)
    spent = {name: 1000 * seconds / clock.rounds for name, seconds in spent.items()}
    replaced = spent.pop(replacing)
    spent["pools, products and sums of TE"] = 2 * spent["all"] - sum(spent.values())
    whole = spent.pop("all")
    for name, value in spent.items():
        print(f"  {name:44} {value:6.1f} ms")
    print(f"  {'CT-Modules together':44} {whole:6.1f} ms")
    print(f"  {replacing:44} {replaced:6.1f} ms")
    spent |= {"CT-Modules together": whole, replacing: replaced}
    return [{"part": name, "ms": round(value, 2)} for name, value in spent.items()]


# ---------------------------------------------------------------- the floor


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


def floor(clock: Clock, precision: torch.dtype) -> list[dict]:
    """Time over the least that the machine's measured rates allow for the network's operations and bytes."""
    device, on_gpu = clock.device, clock.device.type == "cuda"
    side, batch = (8192, 32) if on_gpu else (2048, 1)
    square = torch.randn(side, side, device=device, dtype=precision)
    frames = torch.randn(16 * batch, 256, 32, 32, device=device, dtype=precision)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=precision)
    frames, kernel = (part.contiguous(memory_format=torch.channels_last) for part in (frames, kernel))

    def ten(function: Callable, *arguments) -> None:
        for _ in range(10):  # so that the time to start them is a small part
            function(*arguments)

    # The better one counts: on a CPU, matrix products may be slower than convolutions.
    convolve = partial(F.conv2d, padding=1)
    rates = {
        "matrix product": 20 * side**3 / min(clock.once(ten, torch.mm, square, square) for _ in range(7)),
        "dense 3x3 convolution": 20 * frames.numel() * kernel[0].numel()
        / min(clock.once(ten, convolve, frames, kernel) for _ in range(7)),
    }  # fmt: skip
    rate = max(rates.values())
    large = torch.ones(256 * 2**20, dtype=torch.uint8, device=device)
    other = torch.empty_like(large)
    bandwidth = 20 * large.numel() / min(clock.once(ten, other.copy_, large) for _ in range(7))
    measured = ", ".join(f"{name} {value / 1e12:.2f} TFLOP/s" for name, value in rates.items())
    print(f"  {measured}, copy {bandwidth / 1e9:.0f} GB/s")
    lines = []
    for name, make in (("CT-Net", ctnet_r50), ("TSN", tsn_r50)):
        model = optimize(drawn(make(CLASSES))).to(device, precision)
        clips = torch.randn(batch, 3, 8, 256, 256, device=device)
        call = inference(model, precision, device)
        with Traffic() as traffic:
            call(clips)
        operations = 2e9 * batch * cost.count(model, 8, 256).gflops  # a product and a sum are two
        least = max(operations / rate, traffic.bytes / bandwidth)
        call(clips)
        seconds = statistics.median(clock.once(call, clips) for _ in range(clock.rounds))
        line = {
            "name": f"{name}, optimized",
            "batch": batch,
            "ms": round(1000 * seconds, 2),
            "floor_ms": round(1000 * least, 2),
            "over_floor": round(seconds / least, 2),
            "share_of_peak": round(operations / seconds / rate, 3),
            "clips_a_second": round(batch / seconds, 2),
            "bound_by": "operations" if operations / rate > traffic.bytes / bandwidth else "bytes",
        }
        print("  {name}: {ms} ms, {over_floor} of the floor ({bound_by}), {share_of_peak:.0%} of peak".format(**line))
        lines.append(line)
    return [
        {
            "tflops": {name: round(value / 1e12, 3) for name, value in rates.items()},
            "gb_a_second": round(bandwidth / 1e9, 1),
        },
        *lines,
    ]


# ---------------------------------------------------------------- the record


def draw(record: dict, path: Path) -> None:
    """Two panels: one clip in each way, and milliseconds per clip at other shapes."""
    import matplotlib.pyplot as plt
    import pandas as pd

    from ctlib.display import plotting

    plotting.use_style()
    table = pd.DataFrame([line for line in record["ways"] if "ms" in line]).sort_values("ms")
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    errors = [table.ms - table.ms_low, table.ms_high - table.ms]
    shades = [
        "0.25" if name.startswith("CT-Net") else "0.55" if name.startswith("TSN") else "0.8" for name in table.name
    ]
    left.barh(table.name, table.ms, xerr=errors, color=shades)
    left.set(xlabel="ms per clip, 8 x 256 x 256, batch 1", title="Inference, each way")
    shapes = pd.DataFrame(record["growth"])
    shapes["shape"] = [f"{row.batch} x {row.frames} x {row['size']}" for _, row in shapes.iterrows()]
    for marker, (name, lines) in zip("osD^v", shapes.groupby("name", sort=False), strict=False):
        right.plot(lines["shape"], lines.ms / lines.batch, marker, label=name)
    right.set(xlabel="clips x frames x pixels", ylabel="ms per clip", title="Growth with frames, size and batch")
    right.set(yscale="log", yticks=(200, 500, 1000, 2000))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("")
    right.legend()
    figure.savefig(path.with_suffix(".png"), dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="", choices=("", "fp32", "bf16"), help="fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--record", type=Path, help="write the record to this JSON file")
    parser.add_argument("--figure", type=Path, help="write the figure to this PNG file")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, for quartiles, got {options.rounds}")
    if options.figure and not {"ways", "growth"} <= set(options.sections):
        parser.error("--figure draws the sections ways and growth: ask for both")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32
    device = torch.device(options.device)
    names = {"fp32": torch.float32, "bf16": torch.bfloat16}
    precision = names[options.precision or ("bf16" if device.type == "cuda" else "fp32")]
    clock = Clock(device, options.rounds)
    record = {"protocol": protocol(options, precision)}
    sections = {
        "ways": lambda: ways(clock, precision, onnx=device.type == "cpu"),
        "growth": lambda: growth(clock, precision),
        "memory": lambda: memory(device, precision),
        "training": lambda: training(clock, precision),
        "floor": lambda: floor(clock, precision),
    }
    if device.type == "cpu":
        sections["where"] = lambda: where(clock)
    for name in options.sections:
        if name not in sections:
            continue
        print(name, flush=True)
        record[name] = sections[name]()
        if options.record:
            options.record.write_text(json.dumps(record, indent=1) + "\n")
    if options.figure:
        draw(record, options.figure)


def protocol(options: argparse.Namespace, precision: torch.dtype) -> dict:
    machine = records.provenance(torch.device(options.device))
    kept = {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "OMP_", "LD_PRELOAD"))}
    return {
        "measured": f"{options.rounds} rounds in turn (growth and training at most 5) after 2 to warm up; "
        "medians and quartiles",
        "weights": "random, with running statistics drawn",
        "precision": str(precision).removeprefix("torch."),
        "threads": options.threads,
        "hardware": machine["hardware"],
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": machine["versions"],
        "commit": machine["commit"],
        "environment": kept,
    }


if __name__ == "__main__":
    main()
