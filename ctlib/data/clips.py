"""Samples to batches of clips: sampling, decoding and transforms in one path, and its loaders."""

import atexit
import multiprocessing
import signal
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ctlib.config import DataConfig, check_choice
from ctlib.data import transforms, video
from ctlib.data.catalog import Samples
from ctlib.data.sampling import SAMPLINGS

SKIPPED = -1  # the label of a video that could not be read and was to be skipped


class ClipDataset(Dataset):
    """Clips of the videos in `samples`, each decoded when it is asked for.

    In training, an item is one random view; what is random about it depends on (seed, epoch, index)
    alone, so neither the number of workers nor a restart changes it. In testing, an item holds all
    views of the video, clips x crops of them, clip by clip.

    Args:
        samples: what to read.
        num_frames: T.
        size: pixels, height and width of a clip.
        sampling: a name of `SAMPLINGS`; the data set's own if not given.
        train: random views, or all test views.
        flip: horizontal flips in training, with labels swapped by name (`transforms.flipped_labels`); as
            the data set is used if not given.
        short_side: pixels, to which test frames are brought before the crop; if not given 256 for a size of
            224, as the authors do, else `size`.
        clips, crops: test views a video.
        seed: of everything random.
        on_error: "stop", or "skip": an unreadable video gives zeros and the label `SKIPPED`, with a warning,
            for the caller to leave out and count; never another video.
        decoder: of video files, one of `video.DECODERS`.

    Shape:
        item (epoch, index) in training -> (3, T, size, size), label
        item index in testing -> (clips * crops, 3, T, size, size), label

    Raises:
        video.VideoError: a video is missing, unreadable, or has no frame where its list says that there is one.
    """

    def __init__(
        self,
        samples: Samples,
        num_frames: int,
        size: int,
        sampling: str | None = None,
        train: bool = False,
        flip: bool | None = None,
        short_side: int | None = None,
        clips: int = 1,
        crops: int = 1,
        seed: int = 0,
        on_error: str = "stop",
        decoder: str = "pyav",
    ):
        name = samples.sampling if sampling is None else sampling
        check_choice("sampling", name, SAMPLINGS)
        self.short_side = transforms.test_short_side(size) if short_side is None else short_side
        if self.short_side < size:
            raise ValueError(f"short_side must be at least size, got {short_side} and {size}")
        self.samples, self.num_frames, self.size, self.sampling = samples, num_frames, size, SAMPLINGS[name]
        self.sampling.test(max(1, num_frames), num_frames, clips)  # refuses now what it would refuse later
        self.train, self.clips, self.crops, self.seed = train, clips, crops, seed
        labels = np.arange(len(samples.classes))
        flip = samples.flip if flip is None else flip
        self.flipped = transforms.flipped_labels(samples.classes) if flip else np.full_like(labels, -1)
        check_choice("on_error", on_error, ("stop", "skip"))
        check_choice("decoder", decoder, video.DECODERS)
        self.on_error, self.decoder = on_error, decoder

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, int]:
        try:
            if not self.train:
                return self._test_item(key)
            epoch, index = key
            return self._train_item(index, np.random.default_rng([self.seed, epoch, index]))
        except video.VideoError as error:
            if self.on_error == "stop":
                raise
            warnings.warn(f"skipped: {error}", stacklevel=1)
            views = () if self.train else (self.clips * self.crops,)
            return torch.zeros(*views, 3, self.num_frames, self.size, self.size), SKIPPED

    def _train_item(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, int]:
        source, label, listed = self.samples[index]

        def chosen(length: int) -> np.ndarray:
            return self.sampling.train(length, self.num_frames, rng)

        frames = video.read_frames(source, chosen, listed, self.decoder)
        box = transforms.random_crop(*frames.shape[1:3], self.size, rng)
        flip = self.flipped[label] >= 0 and rng.random() < 0.5
        clip = transforms.train_view(frames, self.size, box, flip)
        return clip, int(self.flipped[label]) if flip else label

    def _test_item(self, index: int) -> tuple[torch.Tensor, int]:
        source, label, listed = self.samples[index]

        def chosen(length: int) -> np.ndarray:
            return self.sampling.test(length, self.num_frames, self.clips).ravel()

        clips = np.split(video.read_frames(source, chosen, listed, self.decoder), self.clips)
        return torch.cat([transforms.test_views(clip, self.size, self.short_side, self.crops) for clip in clips]), label


class EpochSampler(Sampler):
    """(epoch, index) of as many samples as whole batches hold, shuffled anew an epoch: by (seed, epoch) alone.

    `first` is how many samples of the epoch to pass over, for a run that goes on in the middle of one.
    """

    def __init__(self, length: int, batch: int, seed: int):
        self.length, self.batch, self.seed = length, batch, seed
        self.epoch, self.first = 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.batch * self.batch - self.first

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        return ((self.epoch, int(index)) for index in order[self.first : self.first + len(self)])


def train_loader(
    samples: Samples, num_frames: int, config: DataConfig, batch: int, seed: int, micro_batch: int | None = None
) -> DataLoader:
    """Micro-batches (micro_batch, 3, T, size, size) and labels, in an order drawn for whole batches.

    A last batch that is not full is left out. With `micro_batch` not given, it is the batch.

    Raises:
        ValueError: fewer samples than one batch.
    """
    if len(samples) < batch:
        raise ValueError(f"a batch of {batch} needs as many training videos, the list has {len(samples)}")
    dataset = ClipDataset(
        samples,
        num_frames,
        config.size,
        sampling=config.sampling,
        train=True,
        flip=config.flip,
        seed=seed,
        on_error=config.on_error,
        decoder=config.decoder,
    )
    sampler = EpochSampler(len(samples), batch, seed)
    return _loader(dataset, config, batch_size=micro_batch or batch, sampler=sampler, drop_last=True)


def test_loader(samples: Samples, num_frames: int, config: DataConfig, batch: int) -> DataLoader:
    """Batches (n, clips * crops, 3, T, size, size) and labels, every video once, in order.

    `batch` is a number of views: as many as of clips in training fit into memory then.
    """
    dataset = ClipDataset(
        samples,
        num_frames,
        config.size,
        sampling=config.sampling,
        short_side=config.short_side,
        clips=config.clips,
        crops=config.crops,
        on_error=config.on_error,
        decoder=config.decoder,
    )
    return _loader(dataset, config, batch_size=max(1, batch // (config.clips * config.crops)))


def _loader(dataset: Dataset, config: DataConfig, **options) -> DataLoader:
    return DataLoader(
        dataset,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        timeout=600 if config.workers else 0,  # seconds; a decoder that hangs must not stop training in silence
        pin_memory=torch.cuda.is_available(),
        # Of its own: a loader draws from the global one now and then, which dropout would feel.
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_trainer,
        **options,
    )


def end_workers(loader: DataLoader) -> None:
    """End a loader's processes now, also one's that Accelerate prepared; another pass over it is not possible then.

    Left to the garbage collector after a worker's error, their queues go first, and each is waited for 5 s.
    """
    iterator = loader._iterator  # torch ends workers when their iterator dies, and has no public call for it
    if iterator is not None:
        iterator._shutdown_workers()


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """Ctrl-C and a cluster's notice reach every process: a worker that ended on them would break the last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """At the interpreter's end a worker that hangs in a decoder would be asked by SIGTERM, and waited for."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise over each
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
