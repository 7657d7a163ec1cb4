"""Which runs the tables need, and how far they are."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from ctlib import files
from ctlib.study import comparisons, jobs, results, scales, tables
from ctlib.study.scales import Study, Views
from tests.study.conftest import STUDY
from tests.study.test_comparisons import around, lines


@pytest.mark.parametrize("scale", scales.SCALES)
def test_a_configuration_is_one_run_whatever_its_tables(scale):
    study, configs = Study(scale), {}
    for table in tables.TABLES:
        for networks in study.rows(table).values():
            for network in networks:
                config = study.run(network, table)
                assert configs.setdefault(config.name, config) == config
    assert len({repr(dataclasses.replace(config, name="x")) for config in configs.values()}) == len(configs)
    assert len(configs) == (34 if scale == "paper" else 30)
    todo = jobs.jobs(study, seeds=(0, 1))
    assert [job.config.name for job in todo] == [*configs, *configs]
    assert [job.config.seed for job in todo] == [0] * len(configs) + [1] * len(configs)


def test_a_run_names_all_rows_that_need_it_whichever_table_is_asked_for():
    rows = {job.config.name: job.config.rows for job in jobs.jobs(Study(), ["2a", "2e"])}
    shared = {"2a": "CT-Module", "2b": "2D", "2c": "parallel", "2d": "C_2 = floor(sqrt(C))", "2e": "+7 stage2-5"}
    shared |= {"2f": "C1 3x3x3, C2 3x3x3", "2g": "+CT-Module", "7": "CT-Module"}
    assert set(rows["ctnet_plain"]) == set(shared.items())
    assert set(rows["tsn"]) == {("2e", "+0 (TSN)"), ("2g", "Baseline (TSN)"), ("8", "TSN ResNet-50")}
    assert rows["c3d"] == (("2a", "C3D-Module"), ("7", "C3D-Module"))


def test_table_6_is_four_trainings_and_tests_of_them():
    todo = {job.config.name: job for job in jobs.jobs(Study(), ["6"])}
    assert list(todo) == ["ctnet", "ctnet_12frames", "ctnet_16frames", "ctnet_24frames"]
    for job in todo.values():
        assert sorted(test.clips for test in job.tests) == [1, 2]
        assert {row for rows in job.tests.values() for row in rows} < set(job.config.rows)
    assert ("6", "CT-Net_EN 8+16") in todo["ctnet"].tests[Views(64, 64, 1, 1)]
    assert todo["ctnet"].tests[Views(64, 64, 2, 1)] == [
        ("6", "CT-Net 8x1x2"), ("6", "CT-Net_EN (8+12+16+24)x1x2"),
    ]  # fmt: skip


def test_a_custom_row_is_one_more_run():
    study = Study(all_rows=tables.with_custom_row("2f", "wide: kernels=[[5,3,3],[3,3,3]] excitation=se"))
    (job,) = jobs.jobs(study, ["2f"], ["wide"])
    assert job.config.name == "ctnet_no-pointwise_se_kernels-5x3x3-3x3x3" and job.config.rows == (("2f", "wide"),)
    assert job.config.model.kernels == ((5, 3, 3), (3, 3, 3))


def test_the_plan_shows_what_is_finished(small_study):
    plan = jobs.plan(STUDY, small_study, jobs.jobs(STUDY, ["2h", "6"])).set_index("run")
    assert plan.state.to_dict() == {
        "ctnet_21px": "finished",
        "ctnet": "finished",
        "ctnet_12frames": "to be trained",
        "ctnet_16frames": "finished",
        "ctnet_24frames": "to be trained",
    }
    assert plan.minutes["ctnet_24frames"] > plan.minutes["ctnet_12frames"] > 0


def test_costs_are_counted_without_reading_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # an empty folder
    study = Study("paper")
    plan = jobs.plan(study, tmp_path / "out", jobs.jobs(study, ["2a"], ["CT-Module"]))
    assert (plan.state == "to be trained").all() and plan.gflops.min() > 30 and plan.minutes.isna().all()
    laptop = Study()
    assert np.isfinite(jobs.plan(laptop, "none", jobs.jobs(laptop, ["8"], ["TSN InceptionV3"])).minutes).all()


def test_a_run_whose_scores_are_gone_is_to_be_tested(small_study, tmp_path):
    copy = shutil.copytree(small_study, tmp_path / "copy")
    job = jobs.jobs(STUDY, ["2h"])[0]
    for scores in (job.folder(copy).path / "scores").iterdir():
        scores.unlink()
    assert jobs.state(job, copy) == "to be tested"


def test_a_record_of_other_parameters_is_refused(small_study):
    job = jobs.jobs(dataclasses.replace(STUDY, overrides=STUDY.overrides + " recipe.lr=0.5"), ["2h"])[0]
    with pytest.raises(
        ValueError, match="ctnet_21px/seed0 holds a run with other parameters .*recipe.lr .*0.5 was asked"
    ):
        jobs.state(job, small_study)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("result.json", '{"top1": 50', "Expecting"),
        ("result.json", '{"top1": 50}', "it lacks seconds"),
        ("result.json", "[]", "it holds list and no keys"),
        ("tests.json", "{}", "it lacks classes"),
        ("tests.json", '{"classes": [], "tests": null}', "a test needs rows, scores, size"),
        (
            "tests.json",
            '{"classes": [], "tests": [{"rows": [], "scores": "a.npz"}]}',
            "a test needs rows, scores, size",
        ),
    ],
)
def test_a_damaged_record_is_named(small_study, tmp_path, name, text, why):
    copy = shutil.copytree(small_study, tmp_path / "copy")
    job = jobs.jobs(STUDY, ["2h"])[1]
    (job.folder(copy).path / name).write_text(text)
    with pytest.raises(ValueError, match=f"ctnet/seed0/{name} is damaged: {why}"):
        jobs.state(job, copy)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: jobs.jobs(Study(), ["2z"]), "unknown table '2z'"),
        (
            lambda: jobs.check_roots(jobs.jobs(Study("paper"), ["2a", "7"]), {}),
            "folder of mini-.* and of something-v1 is",
        ),
        (lambda: jobs.parse_tables("2a 2a"), "tables must be 'all' or some of 2a .*, each once, got '2a 2a'"),
        (lambda: jobs.parse_tables(""), "tables must be"),
        (lambda: jobs.parse_seeds("0 -1"), "seeds must be whole numbers from 0, .* got '0 -1'"),
        (lambda: jobs.parse_seeds("1 1"), "each once"),
    ],
)
def test_bad_input_names_what_is_needed(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_tables_and_seeds_are_read_from_text():
    assert jobs.parse_tables("all") == tables.TABLES and jobs.parse_tables("2g 2a") == ("2g", "2a")
    assert jobs.parse_seeds("2 0") == (0, 2)


def finished(folder, name, seed, seconds, hardware):
    """A finished run, as far as plans look at it."""
    folder = folder / name / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"seed": seed, "seconds": seconds, "hardware": hardware}))


@pytest.fixture
def on_epyc(monkeypatch):
    monkeypatch.setattr(jobs, "kind_here", lambda compute: "EPYC")


def test_minutes_are_estimated_from_runs_on_the_same_data_and_hardware(tmp_path, monkeypatch, on_epyc):
    finished(tmp_path, "c3d", 7, 600, "2 x EPYC")
    finished(tmp_path, "c3d", 8, 1200, "16 x EPYC")
    finished(tmp_path, "csn", 7, 1, "NVIDIA H100")
    study = Study("paper")
    plan = jobs.plan(study, tmp_path, jobs.jobs(study, ["2a", "7"])).set_index("run")
    kinetics = plan.index.str.endswith("mini-kinetics-200")
    assert plan.minutes.isna().equals(pd.Series(kinetics, plan.index)) and 0 < kinetics.sum() < len(plan)
    assert plan.minutes["c3d"] == 15
    assert plan.minutes["csn"] == pytest.approx(15 / plan.gflops["c3d"] * plan.gflops["csn"])


def test_the_scale_s_own_time_is_of_a_cpu(monkeypatch):
    study = Study("laptop")
    wanted = jobs.jobs(study, ["2c"])
    assert jobs.plan(study, "none", wanted).minutes.notna().all()
    monkeypatch.setattr(jobs.ALONE.__class__, "on_cpu", lambda *_: False)
    monkeypatch.setattr(jobs, "kind_here", lambda compute: "NVIDIA H100")
    assert jobs.plan(study, "none", wanted).minutes.isna().all()


def test_estimates_follow_the_overrides(on_epyc):
    def minutes(overrides):
        study = Study(overrides=overrides)
        return jobs.plan(study, "none", jobs.jobs(study, ["2c"], ["parallel"])).minutes.item()

    usual = minutes("")
    assert minutes("recipe.epochs=2 recipe.test_epochs=1") == pytest.approx(usual / 2)
    assert minutes("arrow.train_clips=400 arrow.val_clips=400") == pytest.approx(usual / 10)
    assert minutes("data.size=32") < usual / 3


def test_a_label_names_the_row_that_was_asked_for():
    (job,) = jobs.jobs(Study(), ["2c"], ["parallel"])
    assert job.label() == "2c parallel (ctnet_plain), seed 0"
    assert jobs.jobs(Study(), ["2b", "2c"])[1].label() == "2b 2D (ctnet_plain), seed 0"


def test_a_run_that_has_begun_costs_the_epochs_that_remain(tmp_path, on_epyc):
    study, (job, *_) = Study(), jobs.jobs(Study(), ["2c"])
    finished(tmp_path, job.config.name, 3, 600, "2 x EPYC")
    folder = job.folder(tmp_path).path
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    (folder / "history.csv").write_text("epoch,loss\n1,2.0\n2,1.0\n")
    (row,) = jobs.plan(study, tmp_path, [job]).itertuples()
    assert row.state == "begun" and row.minutes == pytest.approx(10 * (1 - 2 / job.config.recipe.epochs))


# The plan.


def write_tables(folder, measured, hardware="2 x EPYC"):
    rows = [json.dumps([[line.table, line.row]]) for line in measured.itertuples()]
    names = {key: job.config.name for job in jobs.jobs(Study()) for key in job.config.rows}
    runs = measured.assign(rows=rows, test="64px 1x1", size=64, top5=99.0, epochs=6, config="digest", hardware=hardware)
    runs["run"] = [f"{names[line.table, line.row]}/seed{line.seed}" for line in measured.itertuples()]
    files.write_csv(folder / "runs.csv", runs[results.RUNS])


def test_runs_in_the_tables_are_not_done_again_though_their_folders_are_gone(tmp_path, on_epyc):
    study = Study()
    measured = lines(dict.fromkeys(("C3D-Module", "R(2+1)D-Module", "CSN-Module", "CT-Module"), [50.0, 51.0]), "2a")
    write_tables(tmp_path, measured)
    left = jobs.next_runs(study, tmp_path, ["2a"])
    # The plain CT-Net serves rows of other tables too, which these tables lack.
    assert [(job.config.name, job.config.seed) for job in left[:2]] == [("c3d", 0), ("r2plus1d", 0)]
    in_7 = measured.assign(table="7")
    write_tables(tmp_path, pd.concat([measured, in_7]))
    left = jobs.next_runs(study, tmp_path, ["2a"])
    assert [(job.config.name, job.config.seed) for job in left[:3]] == [
        ("ctnet_plain", 0), ("ctnet_plain", 1), ("c3d", 2)
    ]  # fmt: skip
    assert left[-1].config.seed == 4  # to the first look
    plan = jobs.plan(study, tmp_path, jobs.jobs(study, ["2a"]), jobs.recorded(study, tmp_path)).set_index("run")
    assert plan.state["c3d"] == "finished" and plan.minutes["c3d"] == 1


def test_tables_at_another_size_are_another_study(tmp_path):
    write_tables(tmp_path, lines({"CT-Module": [50.0]}, "2a"))
    runs = (tmp_path / "runs.csv").read_text().replace(",64,", ",48,")
    (tmp_path / "runs.csv").write_text(runs)
    with pytest.raises(ValueError, match="table 2a, row 'CT-Module' at 48 pixels, and 64 are asked for"):
        jobs.next_runs(Study(), tmp_path)


def test_after_a_look_networks_stop_whose_comparisons_are_all_decided(tmp_path):
    study = Study()
    accuracies = around({"1D": 50, "2D": 50.3, "3D": 80, "4D": 20}, std=0.8)
    measured = lines(accuracies)
    compared = comparisons.pairs(measured, ["2b"])
    open_ = {row for pair in compared[compared.result == "inconclusive"].itertuples() for row in pair[3:5]}
    assert open_ == {"1D", "2D"}
    assert jobs.undecided(study, compared) == {"ctnet_plain_1d", "ctnet_plain"}
    assert jobs.undecided(study, comparisons.pairs(measured[measured.seed < 4], ["2b"])) == {
        "ctnet_plain_1d", "ctnet_plain", "ctnet_plain_3d", "ctnet_plain_4d"
    }  # fmt: skip


def test_a_comparison_that_counts_in_another_table_keeps_its_networks_running(tmp_path):
    """Corrected within each table, it may be decided in one and not in the other, whose look waits for all of them."""
    accuracies = around(dict.fromkeys(("C3D-Module", "R(2+1)D-Module", "CSN-Module", "CT-Module"), 50))
    measured = pd.concat([lines(accuracies, "2a"), lines(accuracies, "7")])
    compared = comparisons.pairs(measured, ["2a", "7"]).assign(result=comparisons.AGREES, look=5)
    assert not jobs.undecided(Study(), compared)
    (first, *_) = compared.index[(compared.table == "7") & ~compared.counted]
    compared.loc[first, "result"] = comparisons.INCONCLUSIVE
    assert len(jobs.undecided(Study(), compared)) == 2


def test_the_plan_goes_on_to_the_next_look_and_ends(tmp_path, monkeypatch, on_epyc):
    done = set()
    monkeypatch.setattr(jobs, "is_finished", lambda job, *_: (job.config.name, job.config.seed) in done)
    study = Study()

    def next_runs():
        return [(job.config.name, job.config.seed) for job in jobs.next_runs(study, tmp_path, ["2b"])]

    assert len(next_runs()) == 4 * 5
    done.update(next_runs())
    monkeypatch.setattr(jobs, "undecided", lambda *_: {"ctnet_plain", "ctnet_plain_1d"})
    second = next_runs()
    assert {seed for _, seed in second} == set(range(5, 10)) and {name for name, _ in second} == jobs.undecided()
    done.update(second)
    assert {seed for _, seed in next_runs()} == set(range(10, 20))
    monkeypatch.setattr(jobs, "undecided", lambda *_: set())
    assert next_runs() == []


def test_a_block_belongs_to_the_kind_of_hardware_on_which_it_was_begun(tmp_path, on_epyc):
    study = Study()
    wanted = jobs.jobs(study, ["2b"], seeds=(0, 1, 2))
    measured = pd.concat(
        [lines({"1D": [50.0]}, hardware="NVIDIA H100"), lines({"2D": [50.0, 50.0]}, hardware="4 x EPYC")]
    )
    measured.iloc[1, measured.columns.get_loc("seed")] = 5
    assert jobs.begun_elsewhere(wanted, tmp_path, measured) == {0: "NVIDIA H100"}
    finished(tmp_path, "any", 2, 60, "NVIDIA H200")
    assert jobs.begun_elsewhere(wanted, tmp_path, measured) == {0: "NVIDIA H100", 2: "NVIDIA H200"}
    assert jobs.begun_elsewhere([], tmp_path, measured) == {}


def test_where_a_look_waits_for_another_kind_of_hardware_the_next_one_s_runs_are_added(tmp_path, on_epyc):
    measured = lines({"1D": [50.0] * 5})
    write_tables(tmp_path, measured[measured.seed < 4], "NVIDIA H100")
    assert {job.config.seed for job in jobs.next_runs(Study(), tmp_path, ["2b"])} == set(range(5))
    write_tables(tmp_path, measured, "NVIDIA H100")
    assert {job.config.seed for job in jobs.next_runs(Study(), tmp_path, ["2b"])} == set(range(10))


def test_what_a_first_look_went_without_is_not_run_later(tmp_path, on_epyc):
    (plain,) = (job for job in jobs.jobs(Study(), ["2b"]) if job.config.name == "ctnet_plain" and not job.config.seed)
    elsewhere = [lines({row: [50.0] * 10}, table) for table, row in plain.config.rows if table != "2b"]

    def left(accuracies):
        write_tables(tmp_path, pd.concat([lines(accuracies), *elsewhere]))
        return {(job.config.name, job.config.seed) for job in jobs.next_runs(Study(), tmp_path, ["2b"])}

    accuracies = around({"1D": 50, "2D": 50.3, "3D": 80, "4D": 20}, blocks=7)
    accuracies["1D"][2] = accuracies["4D"][6] = None  # so the look takes seeds 0, 1, 3, 4 and 5
    undecided = {"ctnet_plain_1d", "ctnet_plain"}
    assert left(accuracies) == {(name, seed) for name in undecided for seed in (7, 8, 9)}
    accuracies["4D"][5] = None  # four complete blocks are no look
    assert left(accuracies) == {("ctnet_plain_1d", 2)}


def test_tables_of_another_study_are_refused(tmp_path):
    write_tables(tmp_path, lines({"1D": [50.0]}))
    with pytest.raises(ValueError, match="holds another study .scale 'laptop', and 'gpu' was asked for"):
        jobs.next_runs(Study("gpu"), tmp_path)
    with pytest.raises(ValueError, match="holds another study .overrides '', and 'recipe.epochs=1' was asked for"):
        jobs.next_runs(Study("laptop", "recipe.epochs=1"), tmp_path)
