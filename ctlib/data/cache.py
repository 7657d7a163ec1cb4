"""Decoded videos kept in memory, so that a run decodes each of them once (`data.cache`).

"ram" keeps them in memory that the trainer and its loader processes share. "gpu" keeps them on the GPU, where clips are
then cropped, resized, flipped and normalised. A room of its own, as `clips` need not know where frames lie.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from ctlib.config import DataConfig
from ctlib.data import video
from ctlib.data.catalog import Samples

_BLOCK = 2**28  # bytes of a block of memory: each takes a file handle in each process, and a video lies in one of them
_PROBED = 32  # videos of a list, from which the size of all is estimated
_SHARED = "/dev/shm"  # where Linux has the memory that processes share; its size may be limited


class Videos:
    """All frames of each video of a list, uint8, in memory that processes share; each video is decoded once, now.

    Args:
        samples: the list.
        config: says the decoder, what to do at an unreadable video, and how many processes decode.

    Raises:
        video.VideoError: a video that cannot be read, with `on_error="stop"`; with "skip", reading it raises.
    """

    def __init__(self, samples: Samples, config: DataConfig):
        self.samples, self.errors = samples, {}
        self.blocks: list[torch.Tensor] = []
        self.places: list[tuple[int, int, tuple[int, ...]] | None] = []  # block, first byte, (n, H, W, 3) of each video
        left, end = needed_bytes(samples), 0
        whole = _WholeVideos(samples, config)
        for frames in DataLoader(whole, batch_size=None, num_workers=config.workers, generator=torch.Generator()):
            if isinstance(frames, str):
                self.errors[len(self.places)] = frames
                self.places.append(None)
                continue
            size = frames.numel()
            if not self.blocks or end + size > len(self.blocks[-1]):
                self.blocks.append(torch.empty(max(size, min(left, _BLOCK)), dtype=torch.uint8).share_memory_())
                end = 0
            self.blocks[-1][end : end + size] = frames.flatten()
            self.places.append((len(self.blocks) - 1, end, tuple(frames.shape)))
            end, left = end + size, left - size

    def shape(self, index: int) -> tuple[int, int, int]:
        """Frames, height and width of a video. Raises video.VideoError if it could not be read."""
        if index in self.errors:
            raise video.VideoError(self.errors[index])
        return self.places[index][2][:3]

    def read(self, index: int, choose: Callable[[int], np.ndarray]) -> np.ndarray:
        """As `video.read_frames` with a function: a copy of the frames chosen, (T, H, W, 3)."""
        count = self.shape(index)[0]
        return self._all_of(index)[choose(count)]

    def _all_of(self, index: int) -> np.ndarray:
        block, first, shape = self.places[index]
        return self.blocks[block][first : first + math.prod(shape)].numpy().reshape(shape)


class VideosOnDevice:
    """The frames of `Videos` on a device, from which whole batches of clips are cut there.

    Args:
        videos: what to move; they are empty afterwards.
        device: where to.

    Raises:
        ValueError: videos whose frames have different sizes.
    """

    def __init__(self, videos: Videos, device: torch.device | str):
        self.videos = videos
        readable = [index for index, place in enumerate(videos.places) if place is not None]
        sizes = {videos.shape(index)[1:]: index for index in readable}
        if len(sizes) > 1:
            ((height, width), one), ((other_height, other_width), two) = list(sizes.items())[:2]
            raise ValueError(
                f"data.cache 'gpu' needs frames of one size: {videos.samples.path(one)} has {height} x {width} pixels, "
                f"{videos.samples.path(two)} {other_height} x {other_width}: set data.cache to 'ram'"
            )
        (self.height, self.width), _ = next(iter(sizes.items()), ((1, 1), None))
        lengths = [0 if place is None else place[2][0] for place in videos.places]
        self.first = np.cumsum([0, *lengths])  # frame of each video
        shape = (int(self.first[-1]) or 1, 3, self.height, self.width)
        self.frames = torch.empty(shape, dtype=torch.uint8, device=device)
        for index in readable:
            of_video = torch.from_numpy(videos._all_of(index)).permute(0, 3, 1, 2)
            self.frames[self.first[index] : self.first[index + 1]] = of_video.to(device)
        videos.blocks.clear()

    def shape(self, index: int) -> tuple[int, int, int]:
        """As `Videos.shape`."""
        return self.videos.shape(index)

    def clips(self, indices: Sequence[int], chosen: np.ndarray) -> torch.Tensor:
        """(N,) videos and (N, T) frames of each -> (N, T, 3, H, W) uint8, on the device."""
        places = torch.from_numpy(self.first[list(indices)][:, None] + chosen)
        return self.frames[places.to(self.frames.device)]


class _WholeVideos(Dataset):
    """Item i: all frames of video i that its list counts, or why it cannot be read."""

    def __init__(self, samples: Samples, config: DataConfig):
        self.samples, self.config = samples, config

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> np.ndarray | str:
        source, _, listed = self.samples[index]
        try:
            return video.read_frames(source, np.arange, listed, self.config.decoder)
        except video.VideoError as error:
            if self.config.on_error == "stop":
                raise
            return str(error)


def keep(samples: Samples, config: DataConfig) -> Videos | VideosOnDevice | None:
    """The videos of a list, where `config.cache` says; None if nowhere."""
    if config.cache == "none":
        return None
    videos = Videos(samples, config)
    return VideosOnDevice(videos, "cuda") if config.cache == "gpu" else videos


def needed_bytes(samples: Samples) -> int:
    """Bytes of all frames of a list, estimated from some of its videos, whose headers are read."""
    sizes = []
    for index in np.unique(np.linspace(0, len(samples) - 1, _PROBED).astype(int)).tolist():
        source, _, listed = samples[index]
        try:
            header = video.probe(source)
            frames = listed or header.num_frames or video.count_frames(source)
        except video.VideoError:
            continue
        sizes.append(3 * frames * header.height * header.width)
    return math.ceil(np.mean(sizes) * len(samples)) if sizes else 0


def check_room(lists: Iterable[Samples], config: DataConfig) -> None:
    """Refuse what `keep` could not hold, before anything is decoded.

    Raises:
        ValueError: the frames of all lists need more memory than there is; both are named.
    """
    if config.cache == "none":
        return
    needed = sum(map(needed_bytes, lists))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes on this machine, each of which has its own copy
    rooms = {"memory": (local * needed, psutil.virtual_memory().available)}
    if os.path.isdir(_SHARED):
        rooms[f"shared memory ({_SHARED})"] = local * needed, shutil.disk_usage(_SHARED).free
    if config.cache == "gpu":
        rooms["memory of the GPU"] = needed, torch.cuda.mem_get_info()[0]
    for room, (wanted, available) in rooms.items():
        if wanted > available:
            raise ValueError(
                f"data.cache {config.cache!r} needs {wanted / 1e9:.3g} GB for the decoded videos, and "
                f"{available / 1e9:.3g} GB of {room} are free: set data.cache to 'none', or take fewer videos"
            )
