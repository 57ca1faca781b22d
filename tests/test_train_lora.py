"""LoRA from end to end: trained, resumed, loaded with a scale, merged; and every file that does not fit is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from device import DEVICE
from PIL import Image, ImageSequence
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_checkpoint import write_checkpoint
from training_runs import TINY, assert_same, checkpoint, metrics, names, options, tensors, train_here

from svd import load_pipeline
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ConfigError, dump_config
from svd_tools import image_to_video
from svd_tools.convert import convert
from svd_tools.export import export, main

LORA = ["--train.lora.rank=3", "--train.lora.alpha=6"]
LAYERS = [f"attn1.to_{part}" for part in "qkv"] + ["attn1.to_out", "attn2.to_v", "attn2.to_out"]
TRANSFORMER = "network.mid_block.attentions.0.temporal"


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory) -> Path:
    """Four updates of adapters, with a checkpoint after two, and a preview at the end."""
    run = tmp_path_factory.mktemp("lora") / "run"
    flags = [*LORA, "--train.updates=4", "--train.checkpoint_every=2", "--train.preview.format=gif"]
    flags += [f"--train.preview.images=[{inputs / 'photo.png'}]", "--train.preview.sampling_steps=2"]
    outcome = train_here(*options(inputs, run), *flags)
    assert outcome.code == 0, outcome.err
    command = f"--SVD.checkpoint={inputs / 'tiny.safetensors'} --SVD.lora={run / 'lora.safetensors'} --image=IMAGE"
    assert outcome.err[-1] == f"python image_to_video.py {command}"
    return run


@pytest.fixture(scope="module")
def model(inputs) -> Path:
    return inputs / "tiny.safetensors"


@pytest.fixture(scope="module")
def base(model) -> dict[str, np.ndarray]:
    return weights(model)


def weights(checkpoint: Path, *lora, mode: int = 1) -> dict[str, np.ndarray]:
    """What the network of a pipeline has been given."""
    pipe = load_pipeline(None, checkpoint, DEVICE, mode, "O0", *lora)
    return {f"network.{p.name}": p.asnumpy() for p in pipe.denoiser.network.get_parameters()}


def read_gif(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB"), np.float64) for frame in ImageSequence.Iterator(image)])


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return file.metadata()


# --- training ---


def test_adapters_alone_are_trained_and_written(run):
    trained = load_file(checkpoint(run, 4) / "trained.safetensors")
    assert trained.keys() == {f"{TRANSFORMER}.{layer}.lora_{end}" for layer in LAYERS for end in ("down", "up")}
    assert all(np.abs(value).max() > 1e-3 for value in trained.values())
    assert {"lora.safetensors"} == {name for name in names(run) if name.endswith(".safetensors")}
    assert_same(load_file(run / "lora.safetensors"), load_file(checkpoint(run, 4) / "ema.safetensors"))
    assert (run / "lora.safetensors").stat().st_size < 20_000
    said = metadata(run / "lora.safetensors")
    assert said.keys() == {"format", "config", "lora"}, "and no path of the machine it was trained on"
    assert json.loads(said["lora"])["rank"] == 3 and json.loads(said["lora"])["alpha"] == 6


def test_the_first_loss_is_that_of_the_base_model(inputs, run, tmp_path):
    """Adapters begin without effect."""
    assert train_here(*options(inputs, tmp_path / "base"), "--train.updates=1").code == 0
    assert metrics(tmp_path / "base")["loss"][0] == metrics(run)["loss"][0]


def test_a_resumed_run_ends_with_the_same_adapters(inputs, run, tmp_path):
    again = tmp_path / "again"
    assert train_here(*options(inputs, again), *LORA, "--train.updates=2").code == 0
    resume = ["--train.updates=4", "--train.resume=auto"]
    assert train_here(*options(inputs, again), *LORA, *resume).code == 0
    assert_same(tensors(checkpoint(again, 4)), tensors(checkpoint(run, 4)))
    for flags, problem in {
        ("--train.lora.rank=2",): "are of another shape",
        (): "of its parameters are not trained now",
        (*LORA, "--train.lora.modules=[temporal.attn1, temporal.attn2]"): "are missing",
    }.items():
        outcome = train_here(*options(inputs, again), *flags, "--train.updates=5", "--train.resume=auto")
        assert outcome.code == 2
        assert "is of another model or training than this one" in outcome.err[-1] and problem in outcome.err[-1]


def test_settings(inputs, tmp_path):
    outcome = train_here(*options(inputs, tmp_path / "run"), *LORA, "--dry_run")
    count = 3 * (8 * 32 + 16 + 32 + 2 * 32)  # attn2.to_v reads a context of 16 channels
    assert f"# trained: {count:,} parameters in 12 tensors of adapters (LoRA) in the UNet" in outcome.out
    for flag, problem in {
        "--train.lora.rank=-1": "lora.rank must not be negative, got -1",
        "--train.lora.alpha=0": "lora.alpha must be positive, got 0",
        "--train.lora.modules=[]": "lora.modules needs names of layers",
        "--train.lora.modules=[temporal.atn1]": "no linear layer has temporal.atn1 in its name",
    }.items():
        outcome = train_here(*options(inputs, tmp_path / "run"), *LORA, flag)
        assert outcome.code == 2 and problem in outcome.err[-1]
    assert names(tmp_path) == set()


# --- loading and merging ---


def test_scale_0_is_the_base_model_bit_for_bit(run, model, base):
    assert_same(weights(model, run / "lora.safetensors", 0.0), base)


def test_merged_is_what_is_loaded(run, model, base, tmp_path):
    """Of the formula too, and nothing but the adapted weights changes; from a run, and from its small file."""
    scale = -0.5  # 1 is that of the tests below
    loaded, lora = weights(model, run / "lora.safetensors", scale), load_file(run / "lora.safetensors")
    for name, value in base.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_up" in lora:
            change = lora[f"{layer}.lora_up"].astype(np.float64) @ lora[f"{layer}.lora_down"]
            assert np.abs(change).max() > 1e-4
            np.testing.assert_allclose(loaded[name], value + scale * 6 / 3 * change, atol=1e-6)
        else:
            assert loaded[name].tobytes() == value.tobytes(), name
    from_run = export(run, tmp_path / "a", lora_scale=scale)
    assert from_run.name == "run_4.safetensors"
    assert_same(weights(from_run), loaded)
    from_file = export(run / "lora.safetensors", tmp_path / "b", pretrained=model, lora_scale=scale)
    assert from_file.name == "lora_merged.safetensors"
    assert_same(load_file(from_file), load_file(from_run))


def test_the_last_weights_in_place_of_the_average(run, model, tmp_path):
    """A checkpoint's own file can be loaded too."""
    merged = weights(export(run, tmp_path, weights="trained"))
    assert_same(merged, weights(model, checkpoint(run, 4) / "trained.safetensors"))
    assert any(
        merged[name].tobytes() != value.tobytes() for name, value in weights(export(run, tmp_path / "b")).items()
    )


def test_merged_in_stabilitys_layout(run, model, tmp_path):
    single = export(run, tmp_path, to="sgm")
    (tmp_path / "tiny.yaml").write_text(dump_config(TINY))
    assert_same(
        weights(convert(single, tmp_path / "tiny.yaml", tmp_path / "back")), weights(model, run / "lora.safetensors")
    )


def test_the_trained_network_and_the_merged_one_make_the_same_video(inputs, run, model, tmp_path):
    """The run's preview is made with its adapters apart; the command line's video with the weights that they change."""
    common = [f"--output_dir={tmp_path}", "--mode=1", "--SVD.sampling_steps=2", "--format=gif"]
    common += [f"--SVD.checkpoint={model}", f"--image={inputs / 'photo.png'}"]

    def video(stem: str, *flags: str) -> np.ndarray:
        assert image_to_video.main([*common, *flags]) == 0
        return read_gif(tmp_path / f"{stem}.gif")

    base, adapted = video("photo_seed0"), video("photo_seed0_1", f"--SVD.lora={run / 'lora.safetensors'}")
    preview = read_gif(run / "previews/update_00000004_photo.gif")
    assert np.abs(adapted - preview).mean() < 0.05 * np.abs(adapted - base).mean()  # a gif's colours may be swapped
    side = tmp_path / "photo_seed0_1.yaml"
    assert "# lora sha256: " in side.read_text()
    assert video("photo_seed0_2", f"--config={side}", "--SVD.lora_scale=0").tobytes() == base.tobytes()
    options = yaml.safe_load((tmp_path / "photo_seed0_2.yaml").read_text())["SVD"]
    assert (options["lora"], options["lora_scale"]) == (str(run / "lora.safetensors"), 0)


# --- refused ---


def changed(run: Path, path: Path, tensors: dict, **said: str) -> Path:
    """The run's adapters with other tensors or metadata; what is None is left out."""
    both = [load_file(run / "lora.safetensors") | tensors, metadata(run / "lora.safetensors") | said]
    kept, facts = ({key: value for key, value in part.items() if value is not None} for part in both)
    save_file(kept, path, facts)
    return path


UP = f"{TRANSFORMER}.attn1.to_q.lora_up"
OTHER_HEADS = dump_config(replace(TINY, unet=replace(TINY.unet, num_head_channels=16)))
WRONG = {
    "rank of a tensor": ({UP: np.ones((32, 2), np.float32)}, {}, f"rank is 3, but {UP} is [32, 2]"),
    "rank": ({}, {"lora": '{"rank": 4, "alpha": 6, "modules": []}'}, "rank is 4, but "),
    "no rank": ({}, {"lora": '{"rank": 0, "alpha": 6, "modules": []}'}, "metadata lora cannot be used (rank 0"),
    "long rank": (
        {},
        {"lora": '{"rank": %s, "alpha": 6, "modules": []}' % ("9" * 400)},
        "metadata lora cannot be used",
    ),
    "long alpha": ({}, {"lora": '{"rank": 3, "alpha": %s, "modules": []}' % ("9" * 400)}, "metadata lora cannot be"),
    "flag": ({}, {"lora": '{"rank": true, "alpha": 6, "modules": []}'}, "metadata lora cannot be used (rank"),
    "deep": ({}, {"lora": "[" * 9000 + "]" * 9000}, "metadata lora cannot be used (it is no JSON"),
    "no JSON": ({}, {"lora": "rank 3"}, "metadata lora cannot be used"),
    "metadata": ({}, {"lora": "{}"}, "metadata lora cannot be used"),
    "not LoRA": ({}, {"lora": None}, "holds no LoRA of this project: give the lora.safetensors"),
    "half": ({UP: None}, {}, "attn1.to_q.lora_down is no part of a whole adapter"),
    "extra": ({"network.conv_in.weight": np.ones(3, np.float32)}, {}, "network.conv_in.weight is no part of"),
    "NaN": ({UP: np.full((32, 3), np.nan, np.float32)}, {}, f"{UP} holds values that are not finite"),
    "shape": ({UP: np.ones((64, 3), np.float32)}, {}, "which it changes as [64, 32], is [32, 32] there"),
    "name": (
        {"network.x.lora_up": np.ones((4, 3), np.float32), "network.x.lora_down": np.ones((3, 4), np.float32)},
        {},
        "network.x.weight, which it changes as [4, 4], is missing there",
    ),
    "model": ({}, {"config": OTHER_HEADS}, "is of another model than"),
}


@pytest.mark.parametrize("tensors, said, problem", WRONG.values(), ids=WRONG)
def test_adapters_that_do_not_fit(run, model, tmp_path, capsys, tensors, said, problem):
    """Loading and merging refuse them in one line, and nothing is written."""
    path = changed(run, tmp_path / "bad.safetensors", tensors, **said)
    with pytest.raises(CheckpointError) as error:
        weights(model, path)
    assert problem in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    if "lora" in metadata(path):
        assert main([f"--checkpoint={path}", f"--pretrained={model}", f"--out_dir={tmp_path / 'out'}"]) == 2
        assert problem in capsys.readouterr().err
        assert not (tmp_path / "out").exists() or not names(tmp_path / "out")


def test_files_that_are_none(run, model, tmp_path):
    empty = dict.fromkeys(load_file(run / "lora.safetensors"))
    with pytest.raises(CheckpointError, match="it holds no adapter"):
        weights(model, changed(run, tmp_path / "empty.safetensors", empty))
    (tmp_path / "half.safetensors").write_bytes((run / "lora.safetensors").read_bytes()[:-9])
    for path, problem in {"half": "not a complete safetensors file", "missing": "does not exist"}.items():
        with pytest.raises(CheckpointError, match=problem):
            weights(model, tmp_path / f"{path}.safetensors")
    for path in (model, run):
        with pytest.raises(CheckpointError, match="holds no LoRA of this project: give the lora.safetensors"):
            weights(model, path)
    with pytest.raises(CheckpointError, match="holds adapters alone: give them as lora"):
        weights(run / "lora.safetensors")
    with pytest.raises(ConfigError, match="lora_scale must be a finite number, got nan"):
        weights(model, run / "lora.safetensors", float("nan"))


def test_another_model(run, model, tmp_path):
    """Of other sizes; one that differs only in how videos are drawn is the same to adapters."""
    base, sampling = load_file(model), replace(TINY, sampling=replace(TINY.sampling, num_frames=2))
    path = write_checkpoint(tmp_path / "xt.safetensors", base, sampling)
    assert_same(weights(path, run / "lora.safetensors"), weights(model, run / "lora.safetensors"))
    wide = replace(TINY, unet=replace(TINY.unet, model_channels=64))
    with pytest.raises(CheckpointError, match="of another model than .*: its unet.model_channels is 32, not 64"):
        load_pipeline(wide, path, DEVICE, 1, "O0", run / "lora.safetensors")


@pytest.mark.parametrize(
    "flags, problem",
    [
        ([], "does not say where its model is: give it with --pretrained"),
        (["--trained_only"], "holds adapters alone already"),
    ],
)
def test_exports_that_cannot_be(run, tmp_path, capsys, flags, problem):
    assert main([f"--checkpoint={run / 'lora.safetensors'}", f"--out_dir={tmp_path / 'out'}", *flags]) == 2
    assert problem in capsys.readouterr().err
    assert main([f"--checkpoint={run}", f"--out_dir={tmp_path / 'out'}", "--trained_only", "--to=diffusers"]) == 2
    assert "adapters alone are written in this project's layout only" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="--lora_scale must be a finite number, got inf"):
        export(run, tmp_path, lora_scale=float("inf"))
