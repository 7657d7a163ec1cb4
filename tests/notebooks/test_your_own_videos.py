import pandas as pd
import pytest

from ctlib.display.parameters import ParameterError
from ctlib.training import records
from tests.notebooks import run_here

SMALL = {"clips_per_class": 6, "num_frames": 4, "size": 32, "epochs": 1, "batch": 4, "overrides": "data.workers=0"}


def test_it_checks_trains_tests_and_looks(run, tmp_path):
    out = tmp_path / "out"
    text = run("your_own_videos", out_dir=str(out), **SMALL).text
    bad = pd.read_csv(out / "checked" / "bad.csv").path.tolist()
    assert sorted(path.rsplit("/")[-1] for path in bad) == ["broken_download.mp4", "empty.mp4"]
    result = records.load(out).iloc[0]
    assert result.train_videos + result.videos == 24 and result.train_listed + result.listed == 26
    protocols = pd.read_csv(out / "protocols.csv")
    assert list(zip(protocols.clips, protocols.crops, strict=True)) == [(1, 1), (2, 1), (2, 3)]
    assert protocols.top1.between(protocols.low, protocols.high).all() and protocols.top1[0] == result.top1
    assert "2 clip(s) x 3 crop(s): top-1" in text
    names = ("frames_sampled", "crops_seen", "learning_curves", "confusion", "clips")
    assert {path.name for path in (out / "figures").iterdir()} == {f"{name}.png" for name in names}
    assert "no tube: the network's last map has 1 x 1 positions" in text  # of 32 x 32 pixels
    again = run_here("your_own_videos", out_dir=str(out), **SMALL).text
    assert "nothing was trained" in again
    assert "5 steps are too few to learn 4 classes, which takes about 240: set recipe.epochs to 48" in text
    assert " % of the training clips were right in the last epoch: train longer, with recipe.epochs=48;" in text
    config = records.RunFolder(out / "ctnet_quickstart" / "seed0").config()
    assert config.start == "ctnet_quickstart_arrow" and config.recipe.epochs == 1
    assert (config.recipe.lr, config.data.cache) == (0.16, "ram")


def test_a_bad_parameter_is_refused_before_any_work(tmp_path):
    for parameters, text in (
        ({"root": "/no/such/folder"}, "no folder /no/such/folder"),
        ({"overrides": "recipe.epohcs=3"}, "unknown key of RecipeConfig 'epohcs': did you mean 'epochs'"),
        ({"clips_per_class": 1}, "clips_per_class must be at least 4, got 1"),
    ):
        with pytest.raises(ParameterError, match=text):
            run_here("your_own_videos", **parameters, out_dir=str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()
