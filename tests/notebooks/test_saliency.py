"""saliency_tubes.ipynb on networks trained for seconds."""

from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from PIL import Image

from ctlib.display.parameters import ParameterError
from ctlib.study import saliency_networks
from tests.notebooks import run_here

TINY = (
    "data.workers=0 recipe.epochs=1 recipe.test_epochs=1 recipe.warmup=0 arrow.train_clips=16 arrow.val_clips=16 "
    "arrow.size=32 data.size=64 compute.device=cpu"
)


@pytest.fixture(scope="module")
def explained(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saliency")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTLIB_CACHE", str(folder / "cache"))
        if run is run_here:  # a process takes seconds to start
            patch.setattr(saliency_networks, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
        shown = run(
            "saliency_tubes", networks="CSN, CT-Net", overrides=TINY, clips="3 8",
            num_clips=16, runs_dir=str(folder / "runs"), out_dir=str(folder / "out"),
        )  # fmt: skip
    return folder, shown


def test_networks_are_trained_shown_and_measured_beside_their_controls(explained):
    folder, (text, html, kinds, *_) = explained
    assert "2a CSN-Module (csn), seed 0: top-1" in text
    assert "arrow: 16 test videos, 1 clip x 1 crop, 8 frames of 64 x 64" in text
    table = pd.read_csv(folder / "out" / "localisation.csv")
    names = ["CSN", "CSN, random weights", "CT-Net", "CT-Net, random weights"]
    assert sorted(set(table.network)) == names and len(table) == 12 and set(table.clips) == {16}
    shown = "".join(html)
    for row in table[table.of == "network"].itertuples():
        assert f"{row.share:.1f} ± {row.share_margin:.1f}" in shown
    assert "CT-Net minus it, points" in shown and "against, significant" in shown and "placed where seen" in shown
    assert len(pd.read_csv(folder / "out" / "localisation_by_clip.csv")) == 12 * 16
    placed = pd.read_csv(folder / "out" / "differences.csv").of.value_counts()
    assert placed["network"] == placed["placed where seen"]
    figures = {path.name for path in (folder / "out" / "figures").iterdir()}
    stills = {f"{name}.png" for name in ("clip_3", "clip_8", "tube_3", "localisation", "by_action")}
    assert figures == stills | {"clip_3.gif", "clip_8.gif"}
    with Image.open(folder / "out" / "figures" / "clip_3.gif") as moving:
        assert moving.n_frames == 8
    assert not any("widget" in kind for kind in kinds)


def test_given_networks_are_explained_and_nothing_is_measured_where_no_object_is_known(explained):
    folder, _ = explained
    (root,) = (path for path in (folder / "cache").iterdir() if path.is_dir())
    text = run_here(
        "saliency_tubes", checkpoints=str(folder / "runs" / "*" / "seed0" / "checkpoint.pt"), data="list",
        root=str(root), classes="true", overrides="data.size=32 saliency.threshold=0.3 compute.device=cpu",
        clips=f"1 {root / 'val' / '000002_backward.mp4'}", out_dir=str(folder / "other"),
    ).text  # fmt: skip
    assert "shown, not measured" in text and "000002_backward.mp4: ctnet predicts" in text
    assert not (folder / "other" / "localisation.csv").exists()


def test_a_bad_parameter_is_refused_before_any_work(tmp_path):
    with pytest.raises(ParameterError, match="unknown network 'CTNet': did you mean 'CT-Net'"):
        run_here("saliency_tubes", networks="TSN, CTNet", out_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
