import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch

from ctlib import files
from ctlib.config import ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.training import records

PREDICTIONS = pd.DataFrame({"source": ["a"], "label": [0], "predicted": [1], "confidence": [0.5]})


def test_a_run_is_finished_when_its_result_is_written(tmp_path):
    folder, config = records.RunFolder(tmp_path / "x" / "seed0"), RunConfig()
    assert not folder.is_finished(config)
    folder.start(config)
    folder.write_history([{"epoch": 1, "loss": 2.0}])
    assert not folder.is_finished(config)
    folder.finish({"top1": 50.0}, PREDICTIONS)
    assert folder.is_finished(config)
    assert folder.config() == config and folder.result() == {"top1": 50.0}
    assert folder.history().loss.tolist() == [2.0] and folder.predictions().equals(PREDICTIONS)


def test_another_configuration_is_refused_by_name(tmp_path):
    folder = records.RunFolder(tmp_path)
    other = RunConfig(recipe=RecipeConfig(epochs=13, lr=0.5))
    folder.start(RunConfig())
    assert folder.is_finished(other) is False  # nothing is lost by starting over
    folder.finish({"top1": 50.0}, PREDICTIONS)
    with pytest.raises(ValueError, match="recipe.epochs 45 there, 13 asked for; recipe.lr 0.02 there, 0.5 asked for"):
        folder.is_finished(other)
    moved = dataclasses.replace(RunConfig(), data=dataclasses.replace(RunConfig().data, root="/else", workers=7))
    assert folder.is_finished(moved)  # where the data lies is no difference


def test_load_reads_a_row_a_finished_run(tmp_path):
    for name, top1 in (("tsn", 48.0), ("ctnet", 88.0)):
        folder = records.RunFolder(tmp_path / name / "seed0")
        folder.start(RunConfig(name=name))
        folder.finish({"name": name, "top1": top1}, PREDICTIONS)
    records.RunFolder(tmp_path / "half" / "seed0").start(RunConfig())
    table = records.load(tmp_path)
    assert table[["name", "top1"]].to_numpy().tolist() == [["ctnet", 88.0], ["tsn", 48.0]]
    assert table.folder.tolist() == [str(tmp_path / "ctnet" / "seed0"), str(tmp_path / "tsn" / "seed0")]
    (tmp_path / "none").mkdir()
    assert {"name", "top1", "gflops"} <= set(records.load(tmp_path / "none").columns)
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        records.load(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_file_before_it(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})

    def fail(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, fail)
    assert path.read_text() == '{\n  "a": 1\n}\n' and list(tmp_path.iterdir()) == [path]


def test_provenance_says_versions_and_hardware():
    told = records.provenance(torch.device("cpu"))
    assert told["versions"]["torch"] and told["hardware"] and told["threads"] >= 1 and told["commit"]
    assert told["device"] == "cpu" and told["peak_memory_mb"] > 50


def test_paths_below_the_home_folder_are_written_with_a_tilde():
    assert files.portable(Path.home() / "a" / "b") == "~/a/b"
    assert files.portable(Path("/else/where")) == "/else/where"


def test_what_an_unfinished_run_may_be_asked_to_go_on_with():
    begun = RunConfig(compute=ComputeConfig(micro_batch=4, precision="bf16"))
    assert records.differences(begun, RunConfig()) == []  # left open
    other = RunConfig(
        data=DataConfig(on_error="skip", max_skipped=5.0, root="/elsewhere"), compute=ComputeConfig(threads=3)
    )
    assert records.differences(begun, other) == []
    asked = RunConfig(seed=2, compute=ComputeConfig(micro_batch=8, precision="fp32"))
    assert records.differences(begun, asked) == [
        "compute.micro_batch 4 there, 8 asked for",
        "compute.precision 'bf16' there, 'fp32' asked for",
        "seed 0 there, 2 asked for",
    ]


def test_a_folder_that_is_written_to_is_told(tmp_path):
    folder = records.RunFolder(tmp_path / "run")
    assert not folder.is_locked() and not folder.path.exists()
    with folder.locked():
        assert folder.is_locked()
        with pytest.raises(ValueError, match="another process is training in"), folder.locked():
            pass
    assert not folder.is_locked()


def test_what_was_half_written_goes_when_a_run_begins(tmp_path):
    for name in (".result.json.12-0a1b2c3d", "notes.txt"):
        (tmp_path / name).touch()
    records.RunFolder(tmp_path).start(RunConfig())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.txt"]


def test_a_record_of_another_version_is_named(tmp_path):
    folder = records.RunFolder(tmp_path)
    folder.start(RunConfig())
    written = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(written.replace('"epochs"', '"passes"'))
    with pytest.raises(
        ValueError, match="config.json is not of this version of ctlib: unknown key of RecipeConfig 'passes'"
    ):
        folder.config()
