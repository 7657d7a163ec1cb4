"""The reference study of CT-Net, the Channel Tensorization Network (ICLR 2021)."""

from ctlib import checkpoints, cost, data, paper, saliency
from ctlib.config import ModelConfig
from ctlib.deploy import compiled, export, optimize
from ctlib.models import (
    build_model,
    ctnet_inception_v3,
    ctnet_r50,
    ctnet_r101,
    tsn_inception_v3,
    tsn_r50,
    tsn_r101,
)
from ctlib.training import records as runs
from ctlib.training.train import train

__all__ = [
    "ModelConfig",
    "build_model",
    "checkpoints",
    "compiled",
    "cost",
    "ctnet_inception_v3",
    "ctnet_r50",
    "ctnet_r101",
    "data",
    "export",
    "optimize",
    "paper",
    "runs",
    "saliency",
    "train",
    "tsn_inception_v3",
    "tsn_r50",
    "tsn_r101",
]
__version__ = "0.1.0"
