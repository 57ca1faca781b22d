"""Files of commit 6b923a0 are read, resumed and repeated by the programs of today, to that commit's values.

README.md says what they are and how they were made; expected.json and expected.safetensors among them are what the
programs of that time made of the others.
"""

import json
import re
import shutil
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from comparison import CHAIN, assert_close
from device import AMP_LEVEL, DEVICE, TRAINING
from PIL import Image
from safetensors.numpy import load_file
from training_runs import checkpoint, distance, metrics, tensors, train_here

import svd
from svd.checkpoints.lora import read_lora
from svd.checkpoints.model_file import Checkpoint
from svd.config import SamplingConfig, dump_config, load_config
from svd_tools import convert, encode_latents, export, image_to_video

TRAINED = 1e-5
"""Relative, of weights after updates in pynative mode."""


@pytest.fixture
def expected(eager, tmp_path, monkeypatch) -> dict[str, Any]:
    """What the programs of that time made of the files, which are in the working directory now."""
    shutil.unpack_archive(Path(__file__).with_name("files_of_6b923a0.tar.xz"), tmp_path)
    monkeypatch.chdir(tmp_path)
    return json.loads(Path("expected.json").read_text())


@pytest.fixture
def values(expected) -> dict[str, np.ndarray]:
    """Arrays that the programs of that time computed, as KIND/NAME."""
    return load_file("expected.safetensors")


def of_kind(values: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{kind}/"): value for name, value in values.items() if name.startswith(f"{kind}/")}


def digest(path: Path) -> str:
    """Of names, types, shapes and bits of a file's tensors."""
    found = blake2b(digest_size=16)
    for name, value in sorted(load_file(path).items()):
        found.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return found.hexdigest()


def digests(folder: str) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in sorted(Path(folder).rglob("*.safetensors"))}


def leaves(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{a: {b: 1}} -> {a.b: 1}"""
    flat = {}
    for key, value in tree.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def assert_still_says(text: str, before: str, but: tuple[str, ...] = ()) -> None:
    """Every setting of a file of that time has its value today, but for some; there may be others beside them."""
    then, now = (leaves(yaml.safe_load(said)) for said in (before, text))
    then = {name: value for name, value in then.items() if name not in but}
    assert len(then) > 15
    assert {name: now.get(name, "missing") for name in then} == then


# --- models ---


def test_a_config_and_what_a_checkpoint_says_of_itself(expected):
    config = load_config("tiny.yaml")
    assert config == Checkpoint("tiny.safetensors").config
    assert_still_says(dump_config(config), Path("tiny.yaml").read_text())


def test_a_converted_checkpoint_is_converted_to_the_same_bits(expected):
    flags = ["--pt_weights_file=tiny.safetensors", "--config=tiny.yaml", "--out_dir=converted", "--to=sgm"]
    assert convert.main(flags) == 0
    assert digests("converted") == expected["converted"]


# --- videos ---


@pytest.mark.parametrize("name", ["photo_seed5", "photo_seed6"], ids=["plain", "with adapters"])
def test_a_side_file_repeats_its_video(expected, values, name):
    """To the nearest grey level, or the next where rounding decides; latents and all options are the same."""
    side = Path(f"drawn/{name}.yaml").read_text()
    device = [f"--device_target={DEVICE}", f"--SVD.amp_level={AMP_LEVEL}"]
    assert image_to_video.main([f"--config=drawn/{name}.yaml", *device]) == 0
    frames = np.stack([np.asarray(Image.open(path)) for path in sorted(Path(f"drawn/{name}_1_frames").iterdir())])
    wanted = values[f"video/{name}"] * 255
    assert frames.shape == wanted.shape and wanted.std() > 30
    assert np.abs(frames - wanted).max() < 0.6
    assert_still_says(Path(f"drawn/{name}_1.yaml").read_text(), side, but=("device_target", "SVD.amp_level"))

    said = yaml.safe_load(side)
    own = [said["SVD"].get(option) for option in ("config", "checkpoint")]
    adapters = [said["SVD"].get(option) for option in ("lora", "lora_scale")]
    pipe = svd.load_pipeline(*own, DEVICE, 1, AMP_LEVEL, *adapters)
    sampling = {option: said["SVD"][option] for option in vars(SamplingConfig()) if option in said["SVD"]}
    latents = pipe("photo.png", seed=said["seed"], output="latents", progress=False, **sampling)
    assert_close(latents, values[f"latents/{name}"], CHAIN)


# --- trainings ---


@pytest.mark.parametrize("run", ["temporal", "lora"])
def test_a_stopped_run_is_resumed(expected, values, run):
    """By its own config.yaml, from its checkpoint of two updates; the two that follow are those of that time."""
    folder = Path("runs") / run
    lines = (folder / "metrics.csv").read_text()
    outcome = train_here(f"--config={folder}/config.yaml", "--train.resume=auto", *TRAINING)
    assert outcome.code == 0, outcome.err
    assert f"continuing from {folder}/checkpoints/update_00000002" in outcome.err
    changed = [line for line in outcome.err if "changed since" in line and "environment." not in line]
    assert all(": None -> " in line for line in changed), "settings that there were not are all that is new"

    assert (folder / "metrics.csv").read_text().startswith(lines)
    found = metrics(folder)
    for column in ("update", "epoch", "learning_rate"):
        np.testing.assert_allclose(found[column], expected[run][column], rtol=1e-6)
    for column in ("loss", "grad_norm"):
        np.testing.assert_allclose(found[column], expected[run][column], rtol=CHAIN)

    begun, end = checkpoint(folder, 2), checkpoint(folder, 4)
    assert distance(tensors(end), tensors(begun), "trained/") > 1e-3, "what follows could not fail otherwise"
    for file in {"temporal": ["trained"], "lora": ["trained", "ema"]}[run]:
        found, wanted = load_file(end / f"{file}.safetensors"), of_kind(values, f"{run} {file}")
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            some = found[name].ravel()[:: max(1, found[name].size // 24)]
            assert_close(some, value, TRAINED)


def test_what_a_stopped_run_has_learned_is_exported_to_the_same_bits(expected):
    flags = ["--checkpoint=runs/temporal", "--pretrained=tiny.safetensors", "--out_dir=exported"]
    assert export.main(flags) == 0
    assert export.main([*flags, "--trained_only", "--to=sgm"]) == 0
    assert digests("exported") == expected["exported"]


def test_adapters_are_merged(expected, values):
    adapters = read_lora("lora.safetensors")
    assert {len(t) for n, t in adapters.tensors.items() if n.endswith("down")} == {2}
    assert set(adapters.alphas.values()) == {4}
    flags = ["--checkpoint=lora.safetensors", "--pretrained=tiny.safetensors", "--out_dir=merged", "--lora_scale=0.5"]
    assert export.main(flags) == 0
    base, merged = load_file("tiny.safetensors"), load_file("merged/lora_merged.safetensors")
    wanted = of_kind(values, "merged")
    assert merged.keys() == base.keys() and wanted.keys() == set(adapters.weights)
    for name in base:
        if name in wanted:
            assert_close(merged[name], wanted[name], 1e-6)
            assert np.abs(merged[name] - base[name]).max() > 1e-3
        else:
            assert merged[name].dtype == base[name].dtype and merged[name].tobytes() == base[name].tobytes()


def parameters(line: str) -> int:
    """The sum of the numbers in a line."""
    return sum(int(number.replace(",", "")) for number in re.findall(r"\b[\d,]*\d\b", line))


def test_the_options_of_a_training_from_videos(expected):
    """What --dry_run printed then, given to --config today: the same options, and the same to train."""
    before = Path("train_videos.yaml").read_text()
    outcome = train_here("--config=train_videos.yaml", "--dry_run")
    assert outcome.code == 0, outcome.err
    assert_still_says(outcome.out, before)
    *same, frozen = [line for line in outcome.out.splitlines() if line.startswith("# ")]
    *before, frozen_before = expected["described"]
    assert same == before
    assert parameters(frozen) == parameters(frozen_before), "of each part today, of all encoders together then"


def test_latents_are_all_there(expected, capsys):
    """The same command finds nothing left to encode, though the videos are away, and changes none of the latents."""

    def content() -> tuple[bytes, bytes, pd.DataFrame]:
        (shard,) = Path("latents/latents").iterdir()
        index = pd.read_csv("latents/index/clips.csv").drop(columns="path")  # where the videos are on this machine
        return shard.read_bytes(), Path("latents/settings.json").read_bytes(), index

    before = content()
    assert encode_latents.main(["--out=latents", "--passes=2", *expected["latents"], *TRAINING]) == 0
    assert capsys.readouterr().out == "6 clips are encoded, 0 failed\n"
    after = content()
    assert after[:2] == before[:2] and len(after[2]) == 6
    pd.testing.assert_frame_equal(after[2], before[2])
