import os

import av
import numpy as np
import pytest

from ctlib.data.encoding import write_frames, write_video
from ctlib.data.video import read_frames
from tests.data.videos import COUNT, coded_frames, numbers


def test_a_reversed_clip_decodes_to_exactly_the_reversed_frames(tmp_path):
    """The coding does not leak the arrow of time, whatever the picture."""
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (48, 8, 8, 3)), 4, axis=1), 4, axis=2).astype(np.uint8)
    for name, frames in (("smooth", smooth), ("noise", rng.integers(0, 256, (48, 32, 32, 3)).astype(np.uint8))):
        write_frames(tmp_path / f"{name}_f.mp4", frames)
        write_frames(tmp_path / f"{name}_b.mp4", frames[::-1])
        forward = read_frames(tmp_path / f"{name}_f.mp4", range(48))
        assert np.array_equal(read_frames(tmp_path / f"{name}_b.mp4", range(48)), forward[::-1])


def test_a_video_written_from_an_iterator_can_be_entered_anywhere(tmp_path):
    write_video(tmp_path / "clip.mp4", coded_frames(), fps=29.97, gop=6)
    assert numbers(read_frames(tmp_path / "clip.mp4", range(COUNT))) == list(range(COUNT))
    with av.open(os.fspath(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert (stream.codec_context.pix_fmt, round(float(stream.average_rate), 2)) == ("yuv420p", 29.97)
    assert [place for place, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, COUNT, 6))
    assert all(packet.pts == packet.dts for packet in packets)


def test_the_same_frames_give_the_same_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, coded_frames(), fps=25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([], "no frames to write"),
        ([np.zeros((32, 31, 3), np.uint8)], "must be even, got 32 x 31"),
        ([np.zeros((32, 32), np.uint8)], "must be uint8"),
        ([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 34, 3), np.uint8)], "of one size"),
    ],
)
def test_a_video_that_cannot_be_written(tmp_path, frames, text):
    with pytest.raises(ValueError, match=text):
        write_video(tmp_path / "x.mp4", iter(frames), fps=25)


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
