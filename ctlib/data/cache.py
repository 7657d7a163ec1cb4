"""Decoded videos that are kept, so that each of them is decoded once (`data.cache`).

"ram" keeps them in memory that the trainer and its loader processes share. "disk" keeps them in a file that all runs on
these videos share, at once and later. "gpu" keeps them on the GPU, where clips are then cropped, resized, flipped and
normalised. A room of its own, as `clips` need not know where frames lie.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from ctlib import files
from ctlib.config import DataConfig
from ctlib.data import video
from ctlib.data.catalog import Samples
from ctlib.data.transforms import on_device
from ctlib.data.workers import SHARED_MEMORY, one_line_errors

_BLOCK = 2**28  # bytes of a block of memory: each takes a file handle in each process, and a video lies in one of them
MOST_ON_DISK = 20e9  # bytes of all files of decoded videos together, if no process uses more at once
_PROBED = 32  # videos of a list, from which the size of all is estimated

Place = tuple[int, int, tuple[int, ...]]  # of a video: its block, its first byte there, and (n, H, W, 3)


class Videos:
    """All frames of each video of a list, uint8, in memory that processes share; each video is decoded once, now.

    Raises:
        video.VideoError: a video that cannot be read, with `on_error="stop"`; with "skip", reading it raises.
    """

    def __init__(self, samples: Samples, config: DataConfig):
        self.samples, self.errors = samples, {}
        self.blocks: list[torch.Tensor] = []
        self.places: list[Place | None] = []
        left, end = needed_bytes(samples), 0
        for frames in self._decoded(config):
            size = frames.size
            if not self.blocks or end + size > len(self.blocks[-1]):
                self.blocks.append(torch.empty(max(size, min(left, _BLOCK)), dtype=torch.uint8).share_memory_())
                end = 0
            self.blocks[-1][end : end + size] = torch.from_numpy(frames).flatten()
            self.places.append((len(self.blocks) - 1, end, frames.shape))
            end, left = end + size, left - size

    def _decoded(self, config: DataConfig) -> Iterator[np.ndarray]:
        """The frames of the videos in turn; the places and errors of those that cannot be read are noted here."""
        whole = _WholeVideos(self.samples, config)
        loader = DataLoader(whole, batch_size=None, num_workers=config.workers, generator=torch.Generator())
        with one_line_errors():
            for frames in loader:
                if isinstance(frames, str):
                    self.errors[len(self.places)] = frames
                    self.places.append(None)
                else:
                    yield frames.numpy()

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


class VideosOnDisk(Videos):
    """The same in a file of `files.cache_dir`, which is mapped into memory and so shared by all runs that read it.

    The first run writes it, and others that begin meanwhile wait. A video that changes makes another file. No process
    deletes a file that another one maps (`make_room`).
    """

    def __init__(self, samples: Samples, config: DataConfig):
        self.samples, self.path = samples, decoded_file(samples, config)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with files.writing(self.path):
            if not self._is_whole() or self._can_read_more(config):
                self.errors, self.places, about = {}, [], _about(self.path)
                about.unlink(missing_ok=True)
                files.write_atomically(self.path, lambda partial: self._write(partial, config))
                files.write_json(about, {"places": self.places, "errors": self.errors})
            self._map()
        with suppress(PermissionError):  # another user's
            os.utime(self.path)  # when it was last used

    def _is_whole(self) -> bool:
        """Read the table; False if it or the file is missing, damaged or of another size."""
        try:
            read = files.read_json(_about(self.path), ("places", "errors"))
            self.errors = {int(index): str(error) for index, error in read["errors"].items()}
            self.places = [place and (place[0], place[1], tuple(place[2])) for place in read["places"]]
            ends = [place[1] + math.prod(place[2]) for place in self.places if place]
            unread = {index for index, place in enumerate(self.places) if not place}
            fits = max(ends, default=0) == self.path.stat().st_size and unread == self.errors.keys()
        except (OSError, ValueError, TypeError, AttributeError, LookupError):
            return False
        return fits and len(self.places) == len(self.samples)

    def _can_read_more(self, config: DataConfig) -> bool:
        """Whether a video that could not be read can be read by now."""
        videos = _WholeVideos(self.samples, config)
        return any(not isinstance(videos[index], str) for index in self.errors)

    def _write(self, partial: Path, config: DataConfig) -> None:
        end = 0
        with partial.open("wb") as file:
            for frames in self._decoded(config):
                file.write(frames.tobytes())
                self.places.append((0, end, frames.shape))
                end += frames.size

    def _map(self) -> None:
        import fcntl  # which Windows lacks

        self._in_use = self.path.open("rb")
        fcntl.flock(self._in_use, fcntl.LOCK_SH)  # while it is open, no process deletes it
        size = self.path.stat().st_size
        self.blocks = [torch.from_file(str(self.path), size=size, dtype=torch.uint8)] if size else []

    def __getstate__(self) -> dict:
        return self.__dict__ | {"blocks": [], "_in_use": None}  # another process maps the file itself

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._map()


def decoded_file(samples: Samples, config: DataConfig) -> Path:
    """Where `VideosOnDisk` keeps a list."""
    read_by = f"{config.decoder} {config.on_error} {files.version('av')} {files.version('ctlib')}"
    digest = hashlib.sha256(f"{samples.fingerprint} {read_by}".encode())
    for source, *_ in samples:
        digest.update(f"{source} {files.stamp(source)}\n".encode("utf-8", "surrogateescape"))
    return files.cache_dir() / f"decoded-{digest.hexdigest()[:12]}.bytes"


def _about(path: Path) -> Path:
    """The table of a file of decoded videos, which is written after it."""
    return path.with_suffix(".json")


def make_room(needed: float, kept: Collection[Path] = ()) -> int:
    """Delete files of decoded videos that no process uses, those first that were used longest ago.

    Files are deleted until `needed` bytes more fit the disk, and all of them `MOST_ON_DISK`; those in `kept` stay.
    Where that many can never fit, all stay. Returns the bytes that were deleted.
    """
    folder, found = files.cache_dir(), {}
    files.remove_abandoned(folder, "decoded-*")
    for table in folder.glob("decoded-*.json"):
        with suppress(OSError), files.writing(table, timeout=0):
            if not table.with_suffix(".bytes").is_file():  # a user deleted it
                table.unlink()
    for path in folder.glob("decoded-*.bytes"):
        with suppress(FileNotFoundError):  # deleted by another process
            found[path] = path.stat()
    before = total = sum(status.st_size for status in found.values())
    unused = []
    for path in found.keys() - set(kept):
        with suppress(OSError), _unused(path):
            unused.append(path)
    if math.inf > needed > sum(found[path].st_size for path in unused) + shutil.disk_usage(folder).free:
        return 0  # it would not fit even then
    for path in sorted(unused, key=lambda path: found[path].st_mtime):
        if total + needed <= MOST_ON_DISK and needed <= shutil.disk_usage(folder).free:
            break
        with suppress(OSError), files.writing(path, timeout=0), _unused(path):
            _about(path).unlink(missing_ok=True)  # first, as a file without it is written again
            path.unlink()
            total -= found[path].st_size
    return before - total


@contextmanager
def _unused(path: Path) -> Iterator[None]:
    """Hold a file of decoded videos that no process maps. Raises OSError if one does."""
    import fcntl  # which Windows lacks

    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


class VideosOnDevice:
    """The frames of `Videos`, moved to a device; whole batches of clips are cut there.

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
        return self.frames[on_device(self.first[list(indices)][:, None] + chosen, self.frames.device)]


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
    if config.cache == "disk":
        return VideosOnDisk(samples, config)
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


def _still_to_write(path: Path, samples: Samples) -> int:
    """Bytes of a file of decoded videos, less what another process has written of it by now."""
    written = 0
    for partial, name in files.partials(path.parent):
        with suppress(FileNotFoundError):  # it is whole by now
            written += partial.stat().st_size if name == path.name else 0
    return max(0, needed_bytes(samples) - written)


def check_room(lists: Iterable[Samples], config: DataConfig) -> None:
    """Refuse what `keep` could not hold, before anything is decoded.

    Raises:
        ValueError: the frames of all lists need more memory than there is; both are named.
    """
    if config.cache == "none":
        return
    if config.cache == "disk":
        paths, folder = {decoded_file(samples, config): samples for samples in lists}, files.cache_dir()
        folder.mkdir(parents=True, exist_ok=True)
        files.remove_abandoned(folder, "decoded-*")
        missing = [path for path in paths if not (path.is_file() and _about(path).is_file())]
        needed = sum(_still_to_write(path, paths[path]) for path in missing)
        make_room(needed, kept=paths)
        rooms = {f"disk ({folder})": (needed, shutil.disk_usage(folder).free)}
    else:
        needed = sum(map(needed_bytes, lists))
        local = needed * int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # each process on this machine has a copy
        rooms = {"memory": (local, psutil.virtual_memory().available)}
        if SHARED_MEMORY.is_dir():
            rooms[f"shared memory ({SHARED_MEMORY})"] = local, shutil.disk_usage(SHARED_MEMORY).free
    if config.cache == "gpu":
        rooms["memory of the GPU"] = needed, torch.cuda.mem_get_info()[0]
    for room, (wanted, available) in rooms.items():
        if wanted > available:
            raise ValueError(
                f"data.cache {config.cache!r} needs {wanted / 1e9:.3g} GB for the decoded videos, and "
                f"{available / 1e9:.3g} GB of {room} are free: set data.cache to 'none', or take fewer videos"
            )
