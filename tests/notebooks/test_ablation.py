"""ablation.ipynb on networks trained for a step or two."""

import pandas as pd
import pytest

from ctlib.display.parameters import ParameterError
from tests.notebooks import run_here
from tests.study.conftest import TINY


def test_ablation_trains_a_table_and_shows_what_was_published_apart(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    shown = run("ablation", table="2h", custom_row="mine: excitation=none", overrides=TINY, out_dir=str(out))
    text, (rows, scaled, against, changed, plan, measured, published, differences) = shown.text, shown.html
    assert "Sizes keep the proportion of 224 to 256 pixels." in text and "3 runs, 0 of them finished" in text
    assert "1 of 3  2h train 224, test 224 (ctnet_21px), seed 0: top-1 " in text
    assert "3 of 3  2h mine (ctnet_no-excitation), seed 0: top-1 " in text
    assert "against 'train 256, test 256':" in text and against.count("none") == 1 and "recipe.epochs" in changed
    assert "224 pixels" in rows and "28.6" in rows and "37.3" in rows and "none" in rows and "21 pixels" in scaled
    assert plan.count("to be trained") == 3 and "not measured" not in text
    assert "measured here: laptop scale" in measured and "mine" in measured and "50.1" not in measured
    assert "published: top-1" in published and "50.1" in published and "mine" not in published
    assert "blocks" in differences and "mine" in differences
    lines = pd.read_csv(out / "runs.csv").set_index("rows")
    line = lines.loc['[["2h", "train 224, test 256"]]']
    assert (line.run, line["size"]) == ("ctnet_21px/seed0", 24)
    assert {path.name for path in (out / "figures").iterdir()} == {"table_2h.png", "table_2h_actions.png"}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"something_v1_root": "/x"}, "parameter 'something_v1_root' was replaced: write roots="),
        (
            {"table": 6, "rows": "CT-Net 9", "scale": "gpu"},
            "unknown row of Table 6 'CT-Net 9': did you mean 'CT-Net 8'",
        ),
    ],
)
def test_a_bad_parameter_of_ablation_is_refused(tmp_path, parameters, text):
    with pytest.raises(ParameterError, match=text):
        run_here("ablation", **parameters, out_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
