import pandas as pd
import pytest
from papermill.exceptions import PapermillExecutionError

from ctlib.training import records
from tests.notebooks.test_notebooks import execute, printed

SMALL = {"clips_per_class": 6, "num_frames": 4, "size": 32, "epochs": 1, "batch": 4, "overrides": "data.workers=0"}


def test_it_checks_trains_tests_and_looks(tmp_path):
    out = tmp_path / "out"
    text = printed(execute("your_own_videos", tmp_path, out_dir=str(out), **SMALL))
    bad = pd.read_csv(out / "checked" / "bad.csv").path.tolist()
    assert sorted(path.rsplit("/")[-1] for path in bad) == ["broken_download.mp4", "empty.mp4"]
    result = records.load(out).iloc[0]
    assert result.train_videos + result.videos == 24 and result.train_listed + result.listed == 26
    protocols = pd.read_csv(out / "protocols.csv")
    assert list(zip(protocols.clips, protocols.crops, strict=True)) == [(1, 1), (2, 1), (2, 3)]
    assert protocols.top1.between(protocols.low, protocols.high).all() and protocols.top1[0] == result.top1
    assert "2 clip(s) x 3 crop(s): top-1" in text
    names = ("frames_sampled", "crops_seen", "learning_curves", "confusion", "clips", "where_it_looks")
    assert {path.name for path in (out / "figures").iterdir()} == {f"{name}.png" for name in names}


@pytest.mark.slow
def test_a_second_run_trains_nothing(tmp_path):
    for _ in range(2):
        notebook = execute("your_own_videos", tmp_path, out_dir=str(tmp_path / "out"), **SMALL)
    assert "nothing was trained" in printed(notebook)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"root": "/no/such/folder"}, "no folder /no/such/folder"),
        pytest.param({"clips_per_class": 1}, "clips_per_class must be at least 4, got 1", marks=pytest.mark.slow),
    ],
)
def test_a_bad_parameter_is_one_line_before_any_work(tmp_path, parameters, text):
    with pytest.raises(PapermillExecutionError, match=text) as caught:
        execute("your_own_videos", tmp_path, **parameters, out_dir=str(tmp_path / "out"))
    assert caught.value.traceback == [f"ParameterError: {caught.value.evalue}"] and caught.value.exec_count <= 5
    assert not (tmp_path / "out").exists()
