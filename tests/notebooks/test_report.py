"""report.ipynb and accuracy_vs_gflops.ipynb, run as papermill does, on the study's records and on made-up lines."""

import pandas as pd
import pytest
from papermill.exceptions import PapermillExecutionError

from ctlib.config import RunConfig
from ctlib.models import model_config
from ctlib.study import comparisons
from ctlib.training.records import RunFolder
from tests import ROOT
from tests.notebooks.test_notebooks import execute, printed
from tests.study.test_comparisons import study_of

AS_TEXT = {"table": str, "frames": str}

# Runs when the kernel starts: the notebooks read these lines in place of records of trainings.
STAND_IN = """
import pandas as pd
from ctlib import outcomes

kinds = {{"table": str, "frames": str}}
measured, missing = (pd.read_csv({folder!r} + f"/{{name}}.csv", dtype=kinds) for name in ("measured", "missing"))
outcomes.measured = lambda out_dir, scale, tables=None: measured[measured.table.isin(tables)]
outcomes.missing = lambda out_dir, scale, seeds, tables=None: missing[missing.table.isin(tables)]
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that has the notebooks read these lines, and takes `missing` for what they lack."""

    def use(lines, missing=()):
        lines.to_csv(tmp_path / "measured.csv", index=False)
        pd.DataFrame(missing, columns=["table", "row", "seed"]).to_csv(tmp_path / "missing.csv", index=False)
        startup = tmp_path / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "lines.py").write_text(STAND_IN.format(folder=str(tmp_path)))
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    return use


def pages(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    return "".join(output.get("data", {}).get("text/html", "") for output in outputs)


def test_the_report_of_a_half_finished_study_judges_what_is_there_and_names_the_rest(stand_in, tmp_path):
    lines = study_of(["2b", "2c", "7"], noise=0.05, skip=[("2b", "4D")])
    lines.loc[(lines.table == "2b") & (lines.row == "1D"), "top1"] += 5  # the other way round than published
    stand_in(lines, [("2b", "4D", seed) for seed in (0, 1, 2)] + [("2a", "CSN-Module", 0)])
    (tmp_path / "notes.md").write_text("Why 1D won: *nobody knows*.")
    notebook = execute("report", tmp_path, runs_dir=str(tmp_path), tables="2b 2c 7", out_dir=str(tmp_path / "out"))
    shown = [
        o.data["text/markdown"]
        for c in notebook.cells
        for o in c.get("outputs", [])
        if "text/markdown" in o.get("data", {})
    ]
    assert "Why 1D won: *nobody knows*." in shown
    found = comparisons.pairs(lines, ("2b", "2c", "7"))
    told, html = printed(notebook), pages(notebook)
    total = comparisons.counts(found).loc[("all", "")]
    assert total.disagrees == 2 and total.agrees > 0 and total["too few seeds"] == 2
    assert f"At scale laptop, of 9 findings that it can test {total.agrees} agree, 2 disagree," in told
    assert "Table 2b: 4D (seed 0, 1, 2)" in told and "CSN-Module (seed" not in told  # which is of a table not asked for
    assert "published 2D over 1D by 0.8; measured -4" in told and "Table 2c" in told and "not run: 4D" in html
    assert "published: Table 7" in html and "measured at scale laptop" in html and "NOTHING" not in told
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert figures == {"reproduced.png", "gaps.png"}
    kept = pd.read_csv(tmp_path / "out" / "findings.csv")
    assert kept.verdict.tolist() == found.verdict.tolist() and len(
        pd.read_csv(tmp_path / "out" / "measured.csv")
    ) == len(lines)


def test_the_report_that_is_kept_is_what_the_kept_records_say(tmp_path):
    execute("report", tmp_path, tables="2c 2g 7", out_dir=str(tmp_path / "out"))
    report = ROOT / "results" / "report"
    kept, anew = (pd.read_csv(out / "measured.csv", dtype=AS_TEXT) for out in (report, tmp_path / "out"))
    asked_for = kept[kept.table.isin(["2c", "2g", "7"])]
    pd.testing.assert_frame_equal(asked_for.merge(anew), asked_for.reset_index(drop=True))  # more may be there
    findings = comparisons.pairs(kept).drop(columns="key").fillna({"why": ""})
    told = pd.read_csv(report / "findings.csv", dtype=AS_TEXT).fillna({"why": ""})
    assert (told.seeds > 1).any()
    pd.testing.assert_frame_equal(told, findings)


def test_without_records_the_report_says_so_and_what_would_be_judged(tmp_path):
    (tmp_path / "empty").mkdir()
    notebook = execute("report", tmp_path, runs_dir=str(tmp_path / "empty"), out_dir=str(tmp_path / "out"))
    told = printed(notebook)
    assert "NOTHING MEASURED: no finished run in" in told and "0 lines measured" in told
    assert "Of 139 findings" in told and "139 have fewer than two common seeds" in told and "Missing: " in told
    assert "published: Table 8" in pages(notebook)


def test_records_that_differ_stop_the_report_with_one_line(stand_in, tmp_path):
    lines = study_of(["2b"])
    lines.loc[0, "fingerprint"] = "other"
    stand_in(lines)
    with pytest.raises(
        PapermillExecutionError, match="needs runs with one fingerprint, got other in runs/1D/seed0"
    ) as caught:
        execute("report", tmp_path, tables="2b", out_dir=str(tmp_path / "out"))
    assert caught.value.traceback == [f"ParameterError: {caught.value.evalue}"]
    assert not (tmp_path / "out").exists()


def test_accuracy_against_gflops_draws_what_is_published_and_times_what_was_measured(stand_in, tmp_path):
    lines = study_of(["2b", "6"], seeds=(0, 1))
    lines = lines[lines.row.isin(["1D", "2D", "CT-Net 8", "CT-Net 8x1x2", "CT-Net_EN 8+16"])]
    lines.loc[lines.row == "CT-Net 8", "run"] = lines.run[lines.row == "2D"].to_numpy()
    stand_in(lines)
    for run in lines.run:
        config = model_config("tsn_quickstart", num_classes=4)
        RunFolder(tmp_path / run).start(RunConfig(name="x", model=config))
    out = tmp_path / "out"
    notebook = execute(
        "accuracy_vs_gflops",
        tmp_path,
        runs_dir=str(tmp_path),
        tables="2b 6",
        seconds=0.01,
        device="cpu",
        out_dir=str(out),
    )
    told, html = printed(notebook), pages(notebook)
    assert "2 networks of 3 rows, at least 2 seed(s) each" in told and "6 CT-Net 8" in html  # no views, no ensembles
    assert "x10" not in told.split("one view:")[1].splitlines()[0] and "X3D-XL x30" in told
    timed = pd.read_csv(out / "latency.csv")
    assert timed.name.tolist() == ["2b 1D", "2b 2D"] * 3 and (timed.milliseconds > 0).all()
    names = ("kinetics_one_view", "kinetics_all_views", "something_v1", "something_v2", "measured")
    assert {path.name for path in (out / "figures").iterdir()} == {f"{name}.png" for name in names}
