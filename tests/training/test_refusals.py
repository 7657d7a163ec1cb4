"""What can be known of the data before the first step is said then, in one line."""

import dataclasses
import os
import re
import shutil

import pandas as pd
import pytest

from ctlib.config import ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.data import check, digests
from ctlib.data.catalog import load_splits
from ctlib.models import model_config
from ctlib.training import records, train
from ctlib.training.network import make_network
from ctlib.training.plan import make_plan
from ctlib.training.run import resolve


@pytest.fixture
def folders(arrow_root, tmp_path):
    """Class folders of two classes, of four videos each."""
    videos = sorted(arrow_root.rglob("*.mp4"))
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(4):
                shutil.copy(videos.pop(), tmp_path / "set" / split / name / f"v{number}.mp4")
    return tmp_path / "set"


def config_of(root, **data):
    return RunConfig(
        model=model_config("tsn_quickstart", num_frames=2),
        data=DataConfig(**{"name": "folder", "root": str(root), "size": 32, "workers": 0, **data}),
        recipe=RecipeConfig(epochs=1, batch=4, warmup=0),
        compute=ComputeConfig(device="cpu"),
    )


def no_step(*at):
    raise AssertionError(f"a step was taken: {at}")


def empty_folder(path):
    path.mkdir()
    (path / ".DS_Store").write_text("of a system")


FAULTS = {
    "a link to nowhere": lambda path: path.symlink_to("/nowhere.mp4"),
    "no bytes": lambda path: path.write_bytes(b""),
    "no file": lambda path: path.symlink_to(os.devnull),
    "no frames": empty_folder,
}


@pytest.mark.parametrize(("split", "fault"), [("train", "a link to nowhere"), *(("val", fault) for fault in FAULTS)])
def test_a_video_that_is_missing_or_empty(folders, tmp_path, split, fault):
    lost = folders / split / "b" / "v3.mp4"
    lost.unlink()
    FAULTS[fault](lost)
    word = {"train": "training", "val": "test"}[split]
    message = (
        rf"1 of the 8 {word} videos do not exist or are empty, such as '{split}/b/v3\.mp4' in .*: "
        "check-videos lists them, and data"
    )
    run = resolve(config_of(folders))
    for refused in (lambda: make_plan(run), lambda: train.train(run, tmp_path / "run", on_step=no_step)):
        with pytest.raises(FileNotFoundError, match=message):
            refused()
    few = config_of(folders, on_error="skip", max_skipped=12.0)
    with pytest.raises(FileNotFoundError, match=message):
        train.train(few, tmp_path / "run", on_step=no_step)
    enough = resolve(config_of(folders, on_error="skip", max_skipped=12.5))
    enough.refuse_missing_videos()


def test_a_finished_run_is_read_without_its_videos(folders, tmp_path):
    config = config_of(folders)
    result = train.train(config, tmp_path / "run")
    videos = sorted(folders.rglob("*.mp4"))
    for video in videos:
        video.write_bytes(b"")
    for video in videos[:2]:
        video.unlink()
        video.symlink_to("/nowhere.mp4")
    assert train.train(config, tmp_path / "run", on_step=no_step) == result


def test_videos_of_one_class(folders):
    for split in ("train", "val"):
        shutil.rmtree(folders / split / "b")
    with pytest.raises(ValueError, match=r"training needs videos of at least 2 classes, those in .*set are all of 'a'"):
        resolve(config_of(folders))
    (folders / "train.txt").write_text("".join(f"train/a/v{number}.mp4 1\n" for number in range(4)))
    (folders / "val.txt").write_text("val/a/v0.mp4 0\n")
    with (
        pytest.warns(UserWarning, match="without a training video: '0'"),
        pytest.raises(ValueError, match="all of '1'"),
    ):
        resolve(config_of(folders, name="list"))


def test_one_class_that_is_left_by_a_check(folders, tmp_path):
    checked = tmp_path / "checked"
    checked.mkdir()
    paths = [path.relative_to(folders).as_posix() for path in folders.rglob("*.mp4")]
    bad = [path for path in paths if path.startswith("train/a")]
    (checked / "good.csv").write_text("path,frames\n" + "".join(f"{path},48\n" for path in paths if path not in bad))
    (checked / "bad.csv").write_text("path,reason\n" + "".join(f"{path},truncated\n" for path in bad))
    with (
        pytest.warns(UserWarning, match="without a training video: 'a'"),
        pytest.raises(ValueError, match="all of 'b'"),
    ):
        resolve(config_of(folders, checked=str(checked)))


def test_the_plan_repeats_what_is_odd_and_when_videos_were_compared(folders, tmp_path):
    for number in range(2):
        shutil.copy(folders / "val" / "a" / "v0.mp4", folders / "train" / "b" / f"copy{number}.gif")
    shutil.copy(folders / "train" / "a" / "v1.mp4", folders / "val" / "b" / "v2.mp4")
    for samples in load_splits("folder", folders).values():
        check.check(samples, tmp_path / "checked", decode=always_good)
        digests.compare(samples, tmp_path / "checked")
    table = make_plan(resolve(config_of(folders, checked=str(tmp_path / "checked"))), seconds=0).table()
    left_out, copies = table["notes"].split("; ")
    assert left_out.endswith("train: left out are files of other kinds, 2 .gif")
    assert copies.startswith("1 of 8 test videos have the content of training videos")
    compared = r"8 of 8 listed \(100.0 %\), compared with their digests on \d{4}-\d\d-\d\d"
    assert re.fullmatch(compared, table["training videos"]) and re.match(compared, table["test videos"])


def always_good(source):
    return 48


@pytest.mark.parametrize(
    "name", [b"\xff.mp4", "视频 ü.mp4".encode(), b"a,\"b'.mp4", b"NA.mp4", "\x85\u2028.mp4".encode()]
)
def test_any_name_of_a_video_is_kept(folders, tmp_path, name):
    target = os.fsencode(folders / "val" / "b") + b"/" + name
    os.rename(folders / "val" / "b" / "v3.mp4", target)
    train.train(config_of(folders), tmp_path / "run")
    predictions = records.RunFolder(tmp_path / "run").predictions()
    assert len(predictions) == 8 and set(predictions.label) == {0, 1}
    assert os.fsdecode(b"val/b/" + name) in set(predictions.source)


def test_names_that_look_like_something_else_are_kept(tmp_path):
    rows = pd.DataFrame({"source": ["NA", "12", "nan", "1e3"], "label": 0, "predicted": 1, "confidence": 0.5})
    folder = records.RunFolder(tmp_path)
    folder.finish({}, rows)
    assert folder.predictions().source.tolist() == rows.source.tolist()


@pytest.mark.parametrize("name", [b"\xff", b"two\nlines"])
def test_a_class_name_that_records_cannot_hold(folders, name):
    for split in ("train", "val"):
        os.rename(folders / split / "b", os.fsencode(folders / split) + b"/" + name)
    with pytest.raises(ValueError, match="(class name must be one line of UTF-8|name with a line end).*: rename it"):
        resolve(config_of(folders))


@pytest.mark.parametrize(("model", "frames", "size"), [("ctnet_quickstart", 4, 32), ("tsn_quickstart", 1, 8)])
def test_a_batch_of_one_small_clip(arrow_root, model, frames, size):
    config = config_of(arrow_root, name="arrow", size=size, sampling="sparse")
    config = dataclasses.replace(config, model=model_config(model, num_frames=frames), recipe=RecipeConfig(batch=1))
    with pytest.raises(ValueError, match=f"trained on 1 clip of {size} x {size} pixels, .*larger recipe.batch or comp"):
        make_plan(resolve(config))
    one = dataclasses.replace(config.compute, micro_batch=1)
    run = resolve(dataclasses.replace(config, recipe=RecipeConfig(batch=4), compute=one))
    with pytest.raises(ValueError, match="cannot be trained on 1 clip"):
        make_network(run)
    synced = dataclasses.replace(run.config, compute=ComputeConfig(sync_batch_norm=True))
    make_network(dataclasses.replace(run, config=synced, processes=2))  # norms see the clips of both
    make_network(resolve(dataclasses.replace(config, data=dataclasses.replace(config.data, size=64))))
