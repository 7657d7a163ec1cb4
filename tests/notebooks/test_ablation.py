"""ablation.ipynb, run as papermill runs it, on networks trained for a step or two."""

import pandas as pd
import pytest
from papermill.exceptions import PapermillExecutionError

from tests.notebooks.test_notebooks import execute, printed
from tests.study.test_jobs import TINY


def pages(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    return [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]


def test_ablation_trains_a_table_and_shows_what_was_published_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("CTLIB_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    notebook = execute(
        "ablation", tmp_path, table="2h", custom_row="mine: excitation=none", overrides=TINY, out_dir=str(out)
    )
    told, (rows, plan, measured, published) = printed(notebook), pages(notebook)
    assert "21 and 24 pixels stand for 224 and 256" in told and "3 runs, 0 of them finished" in told
    assert "1 of 3  ctnet_21px, seed 0: top-1 " in told and "3 of 3  ctnet_no-excitation, seed 0: top-1 " in told
    assert "trained at 224 pixels" in rows and "28.6" in rows and "37.3" in rows and "excitation none" in rows
    assert plan.count("to be trained") == 3
    assert "measured here: laptop scale" in measured and "mine" in measured and "50.1" not in measured
    assert "published: top-1" in published and "50.1" in published and "mine" not in published
    assert "One seed resolves nothing about training" in told and "Arrow of Time is made data" in told
    lines = pd.read_csv(out / "tables" / "2h.csv").set_index("row")
    assert lines.run["train 224, test 256"] == "runs/ctnet_21px/seed0" and lines["size"]["train 224, test 256"] == 24
    assert {path.name for path in (out / "figures").iterdir()} == {"table_2h.png"}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [({"table": 6, "rows": "CT-Net 9", "scale": "gpu"}, "unknown row of Table 6 'CT-Net 9': did you mean 'CT-Net 8'")],
)
def test_a_bad_parameter_of_ablation_is_one_line(tmp_path, parameters, text):
    with pytest.raises(PapermillExecutionError, match=text) as caught:
        execute("ablation", tmp_path, **parameters, out_dir=str(tmp_path / "out"))
    assert caught.value.traceback == [f"ParameterError: {caught.value.evalue}"]
    assert not (tmp_path / "out").exists()
