"""The reference study of CT-Net, the Channel Tensorization Network (ICLR 2021)."""

from ctlib import cost, data, runs
from ctlib.config import ModelConfig
from ctlib.models import build_model, ctnet_r50, tsn_r50

__all__ = ["ModelConfig", "build_model", "cost", "ctnet_r50", "data", "runs", "tsn_r50"]
__version__ = "0.1.0"
