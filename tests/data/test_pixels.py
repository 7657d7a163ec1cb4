"""Orientation, depth and colour: frames as a player shows them."""

import io
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from ctlib.data.catalog import Samples
from ctlib.data.check import check, read_check
from ctlib.data.clips import ClipDataset
from ctlib.data.encoding import write_frames
from ctlib.data.prepare import prepare
from ctlib.data.video import VideoError, iterate_frames, read_frames
from ctlib.data.video.pixels import display_matrix
from tests.data.videos import coded_frames, encode, filtered, save_images, set_display_matrix

EXIF_ORIENTATION = 0x0112

# How a picture is shown, by its display matrix (a, b, c, d): as NumPy turns and mirrors it.
SHOWN = {
    (1, 0, 0, 1): lambda picture: picture,
    (0, -1, 1, 0): lambda picture: np.rot90(picture, 1),
    (-1, 0, 0, -1): lambda picture: np.rot90(picture, 2),
    (0, 1, -1, 0): lambda picture: np.rot90(picture, 3),
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (0, 1, 1, 0): lambda picture: picture.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda picture: picture[::-1, ::-1].transpose(1, 0, 2),
    (0, 0, 0, 0): lambda picture: picture,  # says nothing
    (2, 0, 0, -2): lambda picture: picture[::-1],  # with a scale, which is no matter of orientation
}
MIRRORED = [matrix for matrix in SHOWN if matrix[0] * matrix[3] < matrix[1] * matrix[2]]


def picture(height=48, width=64):
    """A picture that turns and mirrors to eight different ones: (height, width, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([4 * x, 5 * y, 0 * x], -1).astype(np.uint8)


def with_orientation(orientation, size=(64, 48)):
    image = Image.fromarray(picture(size[1], size[0]))
    exif = image.getexif()
    exif[EXIF_ORIENTATION] = orientation
    return image, exif


@pytest.mark.parametrize("matrix", SHOWN)
def test_a_video_is_turned_and_mirrored_as_its_display_matrix_says(sources, tmp_path, matrix):
    plain = sources / "h264 intra.mp4"
    (tmp_path / "video.mp4").write_bytes(set_display_matrix(plain.read_bytes(), matrix))
    expected = np.stack([SHOWN[matrix](frame) for frame in read_frames(plain, [9, 3])])
    assert np.array_equal(read_frames(tmp_path / "video.mp4", [9, 3]), expected)
    if matrix in MIRRORED:  # decord turns, and does not mirror
        with pytest.raises(VideoError, match=r"video.mp4: decord .*\(it is to be mirrored\): use the decoder 'pyav'"):
            read_frames(tmp_path / "video.mp4", [9], decoder="decord")
    else:
        assert np.array_equal(read_frames(tmp_path / "video.mp4", [9, 3], decoder="decord"), expected)


@pytest.mark.parametrize("matrix", MIRRORED)
def test_prepare_check_and_training_show_it_the_same_way(tmp_path, matrix):
    frames = np.repeat(picture(64, 96)[None], 8, 0)
    write_frames(tmp_path / "plain.mp4", frames, quantiser=4)
    (tmp_path / "data").mkdir()
    content = set_display_matrix((tmp_path / "plain.mp4").read_bytes(), matrix)
    (tmp_path / "data" / "video.mp4").write_bytes(content)
    shown = SHOWN[matrix](picture(64, 96)).astype(int)
    samples = Samples([("video.mp4", 0, None)], ("a",), tmp_path / "data")
    prepare({"train": samples}, tmp_path / "out", workers=1)
    check(samples, tmp_path / "checked", workers=1)
    assert read_check(tmp_path / "checked") == ({"video.mp4": 8}, {})
    prepared = read_frames(tmp_path / "out" / "videos" / "video.mp4", [5])[0]
    assert prepared.shape == shown.shape and np.abs(prepared - shown).mean() < 6
    clip, _ = ClipDataset(samples, 4, 32, sampling="sparse")[0]
    assert clip.shape == (1, 3, 4, 32, 32)


@pytest.mark.parametrize(("turn", "matrix"), [("flip=horizontal", (-1, 0, 0, 1)), ("rotate=90", (0, -1, 1, 0))])
@pytest.mark.parametrize(
    ("name", "again"), [("h264 long GOP.mkv", 24), ("h264 open GOP.mp4", None), ("h264 refresh.mp4", None)]
)
def test_what_the_stream_states_of_its_orientation_holds_up_to_the_next_key_frame(
    sources, tmp_path, turn, matrix, name, again
):
    path = filtered(sources / name, tmp_path / name, f"h264_metadata=display_orientation=insert:{turn}")
    expected = np.stack([SHOWN[matrix](frame) for frame in read_frames(sources / name, [0, 7, 23])])
    assert np.array_equal(read_frames(path, [0, 7, 23]), expected)
    assert np.array_equal(read_frames(path, [7])[0], expected[1])
    if again is None:  # it is stated again at each start
        expected = [SHOWN[matrix](frame) for frame in iterate_frames(sources / name)]
        assert np.array_equal(list(iterate_frames(path)), expected)
        assert np.array_equal(read_frames(path, [50])[0], expected[50])
        return
    assert np.array_equal(read_frames(path, [50]), read_frames(sources / name, [50]))
    for call in (lambda: read_frames(path, [50, 3]), lambda: list(iterate_frames(path))):
        with pytest.raises(VideoError, match=rf"{name}: frame (24|50) is to be turned or mirrored otherwise than"):
            call()


@pytest.mark.parametrize("matrix", MIRRORED[:2])
def test_looking_at_the_orientation_keeps_no_frame_in_memory(sources, tmp_path, matrix):
    (tmp_path / "video.mp4").write_bytes(set_display_matrix((sources / "h264 intra.mp4").read_bytes(), matrix))
    for path in (sources / "h264 intra.mp4", tmp_path / "video.mp4"):
        with av.open(path) as container:
            frame = next(container.decode(video=0))
        references = sys.getrefcount(frame)
        assert display_matrix(frame) in (None, matrix)
        assert sys.getrefcount(frame) == references


def test_a_turn_by_an_odd_angle_is_refused(sources, tmp_path):
    matrix = (0.7, -0.7, 0.7, 0.7)
    (tmp_path / "tilted.mp4").write_bytes(set_display_matrix((sources / "h264 intra.mp4").read_bytes(), matrix))
    with pytest.raises(VideoError, match="tilted.mp4: asks to be turned by an angle between quarter turns"):
        read_frames(tmp_path / "tilted.mp4", [0])


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_image_frames_are_shown_as_their_exif_orientation_says(tmp_path, orientation, suffix):
    image, exif = with_orientation(orientation)
    image.save(tmp_path / f"1.{suffix}", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"1.{suffix}")).convert("RGB"))
    assert np.array_equal(read_frames(tmp_path, [0])[0], expected)
    assert np.array_equal(next(iterate_frames(tmp_path)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_so_are_the_jpegs_within_a_video(tmp_path, orientation):
    image, exif = with_orientation(orientation)
    with av.open(str(tmp_path / "video.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = *image.size, "yuvj420p"
        for number in range(3):
            content = io.BytesIO()
            image.save(content, "jpeg", exif=exif, subsampling=2)
            packet = av.Packet(content.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
            container.mux(packet)
    content.seek(0)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(content))).astype(int)
    shown = read_frames(tmp_path / "video.avi", [1])[0]
    assert shown.shape == expected.shape and np.abs(shown - expected).mean() < 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_unreadable_exif_block_is_no_orientation(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "1.png")
    expected = read_frames(tmp_path, [0])
    for block in (
        b"Exif\0\0MM\0*\0\0\0\xff",
        b"Exif\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\xff",
    ):
        Image.fromarray(picture()).save(tmp_path / "1.png", exif=block)
        assert np.array_equal(read_frames(tmp_path, [0]), expected)


@pytest.mark.parametrize("orientation", [1, 6])
def test_sixteen_bit_grey_is_scaled(tmp_path, orientation):
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16)[None].repeat(48, 0)
    image = Image.fromarray(ramp)
    exif = image.getexif()
    exif[EXIF_ORIENTATION] = orientation
    image.save(tmp_path / "1.png", exif=exif)
    expected = np.rint(ramp / 257)[..., None].repeat(3, 2)
    assert np.array_equal(read_frames(tmp_path, [0])[0], expected if orientation == 1 else np.rot90(expected, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_images_of_other_modes_are_converted(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    image = Image.fromarray(picture()).convert(mode)
    image.save(tmp_path / f"1.{suffix}", **({"quality": 100} if mode == "CMYK" else {}))
    assert np.abs(read_frames(tmp_path, [0])[0].astype(int) - np.asarray(image.convert("RGB"))).mean() < 2


@pytest.mark.parametrize("kind", ["TIFF", "EPS", "GIF"])
def test_a_picture_of_another_format_with_a_frame_s_name_is_refused(tmp_path, kind):
    Image.fromarray(picture()).save(tmp_path / "1.png", kind)
    with pytest.raises(VideoError, match="1.png: not a readable image"):
        read_frames(tmp_path, [0])


@pytest.mark.parametrize(("pix_fmt", "bits"), [("gray10le", 10), ("gray12le", 12), ("gray16le", 16), ("gray", 8)])
def test_grey_videos_of_any_depth_are_scaled(tmp_path, pix_fmt, bits):
    ramp = np.linspace(0, 2**bits - 1, 64).round().astype(np.uint8 if bits == 8 else np.uint16)[None].repeat(48, 0)
    with av.open(str(tmp_path / "grey.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(ramp, format=pix_fmt)))
        container.mux(stream.encode())
    grey = read_frames(tmp_path / "grey.mkv", [1])[0].astype(float)
    assert np.abs(grey - (ramp / (2**bits - 1) * 255)[..., None]).max() <= 1.5


@pytest.mark.parametrize("matrix", ["YCgCo", "ICtCp", "bt2020c", "chroma-derived-nc", "chroma-derived-c", "smpte2085"])
def test_a_colour_matrix_that_cannot_be_converted_is_a_video_error(tmp_path, matrix):
    path = encode(tmp_path / "odd.mp4", frames=coded_frames(6), options={"x264-params": f"colormatrix={matrix}"})
    for call in (lambda: read_frames(path, [2]), lambda: list(iterate_frames(path))):
        with pytest.raises(
            VideoError, match=r"odd.mp4: frame \d cannot be converted to RGB from yuv420p, colour matrix"
        ):
            call()


def test_skip_passes_over_it_and_the_check_calls_it_unreadable(tmp_path):
    encode(tmp_path / "odd.mp4", frames=coded_frames(6), options={"x264-params": "colormatrix=YCgCo"})
    save_images(tmp_path / "frames", coded_frames(6))
    samples = Samples([("odd.mp4", 0, None), ("frames", 0, None)], ("a",), tmp_path)
    dataset = ClipDataset(samples, 4, 32, sampling="sparse", on_error="skip")
    with pytest.warns(UserWarning, match=r"skipped: .*odd.mp4: .* matrix 8 \(YCgCo\)"):
        assert dataset[0][1] == -1
    assert dataset[1][1] == 0
    assert check(samples, tmp_path / "checked", workers=1).bad == {"unreadable": 1}
