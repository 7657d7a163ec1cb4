"""Damage that no decoder reports: a video's content is compared with what it was when the set was known to be good.

`digests.csv`, beside the results of a check, keeps of each good video its path, bytes, digest, and when its content was
last found equal to that (UTC). Rows are appended; the last one of a path counts.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ctlib import files
from ctlib.data.check import (
    BAD,
    COLUMNS,
    GOOD,
    drop_rows,
    journal,
    read_check,
    read_rows,
    run_each,
    silent,
    stamp,
    unread_reason,
    write_rows,
)

DIGESTS, DIGEST_COLUMNS = "digests.csv", ("path", "bytes", "digest", "compared")
_KIND = "sha256:"


class Digest(NamedTuple):
    """The content of a video, and when it was last found to be that."""

    bytes: int
    digest: str
    compared: str  # UTC, as in 2026-01-31T12:00:00+00:00


class Comparison(NamedTuple):
    """The good videos of a list and their digests."""

    kept: int  # whose digest is new
    equal: int
    changed: dict[str, str]  # reason by path; these count as bad now


def compare(
    samples: Sequence,
    folder: str | Path,
    workers: int = 2,
    limit_seconds: float = 120.0,
    on_done: Callable[[int, int], None] = silent,
    renew: bool = False,
) -> Comparison:
    """Compare the good videos of a list with their digests, and keep the digests of those that have none.

    A video that differs becomes bad in `folder`, with the reason. Its digest stays, so that the right file, brought
    back and checked again, is good. Those compared longest ago come first: an interrupted call loses nothing.

    Args:
        folder: with the results of `check.check`.
        on_done: called with the number of videos that are done and of all, first before any work.
        renew: keep new digests and compare with none, after videos were replaced on purpose.

    Raises:
        ValueError: a line of the files in `folder` that cannot be read, with the file and the line. Or a check is
            writing to `folder`.
        OSError: `folder` cannot be written to, or the data set's root is gone.
    """
    folder, changed, kept = Path(folder), {}, 0
    good, _ = read_check(folder)
    with files.locked(folder):
        known = {} if renew else read_digests(folder)
        paths = [path for path in samples.paths() if path in good]
        paths.sort(key=lambda path: known[path].compared if path in known else "")
        on_done(0, len(paths))
        results = run_each(digest_of, samples.root, dict.fromkeys(paths, ()), workers, limit_seconds)
        try:
            with journal(folder / DIGESTS, DIGEST_COLUMNS) as append, closing(results):
                for done, (path, (size, digest)) in enumerate(results, start=1):
                    before = known.get(path)
                    if not digest.startswith(_KIND):
                        changed[path] = digest
                    elif before is not None and before[:2] != (size, digest):
                        sizes = f", {size} bytes for {before.bytes}" if size != before.bytes else ""
                        changed[path] = f"changed: another content than on {before.compared[:10]}{sizes}"
                    else:
                        kept += before is None
                        append(path, size, digest, datetime.now(UTC).isoformat(timespec="seconds"))
                    on_done(done, len(paths))
        finally:
            _set_bad(folder, changed, samples.root)
        rows = ((path, *digest) for path, digest in read_digests(folder).items())  # the last one of each path
        write_rows(folder / DIGESTS, DIGEST_COLUMNS, rows)
    return Comparison(kept, len(paths) - kept - len(changed), changed)


def digest_of(root: str, path: str) -> tuple[int, str]:
    """Bytes and digest of a video file, or of the images of a folder of frames; else 0 and the reason."""
    source = os.path.join(root, path)
    try:
        if not os.path.isdir(source):
            with open(source, "rb") as file:
                return os.fstat(file.fileno()).st_size, f"{_KIND}{hashlib.file_digest(file, 'sha256').hexdigest()}"
        whole, size = hashlib.sha256(), 0
        for name in sorted(os.listdir(source)):
            if name.startswith(".") or not name.lower().endswith((".jpg", ".jpeg", ".png")):
                continue
            with open(os.path.join(source, name), "rb") as file:
                size += os.fstat(file.fileno()).st_size
                whole.update(os.fsencode(name) + b"\0" + hashlib.file_digest(file, "sha256").digest())
        return size, f"{_KIND}{whole.hexdigest()}"
    except OSError as error:
        return 0, unread_reason(source, error)


def read_digests(folder: str | Path) -> dict[str, Digest]:
    """The digests in the folder of a check by path; none if there is no file of them.

    Raises:
        ValueError: a line that cannot be read, with the file and the line.
    """
    rows = read_rows(Path(folder) / DIGESTS, DIGEST_COLUMNS)
    return {path: Digest(int(size), *others) for _, (path, size, *others) in rows}


def last_compared(folder: str | Path, paths: Iterable[str]) -> str:
    """The day (UTC) since which each of these videos was found equal to its digest; "" if one has none."""
    known = read_digests(folder)
    return min((known[path].compared[:10] if path in known else "" for path in paths), default="")


def same_content(folder: str | Path, train: Iterable[str], val: Iterable[str]) -> list[tuple[str, str]]:
    """The test videos whose content is that of a training video under another name, each with that one."""
    known = read_digests(folder)
    trained = {known[path][:2]: path for path in train if path in known}
    pairs = ((path, trained.get(known[path][:2])) for path in val if path in known)
    return [(path, other) for path, other in pairs if other not in (None, path)]


def _set_bad(folder: Path, changed: dict[str, str], root: Path) -> None:
    if changed:
        for name in (GOOD, BAD):
            drop_rows(folder / name, COLUMNS[name], set(changed))
        with journal(folder / BAD, COLUMNS[BAD]) as append:
            for path, reason in changed.items():
                append(path, reason, *stamp(root, path))
