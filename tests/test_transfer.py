import numpy as np
import pandas as pd
import pytest

from ctlib import transfer
from ctlib.config import DataConfig, ModelConfig, RunConfig
from ctlib.data import load_samples, video
from ctlib.runs import RunFolder
from ctlib.transfer import SCRATCH, TUNED, MadeConfig

SMALL = MadeConfig(groups=5, clips=2, num_frames=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return {data: transfer.write(data, folder / data, SMALL) for data in transfer.ACTIONS}


def paths(data, root, split, fold):
    samples = load_samples(data, root, split, fold=fold)
    return {samples.path(index) for index in range(len(samples))}


def group(path):
    return path[path.index("_g") + 2 :][:2]


@pytest.mark.parametrize(("data", "train"), [("ucf101", 48), ("hmdb51", 36)])
def test_made_sets_are_read_as_their_publishers_are_and_each_split_tests_other_scenes(made, data, train):
    assert load_samples(data, made[data], "train").classes == tuple(sorted(transfer.ACTIONS[data]))
    tested = []
    for fold in (1, 2, 3):
        sides = [paths(data, made[data], split, fold) for split in ("train", "val")]
        assert [len(side) for side in sides] == [train, 12]
        groups = [{group(path) for path in side} for side in sides]
        assert not groups[0] & groups[1]
        tested.append(groups[1])
    assert len(set.union(*tested)) == sum(map(len, tested))
    everything = {path for split in ("train", "val") for path in paths(data, made[data], split, 1)}
    assert all((made[data] / path).is_file() for path in everything)
    assert len(list(made[data].rglob("*.avi"))) == 60  # of hmdb51, the last scene is in no list


def test_made_videos_are_mpeg_4_in_avi_and_show_what_was_drawn(made):
    path = made["hmdb51"] / "hmdb51_org" / "kick" / "made_g02_kick_1.avi"
    info = video.probe(path)
    assert (info.codec, info.num_frames, info.height, info.width) == ("mpeg4", 8, 48, 64)
    drawn = transfer.render("hmdb51", "kick", 2, 1, SMALL).astype(int)
    assert np.abs(video.read_frames(path, range(8)).astype(int) - drawn).mean() < 8


def test_the_same_seed_draws_the_same_and_clips_and_actions_differ():
    drawn = transfer.render("ucf101", "Circling", 1, 1, SMALL)
    assert np.array_equal(drawn, transfer.render("ucf101", "Circling", 1, 1, SMALL))
    for other in (("Circling", 1, 2), ("Circling", 2, 1), ("Bouncing", 1, 1)):
        assert not np.array_equal(drawn, transfer.render("ucf101", *other, SMALL))
    for data, actions in transfer.ACTIONS.items():
        for action in actions:
            frames = transfer.render(data, action, 1, 1, SMALL).astype(int)
            assert np.abs(np.diff(frames, axis=0)).max() > 30, action  # something moves
    with pytest.raises(ValueError, match="unknown action of ucf101 'Bounce': did you mean 'Bouncing'"):
        transfer.render("ucf101", "Bounce", 1, 1)


def test_a_made_set_is_found_again_and_never_half_there(made, tmp_path):
    def never(done, total):
        raise AssertionError

    assert transfer.write("ucf101", made["ucf101"], SMALL, never) == made["ucf101"]
    with pytest.raises(ValueError, match="is there and is not this made data set"):
        transfer.write("ucf101", made["ucf101"], MadeConfig(groups=4))

    def stop(done, total):
        assert total == 60
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer.write("ucf101", tmp_path / "ucf101", SMALL, stop)
    assert list(tmp_path.iterdir()) == []
    again = transfer.write("ucf101", tmp_path / "ucf101", SMALL)
    for path in sorted(made["ucf101"].rglob("*.*")):
        assert path.read_bytes() == (again / path.relative_to(made["ucf101"])).read_bytes()


@pytest.mark.parametrize("text", ["", "0", "1 4", "1 1", "first"])
def test_other_splits_are_refused(text):
    with pytest.raises(ValueError, match="folds must be some of 1 2 3, each once"):
        transfer.folds_of(text)


def test_the_runs_are_alike_but_for_their_start():
    roots = {"ucf101": "u", "hmdb51": "h"}
    found = transfer.configs(roots, (1, 3), "ctnet_quickstart", "laptop", "recipe.lr=0.01", "a.pt", True, seed=4)
    assert list(found)[:3] == [("ucf101", TUNED, 1), ("ucf101", SCRATCH, 1), ("ucf101", TUNED, 3)] and len(found) == 8
    tuned, scratch = found["hmdb51", TUNED, 3], found["hmdb51", SCRATCH, 3]
    assert (tuned.start, scratch.start) == ("a.pt", "") and (tuned.name, tuned.seed) == ("fine-tuned_split3", 4)
    assert (tuned.model, tuned.data, tuned.recipe) == (scratch.model, scratch.data, scratch.recipe)
    assert (tuned.data.fold, tuned.data.root, tuned.recipe.lr) == (3, "h", 0.01)
    assert len(transfer.configs(roots, (2,), "ctnet_quickstart", start="a.pt")) == 2
    with pytest.raises(ValueError, match="leave data.fold=2 out of overrides"):
        transfer.configs(roots, (1, 2), "ctnet_quickstart", overrides="data.fold=2")


def record(folder, data, start, fold, top1):
    config = RunConfig(start=start, data=DataConfig(name=data, fold=fold), model=ModelConfig(num_classes=5))
    run = RunFolder(folder / f"{data}{start}{fold}")
    run.start(config)
    run.finish({"top1": top1, "videos": 50, "skipped": 2}, pd.DataFrame())
    return run


def test_what_three_splits_say(tmp_path):
    top1 = {("ucf101", "a.pt"): (60, 64, 68), ("ucf101", ""): (30, 36, 36), ("hmdb51", "a.pt"): (50, 40, 45)}
    top1["hmdb51", ""] = (40, 45, 41)
    splits = transfer.by_split(
        record(tmp_path, *key, fold, value) for key, three in top1.items() for fold, value in enumerate(three, start=1)
    )
    table = transfer.averaged(splits)
    assert table.loc["ucf101", TUNED].tolist() == [60, 64, 68, 64, 4]
    assert list(table.columns) == ["split 1", "split 2", "split 3", "mean", "spread"]

    gains = transfer.gains(splits)  # 30, 28, 32 and 10, -5, 4
    assert gains.loc["ucf101", ["splits", "mean", "spread", "resolved"]].tolist() == [3, 30, 2, True]
    assert gains.half["ucf101"] == pytest.approx(4.303 * 2 / 3**0.5, abs=1e-3)
    assert not gains.resolved["hmdb51"]
    told = transfer.told(splits)
    assert (
        "ucf101, fine-tuned: top-1 64.0 % (mean over 3 splits, spread 4.0; 48 test videos a split, chance 20 %)" in told
    )
    assert "+30.0 points, spread 2.0, t interval ± 5.0 over 3 splits: beyond it" in told
    assert "+3.0 points, spread 7.5, t interval ± 18.8 over 3 splits: within it, not resolved" in told

    one = splits[splits.fold == 1]
    assert not transfer.gains(one).resolved.any() and np.isnan(transfer.averaged(one).spread).all()
    assert transfer.told(one).count("on one split, which says nothing of how it varies: not resolved") == 2
    tuned = splits[splits.weights == TUNED]
    assert transfer.gains(tuned).empty and "not resolved" not in transfer.told(tuned)


def test_what_is_published_is_table_5():
    table = transfer.published(["hmdb51"])
    assert list(table.columns) == ["backbone", "pretrain", "hmdb51"] and table.hmdb51["Our CT-Net"] == 73.2
    assert transfer.published(["ucf101", "hmdb51"]).ucf101["Our CT-Net"] == 96.2
