"""A folder of class folders: the layout of people's own videos."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ctlib.data.catalog.annotations import Row
from ctlib.data.catalog.samples import Samples
from ctlib.data.catalog.sources import (
    VIDEO_SUFFIXES,
    in_words,
    is_stray,
    is_video_file,
    stem_of,
    subfolders,
    videos_in,
)
from ctlib.files import quoted, quoted_all

ALL = "all"  # the videos of both splits
VAL_SHARE = 0.2
_LOOKS = 10  # folders of a class that are looked into, whether they hold frames
# Names of the splits, in any case; of several folders to test on, the first of these counts.
TRAIN = ("train", "training")
TEST = ("val", "validation", "validate", "valid", "test", "testing")


def load_folder(root: Path, split: str, val_share: float | None = None) -> Samples:
    """A folder of class folders; in each, video files or folders of frames.

    Folders called `train` and `val` in the root are the splits; other names are in `TRAIN` and `TEST`. Without them,
    `val_share` of each class (default: 0.2) is for testing, chosen by a digest of the file names, so the same on
    every machine. Parts cut from one recording could then fall on both sides: give such a set `train` and `val`.
    The split "all" is both.
    """
    splits, unread = split_folders(root)
    if split == ALL and val_share is not None:
        raise ValueError(f"val_share divides a folder, and all of it was asked for, got {val_share}")
    if not splits:
        return _split_by_name(root, split, VAL_SHARE if val_share is None else val_share)
    if val_share is not None:
        raise ValueError(f"val_share is for a folder without splits, and {root} has {' and '.join(splits.values())}")
    samples = _given_split(root, splits, split)
    if unread:
        used = " and ".join(splits.values())
        samples.notes += (f"the splits are {used}, and not read are the folders {quoted_all(unread)}",)
    return samples


def split_folders(root: Path) -> tuple[dict[str, str], list[str]]:
    """The names of the folders that are the splits, by "train" and "val", and of those beside them; or nothing."""
    names = subfolders(root)
    known = {words: [name for word in words for name in names if name.lower() == word] for words in (TRAIN, TEST)}
    if not known[TRAIN]:
        return {}, []
    for found in (known[TRAIN], known[TEST][:2]):
        if len(found) > 1 and (found == known[TRAIN] or found[0].lower() == found[1].lower()):
            raise ValueError(f"{root} has two folders for one split, {' and '.join(found[:2])}")
    if not known[TEST]:
        raise ValueError(f"{root} has a folder {known[TRAIN][0]} and none of {', '.join(TEST[:-1])} and {TEST[-1]}")
    splits = {"train": known[TRAIN][0], "val": known[TEST][0]}
    return splits, [name for name in names if name not in splits.values()]


def _letters(name: str) -> str:
    """A name whatever its case, and however its accents are stored."""
    return unicodedata.normalize("NFC", name).casefold()


def _given_split(root: Path, splits: dict[str, str], split: str) -> Samples:
    labels = {name: label for label, name in enumerate(subfolders(root / splits["train"]))}
    rows, notes = [], ()
    for folder in splits.values() if split == ALL else [splits[split]]:
        names, left_out = subfolders(root / folder), _LeftOut(root / folder)
        if others := [name for name in names if name not in labels]:
            alike = {_letters(name): name for name in labels}
            hint = next(
                (
                    f"; there it is written {quoted(alike[_letters(name)])}"
                    for name in others
                    if _letters(name) in alike
                ),
                "",
            )
            text = f"classes that {splits['train']} does not have: {quoted_all(others)}{hint}"
            raise ValueError(f"{root / folder}: {text}")
        found = [(f"{folder}/{name}/{video}", labels[name], None) for name in names for video in left_out.videos(name)]
        if not found:
            raise ValueError(f"{root / folder}: no videos in class folders{left_out.in_words()}")
        rows, notes = rows + found, notes + left_out.notes()
    return _samples(rows, list(labels), root, notes)


def _split_by_name(root: Path, split: str, val_share: float) -> Samples:
    if not 0 < val_share < 1:
        raise ValueError(f"val_share must be between 0 and 1, got {val_share}")
    classes, rows, left_out = subfolders(root), [], _LeftOut(root)
    for label, name in enumerate(classes):
        videos, by_stem = left_out.videos(name), {}
        for video in videos:  # a video in two formats, or with its frames beside it, is one
            by_stem.setdefault(stem_of(video), []).append(video)
        if len(by_stem) < 2 and split != ALL:
            raise ValueError(
                f"{root / name}: a class needs at least 2 videos, one for testing, got {len(by_stem)}"
                f"{left_out.in_words()}"
            )
        order = sorted(by_stem.values(), key=lambda same: hashlib.sha256(os.fsencode(same[0])).digest())
        tested = set(chain.from_iterable(order[: max(1, round(val_share * len(order)))]))
        chosen = {"val": tested, "train": set(videos) - tested, ALL: set(videos)}[split]
        rows += [(f"{name}/{video}", label, None) for video in videos if video in chosen]
    if not rows:
        raise ValueError(f"{root}: no class folders{left_out.in_words()}")
    return _samples(rows, classes, root, left_out.notes())


def _samples(rows: list[Row], classes: Sequence[str], root: Path, notes: tuple[str, ...]) -> Samples:
    samples = Samples(rows, classes, root, flip=True)
    samples.notes = notes
    return samples


class _LeftOut:
    """The videos of class folders, and what lies beside them and is not read."""

    def __init__(self, folder: Path):
        self.folder, self.others = folder, Counter()
        loose = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not is_stray(entry.name))
        self.loose = [name for name in loose if is_video_file(name)]

    def videos(self, name: str) -> list[str]:
        videos, others = videos_in(self.folder / name)
        self.others += others
        # Folders whose names differ in numbers alone are alike. Looking into all takes long on a network's storage.
        alike, looks = set(), 0
        for video in (video for video in videos if not is_video_file(video)):
            kind = re.sub(r"\d+", "0", video)
            if kind in alike or looks == _LOOKS:
                continue
            looks += 1
            inside, images = videos_in(self.folder / name / video)
            if inside and not images:
                raise ValueError(
                    f"{self.folder / name / video}: needed the frames of a video, got {quoted(inside[0])}; "
                    "videos lie in class folders, and these in the root, or in its folders train and val"
                )
            if images:
                alike.add(kind)
        return videos

    def in_words(self) -> str:
        """The notes and what would be read, for an error; "" if nothing was left out."""
        notes = "; ".join(self.notes())
        return f"; {notes}; videos end in {', '.join(sorted(VIDEO_SUFFIXES))}" if notes else ""

    def notes(self) -> tuple[str, ...]:
        notes = []
        if self.others:
            notes.append(f"{self.folder}: left out are files of other kinds, {in_words(self.others)}")
        if self.loose:
            first = quoted(self.loose[0])
            notes.append(f"{self.folder}: left out are videos outside class folders, {len(self.loose)} such as {first}")
        return tuple(notes)
