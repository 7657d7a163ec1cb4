"""Where a run is computed: on which device, in which precision, by how many processes; and Accelerate set up so."""

import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState, PartialState

from ctlib.config import ComputeConfig


@dataclass(frozen=True)
class Machine:
    """The machine that a run is resolved for: this one, with `processes` that share a batch; 0: one for each GPU."""

    processes: int = 1

    def on_cpu(self, compute: ComputeConfig) -> bool:
        """Whether the CPU computes: as asked, or where there is no CUDA device (others are not supported)."""
        return compute.device == "cpu" or not torch.cuda.is_available()

    def precision(self, compute: ComputeConfig) -> str:
        """fp32, bf16 or fp16; auto is fp32 on a CPU, and bf16 or else fp16 on a GPU."""
        if compute.precision != "auto":
            return compute.precision
        if self.on_cpu(compute):
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"

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
