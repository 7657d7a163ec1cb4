"""Video files to batches of clips."""

from ctlib.data import video

__all__ = ["video"]
