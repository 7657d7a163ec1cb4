"""Videos to batches of clips: data sets, decoding, sampling, transforms, loaders."""

from ctlib.data import video
from ctlib.data.catalog import load_samples

__all__ = ["ClipDataset", "load_samples", "video"]


def __getattr__(name: str):
    """`ClipDataset` on first use: torch takes seconds to import, and a check of videos needs none of it."""
    if name != "ClipDataset":
        raise AttributeError(f"module 'ctlib.data' has no attribute {name!r}")
    from ctlib.data.clips import ClipDataset

    return ClipDataset


def __dir__() -> list[str]:
    return [*globals(), "ClipDataset"]
