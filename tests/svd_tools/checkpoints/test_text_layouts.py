"""Names and shapes of the published models that are given text: all are placed, from their layouts and to them."""

import json
import lzma
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from svd import build
from svd.checkpoints.tensor_files import LazyTensor, read_safetensors
from svd.config import AutoencoderConfig, ImageLDMConfig, TemporalConfig, TextEncoderConfig, UNetConfig, VideoLDMConfig
from svd.config.temporal import ModelScopeLayers, MotionModules, TextAttentionLayers
from svd_tools.checkpoints.adapter_names import known_layers
from svd_tools.checkpoints.conversion import from_layout, to_layout
from svd_tools.checkpoints.layouts import detect_layout, find_layout, layouts_of
from svd_tools.checkpoints.recognition import recognise

GOLDEN = Path(__file__).parents[2] / "golden_family" / "videoldm_srpkdyy"
MANIFESTS = Path(__file__).parents[2] / "manifests" / "text_models.json.xz"
SECOND = {
    "unet": UNetConfig(in_channels=4, context_dim=1024, vector_dim=None),
    "text_encoder": TextEncoderConfig(width=1024, layers=23, heads=16, activation="gelu", padding="zero"),
}
CONFIGS = {
    "sd15": ImageLDMConfig(),
    "sd21": ImageLDMConfig(**SECOND),
    "animatediff_v2": VideoLDMConfig(temporal=TemporalConfig(motion_modules=MotionModules(middle=True))),
    "animatediff_v3": VideoLDMConfig(temporal=TemporalConfig(motion_modules=MotionModules())),
    "modelscope": VideoLDMConfig(**SECOND, temporal=TemporalConfig(modelscope=ModelScopeLayers())),
}
VAE = {"vae": "sd_diffusers_vae"}
PUBLISHED = {
    ("sd15", "sgm"): {"": "sd15_ldm"},
    ("sd21", "sgm"): {"": "sd21_ldm"},
    ("sd15", "diffusers"): {"unet": "sd15_diffusers_unet", "text_encoder": "sd15_diffusers_text_encoder", **VAE},
    ("sd21", "diffusers"): {"unet": "sd21_diffusers_unet", "text_encoder": "sd21_diffusers_text_encoder", **VAE},
    ("animatediff_v2", "animatediff"): {"": "animatediff_original_v2"},
    ("animatediff_v3", "animatediff"): {"": "animatediff_original_v3"},
    ("modelscope", "diffusers"): {
        "unet": "text_to_video_ms_1.7b_diffusers_unet",
        "text_encoder": "sd21_diffusers_text_encoder",
        **VAE,
    },
}
"""Manifests of the published checkpoints, by the prefixes of their names."""
UNUSED = r"cond_stage_model\.model\.(transformer\.resblocks\.23\..*|text_projection|logit_scale)"
"""What of Stable Diffusion 2's text tower is not used."""


@cache
def manifests() -> dict[str, dict[str, tuple[int, ...]]]:
    stored = json.loads(lzma.decompress(MANIFESTS.read_bytes()))
    return {name: {key: tuple(shape) for key, shape in shapes.items()} for name, shapes in stored.items()}


@cache
def shapes_of(model: str) -> dict[str, tuple[int, ...]]:
    return build.parameter_shapes(CONFIGS[model])


def lazy(shapes):
    """Tensors of which there is nothing to read; integers where names say so."""
    types = {name: np.dtype(np.int64 if name.endswith("position_ids") else np.float32) for name in shapes}
    return {name: LazyTensor(shape, types[name], ("", 0), None) for name, shape in shapes.items()}


def published(model: str, layout: str):
    parts = PUBLISHED[model, layout].items()
    return {f"{part}.{name}".lstrip("."): shape for part, key in parts for name, shape in manifests()[key].items()}


def written(model: str, layout: str):
    """Names and shapes of a model in a layout."""
    config = CONFIGS[model]
    found = to_layout(lazy(shapes_of(model)), find_layout(config, layout), config)
    return {name: tensor.shape for name, tensor in found.items()}


@pytest.mark.parametrize("model, layout", PUBLISHED)
def test_every_tensor_is_written(model, layout):
    expected = {name: shape for name, shape in published(model, layout).items() if not re.fullmatch(UNUSED, name)}
    assert written(model, layout) == expected


@pytest.mark.parametrize("model, layout", PUBLISHED)
def test_every_tensor_is_read_or_named(model, layout):
    config, shapes, source = CONFIGS[model], shapes_of(model), lazy(published(model, layout))
    recognised = recognise("x", source, config, complete=layout != "animatediff")
    assert recognised.layout is find_layout(config, layout) and recognised.tensors.keys() == source.keys()
    weights = from_layout(source, recognised.layout, config, shapes)
    expected = {name for name in shapes if layout != "animatediff" or ".temporal." in name}
    assert weights.tensors.keys() == expected
    assert all(
        re.fullmatch(UNUSED, name) or name.endswith(("position_ids", "pos_encoder.pe")) for name in weights.leftovers
    )


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_motion_adapters_and_the_unet_of_diffusers(version):
    """A file of motion modules alone is read as those of a UNet; the UNet has them beside the image model's names."""
    model = f"animatediff_{version}"
    adapter = manifests()[f"animatediff_motion_adapter_{version}"]
    config, shapes = CONFIGS[model], shapes_of(model)
    recognised = recognise("x", lazy(adapter), config, complete=False)
    weights = from_layout(recognised.tensors, recognised.layout, config, shapes, supplied=shapes_of("sd15"))
    assert weights.tensors.keys() == shapes.keys() - shapes_of("sd15").keys()
    unet = {
        name.removeprefix("unet."): s for name, s in written(model, "diffusers").items() if name.startswith("unet.")
    }
    assert unet == manifests()["sd15_diffusers_unet"] | adapter


def test_spatial_names_are_the_image_models():
    for model, image in (("animatediff_v2", "sd15"), ("modelscope", "sd21")):
        assert shapes_of(image).items() <= shapes_of(model).items()


def test_names_of_modelscopes_own_file():
    """As huggingface/diffusers, scripts/convert_ms_text_to_video_to_diffusers.py reads them."""
    config, shapes = CONFIGS["modelscope"], shapes_of("modelscope")
    layout = next(layout for layout in layouts_of(config) if layout.name == "modelscope")
    theirs = to_layout(lazy(shapes), layout, config)
    assert len(theirs) == 1480 + 23 * 12 + 4 + 248 and detect_layout(theirs, layouts_of(config)) is layout
    unet = {name.removeprefix("text2video_pytorch_model.") for name in theirs}
    for name in (
        "input_blocks.0.1.transformer_blocks.0.attn2.to_out.0.bias",
        "input_blocks.1.0.temopral_conv.conv1.2.weight",
        "input_blocks.1.0.temopral_conv.conv4.3.weight",
        "input_blocks.2.2.proj_in.weight",
        "middle_block.2.transformer_blocks.0.ff.net.0.proj.weight",
        "middle_block.3.temopral_conv.conv2.0.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.3.conv.weight",
        "output_blocks.11.2.proj_out.bias",
    ):
        assert name in unet, name
    assert theirs["text2video_pytorch_model.input_blocks.2.2.proj_in.weight"].shape == (320, 320, 1)
    renamed = {re.sub(r"(model\.input_blocks\.\d+)\.0\.op\.", r"\1.op.", name): t for name, t in theirs.items()}
    assert len(renamed.keys() - theirs.keys()) == 6
    assert from_layout(renamed, layout, config, shapes).tensors.keys() == shapes.keys()


def test_every_tensor_of_srpkdyys_network_is_placed():
    """That of the golden set, whose text encoder and autoencoder are those of an image model."""
    case = json.loads((GOLDEN / "config.json").read_text())["case"]
    parts = {
        "unet": UNetConfig(
            in_channels=4, model_channels=32, channel_mult=[1, 2], num_res_blocks=case["layers"], vector_dim=None,
            attention_resolutions=[1], num_heads=case["heads"], context_dim=case["ctx"], convolution_projection=True,
        ),
        "text_encoder": TextEncoderConfig(width=case["ctx"], layers=1, heads=1),
        "autoencoder": AutoencoderConfig(channels=32, channel_mult=[1], decoder="image"),
    }  # fmt: skip
    temporal = TemporalConfig(text_attention=TextAttentionLayers(heads=case["temporal_heads"]))
    config = VideoLDMConfig(**parts, temporal=temporal)
    shapes, image = build.parameter_shapes(config), build.parameter_shapes(ImageLDMConfig(**parts))
    recognised = recognise("x", read_safetensors(GOLDEN / "weights.safetensors"), config, complete=False)
    weights = from_layout(recognised.tensors, recognised.layout, config, shapes, supplied=image)
    assert weights.tensors.keys() == {name for name in shapes if name.startswith("network.")}
    assert weights.leftovers and all(name.endswith(".pos_enc.dummy") for name in weights.leftovers)


@pytest.mark.parametrize("model", ["sd15", "sd21"])
def test_what_surrounds_the_model_in_single_files(model):
    """Averages, schedules and losses of trainings; and the names of transformers without their prefix."""
    config, shapes = CONFIGS[model], shapes_of(model)
    source = published(model, "sgm")
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): shape
        for name, shape in source.items()
        if name.startswith("model.")
    }
    others = {"betas": (1000,), "sqrt_alphas_cumprod": (1000,), "first_stage_model.loss.logvar": (3,),
              "model_ema.num_updates": (), "logvar": (1000,)}  # fmt: skip
    short = {name.replace(".text_model.", "."): shape for name, shape in source.items()}
    recognised = recognise("x", lazy(short | averages | others), config)
    assert f"{len(averages)} averages" in recognised.notes[0]
    weights = from_layout(recognised.tensors, recognised.layout, config, shapes)
    assert weights.tensors.keys() == shapes.keys()
    assert {"betas", "sqrt_alphas_cumprod", "first_stage_model.loss.logvar", "logvar"} <= set(weights.leftovers)


def test_old_and_new_names_of_diffusers():
    config, shapes = CONFIGS["sd15"], shapes_of("sd15")
    source = {}
    for name, shape in published("sd15", "diffusers").items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if name.startswith("vae.") and ".attentions.0." in name:
                name = name.replace(f".{new}.", f".{old}.")
        source[name.replace("text_encoder.text_model.", "text_encoder.")] = shape
    source["text_encoder.embeddings.position_ids"] = (1, 77)
    weights = from_layout(lazy(source), find_layout(config, "diffusers"), config, shapes)
    assert weights.tensors.keys() == shapes.keys()
    assert weights.leftovers == ["text_encoder.text_model.embeddings.position_ids"]


@pytest.mark.parametrize("model, layout", list(PUBLISHED)[:6])
def test_every_layer_is_found_by_names_of_adapters(model, layout):
    """kohya's scripts write underscores for the dots of diffusers' names, others for those of single files."""
    shapes, config = shapes_of(model), CONFIGS[model]
    layers, found = known_layers(config, shapes), set()
    prefixes = ("model.diffusion_model.", "cond_stage_model.transformer.", "unet.", "text_encoder.")
    skipped = re.compile(r"first_stage_model|vae\.|cond_stage_model\.model\.|.*(embedding|embeddings\.\w+)\.weight")
    for name, shape in published(model, layout).items():
        if not name.endswith(".weight") or len(shape) < 2 or skipped.match(name):
            continue
        stem = name.removesuffix(".weight")
        front = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        layer = layers[stem.removeprefix(front).replace(".", "_")]
        ours = shapes[f"{layer}.weight"]
        assert ours[0] == shape[0] and np.prod(ours) == np.prod(shape) and layer not in found, name
        found.add(layer)
    assert len(found) > 150
