"""Trained networks as folders and on the Hugging Face Hub, without a network."""

import dataclasses
import json
import shutil
import socket

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError

import ctlib
from ctlib import Weights, checkpoints
from ctlib.weights import hub

CTNET = Weights.CTNET_QUICKSTART_ARROW


@pytest.fixture(scope="module")
def trained():
    return checkpoints.load(CTNET.file)


@pytest.fixture
def offline(monkeypatch):
    def refused(*address):
        raise AssertionError(f"a network was reached for: {address}")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


def test_a_folder_gives_the_network_back(trained, tmp_path, offline):
    trained.save_pretrained(tmp_path / "shared")
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    clips = torch.randn(2, 3, 8, 48, 48)
    for source in (tmp_path / "shared", str(tmp_path / "shared")):
        loaded = ctlib.from_pretrained(source)
        assert torch.equal(loaded.model(clips), trained.model(clips)) and not loaded.model.training
        assert loaded.classes == trained.classes and loaded.view == trained.view == CTNET.transforms()
        assert loaded.record == trained.record and loaded.record["top1"] == CTNET.meta["top1"]
    config = json.loads((tmp_path / "shared" / "config.json").read_text())
    assert config["name"] == "ctnet_quickstart" and config["classes"][:1] == ["Pushing something from left to right"]


def test_a_checkpoint_is_found_by_its_folder_or_its_name_among_the_weights(trained, tmp_path, monkeypatch):
    trained.save_pretrained(tmp_path / "shared")
    monkeypatch.chdir(tmp_path)
    for source in ("shared", "ctnet_quickstart_arrow", "CTNET_QUICKSTART_ARROW", CTNET.file):
        loaded = checkpoints.load(source)
        assert torch.equal(loaded.model.fc.weight, trained.model.fc.weight), source
    (tmp_path / "tsn_quickstart_arrow").write_bytes(CTNET.file.read_bytes())
    assert checkpoints.located("tsn_quickstart_arrow") == (tmp_path / "tsn_quickstart_arrow").relative_to(tmp_path)
    for source in ("ctnet_quickstart_arrow", str(CTNET.file), CTNET.file):
        assert torch.equal(ctlib.from_pretrained(source).model.fc.weight, trained.model.fc.weight), source
    (tmp_path / "run").mkdir()
    with pytest.raises(
        FileNotFoundError, match="^no checkpoint in the folder run: it has none of model.safetensors, ch"
    ):
        checkpoints.load("run")
    trained.save(tmp_path / "run" / "checkpoint.safetensors")
    assert torch.equal(checkpoints.load("run").model.fc.weight, trained.model.fc.weight)
    with pytest.raises(FileNotFoundError, match="^no checkpoint is named$"):
        checkpoints.load("")
    with pytest.raises(FileNotFoundError, match="^no checkpoint shapes$"):
        checkpoints.load("shapes")
    with pytest.raises(
        FileNotFoundError, match=r"^no checkpoint ctnet_quikstart: did you mean ctnet_quickstart_arrow\?$"
    ):
        checkpoints.load("ctnet_quikstart")


def test_half_precision_is_asked_for_and_halves_the_file(trained, tmp_path):
    for half in (False, True):
        dataclasses.replace(trained, half=half).save_pretrained(tmp_path / str(half))
    whole, half = (ctlib.from_pretrained(tmp_path / name) for name in ("False", "True"))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("True", "False")]
    assert sizes[0] < 0.6 * sizes[1]
    # What was rounded before is rounded to itself; the network is in float32 in either case.
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), half.model.parameters(), strict=True))
    assert next(half.model.parameters()).dtype == torch.float32


def test_the_card_says_what_the_record_says(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    _, header, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    header = yaml.safe_load(header)
    (result,) = header["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(trained.record["top1"], 1) and header["license"] == "mit"
    assert result["dataset"]["name"] == "Arrow of Time" and header["library_name"] == "ctlib"
    low, high = trained.record["interval"]
    for words in (
        f"Top-1 is {trained.record['top1']:.1f} % (95 % interval over the test videos: {low:.1f} to {high:.1f}).",
        "The videos are synthetic, so this is no benchmark.",
        "1280 training videos, 480 test videos",
        "8 frames (mirrored) of 48 x 48 pixels, short side 48",
        "1 clip(s) x 1 crop(s)",
        "| GFLOPs of a view | 0.067 |",
        f"| commit | {trained.record['commit']} |",
        "| stored weights | float16 |",
        "15. Swelling, then fading",
        "The licence of these weights is `mit`.",
        "arxiv.org/abs/2106.01603",
    ):
        assert words in text


def test_the_card_s_code_runs(trained, tmp_path, arrow_root, monkeypatch):
    trained.save_pretrained(tmp_path)
    code = (tmp_path / "README.md").read_text().split("```")[1].removeprefix("python")
    shutil.copy(next((arrow_root / "val").glob("*.mp4")), tmp_path / "clip.mp4")
    (tmp_path / "path" / "to" / "this").mkdir(parents=True)
    (tmp_path / "path" / "to" / "this" / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["probabilities"].shape == (16,)


def test_a_network_without_a_record_or_a_view_says_so(tmp_path):
    plain = checkpoints.Checkpoint(ctlib.create_model("tsn_quickstart", 2), ("a", "b"))
    plain.save_pretrained(tmp_path, model_card_kwargs={"license": "cc-by-4.0"})
    card = (tmp_path / "README.md").read_text()
    assert "No test of this network was recorded." in card and "license: cc-by-4.0" in card and "`cc-by-4.0`" in card
    assert "| start |" not in card and "model-index" not in card and "trained.view" not in card
    loaded = ctlib.from_pretrained(tmp_path)
    assert loaded.view is None and loaded.record is None and loaded.classes == ("a", "b")


def test_a_card_that_was_written_by_hand_stays(trained, tmp_path):
    (tmp_path / "README.md").write_text("Mine.")
    with pytest.warns(UserWarning, match="README.md stays, and is not the card of this network: remove it"):
        trained.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "Mine."


def test_a_card_that_is_the_network_s_is_not_warned_of(trained, tmp_path, recwarn):
    trained.save_pretrained(tmp_path)
    trained.save_pretrained(tmp_path)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("start", "row"),
    [
        ("ctnet_quickstart_arrow", "\n| start | ctnet_quickstart_arrow, trained on Arrow of Time (synthetic) |\n"),
        ("~/mine.safetensors", "\n| start | ~/mine.safetensors |\n"),
        (None, "\n| start | shapes, trained on Still Shapes (synthetic) |\n"),
    ],
)
def test_the_card_says_what_training_started_from(trained, start, row):
    own = dataclasses.replace(trained, record=trained.record | ({"start": start} if start else {}))
    card = own.generate_model_card().text
    assert row in card and card.count("| start |") == 1
    assert "fp32 |\n" in card and "\n| stored weights | float16 |\n" in card


def test_a_folder_of_something_else_is_not_written_to(trained, tmp_path):
    (tmp_path / "config.json").write_text('{"asked": {}, "resolved": {}}')
    with pytest.raises(ValueError, match="config.json is not of a shared network, and would be replaced: choose anoth"):
        trained.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_what_is_pushed_is_such_a_folder(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Repo", (), {"repo_id": repo_id}))
    pushed = {}

    def upload_folder(self, *, repo_id, folder_path, **_):
        pushed[repo_id] = shutil.copytree(folder_path, tmp_path / "hub")

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    trained.push_to_hub("someone/ctnet")
    assert 'ctlib.from_pretrained("someone/ctnet")' in (pushed["someone/ctnet"] / "README.md").read_text()

    def download(repo_id, filename, **_):
        return str(pushed[repo_id] / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(
        "huggingface_hub.hub_mixin.hf_hub_download", lambda repo_id, filename, **_: download(repo_id, filename)
    )
    loaded = ctlib.from_pretrained("someone/ctnet", revision="main")
    assert loaded.classes == trained.classes and loaded.view == trained.view
    with pytest.raises(TypeError, match="unknown option of from_pretrained: strict"):
        ctlib.from_pretrained("someone/ctnet", strict=False)


@pytest.mark.parametrize("source", ["no/such/folder", "nothing", "./nothing", "here/nothing", "~/nothing at all"])
def test_a_folder_that_is_missing_is_not_looked_for_on_the_hub(source, tmp_path, offline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(FileNotFoundError, match=f"^no folder or file {source}, and no weights of a whole network$"):
        ctlib.from_pretrained(source)


def test_a_misspelt_name_of_weights_is_answered_with_the_nearest(offline):
    with pytest.raises(FileNotFoundError, match=r"whole network: did you mean ctnet_quickstart_arrow\?$"):
        ctlib.from_pretrained("ctnet_quikstart_arrow")


def test_other_troubles_are_one_line(trained, tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    with pytest.raises(NotADirectoryError, match="inner cannot be made: .*a file is no folder$"):
        trained.save_pretrained(tmp_path / "a file" / "inner")
    with pytest.raises(FileNotFoundError, match="no checkpoint .*model.safetensors$"):
        ctlib.from_pretrained(tmp_path)
    trained.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(checkpoints.CheckpointError, match="model.safetensors is damaged"):
        ctlib.from_pretrained(tmp_path)

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("Cannot reach it.\nTry again.")

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", unreachable)
    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    text = "^no folder or file some/thing, and the Hub does not give it: Cannot reach it. Try again.$"
    with pytest.raises(FileNotFoundError, match=text):
        ctlib.from_pretrained("some/thing")
