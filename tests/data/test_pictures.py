"""Pictures are what a file says of its frames: their colours, the shape of their pixels, how they are turned."""

import io
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from training_videos import ffmpeg, frame_numbers, numbered_frames

from svd.data.pictures import _display_matrix, cover
from svd.data.video_reader import open_video

COLOURS = np.array([[220, 30, 30], [30, 200, 40], [30, 40, 210], [200, 200, 200]])
X264 = ("-c:v", "libx264", "-crf", "6", "-g", "10", "-bf", "2")


def stripes(colours: np.ndarray = COLOURS, height: int = 64, width: int = 256) -> np.ndarray:
    """Twelve frames of upright stripes of these colours."""
    row = np.repeat(colours, width // len(colours), axis=0)
    return np.broadcast_to(row, (12, height, *row.shape)).astype(np.uint8)


def pictures(path: Path) -> np.ndarray:
    """All frames of a file, upright [t h w 3]."""
    with open_video(str(path)) as video:
        return np.stack([video.picture(frame).pixels for frame in video.frames()])


def as_ffmpeg_reads(path: Path, like: np.ndarray) -> np.ndarray:
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    output = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(output, np.uint8).reshape(like.shape)


def stripe_means(frames: np.ndarray) -> np.ndarray:
    """Mean colour of each stripe, away from its edges."""
    width = frames.shape[2] // len(COLOURS)
    return np.stack(
        [frames[:, :, i * width + 4 : (i + 1) * width - 4].mean(axis=(0, 1, 2)) for i in range(len(COLOURS))]
    )


# --- colours ---


def scale(matrix: str, reach: str) -> tuple[str, str]:
    return "-vf", f"scale=out_color_matrix={matrix}:out_range={reach}"


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("601.mp4", (*scale("bt601", "tv"), *X264, "-colorspace", "smpte170m")),
        ("709.mp4", (*scale("bt709", "tv"), *X264, "-colorspace", "bt709")),
        ("709.mkv", (*scale("bt709", "tv"), *X264, "-colorspace", "bt709")),
        ("709.ts", (*scale("bt709", "tv"), *X264, "-colorspace", "bt709")),
        ("full.mp4", (*scale("bt709", "pc"), *X264, "-colorspace", "bt709", "-color_range", "pc")),
        ("full_601.mkv", (*scale("bt601", "pc"), *X264, "-colorspace", "bt470bg", "-color_range", "pc")),
        ("444.mp4", (*scale("bt709", "tv"), *X264, "-pix_fmt", "yuv444p", "-colorspace", "bt709")),
        (
            "2020.mp4",
            (*scale("bt2020nc", "tv"), "-c:v", "libx265", "-crf", "6", "-x265-params", "log-level=none", "-pix_fmt")
            + ("yuv420p10le", "-colorspace", "bt2020nc"),
        ),
        ("709.webm", (*scale("bt709", "tv"), "-c:v", "libvpx-vp9", "-crf", "10", "-colorspace", "bt709")),
        ("unsaid.mp4", ("-vf", "scale=out_color_matrix=bt601:out_range=tv,setparams=colorspace=unknown", *X264)),
        ("pictures.avi", ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p")),
        ("rgb.mkv", ("-c:v", "ffv1", "-pix_fmt", "bgr0")),
    ],
)
def test_colours(tmp_path, name, arguments):
    """The matrix and range are those that the stream states, and those of ffmpeg where it states none."""
    ffmpeg(*arguments, tmp_path / name, frames=stripes(), as_rgb=True)
    ours = pictures(tmp_path / name)
    np.testing.assert_allclose(stripe_means(ours), COLOURS, atol=4)
    theirs = as_ffmpeg_reads(tmp_path / name, ours)
    assert np.abs(ours.astype(int) - theirs).mean(axis=(1, 2, 3)).max() <= 2


@pytest.mark.parametrize("name, codec", [("alpha.webm", ("-c:v", "libvpx-vp9")), ("alpha.mov", ("-c:v", "prores_ks"))])
def test_what_is_transparent_has_its_colour(tmp_path, name, codec):
    pixels = "yuva420p" if name.endswith("webm") else "yuva444p10le"
    hole = "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='255*lt(Y,32)'"
    ffmpeg("-vf", hole, *codec, "-pix_fmt", pixels, tmp_path / name, frames=stripes(), as_rgb=True)
    assert np.abs(stripe_means(pictures(tmp_path / name)) - COLOURS).max() < 12  # BT.601 and no word of it


# --- shapes and directions ---


def disc_size(frame: np.ndarray) -> tuple[int, int]:
    """Height and width of what is white."""
    white = frame[..., 1] > 170
    return white.any(axis=1).sum(), white.any(axis=0).sum()


def disc(height: int, width: int, aspect: float) -> np.ndarray:
    """Twelve frames with a white disc, where pixels are shown `aspect` times as wide as high."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.hypot((x - width / 2) * aspect, y - height / 2) < height / 4
    return np.broadcast_to(np.where(inside, 255, 60)[None, ..., None], (12, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mpg", "a.mov", "a.ts"])
@pytest.mark.parametrize("aspect, width", [(2, 96), (0.5, 192), (16 / 11, 128)])
def test_pixels_that_are_not_square(tmp_path, name, aspect, width):
    codec = ("-c:v", "mpeg2video", "-q:v", "2") if name.endswith("mpg") else X264
    shown = aspect
    if name.endswith("mpg"):  # which knows only some shapes of the whole picture
        aspect, shown = (4 / 3 / (width / 96),) * 2
    ratio = f"{round(aspect * 1000)}/1000"
    ffmpeg("-vf", f"setsar={ratio}", *codec, tmp_path / name, frames=disc(96, width, aspect))
    with open_video(str(tmp_path / name)) as video:
        clip = video.read(2, 3, 1, 96, 96).frames
    assert disc_size(clip[0]) == pytest.approx((48, 48), abs=2)
    assert shown == aspect


def test_an_absurd_shape_of_pixels_is_passed_over(tmp_path):
    ffmpeg("-vf", "setsar=1/255", *X264, tmp_path / "a.mp4", frames=disc(96, 96, 1))
    with open_video(str(tmp_path / "a.mp4")) as video:
        assert disc_size(video.read(0, 2, 1, 96, 96).frames[0]) == pytest.approx((48, 48), abs=2)


def test_cover_with_pixels_that_are_not_square():
    rng = np.random.default_rng(0)
    for height, width, h, w in rng.integers(1, 60, (100, 4)):
        aspect = float(rng.uniform(0.2, 5))
        assert cover(np.zeros((height, width, 3), np.uint8), h, w, aspect).shape == (h, w, 3)


CORNERS = np.array([[[250, 20, 20], [20, 250, 20]], [[20, 20, 250], [250, 250, 250]]])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    "turn, expected",
    [
        (("-display_rotation", "90"), np.rot90(CORNERS)),
        (("-display_rotation", "180"), np.rot90(CORNERS, 2)),
        (("-display_rotation", "270"), np.rot90(CORNERS, 3)),
        (("-display_hflip",), CORNERS[:, ::-1]),
        (("-display_vflip",), CORNERS[::-1]),
        (("-display_rotation", "90", "-display_hflip"), None),
        (("-display_rotation", "270", "-display_hflip"), None),
    ],
)
def test_turned_and_mirrored(tmp_path, turn, expected, suffix):
    frame = np.kron(CORNERS, np.ones((32, 48, 1))).astype(np.uint8)
    ffmpeg(*X264, tmp_path / "lying.mp4", frames=np.broadcast_to(frame, (12, *frame.shape)))
    path = tmp_path / f"turned{suffix}"
    ffmpeg(*turn, "-i", tmp_path / "lying.mp4", "-c", "copy", path)
    result = pictures(path)
    np.testing.assert_allclose(result, as_ffmpeg_reads(path, result), atol=1)
    if expected is not None and not (suffix == ".mkv" and "flip" in turn[0]):  # which .mkv cannot say
        corners = [[result[0, y, x] for x in (12, -12)] for y in (12, -12)]
        np.testing.assert_allclose(corners, expected, atol=30)


def test_a_stream_that_is_cut_at_its_sides(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (12, 96, 160, 3), np.uint8)
    cut = "h264_metadata=crop_left=16:crop_top=8"
    ffmpeg(*X264, "-bsf:v", cut, tmp_path / "cut.mkv", frames=frame)
    result = pictures(tmp_path / "cut.mkv")
    assert result.shape[1:3] == (88, 144)
    np.testing.assert_allclose(result, as_ffmpeg_reads(tmp_path / "cut.mkv", result), atol=1)


def test_pictures_of_a_camera_on_its_side(tmp_path):
    """Motion JPEG whose pictures say in their EXIF how they are turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    for frame in numbered_frames(12, 64, 96):
        Image.fromarray(frame).save(data, "JPEG", quality=95, exif=exif)
    (tmp_path / "a.mjpeg").write_bytes(data.getvalue())
    ffmpeg("-f", "mjpeg", "-i", tmp_path / "a.mjpeg", "-c", "copy", tmp_path / "a.mov")
    result = pictures(tmp_path / "a.mov")
    np.testing.assert_allclose(result, as_ffmpeg_reads(tmp_path / "a.mov", result), atol=2)
    assert frame_numbers(np.rot90(result, axes=(1, 2))) == list(range(12))


def test_side_data_that_has_no_name():
    """PyAV fails at such frames as a whole, but knows by how much they are turned."""

    class Frame(SimpleNamespace):
        @property
        def side_data(self):
            raise ValueError("27 is not a valid Type")

    for rotation, right, down in ((0, 1, 0), (90, 0, -1), (-90, 0, 1), (180, -1, 0)):
        matrix = _display_matrix(Frame(rotation=rotation))
        np.testing.assert_allclose(matrix[0, :2], [right, down], atol=1e-12)


# --- interlaced frames ---


def interlaced(folder: Path) -> Path:
    """A video of a bright bar that moves by 8 pixels from line to line of each frame."""
    frames = np.full((24, 64, 96, 3), 40, np.uint8)
    for t, frame in enumerate(frames):
        frame[:, 3 * t : 3 * t + 16] = 220
    flags = ("-flags", "+ildct+ilme", "-x264opts", "tff=1")
    ffmpeg("-vf", "interlace=scan=tff:lowpass=off", *X264, *flags, folder / "interlaced.mp4", frames=frames)
    return folder / "interlaced.mp4"


def combing(frames: np.ndarray) -> float:
    """How much lines differ from both of their neighbours."""
    grey = frames[..., 1].astype(float)
    return np.abs(grey[:, 1:-1] - (grey[:, :-2] + grey[:, 2:]) / 2).mean()


def test_interlaced_frames_show_one_moment(tmp_path):
    path = interlaced(tmp_path)
    whole = pictures(path)
    assert len(whole) == 12
    assert combing(whole) < combing(as_ffmpeg_reads(path, whole)) / 4
    with open_video(str(path)) as video:
        cut = video.read(4, 5, 1, 64, 96)
    assert cut.rate == pytest.approx(12.5, rel=1e-3)
    assert np.abs(cut.frames[1:].astype(int) - whole[5:9]).mean() < 3


# --- sizes ---


def grey_disc(height: int, width: int) -> np.ndarray:
    """A white disc, centred on grey, as wide as half the shorter side: uint8 [h w 3]."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.hypot(x - width / 2, y - height / 2) < min(height, width) / 4
    return np.where(inside, 255, 100).astype(np.uint8)[..., None].repeat(3, -1)


@pytest.mark.parametrize("height, width", [(576, 1024), (300, 900), (900, 300), (108, 192), (64, 48), (333, 777)])
def test_a_circle_stays_a_circle_in_the_middle(height, width):
    result = cover(grey_disc(height, width), 192, 320)
    assert result.shape == (192, 320, 3)
    white = np.clip((result[..., 0].astype(float) - 100) / 155, 0, 1)
    diameter = min(height, width) / 2 * max(192 / height, 320 / width)
    if diameter < 192:
        assert white.sum(axis=1).max() == pytest.approx(diameter, abs=3)
        assert white.sum(axis=0).max() == pytest.approx(diameter, abs=3)
    rows, columns = np.nonzero(white > 0.5)
    assert rows.mean() + 0.5 == pytest.approx(96, abs=1)
    assert columns.mean() + 0.5 == pytest.approx(160, abs=1)


def test_any_size_to_any_size():
    rng = np.random.default_rng(0)
    for height, width, h, w in rng.integers(1, 100, (300, 4)):
        assert cover(np.zeros((height, width, 3), np.uint8), h, w).shape == (h, w, 3)


def test_the_right_size_is_kept_and_fine_patterns_are_averaged():
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cover(noise, 64, 96), noise)
    np.testing.assert_array_equal(cover(noise, 64, 48), noise[:, 24:72])
    means = noise.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(cover(noise, 16, 24), means, atol=1)
