import numpy as np
import pytest

from ctlib.data import load_samples, video
from ctlib.study import synthetic_sets
from ctlib.study.synthetic_sets import SyntheticConfig

SMALL = SyntheticConfig(groups=5, clips=2, num_frames=8)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return {data: synthetic_sets.write(data, folder / data, SMALL) for data in synthetic_sets.ACTIONS}


def paths(data, root, split, fold):
    samples = load_samples(data, root, split, fold=fold)
    return {samples.path(index) for index in range(len(samples))}


def group(path):
    return path[path.index("_g") + 2 :][:2]


@pytest.mark.parametrize(("data", "train"), [("ucf101", 48), ("hmdb51", 36)])
def test_synthetic_data_are_read_as_their_publishers_are_and_each_split_tests_other_scenes(synthetic, data, train):
    assert load_samples(data, synthetic[data], "train").classes == tuple(sorted(synthetic_sets.ACTIONS[data]))
    tested = []
    for fold in (1, 2, 3):
        sides = [paths(data, synthetic[data], split, fold) for split in ("train", "val")]
        assert [len(side) for side in sides] == [train, 12]
        groups = [{group(path) for path in side} for side in sides]
        assert not groups[0] & groups[1]
        tested.append(groups[1])
    assert len(set.union(*tested)) == sum(map(len, tested))
    everything = {path for split in ("train", "val") for path in paths(data, synthetic[data], split, 1)}
    assert all((synthetic[data] / path).is_file() for path in everything)
    assert len(list(synthetic[data].rglob("*.avi"))) == 60  # of hmdb51, the last scene is in no list


def test_synthetic_videos_are_mpeg_4_in_avi_and_show_what_was_drawn(synthetic):
    path = synthetic["hmdb51"] / "hmdb51_org" / "kick" / "made_g02_kick_1.avi"
    info = video.probe(path)
    assert (info.codec, info.num_frames, info.height, info.width) == ("mpeg4", 8, 48, 64)
    drawn = synthetic_sets.render("hmdb51", "kick", 2, 1, SMALL).astype(int)
    assert np.abs(video.read_frames(path, range(8)).astype(int) - drawn).mean() < 8


def test_the_same_seed_draws_the_same_and_clips_and_actions_differ():
    drawn = synthetic_sets.render("ucf101", "Circling", 1, 1, SMALL)
    assert np.array_equal(drawn, synthetic_sets.render("ucf101", "Circling", 1, 1, SMALL))
    for other in (("Circling", 1, 2), ("Circling", 2, 1), ("Bouncing", 1, 1)):
        assert not np.array_equal(drawn, synthetic_sets.render("ucf101", *other, SMALL))
    for data, actions in synthetic_sets.ACTIONS.items():
        for action in actions:
            frames = synthetic_sets.render(data, action, 1, 1, SMALL).astype(int)
            assert np.abs(np.diff(frames, axis=0)).max() > 30, action  # something moves
    with pytest.raises(ValueError, match="unknown action of ucf101 'Bounce': did you mean 'Bouncing'"):
        synthetic_sets.render("ucf101", "Bounce", 1, 1)


def test_a_synthetic_data_set_is_written_once_and_as_a_whole(synthetic, tmp_path):
    def never(done, total):
        raise AssertionError

    assert synthetic_sets.write("ucf101", synthetic["ucf101"], SMALL, never) == synthetic["ucf101"]
    with pytest.raises(ValueError, match="exists and is not this synthetic data set"):
        synthetic_sets.write("ucf101", synthetic["ucf101"], SyntheticConfig(groups=4))

    def stop(done, total):
        assert total == 60
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic_sets.write("ucf101", tmp_path / "ucf101", SMALL, stop)
    assert not list(tmp_path.iterdir())
    again = synthetic_sets.write("ucf101", tmp_path / "ucf101", SMALL)
    for path in sorted(synthetic["ucf101"].rglob("*.*")):
        assert path.read_bytes() == (again / path.relative_to(synthetic["ucf101"])).read_bytes()
