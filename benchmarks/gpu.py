"""What only a GPU can show: whether each way of an operation is right there, and how long CT-Net takes beside TSN.

Sections, in the order in which they run; one that is not begun within the minutes is named as left out:

    equal      each way of a convolution and of the excitation beside the plain one
    training   a step of TSN, CT-Net (plain, as chosen), CT-Net without excitation, C3D and a plain CT-Net
    inference  the same networks, optimized, on a large batch and on one clip
    graphs     steps and calls of TSN and CT-Net as CUDA graphs, which nothing launches one by one
    roofline   time over the least that the measured rates of products and copies allow
    ways       CT-Net in each way of its operations that was timed, beside the chosen ones
    small      a laptop-scale step, as it is and as a graph; and processes of such steps side by side
    idle       how long the GPU waits for clips in an epoch that is decoded, and in one from its memory
    notebook   train.ipynb under papermill
    compiled   training and inference of TSN and CT-Net, compiled

    python benchmarks/gpu.py [--minutes 6] [--record gpu.json] [--tiny]

It needs no network, and runs from a source tree. What needs a compiler that is not there is left out. After an error
that leaves the GPU unusable, the other sections run in a new process. What is compiled has a process of its own, which
ends with the minutes. `--tiny` takes small shapes, for a try on a CPU.
"""

import argparse
import copy
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a source tree need not be installed

import torch
from epoch import OneBatch, seconds_of_epoch
from plain import PlainCTNet
from timing import Clock, drawn, inference, over_roofline, rates, stepping, summarise
from torch import nn
from torch.nn import functional as F

from ctlib import kernels
from ctlib.deploy import compiled, optimize
from ctlib.excitation import TensorExcitation
from ctlib.kernels import choice, gating, merging, operations
from ctlib.kernels.folded import FoldedSubOperation
from ctlib.kernels.graph import InferenceGraph, StepGraph, UpdateGraph
from ctlib.models import build_model, compile_blocks, model_config
from ctlib.training import records
from ctlib.training.recipes import run_config
from ctlib.training.run import make_accelerator, resolve
from ctlib.training.trainer import Trainer

ON_CPU = {"batch": 2, "frames": 2, "size": 32, "backbone": "quickstart", "rounds": 2, "side": 64}
ON_GPU = {"batch": 32, "frames": 8, "size": 224, "backbone": "r50", "rounds": 9, "side": 8192}


class Bench:
    """The device, what is measured on it, and the time that is left."""

    def __init__(self, options: argparse.Namespace):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.ends = time.monotonic() + 60 * options.minutes
        self.tiny, self.here = options.tiny, options.here
        for name, value in (ON_CPU if options.tiny else ON_GPU).items():
            setattr(self, name, value)
        self.precision = torch.float32 if options.tiny else torch.bfloat16
        self.clock = Clock(self.device, self.rounds)

    def left(self) -> float:
        return self.ends - time.monotonic()

    def clips(self, batch: int, size: int | None = None) -> torch.Tensor:
        size = size or self.size
        return torch.randn(batch, 3, self.frames, size, size, device=self.device)

    def network(self, name: str, **parts) -> nn.Module:
        config = model_config(f"{name}_{self.backbone}", num_classes=174, num_frames=self.frames, dropout=0.0, **parts)
        return drawn(build_model(config, seed=0)).to(self.device)

    def memory(self, call: Callable, *arguments) -> float | None:
        """MB at the peak of one call, what lay there before included."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        call(*arguments)
        return round(torch.cuda.max_memory_allocated(self.device) / 1e6)


# ---------------------------------------------------------------- the sections


def equal(bench: Bench) -> Iterator[dict]:
    """The largest error of output and gradients, relative to the plain way in float64; of what is folded, of output."""
    frames, size = bench.frames, bench.size // 4
    for channels, size_k in ((64, 8), (128, 16)):
        x = torch.randn(2, channels, frames, size, size, device=bench.device, requires_grad=True)
        for kernel in ((1, 3, 3), (3, 1, 1), (1, 1, 1)):
            weight = torch.randn(channels, size_k, *kernel, device=bench.device, requires_grad=True)
            for name, merge in merging.merges(channels, channels // size_k).items():
                if merge > 1:
                    way, plain = (partial(_merged, groups=channels // size_k, merge=number) for number in (merge, 1))
                    yield _compared(f"convolution {channels}, {kernel}, {name}", way, plain, x, weight)
        excitation = TensorExcitation(channels, size_k).to(bench.device).eval()
        plain = partial(gating.excite_plain, gates=copy.deepcopy(excitation).double().gates())
        branches = [x.detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_() for _ in range(2)]
        for name, way in gating.excite_ways().items():
            if name != "plain":
                way = partial(way, gates=excitation.gates())
                yield _compared(f"excitation {channels}, {name}", way, plain, *branches)
    parts = [part for part in optimize(bench.network("ctnet")).modules() if isinstance(part, FoldedSubOperation)]
    for channels, part in {part.spatial.out_channels: part for part in parts}.items():
        branches = [torch.randn(1, channels, frames, 7, 7, device=bench.device) for _ in range(2)]
        branches = [x.contiguous(memory_format=torch.channels_last_3d) for x in branches]
        plain = copy.deepcopy(part).double().ways()["plain"]
        for name, way in part.ways().items():
            if name != "plain":
                yield _compared(f"folded excitation {channels}, {name}", way, plain, *branches)


def _merged(x: torch.Tensor, weight: torch.Tensor, groups: int, merge: int) -> torch.Tensor:
    weight = merging.merged(weight, groups, merge) if merge > 1 else weight
    return operations._convolve(x, weight, groups // merge)


def _compared(name: str, way: Callable, plain: Callable, *inputs: torch.Tensor) -> dict:
    line = {"name": name}
    try:
        for precision, allowed in ((torch.float32, 1e-4), (torch.bfloat16, 0.03)):
            learned = inputs[0].requires_grad
            given = [x.detach().to(precision).requires_grad_(learned) for x in inputs]
            found = _values(way, given, precision)
            exact = _values(plain, [x.detach().double().requires_grad_(learned) for x in given], None)
            error = max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True))
            line[str(precision).removeprefix("torch.")] = error
            line["equal"] = line.get("equal", True) and error <= allowed
    except Exception as error:  # a way that cannot be had here is left out by `choice` too
        line |= {"equal": None, "failed": f"{type(error).__name__}: {error}"[:200]}
    print(f"  {name:44} {line}", flush=True)
    return line


def _values(way: Callable, inputs: list[torch.Tensor], precision: torch.dtype | None) -> list[torch.Tensor]:
    device = inputs[0].device.type
    with torch.autocast(device, torch.bfloat16, enabled=precision == torch.bfloat16):
        out = way(*inputs)
    if not out.requires_grad:
        return [out]
    upstream = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream)]


def training(bench: Bench) -> Iterator[dict]:
    clips = bench.clips(bench.batch)
    step = partial(stepping, labels=torch.arange(bench.batch, device=bench.device), precision=bench.precision)
    calls = {"TSN": step(bench.network("tsn")), "CT-Net, as chosen": step(bench.network("ctnet"))}
    calls["CT-Net, plain ways"] = in_ways("plain", step(bench.network("ctnet")))
    calls["CT-Net, no excitation"] = step(bench.network("ctnet", excitation="none"))
    calls["C3D"] = step(bench.network("ctnet", module="c3d"))
    if not bench.tiny:
        calls["plain CT-Net"] = in_ways("plain", step(PlainCTNet(174, bench.frames)))
    yield from timed(bench, calls, clips)


def in_ways(mode: str, call: Callable) -> Callable:
    def chosen(clips: torch.Tensor) -> object:
        with choice.using(mode):
            return call(clips)

    return chosen


def timed(
    bench: Bench, calls: dict, clips: torch.Tensor, reference: str = "TSN", graphs: bool = False
) -> Iterator[dict]:
    """One line per call; one that fails is named, and the others are timed. A graph's replay allocates no memory."""
    memory = {}
    for name, call in list(calls.items()):
        try:
            for _ in range(2):  # ways are chosen
                call(clips)
            memory[name] = None if graphs else bench.memory(call, clips)
        except Exception as error:
            del calls[name]
            yield {"name": name, "failed": f"{type(error).__name__}: {error}"[:300]}
    if not calls:
        return
    references = {name: reference for name in calls if name != reference}
    for line in summarise(bench.clock.in_turn(calls, clips), len(clips), references, batch=len(clips)):
        yield line | {"memory_mb": memory[line["name"]]}


def ready(bench: Bench) -> dict[str, nn.Module]:
    """TSN and CT-Net, optimized."""
    return {
        name: optimize(bench.network(model)).to(bench.precision)
        for name, model in (("TSN", "tsn"), ("CT-Net", "ctnet"))
    }


def inference_section(bench: Bench) -> Iterator[dict]:
    others = {"CT-Net, no excitation": {"excitation": "none"}, "C3D": {"module": "c3d"}}
    networks = ready(bench) | {
        name: optimize(bench.network("ctnet", **parts)).to(bench.precision) for name, parts in others.items()
    }
    calls = {name: inference(network, bench.precision) for name, network in networks.items()}
    calls["CT-Net, plain ways"] = in_ways("plain", calls["CT-Net"])
    if not bench.tiny:
        plain = PlainCTNet(174, bench.frames).to(bench.device, bench.precision).eval()
        calls["plain CT-Net"] = in_ways("plain", inference(plain, bench.precision))
    for batch in (bench.batch, 1):
        yield from timed(bench, dict(calls), bench.clips(batch))


def ways(bench: Bench) -> Iterator[dict]:
    clips = bench.clips(bench.batch)
    labels = torch.arange(bench.batch, device=bench.device)
    chosen = {
        "training": stepping(bench.network("ctnet"), labels, bench.precision),
        "inference": inference(optimize(bench.network("ctnet")).to(bench.precision), bench.precision),
    }
    for what, call in chosen.items():
        for _ in range(2):  # ways are chosen
            call(clips)
        calls = {"as chosen": call} | {way: preferring(way, call) for way in choice.timed_ways()}
        for line in timed(bench, calls, clips, "as chosen"):
            yield {"what": what} | line


def preferring(way: str, call: Callable) -> Callable:
    def preferred(clips: torch.Tensor) -> object:
        with choice.preferring(way):
            return call(clips)

    return preferred


def graphs(bench: Bench) -> Iterator[dict]:
    if bench.device.type == "cpu":
        yield {"left_out": "a CPU has no graphs"}
        return
    clips, calls = bench.clips(bench.batch), {}
    for name, model, ways in (("TSN", "tsn", "auto"), ("CT-Net", "ctnet", "auto"), ("CT-Net, plain", "ctnet", "plain")):
        calls[name] = in_ways(ways, graphed_step(bench.network(model), bench.precision))
    for line in timed(bench, calls, clips, graphs=True):
        yield {"what": "training"} | line
    del calls
    for batch in (bench.batch, 1):
        calls = {name: InferenceGraph(choice.in_graphs()(network)) for name, network in ready(bench).items()}
        for line in timed(bench, calls, bench.clips(batch).to(bench.precision), graphs=True):
            yield {"what": "inference"} | line


def graphed_step(network: nn.Module, precision: torch.dtype) -> Callable:
    """A training step as `compute.graph` takes it."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, fused=True)
    device = next(network.train().parameters()).device
    labels = None

    def both_ways(clips: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = F.cross_entropy(network(clips), labels)
        loss.backward()
        return loss.detach()

    def update() -> torch.Tensor:
        optimizer.step()
        return torch.zeros((), device=device)

    step, finish = StepGraph(choice.in_graphs()(both_ways), network, adds=False), UpdateGraph(update, optimizer)

    def call(clips: torch.Tensor) -> None:
        nonlocal labels
        labels = torch.arange(len(clips), device=device) if labels is None else labels
        step(clips)
        finish([1e-4])

    return call


def compiled_apart(bench: Bench) -> Iterator[dict]:
    """`compiled_here` in a process that ends with the minutes, as a compiler may take any time."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "compiled.json"
        command = [sys.executable, __file__, "--sections", "compiled", "--here", "--record", str(record)]
        command += ["--minutes", f"{bench.left() / 60:.2f}", *["--tiny"] * bench.tiny]
        stopped = []
        try:
            subprocess.run(command, timeout=bench.left(), check=False)
        except subprocess.TimeoutExpired:
            stopped = [{"left_out": "the minutes were over"}]
        if record.exists():
            yield from json.loads(record.read_text())["compiled"]
        yield from stopped or ([] if record.exists() else [{"failed": "its process ended without a record"}])


def compiled_here(bench: Bench) -> Iterator[dict]:
    clips = bench.clips(bench.batch)
    step = partial(stepping, labels=torch.arange(bench.batch, device=bench.device), precision=bench.precision)
    steps = {}
    for name, model in (("TSN", "tsn"), ("CT-Net", "ctnet")):
        network = bench.network(model)
        steps[name] = step(network)
        steps[name](clips)  # ways are chosen
        compile_blocks(network, "eager" if bench.tiny else "inductor")
        yield {"name": name, "training_compile_seconds": round(bench.clock.once(steps[name], clips), 1)}
    yield from timed(bench, steps, clips)
    for batch in (1, bench.batch):
        if bench.left() < 0:
            yield {"left_out": f"no time was left for inference at batch {batch}"}
        elif not bench.tiny:
            calls = {name: inference(compiled(network), bench.precision) for name, network in ready(bench).items()}
            yield from timed(bench, calls, bench.clips(batch))


def roofline(bench: Bench) -> Iterator[dict]:
    least = rates(bench.clock, bench.precision, side=bench.side, batch=bench.batch)
    yield least.to_dict()
    for name, model in (("CT-Net", "ctnet"), ("TSN", "tsn")):
        network = optimize(bench.network(model)).to(bench.precision)
        call, clips = inference(network, bench.precision), bench.clips(bench.batch)
        for _ in range(2):  # ways are chosen
            call(clips)
        seconds = statistics.median(bench.clock.once(call, clips) for _ in range(bench.rounds))
        yield {"name": f"{name}, optimized", **over_roofline(seconds, network, call, clips, least)}


def small(bench: Bench) -> Iterator[dict]:
    """Steps per second of a run at laptop scale: its own trainer on one batch that lies on the device."""
    for name in ("ctnet_laptop", "tsn_laptop"):
        for as_graph in (False, True) if bench.device.type == "cuda" else (False,):
            overrides = f"compute.graph={str(as_graph).lower()} data.workers=0"
            with trainer_of(bench, name, overrides) as trainer:
                steady = OneBatch(trainer.trainset)
                seconds_of_epoch(trainer, steady)
                seconds = seconds_of_epoch(trainer, steady)
            line = {"name": name, "graph": as_graph, "steps_a_second": round(steady.count / seconds, 1)}
            print(f"  {line}", flush=True)
            yield line
    yield from beside_each_other(bench)


def beside_each_other(bench: Bench) -> Iterator[dict]:
    """Steps a second of several processes together, as the sweep starts them; under NVIDIA's MPS they overlap."""
    number, spawn = 2 if bench.tiny else 16, multiprocessing.get_context("spawn")
    begin, rates = spawn.Barrier(number), spawn.Queue()
    processes = [spawn.Process(target=_one_of_them, args=(bench.tiny, begin, rates)) for _ in range(number)]
    try:
        for process in processes:
            process.start()
        together = sum(rates.get(timeout=max(60, bench.left())) for _ in processes)
    finally:
        for process in processes:
            process.kill()
    line = {"name": "ctnet_laptop", "side_by_side": number, "steps_a_second": round(together, 1)}
    print(f"  {line}", flush=True)
    yield line


def _one_of_them(tiny: bool, begin, rates) -> None:
    bench = Bench(argparse.Namespace(tiny=tiny, here=False, minutes=1))
    overrides = f"compute.graph={str(bench.device.type == 'cuda').lower()} data.workers=0"
    with trainer_of(bench, "ctnet_laptop", overrides) as trainer:
        steady = OneBatch(trainer.trainset)
        seconds_of_epoch(trainer, steady)
        begin.wait(timeout=120)
        rates.put(steady.count / seconds_of_epoch(trainer, steady))
        begin.wait(timeout=120)  # until all are timed


@contextmanager
def trainer_of(bench: Bench, name: str, overrides: str) -> Iterator[Trainer]:
    """A trainer of a small run on the built-in data, for a while."""
    settings = "arrow.train_clips=32 arrow.val_clips=2 recipe.batch=8 recipe.epochs=9"
    settings += " data.size=32 model.num_frames=2 arrow.size=32" if bench.tiny else " arrow.train_clips=256"
    config = run_config("arrow", name, "laptop", f"{settings} {overrides}")
    run = resolve(config)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator(config.compute, run.precision)
        trainer = Trainer(run, accelerator, records.RunFolder(Path(folder)))
        try:
            trainer.open()
            trainer.save = lambda: None  # a snapshot on disk is no part of what is timed
            yield trainer
        finally:
            trainer.close()


def idle(bench: Bench) -> Iterator[dict]:
    model = "ctnet_quickstart" if bench.tiny else "ctnet_r50"
    shape = "" if bench.tiny else "data.size=224 arrow.size=256 arrow.train_clips=128"
    for cache in ("none", "gpu") if bench.device.type == "cuda" else ("none",):
        workers = 0 if cache == "gpu" or bench.tiny else min(8, os.cpu_count() or 1)
        as_graph = f"compute.graph={str(bench.device.type == 'cuda').lower()}"
        with trainer_of(bench, model, f"{shape} data.workers={workers} data.cache={cache} {as_graph}") as trainer:
            loader = trainer.trainset
            steady = OneBatch(loader)
            for part in (loader, steady):
                seconds_of_epoch(trainer, part)
            whole, steps = seconds_of_epoch(trainer, loader), seconds_of_epoch(trainer, steady)
        line = {"cache": cache, "workers": workers, "idle_percent": round(100 * max(0, whole - steps) / whole, 1)}
        print(f"  {line}", flush=True)
        yield line | {"epoch_seconds": round(whole, 2), "steps_seconds": round(steps, 2)}


def notebook(bench: Bench) -> Iterator[dict]:
    if find_spec("papermill") is None or find_spec("ipykernel") is None:
        yield {"left_out": "papermill or ipykernel is not installed"}
        return
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        model, epochs = ("ctnet_quickstart", 1) if bench.tiny else ("ctnet_r50", 3)
        overrides = "data.size=32 arrow.size=32 model.num_frames=2" if bench.tiny else "data.size=112 arrow.size=128"
        overrides += " arrow.train_clips=64 arrow.val_clips=32 recipe.batch=8"
        command = [sys.executable, "-m", "papermill", root / "notebooks/train.ipynb", Path(folder) / "train.ipynb"]
        parameters = {"model": model, "epochs": epochs, "overrides": overrides, "out_dir": folder}
        command += [part for name, value in parameters.items() for part in ("-p", name, value)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(
            [str(part) for part in command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=max(30, bench.left()),
        )
        if done.returncode:
            yield {"failed": done.stderr.strip().splitlines()[-1:]}
            return
        yield from (json.loads(path.read_text()) for path in sorted(Path(folder).rglob("result.json")))


SECTIONS = {
    "equal": equal,
    "training": training,
    "inference": inference_section,
    "graphs": graphs,
    "roofline": roofline,
    "ways": ways,
    "small": small,
    "idle": idle,
    "notebook": notebook,
    "compiled": compiled_apart,
}


def measured(name: str, bench: Bench) -> Iterator[dict]:
    """The lines of a section; where it fails, those before it did, and why."""
    if bench.left() <= 0:
        yield {"left_out": "no time was left"}
        return
    try:
        yield from (compiled_here if name == "compiled" and bench.here else SECTIONS[name])(bench)
        if bench.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    except Exception as error:  # whatever it is, the other sections are worth having
        yield {"failed": f"{type(error).__name__}: {error}"[:500]}


def is_lost(device: torch.device) -> bool:
    """Whether an error was of the kind after which a process cannot use its GPU any more."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def start_again(options: argparse.Namespace, minutes: float, sections: list[str]) -> None:
    """Go on with these sections in a new process in place of this one."""
    record = ["--record", str(options.record)] if options.record else []
    command = [sys.executable, __file__, "--add", "--minutes", f"{minutes:.2f}", *record, "--sections", *sections]
    sys.stdout.flush()
    os.execv(sys.executable, command + ["--tiny"] * options.tiny)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6, help="no section is begun after these")
    parser.add_argument("--record", type=Path, help="write the record to this JSON file, line by line")
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--add", action="store_true", help="keep the other sections of the record that is there")
    parser.add_argument("--here", action="store_true", help="compile in this process, however long it takes")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a try")
    options = parser.parse_args(arguments)
    bench = Bench(options)
    if bench.device.type == "cpu" and not options.tiny:
        parser.error("there is no GPU: --tiny tries the script on a CPU")
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32
    machine = records.provenance(bench.device)
    record = {"protocol": {part: machine[part] for part in ("hardware", "versions", "commit")}}
    record["protocol"] |= {part: getattr(bench, part) for part in ON_GPU}
    record["protocol"]["measured"] = f"{bench.rounds} rounds in turn after 2 to warm up; medians and quartiles"
    if options.add and options.record and options.record.exists():
        record = json.loads(options.record.read_text()) | record
    earlier, sections = dict(record), list(options.sections)
    while sections:
        name = sections.pop(0)
        print(name, flush=True)
        record[name] = []
        for line in measured(name, bench):
            if line.keys() & {"left_out", "failed"}:
                print(f"  {line}", flush=True)
            record[name].append(line)
            if name in earlier and record[name] == [line] and "left_out" in line:
                record[name] = earlier[name]  # what was measured before stays
            record["kernels"] = list(dict.fromkeys([*earlier.get("kernels", []), *kernels.report().splitlines()]))
            if options.record:
                options.record.write_text(json.dumps(record, indent=1) + "\n")
        if sections and is_lost(bench.device):
            start_again(options, bench.left() / 60, sections)
    print(kernels.report())


if __name__ == "__main__":
    main()
