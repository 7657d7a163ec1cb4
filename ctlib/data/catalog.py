"""The data sets, where each keeps its annotations and videos, and the samples of a split.

Class order follows the authors: alphabetical, or the publisher's numbers where there are some (Something-Something
V2, and UCF101, whose numbers are alphabetical too).
"""

import hashlib
import inspect
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ctlib.config import check_choice
from ctlib.data import annotations
from ctlib.data.annotations import Row, find, find_folder, join
from ctlib.data.check import read_check

_SPLITS = ("train", "val")
ARROW_SAMPLING = "mirrored"
VIDEO_SUFFIXES = frozenset(".mp4 .mkv .webm .avi .mov .m4v .mpg .mpeg .wmv .flv .3gp .ts".split())  # noqa: SIM905


class Sample(NamedTuple):
    """A video and its class."""

    source: str  # path of the video file, or of the folder of its frames
    label: int
    num_frames: int | None  # None if neither the annotation nor a check gives it


class Samples(Sequence):
    """The videos of one split of a data set, in the order of its list.

    They are held in three flat buffers: a million samples then cost a worker process almost nothing.

    Args:
        rows: (path below the root, label, number of frames or None) of each video.
        classes: names in label order.
        root: the folder that the paths are below.
        sampling: the data set's sampling, a name of `sampling.SAMPLINGS`.
        flip: whether training uses horizontal flips.
        listed: how many videos the annotation lists; more than `len` if a check left some out.
        made_from: how the videos were made, if data sets with equal lists can differ in that.

    Attributes:
        fingerprint: 12 hex digits that change with any path, label, annotated number of frames or class name,
            and with `made_from`.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        classes: Sequence[str],
        root: Path,
        sampling: str = "sparse",
        flip: bool = False,
        listed: int | None = None,
        made_from: str = "",
    ):
        self.classes, self.root, self.sampling, self.flip = tuple(classes), Path(root), sampling, flip
        self.made_from = made_from
        digest = hashlib.sha256(repr((self.classes, made_from)).encode())
        self._labels, self._frames, ends, text = array("i"), array("i"), array("q", [0]), bytearray()
        for path, label, num_frames in rows:
            path = path.encode("utf-8", "surrogateescape")  # a file name need not be text
            digest.update(b"%s %d %s\n" % (path, label, str(num_frames).encode()))
            text += path
            ends.append(len(text))
            self._labels.append(label)
            self._frames.append(num_frames or 0)
        self._text, self._ends = bytes(text), ends
        self.listed = len(self) if listed is None else listed
        self.fingerprint = digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        if isinstance(index, slice):
            raise TypeError(f"samples are indexed one by one, by an integer, got {index!r}")
        if not -len(self) <= index < len(self):
            raise IndexError(f"no sample {index} among {len(self)}")
        return Sample(os.path.join(self.root, self.path(index)), self._labels[index], self._frames[index] or None)

    def path(self, index: int) -> str:
        """The sample's path below the root, with forward slashes."""
        index %= len(self)
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")

    @property
    def coverage(self) -> float:
        """How many of the listed videos are here, in percent."""
        return 100 * len(self) / self.listed

    def only_good(self, checked: Path) -> "Samples":
        """Those that `check-videos` calls good, with the numbers of frames that it counted."""
        good, bad = read_check(checked)
        paths = [self.path(index) for index in range(len(self))]
        if unchecked := [path for path in paths if path not in good and path not in bad]:
            raise ValueError(
                f"{checked} does not know {len(unchecked)} of the {len(self)} listed videos, such as "
                f"{unchecked[0]}: run check-videos again"
            )
        rows = [(path, *self[index][1:]) for index, path in enumerate(paths) if path in good]
        if not rows:
            raise ValueError(f"{checked} has no good video among the {len(self)} listed")
        kept = Samples(rows, self.classes, self.root, self.sampling, self.flip, self.listed, self.made_from)
        for index, (path, _, annotated) in enumerate(rows):  # the fingerprint is of the annotated numbers
            kept._frames[index] = annotated or good[path]
        return kept


# ---------------------------------------------------------------- lists and folders


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
    """
    folder = root if lists is None else Path(lists).expanduser()
    files = {part: (f"{part}.txt", f"{part}_videofolder.txt") for part in _SPLITS}
    files = {part: find(folder, *names) for part, names in files.items() if part == split or _has(folder, *names)}
    prepared = folder / "prepared.json"
    usage = annotations.read_usage(prepared, split) if prepared.is_file() else {"flip": True}
    if _has(folder, "classes.txt", "category.txt"):
        classes = annotations.read_classes(find(folder, "classes.txt", "category.txt"))
        return Samples(annotations.read_list(files[split], root, classes), classes, root, **usage)
    rows = {part: annotations.read_list(file, root) for part, file in files.items()}
    labels = range(1 + max(label for part in rows.values() for _, label, _ in part))
    return Samples(rows[split], [str(label) for label in labels], root, **usage)


def _has(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)


def load_folder(root: Path, split: str, val_share: float | None = None) -> Samples:
    """A folder of class folders; in each, video files or folders of frames.

    Folders `train` and `val` (or `validation`, `valid`, `test`) in the root are the splits. Without them,
    `val_share` of each class (default: 0.2) is for testing, chosen by a digest of the file names, so the same on
    every machine. Parts cut from one recording could then fall on both sides: give such a set `train` and `val`.
    """
    names = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    tests = [name for name in ("val", "validation", "valid", "test") if name in names]
    if "train" in names and not tests:
        raise ValueError(f"{root} has a folder train and none of val, validation, valid and test")
    if "train" in names:
        if val_share is not None:
            raise ValueError(f"val_share is for a folder without splits, and {root} has train and {tests[0]}")
        classes, rows = _given_split(root, {"train": "train", "val": tests[0]}[split])
    else:
        classes, rows = _split_by_name(root, split, 0.2 if val_share is None else val_share)
    return Samples(rows, classes, root, flip=True)


def _given_split(root: Path, folder: str) -> tuple[list[str], list[Row]]:
    classes, names = _class_folders(root / "train"), _class_folders(root / folder)
    if others := set(names) - set(classes):
        raise ValueError(f"{root / folder}: classes that train does not have: {', '.join(sorted(others))}")
    rows = []
    for label, name in enumerate(classes):
        if name in names:
            rows += [(f"{folder}/{name}/{video}", label, None) for video in _videos(root / folder / name)]
    if not rows:
        raise ValueError(f"{root / folder}: no videos in class folders")
    return classes, rows


def _split_by_name(root: Path, split: str, val_share: float) -> tuple[list[str], list[Row]]:
    if not 0 < val_share < 1:
        raise ValueError(f"val_share must be between 0 and 1, got {val_share}")
    classes, rows = _class_folders(root), []
    for label, name in enumerate(classes):
        videos = _videos(root / name)
        if len(videos) < 2:
            raise ValueError(f"{root / name}: a class needs at least 2 videos, one for testing, got {len(videos)}")
        order = sorted(videos, key=lambda video: hashlib.sha256(os.fsencode(video)).digest())
        tested = set(order[: max(1, round(val_share * len(videos)))])
        rows += [(f"{name}/{video}", label, None) for video in videos if (video in tested) == (split == "val")]
    if not rows:
        raise ValueError(f"{root}: no class folders")
    return classes, rows


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _videos(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if _is_source(entry))


def _is_source(entry: os.DirEntry) -> bool:
    if entry.name.startswith("."):
        return False
    return entry.is_dir() or os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES


# ---------------------------------------------------------------- published data sets


def load_something_v1(root: Path, split: str) -> Samples:
    """Something-Something V1: the publisher's CSVs, and one folder of JPEGs per video."""
    part = {"train": "train", "val": "validation"}[split]
    files = [f"{folder}something-something-v1-{{}}.csv" for folder in ("", "labels/", "annotations/")]
    classes = sorted(annotations.read_classes(find(root, *(name.format("labels") for name in files))))
    file = find(root, *(name.format(part) for name in files))
    folder = find_folder(root, "20bn-something-something-v1", "frames", "rawframes", "")
    return Samples(annotations.read_something_v1(file, root, classes, folder), classes, root)


def load_something_v2(root: Path, split: str) -> Samples:
    """Something-Something V2: the publisher's JSON files, of either release, and WebM files."""
    part = {"train": "train", "val": "validation"}[split]
    kinds = ("something-something-v2-{}.json", "{}.json")
    files = [f"{folder}{kind}" for kind in kinds for folder in ("", "labels/", "annotations/")]
    classes = annotations.read_something_v2_classes(find(root, *(name.format("labels") for name in files)))
    file = find(root, *(name.format(part) for name in files))
    folder = find_folder(root, "20bn-something-something-v2", "videos", "frames", "rawframes", "")
    return Samples(_as_folders(annotations.read_something_v2(file, root, classes, folder), root), classes, root)


def load_kinetics(root: Path, split: str) -> Samples:
    """Kinetics-400: the usual CSVs, and videos named by YouTube id (and times), flat or in class folders.

    A listed video that is missing on the disk stays in the list, so that it is noticed.
    """
    file = _kinetics_csv(root, split)
    lines = list(annotations.read_kinetics(file))
    train = lines if split == "train" else annotations.read_kinetics(_kinetics_csv(root, "train"))
    classes = sorted({name for _, name, *_ in train})
    rows = annotations.Rows(file, root, classes)
    videos = _KineticsVideos(root, split, classes)
    for number, name, *clip in lines:
        rows.add(number, videos.path(name, *clip), name)
    videos.check_some_exist(file)
    return Samples(rows.all(), classes, root, sampling="dense", flip=True)


def load_mini_kinetics(root: Path, split: str) -> Samples:
    """Mini-Kinetics-200: lists of YouTube ids (`train_ytid_list.txt`, `val_ytid_list.txt`) over Kinetics-400.

    Its videos may lie in either part of Kinetics; an id in neither CSV counts as listed and missing. The classes
    are those of the listed videos, in alphabetical order.
    """
    names = ("{}_ytid_list.txt", "annotations/{}_ytid_list.txt")
    files = {part: find(root, *(name.format(part) for name in names)) for part in _SPLITS}
    chosen = {part: list(annotations.lines_of(file)) for part, file in files.items()}
    known = {}
    for part in _SPLITS:
        for _, name, identity, start, end in annotations.read_kinetics(_kinetics_csv(root, part)):
            known[identity] = (part, name, identity, start, end)
    classes = sorted({known[identity][1] for part in _SPLITS for _, identity in chosen[part] if identity in known})
    rows = annotations.Rows(files[split], root, classes)
    videos = {part: _KineticsVideos(root, part, classes) for part in _SPLITS}
    for number, identity in chosen[split]:
        if identity in known:
            part, name, *clip = known[identity]
            rows.add(number, videos[part].path(name, *clip), name)
    if rows.rows and all(part.asked == part.missing for part in videos.values()):
        videos["train"].check_some_exist(files[split])
    return Samples(rows.all(), classes, root, sampling="dense", flip=True, listed=len(chosen[split]))


class _KineticsVideos:
    """The video files of one split, named by id and times or by id alone, flat or in class folders."""

    def __init__(self, root: Path, split: str, classes: Sequence[str]):
        kinds = ("{}", "{}_256", "videos_{}", "videos/{}", "rawframes_{}")
        names = {"train": ("train",), "val": ("val", "validation", "validate")}[split]
        self.below = find_folder(root, *(kind.format(name) for name in names for kind in kinds))
        self.folder = root / self.below
        self.files, self.asked, self.missing = {}, 0, 0
        spellings = {spelling for name in classes for spelling in (name, name.replace(" ", "_"))}
        # Of several copies the first by name counts, so the choice is the same on every machine.
        for entry in sorted(os.scandir(self.folder), key=lambda entry: entry.name):
            if entry.name in spellings and entry.is_dir():
                for video in _videos(Path(entry.path)):
                    self.files.setdefault(os.path.splitext(video)[0], f"{entry.name}/{video}")
            elif _is_source(entry):
                self.files.setdefault(os.path.splitext(entry.name)[0], entry.name)

    def path(self, name: str, identity: str, start: int, end: int) -> str:
        """The video's path below the root; if it is missing, the one that it would have."""
        timed = f"{identity}_{start:06d}_{end:06d}"
        file = self.files.get(timed) or self.files.get(identity)
        self.asked += 1
        self.missing += file is None
        return join(self.below, file or f"{name}/{timed}.mp4")

    def check_some_exist(self, file: Path) -> None:
        if self.asked and self.missing == self.asked:
            raise FileNotFoundError(
                f"none of the {self.asked} videos of {file} is in {self.folder}: needed files or folders named "
                "by YouTube id, or by id and times (id_000010_000020.mp4)"
            )


def _kinetics_csv(root: Path, split: str) -> Path:
    names = {"train": ("train",), "val": ("val", "validate", "validation")}[split]
    kinds = ("{}.csv", "annotations/{}.csv", "kinetics-400_{}.csv", "annotations/kinetics_{}.csv", "kinetics400/{}.csv")
    return find(root, *(kind.format(name) for name in names for kind in kinds))


def load_ucf101(root: Path, split: str, fold: int = 1) -> Samples:
    """UCF101: `classInd.txt`, `trainlist0N.txt`, `testlist0N.txt`, and AVI files in class folders."""
    check_choice("fold", fold, (1, 2, 3))
    lists = root / find_folder(root, "ucfTrainTestlist", "annotations", "")
    classes = annotations.read_ucf101_classes(find(lists, "classInd.txt"))
    file = find(lists, f"{'train' if split == 'train' else 'test'}list{fold:02d}.txt")
    folder = find_folder(root, "UCF-101", "UCF101", "videos", "rawframes", "")
    return Samples(_as_folders(annotations.read_ucf101(file, root, classes, folder), root), classes, root, flip=True)


def load_hmdb51(root: Path, split: str, fold: int = 1) -> Samples:
    """HMDB51: `<class>_test_splitN.txt` files, and AVI files in class folders."""
    check_choice("fold", fold, (1, 2, 3))
    lists = root / find_folder(root, "testTrainMulti_7030_splits", "splits", "annotations", "")
    ending = f"_test_split{fold}.txt"
    classes = sorted(file.name.removesuffix(ending) for file in lists.glob(f"*{ending}"))
    if not classes:
        raise FileNotFoundError(f"no annotation file *{ending} in {lists}")
    folder = find_folder(root, "hmdb51_org", "videos", "rawframes", "")
    use, rows = 1 if split == "train" else 2, []
    for name in classes:
        rows += annotations.read_hmdb51(lists / f"{name}{ending}", root, classes, folder, name, use)
    if not rows:
        raise ValueError(f"{lists}: the lists have no video for {split}")
    return Samples(_as_folders(rows, root), classes, root, flip=True)


def _as_folders(rows: list[Row], root: Path) -> list[Row]:
    """Rows of video files as rows of frame folders, if the first exists only as such."""
    first = rows[0][0]
    if (root / first).exists() or not (root / first).with_suffix("").is_dir():
        return rows
    return [(str(Path(path).with_suffix("")), label, num_frames) for path, label, num_frames in rows]


# ---------------------------------------------------------------- by name


DATASETS: dict[str, Callable[..., Samples]] = {
    "arrow": load_arrow,
    "something-v1": load_something_v1,
    "something-v2": load_something_v2,
    "kinetics-400": load_kinetics,
    "mini-kinetics-200": load_mini_kinetics,
    "ucf101": load_ucf101,
    "hmdb51": load_hmdb51,
    "list": load_list,
    "folder": load_folder,
}


def load_samples(name: str, root: str | Path, split: str, checked: str | Path | None = None, **options) -> Samples:
    """The samples of one split of a data set, read from its publisher's own annotation files.

    Args:
        name: one of `DATASETS`.
        root: the data set's folder; `~` is the home folder.
        split: "train" or "val", the split on which accuracies are reported.
        checked: the folder with the results of `check-videos`. Bad videos are left out (see `Samples.coverage`).
        options: `fold` (1, 2 or 3) of UCF101 and HMDB51; `val_share` of a folder without splits; `lists`, the
            folder of the lists of a `list`.

    Raises:
        ValueError: an unknown name, split or option, an annotation file with a bad line, or listed
            videos that were not checked.
        FileNotFoundError: the folder or an annotation file is missing.
    """
    check_choice("data set", name, DATASETS)
    check_choice("split", split, _SPLITS)
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root} for the data set {name!r}")
    known = [option for option in inspect.signature(DATASETS[name]).parameters if option not in ("root", "split")]
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"the data set {name!r} has no option {option!r}: {has}")
    samples = DATASETS[name](root, split, **options)
    return samples if checked is None else samples.only_good(Path(checked).expanduser())
