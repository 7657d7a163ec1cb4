import os

import numpy as np
import pytest

from ctlib.data.video import VideoError, count_frames, read_frames, write_frames


def numbered(count, height=32, width=48):
    """Frames that carry their own number in their brightness, far enough apart to survive coding."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames += (16 + 4 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    return frames


@pytest.fixture
def path(tmp_path):
    write_frames(tmp_path / "clip.mp4", numbered(48))
    return tmp_path / "clip.mp4"


def numbers(frames):
    return ((frames.astype(float).mean((1, 2, 3)) - 16) / 4).round().astype(int).tolist()


@pytest.mark.parametrize("indices", [[0], [47], [3, 9, 15, 45], [40, 2, 2, 17], list(range(48)), np.array([5, 4])])
def test_the_frames_decoded_are_those_asked_for(path, indices):
    frames = read_frames(path, indices)
    assert frames.shape == (len(indices), 32, 48, 3) and frames.dtype == np.uint8
    assert numbers(frames) == list(indices)


def test_any_frame_decodes_alone_as_it_does_in_line(path):
    whole = read_frames(path, range(48))
    for index in (0, 17, 47):
        assert np.array_equal(read_frames(path, [index])[0], whole[index])
    assert count_frames(path) == 48


@pytest.mark.parametrize("width", [16, 24, 40, 48, 64, 72, 100, 340])
def test_any_even_width_has_its_pixels_in_place(tmp_path, width):
    """decord pads the rows of some narrow videos."""
    columns = np.linspace(20, 230, width).astype(np.uint8)
    frames = np.broadcast_to(columns[None, None, :, None], (3, 32, width, 3))
    write_frames(tmp_path / "ramp.mp4", frames, quantiser=10)
    read = read_frames(tmp_path / "ramp.mp4", [2])
    assert read.shape == (1, 32, width, 3)
    assert np.abs(read[0].astype(int) - frames[0]).max() <= 6


def test_a_text_path_serves_too(path):
    assert np.array_equal(read_frames(str(path), [7]), read_frames(path, [7]))


def test_a_reversed_clip_decodes_to_exactly_the_reversed_frames(tmp_path):
    """The coding does not leak the arrow of time, whatever the picture."""
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (48, 8, 8, 3)), 4, axis=1), 4, axis=2).astype(np.uint8)
    for name, frames in (("smooth", smooth), ("noise", rng.integers(0, 256, (48, 32, 32, 3)).astype(np.uint8))):
        write_frames(tmp_path / f"{name}_f.mp4", frames)
        write_frames(tmp_path / f"{name}_b.mp4", frames[::-1])
        forward = read_frames(tmp_path / f"{name}_f.mp4", range(48))
        assert np.array_equal(read_frames(tmp_path / f"{name}_b.mp4", range(48)), forward[::-1])


def bad_files(tmp_path, path):
    whole = path.read_bytes()
    files = {
        "empty.mp4": b"",
        "text.mp4": b"this is no video\n" * 50,
        "noise.mp4": np.random.default_rng(0).bytes(5000),
        "truncated.mp4": whole[: len(whole) // 2],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.mp4").mkdir()
    return [*files, "folder.mp4", "missing.mp4"]


def test_a_bad_file_is_an_error_with_its_name_and_a_reason(tmp_path, path):
    reasons = {"empty.mp4": "empty", "folder.mp4": "is a folder", "missing.mp4": "no such file"}
    for name in bad_files(tmp_path, path):
        for call in (lambda file: read_frames(file, [0]), count_frames):
            with pytest.raises(VideoError, match=f"{name}: .*{reasons.get(name, 'not a readable video')}"):
                call(tmp_path / name)


@pytest.mark.parametrize("index", [48, 300, -1])
def test_a_frame_that_is_not_there_is_an_error(path, index):
    with pytest.raises(VideoError, match=f"clip.mp4: has 48 frames, asked for frame {index}"):
        read_frames(path, [0, index])


def test_indices_must_be_integers(path):
    for indices in ([0.5], [], 3):
        with pytest.raises(TypeError, match="indices must be one integer or more"):
            read_frames(path, indices)


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (np.zeros((2, 31, 32, 3), np.uint8), "must be even, got 31 x 32"),
        (np.zeros((2, 32, 32, 3), np.float32), "must be uint8"),
        (np.zeros((2, 32, 32), np.uint8), "must be uint8"),
    ],
)
def test_frames_that_cannot_be_written(tmp_path, frames, text):
    with pytest.raises(ValueError, match=text):
        write_frames(tmp_path / "x.mp4", frames)
    assert os.listdir(tmp_path) == []
