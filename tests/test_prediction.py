import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ctlib
from ctlib import checkpoints, prediction
from ctlib.data import encoding, video
from ctlib.data.views import View
from ctlib.models import build_model, model_config

CLASSES = ("left", "right", "still")
VIEW = View(num_frames=2, size=32, short_side=36, sampling="sparse")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, one that does not remember its view, and a video of 24 frames in two seconds."""
    folder = tmp_path_factory.mktemp("prediction")
    torch.manual_seed(0)
    model = build_model(model_config("tsn_quickstart", num_classes=3, num_frames=2))
    nn.init.normal_(model.fc.weight)
    checkpoints.save(folder / "c.safetensors", model, CLASSES, VIEW)
    checkpoints.save(folder / "old.safetensors", model, CLASSES)
    frames = np.random.default_rng(0).integers(0, 255, (24, 40, 48, 3), dtype=np.uint8)
    encoding.write_video(folder / "clip.mp4", frames, fps=12)
    return folder


def logits_of(model, clips):
    with torch.no_grad():
        return model(clips)


def test_a_video_gets_the_scores_of_a_test_view(folder):
    trained = checkpoints.load(folder / "c.safetensors")
    labelled = ctlib.predict(folder / "clip.mp4", folder / "c.safetensors", top=2)
    clip, seen = VIEW.read(folder / "clip.mp4")
    expected = logits_of(trained.model, clip[None])[0].softmax(0)
    best = expected.argsort(descending=True)[:2].tolist()
    assert [answer["label"] for answer in labelled["top"]] == [CLASSES[index] for index in best]
    assert [answer["probability"] for answer in labelled["top"]] == pytest.approx(expected[best].tolist(), abs=2e-6)
    assert (labelled["frames"], labelled["seconds"]) == (24, 2.0)
    (window,) = labelled["windows"]
    assert window["frames"] == [0, 24] and window["seconds"] == [0.0, 2.0] and window["seen"] == seen.tolist()
    assert json.loads(json.dumps(labelled)) == labelled  # plain values
    assert ctlib.predict(folder / "clip.mp4", trained, top=2) == labelled


def test_a_folder_or_a_pattern_of_videos_gives_a_list_of_records(folder, tmp_path):
    checkpoint = folder / "c.safetensors"
    (tmp_path / "a.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    (tmp_path / "b.mp4").write_bytes(b"no video")
    good, bad = ctlib.predict(tmp_path, checkpoint)
    assert good == ctlib.predict(tmp_path / "a.mp4", checkpoint)
    assert bad["video"] == str(tmp_path / "b.mp4") and set(bad) == {"video", "error"}
    assert ctlib.predict(tmp_path / "a*.mp4", checkpoint) == [good]
    with pytest.raises(FileNotFoundError, match="no video matches"):
        ctlib.predict(tmp_path / "c*.mp4", checkpoint)


def test_a_sequence_of_videos_gives_a_list_of_records(folder):
    file, checkpoint = folder / "clip.mp4", folder / "c.safetensors"
    assert ctlib.predict([file], checkpoint) == [ctlib.predict(file, checkpoint)]
    first, second = ctlib.predict([str(file), folder / "none.mp4"], checkpoint)
    assert first["top"] and set(second) == {"video", "error"}


def test_a_member_of_weights_stands_for_its_checkpoint(folder):
    shipped, file = ctlib.Weights.CTNET_QUICKSTART_ARROW, folder / "clip.mp4"
    assert ctlib.predict(file, shipped) == ctlib.predict(file)
    assert ctlib.from_pretrained(shipped).record == checkpoints.load(shipped).record is not None
    tube, same = (ctlib.saliency.tube_of(file, named) for named in (shipped, prediction.opened(shipped)))
    assert np.array_equal(tube.tube, same.tube) and tube.predicted == same.predicted


@pytest.mark.parametrize("named", ["quickstart_shapes", ctlib.Weights.QUICKSTART_SHAPES])
def test_weights_of_a_backbone_are_no_checkpoint(folder, named):
    with pytest.raises(FileNotFoundError, match=r": they are a backbone's, for ctlib.create_model\(..., weights='shap"):
        ctlib.predict(folder / "clip.mp4", named)
    with pytest.raises(FileNotFoundError, match="whole network: they are a backbone's, for"):
        ctlib.from_pretrained(named)


def test_a_network_without_a_checkpoint_is_refused(folder):
    with pytest.raises(TypeError, match="a network alone names no classes: .* got VideoClassifier"):
        ctlib.predict(folder / "clip.mp4", checkpoints.load(folder / "c.safetensors").model)


def test_windows_are_scored_alone_and_averaged_as_logits(folder, monkeypatch):
    monkeypatch.setattr(prediction, "AT_ONCE", 2)
    trained = prediction.opened(folder / "c.safetensors")
    scores = prediction.score(folder / "clip.mp4", trained, prediction.Windows(3))
    assert scores.bounds == [(0, 8), (8, 16), (16, 24)] and scores.seconds(1) == (0.667, 1.333)
    frames = video.read_frames(folder / "clip.mp4", scores.indices[2])
    assert scores.indices[2].tolist() == [18, 22]
    alone = logits_of(trained.model, VIEW.transform(frames)[None])
    torch.testing.assert_close(scores.logits[2:], alone, rtol=1e-4, atol=1e-4)
    mean = scores.logits.mean(0).softmax(0).max().item()
    assert scores.top(1)[0]["probability"] == pytest.approx(mean, abs=1e-6)
    same = ctlib.predict(folder / "clip.mp4", trained, seconds=0.6)
    assert same == scores.to_dict()


def test_windows_of_large_frames_are_read_one_by_one(folder, monkeypatch):
    trained, read, counts = prediction.opened(folder / "c.safetensors"), video.read_frames, []
    expected = prediction.score(folder / "clip.mp4", trained, prediction.Windows(4)).logits
    monkeypatch.setattr(
        video, "read_frames", lambda source, indices: counts.append(len(indices)) or read(source, indices)
    )
    for most, read_at_once in ((5 * 2 * 40 * 48 * 3, [8]), (2 * 2 * 40 * 48 * 3, [4, 4]), (1, [2, 2, 2, 2])):
        monkeypatch.setattr(prediction, "AT_ONCE_BYTES", most)
        scores = prediction.score(folder / "clip.mp4", trained, prediction.Windows(4))
        torch.testing.assert_close(scores.logits, expected, rtol=1e-4, atol=1e-4)
        assert counts == read_at_once
        counts.clear()


def test_what_windows_cannot_be(folder):
    for given, text in (
        ({"windows": 25}, "has 24 frames, too few for 25 windows"),
        ({"windows": 0}, "needed at least 1 window, got 0"),
        ({"seconds": 0.0}, "seconds of a window must be above 0, got 0.0"),
        ({"windows": 2, "seconds": 1.0}, "give the number of windows or their seconds, got 2 and 1.0"),
        ({"top": 0}, "top must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            ctlib.predict(folder / "clip.mp4", folder / "c.safetensors", **given)


def test_a_network_in_training_is_in_training_afterwards(folder):
    trained = checkpoints.load(folder / "c.safetensors")
    before = ctlib.predict(folder / "clip.mp4", trained)
    trained.model.train()
    assert ctlib.predict(folder / "clip.mp4", trained) == before and trained.model.training


def test_a_checkpoint_that_does_not_say_how_it_sees_a_video(folder):
    with pytest.raises(ValueError, match=r"old.safetensors does not say how it sees a video: give size and sampling$"):
        ctlib.predict(folder / "clip.mp4", folder / "old.safetensors")
    labelled = ctlib.predict(folder / "clip.mp4", folder / "old.safetensors", size=32, short_side=36, sampling="sparse")
    assert labelled == ctlib.predict(folder / "clip.mp4", folder / "c.safetensors")
    other = ctlib.predict(folder / "clip.mp4", folder / "c.safetensors", num_frames=3)
    assert other["windows"][0]["seen"] == [4, 12, 20]


def test_a_folder_of_images_is_a_video_without_seconds(folder, tmp_path):
    for number in range(6):
        Image.fromarray(np.full((40, 40, 3), 40 * number, dtype=np.uint8)).save(tmp_path / f"img_{number:05d}.jpg")
    labelled = ctlib.predict(tmp_path, folder / "c.safetensors", windows=2)
    assert labelled["seconds"] is None and labelled["windows"][1]["frames"] == [3, 6]
    assert labelled["windows"][1]["seconds"] is None
    with pytest.raises(ValueError, match="has no frame rate: give the number of windows instead"):
        ctlib.predict(tmp_path, folder / "c.safetensors", seconds=1.0)
    assert prediction.find_videos([tmp_path]) == [str(tmp_path)]


def test_videos_are_found_by_file_folder_and_pattern(tmp_path):
    for name in ("b.mp4", "a/x.mov", "a/notes.txt", "a/.hidden.mp4", "@eaDir/x.mp4", "c [1].mp4", "a/y/z.webm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(*paths):
        return [
            path.removeprefix(f"{tmp_path}/") for path in prediction.find_videos([tmp_path / path for path in paths])
        ]

    with pytest.warns(UserWarning, match="^left out in the folder .*: 1 .txt$"):
        assert found("") == ["b.mp4", "c [1].mp4", "a/x.mov", "a/y/z.webm"]
    assert found("*.mp4") == ["b.mp4", "c [1].mp4"] and found("**/*.mov") == ["a/x.mov"]
    assert found("c [1].mp4", "b.mp4", "*.mp4", "./a/../b.mp4") == ["c [1].mp4", "b.mp4"]
    (tmp_path / "my [2024]").mkdir()
    (tmp_path / "my [2024]" / "b.mp4").touch()
    assert found("my [2024]/*.mp4") == ["my [2024]/b.mp4"] == found("m[xy] [[]*/*.mp4") and found("[ab].mp4") == [
        "b.mp4"
    ]
    assert found("none.mp4") == ["none.mp4"]  # reading it says that it does not exist
    with pytest.raises(FileNotFoundError, match="no video matches '.*nothing"):
        found("nothing*")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no video in the folder .*empty$"):
        found("empty")
    (tmp_path / "empty" / "x.gif").touch()
    with pytest.raises(FileNotFoundError, match="no video in the folder .*empty: it has 1 .gif$"):
        found("empty")


def test_frames_that_a_network_refuses_are_refused_when_it_is_opened(tmp_path):
    network = build_model(model_config("tanet_quickstart", num_classes=3, num_frames=8))
    checkpoints.save(tmp_path / "c.safetensors", network, CLASSES, View(8, 32, 32, "sparse"))
    with pytest.raises(ValueError, match=r"c.safetensors does not take 5 frames of 32 x 32 pixels: "):
        prediction.opened(tmp_path / "c.safetensors", num_frames=5)
