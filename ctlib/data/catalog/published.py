"""The data sets of others, as their publishers lay them out.

Class order follows the authors: alphabetical, or the publisher's numbers where there are some (Something-Something
V2, and UCF101, whose numbers are alphabetical too).
"""

from collections.abc import Sequence
from pathlib import Path

from ctlib.config import check_choice
from ctlib.data.catalog import annotations
from ctlib.data.catalog.annotations import Row, find, find_folder, join
from ctlib.data.catalog.samples import Samples
from ctlib.data.catalog.sources import as_they_lie, in_both_note, is_stray, stem_of, videos_in

# The splits of Kinetics, and what their files and folders are called.
_SPLITS = {"train": ("train",), "val": ("val", "validate", "validation")}


def load_something_v1(root: Path, split: str) -> Samples:
    """Something-Something V1: the publisher's CSVs, and one folder of JPEGs per video."""
    part = {"train": "train", "val": "validation"}[split]
    files = [f"{folder}something-something-v1-{{}}.csv" for folder in ("", "labels/", "annotations/")]
    classes = sorted(annotations.read_classes(find(root, *(name.format("labels") for name in files))))
    file = find(root, *(name.format(part) for name in files))
    folder = find_folder(root, "20bn-something-something-v1", "frames", "rawframes", "")
    return _as_they_lie(annotations.read_something_v1(file, root, classes, folder), classes, root)


def load_something_v2(root: Path, split: str) -> Samples:
    """Something-Something V2: the publisher's JSON files, of either release, and WebM files."""
    part = {"train": "train", "val": "validation"}[split]
    kinds = ("something-something-v2-{}.json", "{}.json")
    files = [f"{folder}{kind}" for kind in kinds for folder in ("", "labels/", "annotations/")]
    classes = annotations.read_something_v2_classes(find(root, *(name.format("labels") for name in files)))
    file = find(root, *(name.format(part) for name in files))
    folder = find_folder(root, "20bn-something-something-v2", "videos", "frames", "rawframes", "")
    return _as_they_lie(annotations.read_something_v2(file, root, classes, folder), classes, root)


def load_kinetics(root: Path, split: str) -> Samples:
    """Kinetics-400: the usual CSVs, and videos named by YouTube id (and times), flat or in class folders.

    A listed video that is missing on the disk stays in the list, so that it is noticed.
    """
    file = _kinetics_csv(root, split)
    lines = list(annotations.read_kinetics(file))
    train = lines if split == "train" else list(annotations.read_kinetics(_kinetics_csv(root, "train")))
    classes = sorted({name for _, name, *_ in train})
    rows = annotations.Rows(file, root, classes)
    videos = _KineticsVideos(root, split, classes)
    for number, name, *clip in lines:
        rows.add(number, videos.path(name, *clip), name)
    videos.check_some_exist(file)
    samples = Samples(rows.all(), classes, root, sampling="dense", flip=True)
    if split != "train":
        trained = {identity for _, _, identity, *_ in train}
        samples.notes = in_both_note([identity for _, _, identity, *_ in lines if identity in trained], len(lines))
    return samples


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
        self.below = find_folder(root, *(kind.format(name) for name in _SPLITS[split] for kind in kinds))
        self.folder = root / self.below
        self.files, self.asked, self.missing = {}, 0, 0
        spellings = {spelling for name in classes for spelling in (name, name.replace(" ", "_"))}
        # Of several copies the first by name counts, so the choice is the same on every machine.
        for name in videos_in(self.folder)[0]:
            if name in spellings and (self.folder / name).is_dir():
                for video in videos_in(self.folder / name)[0]:
                    self.files.setdefault(stem_of(video), f"{name}/{video}")
            else:
                self.files.setdefault(stem_of(name), name)

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
    kinds = ("{}.csv", "annotations/{}.csv", "kinetics-400_{}.csv", "annotations/kinetics_{}.csv", "kinetics400/{}.csv")
    return find(root, *(kind.format(name) for name in _SPLITS[split] for kind in kinds))


def load_ucf101(root: Path, split: str, fold: int = 1) -> Samples:
    """UCF101: `classInd.txt`, `trainlist0N.txt`, `testlist0N.txt`, and AVI files in class folders."""
    check_choice("fold", fold, (1, 2, 3))
    lists = root / find_folder(root, "ucfTrainTestlist", "annotations", "")
    classes = annotations.read_ucf101_classes(find(lists, "classInd.txt"))
    file = find(lists, f"{'train' if split == 'train' else 'test'}list{fold:02d}.txt")
    folder = find_folder(root, "UCF-101", "UCF101", "videos", "rawframes", "")
    return _as_they_lie(annotations.read_ucf101(file, root, classes, folder), classes, root, flip=True)


def load_hmdb51(root: Path, split: str, fold: int = 1) -> Samples:
    """HMDB51: `<class>_test_splitN.txt` files, and AVI files in class folders."""
    check_choice("fold", fold, (1, 2, 3))
    lists = root / find_folder(root, "testTrainMulti_7030_splits", "splits", "annotations", "")
    ending = f"_test_split{fold}.txt"
    files = [file.name for file in lists.glob(f"*{ending}") if not is_stray(file.name)]
    classes = sorted(name.removesuffix(ending) for name in files)
    if not classes:
        raise FileNotFoundError(f"no annotation file *{ending} in {lists}")
    folder = find_folder(root, "hmdb51_org", "videos", "rawframes", "")
    use, rows = 1 if split == "train" else 2, []
    for name in classes:
        rows += annotations.read_hmdb51(lists / f"{name}{ending}", root, classes, folder, name, use)
    if not rows:
        raise ValueError(f"{lists}: the lists have no video for {split}")
    return _as_they_lie(rows, classes, root, flip=True)


def _as_they_lie(rows: list[Row], classes: Sequence[str], root: Path, flip: bool = False) -> Samples:
    matched, notes = as_they_lie(rows, root)
    samples = Samples(matched, classes, root, flip=flip)
    samples.notes = notes
    return samples
