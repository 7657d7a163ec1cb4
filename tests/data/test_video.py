import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ctlib.data.encoding import write_frames
from ctlib.data.video import VideoError, VideoInfo, count_frames, iterate_frames, probe, read_frames, readers
from tests.data.videos import (
    COUNT,
    HEIGHT,
    LAYOUTS,
    WIDTH,
    coded,
    coded_frames,
    encode,
    encode_sound,
    numbers,
    save_images,
)

ORDERS = {
    "each alone": None,
    "random": np.random.default_rng(0).integers(0, COUNT, 25),
    "backward": range(COUNT - 1, -1, -1),
    "repeated, last and first": [31, 31, COUNT - 1, 0, 31, 0, COUNT - 1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_exactly_the_frames_asked_for(sources, layout):
    source = sources / layout
    assert count_frames(source) == COUNT
    assert numbers(np.stack(list(iterate_frames(source)))) == list(range(COUNT))
    for order in ORDERS.values():
        for indices in [[index] for index in range(COUNT)] if order is None else [order]:
            frames = read_frames(source, indices)
            assert frames.shape == (len(indices), HEIGHT, WIDTH, 3) and frames.dtype == np.uint8
            assert numbers(frames) == list(indices)


# Files on which decord's random access is exact, and on which it is silently wrong.
EXACT_WITH_DECORD = ("h264 long GOP.mp4", "h264 long GOP.mkv", "h264 short GOP.mp4", "h264 intra.mp4", "vp9.webm")
WRONG_WITH_DECORD = ("h264 open GOP.mp4", "h264 B.avi", "mpeg4 B.avi", "mpeg4 B.mp4", "vp8.webm")


@pytest.mark.parametrize("layout", EXACT_WITH_DECORD)
def test_decord_gives_the_same_pixels_where_it_is_exact(sources, layout):
    for indices in (range(COUNT), ORDERS["random"], ORDERS["backward"]):
        frames = read_frames(sources / layout, indices, decoder="decord")
        assert numbers(frames) == list(indices)
        assert np.array_equal(frames, read_frames(sources / layout, indices))


@pytest.mark.parametrize("layout", WRONG_WITH_DECORD)
def test_decord_is_refused_where_it_is_not(sources, layout):
    with pytest.raises(VideoError, match="decord's random access is not exact in it .*use the decoder 'pyav'"):
        read_frames(sources / layout, [0], decoder="decord")


def test_decord_refuses_a_name_that_is_not_utf_8(tmp_path, sources):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    path.write_bytes((sources / "h264 short GOP.mp4").read_bytes())
    assert numbers(read_frames(path, [7])) == [7]
    with pytest.raises(VideoError, match="decord cannot read it"):
        read_frames(path, [7], decoder="decord")


def test_decord_reads_narrow_videos_and_lists_of_images_too(tmp_path, sources):
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 24, 3)).astype(np.uint8)
    write_frames(tmp_path / "narrow.mp4", frames)
    expected = read_frames(tmp_path / "narrow.mp4", [3, 0])
    assert np.array_equal(read_frames(tmp_path / "narrow.mp4", [3, 0], decoder="decord"), expected)
    assert numbers(read_frames(sources / "jpeg", [7], decoder="decord")) == [7]
    with pytest.raises(ValueError, match="unknown decoder 'decrod': did you mean 'decord'"):
        read_frames(tmp_path / "narrow.mp4", [0], decoder="decrod")


class Numbers(Dataset):
    """The numbers on frames read from each source."""

    indices = [COUNT - 1, 0, 31, 17]

    def __init__(self, sources):
        self.sources = sources

    def __len__(self):
        return len(self.sources)

    def __getitem__(self, index):
        return torch.tensor(numbers(read_frames(self.sources[index], self.indices)))


def test_loader_workers_read_the_same_frames(sources):
    """Forked ones, after the parent has decoded; for spawned ones see test_clips."""
    dataset = Numbers([sources / layout for layout in LAYOUTS])
    here = [dataset[index] for index in range(len(dataset))]
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=120)
    for read, expected in zip(loader, here, strict=True):
        assert read.tolist() == expected.tolist() == dataset.indices


@pytest.mark.parametrize(
    ("layout", "info"),
    [
        ("h264 long GOP.mp4", VideoInfo("h264", COUNT, HEIGHT, WIDTH, 25, 2.4)),
        ("mpeg4 B.avi", VideoInfo("mpeg4", COUNT, HEIGHT, WIDTH, 25, 2.4)),
        ("vp9.webm", VideoInfo("vp9", None, HEIGHT, WIDTH, 25, 2.4)),
        ("jpeg", VideoInfo("images", COUNT, HEIGHT, WIDTH, None, None)),
    ],
)
def test_a_probe_returns_what_the_header_states(sources, layout, info):
    assert probe(sources / layout) == info


@pytest.mark.parametrize("layout", ["h264 long GOP.mp4", "mpeg4 B.avi", "jpeg"])
def test_indices_may_depend_on_the_number_of_frames(sources, layout):
    assert numbers(read_frames(sources / layout, lambda count: [count - 1, count // 2])) == [59, 30]
    assert numbers(read_frames(sources / layout, lambda count: [count - 1], listed=50)) == [49]
    with pytest.raises(VideoError, match=f"{layout}: has 60 frames, its list says 61"):
        read_frames(sources / layout, lambda count: [0], listed=61)


def test_no_reader_outlives_a_call(sources, tmp_path):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    (tmp_path / "text.mp4").write_text("not a video")
    for layout in LAYOUTS:
        read_frames(sources / layout, [5])
        next(iterate_frames(sources / layout))
    with pytest.raises(VideoError):
        read_frames(tmp_path / "text.mp4", [0])
    opened = [os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
    assert not [path for path in opened if path.startswith((str(sources), str(tmp_path)))]


@pytest.mark.parametrize("name", ["a:b.mp4", "%03d.mp4", "视频 '1'.mp4", "-y.mp4", "http:x.mp4"])
def test_names_of_any_kind(sources, tmp_path, monkeypatch, name):
    shutil.copy(sources / "h264 intra.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(read_frames(name, [7])) == [7]


# ---------------------------------------------------------------- folders of frames


@pytest.mark.parametrize(
    ("pattern", "first"), [("{:05d}.jpg", 1), ("image_{:06d}.jpg", 1), ("img_{:05d}.JPEG", 0), ("v2-{}.png", 1)]
)
def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path, pattern, first):
    folder = save_images(tmp_path / "frames", coded_frames(12), pattern, first)
    for name in ("Thumbs.db", "._00001.jpg", "flow_x_00001.jpg"):
        (folder / name).write_bytes(b"something else")
    assert count_frames(folder) == 12
    assert numbers(read_frames(str(folder), [11, 0, 9, 10])) == [11, 0, 9, 10]


def test_a_grey_image_has_three_channels(tmp_path):
    (tmp_path / "grey").mkdir()
    Image.fromarray(coded(5)).convert("L").save(tmp_path / "grey" / "1.jpg")
    assert numbers(read_frames(tmp_path / "grey", [0])) == [5]


def spoiled_folders(folder):
    """Ways to spoil a folder of ten frames, with the error message."""

    def save(name, size=(WIDTH, HEIGHT)):
        Image.new("RGB", size).save(folder / name)

    def cut(name):
        (folder / name).write_bytes((folder / name).read_bytes()[:-300])

    return {
        "gap": (lambda: (folder / "00004.jpg").unlink(), "frames: frame number 4 is missing, of 1 to 10"),
        "late": (lambda: [(folder / f"{n:05d}.jpg").unlink() for n in (1, 2)], "number 1 is missing, of 1 to 10"),
        "twice": (lambda: save("4.jpg"), "frame number 4 exists twice"),
        "two kinds": (lambda: save("img_00011.jpg"), r"numbered files of several kinds, \['', 'img_'\]"),
        "sizes": (lambda: save("00004.jpg", (32, 32)), "frames of different sizes, 32 x 32 and 64 x 96"),
        "cut": (lambda: cut("00004.jpg"), "00004.jpg: not a readable image .*truncated"),
        "text": (lambda: (folder / "00004.jpg").write_text("text"), "00004.jpg: not a readable image"),
        "empty": (lambda: (folder / "00004.jpg").write_text(""), "00004.jpg: not a readable image"),
        "none": (lambda: [path.unlink() for path in folder.iterdir()], "a folder without numbered JPEG or PNG files"),
    }


@pytest.mark.parametrize("case", spoiled_folders(None))
def test_a_spoiled_folder_is_an_error(tmp_path, case):
    folder = save_images(tmp_path / "frames", frames=coded_frames(10))
    spoil, message = spoiled_folders(folder)[case]
    spoil()
    with pytest.raises(VideoError, match=message):
        read_frames(folder, [0, 3])


def test_a_frame_that_does_not_come_out_is_an_error(sources, monkeypatch):
    frames = readers.TimedFrames.frames
    monkeypatch.setattr(readers.TimedFrames, "frames", lambda self, indices: frames(self, indices[:1]))
    with pytest.raises(VideoError, match="frame 7 did not come out"):
        read_frames(sources / "h264 intra.mp4", [9, 7, 4, 7])


# ---------------------------------------------------------------- files that are broken


def bad_files(folder, sources):
    """Files that cannot be opened or are truncated: {name: error message}."""
    whole = (sources / "h264 short GOP.mp4").read_bytes()
    encode(folder / "head first.mp4", options={"g": "8"}, container_options={"movflags": "faststart"})
    contents = {
        "empty.mp4": (b"", "the file is empty"),
        "text.mp4": (b"this is no video\n" * 50, "not a readable video"),
        "noise.mp4": (np.random.default_rng(0).bytes(5000), "not a readable video"),
        "no index.mp4": (whole[: len(whole) // 2], "not a readable video"),
    }
    for name in ("head first.mp4", "mpeg4.avi", "mpeg4 B.avi", "h264.avi", "vp9.webm", "vp8.webm"):
        content = (folder if name == "head first.mp4" else sources).joinpath(name).read_bytes()
        stated = "its index lists 60 frames" if name == "head first.mp4" else r"the header states [\d.]+ seconds"
        contents[f"cut {name}"] = (content[: len(content) // 2], f"truncated: {stated}")
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    encode_sound(folder / "sound.mp4")
    (folder / "folder.mp4").mkdir()
    others = {
        "sound.mp4": "has no video stream",
        "folder.mp4": "a folder without numbered JPEG or PNG files",
        "missing.mp4": "no such file",
    }
    return {name: message for name, (_, message) in contents.items()} | others


def test_a_title_in_another_encoding_is_no_damage(tmp_path):
    encode(tmp_path / "plain.avi", "mpeg4", coded_frames(5), {"g": "12"})
    with av.open(str(tmp_path / "plain.avi")) as source, av.open(str(tmp_path / "titled.avi"), "w") as made:
        made.metadata["title"] = "cafe"
        stream = made.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    content = (tmp_path / "titled.avi").read_bytes()
    assert content.count(b"cafe") == 1
    (tmp_path / "titled.avi").write_bytes(content.replace(b"cafe", b"caf\xe9"))
    assert count_frames(tmp_path / "titled.avi") == 5


@pytest.mark.parametrize("layout", ["h264 short GOP.mp4", "vp8.webm", "mpeg4 B.avi"])
def test_changed_bytes_give_frames_or_a_video_error(sources, tmp_path, layout):
    content = (sources / layout).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(25):
        spoilt = bytearray(content)
        for place in rng.integers(0, min(len(content), 4000), 3):
            spoilt[place] = rng.integers(256)
        (tmp_path / layout).write_bytes(spoilt)
        try:
            assert read_frames(tmp_path / layout, lambda count: [0, count - 1]).ndim == 4
        except VideoError as error:
            assert str(error).startswith(str(tmp_path))


def test_a_bad_file_is_an_error_with_its_name_and_a_reason(tmp_path, sources):
    for name, message in bad_files(tmp_path, sources).items():
        for call in (
            count_frames,
            lambda source: read_frames(source, [0]),
            lambda source: list(iterate_frames(source)),
        ):
            with pytest.raises(VideoError, match=f"{name}: {message}") as caught:
                call(tmp_path / name)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layout", ["h264 short GOP.mp4", "h264 long GOP.mp4", "h264 open GOP.mp4", "mpeg4.avi", "mpeg4 B.avi"]
)
def test_damage_is_an_error_and_never_another_picture(sources, tmp_path, layout):
    content = bytearray((sources / layout).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    damaged = tmp_path / layout
    damaged.write_bytes(content)
    with pytest.raises(VideoError, match=rf"{layout}: decoding failed at frame \d+ \("):
        read_frames(damaged, range(COUNT))
    for index in (0, 25, COUNT - 1):  # each is right, or an error
        try:
            assert np.array_equal(read_frames(damaged, [index]), read_frames(sources / layout, [index]))
        except VideoError as error:
            assert "decoding failed at frame" in str(error)


def test_frames_before_the_damage_and_after_it_are_read(sources, tmp_path):
    content = bytearray((sources / "h264 short GOP.mp4").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
    (tmp_path / "damaged.mp4").write_bytes(content)
    assert numbers(read_frames(tmp_path / "damaged.mp4", [0, 58])) == [0, 58]


# ---------------------------------------------------------------- pixels and indices


def test_any_frame_decodes_alone_as_it_does_in_sequence(sources):
    whole = read_frames(sources / "h264 frames.mp4", range(COUNT))
    for index in (0, 17, 47):
        assert np.array_equal(read_frames(sources / "h264 frames.mp4", [index])[0], whole[index])


@pytest.mark.parametrize("width", [16, 24, 40, 48, 64, 72, 100, 340])
def test_any_even_width_has_its_pixels_in_place(tmp_path, width):
    """decord pads the rows of some narrow videos."""
    columns = np.linspace(20, 230, width).astype(np.uint8)
    frames = np.broadcast_to(columns[None, None, :, None], (3, 32, width, 3))
    write_frames(tmp_path / "ramp.mp4", frames, quantiser=10)
    read = read_frames(tmp_path / "ramp.mp4", [2])
    assert read.shape == (1, 32, width, 3)
    assert np.abs(read[0].astype(int) - frames[0]).max() <= 6


@pytest.mark.parametrize("index", [60, 300, -1])
def test_a_frame_outside_the_video_is_an_error(sources, index):
    with pytest.raises(VideoError, match=f"h264 frames.mp4: has 60 frames, asked for frame {index}"):
        read_frames(sources / "h264 frames.mp4", [0, index])


def test_indices_must_be_integers(sources):
    for indices in ([0.5], [], 3):
        with pytest.raises(TypeError, match="indices must be one integer or more"):
            read_frames(sources / "h264 frames.mp4", indices)
