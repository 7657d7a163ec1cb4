"""What a run is about to do, said before its first step: data, batch, steps, cost, and estimates of time and memory."""

import dataclasses
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from ctlib import cost, files
from ctlib.config import RunConfig
from ctlib.data import arrow
from ctlib.data.catalog import Samples, load_samples
from ctlib.data.clips import train_loader
from ctlib.data.sampling import SAMPLINGS
from ctlib.training import probe
from ctlib.training.device import make_accelerator, precision_of
from ctlib.training.trainer import identified, make_network, micro_batch_of


def find_data(
    config: RunConfig, made: arrow.ArrowConfig, on_clips: Callable[[int, int], None] | None = None
) -> tuple[RunConfig, dict[str, Samples]]:
    """The lists that a run trains and is tested on, and the run with what they tell: classes, digests.

    The built-in data set is written to the cache if the run names no folder and it is not there yet.

    Args:
        config: the run.
        made: the built-in data set, if that is it.
        on_clips: called with how many clips are written and how many there will be.

    Raises:
        ValueError: a data set without a folder, or lists that cannot be read; OSError: a folder that is not there.
    """
    data = config.data
    if config.start and not Path(config.start).expanduser().is_file():
        raise FileNotFoundError(f"no checkpoint {config.start}")
    if not data.root:
        if data.name != "arrow":
            raise ValueError(f"root must be the folder in which {data.name} lies, got ''")
        # Said before the minutes of writing it.
        frames = config.model.num_frames
        SAMPLINGS[data.sampling or "mirrored"].test(max(frames, made.num_frames), frames, data.clips)
        if config.recipe.batch > made.train_clips:
            raise ValueError(f"batch must be at most the {made.train_clips} training videos, got {config.recipe.batch}")
        data = dataclasses.replace(data, root=files.portable(arrow.ensure(made, on_clips)))
    samples = {split: load_samples(data.name, data.root, split, **data.options()) for split in ("train", "val")}
    model = dataclasses.replace(config.model, num_classes=len(samples["train"].classes))
    return identified(dataclasses.replace(config, data=data, model=model), samples), samples


@dataclass(frozen=True)
class Plan:
    """A run before it begins. Times are estimates from a probe of seconds on this machine."""

    config: RunConfig
    samples: dict[str, Samples]
    processes: int
    device: str  # hardware
    precision: str
    micro_batch: int  # clips that a process takes at once
    steps_an_epoch: int
    model: cost.Cost  # of one view
    step: probe.TrainingCost  # of one process
    load_seconds: float  # to load a training clip, in one loader process

    @property
    def seconds(self) -> float:
        """Of the whole run: the slower of loading and computing, training and testing."""
        config = self.config
        step = max(self.step.seconds_a_step, self._loading(config.recipe.batch))
        views = len(self.samples["val"]) * config.data.clips * config.data.crops
        forward = self.step.seconds_a_step / config.recipe.batch / 3  # a backward pass costs twice a forward pass
        test = max(views * forward, self._loading(views))
        return config.recipe.epochs * (self.steps_an_epoch * step + test)

    def _loading(self, clips: int) -> float:
        return clips * self.load_seconds / (max(1, self.config.data.workers) * self.processes)

    def table(self) -> pd.Series:
        """What there is to know, a line each."""
        config, recipe, data = self.config, self.config.recipe, self.config.data
        train, test = self.samples["train"], self.samples["val"]
        accumulated = recipe.batch // (self.micro_batch * self.processes)
        hours, seconds = divmod(round(self.seconds), 3600)
        estimated = f"{hours} h {seconds // 60} min" if hours else f"{seconds // 60} min {seconds % 60} s"
        views = f"{data.clips} clip(s) x {data.crops} crop(s)"
        peak = recipe.lr * recipe.batch / 64
        lines = {
            "data": f"{data.name}, {len(train.classes)} classes",
            "training videos": f"{len(train):,} of {train.listed:,} listed ({100 * len(train) / train.listed:.1f} %)",
            "test videos": f"{len(test):,} of {test.listed:,} listed ({100 * len(test) / test.listed:.1f} %), {views}",
            "clip": f"{config.model.num_frames} frames of {data.size} x {data.size}",
            "cost": f"{self.model.gflops:.3g} GFLOPs a view, {self.model.params / 1e6:.2f}M parameters",
            "weights at the start": config.start or config.model.weights or "random",
            "device": f"{self.processes} process(es), {self.device}, {self.precision}",
            "batch": f"{recipe.batch} clips = {self.processes} process(es) x {accumulated} micro-batch(es) of "
            f"{self.micro_batch}",
            "learning rate": f"{peak:.4g} at its peak ({recipe.lr:g} x {recipe.batch} / 64), after {recipe.warmup:g} "
            "epoch(s) of warm-up",
            "steps": f"{recipe.epochs} epochs x {self.steps_an_epoch:,} = {recipe.epochs * self.steps_an_epoch:,}",
            "estimated time": f"{estimated} ({self.step.seconds_a_step:.2g} s a step to compute, "
            f"{self._loading(recipe.batch):.2g} s to load)",
            "estimated memory": f"{self.step.memory_mb:,.0f} MB of tensors in each process",
        }
        return pd.Series(lines, name="this run")


def make_plan(config: RunConfig, samples: dict[str, Samples], processes: int = 1, seconds: float = 0.5) -> Plan:
    """Look at a run before it begins: build its network, make a pass or two, load a few clips.

    Args:
        config: the run, from `find_data`.
        samples: its lists.
        processes: that will share a batch.
        seconds: how long to time each of the two, at least.

    Raises:
        ValueError: parts that do not go together, or a micro-batch that does not fit into a GPU's memory.
        video.VideoError: a video that cannot be read.
    """
    micro_batch = micro_batch_of(config, processes)
    recipe, data, frames = config.recipe, config.data, config.model.num_frames
    loader = train_loader(samples["train"], frames, data, recipe.batch, config.seed, micro_batch)
    accelerator = make_accelerator(config.compute)
    model = make_network(config, samples["train"].classes)
    counted = cost.count(model, frames, data.size)
    model.to(accelerator.device)
    precision = precision_of(config.compute)
    step = probe.training_cost(model, frames, data.size, recipe.batch // processes, micro_batch, precision, seconds)
    del model
    if accelerator.device.type == "cuda":  # the processes to come need what the probe took
        gc.collect()
        torch.cuda.empty_cache()
    began, loaded = time.perf_counter(), 0
    for key in loader.sampler:
        loader.dataset[key]
        loaded += 1
        if time.perf_counter() - began > seconds:
            break
    return Plan(
        config=config,
        samples=samples,
        processes=processes,
        device=cost.hardware(accelerator.device),
        precision=precision,
        micro_batch=micro_batch,
        steps_an_epoch=len(loader.sampler) // recipe.batch,
        model=counted,
        step=step,
        load_seconds=(time.perf_counter() - began) / loaded,
    )
