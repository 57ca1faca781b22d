"""Training from latents: the same as from the videos, without the encoders, and with those of the same model alone."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from device import DEVICE
from safetensors.numpy import load_file, save_file
from small_checkpoint import random_tensors, write_checkpoint
from training_runs import TINY, Outcome, metrics, options, train_here, write_inputs

from svd.build_training import latents_model, load_trainer
from svd.checkpoints.model_file import Checkpoint
from svd.data.dataset import BadItem, DatasetError, Unavailable
from svd.data.latents_dataset import LatentsDataset
from svd.data.loader import Loader
from svd.data.video_dataset import VideoDataset
from svd.seeds import Purpose, generator
from svd.training.checkpoint import TrainState
from svd.training.config import EnvironmentConfig, PreviewConfig, TrainConfig
from svd_tools import encode_latents

EAGER = EnvironmentConfig(mode=1, device_target=DEVICE)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def latents(inputs, tmp_path_factory) -> Path:
    """Two epochs of four videos."""
    out = tmp_path_factory.mktemp("latents") / "latents"
    flags = [*options(inputs, out), "--train.dataset.init_args.horizontal_flip=True"]
    assert encode_latents.main([*flags, f"--out={out}", "--passes=2", "--shard_mb=0.015"]) == 0
    return out


@pytest.fixture(scope="module")
def videos(inputs) -> VideoDataset:
    return VideoDataset(str(inputs / "videos/videos.csv"), "", 3, 2, 8, 8, horizontal_flip=True)


def trainer(inputs: Path, dataset, **changes):
    config = {
        "pretrained": str(inputs / "tiny.safetensors"),
        "updates": 1,
        "output_dir": str(inputs / "run"),
        **changes,
    }
    return load_trainer(TrainConfig(dataset, **config), EAGER, TINY, TrainState(), None)[0]


def loaded(monkeypatch) -> set[str]:
    """The prefixes of all networks that are filled from now on."""
    found, load = set(), Checkpoint.load

    def load_and_note(checkpoint, networks, changed):
        found.update(networks)
        load(checkpoint, networks, changed)

    monkeypatch.setattr(Checkpoint, "load", load_and_note)
    return found


def flags(inputs: Path, run: Path, latents: Path) -> list[str]:
    """Those of a training from latents, in a file of the options of training from videos."""
    train = [flag for flag in options(inputs, run) if "dataset" not in flag]
    defaults = f"--config={Path(__file__).parents[2] / 'configs/svd_train.yaml'}"
    data = ["--train.dataset=LatentsDataset", f"--train.dataset.init_args.folder={latents}"]
    return [defaults, *train, "--train.optimizer.warmup_updates=0", *data]


def refusal(outcome: Outcome) -> str:
    assert outcome.code == 2
    return outcome.error


@pytest.mark.parametrize("task", ["image_to_video", "image_model"])
def test_the_loss_is_given_the_same(inputs, latents, videos, monkeypatch, task):
    """Over both epochs, in batches; but for the rounding to float16."""
    filled = loaded(monkeypatch)
    cached = LatentsDataset(str(latents))
    from_latents = trainer(inputs, cached, task=task).objective
    assert filled == {"network"}  # no encoder and no decoder are in memory
    from_videos = trainer(inputs, videos, task=task).objective
    assert len(filled) == 5
    for a, b, _ in zip(Loader(cached, 0, 2, workers=0), Loader(videos, 0, 2, workers=0), range(4)):
        got, wanted = from_latents.inputs(a.items, a.samples), from_videos.inputs(b.items, b.samples)
        for x, y in zip(got, wanted, strict=True):
            x, y = x.asnumpy(), y.asnumpy()
            assert x.dtype == y.dtype and x.shape == y.shape
            np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-3 * np.abs(y).max())


def test_the_loss_curve_is_the_same(inputs, latents, tmp_path):
    video_flags = [*options(inputs, tmp_path / "videos"), "--train.dataset.init_args.horizontal_flip=True"]
    for argv in (video_flags, flags(inputs, tmp_path / "latents", latents)):
        outcome = train_here(*argv, "--train.updates=3")
        assert outcome.code == 0, outcome.err
    assert "# 4 videos" in outcome.err and any("of the encoder (not loaded)" in line for line in outcome.err)
    curves = [metrics(tmp_path / run)["loss"] for run in ("videos", "latents")]
    np.testing.assert_allclose(*curves, rtol=2e-3)
    assert np.ptp(curves[0]) > 0.1


def test_later_epochs_take_the_nearest_clips(latents):
    """Of the same video: one of its two, and over many epochs both."""
    cached = LatentsDataset(str(latents))
    taken = {cached.load(1, generator(0, sample, Purpose.DATA)).aug_strength for sample in range(8, 60)}
    assert len(taken) == 2
    index = pd.read_csv(latents / "index/clips.csv").query("row == 1")
    for sample in range(8, 30):
        nearest = index.iloc[(index["place"] - generator(0, sample, Purpose.DATA).random()).abs().argmin()]
        assert cached.load(1, generator(0, sample, Purpose.DATA)).aug_strength == nearest["aug_strength"]


def test_frames_are_drawn_for_an_image_model(latents):
    whole, drawn = LatentsDataset(str(latents)), LatentsDataset(str(latents), drawn_frames=1)
    taken = set()
    for sample in range(20):
        a, b = (dataset.load(2, generator(0, sample, Purpose.DATA)) for dataset in (whole, drawn))
        assert len(a.moments) == 3 and b.moments.shape == (1, *a.moments.shape[1:])
        taken.update(frame for frame in range(3) if np.array_equal(a.moments[frame], b.moments[0]))
        np.testing.assert_array_equal(a.concat, b.concat)
    assert taken == {0, 1, 2}


def test_drawn_frames_that_cannot_be_had(inputs, latents, tmp_path):
    argv = flags(inputs, tmp_path / "run", latents)
    message = refusal(train_here(*argv, "--train.dataset.init_args.drawn_frames=4"))
    assert "drawn_frames must be 0 to 3" in message
    message = refusal(train_here(*argv, "--train.dataset.init_args.drawn_frames=1"))
    assert "drawn_frames is for the tasks image_model and text_to_image" in message


def test_previews_need_all_networks(inputs, latents, monkeypatch):
    filled = loaded(monkeypatch)
    preview = PreviewConfig(images=[str(inputs / "photo.png")])
    made = trainer(inputs, LatentsDataset(str(latents)), preview=preview)
    assert len(filled) == 5 and made.preview is not None


def test_latents_of_another_model_are_refused(inputs, latents, tmp_path):
    tensors = random_tensors(TINY)
    tensors["conditioner.image_encoder.layers.0.mlp.fc1.weight"] *= 1.01
    other = write_checkpoint(tmp_path / "other.safetensors", tensors, TINY)
    argv = flags(inputs, tmp_path / "run", latents)
    message = refusal(train_here(*argv, f"--train.pretrained={other}"))
    assert str(latents) in message and "encoder weights is" in message and message.endswith("encode the videos anew")
    message = refusal(train_here(*argv, "--train.loss.noise_aug_mean=-2"))
    assert "loss.noise_aug_mean is -3.0 there and -2.0 here" in message


def test_another_unet_is_not_another_model(inputs, latents, tmp_path):
    """Nor are the same weights in float16: a model that was trained can be trained on."""
    tensors = random_tensors(TINY)
    for name in tensors:
        tensors[name] = 2 * tensors[name] if name.startswith("network.") else tensors[name]
    other = write_checkpoint(tmp_path / "other.safetensors", tensors, TINY)
    cached = LatentsDataset(str(latents))
    train = TrainConfig(cached)
    cached.check(latents_model(train, TINY, Checkpoint(other)))
    halved = {name: value.astype(np.float16) for name, value in tensors.items()}
    half, full = tmp_path / "half.safetensors", tmp_path / "full.safetensors"
    write_checkpoint(half, halved, TINY)
    write_checkpoint(full, {name: value.astype(np.float32) for name, value in halved.items()}, TINY)
    assert latents_model(train, TINY, Checkpoint(half)) == latents_model(train, TINY, Checkpoint(full))


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda folder: shutil.rmtree(folder), "not a folder of latents"),
        (lambda folder: (folder / "settings.json").write_text("{"), "settings.json: damaged"),
        (lambda folder: (folder / "settings.json").write_text("{}"), "settings.json: damaged"),
        (lambda folder: (folder / "index/clips.csv").unlink(), "8 of 8 clips are missing"),
        (lambda folder: (folder / "index/clips.csv").write_text("row,path\n0,x\n"), "not an index of latents"),
        (lambda folder: shutil.rmtree(folder / "latents"), "none of the 4 items of the data can be used"),
    ],
)
def test_spoilt_folders_are_refused(inputs, latents, tmp_path, spoil, words):
    shutil.copytree(latents, tmp_path / "latents")
    spoil(tmp_path / "latents")
    assert words in refusal(train_here(*flags(inputs, tmp_path / "run", tmp_path / "latents")))


def change_settings(**changes):
    def spoil(folder: Path) -> None:
        settings = json.loads((folder / "settings.json").read_text())
        for path, value in changes.items():
            *sections, name = path.split("__")
            inner = settings
            for section in sections:
                inner = inner[section]
            inner[name] = value
        (folder / "settings.json").write_text(json.dumps(settings))

    return spoil


def write_settings(text: str):
    return lambda folder: (folder / "settings.json").write_text(text)


def pipe(name: str):
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def change_index(column: str, value):
    def spoil(folder: Path) -> None:
        table = pd.read_csv(folder / "index/clips.csv", keep_default_na=False).astype({column: object})
        table.loc[3, column] = value
        table.to_csv(folder / "index/clips.csv", index=False)

    return spoil


HOSTILE = {
    "settings of null": (write_settings("null"), "settings.json has to be a mapping"),
    "clips of null": (change_settings(clips=None), "clips has to be"),
    "a model of text": (change_settings(model="text"), "model has to be"),
    "no autoencoder": (change_settings(model__autoencoder=None), "model.autoencoder has to be"),
    "frames of text": (change_settings(clips__frames="text"), "frames has to be of type int"),
    "frames of 3.0": (change_settings(clips__frames=3.0), "frames has to be of type int"),
    "frames of true": (change_settings(clips__frames=True), "frames has to be of type int"),
    "no height": (change_settings(clips__height=0), "height has to be 1 to"),
    "passes of null": (change_settings(clips__passes=None), "passes has to be of type int"),
    "a number of 400 digits": (change_settings(clips__videos=10**400), "a number of 401 digits"),
    "too many levels": (change_settings(model__autoencoder__channel_mult=[1] * 99), "1 to 16 levels"),
    "deeply nested": (write_settings(100_000 * "[" + 100_000 * "]"), "nested too deeply"),
    "settings that are a pipe": (pipe("settings.json"), "no ordinary file"),
    "an index that is a pipe": (pipe("index/clips.csv"), "no ordinary file"),
    "a row of text": (change_index("row", "x"), "not an index of latents"),
    "a row of 400 digits": (change_index("row", "1" * 400), "not an index of latents"),
    "a row that is not there": (change_index("row", 77), "has not 2 clips of each video"),
    "a negative sample": (change_index("sample", -1), "sample cannot be '-1'"),
    "no entry": (change_index("entry", ""), "entry cannot be 'nan'"),
    "an infinite rate": (change_index("fps", "inf"), "fps cannot be 'inf'"),
    "an infinite bucket": (change_index("motion_bucket_id", "inf"), "motion_bucket_id cannot be 'inf'"),
    "a place behind the end": (change_index("place", 1.5), "place cannot be '1.5'"),
    "a file elsewhere": (change_index("file", "../../x.safetensors"), "file cannot be '../../x.safetensors'"),
}


@pytest.mark.parametrize("spoil, words", HOSTILE.values(), ids=HOSTILE)
def test_what_encode_latents_does_not_write_is_refused(latents, tmp_path, spoil, words):
    shutil.copytree(latents, tmp_path / "latents")
    spoil(tmp_path / "latents")
    with pytest.raises(DatasetError) as error:
        LatentsDataset(str(tmp_path / "latents"))
    assert words in str(error.value) and "\n" not in str(error.value)


SHAPES = {
    "frames": ("moments", lambda array: array[:2]),
    "channels": ("moments", lambda array: array[:, :-2]),
    "a scalar": ("concat", lambda array: array[0, 0, 0]),
    "a larger embedding": ("context", lambda array: np.concatenate([array, array], 1)),
    "float32": ("moments", lambda array: array.astype(np.float32)),
    "not finite": ("concat", lambda array: array * np.float16(np.inf)),
}


@pytest.mark.parametrize("name, change", SHAPES.values(), ids=SHAPES)
def test_tensors_that_encode_latents_does_not_write_are_left_out(latents, tmp_path, name, change):
    """As those of a damaged file are."""
    shutil.copytree(latents, tmp_path / "latents")
    for file in (tmp_path / "latents/latents").iterdir():
        tensors = load_file(file)
        changed = {key: change(array) if key.endswith(name) else array for key, array in tensors.items()}
        save_file({key: np.ascontiguousarray(array) for key, array in changed.items()}, file)
    with pytest.raises(BadItem, match=f"[0-9]+.{name} is .*; run encode_latents.py again in a new folder"):
        LatentsDataset(str(tmp_path / "latents")).load(1, generator(0, 0, Purpose.DATA))


def test_latents_that_are_away_may_come_back(latents, tmp_path):
    """With the folder that they are in; a file that alone is missing does not."""
    folder = tmp_path / "latents"
    shutil.copytree(latents, folder)
    dataset = LatentsDataset(str(folder))
    folder.rename(tmp_path / "away")
    with pytest.raises(Unavailable, match="its folder .* is not there"):
        dataset.load(1, generator(0, 0, Purpose.DATA))
    (tmp_path / "away").rename(folder)
    assert dataset.load(1, generator(0, 0, Purpose.DATA)).path
    for file in (folder / "latents").iterdir():
        file.rename(file.with_suffix(".elsewhere"))
    with pytest.raises(BadItem, match="no such file"):
        dataset.load(1, generator(0, 0, Purpose.DATA))


def test_training_goes_on_without_the_clips_of_a_truncated_file(inputs, latents, tmp_path):
    shutil.copytree(latents, tmp_path / "latents")
    file = sorted((tmp_path / "latents/latents").iterdir())[0]
    file.write_bytes(file.read_bytes()[:1000])
    outcome = train_here(*flags(inputs, tmp_path / "run", tmp_path / "latents"), "--train.updates=2")
    assert outcome.code == 0, outcome.err
    assert sum(f"warning: {file}: truncated or damaged" in line for line in outcome.err) == 1


def test_a_folder_has_to_be_given(inputs, tmp_path):
    argv = [flag for flag in flags(inputs, tmp_path / "run", tmp_path) if "folder" not in flag]
    assert "folder is missing" in refusal(train_here(*argv))
