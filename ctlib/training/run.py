"""A run resolved: what a `RunConfig` leaves open is answered from its data and its machine, before any work."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState, PartialState

from ctlib import checkpoints, files
from ctlib.config import ComputeConfig, DataConfig, ModelConfig, RunConfig
from ctlib.data import arrow
from ctlib.data.catalog import ARROW_SAMPLING, Samples, load_splits, refuse_missing
from ctlib.data.clips import resolve_data
from ctlib.data.sampling import check_fits
from ctlib.data.views import View
from ctlib.models import OWN_DATA, build_model
from ctlib.rivals import gcn
from ctlib.training.tracking import check_tracker
from ctlib.weights import check_weights, start_digest


@dataclass(frozen=True)
class Machine:
    """The machine that a run is resolved for: this one, with `processes` that share a batch; 0: one for each GPU."""

    processes: int = 1

    def on_cpu(self, compute: ComputeConfig) -> bool:
        """Whether the CPU computes: as asked, or where there is no CUDA device (others are not supported).

        Raises:
            ValueError: CUDA is asked for, and there is none.
        """
        if compute.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', and this machine has no CUDA device")
        return compute.device == "cpu" or not torch.cuda.is_available()

    def precision(self, compute: ComputeConfig) -> str:
        """fp32, bf16 or fp16; auto is fp32 on a CPU, and bf16 or else fp16 on a GPU."""
        if compute.precision != "auto":
            return compute.precision
        if self.on_cpu(compute):
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"

    def shared_by(self, compute: ComputeConfig) -> int:
        """How many processes share a batch, on all machines.

        Raises:
            ValueError: fewer GPUs than processes, or processes asked for where a launcher has started them.
        """
        gpus = 0 if self.on_cpu(compute) else torch.cuda.device_count()
        if self.processes < 0:
            raise ValueError(f"processes must be at least 0, got {self.processes}")
        if launched():
            if self.processes != 1:
                raise ValueError(f"a launcher has started the processes: processes must be 1, got {self.processes}")
            return int(os.environ.get("WORLD_SIZE", 1))
        if gpus and self.processes > gpus:
            raise ValueError(f"{self.processes} processes need as many GPUs, this machine has {gpus}")
        return self.processes or max(1, gpus)


ALONE = Machine()  # one process


def launched() -> bool:
    """Whether a launcher (torchrun, `accelerate launch`, `processes.launch`) has started this process."""
    return "LOCAL_RANK" in os.environ


@dataclass(frozen=True)
class Run:
    """A training run with nothing left open: what was asked, and the answers. Made by `resolve`."""

    config: RunConfig  # as asked
    samples: dict[str, Samples]  # "train" and "val"
    model: ModelConfig  # with the number of classes of the lists
    data: DataConfig  # with sampling, flips and short side
    precision: str  # fp32, bf16 or fp16
    micro_batch: int  # clips that a process takes at once
    processes: int  # that share a batch
    start_digest: str  # of the checkpoint or of the file of Still Shapes that training starts from; empty: none

    def __post_init__(self):
        _check_division(self.config.recipe.batch, self.micro_batch, self.processes)

    @property
    def micro_batches_per_step(self) -> int:
        """Of each process, which takes them in turn."""
        return self.config.recipe.batch // (self.micro_batch * self.processes)

    @property
    def view(self) -> View:
        """How the network sees a test video, which its checkpoint remembers."""
        return View(self.model.num_frames, self.data.size, self.data.short_side, self.data.sampling)

    @property
    def fingerprint(self) -> str:
        """Those of both lists, joined."""
        return f"{self.samples['train'].fingerprint}-{self.samples['val'].fingerprint}"

    @property
    def root(self) -> str:
        """The folder of the data set."""
        return files.portable(self.samples["train"].root)

    def refuse_missing_videos(self) -> None:
        """Raise FileNotFoundError if videos of either split do not exist or are empty, more than may be skipped."""
        refuse_missing({"training": self.samples["train"], "test": self.samples["val"]}, self.data)

    def resolved_values(self) -> dict:
        """The answers that a record keeps, as plain values."""
        names = ("precision", "micro_batch", "processes", "fingerprint", "start_digest", "root")
        return {"num_classes": self.model.num_classes, **{name: getattr(self, name) for name in names}}


def resolve(config: RunConfig, machine: Machine = ALONE, on_clips: Callable[[int, int], None] | None = None) -> Run:
    """Read the lists, and answer what a configuration leaves open.

    The built-in data set is written to the cache if `data.root` is empty and it does not exist yet.

    Args:
        config: what is asked.
        machine: how many processes share a batch; one, if not given.
        on_clips: called with how many clips of the built-in data are written, and how many there will be.

    Raises:
        ValueError: values that do not fit the data or the machine, or lists that cannot be read.
        FileNotFoundError: the start or the folder of the data set does not exist.
    """
    compute, recipe = config.compute, config.recipe
    _check_network(config)
    start = config.start and checkpoints.located(config.start)
    if start:
        checkpoints.check_exists(config.start)
    check_tracker(compute.tracker)
    if compute.sync_batch_norm and machine.on_cpu(compute):
        raise ValueError("sync_batch_norm needs GPUs, and there is none")
    one_gpu = not machine.on_cpu(compute) and machine.shared_by(compute) == 1
    if compute.graph and not one_gpu:
        raise ValueError("compute.graph needs one GPU and one process")
    if compute.graph is None:
        fits = one_gpu and config.data.on_error == "stop" and compute.compile == "none"
        config = dataclasses.replace(config, compute=dataclasses.replace(compute, graph=fits))
    if not config.start:
        check_weights(config.model.weights, config.model.backbone)
    if config.data.cache == "gpu" and machine.on_cpu(compute):
        raise ValueError("data.cache 'gpu' needs a GPU, and there is none: set it to 'ram'")
    processes = machine.shared_by(compute)
    micro_batch = compute.micro_batch or max(1, recipe.batch // processes)
    _check_division(recipe.batch, micro_batch, processes)  # before the minutes of writing the built-in data
    samples = _load(config, on_clips)
    _check_batch(recipe.batch, len(samples["train"]))
    _check_classes(samples["train"])
    model = dataclasses.replace(config.model, num_classes=len(samples["train"].classes))
    if config.start:  # its weights take the place of published ones
        model = dataclasses.replace(model, weights=None)
    data = resolve_data(config.data, samples["train"])
    check_fits(data.sampling, model.num_frames, data.clips)
    return Run(
        config=config,
        samples=samples,
        model=model,
        data=data,
        precision=machine.precision(compute),
        micro_batch=micro_batch,
        processes=processes,
        start_digest=files.digest(start) if start else start_digest(model.backbone, model.weights),
    )


def _check_division(batch: int, micro_batch: int, processes: int) -> None:
    if batch % (micro_batch * processes):
        raise ValueError(
            f"a batch of {batch} cannot be divided evenly into micro-batches of {micro_batch} on {processes} "
            "process(es): choose numbers that divide it"
        )


def _check_network(config: RunConfig) -> None:
    backbone, size = config.model.backbone, config.data.size
    if backbone in gcn.BACKBONES:
        raise ValueError(f"{backbone!r} needs boxes of objects beside the clips, and cannot be trained here")
    needed = OWN_DATA.get(backbone, {}).get("size", size)
    if size != needed:
        raise ValueError(f"{backbone!r} takes frames of {needed} pixels alone, got {size}: set data.size={needed}")


@torch.no_grad()
def _try_network(model: ModelConfig, size: int) -> None:
    """Build the network without values and pass an empty clip through it, which refuses what does not fit."""
    with torch.device("meta"), contextlib.suppress(RuntimeError):  # a user's network may need values
        network = build_model(dataclasses.replace(model, num_classes=1, weights=None)).eval()
        network(torch.empty(1, 3, model.num_frames, size, size))


def _check_batch(batch: int, videos: int) -> None:
    if batch > videos:
        raise ValueError(f"batch must be at most the {videos} training videos, got {batch}")


def _check_classes(train: Samples) -> None:
    names = [name for name in train.classes if name not in train.empty_classes]
    if len(names) < 2:
        raise ValueError(f"training needs videos of at least 2 classes, those in {train.root} are all of {names[0]!r}")


def _load(config: RunConfig, on_clips: Callable[[int, int], None] | None) -> dict[str, Samples]:
    data, root = config.data, config.data.root
    if not root:
        if data.name != "arrow":
            has = "has one folder of videos per class" if data.name == "folder" else f"holds the data set {data.name}"
            raise ValueError(f"root must be the folder that {has}, got ''")
        # Errors that would otherwise come after the minutes of writing it.
        check_fits(ARROW_SAMPLING if data.sampling is None else data.sampling, config.model.num_frames, data.clips)
        _check_batch(config.recipe.batch, config.arrow.train_clips)
        if not arrow.folder_of(config.arrow).exists():
            _try_network(config.model, data.size)
        root = arrow.ensure(config.arrow, on_clips)
    return load_splits(data.name, root, **data.options())


# Accelerate, set up for a run.


def join_processes(compute: ComputeConfig) -> PartialState:
    """Meet the processes that a launcher started, if it did.

    Accelerate keeps device and precision for the life of a process, and has no public call to change them. A notebook
    may run on another device or in another precision than before, so what is kept is reset here.
    """
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    # On a machine without GPUs too: else Accelerate takes several processes on CPUs for single ones.
    return PartialState(cpu=ALONE.on_cpu(compute))


def make_accelerator(compute: ComputeConfig, precision: str, **options) -> Accelerator:
    """Accelerate on the device of `compute`, in a precision of `Machine.precision`; `options` are Accelerate's own."""
    join_processes(compute)
    accelerator = Accelerator(
        cpu=ALONE.on_cpu(compute),
        mixed_precision="no" if precision == "fp32" else precision,
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
        **options,
    )
    if compute.threads:  # after Accelerate, which sets its own number where several processes run on CPUs
        torch.set_num_threads(compute.threads)
    return accelerator
