"""Which data sets there are, and the annotation files from which each is read."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ctlib.config import check_choice


class Sample(NamedTuple):
    """A video and its class."""

    source: str  # path of the video file
    label: int
    num_frames: int | None  # None where the annotation does not say


class Samples(Sequence):
    """The videos of one split of a data set, in the order of its list.

    Attributes:
        classes: names in label order.
        sampling: name of the sampling (`sampling.SAMPLINGS`) that the data set is used with.
        fingerprint: 12 hex digits that change with any path (below the root), label, frame number
            or class name, and with `made_from`.

    Args:
        made_from: what else tells this data set from another with the same lists.
    """

    def __init__(
        self, samples: list[Sample], classes: tuple[str, ...], root: Path, sampling: str = "sparse", made_from: str = ""
    ):
        self._samples, self.classes, self.root, self.sampling = samples, classes, root, sampling
        digest = hashlib.sha256(repr((classes, made_from)).encode())
        for source, label, num_frames in samples:
            digest.update(f"{Path(source).relative_to(root).as_posix()} {label} {num_frames}\n".encode())
        self.fingerprint = digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


def load_arrow(root: Path, split: str) -> Samples:
    """The built-in data set, as `arrow.write` lays it out."""
    check_choice("split", split, ("train", "val"))
    classes = tuple(_read_text(root / "classes.txt").splitlines())
    samples = read_list(root / f"{split}.txt", root, len(classes))
    return Samples(samples, classes, root, sampling="mirrored", made_from=_read_text(root / "arrow.json"))


def read_list(path: Path, root: Path, num_classes: int) -> list[Sample]:
    """Read `path num_frames label` lines, the format of TSN, TSM and the authors' release.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: a line that is not so, naming the file and the line.
    """
    samples = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            source, num_frames, label = line.rsplit(maxsplit=2)
            num_frames, label = int(num_frames), int(label)
        except ValueError:
            raise ValueError(f"{path}, line {number}: needed 'path num_frames label', got {line!r}") from None
        if not 0 <= label < num_classes:
            raise ValueError(f"{path}, line {number}: label {label} is outside 0..{num_classes - 1}")
        if num_frames < 1:
            raise ValueError(f"{path}, line {number}: a video of {num_frames} frames")
        samples.append(Sample(str(root / source), label, num_frames))
    if not samples:
        raise ValueError(f"{path}: the list names no video")
    return samples


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file {path}")
    return path.read_text(encoding="utf-8-sig")


DATASETS: dict[str, Callable[[Path, str], Samples]] = {"arrow": load_arrow}


def load_samples(name: str, root: str | Path, split: str) -> Samples:
    """The samples of one split of a data set.

    Args:
        name: one of `DATASETS`.
        root: the folder in which the data set lies; `~` is the home folder.
        split: "train" or "val".

    Raises:
        ValueError: an unknown name or split, or an annotation file with a bad line.
        FileNotFoundError: the folder or an annotation file is missing.
    """
    check_choice("data set", name, DATASETS)
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root} for the data set {name!r}")
    return DATASETS[name](root, split)
