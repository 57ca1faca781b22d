"""Names and shapes of Stable Diffusion's x4 upscaler: all are placed, from its layouts and to them, bit for bit."""

import json
import lzma
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_text import VOCABULARY
from text_configs import TEXT_CONFIGS, random_checkpoint, write_folder, write_vocabulary_folder

from svd import build
from svd.checkpoints.tensor_files import LazyTensor
from svd.config import ConfigError, load_config
from svd_tools.checkpoints.conversion import from_layout, to_layout
from svd_tools.checkpoints.layouts import find_layout
from svd_tools.checkpoints.recognition import recognise

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "tests" / "manifests" / "upsampler.json.xz"
TEXT_MODELS = ROOT / "tests" / "manifests" / "text_models.json.xz"
PUBLISHED = {
    "sgm": {"": "ldm"},
    "diffusers": {"unet": "diffusers_unet", "vae": "diffusers_vae", "text_encoder": "sd21_diffusers_text_encoder"},
}
"""Manifests by the prefixes of their names; the text encoder is that of Stable Diffusion 2."""
UNUSED = r"cond_stage_model\.model\.(transformer\.resblocks\.23\..*|text_projection|logit_scale)"
SMALL = f"""
kind: upsampler
unet: {{model_channels: 32, channel_mult: [1, 2, 2], num_res_blocks: 1, attention_resolutions: [2, 4], num_heads: 2,
       cross_attention_only: [2], context_dim: 32}}
autoencoder: {{channels: 32, channel_mult: [1, 2, 2], num_res_blocks: 1}}
text_encoder: {{vocabulary: {len(VOCABULARY)}, tokens: 12, width: 32, layers: 2, heads: 2}}
"""


@cache
def manifests() -> dict[str, dict[str, tuple[int, ...]]]:
    stored = json.loads(lzma.decompress(TEXT_MODELS.read_bytes())) | json.loads(lzma.decompress(MANIFESTS.read_bytes()))
    return {name: {key: tuple(shape) for key, shape in shapes.items()} for name, shapes in stored.items()}


def published(layout: str) -> dict[str, tuple[int, ...]]:
    parts = PUBLISHED[layout].items()
    return {f"{part}.{name}".lstrip("."): shape for part, key in parts for name, shape in manifests()[key].items()}


def lazy(shapes):
    """Tensors of which there is nothing to read."""
    return {name: LazyTensor(shape, np.dtype(np.float32), ("", 0), None) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def full():
    config = load_config(ROOT / "configs" / "upsampler" / "sd_x4.yaml")
    return config, build.parameter_shapes(config)


def test_parameters_of_the_unet_are_as_many_as_published(full):
    _, shapes = full
    assert sum(int(np.prod(s)) for name, s in shapes.items() if name.startswith("network.")) == 473_398_020


@pytest.mark.parametrize("layout", PUBLISHED)
def test_every_tensor_is_placed(full, layout):
    config, shapes = full
    source = published(layout)
    if layout == "sgm":  # what surrounds the model in the file
        source |= {"betas": (1000,), "low_scale_model.sqrt_alphas_cumprod": (1000,)}
    recognised = recognise("x", lazy(source), config)
    assert recognised.layout is find_layout(config, layout)
    weights = from_layout(recognised.tensors, recognised.layout, config, shapes)
    assert weights.tensors.keys() == shapes.keys()
    assert all(re.fullmatch(rf"{UNUSED}|betas|low_scale_model\..*", name) for name in weights.leftovers)
    written = to_layout(lazy(shapes), recognised.layout, config)
    expected = {n: s for n, s in published(layout).items() if not re.fullmatch(UNUSED, n)}
    assert {name: tensor.shape for name, tensor in written.items()} == expected


@pytest.mark.parametrize("layout", PUBLISHED)
def test_round_trips_are_exact(layout, tmp_path, convert, same_tensors):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    source, vocabulary = random_checkpoint(path, layout), write_vocabulary_folder(tmp_path / "vocabulary")
    if layout == "sgm":
        save_file(source, tmp_path / "model.safetensors")
        ours, _ = convert(tmp_path / "model.safetensors", path, f"--tokenizer={vocabulary}")
        back, _ = convert(ours, path, "--to=sgm")
        stored = load_file(back)
    else:
        ours, _ = convert(write_folder(tmp_path / "model", source), path)
        back, _ = convert(ours, path, "--to=diffusers")
        files = back.rglob("*.safetensors")
        stored = {f"{file.parent.name}.{name}": v for file in files for name, v in load_file(file).items()}
        index = json.loads((back / "model_index.json").read_text())
        assert index["max_noise_level"] == 350 and index["low_res_scheduler"] == ["diffusers", "DDPMScheduler"]
    assert stored.keys() == source.keys()
    assert all(np.array_equal(stored[name], source[name]) for name in source)
    same_tensors(convert(back, path, "--overwrite", *([f"--tokenizer={vocabulary}"] * (layout == "sgm")))[0], ours)


@pytest.mark.parametrize(
    "changed, what",
    [
        (("text_encoder: {", "temporal: {video_ldm: {}}\ntext_encoder: {"), "no place for temporal layers"),
        (("num_heads: 2,", "num_heads: 2, noise_level: sinusoids,"), "a table of noise levels"),
        (("kind: upsampler", "kind: upsampler\nlow_resolution: {factor: 8}"), "by the autoencoder's factor"),
    ],
)
def test_what_the_layouts_cannot_express_is_refused(changed, what, tmp_path, refuse):
    path, other = tmp_path / "small.yaml", tmp_path / "other.yaml"
    path.write_text(SMALL)
    other.write_text(SMALL.replace(*changed))
    save_file(random_checkpoint(path, "sgm"), tmp_path / "model.safetensors")
    assert what in refuse(tmp_path / "model.safetensors", other)


def test_it_is_named_where_the_config_is_of_another_model(tmp_path, refuse):
    path, other = tmp_path / "small.yaml", tmp_path / "other.yaml"
    path.write_text(SMALL)
    other.write_text(TEXT_CONFIGS["first"])
    save_file(random_checkpoint(path, "sgm"), tmp_path / "model.safetensors")
    error = refuse(tmp_path / "model.safetensors", other)
    assert "is of another kind of model, Stable Diffusion's x4 upscaler; the config is of Stable Diffusion" in error


def test_configs_of_upsamplers():
    """Video models are their image models with temporal layers in between, which alone are new."""
    for image, video in (("upsampler/sd_x4", "upsampler/video"), ("digits/upsampler_image_model",) * 2):
        video = video.replace("image_model", "video_model")
        of_image, of_video = (load_config(ROOT / "configs" / f"{name}.yaml") for name in (image, video))
        assert of_image.temporal is None and replace(of_video, temporal=None) == of_image
        assert of_video.low_resolution.factor == 4
        of_video.check_sampling(of_video.sampling)


@pytest.mark.parametrize(
    "stated, message",
    [
        ("unet: {in_channels: 8}", "unet.in_channels 3 more"),
        ("low_resolution: {factor: 2}", "low_resolution.factor 2 must be a multiple of the autoencoder's 4"),
        ("low_resolution: {factor: 12}", "must be a power of 2"),
        ("low_resolution: {max_noise_level: 1001}", "max_noise_level must be at most 1000"),
        ("text_encoder: null", "unet.cross_attention_only needs a text_encoder"),
        ("unet: {cross_attention_only: [1]}", "must be among unet.attention_resolutions"),
        ("temporal: {motion_modules: {}}", "layers of the kind video_ldm"),
        ("temporal: {video_ldm: {fps: true}}", "temporal.video_ldm.fps is not used"),
        ("autoencoder: {decoder: temporal}", "autoencoder.decoder must be image"),
        (
            "schedule: {zero_terminal_snr: true}\npreconditioning: vp_eps",
            "zero_terminal_snr needs preconditioning",
        ),
        ("sampling: {eta: 2}", "eta must be from 0 to 1"),
    ],
)
def test_what_a_config_cannot_be(tmp_path, stated, message):
    (tmp_path / "x.yaml").write_text(f"kind: upsampler\n{stated}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "x.yaml")
