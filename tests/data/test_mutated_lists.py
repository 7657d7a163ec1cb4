"""Lists and records with random damage are read, or refused by one short line that names the file and the place."""

import json
import re

import numpy as np
import pytest

from ctlib.data.catalog import load_samples
from tests.data.test_catalog import LAYOUTS, checked, write

PREPARED = {
    "sampling": "dense",
    "flip": False,
    "parameters": {"short_side": 256, "gop": 8},
    "splits": {part: {"listed": 2, "videos": 2, "fingerprint": "f"} for part in ("train", "val")},
}
DIGESTS = "path,bytes,digest,compared\n" + "".join(
    f"{path},7,sha256:0123,2026-01-31T12:00:00+00:00\n" for path in ("a b/1", "c.mp4", '"a ""quoted"", name.mp4"')
)
GOOD = "path,frames,bytes,modified\na b/1,30,0,1790000000000000000\nc.mp4,12,,\n视频/d.mp4,9,700,1790000000000000000\n"
SETS = dict(LAYOUTS)
SETS["list"] = LAYOUTS["list"] | {"prepared.json": json.dumps(PREPARED, indent=2), ".checked/digests.csv": DIGESTS}
FILES = [(name, file) for name, files in SETS.items() for file, text in files.items() if text]
FILES += [("list", f".checked/{file}.csv") for file in ("good", "bad")]
PIECES = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b" ",
    b"\t",
    b",",
    b";",
    b'"',
    b"'",
    b"/",
]
PIECES += [
    b"../",
    b"-1",
    b"0",
    b"9" * 30,
    b"1e3",
    b"x" * 5000,
    "视".encode(),
    "\u2028".encode(),
    b"\\ud800",
    b"{}",
    b"[[",
]
# What is wrong with a file as a whole has no place in it.
WHOLE = (
    r"no videos?( for \w+)?$|no good video|no classes$|is damaged|readable as JSON|does not say how|^no annotation"
    r"|does not know|needed (a list of entries|class names with)|labels start at 1|sampling must|flip must"
    r"|listed must|none of the \d|a class name must be one line"
)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three random changes: of a byte, a range or a line."""
    for _ in range(rng.integers(1, 4)):
        first, last = sorted(rng.integers(0, len(content) + 1, 2))
        piece, lines = PIECES[rng.integers(len(PIECES))], content.splitlines(keepends=True)
        kind = rng.integers(7)
        if kind == 0:
            content = content[:first] + piece + content[first:]
        elif kind == 1:
            content = content[:first] + content[min(last, first + 8) :]
        elif kind == 2:
            content = content[:first] + content[first:last] + content[first:]
        elif kind == 3:
            content = content[:first]
        elif kind == 4 and content:
            place = first % len(content)
            content = content[:place] + bytes([content[place] ^ 1 << rng.integers(8)]) + content[place + 1 :]
        elif kind == 5 and lines:
            content = b"".join(lines[index] for index in rng.integers(0, len(lines), len(lines)))
        elif kind == 6 and lines:
            place = rng.integers(len(lines))
            content = b"".join([*lines[:place], piece * 3, b"\n", *lines[place:]])
    return content


def check_mutations(root, name, file, seeds):
    files = {path.rsplit("/")[-1] for path, text in SETS[name].items() if text} | {"good.csv", "bad.csv"}
    write(root, SETS[name])
    if name == "list":
        (root / ".checked" / "digests.csv").unlink()
        (root / ".checked").rmdir()
        checked(root / ".checked", {"a b/1": 30, "c.mp4": 12, "视频/d.mp4": 9}, {"e.mp4": "truncated: 3 seconds"})
        write(root, {".checked/digests.csv": DIGESTS, ".checked/good.csv": GOOD})
    whole = (root / file).read_bytes()
    options = {"checked": root / ".checked"} if name == "list" else {}
    if fold := re.search(r"(?:list0|_split)(\d)", file):
        options["fold"] = int(fold[1])
    read = 0
    for seed in seeds:
        content = mutated(whole, np.random.default_rng([seed, len(file)]))
        (root / file).write_bytes(content)
        for split in ("train", "val"):
            try:
                samples = load_samples(name, root, split, **options)
            except (ValueError, FileNotFoundError) as error:
                text = str(error)
                about = f"{file}, {split}, seed {seed}: {text!r} of {content[:300]!r}"
                assert len(text) <= 500 and "\n" not in text and "\r" not in text, about
                assert any(known in text for known in files) or "none of the" in text or str(root) in text, about
                assert re.search(r", (line|entry) \d+: ", text) or re.search(WHOLE, text), about
                continue
            read += 1
            for index in range(len(samples)):
                path, sample = samples.path(index), samples[index]
                assert 0 <= sample.label < len(samples.classes) and (sample.num_frames or 1) > 0
                assert path and "\n" not in path and "\r" not in path and ".." not in path.split("/")
            assert all(len(note) <= 500 and "\n" not in note for note in samples.notes), samples.notes
            assert len(samples) <= samples.listed and all(samples.classes)
    return read


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "file"), FILES)
def test_mutated_lists_are_read_or_refused_by_line(name, file, tmp_path):
    assert check_mutations(tmp_path, name, file, range(20)) < 40  # some are refused


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "file"), FILES)
def test_many_mutated_lists(name, file, tmp_path):
    """20,000 in all."""
    check_mutations(tmp_path, name, file, range(100, 101 + 20_000 // len(FILES)))
