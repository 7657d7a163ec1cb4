import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch

from ctlib import checkpoints, files
from ctlib.config import ArrowConfig, ComputeConfig, DataConfig, RecipeConfig, RunConfig
from ctlib.data.catalog import Samples
from ctlib.data.clips import resolve_data
from ctlib.models import build_model, model_config
from ctlib.training import records
from ctlib.training.run import Run

PREDICTIONS = pd.DataFrame({"source": ["a"], "label": [0], "predicted": [1], "confidence": [0.5]})


def run_of(config: RunConfig, fingerprint_of: str = "") -> Run:
    """A run as `resolve` returns it, on lists of one video that does not exist."""
    samples = Samples([("a", 0, None)], ["one", "two"], Path("/nowhere"), made_from=fingerprint_of)
    compute = config.compute
    return Run(
        config=config,
        samples={"train": samples, "val": samples},
        model=dataclasses.replace(config.model, num_classes=2),
        data=resolve_data(config.data, samples),
        precision="fp32" if compute.precision == "auto" else compute.precision,
        micro_batch=compute.micro_batch or config.recipe.batch,
        processes=1,
        start_digest="",
    )


def test_a_run_is_finished_when_its_result_is_written(tmp_path):
    folder, config = records.RunFolder(tmp_path / "x" / "seed0"), RunConfig()
    assert not folder.is_finished(config)
    folder.start(run_of(config))
    folder.write_history([{"epoch": 1, "loss": 2.0}])
    assert not folder.is_finished(config)
    folder.finish({"top1": 50.0}, PREDICTIONS)
    assert folder.is_finished(config) and folder.is_finished(run_of(config))
    assert folder.config() == config and folder.result() == {"top1": 50.0}
    assert folder.history().loss.tolist() == [2.0] and folder.predictions().to_dict() == PREDICTIONS.to_dict()


def test_a_record_holds_what_was_asked_and_what_was_resolved(tmp_path):
    folder, config = records.RunFolder(tmp_path), RunConfig(rows=(("2a", "CT-Module"),))
    folder.start(run_of(config))
    record = folder.record()
    assert record["asked"]["compute"]["micro_batch"] is None and record["asked"]["rows"] == [["2a", "CT-Module"]]
    assert (record["resolved"]["micro_batch"], record["resolved"]["num_classes"]) == (64, 2)
    assert record["resolved"]["root"] == "/nowhere" and len(record["resolved"]["fingerprint"]) == 25


def test_a_finished_run_notes_the_further_rows_that_it_serves(tmp_path):
    folder = records.RunFolder(tmp_path)
    folder.finish({"rows": [["2a", "CT-Module"]]}, PREDICTIONS)
    both = [["2a", "CT-Module"], ["2b", "2D"]]
    assert folder.add_rows([("2b", "2D"), ("2a", "CT-Module")])["rows"] == both == folder.result()["rows"]


def test_another_configuration_is_refused_by_name(tmp_path):
    folder = records.RunFolder(tmp_path)
    other = RunConfig(recipe=RecipeConfig(epochs=13, lr=0.5))
    folder.start(run_of(RunConfig()))
    assert folder.is_finished(other) is False  # nothing is lost by starting over
    folder.finish({"top1": 50.0}, PREDICTIONS)
    text = "recipe.epochs is 45 in the record, 13 was asked for; recipe.lr is 0.02 in the record, 0.5 was asked for"
    with pytest.raises(ValueError, match=text):
        folder.is_finished(other)
    with pytest.raises(ValueError, match="fingerprint is .* in the record"):
        folder.is_finished(run_of(RunConfig(), fingerprint_of="other videos"))
    moved = dataclasses.replace(RunConfig(), data=dataclasses.replace(RunConfig().data, root="/else", workers=7))
    assert folder.is_finished(moved)  # where the data lie is no difference


def test_load_reads_one_row_per_finished_run(tmp_path):
    for name, top1 in (("tsn", 48.0), ("ctnet", 88.0)):
        folder = records.RunFolder(tmp_path / name / "seed0")
        folder.start(run_of(RunConfig(name=name)))
        folder.finish({"name": name, "top1": top1, "rows": []}, PREDICTIONS)
    records.RunFolder(tmp_path / "half" / "seed0").start(run_of(RunConfig()))
    table = records.load(tmp_path)
    assert {f"{part}.{key}" for part in ("model", "data", "arrow", "recipe", "compute")
            for key in RunConfig().to_dict()[part]} <= set(table)  # fmt: skip
    used = table.iloc[0][
        ["model.kernels", "model.num_classes", "recipe.lr", "compute.micro_batch", "compute.precision"]
    ]
    assert used.tolist() == [(3, 3, 3), 2, 0.02, 64, "fp32"]
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
    provenance = records.provenance(torch.device("cpu"))
    assert provenance["versions"]["torch"] and provenance["hardware"] and provenance["commit"]
    assert provenance["threads"] >= 1 and provenance["device"] == "cpu" and provenance["peak_memory_mb"] > 50


def test_paths_below_the_home_folder_are_written_with_a_tilde():
    assert files.portable(Path.home() / "a" / "b") == "~/a/b"
    assert files.portable(Path("/else/where")) == "/else/where"


def test_what_may_differ_when_an_unfinished_run_resumes():
    begun = records.record_of(run_of(RunConfig(compute=ComputeConfig(micro_batch=4, precision="bf16"))))
    assert records.differences(begun, RunConfig()) == []  # left open
    other = RunConfig(
        data=DataConfig(on_error="skip", max_skipped=5.0, root="/elsewhere"), compute=ComputeConfig(threads=3)
    )
    assert records.differences(begun, other) == []
    asked = RunConfig(seed=2, compute=ComputeConfig(micro_batch=8, precision="fp32"))
    assert records.differences(begun, asked) == [
        "compute.micro_batch is 4 in the record, 8 was asked for",
        "compute.precision is 'bf16' in the record, 'fp32' was asked for",
        "seed is 0 in the record, 2 was asked for",
    ]


def test_the_built_in_data_is_compared_where_it_is_written_for_the_run():
    record, harder = records.record_of(run_of(RunConfig())), ArrowConfig(difficulty=0.5)
    text = "arrow.difficulty is 0.05 in the record, 0.5 was asked for"
    assert records.differences(record, RunConfig(arrow=harder)) == [text]
    assert records.differences(record, RunConfig(arrow=harder, data=DataConfig(root="/data"))) == []


def test_a_locked_folder_takes_no_second_run(tmp_path):
    folder = records.RunFolder(tmp_path / "run")
    assert not folder.is_locked() and not folder.path.exists()
    with files.locked(folder.path):
        assert folder.is_locked()
        with pytest.raises(ValueError, match="another process is writing to"), files.locked(folder.path):
            pass
    assert not folder.is_locked()


def test_partial_files_are_removed_when_a_run_begins(tmp_path):
    for name in (".result.json.12-0a1b2c3d", "notes.txt"):
        (tmp_path / name).touch()
    records.RunFolder(tmp_path).start(run_of(RunConfig()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.txt"]


def test_a_record_of_another_version_is_refused_by_name(tmp_path):
    folder = records.RunFolder(tmp_path)
    folder.start(run_of(RunConfig()))
    written = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(written.replace('"epochs"', '"passes"'))
    with pytest.raises(ValueError, match="config.json: unknown key of RecipeConfig 'passes'"):
        folder.config()
    files.write_json(tmp_path / "config.json", {"name": "old", "model": {"trunk": "resnet50"}})
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "000001-0123456789abcdef.pt").touch()
    text = "config.json was written by an earlier version of ctlib: train again under another name"
    with pytest.raises(ValueError, match=text):
        folder.is_finished(run_of(RunConfig()))
    files.write_json(tmp_path / "result.json", {"top1": 50.0})
    with pytest.raises(ValueError, match=text):
        folder.is_finished(RunConfig())
    with pytest.raises(ValueError, match="result.json was written by an earlier version"):
        records.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("history.csv", b"", "history.csv is damaged: No columns to parse from file"),
        ("history.csv", b"epoch,loss\n1,2.5\n2,x\n", "history.csv is damaged: row 2, loss must be a number, got 'x'"),
        ("history.csv", b"epoch,loss\n" + b"9" * 400 + b",2.5\n", "history.csv is damaged: epoch must be "),
        (
            "result.json",
            b'{"top1": 1' + b"0" * 400 + b"}",
            "result.json is damaged: top1 must be a finite number, got 100",
        ),
        ("history.csv", b"epoch,loss\n,2.5\n", "history.csv is damaged: row 1, epoch must be a number, got nan"),
        ("history.csv", b"loss\n1\n", "history.csv is damaged: it lacks the columns epoch"),
        ("predictions.csv", b"\xff\xfe\x00", "predictions.csv is damaged: "),
        (
            "predictions.csv",
            b"source,label,predicted,confidence\na,1,0,\n",
            "row 1, confidence must be a number, got nan",
        ),
        ("predictions.csv", b"source,label,predicted,confidence\na,1,0.5,1\n", "whole numbers as label and predicted"),
        ("result.json", b"{", "result.json is damaged: Expecting property name"),
        ("result.json", b"\xff{}", "result.json is damaged: 'utf-8' codec can't decode byte 0xff in position 0"),
        ("result.json", b"[" * 100_000, "result.json is damaged: maximum recursion depth exceeded"),
        ("result.json", b'{"top1": NaN}', "result.json is damaged: top1 must be a finite number, got nan"),
        ("result.json", b'{"top1": "50"}', "result.json is damaged: top1 must be a finite number, got '50'"),
        ("result.json", b'{"rows": [1]}', "result.json is damaged: rows must be tuple"),
    ],
)
def test_a_damaged_record_is_named_with_what_is_wrong(tmp_path, name, content, text):
    folder = records.RunFolder(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=text) as error:
        {"history.csv": folder.history, "predictions.csv": folder.predictions, "result.json": folder.result}[name]()
    assert str(error.value).startswith(str(tmp_path / name)) and len(str(error.value)) < 500


def test_a_run_of_no_epoch_yet_has_an_empty_history(tmp_path):
    folder = records.RunFolder(tmp_path)
    folder.write_history([])
    assert len(folder.history()) == 0


def test_a_checkpoint_remembers_its_start_and_the_share_for_testing_where_they_were_given():
    result = dict.fromkeys(records.IN_CHECKPOINT, 0)
    assert records.remembered({**result, "seconds": 1.0}, RunConfig()) == result
    given = RunConfig(start=str(Path.home() / "c.safetensors"), data=DataConfig(name="folder", val_share=0.4))
    assert records.remembered(result, given) == {**result, "start": "~/c.safetensors", "val_share": 0.4}


def test_a_run_that_an_earlier_version_finished_has_its_checkpoint(tmp_path):
    folder = records.RunFolder(tmp_path)
    assert folder.checkpoint == tmp_path / "checkpoint.safetensors"  # as a run to come is named
    (tmp_path / "checkpoint.pt").write_bytes(b"earlier")
    assert folder.checkpoint == tmp_path / "checkpoint.pt"
    network = build_model(model_config("tsn_quickstart", num_classes=2))
    folder.save_checkpoint(network, ("a", "b"))  # it was trained again
    assert folder.checkpoint == tmp_path / "checkpoint.safetensors" and not (tmp_path / "checkpoint.pt").exists()
    assert checkpoints.load(folder.checkpoint).classes == ("a", "b")
