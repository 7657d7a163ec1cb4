"""The data sets by name, and the samples of their splits."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from ctlib.config import check_choice
from ctlib.data.catalog import annotations, folders, published
from ctlib.data.catalog.annotations import existing, find
from ctlib.data.catalog.samples import Sample, Samples
from ctlib.data.catalog.sources import Folders, in_both_note, refuse_missing, stem_of
from ctlib.data.digests import same_content
from ctlib.files import quoted, quoted_all

__all__ = [
    "ARROW_SAMPLING",
    "DATASETS",
    "Sample",
    "Samples",
    "load_samples",
    "load_splits",
    "refuse_missing",
    "split_meant",
]

SPLITS = ("train", "val")
ARROW_SAMPLING = "mirrored"


def load_arrow(root: Path, split: str) -> Samples:
    """The built-in data set, as written by `arrow.write`."""
    classes = annotations.read_classes(root / "classes.txt")
    rows = annotations.read_list(root / f"{split}.txt", root, classes)
    made_from = annotations.text_of(root / "arrow.json")
    return Samples(rows, classes, root, sampling=ARROW_SAMPLING, flip=True, made_from=made_from)


def load_list(root: Path, split: str, lists: str | None = None) -> Samples:
    """Lists of `path num_frames label` or `path label` lines, with paths below `root`.

    They lie in the folder `lists` (default: `root`) as `train.txt` and `val.txt`, or `train_videofolder.txt` and
    `val_videofolder.txt` as in TSM and the authors' release. Class names are the lines of `classes.txt` or
    `category.txt`, else the labels themselves. A prepared data set keeps the sampling and flips of its original.
    Both lists are read, as a video may be in both.
    """
    folder = root if lists is None else Path(lists).expanduser()
    names = {part: (f"{part}.txt", f"{part}_videofolder.txt") for part in SPLITS}
    files = {split: find(folder, *names[split])}
    files |= {part: file for part in SPLITS if (file := existing(folder, *names[part]))}
    prepared = folder / "prepared.json"
    usage = annotations.read_usage(prepared, split) if prepared.is_file() else {"flip": True}
    named = existing(folder, "classes.txt", "category.txt")
    classes = annotations.read_classes(named) if named else None
    rows = {part: annotations.read_list(file, root, classes) for part, file in files.items()}
    if classes is None:
        labels = {label for part in rows.values() for _, label, _ in part}
        if min(labels) == 1:
            raise ValueError(
                f"{files[split]}: labels start at 1: number them from 0, or name the classes in classes.txt"
            )
        classes = [str(label) for label in range(1 + max(labels))]
    samples = Samples(rows[split], classes, root, **usage)
    if len(rows) == 2:
        samples.notes += _in_both(root, *([path for path, *_ in rows[part]] for part in SPLITS))
    return samples


def _in_both(root: Path, train: Sequence[str], val: Sequence[str]) -> tuple[str, ...]:
    """A note if a video is in both: under one path without its ending, or as a link or hard link."""
    folders = Folders(root)
    known = {stem_of(folders.real_path(path)) for path in train}
    linked = {folders.inode(path): path for path in train}

    def is_known(path: str) -> bool:
        other = linked.get(folders.inode(path), "")
        return stem_of(folders.real_path(path)) in known or bool(other) and folders.is_same_file(path, other)

    return in_both_note([path for path in val if is_known(path)], len(val))


DATASETS: dict[str, Callable[..., Samples]] = {
    "arrow": load_arrow,
    "something-v1": published.load_something_v1,
    "something-v2": published.load_something_v2,
    "kinetics-400": published.load_kinetics,
    "mini-kinetics-200": published.load_mini_kinetics,
    "ucf101": published.load_ucf101,
    "hmdb51": published.load_hmdb51,
    "list": load_list,
    "folder": folders.load_folder,
}
_TEST_IS_VAL = ("ucf101", "hmdb51")  # their publishers call the split `test` on which accuracies are reported


def load_samples(name: str, root: str | Path, split: str, checked: str | Path | None = None, **options) -> Samples:
    """The samples of one split of a data set, read from its publisher's own annotation files.

    It warns of what is odd about the lists (`Samples.notes`).

    Args:
        root: the data set's folder; `~` is the home folder.
        split: "train" or "val", the split on which accuracies are reported. UCF101 and HMDB51 call it "test", and so
            may a folder; "test" then means the same. Of a `folder`, "all" is both.
        checked: the folder with the results of `check-videos`. Bad videos are left out (see `Samples.coverage`).
        options: `fold` (1, 2 or 3) of UCF101 and HMDB51; `val_share` of a folder without splits; `lists`, the
            folder of the lists of a `list`.

    Raises:
        ValueError: an unknown name, split or option, an annotation file with a bad line, or listed
            videos that were not checked.
        FileNotFoundError: the folder or an annotation file is missing.
    """
    samples = _load(name, root, split, checked, options)
    for note in samples.notes:
        warnings.warn(note, stacklevel=2)
    return samples


def load_splits(name: str, root: str | Path, checked: str | Path | None = None, **options) -> dict[str, Samples]:
    """`load_samples` of both splits, by name, with a note and a warning if a video is in both (`_in_both`).

    If `checked` holds digests, copies under another name are noted too.
    """
    splits = {split: _load(name, root, split, checked, options) for split in SPLITS}
    train, val = splits.values()
    both = _in_both(train.root, train.paths(), val.paths())
    val.notes += tuple(note for note in both if note not in val.notes)
    copies = [] if checked is None else same_content(Path(checked).expanduser(), train.paths(), val.paths())
    if copies:
        pair = " of ".join(map(quoted, copies[0]))
        val.notes += (
            f"{len(copies):,} of {len(val):,} test videos have the content of training videos, such as {pair}",
        )
    for note in dict.fromkeys(train.notes + val.notes):
        warnings.warn(note, stacklevel=2)
    return splits


def _load(name: str, root: str | Path, split: str, checked: str | Path | None, options: dict) -> Samples:
    check_choice("data set", name, DATASETS)
    root = Path(root).expanduser()
    split = split_meant(name, root, split)
    check_choice("split", split, (*SPLITS, folders.ALL) if name == "folder" else SPLITS)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root} for the data set {name!r}")
    known = [option for option in inspect.signature(DATASETS[name]).parameters if option not in ("root", "split")]
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"the data set {name!r} has no option {option!r}: {has}")
    samples = DATASETS[name](root, split, **options)
    if checked is not None:
        samples = samples.only_good(Path(checked).expanduser())
    if split == "train" and (empty := samples.empty_classes):
        samples.notes += (f"classes without a training video: {quoted_all(empty)}",)
    return samples


def split_meant(name: str, root: Path, split: str) -> str:
    """ "val" for "test", where the publisher or the folder calls the split so; else the split as it is named."""
    return "val" if split == "test" and _calls_it_test(name, root) else split


def _calls_it_test(name: str, root: Path) -> bool:
    if name != "folder" or not root.is_dir():
        return name in _TEST_IS_VAL
    return folders.split_folders(root)[0].get("val", "").lower().startswith("test")
