"""Which runs the tables need, and how far they are."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from ctlib.study import jobs, scales, tables
from ctlib.study.scales import Study, Views
from tests.study.conftest import STUDY


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
    assert ("6", "CT-Net_EN 8+16") in todo["ctnet"].tests[Views(48, 48, 1, 1)]
    assert todo["ctnet"].tests[Views(48, 48, 2, 1)] == [
        ("6", "CT-Net 8x1x2"), ("6", "CT-Net_EN (8+12+16+24)x1x2"),
    ]  # fmt: skip


def test_a_custom_row_is_one_more_run():
    study = Study(all_rows=tables.with_custom_row("2f", "wide: kernels=[[5,3,3],[3,3,3]] excitation=se"))
    (job,) = jobs.jobs(study, ["2f"], ["wide"])
    assert job.config.name == "ctnet_se_kernels-5x3x3-3x3x3" and job.config.rows == (("2f", "wide"),)
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


def test_minutes_are_estimated_from_runs_on_the_same_data(monkeypatch):
    monkeypatch.setattr(jobs, "state", lambda job, _: "finished" if job.config.name == "c3d" else "to be trained")
    monkeypatch.setattr(jobs.RunFolder, "result", lambda folder: {"seconds": 600})
    study = Study("paper")
    plan = jobs.plan(study, "none", jobs.jobs(study, ["2a", "7"])).set_index("run")
    kinetics = plan.index.str.endswith("mini-kinetics-200")
    assert plan.minutes.isna().equals(pd.Series(kinetics, plan.index)) and 0 < kinetics.sum() < len(plan)
    rate = 10 / plan.gflops["c3d"]
    assert plan.minutes["csn"] == pytest.approx(rate * plan.gflops["csn"])
