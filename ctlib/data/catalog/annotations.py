"""Readers of annotation files as their publishers ship them.

Each returns rows (path below the root, label, number of frames or None). Line ends of any system, a byte-order mark
and empty lines are accepted. A bad line is a ValueError that names the file and the line.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ctlib import files
from ctlib.files import quoted

_LINE_END = re.compile(r"\r\n?|\n")

Row = tuple[str, int, int | None]


class Rows:
    """The rows of one annotation file, checked as they are added.

    All paths are below `root`. `unit` is what the error messages number.
    """

    def __init__(self, file: Path, root: Path, classes: Sequence[str], unit: str = "line"):
        self.file, self.root, self.unit = file, root, unit
        self.labels = {name: label for label, name in enumerate(classes)}
        self.num_classes = len(classes)
        self.rows: list[Row] = []
        self._seen: dict[str, int] = {}

    def add(self, number: int, path: str, label: int | str, num_frames: int | None = None) -> None:
        """Add the row of line `number`; a label that is a string is a class name."""
        path = self.below_root(number, path)
        if isinstance(label, str):
            if label not in self.labels:
                raise self.error(number, f"unknown class {quoted(label)}")
            label = self.labels[label]
        if not 0 <= label < self.num_classes:
            raise self.error(number, f"label {label} is outside 0..{self.num_classes - 1}")
        if num_frames is not None and num_frames < 1:
            raise self.error(number, f"a video needs at least one frame, got {num_frames}")
        if path in self._seen:
            raise self.error(number, f"{quoted(path)} is already in {self.unit} {self._seen[path]}")
        self._seen[path] = number
        self.rows.append((path, label, num_frames))

    def below_root(self, number: int, path: str) -> str:
        """The path below the root, with forward slashes; absolute paths inside the root are accepted."""
        try:
            path.encode("utf-8", "surrogateescape")  # the system gives file names that are not UTF-8 in this form
        except UnicodeEncodeError:
            raise self.error(number, f"not a usable path: {quoted(path)}") from None
        if not path or "\0" in path or "\r" in path or "\n" in path:
            raise self.error(number, f"not a usable path: {quoted(path)}")
        if path[0] not in "/." and "/." not in path and "//" not in path and path[-1] != "/":
            return path  # already normal, as nearly all of a million lines are
        pure = PurePosixPath(path)
        if pure.is_absolute():
            roots = {os.path.abspath(self.root), os.path.realpath(self.root)}
            pure = next((pure.relative_to(root) for root in roots if pure.is_relative_to(root)), PurePosixPath(".."))
        if ".." in pure.parts or not pure.parts:
            raise self.error(number, f"{quoted(path)} is outside the root {self.root}")
        return str(pure)

    def error(self, number: int, reason: str) -> ValueError:
        return _error(self.file, number, reason, self.unit)

    def all(self) -> list[Row]:
        if not self.rows:
            raise ValueError(f"{self.file}: the list has no videos")
        return self.rows


def _error(file: Path, number: int, reason: str, unit: str = "line") -> ValueError:
    return ValueError(f"{file}, {unit} {number}: {reason}")


def existing(root: Path, *names: str) -> Path | None:
    """The first of `names` that is a file below `root`."""
    return next((root / name for name in names if (root / name).is_file()), None)


def find(root: Path, *names: str) -> Path:
    """The same, which must exist."""
    if file := existing(root, *names):
        return file
    raise FileNotFoundError(f"no annotation file {' or '.join(names)} in {root}")


def find_folder(root: Path, *names: str) -> str:
    """The first of `names` that is a folder below `root`; "" is the root itself."""
    for name in names:
        if (root / name).is_dir():
            return name
    raise FileNotFoundError(f"no folder {' or '.join(names)} in {root}")


def text_of(file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"no annotation file {file}")
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("latin-1")
        raise _error(file, len(_LINE_END.findall(before)) + 1, "not UTF-8 text") from None


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not empty."""
    for number, line in enumerate(_LINE_END.split(text_of(file)), start=1):
        if line := line.strip():
            yield number, line


def read_classes(file: Path) -> tuple[str, ...]:
    """One class name per line, in label order."""
    return _each_class_once(file, lines_of(file))


def _each_class_once(file: Path, names: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    seen = {}
    for number, name in names:
        if name in seen:
            raise _error(file, number, f"class {quoted(name)} is already in line {seen[name]}")
        seen[name] = number
    if not seen:
        raise ValueError(f"{file}: the list has no classes")
    return tuple(seen)


MOST_CLASSES = 100_000  # in a list without class names; a larger label is some other column


def read_list(file: Path, root: Path, classes: Sequence[str] | None = None) -> list[Row]:
    """`path num_frames label` lines (TSN, TSM, the authors' release), or `path label` lines.

    The first line decides for all: it has three columns if its last two are numbers. Paths may have spaces.
    Without `classes`, any label from 0 is accepted.
    """
    rows = Rows(file, root, classes or ())
    columns = None
    for number, line in lines_of(file):
        parts = line.rsplit(maxsplit=2)
        if columns is None:
            columns = 3 if len(parts) == 3 and _is_number(parts[1]) and _is_number(parts[2]) else 2
            needed = "'path num_frames label'" if columns == 3 else "'path label' or 'path num_frames label'"
        parts = line.rsplit(maxsplit=columns - 1)
        if len(parts) != columns or not all(map(_is_number, parts[1:])):
            raise rows.error(number, f"needed {needed}, got {quoted(line)}")
        label = int(parts[-1])
        if classes is None:
            if label > MOST_CLASSES:
                raise rows.error(number, f"label {label}: without classes.txt, labels must be at most {MOST_CLASSES}")
            rows.num_classes = max(rows.num_classes, label + 1)
        rows.add(number, parts[0], label, int(parts[1]) if columns == 3 else None)
    return rows.all()


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 10


def read_something_v1(file: Path, root: Path, classes: Sequence[str], folder: str) -> list[Row]:
    """`id;label` lines; a video is the folder of its frames, `folder`/id."""
    rows = Rows(file, root, classes)
    for number, line in lines_of(file):
        identity, separator, label = line.partition(";")
        if not separator:
            raise rows.error(number, f"needed 'id;label', got {quoted(line)}")
        rows.add(number, join(folder, identity), label)
    return rows.all()


def read_something_v2(file: Path, root: Path, classes: Sequence[str], folder: str) -> list[Row]:
    """A JSON list of {"id", "template"}; the class is the template without brackets. Errors count entries from 1."""
    entries = _json(file)
    if not isinstance(entries, list):
        raise ValueError(f"{file}: needed a list of entries with id and template")
    rows = Rows(file, root, classes, unit="entry")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("id", "template")):
            raise rows.error(number, f"needed an entry with id and template, got {quoted(entry)}")
        template = entry["template"].replace("[", "").replace("]", "")
        rows.add(number, join(folder, f"{entry['id']}.webm"), template)
    return rows.all()


def read_something_v2_classes(file: Path) -> tuple[str, ...]:
    """{"class": "label"}, as in labels.json, in label order. Errors count entries from 1."""
    labels = _json(file)
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"{file}: needed class names with their labels as strings")
    names: dict[int, str] = {}
    for number, (name, label) in enumerate(labels.items(), start=1):
        if not isinstance(label, str) or not _is_number(label):
            raise _error(file, number, f"needed a class name with its label as a string, got {quoted(label)}", "entry")
        if not 0 <= int(label) < len(labels) or int(label) in names:
            reason = f"labels must be 0..{len(labels) - 1}, each once, got {label} for {quoted(name)}"
            raise _error(file, number, reason, "entry")
        names[int(label)] = name
    return tuple(names[label] for label in range(len(names)))


def read_usage(file: Path, split: str) -> dict:
    """What `prepared.json` records of a split: arguments of `catalog.Samples`."""
    record = files.read_json(file)
    try:
        part = record["splits"][split]
        usage = {"sampling": record["sampling"], "flip": record["flip"], "listed": part["listed"]}
        usage["made_from"] = f"{sorted(record['parameters'].items())} {part['fingerprint']}"
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{file}: does not say how {split} was prepared") from None
    for (name, value), kind in zip(usage.items(), (str, bool, int, str), strict=True):
        if not isinstance(value, kind):
            raise ValueError(f"{file}: {name} must be {kind.__name__}, got {quoted(value)}")
    return usage


def _json(file: Path):
    text = text_of(file)
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise _error(file, error.lineno, f"not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a name twice, a number of thousands of digits, deep nesting
        raise ValueError(f"{file}: not readable as JSON ({error})") from None


def _each_once(pairs: list[tuple[str, object]]) -> dict:
    """An object of JSON, whose parser takes the last of two equal names without a word."""
    names = dict(pairs)
    if len(names) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{quoted(twice)} is there twice")
    return names


KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def read_kinetics(file: Path) -> Iterator[tuple[int, str, str, int, int]]:
    """Line number, class, YouTube id, and the clip's first and last second, of each line of a Kinetics CSV."""
    reader = csv.reader(io.StringIO(text_of(file), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        if missing := [column for column in KINETICS_COLUMNS if column not in header]:
            raise _error(file, 1, f"needed the columns {', '.join(KINETICS_COLUMNS)}, lacks {', '.join(missing)}")
        if twice := [column for column in KINETICS_COLUMNS if header.count(column) > 1]:
            raise _error(file, 1, f"the column {twice[0]} is there twice")
        places = [header.index(column) for column in KINETICS_COLUMNS]
        last = max(places)
        for line in filter(None, reader):
            name, identity, start, end = (line[place].strip() for place in places) if len(line) > last else ("",) * 4
            if not name or not identity or not _is_number(start) or not _is_number(end):
                raise _error(file, reader.line_num, f"needed a label, an id and two times, got {quoted(line)}")
            yield reader.line_num, name, identity, int(start), int(end)
    except csv.Error as error:
        raise _error(file, reader.line_num, f"not CSV ({error})") from None


def read_ucf101_classes(file: Path) -> tuple[str, ...]:
    """`number name` lines, numbered from 1."""

    def names() -> Iterator[tuple[int, str]]:
        for needed, (number, line) in enumerate(lines_of(file), start=1):
            index, _, name = line.partition(" ")
            if not _is_number(index) or int(index) != needed or not name.strip():
                raise _error(file, number, f"needed '{needed} ClassName', got {quoted(line)}")
            yield number, name.strip()

    return _each_class_once(file, names())


def read_ucf101(file: Path, root: Path, classes: Sequence[str], folder: str) -> list[Row]:
    """`Class/video.avi` lines; training lists add the class's number, from 1."""
    rows = Rows(file, root, classes)
    for number, line in lines_of(file):
        path, given = [*line.split(maxsplit=1), "", ""][:2]
        name, slash, _ = path.partition("/")
        if not slash:
            raise rows.error(number, f"needed 'Class/video.avi', got {quoted(line)}")
        rows.add(number, join(folder, path), name)
        if given and (not _is_number(given) or int(given) != rows.labels[name] + 1):
            raise rows.error(number, f"class {quoted(name)} is number {rows.labels[name] + 1}, got {quoted(given)}")
    return rows.all()


def read_hmdb51(file: Path, root: Path, classes: Sequence[str], folder: str, name: str, use: int) -> list[Row]:
    """`video.avi use` lines of one class, those of one use: 1 training, 2 test, 0 neither."""
    rows = Rows(file, root, classes)
    for number, line in lines_of(file):
        video, _, listed_use = line.rpartition(" ")
        if listed_use not in ("0", "1", "2") or not video.strip():
            raise rows.error(number, f"needed 'video.avi' and 0, 1 or 2, got {quoted(line)}")
        if int(listed_use) == use:
            rows.add(number, join(folder, f"{name}/{video.strip()}"), name)
    return rows.rows  # a class may have no video of one use


def join(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path
