"""Where arithmetic is done and in which precision: Accelerate, as `config.ComputeConfig` says."""

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState, PartialState

from ctlib.config import ComputeConfig


def precision_of(compute: ComputeConfig) -> str:
    """fp32, bf16 or fp16; auto is fp32 on a CPU, and bf16 or else fp16 on a GPU."""
    if compute.precision != "auto":
        return compute.precision
    if on_cpu(compute):
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def on_cpu(compute: ComputeConfig) -> bool:
    """Whether the CPU it is: as asked, or where there is no CUDA device (others are not supported)."""
    return compute.device == "cpu" or not torch.cuda.is_available()


def join_processes(compute: ComputeConfig) -> PartialState:
    """Meet the processes that a launcher started, if it did.

    What a notebook's earlier runs left behind is forgotten: they may have had another device or precision.
    """
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    # Told so on machines without GPUs too: else Accelerate takes several processes on CPUs for lone ones.
    return PartialState(cpu=on_cpu(compute))


def make_accelerator(compute: ComputeConfig, **options) -> Accelerator:
    """Accelerate on the device and in the precision of `compute`; `options` are Accelerate's own."""
    join_processes(compute)
    precision = precision_of(compute)
    accelerator = Accelerator(
        cpu=on_cpu(compute),
        mixed_precision="no" if precision == "fp32" else precision,
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
        **options,
    )
    if compute.threads:  # after Accelerate, which sets a number of its own where several processes run on CPUs
        torch.set_num_threads(compute.threads)
    return accelerator
