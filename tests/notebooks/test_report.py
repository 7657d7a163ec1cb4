"""report.ipynb and accuracy_vs_gflops.ipynb on the study's tables and on made-up ones."""

import json

import pandas as pd
import pytest

from ctlib import files
from ctlib.display.parameters import ParameterError
from ctlib.study import comparisons, results
from tests import ROOT
from tests.notebooks import run_here
from tests.study.test_comparisons import study_of


def write_tables(folder, lines):
    """A runs.csv with one row per line."""
    rows = [json.dumps([[line.table, line.row]]) for line in lines.itertuples()]
    runs = lines.assign(rows=rows, test="48px 1x1", top5=99.0, epochs=6, config="digest")
    files.write_csv(folder / "runs.csv", runs[results.RUNS])


def test_the_report_of_an_unfinished_study_compares_what_it_has_and_lists_the_rest(run, tmp_path):
    lines = study_of(["2b", "2c", "7"], noise=0.05, skip=[("2b", "4D")])
    lines.loc[(lines.table == "2b") & (lines.row == "1D"), "top1"] += 5  # the other way round than published
    write_tables(tmp_path, lines)
    out = tmp_path / "out"
    shown = run("report", tables_dir=str(tmp_path), tables="2b 2c 7", out_dir=str(out))
    text, html = shown.text, "".join(shown.html)
    compared = comparisons.pairs(lines, ("2b", "2c", "7"))
    total = comparisons.counts(compared).loc[("all", "")]
    assert total.disagrees == 2 and total.agrees > 0 and total["not run"] == 2
    assert f"{total.agrees + 2} significant comparisons" in html and "2 comparisons came out the other way" in html
    assert "3 accuracies of the seeds asked for are missing" in text and "[0, 1, 2]" in html
    assert "Table 2c" in text and "not run (4D)" in html and "NOTHING" not in text
    assert "published: Table 7" in html and "measured at scale laptop" in html
    assert {path.name for path in (out / "figures").iterdir()} == {"reproduced.png", "gaps.png"}


def test_the_tables_of_the_study_are_complete_and_consistent():
    folder = ROOT / "results" / "ablations"
    measured = results.measured(folder)
    assert len(measured) == 195 and results.missing(folder, "laptop", (0, 1, 2)).empty
    predictions = results.read_predictions(folder)
    runs = results.read_runs(folder)
    for name, run in zip(results.key(runs), runs.itertuples(), strict=True):
        frame = predictions[results.test_list(run.fingerprint)]
        assert round(100 * float((frame[name] == frame.label).mean()), 4) == run.top1
    stored = pd.read_csv(folder / "comparisons.csv", dtype={"table": str}, keep_default_na=False, na_values={"p": ""})
    anew = comparisons.pairs(measured)
    assert (stored.result == anew.result).all() and stored.p.equals(anew.p)
    assert stored.result.value_counts().to_dict() == {
        "inconclusive": 116, "not at this scale": 111, "agrees": 22, "disagrees": 1
    }  # fmt: skip
    assert len(pd.read_csv(folder / "histories.csv")) == 600


def test_without_tables_the_report_says_so_and_what_would_be_compared(tmp_path):
    text, tables, *_ = run_here("report", tables_dir=str(tmp_path), out_dir=str(tmp_path / "out"))
    assert "0 rows with 0 accuracies" in text and "NOTHING MEASURED in" in text
    assert "159 accuracies of the seeds asked for are missing" in text
    assert "0 significant comparisons" in "".join(tables) and "published: Table 8" in "".join(tables)


def test_runs_that_must_not_be_compared_stop_the_report_with_one_line(tmp_path):
    lines = study_of(["2b"])
    lines.loc[0, "fingerprint"] = "other"
    write_tables(tmp_path, lines)
    with pytest.raises(ParameterError, match="needs runs with one fingerprint, got 'other' in"):
        run_here("report", tables_dir=str(tmp_path), tables="2b", out_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_accuracy_against_gflops_draws_published_points_and_times_measured_networks(run, tmp_path):
    lines = study_of(["2e", "6"], seeds=(0, 1)).assign(overrides="data.size=32")
    lines = lines[lines.row.isin(["+0 (TSN)", "+1 stage5", "CT-Net 8", "CT-Net 8x1x2", "CT-Net_EN 8+16"])]
    lines.loc[lines.row == "CT-Net 8", "run"] = lines.run[lines.row == "+1 stage5"].to_numpy()
    lines["size"] = 32
    write_tables(tmp_path, lines)
    out, given = tmp_path / "out", {"tables": "2e 6", "seconds": 0.01, "device": "cpu"}
    shown = run("accuracy_vs_gflops", tables_dir=str(tmp_path), out_dir=str(out), **given)
    text, html = shown.text, "".join(shown.html)
    assert "6 CT-Net 8" in html and "8x1x2" not in html  # one network once; no views, no ensembles
    fronts = dict(line.split(": ", 2)[1:] for line in text.splitlines() if line.startswith(("published", "measured")))
    assert "X3D-XL x30" in fronts["Kinetics-400, one view"] and "milliseconds" in fronts
    timed = pd.read_csv(out / "latency.csv")
    assert timed.name.tolist() == ["2e +0 (TSN)", "2e +1 stage5"] * 3 and (timed.milliseconds > 0).all()
    names = ("kinetics_one_view", "kinetics_all_views", "something_v1", "something_v2", "measured")
    assert {path.name for path in (out / "figures").iterdir()} == {f"{name}.png" for name in names}
