"""Videos to batches of clips: data sets, decoding, sampling, transforms, loaders."""

from ctlib.data import video
from ctlib.data.catalog import load_samples
from ctlib.data.clips import ClipDataset

__all__ = ["ClipDataset", "load_samples", "video"]
