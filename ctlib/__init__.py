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
from ctlib.prediction import predict
from ctlib.rivals import create_model, list_models

__all__ = [
    "ModelConfig",
    "build_model",
    "checkpoints",
    "compiled",
    "cost",
    "create_model",
    "ctnet_inception_v3",
    "ctnet_r50",
    "ctnet_r101",
    "data",
    "export",
    "list_models",
    "optimize",
    "paper",
    "predict",
    "runs",
    "saliency",
    "train",
    "tsn_inception_v3",
    "tsn_r50",
    "tsn_r101",
]
__version__ = "0.1.0"


def __getattr__(name: str):
    """`train` and `runs` on first use: what training needs takes seconds to import."""
    if name == "train":
        from ctlib.training.train import train

        return train
    if name == "runs":
        from ctlib.training import records

        return records
    raise AttributeError(f"module 'ctlib' has no attribute {name!r}")
