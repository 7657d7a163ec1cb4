"""A run before its first step: data, batch, steps, cost, and one timed step of its network on this machine."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch.nn import functional as F

from ctlib import cost
from ctlib.data.catalog import Samples
from ctlib.data.clips import train_loader, travels_raw
from ctlib.kernels import choice
from ctlib.kernels.graph import StepGraph, UpdateGraph
from ctlib.training.network import make_network
from ctlib.training.recipes import needed_steps
from ctlib.training.run import Run, make_accelerator

_CPU_CLIPS = 8  # of the timed step on a CPU, at most; the time of a batch is in proportion
_SLOW = 5.0  # seconds; a first pass over two clips that takes longer is the timed step


@dataclass(frozen=True)
class Plan:
    """A run before it begins. Times are estimates, from seconds of measurement on this machine."""

    run: Run
    device: str  # hardware
    steps_per_epoch: int
    model: cost.Cost  # of one view
    compute_seconds: float  # a step's forward and backward passes in each process
    load_seconds: float  # to load a training clip, in one loader process
    memory_mb: float | None  # peak of a timed step on a GPU, 1e6 bytes; None on a CPU
    reasons: Mapping[str, str] = field(default_factory=dict)  # of `own_clips.fitted_config`

    @property
    def seconds(self) -> float:
        """Of the whole run: the slower of loading and computing, training and testing. A cache is loaded once."""
        config = self.run.config
        views = len(self.run.samples["val"]) * config.data.clips * config.data.crops
        forward = self.compute_seconds / config.recipe.batch / 3  # a backward pass costs twice a forward pass
        step, test = self.compute_seconds, views * forward
        once = self.loading(sum(map(len, self.run.samples.values())))
        if config.data.cache == "none":
            step, test, once = max(step, self.loading(config.recipe.batch)), max(test, self.loading(views)), 0.0
        tests = config.recipe.epochs + 1 - config.recipe.first_tested
        return once + self.steps * step + tests * test

    def loading(self, clips: int) -> float:
        """Seconds to load clips in all loader processes together."""
        return clips * self.load_seconds / (max(1, self.run.config.data.workers) * self.run.processes)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.run.config.recipe.epochs * self.steps_per_epoch

    @property
    def needed_epochs(self) -> int:
        """How many have steps enough to learn the classes."""
        return math.ceil(needed_steps(len(self.run.samples["train"].classes)) / max(1, self.steps_per_epoch))

    def too_few_steps(self) -> str:
        """One line where the steps are too few to learn, with what would be enough; else empty."""
        classes = len(self.run.samples["train"].classes)
        needed = needed_steps(classes)
        if self.steps >= needed / 2:
            return ""
        return (
            f"{self.steps} steps are too few to learn {classes} classes, which takes about {needed}: set recipe.epochs "
            f"to {self.needed_epochs}, or a smaller recipe.batch"
        )

    def table(self) -> pd.Series:
        """The plan, one row per question."""
        run, config, recipe, data = self.run, self.run.config, self.run.config.recipe, self.run.data
        train, test = run.samples["train"], run.samples["val"]
        hours, seconds = divmod(round(self.seconds), 3600)
        estimated = f"{hours} h {seconds // 60} min" if hours else f"{seconds // 60} min {seconds % 60} s"
        views = f"{data.clips} clip(s) x {data.crops} crop(s)"
        peak = recipe.lr * recipe.batch / 64
        rows = {
            "data": f"{data.name}, {len(train.classes)} classes",
            "training videos": _coverage(train),
            "test videos": f"{_coverage(test)}, {views}",
            **({"notes": "; ".join(dict.fromkeys(train.notes + test.notes))} if train.notes + test.notes else {}),
            "clip": f"{config.model.num_frames} frames of {data.size} x {data.size}",
            "cost": f"{self.model.gflops:.3g} GFLOPs per view, {self.model.params / 1e6:.2f}M parameters",
            "weights at the start": config.start or run.model.weights or "random",
            "device": f"{run.processes} process(es), {self.device}, {run.precision}",
            "batch": f"{recipe.batch} clips = {run.processes} process(es) x {run.micro_batches_per_step} "
            f"micro-batch(es) of {run.micro_batch}",
            "learning rate": f"peak {peak:.4g} ({recipe.lr:g} x {recipe.batch} / 64) after {recipe.warmup:g} "
            "epoch(s) of warm-up",
            "steps": f"{recipe.epochs} epochs x {self.steps_per_epoch:,} = {self.steps:,}",
            "estimated time": f"{estimated} (per step {self.compute_seconds:.2g} s to compute, "
            f"{self.loading(recipe.batch):.2g} s to load)",
            "peak memory": "not measured on a CPU" if self.memory_mb is None else f"{self.memory_mb:,.0f} MB per GPU",
            **{f"chosen {key}": why for key, why in self.reasons.items()},
        }
        return pd.Series(rows, name="this run")


def _coverage(samples: Samples) -> str:
    compared = f", compared with their digests on {samples.compared}" if samples.compared else ""
    return f"{len(samples):,} of {samples.listed:,} listed ({samples.coverage:.1f} %){compared}"


def make_plan(run: Run, seconds: float = 0.5, reasons: Mapping[str, str] | None = None) -> Plan:
    """Measure a run before it begins: build its network, time one step, load a few clips.

    Args:
        run: of `resolve`.
        seconds: how long to load clips, at least.
        reasons: of `own_clips.fitted_config`; the table has one row for each.

    Raises:
        ValueError: parts that do not go together, or a micro-batch that does not fit into the GPU's memory.
        FileNotFoundError: videos that do not exist or are empty.
        video.VideoError: a video that cannot be read.
    """
    config, frames = run.config, run.model.num_frames
    run.refuse_missing_videos()
    device = make_accelerator(config.compute, run.precision).device
    loader = train_loader(
        run.samples["train"], frames, run.data, config.recipe.batch, config.seed, run.micro_batch,
        raw=travels_raw(device),
    )  # fmt: skip
    model = make_network(run)
    counted = cost.count(model, frames, config.data.size)
    seconds_per_clip, memory_mb = time_step(model.to(device), run)
    del model
    if device.type == "cuda":  # the processes to come need what the step took
        torch.cuda.empty_cache()
    began, loaded = time.perf_counter(), 0
    for key in loader.sampler:
        loader.dataset[key]
        loaded += 1
        if time.perf_counter() - began > seconds:
            break
    return Plan(
        run=run,
        device=cost.hardware(device),
        steps_per_epoch=len(loader.sampler) // config.recipe.batch,
        model=counted,
        compute_seconds=seconds_per_clip * config.recipe.batch / run.processes,
        load_seconds=(time.perf_counter() - began) / loaded,
        memory_mb=memory_mb,
        reasons=reasons or {},
    )


def time_step(model: torch.nn.Module, run: Run) -> tuple[float, float | None]:
    """Seconds per clip of a training step on noise, where the network is, and a GPU's peak memory in MB.

    On a GPU the step takes a whole micro-batch, with optimizer: its peak memory is what training needs. On a CPU it
    takes few clips, and memory is not measured, as only the peak of the whole process is known there.

    Raises:
        ValueError: a micro-batch that does not fit into the GPU's memory.
    """
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), choice.using(run.config.compute.kernels):
        if device.type == "cpu":
            clips = min(2, run.micro_batch)  # not one: some batch norms cannot have a variance then
            took = cost.timed(_step(model, run, clips), device)
            if took < _SLOW:
                clips = min(_CPU_CLIPS, run.micro_batch)
                took = cost.timed(_step(model, run, clips), device)
            return took / clips, None
        try:
            step = _step(model, run, run.micro_batch)
            torch.cuda.reset_peak_memory_stats(device)
            cost.timed(step, device)  # slower: ways are timed in it, and graphs captured, which takes the most memory
            took = cost.timed(step, device)
        except torch.cuda.OutOfMemoryError:
            raise ValueError(
                f"micro-batches of {run.micro_batch} do not fit into the memory of "
                f"{torch.cuda.get_device_name(device)}: set a smaller compute.micro_batch"
            ) from None
        return took / run.micro_batch, torch.cuda.max_memory_allocated(device) / 1e6


def _step(model: torch.nn.Module, run: Run, clips: int) -> Callable[[], None]:
    """A forward and a backward pass and an update; as graphs where the run takes its steps so."""
    device, size = next(model.parameters()).device, run.config.data.size
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.0, momentum=0.9, fused=device.type == "cuda")
    noise = torch.randn(clips, 3, run.model.num_frames, size, size, device=device)

    def both_ways(noise: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, cost.PRECISIONS[run.precision], enabled=run.precision != "fp32"):
            logits = model(noise)
            loss = F.cross_entropy(logits, logits.new_zeros(clips, dtype=torch.long))
        loss.backward()
        return loss.detach()

    def update() -> torch.Tensor:
        optimizer.step()
        return noise.new_zeros(())

    if run.config.compute.graph:
        graph, finish = StepGraph(choice.in_graphs()(both_ways), model, adds=False), UpdateGraph(update, optimizer)
        return lambda: (graph(noise), finish([0.0]))

    def step() -> None:
        both_ways(noise)
        update()
        optimizer.zero_grad()

    return step
