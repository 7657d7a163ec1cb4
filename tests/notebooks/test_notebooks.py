"""train, quickstart and costs on data small enough to take seconds."""

import ast

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from ctlib import files
from ctlib.config import ModelConfig
from ctlib.data import shapes
from ctlib.display.parameters import ParameterError
from ctlib.models import build_model
from ctlib.study import systems, tradeoff
from ctlib.training import records
from tests import ROOT
from tests.notebooks import execute, processes, run_here

SMALL = "model.num_frames=4 data.size=32 data.workers=0 recipe.batch=8 recipe.lr=0.05"


@pytest.fixture(scope="module")
def trained(run, arrow_root, tmp_path_factory):
    """TSN and CT-Net trained for two epochs by the notebook, and what it printed."""
    folder = tmp_path_factory.mktemp("results")
    given = {"root": str(arrow_root), "epochs": 2, "overrides": SMALL, "out_dir": str(folder)}
    text = {
        "TSN": run_here("train", name="TSN", model="tsn_quickstart", **given).text,
        "CT-Net": run("train", name="CT-Net", processes=processes(run), **given).text,
    }
    return folder, text


def test_train_prints_one_line_per_epoch_and_leaves_a_record(trained):
    folder, text = trained
    for name in ("TSN", "CT-Net"):
        lines = [line for line in text[name].splitlines() if " epoch " in line]
        assert [line.split()[2] for line in lines] == ["1/2", "2/2"]
        config = records.RunFolder(folder / name / "seed0").config()
        assert (config.recipe.epochs, config.recipe.batch, config.recipe.lr) == (2, 8, 0.05)
        assert (config.model.num_frames, config.data.size) == (4, 32)
    assert records.load(folder).name.tolist() == ["CT-Net", "TSN"]
    assert records.load(folder).set_index("name").top1["TSN"] <= 50


def test_train_finds_a_finished_run(trained, arrow_root):
    folder, _ = trained
    result = records.RunFolder(folder / "TSN" / "seed0").result()
    given = {"root": str(arrow_root), "epochs": 2, "overrides": SMALL, "out_dir": str(folder)}
    text = run_here("train", name="TSN", model="tsn_quickstart", **given).text
    assert "found the finished run" in text and " epoch " not in text
    assert records.RunFolder(folder / "TSN" / "seed0").result() == result


def test_quickstart_shows_what_the_records_say(run, trained):
    folder, _ = trained
    text = run("quickstart", runs_dir=str(folder)).text
    for record in records.load(folder).itertuples():
        assert f"{record.name}: top-1 {record.top1:.1f} ±" in text
    figures = {path.name for path in (folder / "figures").iterdir()}
    names = ("learning_curves", "accuracy_vs_gflops", "confusion", "clips")
    assert figures == {f"{name}.png" for name in names}


def test_runs_on_any_data_set_are_shown_and_drawn_against_their_cost(arrow_root, tmp_path, monkeypatch):
    runs, out = tmp_path / "runs", tmp_path / "out"
    given = {"data": "list", "root": str(arrow_root), "epochs": 1, "out_dir": str(runs)}
    few = f"{SMALL} recipe.warmup=0 model.weights=null"
    text = run_here("train", name="mine", overrides=few, **given).text
    assert "4 steps are too few to learn 16 classes" in text
    assert "right in the last epoch: train longer, with recipe.epochs=120;" in text
    shown = run_here("quickstart", runs_dir=str(runs))
    assert "mine: top-1" in shown.text and "right pair" not in shown.html[0]
    monkeypatch.setattr(tradeoff, "published_tradeoff", lambda *_: plt.figure())  # test_report.py draws them
    shown = run_here("accuracy_vs_gflops", runs_dir=str(runs), seconds=0.01, device="cpu", out_dir=str(out))
    assert "measured: milliseconds: mine" in shown.text and (out / "figures" / "measured.png").is_file()
    assert "mine" in shown.html[-1]


@pytest.mark.slow
def test_costs_counts_measures_and_draws(run, tmp_path, monkeypatch):
    few = [("3", "TSM, 8 frames"), ("4", "SlowFast R101 8+32"), ("4", "TSN Inception")]  # all: tests/study/test_systems
    monkeypatch.setattr(systems, "SYSTEMS", {key: systems.SYSTEMS[key] for key in few})
    text = run("costs", size=64, num_frames=4, seconds=0.01, out_dir=str(tmp_path)).text
    assert "67 of 68 published GFLOPs" in text and "19 of 19 published numbers of parameters" in text
    assert "Not met: Table 6, CT-Net 16x1x2: 151 GFLOPs, counted 149.1." in text
    assert "K = 1 to 4: 11, 45, 119, 249" in text and "Table 4, TSN Inception: 3.2 GFLOPs a frame fit no size" in text
    names = ("published_vs_counted", "cost_by_stage", "dimension_sizes", "interact_fields", "latency_vs_gflops")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{name}.png" for name in names}


def test_pretrain_makes_weights_that_a_network_starts_from(tmp_path, monkeypatch):
    made = shapes.make_pool
    monkeypatch.setattr(shapes, "make_pool", lambda seed, split, *_, size=32: made(seed, split, 20, 4, 32))
    given = {"backbone": "quickstart", "size": 32, "steps": 3, "batch": 8, "seed": 2}
    text = run_here("pretrain", out_dir=str(tmp_path), **given).text
    path = tmp_path / "quickstart_seed2.safetensors"
    assert f"MB, digest {files.digest(path)}" in text and "Still Shapes, steps: 3 of 3" in text
    table = pd.read_csv(path.with_suffix(".csv"), index_col="question")
    assert list(table.index) == list(shapes.QUESTIONS) and list(table) == ["accuracy", "commonest"]
    network = build_model(ModelConfig(backbone="quickstart", weights=str(path)))
    begun = build_model(ModelConfig(backbone="quickstart"))
    assert not network.backbone.conv1.weight.equal(begun.backbone.conv1.weight)
    again = run_here("pretrain", out_dir=str(tmp_path / "again"), **given).text
    assert files.digest(path) in again  # equal bytes


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_papermill_lists_every_parameter_with_its_help_and_warns_of_none(path, caplog):
    cells = [cell.source for cell in nbformat.read(path, 4).cells if "parameters" in cell.metadata.get("tags", [])]
    declared = [(node.target.id, ast.unparse(node.annotation)) for cell in cells for node in ast.parse(cell).body]
    listed = papermill.inspect_notebook(str(path)) if cells else {}
    assert [(name, of["inferred_type_name"]) for name, of in listed.items()] == declared
    lines = {line.partition(":")[0]: line for cell in cells for line in cell.splitlines()}
    for name, of in listed.items():
        assert of["help"] and lines[name].endswith(f" = {of['default']}  # {of['help']}")
    assert not caplog.messages


def test_papermill_shows_a_bad_parameter_as_one_line_and_saves_the_notebook(tmp_path):
    with pytest.raises(PapermillExecutionError, match="unknown parameter 'epohcs': did you mean 'epochs'") as caught:
        execute("train", tmp_path, epohcs=3, out_dir=str(tmp_path / "out"))
    assert caught.value.ename == "ParameterError" and caught.value.exec_count <= 5
    assert caught.value.traceback == [f"ParameterError: {caught.value.evalue}"]
    assert not (tmp_path / "out").exists()
    assert nbformat.read(tmp_path / "train.ipynb", 4)


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("train", {"batch": 5000}, "parameter 'batch' was replaced: write overrides=\"recipe.batch=...\""),
        ("train", {"overrides": "model.num_frames=7"}, "mirrored sampling needs an even number of frames per clip"),
        ("train", {"overrides": {"model": {"num_frames": 7}}}, "mirrored sampling needs an even number of frames per"),
        ("train", {"epochs": "3"}, "epochs must be int, got str '3'"),
        ("train", {"model": "ctnet_quickstrat"}, "did you mean 'ctnet_quickstart'"),
        ("costs", {"size": 16}, "size must be at least 32, got 16"),
        ("quickstart", {"runs_dir": "no/such/folder"}, "no folder .*no/such/folder"),
    ],
)
def test_a_bad_parameter_is_refused_before_any_work(tmp_path, name, parameters, text):
    where = {} if name == "quickstart" else {"out_dir": str(tmp_path / "out")}
    with pytest.raises(ParameterError, match=text):
        run_here(name, **parameters, **where)
    assert not (tmp_path / "out").exists()
