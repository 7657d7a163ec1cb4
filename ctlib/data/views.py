"""What a network expects of a video: which frames, and which pixels. Checkpoints and ONNX files remember it."""

import dataclasses
import os
from dataclasses import MISSING, dataclass

import numpy as np
import torch

from ctlib.config import Config, at_least, check_choice, one_of
from ctlib.data import transforms, video
from ctlib.data.sampling import SAMPLINGS, check_fits


@dataclass(frozen=True)
class View(Config):
    """How one clip and one crop of a video become a network's input, as in its training's tests.

    Raises:
        ValueError: a size above the short side, or a sampling that does not have clips of so many frames.
    """

    num_frames: int = at_least(1, MISSING)  # T
    size: int = at_least(1, MISSING)  # pixels, height and width of a frame
    short_side: int = at_least(1, MISSING)  # pixels, to which a frame's shorter side is resized before the crop
    sampling: str = one_of(SAMPLINGS, MISSING)  # which T frames
    mean: tuple[float, float, float] = transforms.IMAGENET_MEAN  # of RGB in 0..1
    std: tuple[float, float, float] = transforms.IMAGENET_STD

    def __post_init__(self):
        super().__post_init__()
        if self.size > self.short_side:
            raise ValueError(f"size must be at most short_side, got size {self.size} and short_side {self.short_side}")
        check_fits(self.sampling, self.num_frames, clips=1)

    def __call__(self, video: str | os.PathLike | np.ndarray) -> torch.Tensor:
        """A video as the network's input, float32 (3, T, size, size).

        Args:
            video: a file, a folder of images, or all decoded frames, uint8 (n, H, W, 3), of which T are chosen. For
                frames that are chosen already there is `transform`.

        Raises:
            ValueError: frames of another type or shape.
            video.VideoError: a video that is missing or cannot be read.
        """
        if isinstance(video, str | os.PathLike):
            return self.read(video)[0]
        frames = np.asarray(video)
        if frames.ndim != 4 or frames.shape[3] != 3 or not len(frames) or frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
        return self.transform(frames[self.indices(len(frames))])

    def indices(self, length: int) -> np.ndarray:
        """The frames of a video of `length` frames, int64 (T,). A shorter video's repeat in order (`sampling`)."""
        return SAMPLINGS[self.sampling].test(length, self.num_frames, clips=1)[0]

    def read(self, source: str | os.PathLike) -> tuple[torch.Tensor, np.ndarray]:
        """A video file or folder of images, as the network's input (3, T, size, size), and the indices of its frames.

        Raises:
            video.VideoError: a video that is missing or cannot be read.
        """
        chosen = []

        def choose(length: int) -> np.ndarray:
            chosen.append(self.indices(length))
            return chosen[0]

        return self.transform(video.read_frames(source, choose)), chosen[0]

    def transform(self, frames: np.ndarray) -> torch.Tensor:
        """Decoded frames as the network's input: (T, H, W, 3) uint8 -> (3, T, size, size) float32."""
        return transforms.test_views(frames, self.size, self.short_side, 1, self.mean, self.std)[0]

    def pixels(self, clip: torch.Tensor) -> np.ndarray:
        """The inverse, to show: (3, T, size, size) -> (T, size, size, 3) uint8."""
        return transforms.to_pixels(clip, self.mean, self.std)


def complete(view: View | None, what: str, **changes) -> View:
    """The view that a checkpoint remembers, with changes; or one made of these alone, where it remembers none.

    Args:
        what: whose view it is, for the error.
        changes: fields of `View`; None: as it is. A new size without a short side gets that of testing.

    Raises:
        ValueError: what neither says, an unknown field, or values that do not go together.
    """
    for name in changes:
        check_choice("field of a view", name, View.__dataclass_fields__)
    given = {name: value for name, value in changes.items() if value is not None}
    if "size" in given:
        given.setdefault("short_side", transforms.test_short_side(given["size"]))
    if view is not None:
        return dataclasses.replace(view, **given)
    needed = [name for name in ("num_frames", "size", "sampling") if name not in given]
    if needed:
        raise ValueError(f"{what} does not say how it sees a video: give {' and '.join(needed)}")
    return View(**given)
