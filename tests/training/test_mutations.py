"""Records that were damaged in any way: read, or refused in one short line that names the file."""

import json
import random
import warnings

import pandas as pd
import pytest
import torch

from ctlib.config import RunConfig
from ctlib.training import records
from ctlib.training.evaluate import Protocol, Scores
from tests.training.test_records import run_of

CONFIG = RunConfig(name="x", rows=(("2a", "CT-Module"),))
RUN = run_of(CONFIG)
JUNK = [
    "",
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    "x" * 5000,
    "\x1b[1m",
    "é\udcff",
    [],
    [[1]],
    {},
    {"a": [{}]},
]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """One or a few changes: bits, cuts, doubled parts, other values of JSON, other cells of a table."""
    kind = draw.randrange(6)
    place, other = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    if kind == 0:
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + content[other:]
    if kind == 3:
        return content[:place] + draw.randbytes(draw.randint(1, 2000)) + content[other:]
    try:
        value = json.loads(content)
    except ValueError:
        cells = content.split(b",")
        cells[draw.randrange(len(cells))] = str(draw.choice(JUNK)).encode(errors="surrogateescape")
        return b",".join(cells)
    return json.dumps(replaced(value, draw)).encode()


def replaced(value, draw):
    """The value with one part of it, at any depth, replaced, left out or renamed."""
    if not value or not isinstance(value, dict | list) or draw.random() < 0.1:
        return draw.choice(JUNK)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = draw.choice(list(keys))
    changed = value.copy()
    if isinstance(value, dict) and draw.random() < 0.2:
        changed[str(draw.choice(JUNK))] = changed.pop(key)
    elif draw.random() < 0.1:
        del changed[key]
    else:
        changed[key] = replaced(value[key], draw)
    return changed


@pytest.fixture
def folder(tmp_path):
    folder = records.RunFolder(tmp_path / "x" / "seed0")
    folder.start(RUN)
    numbers = {"lr": 0.1, "loss": 2.5, "train_top1": 30.0, "skipped": 0, "top1": float("nan"), "top5": 60.0}
    folder.write_history([{"epoch": epoch, **numbers} for epoch in (1, 2, 3)])
    table = {
        "source": ["a b.mp4", "1", "c,d"],
        "label": [0, 1, -1],
        "predicted": [1, 0, 1],
        "confidence": [0.5, 1, 0.7],
    }
    folder.finish({"rows": [["2a", "CT"]], "top1": 50.0, "top5": 60.0, "seed": 0, "seconds": 3.5}, pd.DataFrame(table))
    protocol = Protocol("custom", "0" * 16, 8, 32, 32, "sparse", 1, 1, "fp32", 0.5, 1000)
    Scores(torch.randn(3, 2), torch.tensor([0, 1, -1]), ("a", "b"), "f", (protocol,)).save(folder.path / "scores.npz")
    return folder


READERS = {
    "config.json": [
        lambda folder: folder.record(),
        lambda folder: folder.config(),
        lambda folder: folder.is_finished(RUN),
        lambda folder: folder.differences(CONFIG),
    ],
    "result.json": [
        lambda folder: folder.result(),
        lambda folder: folder.add_rows([("3", "CT-Net")]),
        lambda folder: records.load(folder.path.parent),
    ],
    "history.csv": [lambda folder: folder.history()],
    "predictions.csv": [lambda folder: folder.predictions()],
    "scores.npz": [lambda folder: Scores.load(folder.path / "scores.npz")],
}


def check(folder, name, count, seed):
    """How many of `count` mutated files were refused; each is read, or refused as it should be."""
    path, draw, refused = folder.path / name, random.Random(seed), 0
    content = path.read_bytes()
    for _ in range(count):
        changed = mutated(content, draw)
        for read in READERS[name]:
            path.write_bytes(changed)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(folder)
            except ValueError as error:
                refused += 1
                text = str(error)
                assert (name in text or str(folder.path) in text) and len(text) < 500 and text.isprintable(), text
    path.write_bytes(content)
    return refused


@pytest.mark.parametrize("name", READERS)
def test_a_record_that_was_changed_is_read_or_refused_in_one_line(folder, name):
    assert check(folder, name, 150, seed=1) > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_4000_changes_of_a_record(folder, name):
    assert check(folder, name, 4000, seed=2) > 1000
