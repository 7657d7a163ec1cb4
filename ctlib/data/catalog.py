"""Which data sets there are, where each keeps its annotations and videos, and the samples of a split.

Class order is the authors' rule: alphabetical for Something-Something V1, Kinetics and HMDB51, the
publisher's numbers where there are some (Something-Something V2, UCF101: alphabetical too).
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
from ctlib.data.annotations import Row
from ctlib.data.check import read_check


class Sample(NamedTuple):
    """A video and its class."""

    source: str  # path of the video file, or of the folder of its frames
    label: int
    num_frames: int | None  # None where neither the annotation nor a check says


class Samples(Sequence):
    """The videos of one split of a data set, in the order of its list.

    They are held as three flat buffers and not as objects, so that a million of them cost a worker
    process nothing. `rows` are (path below the root, label, number of frames or None).

    Attributes:
        classes: names in label order.
        sampling: name of the sampling (`sampling.SAMPLINGS`) that the data set is used with.
        flip: whether the data set is trained with horizontal flips.
        listed: how many videos the annotation lists; more than `len`, where a check left some out.
        fingerprint: 12 hex digits that change with any path, label, annotated frame number or class
            name, and with `made_from`.
        made_from: what else tells this data set from another with the same lists.
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
            path = path.encode("utf-8", "surrogateescape")  # a file's name may be no text
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
            raise TypeError(f"samples are taken one by one, by an integer, got {index!r}")
        if not -len(self) <= index < len(self):
            raise IndexError(f"no sample {index} among {len(self)}")
        return Sample(os.path.join(self.root, self.path(index)), self._labels[index], self._frames[index] or None)

    def path(self, index: int) -> str:
        """The sample's path below the root, with forward slashes."""
        index %= len(self)
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")

    def count(self, num_frames: dict[str, int]) -> None:
        """Take numbers of frames that were counted, by path, where the annotation gives none."""
        for index, annotated in enumerate(self._frames):
            self._frames[index] = annotated or num_frames[self.path(index)]

    @property
    def coverage(self) -> float:
        """The share of the listed videos that is here, in percent."""
        return 100 * len(self) / self.listed


def load_arrow(root: Path, split: str) -> Samples:
    """The built-in data set, as `arrow.write` lays it out."""
    classes = annotations.read_classes(root / "classes.txt")
    rows = annotations.read_list(root / f"{split}.txt", root, classes)
    made_from = annotations.text_of(root / "arrow.json")
    return Samples(rows, classes, root, sampling="mirrored", flip=True, made_from=made_from)


def load_list(root: Path, split: str, lists: str | None = None) -> Samples:
    """Lists of `path num_frames label` or `path label` lines, with paths below `root`.

    `train.txt` and `val.txt`, or `train_videofolder.txt` and `val_videofolder.txt` as TSM and the authors
    call them, in the folder `lists`, which is `root` if not given. Class names are the lines of
    `classes.txt` or `category.txt` there, if there is one; else the labels themselves. A set made by
    `prepare` is used as the one that it was made from.
    """
    folder = root if lists is None else Path(lists).expanduser()
    files = {}
    for part in _SPLITS:
        names = (f"{part}.txt", f"{part}_videofolder.txt")
        files[part] = annotations.find(folder, *names) if part == split or _has(folder, *names) else None
    made = folder / "prepared.json"
    used = annotations.read_usage(made, split) if made.is_file() else {"flip": True}
    if _has(folder, "classes.txt", "category.txt"):
        classes = annotations.read_classes(annotations.find(folder, "classes.txt", "category.txt"))
        return Samples(annotations.read_list(files[split], root, classes), classes, root, **used)
    rows = {part: annotations.read_list(file, root) for part, file in files.items() if file}
    labels = range(1 + max(label for part in rows.values() for _, label, _ in part))
    return Samples(rows[split], [str(label) for label in labels], root, **used)


def _has(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)


def load_folder(root: Path, split: str, val_share: float | None = None) -> Samples:
    """A folder of class folders; in each, video files or folders of frames.

    With folders `train` and `val` (or `validation`, `valid`, `test`) in the root, these are the splits.
    Else `val_share` of each class, a fifth if not given, is for testing: the first by a digest of the
    file names, so the choice is the same everywhere. Cut parts of one recording would then land on both
    sides: give such a set folders `train` and `val`.
    """
    names = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    tests = [name for name in ("val", "validation", "valid", "test") if name in names]
    if "train" in names and tests:
        if val_share is not None:
            raise ValueError(f"val_share is for a folder without splits, and {root} has train and {tests[0]}")
        return _load_given_splits(root, {"train": "train", "val": tests[0]}, split)
    if "train" in names:
        raise ValueError(f"{root} has a folder train and none of val, validation, valid and test")
    val_share = 0.2 if val_share is None else val_share
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
    return Samples(rows, classes, root, flip=True)


def _load_given_splits(root: Path, folders: dict[str, str], split: str) -> Samples:
    classes = _class_folders(root / folders["train"])
    here = root / folders[split]
    if others := set(_class_folders(here)) - set(classes):
        raise ValueError(f"{here}: classes that train does not have: {', '.join(sorted(others))}")
    rows = []
    for label, name in enumerate(classes):
        if (here / name).is_dir():
            rows += [(f"{folders[split]}/{name}/{video}", label, None) for video in _videos(here / name)]
    if not rows:
        raise ValueError(f"{here}: no videos in class folders")
    return Samples(rows, classes, root, flip=True)


def _videos(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if _is_source(entry))


def load_something_v1(root: Path, split: str) -> Samples:
    """Something-Something V1: the publisher's CSVs, and a folder of JPEGs a video."""
    part = {"train": "train", "val": "validation"}[split]
    files = [f"{place}something-something-v1-{{}}.csv" for place in ("", "labels/", "annotations/")]
    classes = sorted(annotations.read_classes(annotations.find(root, *(name.format("labels") for name in files))))
    folder = annotations.find_folder(root, "20bn-something-something-v1", "frames", "rawframes", "")
    file = annotations.find(root, *(name.format(part) for name in files))
    rows = annotations.read_something_v1(file, root, classes, _below(folder, root))
    return Samples(rows, classes, root)


def load_something_v2(root: Path, split: str) -> Samples:
    """Something-Something V2: the publisher's JSON files, of either release, and WebM files."""
    part = {"train": "train", "val": "validation"}[split]
    kinds = ("something-something-v2-{}.json", "{}.json")
    places = [f"{place}{kind}" for kind in kinds for place in ("", "labels/", "annotations/")]
    classes = annotations.read_something_v2_classes(annotations.find(root, *(name.format("labels") for name in places)))
    folder = annotations.find_folder(root, "20bn-something-something-v2", "videos", "frames", "rawframes", "")
    file = annotations.find(root, *(name.format(part) for name in places))
    rows = _as_folders(annotations.read_something_v2(file, root, classes, _below(folder, root)), root)
    return Samples(rows, classes, root)


def load_kinetics(root: Path, split: str) -> Samples:
    """Kinetics-400: the usual CSVs, and videos named by YouTube id (and times), flat or in class folders.

    A listed video that is not on the disk stays in the list, so that it is noticed.
    """
    file, lists = _kinetics_csv(root, split), {}
    for part in dict.fromkeys(("train", split)):
        lists[part] = list(annotations.read_kinetics(_kinetics_csv(root, part)))
    classes = sorted({name for _, name, *_ in lists["train"]})
    rows = annotations.Rows(file, root, classes)
    videos = _KineticsVideos(root, split, classes)
    for number, name, identity, start, end in lists[split]:
        rows.add(number, videos.path(name, identity, start, end), name)
    videos.refuse_none(file)
    return Samples(rows.all(), classes, root, sampling="dense", flip=True)


def load_mini_kinetics(root: Path, split: str) -> Samples:
    """Mini-Kinetics-200: lists of YouTube ids (`train_ytid_list.txt`, `val_ytid_list.txt`) over Kinetics-400.

    Its videos may lie in either part of Kinetics; an id that neither CSV has counts as listed and
    missing. The classes are those that the lists meet, in alphabetical order.
    """
    names = ("{}_ytid_list.txt", "annotations/{}_ytid_list.txt")
    files = {part: annotations.find(root, *(name.format(part) for name in names)) for part in _SPLITS}
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
    if rows.rows and all(found.asked == found.missing for found in videos.values()):
        videos["train"].refuse_none(files[split])
    return Samples(rows.all(), classes, root, sampling="dense", flip=True, listed=len(chosen[split]))


def load_ucf101(root: Path, split: str, fold: int = 1) -> Samples:
    """UCF101: `classInd.txt`, `trainlist0N.txt`, `testlist0N.txt`, and AVI files in class folders."""
    check_choice("fold", fold, (1, 2, 3))
    lists = annotations.find_folder(root, "ucfTrainTestlist", "annotations", "")
    classes = annotations.read_ucf101_classes(annotations.find(lists, "classInd.txt"))
    file = annotations.find(lists, f"{'train' if split == 'train' else 'test'}list{fold:02d}.txt")
    folder = annotations.find_folder(root, "UCF-101", "UCF101", "videos", "rawframes", "")
    rows = _as_folders(annotations.read_ucf101(file, root, classes, _below(folder, root)), root)
    return Samples(rows, classes, root, flip=True)


def load_hmdb51(root: Path, split: str, fold: int = 1) -> Samples:
    """HMDB51: `<class>_test_splitN.txt` files, and AVI files in class folders."""
    check_choice("fold", fold, (1, 2, 3))
    lists = annotations.find_folder(root, "testTrainMulti_7030_splits", "splits", "annotations", "")
    ending = f"_test_split{fold}.txt"
    files = sorted(lists.glob(f"*{ending}"))
    if not files:
        raise FileNotFoundError(f"no annotation file *{ending} in {lists}")
    classes = sorted(file.name.removesuffix(ending) for file in files)
    folder = annotations.find_folder(root, "hmdb51_org", "videos", "rawframes", "")
    wanted = 1 if split == "train" else 2
    rows = []
    for name in classes:
        file = lists / f"{name}{ending}"
        rows += annotations.read_hmdb51(file, root, classes, _below(folder, root), name, wanted)
    if not rows:
        raise ValueError(f"{lists}: the lists name no video for {split}")
    return Samples(_as_folders(rows, root), classes, root, flip=True)


_SPLITS = ("train", "val")
VIDEO_SUFFIXES = frozenset(".mp4 .mkv .webm .avi .mov .m4v .mpg .mpeg .wmv .flv .3gp .ts".split())  # noqa: SIM905


class _KineticsVideos:
    """Where the videos of one split lie: files named by id and times, or by id alone, flat or in class folders."""

    def __init__(self, root: Path, split: str, classes: Sequence[str]):
        kinds = ("{}", "{}_256", "videos_{}", "videos/{}", "rawframes_{}")
        names = {"train": ("train",), "val": ("val", "validation", "validate")}[split]
        self.folder = annotations.find_folder(root, *(kind.format(name) for name in names for kind in kinds))
        self.found, self.asked, self.missing = {}, 0, 0
        self.below = _below(self.folder, root)
        spelt = {spelling for name in classes for spelling in (name, name.replace(" ", "_"))}
        # Of several copies the first by name is taken, on every machine the same.
        for entry in sorted(os.scandir(self.folder), key=lambda entry: entry.name):
            if entry.name in spelt and entry.is_dir():
                for video in _videos(Path(entry.path)):
                    self.found.setdefault(os.path.splitext(video)[0], f"{entry.name}/{video}")
            elif _is_source(entry):
                self.found.setdefault(os.path.splitext(entry.name)[0], entry.name)

    def path(self, name: str, identity: str, start: int, end: int) -> str:
        """The video's path below the root, or the one that it would have."""
        timed = f"{identity}_{start:06d}_{end:06d}"
        self.asked += 1
        found = self.found.get(timed) or self.found.get(identity)
        if found is None:
            self.missing += 1
            found = f"{name}/{timed}.mp4"
        return f"{self.below}/{found}" if self.below else found

    def refuse_none(self, file: Path) -> None:
        if self.asked and self.missing == self.asked:
            raise FileNotFoundError(
                f"none of the {self.asked} videos of {file} is in {self.folder}: needed files or folders named "
                "by YouTube id, or by id and times (id_000010_000020.mp4)"
            )


def _kinetics_csv(root: Path, split: str) -> Path:
    names = {"train": ("train",), "val": ("val", "validate", "validation")}[split]
    kinds = ("{}.csv", "annotations/{}.csv", "kinetics-400_{}.csv", "annotations/kinetics_{}.csv", "kinetics400/{}.csv")
    return annotations.find(root, *(kind.format(name) for name in names for kind in kinds))


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _is_source(entry: os.DirEntry) -> bool:
    if entry.name.startswith("."):
        return False
    return entry.is_dir() or os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES


def _as_folders(rows: list[Row], root: Path) -> list[Row]:
    """Rows of video files as rows of frame folders, where the first is there only as such."""
    first = rows[0][0]
    if (root / first).exists() or not (root / first).with_suffix("").is_dir():
        return rows
    return [(str(Path(path).with_suffix("")), label, num_frames) for path, label, num_frames in rows]


def _below(folder: Path, root: Path) -> str:
    below = folder.relative_to(root).as_posix()
    return "" if below == "." else below


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
    """The samples of one split of a data set, from its publisher's own annotation files.

    Args:
        name: one of `DATASETS`.
        root: the folder in which the data set lies; `~` is the home folder.
        split: "train" or "val", the split that accuracies are reported on.
        checked: the folder in which `check-videos` left its lists. Videos that it found bad are left
            out, which `coverage` then tells, and the numbers of frames that it counted are taken.
        options: `fold` (1, 2 or 3) of UCF101 and HMDB51, `val_share` of a folder without splits, `lists`,
            the folder of the lists of a `list`.

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
    return samples if checked is None else _only_good(samples, Path(checked).expanduser())


def _only_good(samples: Samples, checked: Path) -> Samples:
    good, bad = read_check(checked)
    rows, unchecked = [], []
    for index in range(len(samples)):
        path = samples.path(index)
        if path in good:
            rows.append((path, *samples[index][1:]))
        elif path not in bad:
            unchecked.append(path)
    if unchecked:
        raise ValueError(
            f"{checked} does not know {len(unchecked)} of the {len(samples)} videos listed, the first being "
            f"{unchecked[0]}: run check-videos again"
        )
    if not rows:
        raise ValueError(f"{checked} has no good video among the {len(samples)} listed")
    used = samples.sampling, samples.flip, samples.listed, samples.made_from
    kept = Samples(rows, samples.classes, samples.root, *used)
    kept.count(good)
    return kept
