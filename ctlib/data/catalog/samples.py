"""The videos of one split, held so that a million of them cost a worker process almost nothing."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ctlib.data.catalog.annotations import Row
from ctlib.data.check import changed_since, read_check, read_stamps, stamp
from ctlib.data.digests import last_compared
from ctlib.files import quoted


class Sample(NamedTuple):
    """A video and its class."""

    source: str  # path of the video file, or of the folder of its frames
    label: int
    num_frames: int | None  # None if neither the annotation nor a check gives it


class Samples(Sequence):
    """The videos of one split of a data set, in the order of its list.

    They are held in three flat buffers.

    Args:
        rows: (path below the root, label, number of frames or None) of each video.
        classes: names in label order.
        sampling: the data set's sampling, a name of `sampling.SAMPLINGS`.
        flip: whether training uses horizontal flips.
        listed: how many videos the annotation lists; more than `len` if a check left some out.
        made_from: how the videos were made, if data sets with equal lists can differ in that.

    Attributes:
        fingerprint: 12 hex digits that change with any path, label, annotated number of frames or class name,
            and with `made_from`.
        notes: what is odd about the list, one sentence each.
        compared: the day (UTC) since which every video was found equal to its digest (`digests.compare`); "" if none.

    Raises:
        ValueError: a name that lists and records cannot hold as a line of text.
    """

    notes: tuple[str, ...] = ()
    compared: str = ""

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
        for name in self.classes:
            if not name.strip() or _breaks(name) or name.encode(errors="ignore").decode() != name:
                raise ValueError(f"{root}: a class name must be one line of UTF-8 text, got {quoted(name)}: rename it")
        digest = hashlib.sha256(repr((self.classes, made_from)).encode())
        self._labels, self._frames, ends, text = array("i"), array("i"), array("q", [0]), bytearray()
        for path, label, num_frames in rows:
            if _breaks(path):
                raise ValueError(f"{root}: a file name with a line end, {quoted(path)}: rename it")
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

    def paths(self) -> list[str]:
        """`path` of each sample."""
        return [self.path(index) for index in range(len(self))]

    @property
    def empty_classes(self) -> tuple[str, ...]:
        """The names of the classes without a video here."""
        labels = set(self._labels)
        return tuple(name for label, name in enumerate(self.classes) if label not in labels)

    @property
    def coverage(self) -> float:
        """How many of the listed videos are read, in percent."""
        return 100 * len(self) / self.listed

    def only_good(self, checked: Path) -> "Samples":
        """Those that `check-videos` calls good, with the numbers of frames that it counted."""
        good, bad = read_check(checked)
        paths = self.paths()
        if unchecked := [path for path in paths if path not in good and path not in bad]:
            raise ValueError(
                f"{checked} does not know {len(unchecked)} of the {len(self)} listed videos, such as "
                f"{quoted(unchecked[0])}: run check-videos again"
            )
        rows = [(path, *self[index][1:]) for index, path in enumerate(paths) if path in good]
        if not rows:
            raise ValueError(f"{checked} has no good video among the {len(self)} listed")
        kept = Samples(rows, self.classes, self.root, self.sampling, self.flip, self.listed, self.made_from)
        changed = changed_since(read_stamps(checked), {path: stamp(self.root, path) for path in paths})
        for index, (path, _, annotated) in enumerate(rows):  # the fingerprint is of the annotated numbers
            kept._frames[index] = annotated or (0 if path in changed else good[path])
        kept.notes, kept.compared = self.notes, last_compared(checked, [path for path, *_ in rows])
        if changed:
            kept.notes += (
                f"{len(changed):,} of {len(self):,} videos have changed since they were checked, such as "
                f"{quoted(min(changed))}: run check-videos again",
            )
        return kept


def _breaks(name: str) -> bool:
    return "\n" in name or "\r" in name
