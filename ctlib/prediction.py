"""From a video to a label: a trained network's scores for the whole of a video, or for windows along it."""

import glob
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ctlib import checkpoints, files
from ctlib.checkpoints import Checkpoint
from ctlib.data import video
from ctlib.data.catalog.sources import in_words, is_stray, is_video_file
from ctlib.data.views import View, complete
from ctlib.models import check_finite, unwrapped

SHIPPED = "ctnet_quickstart_arrow"  # the network of `Weights` that labels where none is named
AT_ONCE, AT_ONCE_BYTES = 8, 2**27  # windows whose frames are in memory at once, and their bytes unless one has more
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Windows:
    """How a video is cut along time: into equal parts, each of which is scored as a video of its own."""

    count: int | None = None  # how many; if neither is given, one: the whole video, as in testing
    seconds: float | None = None  # or about how long each is

    def __post_init__(self):
        if self.count is not None and self.seconds is not None:
            raise ValueError(f"give the number of windows or their seconds, got {self.count} and {self.seconds}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"needed at least 1 window, got {self.count}")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds of a window must be above 0, got {self.seconds}")

    def bounds(self, source: str, length: int, duration: float | None) -> list[tuple[int, int]]:
        """The first frame of each window, and the one after its last, in a video of `length` frames.

        Raises:
            ValueError: seconds of a source that has no frame rate, or more windows than frames.
        """
        count = self.count or 1
        if self.seconds is not None:
            if duration is None:
                raise ValueError(f"{source}: has no frame rate: give the number of windows instead of their seconds")
            count = min(length, max(1, round(duration / self.seconds)))
        if count > length:
            raise ValueError(f"{source}: has {length} frames, too few for {count} windows")
        edges = [length * part // count for part in range(count + 1)]
        return list(zip(edges, edges[1:], strict=False))


@dataclass(frozen=True)
class VideoScores:
    """What a network says of a video: the mean of its windows' logits, as views are averaged in testing."""

    source: str
    length: int  # frames of the video
    duration: float | None  # seconds; None where the source has no frame rate
    bounds: list[tuple[int, int]]  # of the windows, in frames: the first, and the one after the last
    indices: np.ndarray  # int64 (windows, T), the frames that were seen
    logits: torch.Tensor  # float32 (windows, num_classes)
    classes: tuple[str, ...]

    def top(self, k: int, window: int | None = None) -> list[dict]:
        """The k most probable classes of the video or of a window, as {"label", "probability"}."""
        logits = self.logits.mean(0) if window is None else self.logits[window]
        values, labels = logits.softmax(0).topk(min(k, len(self.classes)))
        pairs = zip(labels.tolist(), values.tolist(), strict=True)
        return [{"label": self.classes[label], "probability": round(value, 6)} for label, value in pairs]

    def seconds(self, window: int) -> tuple[float, float] | None:
        """Where a window begins and ends, if the video has a frame rate."""
        if self.duration is None:
            return None
        first, end = self.bounds[window]
        return round(self.duration * first / self.length, 3), round(self.duration * end / self.length, 3)

    def to_dict(self, k: int = 5) -> dict:
        """Plain values that JSON can hold."""
        windows = [
            {"frames": list(bounds), "seconds": self.seconds(number) and list(self.seconds(number))}
            | {"seen": self.indices[number].tolist(), "top": self.top(k, number)}
            for number, bounds in enumerate(self.bounds)
        ]
        about = {"video": self.source, "frames": self.length, "seconds": self.duration}
        return {**about, "top": self.top(k), "windows": windows}


def predict(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    checkpoint: str | os.PathLike | Checkpoint = SHIPPED,
    top: int = 5,
    windows: int | None = None,
    seconds: float | None = None,
    **view,
) -> dict | list[dict]:
    """Label videos: the most probable classes of each whole video, and of windows along it.

        >>> ctlib.predict("clip.mp4", "checkpoint.safetensors")["top"][0]  # doctest: +SKIP
        {'label': 'Something falling down', 'probability': 0.93}

    A video with its label and Saliency Tube is written by `display.overlay`:

        >>> trained = prediction.opened("checkpoint.safetensors")  # doctest: +SKIP
        >>> overlay.write("out.mp4", prediction.score("clip.mp4", trained), trained)  # doctest: +SKIP

    Args:
        source: a video file, or a folder of numbered images. Or several: a folder of videos, a pattern such as
            `clips/**/*.mp4`, or a sequence of any of these (`find_videos`).
        checkpoint: what `checkpoints.load` takes, such as a file that training wrote or a member of `Weights`. Or what
            it gives, which saves time if there are many videos. If none is named, the network that ships and knows 16
            synthetic actions.
        top: how many classes.
        windows: cut the video into so many equal parts. Each is scored like a video of its own, and the video's scores
            are the mean of their logits. If neither this nor `seconds` is given, the whole video is one window.
        seconds: or into parts of about this length.
        view: fields of `data.views.View` that differ from those of the checkpoint, or that it does not remember.

    Returns:
        {"video", "frames", "seconds", "top", "windows"}. "top" is a list of {"label", "probability"}, the most probable
        first. Each window has "frames" and "seconds" (its first, and the first after it), "seen" (which frames the
        network saw), and its own "top". Seconds are None for a folder of images. Of several, a
        list of these; a video that cannot be labelled has "video" and "error" instead.

    Raises:
        video.VideoError: the one video is missing or cannot be read.
        FileNotFoundError, CheckpointError: no checkpoint, or none of ours; a pattern or folder without a video.
        TypeError: a network without a checkpoint, which names no classes.
        ValueError: too few frames for the windows, or a checkpoint that does not say how it sees a video.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    single, parts = isinstance(source, str | os.PathLike), Windows(windows, seconds)
    sources = find_videos([source] if single else source)
    trained = opened(checkpoint, **view)
    if single and sources == [os.path.expanduser(source)]:
        return score(sources[0], trained, parts).to_dict(top)
    return [_record(one, trained, parts, top) for one in sources]


def _record(source: str, trained: Checkpoint, windows: Windows, top: int) -> dict:
    try:
        return score(source, trained, windows).to_dict(top)
    except (video.VideoError, ValueError, OSError) as error:
        return {"video": source, "error": str(error)}


def opened(checkpoint: str | os.PathLike | Checkpoint, device: str = "auto", **view) -> Checkpoint:
    """A checkpoint that is ready to label videos: with a view, and, if it is read here, in float32 on the device.

    Args:
        checkpoint: what `checkpoints.load` takes, or a loaded one, which stays where it is. One that is read here sees
            a black clip, so that the network refuses what it cannot do before a video is read.
        device: auto (a GPU if there is one), cpu or cuda.
        view: what replaces, or completes, what the checkpoint remembers.

    Raises:
        FileNotFoundError, CheckpointError: no checkpoint, or none of ours.
        ValueError: a view that is not complete, or impossible for the network; cuda where there is none.

    Warns:
        UserWarning: a smaller size than the checkpoint's.
    """
    if isinstance(checkpoint, torch.nn.Module):
        name = type(checkpoint).__name__
        raise TypeError(f"a network alone names no classes: give a file or ctlib.checkpoints.load(file), got {name}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and this machine has no CUDA device")
    name, is_read = "the checkpoint", not isinstance(checkpoint, Checkpoint)
    if is_read:
        name = str(checkpoint)
        checkpoint = checkpoints.load(checkpoint)
        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        checkpoint.model.float().to(where)
    frames = unwrapped(checkpoint.model).config.num_frames
    known = {"num_frames": frames} if checkpoint.view is None else {}
    given = {field: value for field, value in view.items() if value is not None}
    whole = complete(checkpoint.view, name, **known | given)
    if is_read:
        _try(checkpoint.model, whole, name)
    if checkpoint.view is not None and whole.size < checkpoint.view.size:
        warnings.warn(f"size {whole.size} is below the {checkpoint.view.size} pixels of {name}", stacklevel=2)
    return replace(checkpoint, view=whole)


def _try(network: torch.nn.Module, view: View, name: str) -> None:
    """Raise ValueError if a network in evaluation mode does not take clips of this view."""
    weight = next(network.parameters())
    try:
        with torch.inference_mode():
            network(weight.new_zeros(1, 3, view.num_frames, view.size, view.size))
    except (ValueError, RuntimeError) as error:
        clip = f"{view.num_frames} frames of {view.size} x {view.size} pixels"
        raise ValueError(f"the network of {name} does not take {clip}: {files.one_line(error)}") from error


def score(source: str | os.PathLike, trained: Checkpoint, windows: Windows = Windows()) -> VideoScores:
    """Score a video with a network of `opened`. The model's mode is as before afterwards.

    Raises:
        video.VideoError: a video that is missing or cannot be read.
        ValueError: what `Windows.bounds` raises; scores that are not finite.

    Warns:
        UserWarning: a window has fewer than T frames, so that some are seen twice.
    """
    source = os.fspath(source)
    length, info = video.count_frames(source), video.probe(source)
    duration = info.seconds or (float(length / info.fps) if info.fps else None)
    bounds = windows.bounds(source, length, duration)
    fewest = min(end - first for first, end in bounds)
    if fewest < trained.view.num_frames:
        what, needed = "a window" if len(bounds) > 1 else "the video", trained.view.num_frames
        warnings.warn(f"{source}: a clip of {needed} frames repeats some, as {what} has {fewest}", stacklevel=2)
    indices = np.stack([first + trained.view.indices(end - first) for first, end in bounds])
    network, was_training = trained.model, trained.model.training
    weight, logits = next(network.parameters()), []
    network.eval()
    try:
        with torch.inference_mode():
            for clips in clips_of(source, trained.view, indices):
                logits.append(network(clips.to(weight.device, weight.dtype)).float().cpu())
    finally:
        network.train(was_training)
    logits = torch.cat(logits)
    check_finite(logits, lambda _: source)
    return VideoScores(source, length, duration, bounds, indices, logits, trained.classes)


def clips_of(source: str, view: View, indices: np.ndarray) -> Iterator[torch.Tensor]:
    """The clips of windows, few at a time: indices (windows, T) -> (n, 3, T, size, size) each."""
    info = video.probe(source)
    fitting = AT_ONCE_BYTES // max(1, 3 * info.height * info.width * view.num_frames)
    step = max(1, min(AT_ONCE, fitting))
    for first in range(0, len(indices), step):
        some = indices[first : first + step]
        # The frames have no name, which would keep them while the next ones are read.
        yield torch.stack(
            [view.transform(part) for part in np.split(video.read_frames(source, some.ravel()), len(some))]
        )


def find_videos(paths: Sequence[str | os.PathLike]) -> list[str]:
    """The videos that are named, each once: files, folders of numbered images, all videos below other folders.

    Of several names of one file the first counts. A pattern such as `clips/**/*.mp4` names the files that it matches
    (`files.matches`), unless a file has just this name.

    Raises:
        FileNotFoundError: a pattern that matches nothing, or a folder without a video.

    Warns:
        UserWarning: a folder has other files too, which are left out.
    """
    chosen = []
    for path in map(os.path.expanduser, paths):
        matches = [path] if os.path.exists(path) or not glob.has_magic(path) else files.matches([path])
        if not matches:
            raise FileNotFoundError(f"no video matches {path!r}")
        for match in matches:
            chosen += _videos_below(match) if os.path.isdir(match) else [match]
    by_place = {}
    for path in chosen:
        by_place.setdefault(os.path.realpath(path), path)
    return list(by_place.values())


def _videos_below(folder: str) -> list[str]:
    chosen, others = [], Counter()
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_stray(name))
        names = sorted(name for name in names if not is_stray(name))
        videos = [name for name in names if is_video_file(name)]
        images = [] if videos else [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
        chosen += [os.path.join(parent, name) for name in videos] or ([parent] if images else [])
        seen = {*videos, *images}
        others.update(os.path.splitext(name)[1].lower() or "no ending" for name in names if name not in seen)
    if not chosen:
        found = f": it has {in_words(others)}" if others else ""
        raise FileNotFoundError(f"no video in the folder {folder}{found}")
    if others:
        warnings.warn(f"left out in the folder {folder}: {in_words(others)}", stacklevel=3)
    return chosen
