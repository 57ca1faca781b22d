"""The comparison of models in pixel space: its table, what it keeps, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_checkpoint import random_tensors, write_checkpoint
from small_mnist import write_mnist

from svd.config import PixelSamplingConfig, VideoDiffusionConfig
from svd.config.pixel_networks import FactorisedAttention, PixelTemporalConfig, PixelUNetConfig
from svd_tools.digits import pixels
from svd_tools.digits.judge import DigitJudge, write_judge

SAMPLING = PixelSamplingConfig(num_frames=5, height=8, width=8, sampling_steps=1)
UNET = PixelUNetConfig(1, 32, [1], 1, [1], num_head_channels=32)
VIDEO = VideoDiffusionConfig(UNET, PixelTemporalConfig(FactorisedAttention(distance=3)), sampling=SAMPLING)


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    """Two models, a judge that has learned nothing, and digits."""
    folder = tmp_path_factory.mktemp("pixels")
    source = write_mnist(folder)
    write_judge(folder / "judge.safetensors", DigitJudge(64), 64, {"source": source})
    tensors = random_tensors(VIDEO)
    for name, scale in (("one", 1), ("two", 2)):
        (folder / name).mkdir()
        scaled = {key: scale * x if "conv_out" in key else x for key, x in tensors.items()}
        write_checkpoint(folder / name / "model.safetensors", scaled, VIDEO)
    paths = [str(folder / name / "model.safetensors") for name in ("one", "two")]
    return ["--mode=1", f"--source={source}", f"--judge={folder / 'judge.safetensors'}", "--checkpoints", *paths]


def test_models_are_compared_in_a_table(eager, flags, tmp_path, capsys):
    options = [f"--out_dir={tmp_path}", "--videos=4", "--batch_size=4", "--frames=8"]
    assert pixels.main([*flags, *options]) == 0
    report = json.loads((tmp_path / "metrics.json").read_text())["frechet"]
    columns = ["samples", "real, 5 frames", "guidance", "real, 8 frames", "replacement"]
    assert [list(row) for row in report.values()] == [columns] * 2
    one, two = (np.array(list(report[name].values())) for name in ("one", "two"))
    assert (one > 0).all() and one[0] != two[0] and one[2] != one[4] and one[1] == two[1]
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[0] == f"| model | {' | '.join(columns)} |" and table[2].startswith(f"| one | {one[0]:.2f} |")
    assert {path.name for path in tmp_path.glob("*.gif")} == {
        f"{name}_{kind}.gif" for name in report for kind in ("samples", "guidance", "replacement")
    }
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("generated/*/*.npz")}
    assert len(kept) == 6 and pixels.main([*flags, *options]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("generated/*/*.npz")} == kept


def test_frames_are_enlarged_for_the_judge():
    video = np.full((2, 3, 8, 8, 3), 7, np.uint8)
    assert pixels.enlarged(video).shape == (2, 3, 64, 64, 3) and (pixels.enlarged(video) == 7).all()


def test_what_cannot_be_compared_is_refused(flags, tmp_path, capsys):
    image = replace(VIDEO, temporal=PixelTemporalConfig())
    path = write_checkpoint(tmp_path / "image.safetensors", random_tensors(image), image)
    for options, message in (
        (["--videos=1"], "--videos must be 2 or more"),
        ([flags[-1]], "two are in folders called two"),
        ([str(path)], "it is no model of videos in pixel space that is told nothing"),
        (["--frames=5"], "--frames must be more than the 5 of a window"),
    ):
        assert pixels.main([*flags, *options, f"--out_dir={tmp_path}"]) == 2
        errors = capsys.readouterr().err
        assert message in errors.splitlines()[-1], errors
