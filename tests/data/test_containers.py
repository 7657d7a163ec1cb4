"""What containers say wrongly of their videos: key frames and lengths."""

import struct

import av
import numpy as np
import pytest

from ctlib.data.check import count_by_decoding
from ctlib.data.video import VideoError, count_frames, iterate_frames, read_frames, readers
from tests.data.videos import COUNT, coded, coded_frames, encode, numbers, remux

# ---------------------------------------------------------------- key frames


@pytest.fixture(scope="module")
def open_hevc(tmp_path_factory):
    """HEVC in which frames are shown before the key frame that they are decoded after."""
    options = {"x265-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0:log-level=none"}
    return encode(tmp_path_factory.mktemp("hevc") / "open.mp4", "libx265", options=options)


MARKS = {
    "all": lambda place, mark: True,
    "none": lambda place, mark: False,
    "all except the first": lambda place, mark: mark and place > 0,
    "one that is none": lambda place, mark: mark or place == 7,
    "every other frame": lambda place, mark: place % 2 == 1,
}


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("layout", ["hevc.mp4", "open hevc", "h264 open GOP.mp4", "h264 refresh.mp4", "vp9.webm"])
def test_wrong_marks_of_key_frames_give_the_right_frames(sources, open_hevc, tmp_path, layout, marks, suffix):
    source = open_hevc if layout == "open hevc" else sources / layout
    wrong = remux(source, tmp_path / f"wrong.{suffix}", MARKS[marks])
    expected = read_frames(source, range(COUNT))
    assert count_frames(wrong) == COUNT
    for indices in [[index] for index in range(0, COUNT, 7)] + [[1, 30, 33, 58], range(COUNT)]:
        assert np.array_equal(read_frames(wrong, indices), expected[list(indices)])


@pytest.mark.parametrize("layout", ["hevc.mp4", "h264 long GOP.mp4", "av1.mp4"])
def test_an_mp4_without_its_list_of_key_frames(sources, tmp_path, layout):
    """Every frame counts as a key frame then."""
    (tmp_path / "marked.mp4").write_bytes((sources / layout).read_bytes().replace(b"stss", b"free"))
    expected = read_frames(sources / layout, range(COUNT))
    for index in range(0, COUNT, 5):
        assert np.array_equal(read_frames(tmp_path / "marked.mp4", [index])[0], expected[index])


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("layout", ["h264 long GOP.mp4", "h264 short GOP.mp4", "h264 refresh.mp4", "vp9.webm"])
def test_decord_gives_the_same_or_is_refused_where_marks_are_wrong(sources, tmp_path, layout, marks, suffix):
    wrong = remux(sources / layout, tmp_path / f"wrong.{suffix}", MARKS[marks])
    (tmp_path / "unlisted.mp4").write_bytes((sources / layout).read_bytes().replace(b"stss", b"free"))
    for path in (wrong, tmp_path / "unlisted.mp4"):
        expected = read_frames(path, range(COUNT))
        for indices in [[index] for index in range(0, COUNT, 7)] + [range(COUNT)]:
            try:
                assert np.array_equal(read_frames(path, indices, decoder="decord"), expected[list(indices)])
            except VideoError as error:
                assert "decord" in str(error) or "decoding failed" in str(error)


@pytest.mark.parametrize("layout", ["hevc.mp4", "av1.mp4", "h264 open GOP.mp4", "h264 refresh.mp4"])
@pytest.mark.parametrize("shift", [1, -1, 5, -9])
def test_an_mp4_whose_list_of_key_frames_is_shifted(sources, tmp_path, layout, shift):
    content = bytearray((sources / layout).read_bytes())
    at = content.index(b"stss") + 8
    (count,) = struct.unpack_from(">I", content, at)
    marks = np.array(struct.unpack_from(f">{count}I", content, at + 4))
    struct.pack_into(f">{count}I", content, at + 4, *(marks + shift).clip(1, COUNT))
    (tmp_path / "shifted.mp4").write_bytes(content)
    expected = read_frames(sources / layout, range(COUNT))
    assert count_frames(tmp_path / "shifted.mp4") == COUNT
    for indices in [[index] for index in range(0, COUNT, 6)] + [[2, 27, 52]]:
        assert np.array_equal(read_frames(tmp_path / "shifted.mp4", indices), expected[indices])


def test_a_real_key_frame_is_found_however_far_back_it_lies(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_WINDOW", 4)
    wrong = remux(sources / "hevc.mp4", tmp_path / "wrong.mkv", MARKS["all"])
    assert numbers(read_frames(wrong, [23, 40, 47])) == [23, 40, 47]


def part_of(path, out, first, last=None):
    """The same compressed frames, without those before `first` and from `last` on."""
    with av.open(str(path)) as source, av.open(str(out), "w") as made:
        copied = made.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][first:last]:
            packet.stream = copied
            made.mux(packet)
    return out


def test_a_video_that_begins_within_a_group_begins_at_its_first_key_frame(sources, tmp_path):
    path = part_of(sources / "hevc.mp4", tmp_path / "late.mkv", 5)
    late = count_frames(path)
    assert numbers(read_frames(path, range(late))) == list(range(COUNT - late, COUNT))


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("mpeg4", "avi"), ("mpeg4", "mp4"), ("mpeg4", "mkv"), ("flv", "flv"), ("h263", "3gp"), ("wmv2", "wmv")]
    + [("msmpeg4", "avi"), ("qtrle", "mov"), ("mpeg2video", "ts"), ("libx264", "ts")],
)
def test_frames_that_are_counted_begin_at_the_first_key_frame_too(tmp_path, codec, suffix):
    """Some decoders show grey before it, or the last picture of what was decoded before."""
    options = {"g": "12", "bf": "0", "sc_threshold": "0" if codec == "libx264" else "1000000000"}
    frames = (np.pad(coded(number), ((0, 32), (0, 32), (0, 0))) for number in range(24))
    pix_fmt = "rgb24" if codec == "qtrle" else "yuv420p"
    whole = encode(tmp_path / f"whole.{suffix}", codec, frames, options, pix_fmt=pix_fmt)
    late = part_of(whole, tmp_path / f"late.{suffix}", 1)
    expected = read_frames(whole, range(24))[12:]
    assert count_frames(late) == count_by_decoding(str(late)) == 12
    assert np.array_equal(read_frames(late, range(12)), expected)
    assert np.array_equal(read_frames(late, [3, 0]), expected[[3, 0]])
    if codec != "qtrle":  # this decoder marks nothing, and an MP4 without marks counts as all key frames
        faults = "has no key frame to start from|no frame could be decoded|decoding failed"
        with pytest.raises(VideoError, match=f"none.{suffix}: ({faults})"):
            count_frames(part_of(whole, tmp_path / f"none.{suffix}", 1, 9))


@pytest.mark.parametrize("layout", ["h264 long GOP.mp4", "h264 open GOP.mp4", "hevc.mp4", "h264 refresh.mp4"])
def test_an_mp4_without_its_times_of_showing_has_its_frames_in_order(sources, tmp_path, layout):
    """Each frame then has the time of its decoding, which is another order where there are B-frames."""
    (tmp_path / "video.mp4").write_bytes((sources / layout).read_bytes().replace(b"ctts", b"free"))
    count = count_frames(tmp_path / "video.mp4")
    shown = numbers(read_frames(tmp_path / "video.mp4", range(count)))
    assert shown == sorted(set(shown)) and count >= COUNT - 4
    for index in range(0, count, 7):
        assert numbers(read_frames(tmp_path / "video.mp4", [index])) == [shown[index]]


@pytest.mark.parametrize("layout", ["h264 long GOP.mp4", "hevc.mp4"])
def test_what_is_read_as_a_whole_without_an_error_is_read_alike_one_by_one(sources, tmp_path, layout):
    """Wrong times of showing: the check finds those that change the order of frames."""
    content = bytearray((sources / layout).read_bytes())
    at, refused = content.index(b"ctts") + 12, 0
    for entry in (1, 4, 9, 16):
        changed = bytearray(content)
        (later,) = struct.unpack_from(">I", content, at + 8 * entry + 4)
        struct.pack_into(">I", changed, at + 8 * entry + 4, later + 1300)  # two and a half frames
        (tmp_path / "video.mp4").write_bytes(changed)
        try:
            whole = list(iterate_frames(tmp_path / "video.mp4"))
        except VideoError as error:
            refused += 1
            assert "another order than its time states" in str(error)
        else:
            for index in range(0, len(whole), 9):
                assert np.array_equal(read_frames(tmp_path / "video.mp4", [index])[0], whole[index])
    assert refused


# ---------------------------------------------------------------- lengths


def change_box(content, name, offset, change):
    """An MP4 with another 32-bit number in a box; `offset` counts from the box's name."""
    content = bytearray(content)
    at = content.index(name) + offset
    content[at : at + 4] = struct.pack(">i", change(struct.unpack(">i", content[at : at + 4])[0]))
    return bytes(content)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("plain") / "plain.mp4", options={"bf": "0", "g": "12"})


@pytest.mark.parametrize(("box", "offset"), [(b"mdhd", 20), (b"mvhd", 20), (b"tkhd", 24)])
@pytest.mark.parametrize("factor", [0, 1 / 30, 0.5, 1.5, 20])
def test_an_mp4_whose_header_states_another_length_has_all_its_frames(plain, tmp_path, box, offset, factor):
    changed = change_box(plain.read_bytes(), box, offset, lambda value: int(value * factor))
    (tmp_path / "changed.mp4").write_bytes(changed)
    assert numbers(read_frames(tmp_path / "changed.mp4", range(COUNT))) == list(range(COUNT))


def other_duration(content, suffix, factor):
    """The bytes of a file whose header states `factor` times its length."""
    content = bytearray(content)
    if suffix == "avi":  # frames of the file and of its stream
        places, form = (content.index(b"avih") + 24, content.index(b"strh") + 40), "<I"
    elif suffix == "flv":
        places, form = (content.index(b"duration") + 9,), ">d"
    else:
        places, form = (content.index(b"\x44\x89\x88") + 3,), ">d"
    for place in places:
        (value,) = struct.unpack_from(form, content, place)
        struct.pack_into(form, content, place, type(value)(value * factor))
    return bytes(content)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mkv", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4"), ("flv", "flv")]
)
@pytest.mark.parametrize("factor", [0, 1 / 30, 0.5, 1, 1.02, 1.5, 30])
def test_another_container_whose_header_states_another_length(tmp_path, suffix, codec, factor):
    """Too short: all frames. Too long: it cannot be told from a truncated file."""
    path = encode(tmp_path / f"video.{suffix}", codec)
    path.write_bytes(other_duration(path.read_bytes(), suffix, factor))
    if factor < 1.5:
        assert numbers(read_frames(path, range(COUNT))) == list(range(COUNT))
        assert count_frames(path) == COUNT
    else:
        states = r"the header states \d+\.\d\d seconds, the file ends at 2\.\d\d \(if it is whole, its header is wrong"
        with pytest.raises(VideoError, match=f"video.{suffix}: truncated: {states}: remux it"):
            count_frames(path)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("webm", "libvpx"), ("mkv", "libx264"), ("wmv", "wmv2"), ("avi", "mpeg4"), ("flv", "flv"), ("mp4", "libx264")],
)
def test_a_download_that_stopped_in_a_file_of_its_full_size_is_no_video(tmp_path, suffix, codec):
    path = encode(tmp_path / f"video.{suffix}", codec)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(VideoError, match=f"video.{suffix}: "):
        count_frames(path)


def test_a_file_whose_last_frame_alone_is_cut_is_truncated(tmp_path):
    path = encode(tmp_path / "video.avi", "mpeg4", coded_frames(24))
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"00dc", 0, content.rindex(b"idx1")) + 12])
    with pytest.raises(VideoError, match=r"video\.avi: truncated: its last frame is cut$"):
        count_frames(path)


@pytest.mark.parametrize("late", [0, 500])
def test_an_flv_that_is_cut_at_a_tag_is_truncated_whenever_it_starts(tmp_path, late):
    path = encode(tmp_path / "video.flv", "flv", times=[late + number for number in range(COUNT)])
    content, end = path.read_bytes(), 13  # of the header, before the first tag
    while end < len(content) // 2:
        end += 11 + int.from_bytes(content[end + 1 : end + 4], "big") + 4
    path.write_bytes(content[:end])
    with pytest.raises(VideoError, match=rf"truncated: the header states {len(content)} bytes, the file has {end}$"):
        count_frames(path)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx265"), ("flv", "flv"), ("ts", "libx264")]
)
@pytest.mark.parametrize("late", [7, 5000])
@pytest.mark.parametrize("gap", [0, 50])
def test_a_video_that_starts_late_or_pauses_has_its_frames(tmp_path, suffix, codec, late, gap):
    times = [late + number + (gap if number > 30 else 0) for number in range(COUNT)]
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = encode(tmp_path / f"late.{suffix}", codec, options=options, times=times)
    assert numbers(read_frames(path, range(COUNT))) == list(range(COUNT))
    assert numbers(read_frames(path, [33])) == [33]


@pytest.mark.parametrize("later", [5, 10, 30, 55])
def test_a_trimmed_video_has_the_frames_that_players_show(plain, tmp_path, later):
    """Its edit list starts later and still states the whole length; key frames before are needed, and not shown."""
    content = plain.read_bytes()
    (scale,) = struct.unpack(">I", content[content.index(b"mdhd") + 16 :][:4])
    trimmed = change_box(content, b"elst", 16, lambda before: before + scale * later // 25)
    (tmp_path / "trimmed.mp4").write_bytes(trimmed)
    count = count_frames(tmp_path / "trimmed.mp4")
    assert numbers(read_frames(tmp_path / "trimmed.mp4", range(count))) == list(range(later, COUNT))
    assert numbers(read_frames(tmp_path / "trimmed.mp4", [0])) == [later]


@pytest.mark.parametrize(
    "layout", ["h264 long GOP.mp4", "h264 open GOP.mp4", "hevc.mp4", "h264 refresh.mp4", "av1.mp4"]
)
def test_trimmed_videos_of_every_order_of_frames(sources, tmp_path, layout):
    content = (sources / layout).read_bytes()
    (scale,) = struct.unpack(">I", content[content.index(b"mdhd") + 16 :][:4])
    expected = read_frames(sources / layout, range(COUNT))
    for later in (3, 26, 47):
        trimmed = change_box(content, b"elst", 16, lambda before, later=later: before + scale * later // 25)
        (tmp_path / "trimmed.mp4").write_bytes(trimmed)
        assert np.array_equal(read_frames(tmp_path / "trimmed.mp4", range(COUNT - later)), expected[later:])
        assert np.array_equal(read_frames(tmp_path / "trimmed.mp4", [0])[0], expected[later])


@pytest.mark.parametrize("bf", ["0", "2"])
def test_trimmed_mpeg4_begins_where_it_did_though_that_is_no_key_frame(tmp_path, bf):
    whole = encode(tmp_path / "whole.mp4", "mpeg4", options={"g": "12", "bf": bf, "qscale": "3"})
    content = whole.read_bytes()
    (scale,) = struct.unpack(">I", content[content.index(b"mdhd") + 16 :][:4])
    for later in (3, 26):
        trimmed = change_box(content, b"elst", 16, lambda before, later=later: before + scale * later // 25)
        (tmp_path / "trimmed.mp4").write_bytes(trimmed)
        count = count_frames(tmp_path / "trimmed.mp4")
        assert numbers(read_frames(tmp_path / "trimmed.mp4", range(count))) == list(range(COUNT - count, COUNT))
        assert COUNT - count in (later, later + 1)


def test_a_video_of_which_nothing_is_shown_is_an_error(plain, tmp_path):
    content = change_box(plain.read_bytes(), b"elst", 16, lambda before: before + 10**7)
    (tmp_path / "none.mp4").write_bytes(content)
    with pytest.raises(VideoError, match="none.mp4: "):
        count_frames(tmp_path / "none.mp4")


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.flv", "flv"), ("a.wmv", "wmv2"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("fast.mp4", "libx264")],
)
def test_a_cut_file_is_truncated_to_the_check_and_to_training(tmp_path, name, codec):
    options = {"movflags": "faststart"} if name == "fast.mp4" else {}
    frames = [coded(number) for number in range(COUNT)] * 3
    path = encode(tmp_path / name, codec, frames, {"g": "12"}, container_options=options)
    assert count_frames(path) == len(frames)
    content = path.read_bytes()
    cuts = [int(share * len(content)) for share in (0.4, 0.7)]
    if name == "a.flv":  # between two tags, so that nothing is cut but the length
        ends = [13]
        while ends[-1] < len(content):
            ends.append(ends[-1] + 15 + int.from_bytes(content[ends[-1] + 1 : ends[-1] + 4], "big"))
        cuts = [max(end for end in ends if end <= cut) for cut in cuts]
    for cut in cuts:
        path.write_bytes(content[:cut])
        for read in (count_frames, lambda path: read_frames(path, [0]), lambda path: count_by_decoding(str(path))):
            with pytest.raises(VideoError, match=f"{name}: truncated: "):
                read(path)


def test_an_mp4_in_fragments_has_all_its_frames(tmp_path):
    options = {"movflags": "frag_keyframe+empty_moov"}
    path = encode(tmp_path / "fragments.mp4", options={"g": "12"}, container_options=options)
    assert numbers(read_frames(path, range(COUNT))) == list(range(COUNT))
