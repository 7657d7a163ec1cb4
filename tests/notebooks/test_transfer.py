"""transfer.ipynb on synthetic data of a few videos."""

import pandas as pd
import pytest

from ctlib.display.parameters import ParameterError
from ctlib.training import records as runs
from ctlib.weights import Weights
from tests.notebooks import run_here

TINY = "model.num_frames=4 data.size=24 data.workers=0 recipe.epochs=1 recipe.warmup=0"


@pytest.fixture(scope="module")
def transferred(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTLIB_CACHE", str(folder / "cache"))
        shown = run("transfer", folds="2", overrides=f"{TINY} synthetic.groups=4", out_dir=str(folder / "out"))
    return folder, shown


def test_transfer_trains_both_synthetic_data_sets_on_each_split_from_a_start_and_from_scratch(transferred):
    folder, (text, html, *_) = transferred
    table = pd.read_csv(folder / "out" / "splits.csv")
    assert len(table) == 4 and set(table.fold) == {2} and set(table.videos) == {6}
    shown = "".join(html)
    for _, part in table.groupby(["data", "weights"]):
        assert f"{part.top1.mean():.1f}" in shown
    assert "measured here: top-1" in shown and "gain, points" in shown
    assert "4 trainings on the splits, 0 of them finished" in text and "synthetic data: the real UCF101" in text
    records = runs.load(folder / "out")
    assert len(records) == 4
    record = runs.RunFolder(folder / "out" / "hmdb51" / "fine-tuned_split2" / "seed0")
    assert record.config().start.endswith(Weights.CTNET_QUICKSTART_ARROW.file.name) and record.config().data.fold == 2
    assert record.record()["resolved"]["start_digest"] == Weights.CTNET_QUICKSTART_ARROW.meta["digest"]
    assert "73.2" not in shown  # the paper's are of the real sets
    assert {path.name for path in (folder / "out" / "figures").iterdir()} == {"splits.png"}


def test_transfer_finds_what_is_finished_and_takes_data_sets_from_their_folders(transferred):
    folder, _ = transferred
    text, tables, *_ = run_here(
        "transfer", start="ctnet_quickstart_arrow", model="ctnet_quickstart", recipe="laptop", folds="2",
        roots=f"hmdb51={folder / 'out' / 'synthetic' / 'hmdb51_4x1'}", scratch=False,
        overrides=f"{TINY} recipe.batch=8 recipe.lr=0.112", out_dir=str(folder / "out"),
    )  # fmt: skip
    shown = "".join(tables)
    assert "1 trainings on the splits, 1 of them finished" in text and "not run: ucf101" in text
    assert "so the gain is not known" in text and "synthetic" not in text
    assert "published: Table 5" in shown and "73.2" in shown and "96.2" not in shown


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"roots": "ucf101=/no/such"}, "start must be the checkpoint to fine-tune from, got ''"),
        ({"start": "no/such.pt"}, "no checkpoint .*no/such.pt"),
        ({"groups": 4}, "'groups' was replaced: write overrides="),
    ],
)
def test_a_bad_parameter_of_transfer_is_refused_before_any_work(tmp_path, parameters, text):
    with pytest.raises(ParameterError, match=text):
        run_here("transfer", **parameters, out_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
