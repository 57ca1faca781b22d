"""`svd upsample`: videos of any length keep their rate and sound, and one line says what is wrong.

In this process and in pynative mode, with a small random model in pixel space.
"""

from copy import copy
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from PIL import Image
from small_upsampler import SMALL_IMAGES, SMALL_UPSAMPLER, write_upsampler
from training_videos import ffmpeg, numbered_frames

from svd import build
from svd.data.video_reader import open_video
from svd_tools import initialize, upsample


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    configs = {"video": SMALL_UPSAMPLER, "images": SMALL_IMAGES}
    return {name: write_upsampler(folder / f"{name}.safetensors", config) for name, config in configs.items()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Eleven frames of 16 x 24 at 30000/1001 per second, with a tone."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    tone = ("-f", "lavfi", "-i", "sine=frequency=440:duration=0.4")
    encoded = ("-pix_fmt", "yuv420p", "-c:a", "aac")
    ffmpeg("-r", "30000/1001", *tone, *encoded, path, frames=numbered_frames(11, 16, 24))
    return path


@pytest.fixture
def cli(eager, models, monkeypatch, capsys, tmp_path):
    """cli(*flags) runs the program: (exit code, lines of its output, its last line of errors)."""
    kept, load = {}, build.load_pipeline

    def load_once(config, checkpoint, *args, **options):
        if checkpoint not in kept:
            kept[checkpoint] = load(config, checkpoint, *args, **options)
        pipe = copy(kept[checkpoint])
        pipe.config = config
        return pipe

    monkeypatch.setattr(build, "load_pipeline", load_once)

    def run(*flags, model: str = "video"):
        own = ["--mode=1", f"--model.checkpoint={models[model]}", f"--output_dir={tmp_path / 'out'}"]
        code = upsample.main([*own, *map(str, flags)], "svd upsample")
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()[-1]

    return run


def packets(path: Path) -> list[bytes]:
    """Those of the sound."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def test_rate_sound_and_length_are_kept_and_the_side_file_repeats_it(cli, clip, tmp_path):
    code, out, _ = cli(f"--video={clip}", "--factor=2", "--sampling.noise_level=5")
    assert code == 0 and [Path(line).name for line in out] == ["clip_seed0.mp4", "clip_seed0.yaml"]
    with open_video(out[0]) as video:
        frames = list(video.pictures())
        assert video.fps == pytest.approx(30000 / 1001, rel=1e-6)
    assert len(frames) == 11 and frames[0].shape == (32, 48, 3)
    assert packets(Path(out[0])) == packets(clip)
    beside = yaml.safe_load(Path(out[1]).read_text())
    assert beside["sampling"]["noise_level"] == 5 and beside["factor"] == 2 and beside["video"] == [str(clip)]
    code, again, _ = cli(f"--config={out[1]}", "--format=png")
    folder = Path(again[0])
    assert code == 0 and len(list(folder.iterdir())) == 11
    grey, encoded = (np.asarray(frame, float) @ (0.2126, 0.7152, 0.0722) for frame in (
        Image.open(folder / "frame_000010.png"), frames[10]
    ))  # fmt: skip
    assert np.corrcoef(grey.ravel(), encoded.ravel())[0, 1] > 0.7  # as the encoder of videos leaves noise


def test_images_and_several_files(cli, clip, tmp_path):
    Image.fromarray(numbered_frames(1, 16, 24)[0]).save(tmp_path / "photo.png")
    code, out, _ = cli("--video", tmp_path / "photo.png", clip, model="images")
    assert code == 0 and [Path(line).suffix for line in out] == [".png", ".yaml", ".mp4", ".yaml"]
    assert Image.open(out[0]).size == (48, 32)


@pytest.mark.parametrize(
    "flags, model, message",
    [
        ([], "video", "--video is missing"),
        (["--video={folder}/none.mp4"], "video", "none.mp4"),
        (["--video={folder}/text.mp4"], "video", "a text file, not a video"),
        (["--video={folder}/broken.png"], "video", "broken.png"),
        (["--video={clip}", "--factor=4"], "video", "--factor is 4, and the model enlarges by 2"),
        (["--video={clip}", "--prompt=a cat"], "video", "--prompt is for models that are given text"),
        (["--video={clip}", "--image_only"], "images", "--image_only leaves out temporal layers, and the model has"),
        (["--video={clip}", "--sampling.noise_level=350"], "video", "(--sampling.noise_level)"),
        (["--video={clip}", "--sampling.memory_gb=2e-3"], "video", "(--sampling.tile)"),
        (["--video={clip}", "--sampling.window=1", "--sampling.window_overlap=1"], "video", "must be smaller"),
        (["--video={clip}", "--model.checkpoint={folder}/none.safetensors"], "video", "none.safetensors"),
    ],
)
def test_one_line_says_what_is_wrong(cli, clip, tmp_path, flags, model, message):
    (tmp_path / "text.mp4").write_text("no video\n" * 9)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, out, error = cli(*(flag.format(clip=clip, folder=tmp_path) for flag in flags), model=model)
    assert code == 2 and not out and error.startswith("svd upsample: error: ") and message in error
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_temporal_layers_begin_over_an_image_model(eager, models, tmp_path, capsys):
    from svd.config import dump_config

    path = tmp_path / "video.yaml"
    path.write_text(dump_config(SMALL_UPSAMPLER))
    flags = ["--config", str(path), "--out", str(tmp_path / "video.safetensors")]
    assert initialize.main([*flags, "--image_model", str(models["images"])]) == 0
    pipe = build.load_pipeline(checkpoint=tmp_path / "video.safetensors", device_target="CPU", mode=1)
    image = build.load_pipeline(checkpoint=models["images"], device_target="CPU", mode=1)
    video = numbered_frames(4, 8, 8)
    result, expected = (one(video, progress=False, image_only=True, output="float") for one in (pipe, image))
    np.testing.assert_allclose(result, expected, atol=1e-6)
    capsys.readouterr()
    path.write_text(dump_config(SMALL_IMAGES))
    flags[3] = str(tmp_path / "other.safetensors")
    assert initialize.main([*flags, "--image_model", str(models["images"])]) == 2
    assert "models with temporal layers" in capsys.readouterr().err
