"""Where arithmetic is done and in which precision: Accelerate, as `config.ComputeConfig` says."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from ctlib.config import ComputeConfig


def precision_of(compute: ComputeConfig) -> str:
    """fp32, bf16 or fp16; auto is fp32 on a CPU, and bf16 or else fp16 on a GPU."""
    if compute.precision != "auto":
        return compute.precision
    if compute.device == "cpu" or not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def make_accelerator(compute: ComputeConfig, **options) -> Accelerator:
    """Accelerate on the device and in the precision of `compute`; `options` are Accelerate's own.

    What a notebook's earlier runs left behind is forgotten: they may have had another device or precision.
    """
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    precision = precision_of(compute)
    # Told so where there is no other device either: else Accelerate takes several processes on CPUs for lone ones.
    on_cpu = compute.device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no" if precision == "fp32" else precision, **options)
    if compute.threads:  # after Accelerate, which sets a number of its own where several processes run on CPUs
        torch.set_num_threads(compute.threads)
    return accelerator
