import os
import shutil

import numpy as np
import pytest

from ctlib.data import check, digests
from ctlib.data.catalog import Samples, load_samples, load_splits
from tests.data.test_catalog import write
from tests.data.videos import everything


@pytest.fixture
def root(tmp_path):
    """Eight files and a folder of frames that a check has called good; what is in them does not matter here."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(2):
                (root / split / name / f"{number}.mp4").write_bytes(rng.bytes(3000 + number))
    (root / "train/a/frames").mkdir()
    for number in range(3):
        (root / "train/a/frames" / f"{number:05d}.jpg").write_bytes(rng.bytes(500))
    for samples in load_splits("folder", root).values():
        check.check(samples, root / ".checked", decode=always_good)
    return root


def always_good(source):
    return 9


def compare(root, split="train", **options):
    return digests.compare(load_samples("folder", root, split), root / ".checked", **options)


def test_what_did_not_change_is_equal(root):
    before = everything(root / "train")
    assert compare(root) == (5, 0, {}) and compare(root, "val") == (4, 0, {})
    assert compare(root) == (0, 5, {})
    known = digests.read_digests(root / ".checked")
    assert len(known) == 9 and known["train/b/1.mp4"].bytes == 3001 and known["train/a/frames"].bytes == 1500
    assert everything(root / "train") == before
    lines = (root / ".checked" / "digests.csv").read_text().splitlines()
    assert lines[0] == "path,bytes,digest,compared" and len(lines) == 10


def test_one_bit_is_seen_and_the_right_file_is_good_again(root):
    compare(root)
    path = root / "train/a/0.mp4"
    right = path.read_bytes()
    wrong = bytearray(right)
    wrong[1500] ^= 1
    path.write_bytes(wrong)
    made = compare(root)
    day = digests.read_digests(root / ".checked")["train/a/0.mp4"].compared[:10]
    assert made == (0, 4, {"train/a/0.mp4": f"changed: another content than on {day}"})
    assert check.read_check(root / ".checked")[1] == made.changed
    kept = load_samples("folder", root, "train", checked=root / ".checked")
    assert len(kept) == 4 and kept.coverage == 80 and kept.compared == day
    samples = load_samples("folder", root, "train")
    check.check(samples, root / ".checked", again="bad", decode=always_good)
    assert compare(root).changed == made.changed
    path.write_bytes(right)
    check.check(samples, root / ".checked", again="bad", decode=always_good)
    assert compare(root) == (0, 5, {})


def test_every_kind_of_change(root):
    compare(root)
    (root / "train/a/0.mp4").write_bytes(b"short")
    (root / "train/a/1.mp4").unlink()
    (root / "train/a/1.mp4").symlink_to("/nowhere")
    shutil.copy(root / "train/b/0.mp4", root / "train/b/1.mp4")
    (root / "train/b/0.mp4").write_bytes((root / "train/b/0.mp4").read_bytes()[:-1] + b"x")
    os.rename(root / "train/a/frames/00001.jpg", root / "train/a/frames/00003.jpg")
    changed = compare(root).changed
    assert changed.pop("train/a/1.mp4") == "missing"
    assert changed.pop("train/a/0.mp4").endswith(", 5 bytes for 3000")
    assert changed.pop("train/b/1.mp4").endswith(", 3000 bytes for 3001")
    assert changed.keys() == {"train/a/frames", "train/b/0.mp4"}
    assert all(reason.startswith("changed: another content than on ") for reason in changed.values())


def test_other_files_beside_frames_do_not_count(root):
    compare(root)
    write(root / "train/a/frames", {"Thumbs.db": "x", ".DS_Store": "x", "notes.txt": "x", "._00001.jpg": "x"})
    assert compare(root) == (0, 5, {})


def test_digests_are_renewed_where_videos_were_replaced_on_purpose(root):
    compare(root)
    (root / "train/a/0.mp4").write_bytes(b"another encoding")
    assert compare(root, renew=True) == (5, 0, {}) and compare(root) == (0, 5, {})
    assert digests.read_digests(root / ".checked")["train/a/0.mp4"].bytes == 16


def test_an_interrupted_comparison_loses_nothing(root, monkeypatch):
    def one_by_one(function, root, jobs, *_limits):  # processes may end in another order than they began
        for path in jobs:
            yield path, function(str(root), path)

    monkeypatch.setattr(digests, "run_each", one_by_one)
    compare(root)
    (root / "train/a/1.mp4").write_bytes(b"damaged")
    folder, dated = root / ".checked", "2020-01-0{}T00:00:00+00:00"
    known = digests.read_digests(folder)
    order = ["train/b/1.mp4", "train/a/1.mp4", "train/b/0.mp4", "train/a/0.mp4", "train/a/frames"]
    rows = [",".join([path, *map(str, known[path][:2]), dated.format(day)]) for day, path in enumerate(order, start=1)]
    (folder / "digests.csv").write_text("path,bytes,digest,compared\n" + "\n".join(rows) + "\n")

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(root, workers=1, on_done=stop)
    done = [path for path, row in digests.read_digests(folder).items() if not row.compared.startswith("2020")]
    assert set(done) == {"train/b/1.mp4", "train/b/0.mp4"}  # the longest ago first
    assert list(check.read_check(folder)[1]) == ["train/a/1.mp4"]
    assert load_samples("folder", root, "train", checked=folder).compared == "2020-01-04"
    with open(folder / "digests.csv", "a") as file:
        file.write("train/a/0.mp4,3000,sha2")  # killed in the middle of a line
    assert compare(root) == (0, 4, {})


def test_coverage_says_nothing_until_each_video_was_compared(root):
    folder = root / ".checked"
    assert load_samples("folder", root, "train", checked=folder).compared == ""
    samples = load_samples("folder", root, "train")
    few = Samples([(path, 0, None) for path in samples.paths()[:3]], ("a",), root)
    digests.compare(few, folder)
    assert few.only_good(folder).compared and samples.only_good(folder).compared == ""


def test_copies_in_both_splits_are_noted(root):
    shutil.copy(root / "train/a/1.mp4", root / "val/b/0.mp4")
    for split in ("train", "val"):
        compare(root, split)
    with pytest.warns(
        UserWarning, match="1 of 4 test videos have the content of training videos, such as 'val/b/0.mp4'"
    ):
        splits = load_splits("folder", root, checked=root / ".checked")
    assert splits["val"].notes[-1].endswith("of 'train/a/1.mp4'") and splits["train"].compared


@pytest.mark.parametrize(
    "line",
    ["a,1,sha256:0", "a,x,sha256:0,2026", "a,1,md5:0,2026", "a,1,sha256:0,soon", "a,²,sha256:0,2026", '"a"b,1,,'],
)
def test_a_line_that_cannot_be_read_is_named(root, line):
    (root / ".checked" / "digests.csv").write_text(f"path,bytes,digest,compared\n{line}\n")
    with pytest.raises(ValueError, match="digests.csv, line 2: "):
        compare(root)


def test_a_root_that_is_gone(root):
    compare(root)
    samples = load_samples("folder", root, "train")
    shutil.copytree(root / ".checked", root.parent / "checked")
    shutil.rmtree(root)
    with pytest.raises(FileNotFoundError, match="is gone; the results so far are kept"):
        digests.compare(samples, root.parent / "checked")
    assert len(check.read_check(root.parent / "checked")[0]) == 9
