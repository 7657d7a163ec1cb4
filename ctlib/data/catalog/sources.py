"""What lies on the disk as videos: files, and folders of frames; not what systems leave beside them."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctlib.config import DataConfig
from ctlib.data.catalog.annotations import Row
from ctlib.files import quoted

VIDEO_SUFFIXES = frozenset(".mp4 .mkv .webm .avi .mov .m4v .mpg .mpeg .wmv .flv .3gp .ts".split())  # noqa: SIM905
# Of a Mac's archives and servers, of network storage, of Windows, of file systems; in lower case.
_OF_SYSTEMS = frozenset(
    ("__macosx", "network trash folder", "temporary items", "@eadir", "@recycle", "@recently-snapshot", "@tmp")
    + ("#recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information", "thumbs.db", "desktop.ini")
    + ("lost+found", "__pycache__")
)


def is_stray(name: str) -> bool:
    """Whether a file or folder is hidden, or was left by a system: it is no class and no video."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def stem_of(name: str) -> str:
    """The name without the ending of a video file."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def is_video_file(name: str) -> bool:
    return stem_of(name) != name and not is_stray(name)


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in order."""
    return sorted(entry.name for entry in os.scandir(folder) if not is_stray(entry.name) and entry.is_dir())


def videos_in(folder: Path) -> tuple[list[str], Counter]:
    """The names of the videos in a folder, in order, and how many other files have each ending."""
    videos, others = [], Counter()
    for entry in os.scandir(folder):
        if is_stray(entry.name):
            continue
        if is_video_file(entry.name) or entry.is_dir():
            videos.append(entry.name)
        else:
            others[os.path.splitext(entry.name)[1].lower() or "no ending"] += 1
    return sorted(videos), others


def in_words(others: Counter) -> str:
    """Endings with their numbers, the most frequent first."""
    order = sorted(others, key=lambda ending: (-others[ending], ending))
    return ", ".join(f"{others[ending]} {ending[:20]}" for ending in order[:8])


class Folders:
    """What lies in the folders below a root, each read once when it is first asked for."""

    def __init__(self, root: Path):
        self.root = root
        self._read: dict[str, tuple[dict[str, os.DirEntry], dict[str, str]]] = {}
        self._real: dict[str, str] = {}  # paths of folders

    def holds_something(self, path: str) -> bool:
        """Whether there is such a file or folder, and it is not empty."""
        folder, name = os.path.split(path)
        entry = self._entries(folder)[0].get(name)
        if entry is None:
            return False
        try:
            if entry.is_dir():
                with os.scandir(entry) as inside:
                    return not all(is_stray(frame.name) for frame in inside)
            return entry.is_file() and entry.stat().st_size > 0
        except OSError:  # of a folder that may not be read, or a file that is gone by now
            return False

    def real_path(self, path: str) -> str:
        """The absolute path, without symbolic links."""
        folder, name = os.path.split(path)
        entry = self._entries(folder)[0].get(name)
        if entry is not None and entry.is_symlink():
            return os.path.realpath(entry)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(self.root / folder)
        return os.path.join(self._real[folder], name)

    def inode(self, path: str) -> int:
        """The number of the file in its file system, as its folder has it; 0 if it is not there."""
        folder, name = os.path.split(path)
        entry = self._entries(folder)[0].get(name)
        return 0 if entry is None else entry.inode()

    def is_same_file(self, path: str, other: str) -> bool:
        """Whether two paths lead to one file, as hard links do."""
        try:
            return os.path.samefile(self.root / path, self.root / other)
        except OSError:
            return False

    def match(self, path: str) -> str:
        """The path, or if it does not exist that of the same video with another ending, or as a folder of frames.

        Of several copies the first by name counts, so that the choice is the same on every machine.
        """
        folder, name = os.path.split(path)
        entries, by_stem = self._entries(folder)
        if name in entries:
            return path
        other = by_stem.get(stem_of(name))
        return path if other is None else os.path.join(folder, other)

    def _entries(self, folder: str) -> tuple[dict[str, os.DirEntry], dict[str, str]]:
        if folder not in self._read:
            by_stem = {}
            try:
                # A link may lead nowhere.
                entries = [e for e in os.scandir(self.root / folder) if not e.is_symlink() or os.path.exists(e.path)]
            except (FileNotFoundError, NotADirectoryError):
                entries = []
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_video_file(entry.name):
                    by_stem.setdefault(stem_of(entry.name), entry.name)
                elif not is_stray(entry.name) and entry.is_dir():
                    by_stem.setdefault(entry.name, entry.name)
            self._read[folder] = {entry.name: entry for entry in entries}, by_stem
        return self._read[folder]


def in_both_note(both: Sequence[str], tested: int) -> tuple[str, ...]:
    """What is said of the test videos that are training videos too."""
    return (f"{len(both):,} of {tested:,} test videos are trained on too, such as {quoted(both[0])}",) if both else ()


def as_they_lie(rows: Iterable[Row], root: Path) -> tuple[list[Row], tuple[str, ...]]:
    """Rows with the path at which each video lies (`Folders.match`), and a note if it is another than listed."""
    folders, matched, others = Folders(root), [], []
    for path, label, num_frames in rows:
        match = folders.match(path)
        if match != path:
            others.append((match, path))
        matched.append((match, label, num_frames))
    if not others:
        return matched, ()
    pair = " for ".join(map(quoted, others[0]))
    return matched, (f"{len(others):,} of {len(matched):,} videos lie under another ending, such as {pair}",)


def refuse_missing(splits: dict, data: DataConfig) -> None:
    """Raise FileNotFoundError if more videos do not exist, or are empty, than may be skipped.

    `splits`: `Samples` by a word for them, such as "test".
    """
    percent = data.max_skipped if data.on_error == "skip" else 0.0
    for word, samples in splits.items():
        folders = Folders(samples.root)
        missing = [path for path in samples.paths() if not folders.holds_something(path)]
        if 100 * len(missing) > percent * len(samples):
            first = quoted(missing[0], 120)
            raise FileNotFoundError(
                f"{len(missing):,} of the {len(samples):,} {word} videos do not exist or are empty, such as {first} "
                f"in {samples.root}: check-videos lists them, and data.checked leaves them out"
            )
