import numpy as np
import pytest
import torch

from ctlib.data import encoding, transforms, video
from ctlib.data.views import View, complete

VIEW = View(num_frames=4, size=16, short_side=20, sampling="sparse")


def test_a_video_becomes_the_clip_that_a_test_sees(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (12, 24, 40, 3), dtype=np.uint8)
    encoding.write_video(tmp_path / "12.mp4", frames, fps=12)
    clip, indices = VIEW.read(tmp_path / "12.mp4")
    assert clip.shape == (3, 4, 16, 16) and indices.tolist() == [1, 4, 7, 10]
    decoded = video.read_frames(tmp_path / "12.mp4", [1, 4, 7, 10])
    assert torch.equal(clip, transforms.test_views(decoded, 16, 20, 1)[0])
    assert np.array_equal(VIEW.pixels(clip), transforms.to_pixels(clip))


@pytest.mark.parametrize(
    ("sampling", "frames"),
    [("sparse", [25, 75, 125, 175]), ("dense", [25, 75, 125, 175]), ("dense-windows", [68, 84, 100, 116])],
)
def test_its_frames_are_those_of_a_single_test_clip(sampling, frames):
    assert View(4, 16, 16, sampling).indices(200).tolist() == frames


def test_mean_and_deviation_are_the_view_s_own():
    frames = np.full((4, 20, 20, 3), (255, 51, 0), dtype=np.uint8)
    view = View(4, 16, 20, "sparse", mean=(0.5, 0.2, 0.0), std=(0.5, 1.0, 0.25))
    clip = view.transform(frames)
    torch.testing.assert_close(clip[:, 0, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert np.array_equal(view.pixels(clip), frames[:, :16, :16])


def test_what_is_given_replaces_what_is_remembered():
    assert complete(VIEW, "c.pt", size=None, num_frames=8) == View(8, 16, 20, "sparse")
    assert complete(VIEW, "c.pt", size=224) == View(4, 224, 256, "sparse")
    assert complete(None, "c.pt", size=24, num_frames=2, sampling="dense") == View(2, 24, 24, "dense")
    with pytest.raises(ValueError, match=r"^c.pt does not say how it sees a video: give size and sampling$"):
        complete(None, "c.pt", num_frames=2)
    with pytest.raises(ValueError, match="unknown field of a view 'sise': did you mean 'size'"):
        complete(VIEW, "c.pt", sise=24)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": 21}, "size must be at most short_side, got size 21 and short_side 20"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"sampling": "spars"}, "did you mean 'sparse'"),
        ({"num_frames": 5, "sampling": "mirrored"}, "needs an even number of frames"),
        ({"mean": (0.5, 0.5)}, "mean"),
    ],
)
def test_a_view_that_cannot_be(change, text):
    with pytest.raises((ValueError, TypeError), match=text):
        View.from_dict({**VIEW.to_dict(), **change})
