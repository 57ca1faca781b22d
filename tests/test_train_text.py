"""Training of models that are given text by the programs: encoded clips, frozen weights, previews, what follows."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from text_training import MODELS, text_options, write_text_inputs
from training_runs import assert_same, checkpoint, metrics, names, tensors, train_here

from svd.build import build_networks
from svd.checkpoints.model_file import Checkpoint
from svd.data.dataset import DatasetError
from svd.data.latents_dataset import LatentsDataset
from svd.data.video_dataset import VideoDataset, pixels
from svd.seeds import Purpose, generator
from svd.training.tasks.video import encode_frames
from svd_tools import encode_latents, initialize

TEMPORAL = re.compile(r"\.(temporal|blend)\.|\.vector_embedding\.")


@pytest.fixture(scope="module")
def text_inputs(tmp_path_factory) -> Path:
    return write_text_inputs(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def latents(text_inputs, tmp_path_factory) -> dict[str, Path]:
    """Clips with the tokens of their captions, and with embeddings."""
    folder, flags = tmp_path_factory.mktemp("latents"), {"tokens": ["--train.text_encoder=True"], "embeddings": []}
    for kind, more in flags.items():
        argv = [*text_options(text_inputs, folder / "run", "image"), *more, f"--out={folder / kind}", "--passes=1"]
        assert encode_latents.main(argv) == 0
    return {kind: folder / kind for kind in flags}


def from_latents(inputs: Path, run: Path, model: str, folder: Path) -> list[str]:
    flags = [flag for flag in text_options(inputs, run, model) if "dataset" not in flag]
    return [*flags, "--train.dataset=LatentsDataset", f"--train.dataset.init_args.folder={folder}"]


def trained(*flags: str | Path) -> list[str]:
    """What a training of three updates says."""
    outcome = train_here(*flags, "--train.updates=3")
    assert outcome.code == 0, outcome.err
    return outcome.err


def test_an_image_model_and_its_text_encoder(text_inputs, tmp_path):
    said = trained(
        *text_options(text_inputs, tmp_path / "run", "image"),
        "--train.text_encoder=True",
        "--train.preview.prompts=[a three, the dog]",
        "--train.preview.every=3",
        "--train.preview.sampling_steps=2",
    )
    assert any("tensors of the UNet and the text encoder" in line for line in said)
    assert said[-1].startswith("svd text-to-image --model.checkpoint=")
    assert names(tmp_path / "run/previews") == {f"update_00000003_{name}.png" for name in ("0_a-three", "1_the-dog")}
    before, after = load_file(text_inputs / "image.safetensors"), load_file(tmp_path / "run/model.safetensors")
    for name, value in before.items():
        learned = name.startswith(("network.", "text_encoder."))
        assert (value.tobytes() != after[name].tobytes()) == learned, name
    ours = Checkpoint(tmp_path / "run/model.safetensors").metadata
    assert ours["tokenizer"] == Checkpoint(text_inputs / "image.safetensors").metadata["tokenizer"]


def test_temporal_layers_alone(text_inputs, tmp_path):
    """All else is the same, bit for bit; and a stopped training goes on as if it had not been."""
    flags = text_options(text_inputs, tmp_path / "run", "video")
    preview = ["--train.preview.prompts=[a three]", "--train.preview.sampling_steps=2", "--train.preview.format=gif"]
    said = trained(*flags, *preview)
    assert said[-1].startswith("svd text-to-video --model.checkpoint=")
    assert names(tmp_path / "run/previews") == {"update_00000003_0_a-three.gif"}
    before, after = load_file(text_inputs / "video.safetensors"), load_file(tmp_path / "run/model.safetensors")
    for name, value in before.items():
        assert (value.tobytes() != after[name].tobytes()) == (TEMPORAL.search(name) is not None), name
    stopped = text_options(text_inputs, tmp_path / "stopped", "video")
    assert train_here(*stopped, "--train.updates=2").code == 0
    trained(*stopped, "--train.resume=auto")
    assert_same(tensors(checkpoint(tmp_path / "stopped", 3)), tensors(checkpoint(tmp_path / "run", 3)))


@pytest.mark.parametrize(("task", "model"), [("text_to_image", "video"), ("autoencoder", "image")])
def test_other_parts_of_them(text_inputs, tmp_path, task, model):
    """The spatial layers of a video model; the autoencoder, whose decoder takes single frames."""
    trained(*text_options(text_inputs, tmp_path / "run", model), f"--train.task={task}")
    assert Checkpoint(tmp_path / "run/model.safetensors").config == MODELS[model]
    before, after = load_file(text_inputs / f"{model}.safetensors"), load_file(tmp_path / "run/model.safetensors")
    part = "network." if task == "text_to_image" else "autoencoder."
    for name, value in before.items():
        learned = name.startswith(part) and not TEMPORAL.search(name)
        assert (value.tobytes() != after[name].tobytes()) == learned, name


def test_the_measured_scale_of_latents_is_that_of_what_follows(text_inputs, tmp_path):
    """One over the deviation of samples of the trained encoder, and what is trained after it takes or refuses it."""
    flags = text_options(text_inputs, tmp_path / "run", "image")
    trained(*flags, "--train.task=autoencoder", "--train.scale_clips=3")
    model = tmp_path / "run/model.safetensors"
    config, networks = Checkpoint(model).config, build_networks(Checkpoint(model).config)
    encoder = networks["autoencoder.encoder"]
    Checkpoint(model).load({"autoencoder.encoder": encoder})
    data = VideoDataset(str(text_inputs / "captions.csv"), frames=3, step=2, height=8, width=8)
    clips = [data.load(index, generator(0, index, Purpose.DATA)) for index in range(3)]
    mean, log_variance = np.split(np.concatenate([encode_frames(encoder, pixels([clip])[0]) for clip in clips]), 2, 1)
    noise = np.random.default_rng(0).standard_normal((500, *mean.shape))
    deviation = (mean + np.exp(0.5 * log_variance) * noise).std()
    assert config.autoencoder.scale_factor == pytest.approx(1 / deviation, rel=0.01)

    following = [*text_options(text_inputs, tmp_path / "next", "image"), f"--train.pretrained={model}"]
    refused = train_here(*following)
    assert refused.code == 2 and "autoencoder.scale_factor is" in refused.error
    out = tmp_path / "latents"
    assert encode_latents.main([*following, "--svd_config=null", f"--out={out}", "--passes=1"]) == 0
    assert LatentsDataset(str(out)).settings["model"]["autoencoder"]["scale_factor"] == config.autoencoder.scale_factor
    video = tmp_path / "video.safetensors"
    command = ["--config", str(text_inputs / "video.yaml"), "--image_model", str(model), "--out", str(video)]
    assert initialize.main(command) == 0
    assert Checkpoint(video).config.autoencoder == config.autoencoder


@pytest.mark.parametrize(
    ("model", "kind", "more"),
    [
        ("image", "tokens", ["--train.text_encoder=True"]),
        ("video", "tokens", ["--train.temporal_only=False"]),
        ("video", "embeddings", ["--train.lora.rank=2", "--train.lora.modules=[temporal.attn1]"]),
    ],
)
def test_latents_give_the_losses_of_their_videos(text_inputs, latents, tmp_path, model, kind, more):
    trained(*text_options(text_inputs, tmp_path / "videos", model), *more)
    said = trained(*from_latents(text_inputs, tmp_path / "latents", model, latents[kind]), *more)
    not_loaded = [line for line in said if "of the encoder (not loaded), " in line]
    assert not_loaded and ("of the text encoder (not loaded)" in not_loaded[0]) == (kind == "embeddings")
    curves = [metrics(tmp_path / run)["loss"] for run in ("videos", "latents")]
    np.testing.assert_allclose(*curves, rtol=3e-3)
    assert (tmp_path / "latents/lora.safetensors").exists() == ("--train.lora.rank=2" in more)


def test_what_is_cached(latents):
    tokens, embeddings = (LatentsDataset(str(latents[kind])) for kind in ("tokens", "embeddings"))
    assert tokens.captioned and tokens.has_tokens and tokens.empty_prompt is None
    assert embeddings.captioned and not embeddings.has_tokens and embeddings.empty_prompt.shape == (12, 16)
    rng = np.random.default_rng
    assert tokens.load(0, rng(0)).arrays.keys() == {"moments", "tokens"}
    assert embeddings.load(0, rng(0)).arrays.keys() == {"moments", "context"}
    without = embeddings.load(2, rng(0)).context  # the video without a caption
    np.testing.assert_array_equal(without, embeddings.empty_prompt)


def test_a_pipe_in_place_of_the_empty_prompt_is_not_waited_for(latents, tmp_path):
    folder = shutil.copytree(latents["embeddings"], tmp_path / "latents")
    (folder / "empty_prompt.safetensors").unlink()
    os.mkfifo(folder / "empty_prompt.safetensors")
    with pytest.raises(DatasetError, match="no ordinary file"):
        LatentsDataset(str(folder))


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (
            "video",
            ["--train.dataset.init_args.metadata={inputs}/videos.csv"],
            "there are none: a CSV file needs",
        ),
        (
            "image",
            ["--train.preview.images=[photo.png]"],
            "preview.images is ['photo.png'], but it is for",
        ),
        (
            "video",
            ["--train.task=text_to_image", "--train.lora.rank=2", "--train.lora.modules=[temporal.attn1]", "--dry_run"],
            "are temporal layers, which single frames do not pass",
        ),
        ("image", ["--train.task=text_to_video"], "is for models of the kind video_ldm, and this one is image_ldm"),
    ],
)
def test_what_is_refused(text_inputs, tmp_path, model, more, message):
    more = [flag.format(inputs=text_inputs) for flag in more]
    outcome = train_here(*text_options(text_inputs, tmp_path / "run", model), *more)
    assert outcome.code == 2 and message in outcome.error and not (tmp_path / "run").exists()


def test_embeddings_are_no_latents_for_a_text_encoder_that_is_trained(text_inputs, latents, tmp_path):
    flags = from_latents(text_inputs, tmp_path / "run", "image", latents["embeddings"])
    outcome = train_here(*flags, "--train.text_encoder=True")
    assert outcome.code == 2 and "captions is embeddings there and tokens here" in outcome.error


def test_a_video_model_begins_as_its_image_model(text_inputs, tmp_path, capsys):
    flags = ["--config", str(text_inputs / "video.yaml"), "--out", str(tmp_path / "video.safetensors")]
    image = text_inputs / "image.safetensors"
    assert initialize.main([*flags, "--image_model", str(image)]) == 0
    made, before = Checkpoint(tmp_path / "video.safetensors"), load_file(image)
    assert made.config == MODELS["video"] and made.metadata["tokenizer"] == Checkpoint(image).metadata["tokenizer"]
    assert all(made.read(name).tobytes() == value.tobytes() for name, value in before.items())
    new = made.shapes.keys() - before.keys()
    assert new and all(TEMPORAL.search(name) for name in new)

    capsys.readouterr()
    for more, message in (
        ([], "give one of image_model, tokenizer, captions, got none"),
        (["--image_model", str(image), "--captions", "x.csv"], "got image_model and captions"),
        (["--image_model", str(tmp_path / "nothing.safetensors")], "nothing.safetensors"),
    ):
        assert initialize.main([*flags[:3], str(tmp_path / "other.safetensors"), *more]) == 2
        assert message in capsys.readouterr().err


def test_a_vocabulary_is_learned_from_captions(text_inputs, tmp_path):
    from svd.conditioning.tokenizer import Tokenizer

    out, config = tmp_path / "image.safetensors", MODELS["image"]
    argv = ["--config", text_inputs / "image.yaml", "--captions", text_inputs / "captions.csv", "--out", out]
    assert initialize.main(list(map(str, argv))) == 0
    tokenizer = Tokenizer.of_checkpoint(Checkpoint(out).metadata, config.text_encoder)
    (known, unknown), _ = tokenizer(["a slow dog", "ox"])
    ends = known[known == known[-1]].size
    assert ends == config.text_encoder.tokens - 4, "a token for each word"
    assert (unknown != unknown[-1]).sum() == 3 and not np.array_equal(known, unknown)
