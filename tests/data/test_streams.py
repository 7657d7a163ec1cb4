"""Which stream of a file is its video, which files are videos at all, and frames of one size in little memory."""

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from ctlib.data.catalog import Samples
from ctlib.data.check import check, read_check
from ctlib.data.clips import ClipDataset
from ctlib.data.prepare import prepare
from ctlib.data.video import VideoError, container, count_frames, iterate_frames, probe, read_frames
from tests.data.videos import COUNT, coded, coded_frames, encode, encode_sound, filtered, moving, numbers, save_images

# ---------------------------------------------------------------- streams


def add_picture(container):
    """A stream with one JPEG in it, which is not written yet."""
    stream = container.add_stream("mjpeg", rate=25)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
    return stream


def write_streams(path, moving=False, cover=None):
    """Three seconds of sound, a video if `moving`, and a picture: "cover", or "track" as a stream like any other."""
    picture = av.VideoFrame.from_ndarray(coded(33), format="rgb24")
    with av.open(str(path), "w") as made:
        video = made.add_stream("libx264", rate=25) if moving else None
        if moving:
            video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        still, sound = add_picture(made), made.add_stream("aac", rate=8000, layout="mono")
        if cover == "cover":
            still.disposition = Disposition.attached_pic
        for packet in still.encode(picture.reformat(format="yuvj420p")) + still.encode():
            made.mux(packet)
        if moving:
            for number in range(COUNT):
                made.mux(video.encode(av.VideoFrame.from_ndarray(coded(number), format="rgb24")))
            made.mux(video.encode())
        for second in range(3):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 8000, 8000 * second
            made.mux(sound.encode(silence))
        made.mux(sound.encode())
    return path


@pytest.mark.parametrize(("name", "cover"), [("a.mkv", "track"), ("a.mp4", "track"), ("b.mp4", "cover")])
def test_a_cover_beside_sound_is_no_video(tmp_path, name, cover):
    path = write_streams(tmp_path / name, cover=cover)
    for read in (count_frames, lambda path: read_frames(path, [0]), lambda path: list(iterate_frames(path))):
        with pytest.raises(VideoError, match=f"{name}: has no video stream, only a"):
            read(path)
    samples = Samples([(name, 0, None)], ("a",), tmp_path)
    assert check(samples, tmp_path / "checked", workers=1).bad == {"no video stream": 1}


@pytest.mark.parametrize(("name", "cover"), [("a.mkv", "track"), ("b.mp4", "cover")])
def test_a_cover_beside_a_video_is_passed_over(tmp_path, name, cover):
    path = write_streams(tmp_path / name, moving=True, cover=cover)
    assert numbers(read_frames(path, range(COUNT))) == list(range(COUNT))
    with pytest.raises(VideoError, match=rf"{name}: decord .*\(it has several video streams\): use the decoder 'pyav'"):
        read_frames(path, [0], decoder="decord")


def test_a_video_of_one_jpeg_without_sound_is_one_frame(tmp_path):
    assert count_frames(encode(tmp_path / "one.avi", "mjpeg", [coded(9)])) == 1


OTHER_IN_DECORD = {
    "interlaced": ({"flags": "+ildct+ilme", "x264-params": "tff=1"}, "yuv420p", "it is interlaced"),
    "bottom first": ({"flags": "+ildct+ilme", "x264-params": "bff=1"}, "yuv420p", "it is interlaced"),
    "progressive, which may change": ({"x264-params": "fake-interlaced=1"}, "yuv420p", "it may be interlaced"),
    "ten bits": ({}, "yuv420p10le", "its colours have more than 8 bits"),
    "ten bits, 4:4:4": ({}, "yuv444p10le", "its colours have more than 8 bits"),
}
SAME_IN_DECORD = [("yuv420p", "colormatrix=bt709"), ("yuvj420p", ""), ("yuv444p", "colormatrix=bt2020nc"), ("gray", "")]


def encode_as(path, pix_fmt, options):
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pix_fmt
        for number in range(12):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(coded(number), format="rgb24")))
        made.mux(stream.encode())
    return path


@pytest.mark.parametrize("case", OTHER_IN_DECORD)
def test_decord_is_refused_where_it_gives_other_pixels(tmp_path, case):
    options, pix_fmt, reason = OTHER_IN_DECORD[case]
    path = encode_as(tmp_path / "video.mp4", pix_fmt, options)
    assert len(read_frames(path, range(12))) == 12
    with pytest.raises(VideoError, match=rf"video.mp4: decord would read it otherwise \({reason}\)"):
        read_frames(path, [0], decoder="decord")


def parameter_sets(extradata):
    """Of an `avcC`: its first bytes, its one set for the sequence and its one for pictures, with their lengths."""
    end = 8 + int.from_bytes(extradata[6:8], "big")
    return (
        extradata[:5],
        extradata[6:end],
        extradata[end + 1 :][: 2 + int.from_bytes(extradata[end + 1 : end + 3], "big")],
    )


def test_decord_is_refused_where_a_video_turns_interlaced(tmp_path):
    """12 progressive frames and 12 interlaced ones, in one stream."""
    kinds = {"before.mp4": {}, "after.mp4": {"flags": "+ildct+ilme", "x264-params": "tff=1:sps-id=1"}}
    parts = [av.open(str(encode_as(tmp_path / name, "yuv420p", options))) for name, options in kinds.items()]
    (start, *one), (_, *two) = (parameter_sets(part.streams.video[0].codec_context.extradata) for part in parts)
    with av.open(str(tmp_path / "video.mkv"), "w") as made:
        stream = made.add_stream_from_template(parts[0].streams.video[0])
        sets = b"\xe2" + one[0] + two[0], b"\x02" + one[1] + two[1]
        stream.codec_context.extradata = start + b"".join(sets)
        for later, part in enumerate(parts):
            for packet in (packet for packet in part.demux(video=0) if packet.size):
                shift = round(later * 12 / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                made.mux(packet)
            part.close()
    assert numbers(read_frames(tmp_path / "video.mkv", range(24))) == [*range(12), *range(12)]
    with pytest.raises(VideoError, match="decord would read it otherwise .it may be interlaced"):
        read_frames(tmp_path / "video.mkv", [3], decoder="decord")


def joined(path, parts):
    """H.264 files one after the other in one stream, each with the headers of its own."""
    with av.open(str(path), "w") as made:
        stream, shift = None, 0
        for part in parts:
            with av.open(str(filtered(part, part.with_suffix(".h264"), "h264_mp4toannexb")), format="h264") as source:
                stream = stream or made.add_stream_from_template(source.streams.video[0])
                for packet in (packet for packet in source.demux(video=0) if packet.size):
                    packet.pts = packet.dts = round(shift / 25 / packet.time_base)
                    packet.stream, shift = stream, shift + 1
                    made.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("size", "pix_fmt", "params"),
    [((48, 64), "yuv420p", ""), ((64, 96), "yuv444p", ""), ((64, 96), "yuv420p", "colormatrix=bt709:")],
)
def test_decord_is_refused_where_size_or_colours_change(tmp_path, suffix, size, pix_fmt, params):
    kinds = (("yuv420p", (64, 96), ""), (pix_fmt, size, params))
    parts = []
    for number, (form, (height, width), more) in enumerate(kinds):
        options = {"x264-params": f"{more}bframes=0:keyint=8:scenecut=0"}
        frames = (coded(number)[:height, :width] for number in range(16))
        parts.append(encode(tmp_path / f"{number}.mp4", frames=frames, options=options, pix_fmt=form))
    path = joined(tmp_path / f"joined.{suffix}", parts)
    assert read_frames(path, [20, 28]).shape == (2, *size, 3)
    for indices in ([3, 12], [20, 28]):
        with pytest.raises(VideoError, match=r"decord would read it otherwise \(its size or colours change\)"):
            read_frames(path, indices, decoder="decord")


@pytest.mark.parametrize(("pix_fmt", "params"), SAME_IN_DECORD)
def test_decord_gives_the_same_colours_elsewhere(tmp_path, pix_fmt, params):
    path = encode_as(tmp_path / "video.mp4", pix_fmt, {"x264-params": params} if params else {})
    assert np.array_equal(read_frames(path, range(12)), read_frames(path, range(12), decoder="decord"))


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("name", ["mine.mp4", "mine.avi", "mine.ts", "mine.m3u8", "mine.txt"])
@pytest.mark.parametrize("kind", ["concat", "hls", "hls with an address", "dash", "sdp", "subtitles"])
def test_a_text_that_names_another_file_is_never_followed(sources, tmp_path, name, kind):
    other = tmp_path / "other.ts"
    encode(other, frames=coded_frames(5))
    texts = {
        "concat": "ffconcat version 1.0\nfile other.ts\n",
        "hls": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.0,\n{other}\n#EXT-X-ENDLIST\n",
        "hls with an address": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.0,\nhttp://localhost:9/a.ts\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "subtitles": "1\n00:00:01,000 --> 00:00:02,000\nHello\n",
    }
    (tmp_path / name).write_text(texts[kind])
    for read in (probe, count_frames, lambda path: read_frames(path, [0])):
        with pytest.raises(VideoError, match=f"{name}: not a readable video"):
            read(tmp_path / name)


def test_pictures_and_sounds_with_a_video_s_name_are_no_videos(tmp_path):
    Image.fromarray(coded(5)).save(tmp_path / "picture.mp4", "jpeg")
    Image.fromarray(coded(5)).save(tmp_path / "other.mp4", "png")
    for name in ("picture.mp4", "other.mp4"):
        with pytest.raises(VideoError, match=f"{name}: not a readable video .*none of mov,matroska,avi"):
            count_frames(tmp_path / name)
    encode_sound(tmp_path / "sound.mkv")
    with pytest.raises(VideoError, match="sound.mkv: has no video stream"):
        count_frames(tmp_path / "sound.mkv")


CODECS = {
    "mp4 mov m4v mkv 3gp ts": "libx264",
    "mpg mpeg": "mpeg1video",
    "webm": "libvpx",
    "avi": "mpeg4",
    "wmv": "wmv2",
    "flv": "flv",
    "gif": "gif",
}


FAST = {"mpeg1video": {"qscale": "2"}, "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "2M"}}


@pytest.mark.parametrize(("suffix", "codec"), [(suffix, CODECS[key]) for key in CODECS for suffix in key.split()])
def test_every_kind_of_container_is_read_whatever_its_name(tmp_path, suffix, codec):
    path = tmp_path / f"video.{suffix}"
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=25, options=FAST.get(codec, {}))
        stream.height, stream.width, stream.pix_fmt = 64, 96, "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(coded(number), format="rgb24")
            made.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        made.mux(stream.encode())
    assert numbers(read_frames(path, range(25))) == list(range(25))
    path.rename(tmp_path / "video.other")
    assert numbers(read_frames(tmp_path / "video.other", [24, 3])) == [24, 3]


# ---------------------------------------------------------------- one size, and little memory


def two_sizes(folder):
    """Sources whose frames change their size in the middle."""
    small, large = moving(6, 48, 64), moving(6, 64, 96)
    save_images(folder / "frames", [*small, *large])
    parts = [encode(folder / "parts" / f"{number}.ts", frames=part) for number, part in enumerate((small, large))]
    (folder / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    return ["frames", "joined.ts"]


def test_a_source_of_two_sizes_is_bad_on_every_route(tmp_path):
    names = two_sizes(tmp_path / "data")
    samples = Samples([(name, 0, None) for name in names], ("a",), tmp_path / "data")
    assert check(samples, tmp_path / "checked", workers=1).bad == {"unreadable": 2}
    assert all(
        "frames of different sizes, 48 x 64 and 64 x 96" in bad for bad in read_check(tmp_path / "checked")[1].values()
    )
    with pytest.raises(ValueError, match="no video of train could be read"):
        prepare({"train": samples}, tmp_path / "out", workers=1)
    for index in range(2):
        with pytest.raises(VideoError, match="has frames of different sizes, 48 x 64 and 64 x 96"):
            ClipDataset(samples, 8, 32, sampling="sparse")[index]


def test_what_is_read_again_is_the_same(sources, monkeypatch):
    """Compressed frames of large files do not stay in memory."""
    monkeypatch.setattr(container, "_KEPT", 1000)
    for layout in ("h264 long GOP.mp4", "h264 open GOP.mp4", "h264 refresh.mp4", "hevc.mp4", "vp9.webm", "mpeg4 B.avi"):
        for indices in ([58], [3, 30, 59], [59, 0, 31, 31], range(COUNT)):
            assert numbers(read_frames(sources / layout, indices)) == list(indices)
        assert count_frames(sources / layout) == COUNT


def test_a_few_frames_of_a_large_file_take_little_memory(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 128, 3)).astype(np.uint8)
    frames = (np.roll(noise[number % 4], number, 1) for number in range(300))
    path = encode(tmp_path / "large.mp4", frames=frames, options={"qp": "4", "g": "25", "preset": "ultrafast"})
    held = []
    monkeypatch.setattr(container, "_KEPT", 2**20)
    begin = container.Packets.between

    def between(packets, first, last):
        for packet in begin(packets, first, last):
            held.append(packet.size)
            yield packet

    monkeypatch.setattr(container.Packets, "between", between)
    assert len(read_frames(path, lambda count: np.linspace(0, count - 1, 4).astype(int))) == 4
    assert path.stat().st_size > 4 * 2**20 and len(held) < 4 * 25
