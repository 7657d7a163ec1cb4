"""Re-encode a data set so that clips load fast: a short side no longer than needed, and key frames close together.

Each video becomes an H.264 file with a key frame every few frames and no B-frames. To read a frame, a few are decoded.
The number of frames stays.
"""

import errno
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ctlib import files
from ctlib.data import encoding, video
from ctlib.data.catalog import Samples, load_samples
from ctlib.data.check import journal, read_rows, run_each, short_reason, silent, unread_reason
from ctlib.data.clips import ClipDataset

VIDEOS, DONE, FAILED, RECORD, PARTIAL = "videos", "done.csv", "failed.csv", "prepared.json", ".partial"
DONE_COLUMNS = ("path", "frames", "source", "bytes", "modified")
FAILED_COLUMNS = ("path", "reason")


class Loading(NamedTuple):
    """How fast clips of 8 frames load, in one process, before and after."""

    videos: int  # that were read
    before: float  # clips per second
    after: float


class Prepared(NamedTuple):
    """The result of `prepare`."""

    encoded: int  # videos re-encoded by this call; the others had been before
    listed: dict[str, int]  # videos that each split lists
    good: dict[str, int]  # videos in each new list
    failed: dict[str, int]  # videos left out, by reason
    loading: Loading


class _Source(NamedTuple):
    """A video to re-encode."""

    listed: int | None  # number of frames in the annotation
    target: str  # path below `out`
    stamp: tuple[int, int]  # bytes and time of change; zeros if it is missing


def prepare(
    splits: dict[str, Samples],
    out: str | Path,
    short_side: int = 256,
    gop: int = 8,
    workers: int = 2,
    limit_seconds: float = 600.0,
    on_done: Callable[[int, int], None] = silent,
) -> Prepared:
    """Re-encode the videos of a data set into `out`, which loads as `load_samples("list", out, split)`.

    A video `a/b.avi`, or a folder of frames `a/b`, becomes `videos/a/b.mp4` (`videos/a/b.avi.mp4`, if another
    source differs in the suffix only). Unreadable videos are named in `failed.csv`, with the reason, and left out
    of the lists. An interrupted call resumes when repeated: what is encoded stays, unless the source has changed.

    Args:
        splits: the samples by split name, of one data set.
        out: the folder to make: `videos/`, one list per split, `classes.txt`, `failed.csv`, `prepared.json`, and
            `done.csv`, from which a call resumes.
        short_side: pixels, even; a longer short side is resized to it, a shorter one stays.
        gop: frames from one key frame to the next.
        limit_seconds: for one video; one that takes longer is left out.
        on_done: called with the number of finished videos and of all, first before any work.

    Raises:
        ValueError: invalid parameters, or others than `out` was begun with. An `out` that is something else or
            lies in the data set's folder. A split without a readable video.
        OSError: `out` cannot be written to; the disk is full.
    """
    out, parameters = Path(out), {"short_side": short_side, "gop": gop}
    samples = _one_data_set(splits)
    if short_side < 2 or short_side % 2 or gop < 1:
        raise ValueError(f"short_side must be even and gop at least 1, got {short_side} and {gop}")
    if out.resolve().is_relative_to(samples.root.resolve()):
        raise ValueError(f"{out} lies in the data set's own folder {samples.root}: choose another")
    listed = {split.path(index): split[index].num_frames for split in splits.values() for index in range(len(split))}
    targets = _targets(listed, samples.root)
    sources = {path: _Source(listed[path], targets[path], files.stamp(samples.root / path)) for path in listed}
    _record(out, parameters)  # before a lock is left in it
    with files.locked(out):
        record = _record(out, parameters)
        files.remove_partials(out)  # of a killed call
        files.write_json(out / RECORD, record)
        record |= {"sampling": samples.sampling, "flip": samples.flip}  # a list has no place for these
        done, pool = _done_before(out, sources), (workers, limit_seconds)
        frames, failed = _encode_all(samples.root, sources, done, out, parameters, pool, on_done)
        files.write_text(out / "classes.txt", "".join(f"{name}\n" for name in samples.classes))
        good = {}
        for name, split in splits.items():
            good[name] = [index for index in range(len(split)) if split.path(index) in frames]
            if not good[name]:
                raise ValueError(f"no video of {name} could be read: see {out / FAILED}")
            rows = ((split.path(index), split[index].label) for index in good[name])
            lines = (f"{sources[path].target} {frames[path]} {label}\n" for path, label in rows)
            files.write_text(out / f"{name}.txt", "".join(lines))
            part = {"listed": split.listed, "videos": len(good[name]), "fingerprint": split.fingerprint}
            record["splits"][name] = part
        files.write_json(out / RECORD, record)  # `load_samples` reads it
        name = next(iter(splits))
        loading = measure_loading(splits[name], good[name], load_samples("list", out, name))
        reasons = dict(Counter(reason.partition(":")[0] for reason in failed.values()).most_common())
        files.write_json(out / RECORD, record | {"failed": reasons, "clips_per_second": loading._asdict()})
        return Prepared(
            encoded=len(frames) - len(done),
            listed={name: len(split) for name, split in splits.items()},
            good={name: len(kept) for name, kept in good.items()},
            failed=reasons,
            loading=loading,
        )


def _encode_all(
    root: Path,
    sources: dict[str, _Source],
    done: dict[str, int],
    out: Path,
    parameters: dict[str, int],
    pool: tuple[int, float],
    on_done: Callable[[int, int], None],
) -> tuple[dict[str, int], dict[str, str]]:
    """Re-encode what is not `done`: frames by path, and the reason by path that failed."""
    frames, failed = dict(done), {}
    partial = out / PARTIAL  # for all that is being written, so that `videos` holds whole files only
    jobs = {
        path: (source.listed, str(partial / f"{number}.mp4"), *parameters.values())
        for number, (path, source) in enumerate(sources.items())
        if path not in done
    }
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    (out / FAILED).unlink(missing_ok=True)
    on_done(len(frames), len(sources))
    try:
        with ExitStack() as stack:
            finished = stack.enter_context(journal(out / DONE, DONE_COLUMNS))
            left_out = stack.enter_context(journal(out / FAILED, FAILED_COLUMNS))
            encoded = stack.enter_context(closing(run_each(_encode, root, jobs, *pool)))
            for path, (count, reason) in encoded:
                _, written, *_ = jobs[path]
                if reason:
                    Path(written).unlink(missing_ok=True)
                    failed[path] = reason
                    left_out(path, reason)
                else:
                    target = out / sources[path].target
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(written, target)
                    frames[path] = count
                    finished(sources[path].target, count, path, *sources[path].stamp)
                on_done(len(frames) + len(failed), len(sources))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return frames, failed


def measure_loading(before: Samples, kept: list[int], after: Samples, videos: int = 32, size: int = 224) -> Loading:
    """Read clips of 8 frames of random videos as training does, before and after in turn.

    `kept` are indices of the original videos, in the order of `after`. Each is read once before it is timed, so that
    decoding is compared and not the disk.
    """
    chosen = np.random.default_rng(0).permutation(len(kept))[:videos]
    sets = [ClipDataset(samples, 8, size, sampling="sparse", flip=False) for samples in (before, after)]
    seconds = [0.0, 0.0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader's worker
    try:
        for place in chosen.tolist():
            indices = (kept[place], place)
            for which in (0, 1):
                sets[which][indices[which]]
            for which in (0, 1):
                began = time.perf_counter()
                sets[which][indices[which]]
                seconds[which] += time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)
    return Loading(len(chosen), *(len(chosen) / spent for spent in seconds))


# ---------------------------------------------------------------- the folder


def _one_data_set(splits: dict[str, Samples]) -> Samples:
    """One of the splits, after a check that they are of one data set."""
    if not splits:
        raise ValueError("needed the samples of at least one split")
    samples, *others = splits.values()
    for other in others:
        if (other.root, other.classes) != (samples.root, samples.classes):
            raise ValueError(f"the splits {', '.join(splits)} have different roots or classes")
    return samples


def _targets(paths: dict[str, int | None], root: Path) -> dict[str, str]:
    """Path below `out` by path below the root, all different even where file names ignore case."""
    # A list is UTF-8 text, a file name need not be.
    texts = {path: os.fsencode(path).decode("utf-8", "replace") for path in paths}
    short = {path: text if (root / path).is_dir() else os.path.splitext(text)[0] for path, text in texts.items()}
    shared = Counter(name.casefold() for name in short.values())
    used, targets = set(), {}
    for path, name in short.items():
        name = name if shared[name.casefold()] == 1 else texts[path]
        while name.casefold() in used:
            name += "~"
        used.add(name.casefold())
        targets[path] = f"{VIDEOS}/{name}.mp4"
    return targets


def _record(out: Path, parameters: dict[str, int]) -> dict:
    """The record of `out`, a new one if `out` is new or empty.

    Raises:
        ValueError: `out` was begun with other parameters, or is something else, or its record is damaged.
    """
    versions = {name: files.version(name) for name in ("ctlib", "av")}
    record = {"parameters": parameters, "versions": versions, "splits": {}}
    if (out / RECORD).is_file():
        record = files.read_json(out / RECORD, record)
        for name in ("parameters", "versions", "splits"):
            if not isinstance(record[name], dict):
                raise ValueError(f"{out / RECORD} is damaged: {name} must hold keys, got {files.quoted(record[name])}")
        if record["parameters"] != parameters:
            raise ValueError(f"{out} was begun with {record['parameters']}, not {parameters}: choose another folder")
    elif out.is_dir() and any(not path.name.startswith((f".{RECORD}.", ".lock")) for path in out.iterdir()):
        raise ValueError(f"{out} is not empty and was not made by prepare: choose another folder")
    return record


def _done_before(out: Path, sources: dict[str, _Source]) -> dict[str, int]:
    """Frames by path of each source that is re-encoded in `out` already and has not changed since."""
    rows = {}
    for _, (path, frames, source, size, modified) in read_rows(out / DONE, DONE_COLUMNS):
        rows[path] = (source, (int(size), int(modified)), int(frames))
    return {
        path: rows[source.target][2]
        for path, source in sources.items()
        if rows.get(source.target, ())[:2] == (path, source.stamp) and (out / source.target).is_file()
    }


# ---------------------------------------------------------------- one video


def _encode(root: str, path: str, listed: int | None, written: str, short_side: int, gop: int) -> tuple[int, str]:
    """Re-encode a source into the file `written`: its number of frames, and why it cannot be used; "" if it can."""
    source, count = os.path.join(root, path), 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal count
        for frame in video.iterate_frames(source):
            if min(frame.shape[:2]) < 2:
                raise video.VideoError(f"{source}: frames of {frame.shape[0]} x {frame.shape[1]} pixels")
            count += 1
            yield _fit(frame, short_side)

    try:
        rate = video.probe(source).fps
        rate = rate if rate and 1 <= rate <= 240 else 12  # for players only; a folder of frames states none
        encoding.write_video(written, frames(), rate, gop)
    except video.VideoError as error:
        return count, unread_reason(source, error)
    if reason := short_reason(count, listed):
        return count, reason
    try:
        kept = video.count_frames(written)
    except video.VideoError:
        kept = 0
    if kept != count:
        if shutil.disk_usage(os.path.dirname(written)).free < 2**24:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), written)
        return count, f"not re-encoded: {count} frames became {kept}"
    return count, ""


def _fit(frame: np.ndarray, short_side: int) -> np.ndarray:
    """A frame with a short side of at most `short_side` and even sides: (H, W, 3) uint8."""
    import av

    height, width = frame.shape[:2]
    if min(height, width) <= short_side:
        return np.ascontiguousarray(frame[: height // 2 * 2, : width // 2 * 2])  # cutting a pixel keeps it sharp
    scale = short_side / min(height, width)
    height, width = (2 * round(side * scale / 2) for side in (height, width))
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return picture.reformat(width, height, interpolation="BICUBIC", threads=1).to_ndarray()
