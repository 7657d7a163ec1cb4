"""From samples to batches of clips: one path of sampling, decoding and transforms, and its loaders."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ctlib.config import DataConfig
from ctlib.data import cache, transforms, video
from ctlib.data.catalog import Samples
from ctlib.data.sampling import SAMPLINGS, check_fits
from ctlib.data.workers import check_shared_memory, leave_signals_to_the_trainer, workers_context

SKIPPED = -1  # the label of an unreadable video, with on_error="skip"


def resolve_data(config: DataConfig, samples: Samples) -> DataConfig:
    """The configuration with an answer to what it leaves to the data set: sampling, flips, a test frame's short side.

    Raises:
        ValueError: a short side below the size.
    """
    short_side = transforms.test_short_side(config.size) if config.short_side is None else config.short_side
    if short_side < config.size:
        raise ValueError(f"short_side must be at least size, got {short_side} and {config.size}")
    sampling = samples.sampling if config.sampling is None else config.sampling
    flip = samples.flip if config.flip is None else config.flip
    return dataclasses.replace(config, sampling=sampling, flip=flip, short_side=short_side)


class ClipDataset(Dataset):
    """Clips of the videos in `samples`, decoded when asked for.

    In training an item is one random view, which depends on (seed, epoch, index) alone: neither the number of
    workers nor a restart changes it. In testing an item holds all views of the video, clips x crops, clip by clip.

    Args:
        num_frames: T.
        size: height and width of a clip in pixels.
        sampling: a name of `SAMPLINGS`; None: the data set's own.
        train: one random view, or all test views.
        seed: of everything random.
        options: fields of `DataConfig`: `flip` (training; labels are swapped by name), `short_side`, `clips` and
            `crops` (testing), `on_error`, `decoder`. With `on_error="skip"` an unreadable video gives zeros, the
            label `SKIPPED` and a warning; another video never replaces it.

    Shape:
        item (epoch, index) in training -> (3, T, size, size), label
        item index in testing -> (clips * crops, 3, T, size, size), label

    Raises:
        video.VideoError: a video is missing, unreadable, or has fewer frames than its list states.
    """

    kept: cache.Videos | None = None  # what `samples` lists, decoded; None: it is decoded when asked for

    def __init__(
        self,
        samples: Samples,
        num_frames: int,
        size: int,
        sampling: str | None = None,
        train: bool = False,
        seed: int = 0,
        **options,
    ):
        config = resolve_data(DataConfig(size=size, sampling=sampling, **options), samples)
        check_fits(config.sampling, num_frames, config.clips)
        self.samples, self.num_frames, self.size, self.short_side = samples, num_frames, size, config.short_side
        self.sampling = SAMPLINGS[config.sampling]
        self.train, self.clips, self.crops, self.seed = train, config.clips, config.crops, seed
        labels = np.arange(len(samples.classes))
        self.flipped = transforms.flipped_labels(samples.classes) if config.flip else np.full_like(labels, -1)
        self.on_error, self.decoder = config.on_error, config.decoder

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def item_shape(self) -> tuple[int, ...]:
        views = () if self.train else (self.clips * self.crops,)
        return (*views, 3, self.num_frames, self.size, self.size)

    def item_bytes(self) -> int:
        """How large an item is."""
        return 4 * math.prod(self.item_shape)

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
            return self._skipped()

    def _skipped(self) -> tuple[torch.Tensor, int]:
        return torch.zeros(self.item_shape), SKIPPED

    def _train_item(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, int]:
        frames = self._read(index, lambda length: self.sampling.train(length, self.num_frames, rng))
        box, flip, label = self._augmentation(index, *frames.shape[1:3], rng)
        return transforms.train_view(frames, self.size, box, flip), label

    def _augmentation(self, index: int, height: int, width: int, rng) -> tuple[transforms.Box, bool, int]:
        """The box of a training view, whether it is flipped, and its label then."""
        label = self.samples[index].label
        box = transforms.random_crop(height, width, self.size, rng)
        flip = bool(self.flipped[label] >= 0 and rng.random() < 0.5)
        return box, flip, int(self.flipped[label]) if flip else label

    def _test_item(self, index: int) -> tuple[torch.Tensor, int]:
        clips = np.split(self._read(index, self._test_indices), self.clips)
        views = [transforms.test_views(clip, self.size, self.short_side, self.crops) for clip in clips]
        return torch.cat(views), self.samples[index].label

    def _test_indices(self, length: int) -> np.ndarray:
        return self.sampling.test(length, self.num_frames, self.clips).ravel()

    def _read(self, index: int, choose: Callable[[int], np.ndarray]) -> np.ndarray:
        if self.kept is not None:
            return self.kept.read(index, choose)
        source, _, listed = self.samples[index]
        return video.read_frames(source, choose, listed, self.decoder)


LARGE = 4  # times the pixels that are needed: larger frames are resized before they travel
RAW_ON = {"cuda"}  # types of devices to which frames travel as bytes, and are made views there


def travels_raw(device: torch.device) -> bool:
    """Whether loaders for this device are to be `raw`."""
    return device.type in RAW_ON


class RawDataset(ClipDataset):
    """The same clips as decoded frames, for a batch that `transforms.views_of` makes views on its device.

    What is drawn is the same, and so are the pixels, within 1 of 255 where a device rounds sums otherwise.

    Shape:
        item (epoch, index) in training -> (T, 3, h, w) uint8 of its box, whether it is flipped, label
        item index in testing -> (clips * T, 3, H, W) uint8, False, label
    """

    def item_bytes(self) -> int:
        """How large an item is of a video of 16:9 whose boxes, or in testing whose frames, need no resizing."""
        pixels = self.size**2 if self.train else self.clips * self.short_side**2 * 16 // 9
        return 3 * self.num_frames * pixels

    def collate(self, items: Sequence[tuple[torch.Tensor, bool, int]]) -> tuple[transforms.RawClips, torch.Tensor]:
        clips, flips, labels = zip(*items, strict=True)
        test = None if self.train else (self.short_side, self.clips, self.crops)
        return transforms.raw_clips(clips, flips, self.size, test), torch.tensor(labels)

    def _train_item(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, bool, int]:
        frames = self._read(index, lambda length: self.sampling.train(length, self.num_frames, rng))
        (top, left, height, width), flip, label = self._augmentation(index, *frames.shape[1:3], rng)
        part = frames[:, top : top + height, left : left + width]
        resized = transforms.resized(part, [self.size] * 2) if height * width > LARGE * self.size**2 else part
        return _channels_first(resized), flip, label

    def _test_item(self, index: int) -> tuple[torch.Tensor, bool, int]:
        frames = self._read(index, self._test_indices)
        if min(frames.shape[1:3]) ** 2 > LARGE * self.short_side**2:
            frames = transforms.resized(frames, [self.short_side])
        return _channels_first(frames), False, self.samples[index].label

    def _skipped(self) -> tuple[torch.Tensor, bool, int]:
        frames = self.num_frames * (1 if self.train else self.clips)
        return torch.zeros(frames, 3, self.size, self.size, dtype=torch.uint8), False, SKIPPED


def _channels_first(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))


class DeviceClips(ClipDataset):
    """The same clips by the batch, cut on the device where the frames lie (`cache.VideosOnDevice`, set as `kept`).

    What is drawn is the same, and so are the pixels, within 1 of 255 where a device rounds sums otherwise.

    Shape:
        keys of N items -> (N, 3, T, size, size), or (N, clips * crops, 3, T, size, size) in testing; labels, (N,)
    """

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, int]:
        clips, labels = self.__getitems__([key])
        return clips[0], int(labels[0])

    def __getitems__(self, keys: Sequence) -> tuple[torch.Tensor, torch.Tensor]:
        device, labels, draws = self.kept.frames.device, [SKIPPED] * len(keys), {}
        for place, key in enumerate(keys):
            try:
                draws[place] = self._draw(key)
                labels[place] = draws[place][-1]
            except video.VideoError as error:  # where it is to stop, decoding has stopped
                warnings.warn(f"skipped: {error}", stacklevel=1)
        labels = transforms.on_device(labels, device)
        if len(draws) == len(keys):
            return self._cut(*zip(*draws.values(), strict=True)), labels
        clips = torch.zeros(len(keys), *self.item_shape, device=device)
        if draws:
            clips[list(draws)] = self._cut(*zip(*draws.values(), strict=True))
        return clips, labels

    def _draw(self, key: int | tuple[int, int]) -> tuple[int, np.ndarray, transforms.Box, bool, int]:
        """Index of the video, frames of it, box, flip and label; box and flip mean nothing in testing."""
        if not self.train:
            return key, self._test_indices(self.kept.shape(key)[0]), (0, 0, 0, 0), False, self.samples[key].label
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        length, height, width = self.kept.shape(index)
        frames = self.sampling.train(length, self.num_frames, rng)
        return index, frames, *self._augmentation(index, height, width, rng)

    def _cut(self, indices: Sequence[int], frames: Sequence[np.ndarray], boxes, flips, _labels) -> torch.Tensor:
        clips = self.kept.clips(indices, np.stack(frames))
        if self.train:
            return transforms.train_views_of_batch(clips, self.size, boxes, flips)
        clips = clips.unflatten(1, (self.clips, self.num_frames)).flatten(0, 1)
        views = transforms.test_views_of_batch(clips, self.size, self.short_side, self.crops)
        return views.unflatten(0, (-1, self.clips)).flatten(1, 2)


class EpochSampler(Sampler):
    """(epoch, index) of as many samples as whole batches hold, in an order drawn from (seed, epoch) alone.

    `first` is how many samples of the epoch to pass over, for a run that resumes within it.
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


Kept = cache.Videos | cache.VideosOnDevice | None


def train_loader(
    samples: Samples,
    num_frames: int,
    config: DataConfig,
    batch: int,
    seed: int,
    micro_batch: int | None = None,
    kept: Kept = None,
    raw: bool = False,
) -> DataLoader:
    """Micro-batches (micro_batch, 3, T, size, size) and labels, in an order drawn for whole batches.

    A last batch that is not full is left out. `micro_batch` is the batch by default. `kept`: of `cache.keep`, the
    decoded videos. `raw`: frames instead, which `transforms.views_of` makes views on their device.

    Raises:
        ValueError: fewer samples than one batch.
    """
    if len(samples) < batch:
        raise ValueError(f"a batch of {batch} needs as many training videos, the list has {len(samples)}")
    dataset = _dataset(kept, raw, samples, num_frames, train=True, seed=seed, **config.to_dict())
    sampler = EpochSampler(len(samples), batch, seed)
    return _loader(dataset, config, batch_size=micro_batch or batch, sampler=sampler, drop_last=True)


def test_loader(
    samples: Samples, num_frames: int, config: DataConfig, batch: int, kept: Kept = None, raw: bool = False
) -> DataLoader:
    """Batches (n, clips * crops, 3, T, size, size) and labels, every video once, in order.

    `batch` counts views, so that a batch needs no more memory than in training. `raw` as in `train_loader`.
    """
    dataset = _dataset(kept, raw, samples, num_frames, **config.to_dict())
    return _loader(dataset, config, batch_size=max(1, batch // (config.clips * config.crops)))


def _dataset(kept: Kept, raw: bool, *given, **options) -> ClipDataset:
    kind = DeviceClips if isinstance(kept, cache.VideosOnDevice) else RawDataset if raw else ClipDataset
    dataset = kind(*given, **options)
    dataset.kept = kept
    return dataset


def _loader(dataset: ClipDataset, config: DataConfig, **options) -> DataLoader:
    on_device = isinstance(dataset, DeviceClips)  # only numbers are drawn here, and batches come as such
    workers = 0 if on_device else config.workers
    check_shared_memory(2 * workers * options["batch_size"] * dataset.item_bytes())  # each loads 2 batches ahead
    return DataLoader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        timeout=600 if workers else 0,  # seconds; a decoder that hangs must not stop training silently
        pin_memory=torch.cuda.is_available() and isinstance(dataset, RawDataset),  # what travels to a GPU
        collate_fn=_as_it_is if on_device else dataset.collate if isinstance(dataset, RawDataset) else None,
        generator=torch.Generator(),  # loaders sometimes draw from the global one, which would change dropout
        multiprocessing_context=workers_context() if workers else None,
        worker_init_fn=leave_signals_to_the_trainer,
        **options,
    )


def _as_it_is(batch):
    return batch
