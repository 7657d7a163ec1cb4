"""Every data set from its publisher's own files, in a small copy of its layout; no video is decoded here."""

import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctlib.data.actions import class_names
from ctlib.data.catalog import DATASETS, Samples, annotations, load_samples


def write(root, files):
    """Files by their path below `root`: text, or None for an empty file."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or "", encoding="utf-8")
    return root


def listed(samples):
    """(path below the root, class name, number of frames) of each."""
    return [(samples.path(i), samples.classes[sample.label], sample.num_frames) for i, sample in enumerate(samples)]


KINETICS = "label,youtube_id,time_start,time_end,split\n"
LAYOUTS = {
    "something-v1": {
        "something-something-v1-labels.csv": "Turning something\nDropping something\n",
        "something-something-v1-train.csv": "12;Dropping something\n7;Turning something\n",
        "something-something-v1-validation.csv": "3;Dropping something\n",
        "20bn-something-something-v1/12/00001.jpg": None,
    },
    "something-v2": {
        "something-something-v2-labels.json": json.dumps({"Dropping something": "0", "Turning something": "1"}),
        "something-something-v2-train.json": json.dumps(
            [
                {"id": "12", "label": "dropping a cup", "template": "Dropping [something]", "placeholders": ["a cup"]},
                {"id": "7", "label": "turning a cup", "template": "Turning [something]", "placeholders": ["a cup"]},
            ]
        ),
        "something-something-v2-validation.json": json.dumps([{"id": "3", "template": "Dropping [something]"}]),
        "20bn-something-something-v2/12.webm": None,
    },
    "kinetics-400": {
        "annotations/train.csv": KINETICS + 'zumba,abc,10,20,train\n"air drumming",d-_f,0,10,train\n',
        "annotations/val.csv": KINETICS + "zumba,xyz,3,13,val\n",
        "train/zumba/abc_000010_000020.mp4": None,
        "train/air_drumming/d-_f_000000_000010.mkv": None,
        "val/zumba/xyz_000003_000013.mp4": None,
    },
    "mini-kinetics-200": {
        "train.csv": KINETICS
        + "zumba,abc,10,20,train\nzumba,left,0,9,train\nair drumming,def,0,10,train\nyoga,y,0,10,train\n",
        "val.csv": KINETICS + "zumba,xyz,3,13,val\n",
        "train_ytid_list.txt": "abc\ndef\n",
        "val_ytid_list.txt": "xyz\nleft\n",
        "train/abc_000010_000020.mp4": None,
        "train/def_000000_000010.mp4": None,
        "train/left_000000_000009.mp4": None,
        "val/xyz_000003_000013.mp4": None,
    },
    "ucf101": {
        "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\n2 Archery\n",
        "ucfTrainTestlist/trainlist01.txt": "ApplyEyeMakeup/v_A_g08_c01.avi 1\nArchery/v_B_g08_c01.avi 2\n",
        "ucfTrainTestlist/testlist01.txt": "Archery/v_B_g01_c01.avi\n",
        "ucfTrainTestlist/trainlist03.txt": "Archery/v_B_g01_c01.avi 2\n",
        "ucfTrainTestlist/testlist03.txt": "ApplyEyeMakeup/v_A_g08_c01.avi\n",
        "UCF-101/ApplyEyeMakeup/v_A_g08_c01.avi": None,
    },
    "hmdb51": {
        "testTrainMulti_7030_splits/wave_test_split1.txt": "w one.avi 1 \nw2.avi 2 \nw3.avi 0 \n",
        "testTrainMulti_7030_splits/brush_hair_test_split1.txt": "b1.avi 1 \nb2.avi 1 \n",
        "testTrainMulti_7030_splits/wave_test_split2.txt": "w one.avi 2 \nw2.avi 1 \n",
        "testTrainMulti_7030_splits/brush_hair_test_split2.txt": "b1.avi 1 \nb2.avi 2 \n",
        "hmdb51_org/wave/w one.avi": None,
    },
    "list": {
        "classes.txt": "fall\nrise\n",
        "train.txt": "a b/1 30 0\nc.mp4 12 1\n",
        "val.txt": "视频/d.mp4 9 1\n",
    },
    "folder": {
        "train/rise/1.mp4": None,
        "train/fall/2.MOV": None,
        "train/fall/clip 3/00001.jpg": None,
        "val/rise/4.webm": None,
    },
}
EXPECTED = {
    "something-v1": (
        ("Dropping something", "Turning something"),
        [
            ("20bn-something-something-v1/12", "Dropping something", None),
            ("20bn-something-something-v1/7", "Turning something", None),
        ],
        [("20bn-something-something-v1/3", "Dropping something", None)],
    ),
    "something-v2": (
        ("Dropping something", "Turning something"),
        [
            ("20bn-something-something-v2/12.webm", "Dropping something", None),
            ("20bn-something-something-v2/7.webm", "Turning something", None),
        ],
        [("20bn-something-something-v2/3.webm", "Dropping something", None)],
    ),
    "kinetics-400": (
        ("air drumming", "zumba"),
        [
            ("train/zumba/abc_000010_000020.mp4", "zumba", None),
            ("train/air_drumming/d-_f_000000_000010.mkv", "air drumming", None),
        ],
        [("val/zumba/xyz_000003_000013.mp4", "zumba", None)],
    ),
    "mini-kinetics-200": (
        ("air drumming", "zumba"),
        [("train/abc_000010_000020.mp4", "zumba", None), ("train/def_000000_000010.mp4", "air drumming", None)],
        [("val/xyz_000003_000013.mp4", "zumba", None), ("train/left_000000_000009.mp4", "zumba", None)],
    ),
    "ucf101": (
        ("ApplyEyeMakeup", "Archery"),
        [
            ("UCF-101/ApplyEyeMakeup/v_A_g08_c01.avi", "ApplyEyeMakeup", None),
            ("UCF-101/Archery/v_B_g08_c01.avi", "Archery", None),
        ],
        [("UCF-101/Archery/v_B_g01_c01.avi", "Archery", None)],
    ),
    "hmdb51": (
        ("brush_hair", "wave"),
        [
            ("hmdb51_org/brush_hair/b1.avi", "brush_hair", None),
            ("hmdb51_org/brush_hair/b2.avi", "brush_hair", None),
            ("hmdb51_org/wave/w one.avi", "wave", None),
        ],
        [("hmdb51_org/wave/w2.avi", "wave", None)],
    ),
    "list": (("fall", "rise"), [("a b/1", "fall", 30), ("c.mp4", "rise", 12)], [("视频/d.mp4", "rise", 9)]),
    "folder": (
        ("fall", "rise"),
        [("train/fall/2.MOV", "fall", None), ("train/fall/clip 3", "fall", None), ("train/rise/1.mp4", "rise", None)],
        [("val/rise/4.webm", "rise", None)],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_read_as_its_publisher_ships_it(name, tmp_path):
    root = write(tmp_path, LAYOUTS[name])
    classes, train, val = EXPECTED[name]
    for split, rows in (("train", train), ("val", val)):
        samples = load_samples(name, root, split)
        assert samples.classes == classes and listed(samples) == rows
        assert samples[0].source == str(root / samples.path(0)) and samples.coverage == 100


def test_every_data_set_is_tried_here():
    assert set(LAYOUTS) | {"arrow"} == set(DATASETS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_sampling_and_flip_follow_the_authors(name, tmp_path):
    samples = load_samples(name, write(tmp_path, LAYOUTS[name]), "train")
    assert samples.sampling == ("dense" if "kinetics" in name else "sparse")
    assert samples.flip == ("something" not in name)


def test_the_splits_of_ucf101_and_hmdb51(tmp_path):
    ucf = write(tmp_path / "ucf", LAYOUTS["ucf101"])
    with pytest.warns(UserWarning, match="classes without a training video: 'ApplyEyeMakeup'"):
        samples = load_samples("ucf101", ucf, "train", fold=3)
    assert listed(samples) == [("UCF-101/Archery/v_B_g01_c01.avi", "Archery", None)]
    hmdb = write(tmp_path / "hmdb", LAYOUTS["hmdb51"])
    paths = [path for path, _, _ in listed(load_samples("hmdb51", hmdb, "val", fold=2))]
    assert paths == ["hmdb51_org/brush_hair/b2.avi", "hmdb51_org/wave/w one.avi"]
    with pytest.raises(ValueError, match="unknown fold '?4"):
        load_samples("ucf101", ucf, "train", fold=4)
    with pytest.raises(ValueError, match="'list' has no option 'fold': it has lists"):
        load_samples("list", write(tmp_path / "list", LAYOUTS["list"]), "train", fold=1)


def test_the_newer_release_of_something_v2(tmp_path):
    old = LAYOUTS["something-v2"]
    files = {name.replace("something-something-v2-", "labels/"): text for name, text in old.items() if "json" in name}
    samples = load_samples(
        "something-v2", write(tmp_path, files | {"20bn-something-something-v2/12.webm": None}), "val"
    )
    assert listed(samples) == [("20bn-something-something-v2/3.webm", "Dropping something", None)]


def test_kinetics_as_flat_files_named_by_id_and_with_videos_missing(tmp_path):
    files = {name: text for name, text in LAYOUTS["kinetics-400"].items() if name.endswith("csv")}
    root = write(tmp_path, files | {"videos_train/abc.mp4": None, "val/xyz_000003_000013.webm": None})
    paths = [path for path, _, _ in listed(load_samples("kinetics-400", root, "train"))]
    assert paths == [
        "videos_train/abc.mp4",
        "videos_train/air drumming/d-_f_000000_000010.mp4",
    ]  # the second is missing
    (root / "videos_train" / "abc.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="none of the 2 videos of .*train.csv is in .*videos_train"):
        load_samples("kinetics-400", root, "train")


def test_lists_without_frame_numbers_or_class_names(tmp_path):
    root = write(tmp_path, {"train.txt": "some clip.mp4 2\nother.mp4 0\n", "val.txt": "third.mp4 3\n"})
    with pytest.warns(UserWarning, match="classes without a training video: '1', '3'"):
        samples = load_samples("list", root, "train")
    assert samples.classes == ("0", "1", "2", "3")
    assert listed(samples) == [("some clip.mp4", "2", None), ("other.mp4", "0", None)]


def test_a_prepared_set_keeps_its_sampling_and_flips(tmp_path):
    record = {"sampling": "dense", "flip": False, "parameters": {"short_side": 256, "gop": 8}}
    record["splits"] = {"train": {"listed": 5, "videos": 2, "fingerprint": "f"}}
    root = write(tmp_path, LAYOUTS["list"] | {"prepared.json": json.dumps(record)})
    samples = load_samples("list", root, "train")
    assert (samples.sampling, samples.flip, samples.listed, samples.coverage) == ("dense", False, 5, 40)
    record["parameters"]["short_side"] = 128
    (root / "prepared.json").write_text(json.dumps(record))
    assert load_samples("list", root, "train").fingerprint != samples.fingerprint  # other pixels under the same names
    with pytest.raises(ValueError, match=r"prepared\.json: does not say how val was prepared"):
        load_samples("list", root, "val")


def test_the_lists_of_tsm_and_the_authors_may_lie_elsewhere(tmp_path):
    lists = {
        "category.txt": "fall\nrise\n",
        "train_videofolder.txt": "12 30 1\n11 9 0\n",
        "val_videofolder.txt": "13 20 0\n",
    }
    folder = write(tmp_path / "lists", lists)
    (tmp_path / "frames").mkdir()
    samples = load_samples("list", tmp_path / "frames", "train", lists=str(folder))
    assert listed(samples) == [("12", "rise", 30), ("11", "fall", 9)] and samples[0].source == str(
        tmp_path / "frames" / "12"
    )


def test_hmdb51_classes_are_in_alphabetical_order(tmp_path):
    names = ("kick_ball", "kick", "sword_exercise", "sword")
    files = {f"splits/{name}_test_split1.txt": f"{name}.avi 1\n" for name in names}
    samples = load_samples("hmdb51", write(tmp_path, files), "train")
    assert samples.classes == ("kick", "kick_ball", "sword", "sword_exercise")
    assert [path for path, name, _ in listed(samples) if name == "kick"] == ["kick/kick.avi"]


def test_kinetics_takes_videos_only_and_of_two_copies_the_first(tmp_path):
    files = {name: text for name, text in LAYOUTS["kinetics-400"].items() if name.endswith("csv")}
    copies = [f"train/abc_000010_000020.{kind}" for kind in ("json", "mkv", "mp4", "txt")]
    root = write(
        tmp_path, files | dict.fromkeys(copies) | {"train/zumba/abc_000010_000020.mp4": None, "val/x.mp4": None}
    )
    assert load_samples("kinetics-400", root, "train").path(0) == "train/abc_000010_000020.mkv"


def test_mini_kinetics_counts_what_kinetics_does_not_have(tmp_path):
    root = write(tmp_path, LAYOUTS["mini-kinetics-200"] | {"train_ytid_list.txt": "abc\nnowhere\n"})
    samples = load_samples("mini-kinetics-200", root, "train")
    assert len(samples) == 1 and samples.listed == 2
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "val")
    (root / "train").mkdir()
    (root / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="none of the"):
        load_samples("mini-kinetics-200", root, "train")


@pytest.mark.parametrize("name", ["validation", "valid", "test"])
def test_other_names_of_the_second_split(tmp_path, name):
    root = write(tmp_path, {"train/a/1.mp4": None, f"{name}/a/2.mp4": None})
    assert listed(load_samples("folder", root, "val")) == [(f"{name}/a/2.mp4", "a", None)]
    with pytest.raises(ValueError, match="val_share is for a folder without splits"):
        load_samples("folder", root, "val", val_share=0.5)
    shutil.rmtree(root / name)
    with pytest.raises(
        ValueError, match="has a folder train and none of val, validation, validate, valid, test and testing"
    ):
        load_samples("folder", root, "val")


def test_a_folder_without_splits_is_split_by_name(tmp_path):
    names = [f"{label}/{index}.mp4" for label in ("a", "b") for index in range(10)]
    root = write(tmp_path, dict.fromkeys(names))
    train, val = (load_samples("folder", root, split) for split in ("train", "val"))
    paths = [[path for path, _, _ in listed(samples)] for samples in (train, val)]
    assert sorted(paths[0] + paths[1]) == sorted(names) and len(paths[1]) == 4
    assert [sum(path.startswith(label) for path in paths[1]) for label in ("a/", "b/")] == [2, 2]
    assert len(load_samples("folder", root, "val", val_share=0.5)) == 10
    shutil.rmtree(root / "b")
    still = [path for path, _, _ in listed(load_samples("folder", root, "val"))]
    assert still == [path for path in paths[1] if path.startswith("a/")]
    with pytest.raises(ValueError, match="val_share must be between 0 and 1, got 1"):
        load_samples("folder", root, "val", val_share=1)
    with pytest.raises(ValueError, match="at least 2 videos, one for testing, got 1"):
        load_samples("folder", write(root, {"c/1.mp4": None}), "val")


def test_a_class_that_training_does_not_have(tmp_path):
    root = write(tmp_path, LAYOUTS["folder"] | {"val/jump/5.mp4": None})
    with pytest.raises(ValueError, match="classes that train does not have: 'jump'$"):
        load_samples("folder", root, "val")


def test_a_class_that_training_writes_otherwise(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = write(
        tmp_path, {f"{folder}/1.mp4": None for folder in (f"train/{composed}", "train/x", f"val/{decomposed}")}
    )
    with pytest.raises(ValueError, match=f"'{decomposed}'; there it is written '{composed}'"):
        load_samples("folder", root, "val")


def test_spaces_beside_a_kinetics_label_are_no_part_of_it(tmp_path):
    files = {name: text for name, text in LAYOUTS["kinetics-400"].items() if name.endswith("csv")}
    spaced = {name: text.replace(",", " , ") for name, text in files.items()}
    videos = {name: text for name, text in LAYOUTS["kinetics-400"].items() if not name.endswith("csv")}
    plain, other = (
        load_samples("kinetics-400", write(tmp_path / f"{i}", videos | one), "train")
        for i, one in enumerate((files, spaced))
    )
    assert plain.classes == other.classes and listed(plain) == listed(other)


def test_the_built_in_data_set_is_read_from_its_lists(arrow_root):
    train, val = (load_samples("arrow", arrow_root, split) for split in ("train", "val"))
    assert len(train) == 32 and len(val) == 32 and val.classes == class_names("easy")
    assert val[1].source == str(arrow_root / "val" / "000000_backward.mp4")
    assert (val[1].label, val[1].num_frames, val[-1].label) == (1, 48, val[31].label)
    assert not {sample.source for sample in train} & {sample.source for sample in val}
    assert (val.sampling, val.flip) == ("mirrored", True)
    with pytest.raises(IndexError, match="no sample 32 among 32"):
        val[32]
    assert val[np.int64(1)] == val[1]
    with pytest.raises(TypeError, match="one by one"):
        val[:5]


def test_the_fingerprint_follows_the_lists_and_not_the_place(arrow_root, tmp_path):
    before = load_samples("arrow", arrow_root, "val").fingerprint
    copy = tmp_path / "elsewhere"
    shutil.copytree(arrow_root, copy)
    assert load_samples("arrow", copy, "val").fingerprint == before
    text = (copy / "val.txt").read_text()
    (copy / "val.txt").write_text(text.replace(" 0\n", " 1\n", 1))
    assert load_samples("arrow", copy, "val").fingerprint != before


V1, V2 = "something-something-v1-validation.csv", "something-something-v2-validation.json"
K400 = "annotations/val.csv"
BAD = [
    ("list", "val.txt", "ok.mp4 9 0\na.mp4 48\n", "line 2: needed 'path num_frames label', got 'a.mp4 48'"),
    ("list", "val.txt", "ok.mp4 9 0\na.mp4 48 x\n", "line 2: needed"),
    ("list", "val.txt", "ok.mp4 0\na.mp4 b\n", "line 2: needed 'path label' or 'path num_frames label'"),
    ("list", "val.txt", "ok.mp4 9 0\r\n\r\na.mp4 48 2\r\n", "line 3: label 2 is outside 0..1"),
    ("list", "val.txt", "a.mp4 48 -1\n", "line 1: label -1 is outside 0..1"),
    ("list", "val.txt", "a.mp4 0 1\n", "line 1: a video needs at least one frame, got 0"),
    ("list", "val.txt", "a.mp4 3 1\nb.mp4 3 1\na.mp4 4 1\n", "line 3: 'a.mp4' is already in line 1"),
    ("list", "val.txt", "../a.mp4 3 1\n", "line 1: '../a.mp4' is outside the root"),
    ("list", "val.txt", "/etc/a.mp4 3 1\n", "line 1: '/etc/a.mp4' is outside the root"),
    ("list", "val.txt", "\n \n", "the list has no videos"),
    ("list", "classes.txt", "a\nb\na\n", "line 3: class 'a' is already in line 1"),
    ("something-v1", V1, "3,Dropping", "line 1: needed 'id;label'"),
    ("something-v1", V1, "3;Droping", "line 1: unknown class 'Droping'"),
    ("something-v2", V2, "[{]", "line 1: not JSON"),
    ("something-v2", V2, '[{"id": 3}]', "entry 1: needed an entry with id and"),
    ("something-v2", V2, "[" + "1" * 5000 + "]", "not readable as JSON"),
    ("something-v2", V2, '[{"id": "\\ud800", "template": "Dropping something"}]', "entry 1: not a usable path"),
    ("something-v2", "something-something-v2-labels.json", '{"a": "0", "b": "2"}', "labels must be 0..1, each once"),
    ("kinetics-400", K400, "label,youtube_id\n", "line 1: needed the columns .*, lacks time_start"),
    ("kinetics-400", K400, KINETICS + "zumba,x,3,b,val\n", "line 2: needed a label, an id and two times"),
    ("kinetics-400", K400, KINETICS + "yodeling,xyz,3,13,val\n", "line 2: unknown class 'yodeling'"),
    ("mini-kinetics-200", "val_ytid_list.txt", "nope\n", "the list has no videos"),
    ("ucf101", "ucfTrainTestlist/testlist01.txt", "v_B_g01_c01.avi\n", "line 1: needed 'Class/video.avi'"),
    ("ucf101", "ucfTrainTestlist/testlist01.txt", "Archery/v.avi 1\n", "line 1: class 'Archery' is number 2, got '1'"),
    ("ucf101", "ucfTrainTestlist/classInd.txt", "1 A\n3 B\n", "line 2: needed '2 ClassName', got '3 B'"),
    (
        "hmdb51",
        "testTrainMulti_7030_splits/wave_test_split1.txt",
        "w.avi 3\n",
        "line 1: needed 'video.avi' and 0, 1 or 2",
    ),
]


@pytest.mark.parametrize(("name", "file", "text", "message"), BAD)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, name, file, text, message):
    root = write(tmp_path, LAYOUTS[name] | {file: text})
    with pytest.raises(ValueError, match=f"{re.escape(file.rsplit('/')[-1])}.*{message}"):
        load_samples(name, root, "val")


def test_harmless_differences_are_accepted(tmp_path):
    root = write(tmp_path, LAYOUTS["list"])
    lines = ["with space.mp4 48 0", "", "视频.mp4 48 1", f"{root}/inside.mp4 3 1", "./dot.mp4 3 1"]
    (root / "val.txt").write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:]]).encode())
    paths = [path for path, _, _ in listed(load_samples("list", root, "val"))]
    assert paths == ["with space.mp4", "视频.mp4", "inside.mp4", "dot.mp4"]


def test_absolute_paths_below_a_link_or_a_relative_root(tmp_path, monkeypatch):
    root = write(tmp_path / "data", LAYOUTS["list"])
    (root / "val.txt").write_text(f"{root}/inside.mp4 3 1\n")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(write(tmp_path / "other", {"x": None}))
    for name in (tmp_path / "link", "../data"):
        assert load_samples("list", name, "val").path(0) == "inside.mp4"


def test_a_label_that_cannot_be_one_is_named(tmp_path):
    root = write(tmp_path, {"train.txt": "a.mp4 0\nb.mp4 99999999\n", "val.txt": "c.mp4 0\n"})
    with pytest.raises(ValueError, match=r"train\.txt, line 2: label 99999999: without classes.txt"):
        load_samples("list", root, "train")


def test_a_file_name_that_is_no_text(tmp_path):
    for name in (b"\xff.mp4", b"ok.mp4"):
        (tmp_path / "a").mkdir(exist_ok=True)
        open(os.path.join(os.fsencode(tmp_path), b"a", name), "w").close()
    sources = [sample.source for split in ("train", "val") for sample in load_samples("folder", tmp_path, split)]
    assert len(sources) == 2 and all(os.path.exists(source) for source in sources)


def test_text_that_is_not_utf8_is_named_by_line(tmp_path):
    root = write(tmp_path, LAYOUTS["list"])
    (root / "val.txt").write_bytes("a.mp4 3 0\nü.mp4 3 0\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"val\.txt, line 2: not UTF-8 text"):
        load_samples("list", root, "val")


def test_what_is_missing_is_named(arrow_root, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        load_samples("arrow", tmp_path / "nowhere", "val")
    for name in DATASETS:
        if name != "folder":
            with pytest.raises(FileNotFoundError, match="no annotation file"):
                load_samples(name, tmp_path, "val")
    with pytest.raises(ValueError, match="no class folders"):
        load_samples("folder", tmp_path, "val")
    with pytest.raises(ValueError, match="unknown data set 'arow': did you mean 'arrow'"):
        load_samples("arow", arrow_root, "val")
    with pytest.raises(ValueError, match="unknown split 'test'"):
        load_samples("arrow", arrow_root, "test")


PARSERS = {
    "classes": lambda file: annotations.read_classes(file),
    "list": lambda file: annotations.read_list(file, file.parent, ("a", "b")),
    "list without classes": lambda file: annotations.read_list(file, file.parent),
    "something-v1": lambda file: annotations.read_something_v1(file, file.parent, ("a", "b"), ""),
    "something-v2": lambda file: annotations.read_something_v2(file, file.parent, ("a", "b"), ""),
    "something-v2 classes": lambda file: annotations.read_something_v2_classes(file),
    "kinetics": lambda file: list(annotations.read_kinetics(file)),
    "ucf101 classes": lambda file: annotations.read_ucf101_classes(file),
    "ucf101": lambda file: annotations.read_ucf101(file, file.parent, ("a", "b"), ""),
    "hmdb51": lambda file: annotations.read_hmdb51(file, file.parent, ("a", "b"), "", "a", 1),
}
HEADER = b"label,youtube_id,time_start,time_end\n"
PIECES = [b"a", b"b", b"a/x.avi", b" ", b";", b",", b"\n", b"\r\n", b"1", b"-2", b"0"]
PIECES += [b"\xff", b"\0", b"..", b"/", HEADER]
PIECES += [b'"', b"[", b"{", b"}", b"]", b":", b'"id"', b'"template"', b"\xef\xbb\xbf", "视".encode()]


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)))
def test_random_bytes_are_read_or_refused_by_name(name, content, tmp_path):
    """Whatever is in the file: rows that make sense, or one ValueError that names the file."""
    file = tmp_path / "annotations.txt"
    file.write_bytes(content)
    try:
        rows = PARSERS[name](file)
    except ValueError as error:
        assert str(error).startswith(str(file)), error
        return
    if "list" in name:
        for path, label, num_frames in rows:
            assert path and ".." not in path.split("/") and not path.startswith("/") and label >= 0
            assert num_frames is None or num_frames > 0


def test_deep_json_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"x\.json"):
        annotations.read_something_v2(tmp_path / "x.json", tmp_path, ("a",), "")


def test_samples_are_buffers_and_not_objects(tmp_path):
    rows = [(f"train/class {index % 400}/video_{index:07d}.mp4", index % 400, None) for index in range(100_000)]
    samples = Samples(rows, [str(label) for label in range(400)], tmp_path)
    assert samples[99_999] == (str(tmp_path / rows[-1][0]), 399, None) and samples.path(-1) == rows[-1][0]
    assert len(pickle.dumps(samples)) < 60 * len(samples)  # bytes a video, its path of 34 included


def checked(folder, good, bad):
    folder.mkdir(parents=True)
    (folder / "good.csv").write_text("path,frames\n" + "".join(f"{path},{frames}\n" for path, frames in good.items()))
    (folder / "bad.csv").write_text("path,reason\n" + "".join(f"{path},{reason}\n" for path, reason in bad.items()))
    return folder


def test_bad_videos_are_left_out_and_counted(tmp_path):
    root = write(tmp_path / "data", LAYOUTS["hmdb51"])
    paths = [path for path, _, _ in EXPECTED["hmdb51"][1]]
    folder = checked(tmp_path / "checked", {paths[0]: 71, paths[2]: 80}, {paths[1]: "truncated"})
    samples = load_samples("hmdb51", root, "train", checked=folder)
    assert listed(samples) == [(paths[0], "brush_hair", 71), (paths[2], "wave", 80)]
    assert samples.listed == 3 and samples.coverage == pytest.approx(66.7, abs=0.1)
    assert samples.fingerprint != load_samples("hmdb51", root, "train").fingerprint
    whole = checked(tmp_path / "whole", dict.fromkeys(paths, 50), {})
    assert (
        load_samples("hmdb51", root, "train", checked=whole).fingerprint
        == load_samples("hmdb51", root, "train").fingerprint
    )
    with pytest.raises(ValueError, match="does not know 1 of the 1 listed videos, such as .*w2.avi'"):
        load_samples("hmdb51", root, "val", checked=folder)
