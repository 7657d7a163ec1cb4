import shutil

import pytest

from ctlib.data.arrow import CLASSES
from ctlib.data.catalog import load_samples


def test_the_built_in_data_set_is_read_from_its_lists(arrow_root):
    train, val = (load_samples("arrow", arrow_root, split) for split in ("train", "val"))
    assert len(train) == 32 and len(val) == 32 and val.classes == CLASSES
    assert val[1].source == str(arrow_root / "val" / "000000_backward.mp4")
    assert (val[1].label, val[1].num_frames) == (1, 48)
    assert not {sample.source for sample in train} & {sample.source for sample in val}


def test_the_fingerprint_follows_the_lists_and_not_the_place(arrow_root, tmp_path):
    before = load_samples("arrow", arrow_root, "val").fingerprint
    copy = tmp_path / "elsewhere"
    shutil.copytree(arrow_root, copy)
    assert load_samples("arrow", copy, "val").fingerprint == before
    text = (copy / "val.txt").read_text()
    (copy / "val.txt").write_text(text.replace(" 0\n", " 1\n", 1))
    assert load_samples("arrow", copy, "val").fingerprint != before


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("a.mp4 48", "line 2: needed 'path num_frames label'"),
        ("a.mp4 48 x", "line 2: needed"),
        ("a.mp4 48 16", "line 2: label 16 is outside 0..15"),
        ("a.mp4 0 3", "line 2: a video of 0 frames"),
    ],
)
def test_a_bad_line_is_named(arrow_root, tmp_path, line, text):
    shutil.copytree(arrow_root, tmp_path / "copy")
    (tmp_path / "copy" / "val.txt").write_text(f"ok.mp4 48 0\n{line}\n")
    with pytest.raises(ValueError, match=f"val.txt, {text}"):
        load_samples("arrow", tmp_path / "copy", "val")


def test_harmless_differences_are_accepted(arrow_root, tmp_path):
    shutil.copytree(arrow_root, tmp_path / "copy")
    (tmp_path / "copy" / "val.txt").write_bytes("\ufeffwith space.mp4 48 0\r\n\r\n视频.mp4 48 1\r\n".encode())
    samples = load_samples("arrow", tmp_path / "copy", "val")
    assert [sample.source.rsplit("/")[-1] for sample in samples] == ["with space.mp4", "视频.mp4"]


def test_what_is_not_there_is_said(arrow_root, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        load_samples("arrow", tmp_path / "nowhere", "val")
    with pytest.raises(FileNotFoundError, match="no annotation file .*classes.txt"):
        load_samples("arrow", tmp_path, "val")
    with pytest.raises(ValueError, match="unknown data set 'arow': did you mean 'arrow'"):
        load_samples("arow", arrow_root, "val")
    with pytest.raises(ValueError, match="unknown split 'test'"):
        load_samples("arrow", arrow_root, "test")
    shutil.copytree(arrow_root, tmp_path / "copy")
    (tmp_path / "copy" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no video"):
        load_samples("arrow", tmp_path / "copy", "val")
