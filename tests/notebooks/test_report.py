"""report.ipynb and accuracy_vs_gflops.ipynb on the study's tables and on made-up ones."""

import json
import re

import pandas as pd
import pytest

from ctlib import files
from ctlib.display.parameters import ParameterError
from ctlib.study import comparisons, predictions, results
from tests import ROOT
from tests.notebooks import run_here
from tests.study.test_comparisons import study_of


def write_tables(folder, lines):
    """A runs.csv with one row per line, and predictions of two videos."""
    rows = [json.dumps([[line.table, line.row]]) for line in lines.itertuples()]
    runs = lines.assign(rows=rows, test="48px 1x1", top5=99.0, epochs=6, config="digest")
    files.write_csv(folder / "runs.csv", runs[results.RUNS])
    tests = {
        f"{line.run} {predictions.test_name(line.size, line.crops, line.clips)}": [0, 0] for line in runs.itertuples()
    }
    stored = pd.DataFrame({"label": [0, 1]} | tests, ["val/0.mp4", "val/1.mp4"], dtype="uint8")
    predictions.write(folder, {predictions.test_list(name): stored for name in set(lines.fingerprint)})


def test_the_report_of_an_unfinished_study_compares_what_it_has_and_lists_the_rest(run, tmp_path):
    lines = study_of(["2b", "2c", "7"], seeds=range(5), noise=0.05, skip=[("7", "CSN-Module")])
    lines.loc[(lines.table == "2b") & (lines.row == "1D"), "top1"] += 5  # the other way round than published
    write_tables(tmp_path, lines)
    (tmp_path / "notes.md").write_text("# Notes\n\n## Table 2b\n\nThis is what the author says.\n")
    out = tmp_path / "out"
    shown = run("report", tables_dir=str(tmp_path), tables="2b 2c 7", out_dir=str(out))
    text, html = shown.text, "".join(shown.html)
    total = comparisons.summary(comparisons.pairs(lines, ("2b", "2c", "7"))).loc["outside Table 6"]
    assert total.disagrees == 2 and total.agrees > 0 and total["not run"] == 2
    numbers = re.findall(r"<td[^>]*>(\d+)</td>", shown.html[0])
    assert list(map(int, numbers)) == total[["comparisons", "decided", "agrees", "equal"]].tolist()
    assert "5 accuracies of the seeds asked for are missing" in text and "[0, 1, 2, 3, 4]" in html
    assert "Table 2c" in text and "not run" in html and "NOTHING" not in text
    assert "published" in html and "measured at scale laptop" in html and "only higher" in html
    assert {path.name for path in (out / "figures").iterdir()} == {"reproduced.png", "gaps.png"}  # data without actions


@pytest.mark.parametrize("name", ["ablations", "first_edition"])
def test_the_tables_of_the_study_are_complete_and_consistent(name, tmp_path):
    folder = ROOT / "results" / name
    if not (folder / "runs.csv").is_file():
        pytest.skip("no run has been committed")
    measured, runs, stored = results.measured(folder), results.read_runs(folder), predictions.read(folder)
    assert len(measured) and not runs.duplicated(["run", "test"]).any()
    for name, run in zip(results.key(runs), runs.itertuples(), strict=True):
        frame = stored[predictions.test_list(run.fingerprint)]
        assert round(100 * float((frame[name] == frame.label).mean()), 4) == run.top1
    files.write_csv(tmp_path / "anew.csv", comparisons.pairs(measured).drop(columns="key"))
    committed, anew = (pd.read_csv(path) for path in (folder / "comparisons.csv", tmp_path / "anew.csv"))
    pd.testing.assert_frame_equal(committed, anew, rtol=1e-6)
    histories = pd.read_csv(folder / "histories.csv")
    assert set(histories.run) == set(runs.run[~runs.run.str.contains(" + ", regex=False)])


def test_the_committed_study_has_a_heat_map_of_its_actions(tmp_path):
    folder = ROOT / "results" / "ablations"
    if predictions.by_action(folder, results.measured(folder, ["2a"])).empty:
        pytest.skip("the committed records are not of a set of actions")
    shown = run_here("report", tables="2a", out_dir=str(tmp_path))
    assert "No actions" not in shown.text and (tmp_path / "figures" / "actions.png").is_file()


def test_without_tables_the_report_says_so_and_what_would_be_compared(tmp_path):
    text, tables, *_ = run_here("report", tables_dir=str(tmp_path), out_dir=str(tmp_path / "out"))
    assert "0 rows with 0 accuracies" in text and "NOTHING MEASURED in" in text and "No actions" in text
    assert "265 accuracies of the seeds asked for are missing" in text
    assert "before the first look" in "".join(tables) and "CT-Net InceptionV3" in "".join(tables)


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
    names = (
        "kinetics_one_view",
        "kinetics_all_views",
        "something_v1",
        "something_v2",
        "something_v1_equal",
        "measured",
    )
    assert {path.name for path in (out / "figures").iterdir()} == {f"{name}.png" for name in names}
