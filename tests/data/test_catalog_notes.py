"""What people's disks and lists have beside and instead of what a data set should: read right, refused, or noted."""

import json
import os

import pytest

from ctlib.data.catalog import Samples, load_samples, load_splits
from tests.data.test_catalog import KINETICS, LAYOUTS, write


def paths(samples):
    return [samples.path(index) for index in range(len(samples))]


def videos(*folders, count=4):
    return {f"{folder}/{number}.mp4": None for folder in folders for number in range(count)}


STRAYS = [
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    ".ipynb_checkpoints",
    "System Volume Information",
    ".Trash-0",
]


@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("place", ["", "jump", "train", "train/jump"])
def test_what_systems_leave_is_no_class_and_no_video(tmp_path, stray, place):
    folders = (
        ["jump", "run"] if "train" not in place else [f"{s}/{c}" for s in ("train", "val") for c in ("jump", "run")]
    )
    inside = f"{place}/{stray}".lstrip("/")
    files = videos(*folders) | videos(f"{inside}/jump") | {f"{inside}/._1.mp4": None, f"{folders[0]}/._1.mp4": None}
    files |= {f"{folders[0]}/Thumbs.db": None, f"{folders[0]}/.DS_Store": None, "desktop.ini": None}
    splits = load_splits("folder", write(tmp_path, files))
    assert splits["train"].classes == ("jump", "run") and splits["train"].notes == splits["val"].notes == ()
    assert sorted(paths(splits["train"]) + paths(splits["val"])) == sorted(videos(*folders))


def test_what_systems_leave_beside_kinetics(tmp_path):
    files = {name: text for name, text in LAYOUTS["kinetics-400"].items() if name.endswith("csv")}
    names = (
        "._abc_000010_000020.mp4",
        "zumba/._abc_000010_000020.mp4",
        "@eaDir/abc_000010_000020.mp4",
        "zumba/abc.mp4",
    )
    root = write(tmp_path, files | {f"train/{name}": None for name in names} | {"val/xyz.mp4": None})
    assert paths(load_samples("kinetics-400", root, "train"))[0] == "train/zumba/abc.mp4"


def test_what_a_mac_leaves_beside_the_lists_of_hmdb51(tmp_path):
    lists = "testTrainMulti_7030_splits"
    root = write(tmp_path, LAYOUTS["hmdb51"] | {f"{lists}/._wave_test_split1.txt": "\0\5"})
    assert load_samples("hmdb51", root, "train").classes == ("brush_hair", "wave")


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("training", "testing"), ("TRAIN", "Val"), ("Training", "VALIDATION"), ("train", "validate")],
)
def test_splits_by_other_names(tmp_path, train, test):
    root = write(tmp_path, videos(*(f"{split}/{name}" for split in (train, test) for name in ("jump", "run")), count=2))
    splits = load_splits("folder", root)
    assert paths(splits["train"]) == [f"{train}/{name}/{n}.mp4" for name in ("jump", "run") for n in (0, 1)]
    assert paths(splits["val"])[-1] == f"{test}/run/1.mp4" and splits["val"].classes == ("jump", "run")


def test_folders_beside_the_splits_are_noted(tmp_path):
    root = write(tmp_path, videos("train/jump", "val/jump", "test/jump", "extra/jump"))
    with pytest.warns(UserWarning, match="the splits are train and val, and not read are the folders 'extra', 'test'"):
        assert paths(load_samples("folder", root, "val"))[0] == "val/jump/0.mp4"


def test_two_folders_for_one_split_are_refused(tmp_path):
    for number, names in enumerate([("train", "Train", "val"), ("train", "training", "val"), ("train", "val", "VAL")]):
        root = write(tmp_path / str(number), videos(*(f"{name}/jump" for name in names)))
        with pytest.raises(ValueError, match="has two folders for one split, "):
            load_samples("folder", root, "train")
    root = write(tmp_path / "nested", videos("mine/train/jump", "mine/val/jump"))
    with pytest.raises(ValueError, match="mine/train: needed the frames of a video, got 'jump'"):
        load_samples("folder", root, "train")
    frames = {f"jump/{name}/00001.jpg": None for name in ("a1", "a2", "b")} | {"jump/a0/.keep": None}
    root = write(tmp_path / "late", videos("run") | frames | videos("jump/takes", "jump/b1"))
    with pytest.raises(ValueError, match="jump/b1: needed the frames of a video, got '0.mp4'"):
        load_samples("folder", root, "train")
    root = write(tmp_path / "sessions", videos("jump/monday", "run/monday"))
    with pytest.raises(ValueError, match="jump/monday: needed the frames of a video, got '0.mp4'; videos lie in class"):
        load_samples("folder", root, "train")


def test_files_of_other_kinds_are_noted(tmp_path):
    others = {f"jump/{number}.{kind}": None for number, kind in enumerate(["MTS", "ogv", "gif", "GIF", "mp4.part"])}
    root = write(tmp_path, videos("jump", "run") | others | {"loose.mp4": None, "README": None, "run/checksums": None})
    splits = load_splits("folder", root)
    for samples in splits.values():
        assert samples.notes == (
            f"{root}: left out are files of other kinds, 2 .gif, 1 .mts, 1 .ogv, 1 .part, 1 no ending",
            f"{root}: left out are videos outside class folders, 1 such as 'loose.mp4'",
        )
    gifs = write(tmp_path / "gifs", {"train/jump/1.gif": None, "val/jump/1.gif": None})
    with pytest.raises(ValueError, match=r"no videos in class folders; .*, 1 .gif; videos end in .3gp, .avi"):
        load_samples("folder", gifs, "train")


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\r\r", b"\n\r\n"])
def test_line_ends_of_every_system(tmp_path, end):
    lines = {"train.txt": b"a.mp4 0%sb.mp4 1%sc.mp4 1%s", "val.txt": b"d.mp4 0%se.mp4 1%s%s"}
    lines |= {"classes.txt": b"fall%srise%s%s"}
    for name, text in lines.items():
        (tmp_path / name).write_bytes(text % (end, end, end))
    splits = load_splits("list", tmp_path)
    assert [paths(part) for part in splits.values()] == [["a.mp4", "b.mp4", "c.mp4"], ["d.mp4", "e.mp4"]]
    assert splits["val"].classes == ("fall", "rise")
    (tmp_path / "val.txt").write_bytes(b"d.mp4 0" + end + b"\xff")
    empty = end.replace(b"\r\n", b"\n").count(b"\n") + end.replace(b"\r\n", b"").count(b"\r")
    with pytest.raises(ValueError, match=rf"val\.txt, line {1 + empty}: not UTF-8 text"):
        load_samples("list", tmp_path, "val")


def test_kinetics_with_cr_line_ends(tmp_path):
    files = {name: text and text.replace("\n", "\r") for name, text in LAYOUTS["kinetics-400"].items()}
    assert len(load_samples("kinetics-400", write(tmp_path, files), "train")) == 2


def test_labels_that_start_at_1_need_names(tmp_path):
    root = write(tmp_path, {"train.txt": "a.mp4 1\nb.mp4 2\n", "val.txt": "c.mp4 2\n"})
    with pytest.raises(ValueError, match=r"train\.txt: labels start at 1: number them from 0, or name the classes"):
        load_samples("list", root, "train")
    write(root, {"val.txt": "c.mp4 0\n"})
    with pytest.warns(UserWarning, match="classes without a training video: '0'$"):
        assert load_samples("list", root, "train").classes == ("0", "1", "2")
    write(root, {"classes.txt": "".join(f"class {number}\n" for number in range(9))})
    with pytest.warns(UserWarning, match="without a training video: 'class 0', 'class 3', .*, 'class 6' and 2 more$"):
        load_samples("list", root, "train")


def test_a_video_in_both_splits_is_noted(tmp_path):
    root = write(tmp_path, {"train.txt": "a.mp4 0\n./b.mp4 1\n", "val.txt": "c.mp4 0\nb.mp4 1\na.mp4 1\n"})
    note = "2 of 3 test videos are trained on too, such as 'b.mp4'"
    for split in ("train", "val"):
        with pytest.warns(UserWarning, match=note):
            load_samples("list", root, split)
    assert load_splits("list", root)["val"].notes == (note,)
    files = dict(LAYOUTS["ucf101"])
    files["ucfTrainTestlist/testlist01.txt"] = "ApplyEyeMakeup/v_A_g08_c01.avi\n"
    with pytest.warns(UserWarning, match="1 of 1 test videos are trained on too"):
        load_splits("ucf101", write(tmp_path / "ucf", files))


def test_so_is_a_link_to_a_video_or_to_a_folder_of_the_other_split(tmp_path):
    root = write(tmp_path, videos("train/run", "train/jump", "val/run"))
    (root / "val" / "run" / "again.mp4").symlink_to(root / "train" / "jump" / "0.mp4")
    (root / "val" / "jump").symlink_to("../train/jump")
    with pytest.warns(UserWarning) as warned:
        (note,) = load_splits("folder", root)["val"].notes
    assert note == "5 of 9 test videos are trained on too, such as 'val/jump/0.mp4'"
    assert [str(warning.message) for warning in warned] == [note]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("list", {"train.txt": "a/1.mp4 0\na/2.mp4 1\n", "val.txt": "a/1 0\na/3.mp4 1\n", "a/1/00001.jpg": None}),
        ("list", {"train.txt": "a/1.mp4 0\na/2.mp4 1\n", "val.txt": "a/1.avi 0\na/3.mp4 1\n"} | videos("a")),
        ("list", {"train.txt": "a/1.MP4 0\na/2.mp4 1\n", "val.txt": "a/1.webm 0\na/3.mp4 1\n"}),
        (
            "ucf101",
            {
                "classInd.txt": "1 A\n2 B\n",
                "trainlist01.txt": "A/v_1 1\nB/v_3.avi 2\n",
                "testlist01.txt": "A/v_1.avi\nB/v_4.avi\n",
                "A/v_1.avi": None,
                "A/v_1/00001.jpg": None,
            },
        ),
        (
            "kinetics-400",
            {"train/abc.mp4": None, "val/abc.mp4": None}
            | {"train.csv": f"{KINETICS}a,abc,1,11,train\n", "val.csv": f"{KINETICS}a,abc,5,15,val\na,x,1,2,val\n"},
        ),
    ],
)
def test_so_is_a_video_with_another_ending_or_under_its_id(tmp_path, name, files):
    with pytest.warns(UserWarning):
        notes = load_splits(name, write(tmp_path, files))["val"].notes
    assert sum("1 of 2 test videos are trained on too, such as " in note for note in notes) == 1


def test_so_is_a_hard_link(tmp_path):
    root = write(tmp_path, videos("train/run", "val/run"))
    os.link(root / "train" / "run" / "2.mp4", root / "val" / "run" / "again.mp4")
    os.link(root / "train" / "run" / "3.mp4", root / "train" / "run" / "4.mp4")
    with pytest.warns(UserWarning, match="1 of 5 test videos are trained on too, such as 'val/run/again.mp4'$"):
        load_splits("folder", root)


def test_files_of_one_video_fall_on_one_side_of_a_folder(tmp_path):
    names = [f"jump/{number}" for number in range(12)]
    more = {f"{name}.avi": None for name in names[::3]} | {f"{name}/00001.jpg": None for name in names[1::3]}
    splits = load_splits("folder", write(tmp_path, {f"{name}.mp4": None for name in names} | more))
    train, val = ({path.removesuffix(".mp4").removesuffix(".avi") for path in paths(part)} for part in splits.values())
    assert len(val) == 2 and train | val == set(names) and not train & val and splits["val"].notes == ()
    assert sum(map(len, splits.values())) == 20
    root = write(tmp_path / "one", {"jump/1.mp4": None, "jump/1.avi": None})
    with pytest.raises(ValueError, match="jump: a class needs at least 2 videos, one for testing, got 1"):
        load_samples("folder", root, "train")


@pytest.mark.parametrize("name", ["something-v1", "something-v2", "ucf101", "hmdb51"])
def test_each_video_is_where_it_lies(tmp_path, name):
    """As files of another kind, as folders of frames, or missing: one by one."""
    files = {file: text for file, text in LAYOUTS[name].items() if text}
    listed = paths(load_samples(name, write(tmp_path, files | {"20bn-something-something-v1/x": None}), "train"))
    stems = [os.path.splitext(path)[0] for path in listed]
    root = write(tmp_path, {f"{stems[0]}.mp4": None, f"{stems[0]}.mp4.txt": None, f"{stems[1]}/00001.jpg": None})
    with pytest.warns(UserWarning, match="videos lie under another ending, such as .*mp4' for "):
        samples = load_samples(name, root, "train")
    assert paths(samples) == [f"{stems[0]}.mp4", stems[1], *listed[2:]]
    write(root, dict.fromkeys(path for path in listed if "." in path.rpartition("/")[2]))
    if name != "something-v1":
        assert paths(load_samples(name, root, "train")) == listed  # what is listed comes first


def test_names_that_are_there_twice(tmp_path):
    labels, entries = "something-something-v2-labels.json", "something-something-v2-train.json"
    for number, (file, text, message) in enumerate(
        [
            (labels, '{"Dropping something": "0", "Turning something": "1", "Turning something": "1"}', "there twice"),
            (
                labels,
                '{"Dropping something": "0", "Turning something": "0"}',
                "entry 2: labels must be 0..1, each once",
            ),
            (entries, '[{"id": "12", "id": "13", "template": "Dropping something"}]', "'id' is there twice"),
        ]
    ):
        root = write(tmp_path / str(number), LAYOUTS["something-v2"] | {file: text})
        with pytest.raises(ValueError, match=message):
            load_samples("something-v2", root, "train")
    root = write(tmp_path / "ucf", LAYOUTS["ucf101"] | {"ucfTrainTestlist/classInd.txt": "1 Archery\n2 Archery\n"})
    with pytest.raises(ValueError, match=r"classInd\.txt, line 2: class 'Archery' is already in line 1"):
        load_samples("ucf101", root, "train")
    root = write(
        tmp_path / "k",
        LAYOUTS["kinetics-400"] | {"annotations/val.csv": "label," + KINETICS + "a,zumba,xyz,3,13,val\n"},
    )
    with pytest.raises(ValueError, match=r"val\.csv, line 1: the column label is there twice"):
        load_samples("kinetics-400", root, "val")


def test_where_the_publisher_says_test_it_means_val(tmp_path):
    for name in ("ucf101", "hmdb51"):
        root = write(tmp_path / name, LAYOUTS[name])
        assert paths(load_samples(name, root, "test")) == paths(load_samples(name, root, "val"))
    for test in ("test", "Testing"):
        root = write(tmp_path / test, videos("train/jump", f"{test}/jump"))
        assert paths(load_samples("folder", root, "test")) == paths(load_samples("folder", root, "val"))
    for name, files in LAYOUTS.items():
        if name not in ("ucf101", "hmdb51"):
            with pytest.raises(ValueError, match="unknown split 'test'"):
                load_samples(name, write(tmp_path / f"{name} x", files), "test")


def test_a_name_with_a_line_end_is_refused(tmp_path):
    for name in ("v\r.mp4", "v\n.mp4"):
        root = write(tmp_path / str(ord(name[1])), videos("train/jump", "val/jump") | {f"val/jump/{name}": None})
        with pytest.raises(ValueError, match="a file name with a line end, 'val/jump/v.*: rename it"):
            load_samples("folder", root, "val")
    root = write(tmp_path, LAYOUTS["something-v2"])
    entries = [{"id": "1\n2", "template": "Dropping something"}]
    (root / "something-something-v2-validation.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="entry 1: not a usable path"):
        load_samples("something-v2", root, "val")


def test_names_that_are_no_line_of_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a file name with a line end, 'a\\nb.mp4': rename it"):
        Samples([("a\nb.mp4", 0, None)], ("a",), tmp_path)
    for name in ("a\nb", "a\rb", " ", "\udcff"):
        with pytest.raises(ValueError, match="a class name must be one line of UTF-8 text, got .*: rename it"):
            Samples([("a.mp4", 0, None)], ("a", name), tmp_path)
