"""Do saved GFLOPs save time? CT-Net as built and optimized, beside TSN, a plain CT-Net and other networks.

All are timed in turn, round after round, on random clips and with random weights. A ratio is the median over
rounds of the ratio of two times in one round. On a CPU; `gpu.py` is for GPUs. Sections:

    ways      one clip 8 x 256 x 256: as built, optimized, compiled, in ONNX Runtime
    growth    optimized networks at other numbers of frames, sizes and batches
    training  forward, backward and step
    floor     time over the least that the machine's matrix products and copies allow
    where     time of the parts of the optimized CT-Net, beside the convolutions that they replace in TSN

    python benchmarks/speed.py [--record results.json] [--figure results.png]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from plain import PlainCTNet
from timing import Call, Clock, drawn, inference, over_roofline, rates, stepping, summarise
from torch import nn
from torchvision.models.video import r2plus1d_18, s3d

from ctlib import cost
from ctlib.deploy import compiled, export, optimize
from ctlib.kernels.folded import FoldedSubOperation
from ctlib.models import recompute_blocks
from ctlib.rivals import ctnet_r50, tsn_r50
from ctlib.training import records

CLASSES = 174
SECTIONS = ("ways", "growth", "training", "floor", "where")


# ---------------------------------------------------------------- the networks


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


# ---------------------------------------------------------------- the sections


def ways(clock: Clock) -> list[dict]:
    networks = built(8)
    calls, by_runtime = dict(networks), {}
    for name in ("CT-Net", "TSN"):
        calls[f"{name}, optimized"] = optimize(networks[name])
        calls[f"{name}, compiled"] = compiled(networks[name])
        by_runtime[f"{name}, ONNX Runtime"] = by_onnx_runtime(networks[name], 8, 256, torch.get_num_threads())
    clips = torch.randn(1, 3, 8, 256, 256)
    calls = {name: inference(call) for name, call in calls.items()} | by_runtime
    scores = calls["CT-Net"](clips)
    for name in [name for name in calls if "CT-Net" in name]:
        error = ((calls[name](clips) - scores).norm() / scores.norm()).item()
        if not error <= 1e-4:
            raise AssertionError(f"{name} gives other scores than CT-Net: {error:.1e} relative, 1e-4 allowed")
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


def growth(clock: Clock) -> list[dict]:
    lines = []
    for batch, frames, size in ((1, 8, 224), (1, 8, 256), (1, 16, 224), (1, 16, 256), (4, 8, 224)):
        networks = built(frames)
        calls = {
            **{name: networks[name] for name in networks if name not in ("CT-Net", "TSN")},
            **{f"{name}, optimized": optimize(networks[name]) for name in ("TSN", "CT-Net")},
        }
        calls = {name: inference(call) for name, call in calls.items()}
        clips = torch.randn(batch, 3, frames, size, size)
        print(f"  {batch} x {frames} x {size} x {size}")
        references = {"CT-Net, optimized": "TSN, optimized"}
        few = Clock(clock.device, min(clock.rounds, 5))
        lines += summarise(few.in_turn(calls, clips), batch, references, frames=frames, size=size, batch=batch)
    return lines


def training(clock: Clock) -> list[dict]:
    batch, frames, size = 2, 8, 256
    networks = built(frames)
    del networks["R(2+1)D-18"]
    networks["CT-Net, recomputed"] = ctnet_r50(CLASSES, frames)
    recompute_blocks(networks["CT-Net, recomputed"])
    steps = {name: stepping(model, torch.arange(batch)) for name, model in networks.items()}
    references = dict.fromkeys(("CT-Net", "CT-Net, recomputed", "TSN"), "plain CT-Net")
    few = Clock(clock.device, min(clock.rounds, 5))
    times = few.in_turn(steps, torch.randn(batch, 3, frames, size, size))
    lines = summarise(times, batch, references, frames=frames, size=size, batch=batch)
    ratio = statistics.median(a / b for a, b in zip(times["CT-Net"], times["TSN"], strict=True))
    print(f"  CT-Net beside TSN: {ratio:.2f}")
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


def floor(clock: Clock) -> list[dict]:
    """Time over the least that the machine's measured rates allow for the network's operations and bytes."""
    least = rates(clock, torch.float32, side=2048, batch=1)
    print("  {tflops}, copy {gb_a_second} GB/s".format(**least.to_dict()))
    lines = []
    for name, make in (("CT-Net", ctnet_r50), ("TSN", tsn_r50)):
        call = inference(optimize(drawn(make(CLASSES))))
        clips = torch.randn(1, 3, 8, 256, 256)
        call(clips)
        seconds = statistics.median(clock.once(call, clips) for _ in range(clock.rounds))
        line = {"name": f"{name}, optimized", "batch": 1, **over_roofline(seconds, make(CLASSES), call, clips, least)}
        print("  {name}: {ms} ms, {over_floor} of the floor ({bound_by}), {share_of_peak:.0%} of peak".format(**line))
        lines.append(line)
    return [least.to_dict(), *lines]


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
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--record", type=Path, help="write the record to this JSON file")
    parser.add_argument("--figure", type=Path, help="write the figure to this PNG file")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, for quartiles, got {options.rounds}")
    if options.figure and not {"ways", "growth"} <= set(options.sections):
        parser.error("--figure draws the sections ways and growth: ask for both")
    torch.set_num_threads(options.threads)
    clock = Clock(torch.device("cpu"), options.rounds)
    record = {"protocol": protocol(options)}
    sections = {"ways": ways, "growth": growth, "training": training, "floor": floor, "where": where}
    for name in options.sections:
        print(name, flush=True)
        record[name] = sections[name](clock)
        if options.record:
            options.record.write_text(json.dumps(record, indent=1) + "\n")
    if options.figure:
        draw(record, options.figure)


def protocol(options: argparse.Namespace) -> dict:
    machine = records.provenance(torch.device("cpu"))
    kept = {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "OMP_", "LD_PRELOAD"))}
    return {
        "measured": f"{options.rounds} rounds in turn (growth and training at most 5) after 2 to warm up; "
        "medians and quartiles",
        "weights": "random, with running statistics drawn",
        "precision": "float32",
        "threads": options.threads,
        "hardware": machine["hardware"],
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": machine["versions"],
        "commit": machine["commit"],
        "environment": kept,
    }


if __name__ == "__main__":
    main()
