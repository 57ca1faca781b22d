"""From configuration to objects: the published sizes, the classes behind a `kind`, and the layouts of checkpoints."""

import gzip
import json
import math
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import mindspore as ms
import numpy as np
import psutil
import pytest
from comparison import assert_close
from device import AMP_LEVEL, DEVICE
from small_checkpoint import random_tensors, small_tensors, write_checkpoint
from small_model import SMALL

from svd import build, load_pipeline
from svd.build import build_networks, parameter_shapes
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ConfigError, ModelConfig, dump_config, load_config
from svd.diffusion.preconditioning import PRECONDITIONINGS
from svd.placement import compute_dtype
from svd.runtime import RuntimeSetupError
from svd_tools.convert import convert

TESTS = Path(__file__).parent
CONFIGS = TESTS.parent / "configs"
PIECES = {
    "network": "model.diffusion_model.",
    "conditioner.image_encoder": "conditioner.embedders.0.open_clip.model.visual.",
    "autoencoder.encoder": ("first_stage_model.encoder.", "first_stage_model.quant_conv."),
    "autoencoder.decoder": ("first_stage_model.decoder.", "first_stage_model.post_quant_conv."),
    "conditioner.autoencoder.encoder": (
        "conditioner.embedders.3.encoder.encoder.",
        "conditioner.embedders.3.encoder.quant_conv.",
    ),
    "conditioner.autoencoder.decoder": (
        "conditioner.embedders.3.encoder.decoder.",
        "conditioner.embedders.3.encoder.post_quant_conv.",
    ),
}
"""Our networks, and how the names of their tensors begin in the published files."""


def published_sizes(manifest: str) -> dict[str, int]:
    """Parameters of each network in a published file, by our names of them."""
    with gzip.open(TESTS / "manifests" / f"{manifest}.json.gz", "rt") as file:
        shapes = json.load(file)
    return {
        ours: sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(theirs))
        for ours, theirs in PIECES.items()
    }


@pytest.fixture(scope="module")
def shapes_of():
    """`parameter_shapes`, once for configurations that differ in how they sample alone."""
    known = {}

    def shapes(config) -> dict[str, tuple[int, ...]]:
        key = repr([getattr(config, field.name) for field in fields(config) if field.name not in HOW_IT_SAMPLES])
        known[key] = known[key] if key in known else parameter_shapes(config)
        return known[key]

    return shapes


HOW_IT_SAMPLES = ("sampling", "trained_range", "preconditioning")


def sizes(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Parameters of each network, by the prefix of their names."""
    counts = Counter()
    for name, shape in shapes.items():
        counts[max((prefix for prefix in PIECES if name.startswith(f"{prefix}.")), key=len)] += math.prod(shape)
    return dict(counts)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """The small model with the configuration in it."""
    return write_checkpoint(tmp_path / "small.safetensors", small_tensors())


def load(config=None, checkpoint="", **options):
    return load_pipeline(config, checkpoint, **{"device_target": DEVICE, "amp_level": AMP_LEVEL, **options})


# --- the published models ---


@pytest.mark.parametrize("config", ["svd", "svd_xt", "svd_xt_1_1"])
@pytest.mark.parametrize("decoder", ["", "_image_decoder"])
def test_parameter_counts_of_the_published_models(shapes_of, config, decoder):
    """Network by network, as many as the published files hold."""
    result = sizes(shapes_of(load_config(CONFIGS / f"{config}{decoder}.yaml")))
    assert result == published_sizes(f"svd{decoder}_sgm")
    assert result["network"] == 1_524_623_082
    assert result["conditioner.image_encoder"] == 632_076_800
    assert result["conditioner.autoencoder.encoder"] == 34_163_664
    assert result["autoencoder.decoder"] == (49_490_199 if decoder else 63_579_183)


SPATIAL_1, SPATIAL_2, AUTOENCODER = 859_520_964, 865_910_724, 83_653_863
TEXT_1, TEXT_2 = 123_060_480, 340_387_840


@pytest.mark.parametrize(
    "name, network, text_encoder",
    [
        ("stable_diffusion/v1_5", SPATIAL_1, TEXT_1),
        ("stable_diffusion/v2_1_base", SPATIAL_2, TEXT_2),
        ("stable_diffusion/v2_1", SPATIAL_2, TEXT_2),
        ("video_ldm/animatediff_v1", SPATIAL_1 + 417_137_600, TEXT_1),
        ("video_ldm/animatediff_v2", SPATIAL_1 + 453_209_280, TEXT_1),
        ("video_ldm/animatediff_v3", SPATIAL_1 + 417_137_600, TEXT_1),
        ("video_ldm/modelscope", 1_411_233_860, TEXT_2),
        ("video_ldm/zeroscope", 1_411_233_860, TEXT_2),
    ],
)
def test_parameter_counts_of_the_published_models_of_text(shapes_of, name, network, text_encoder):
    counts = Counter()
    for tensor, shape in shapes_of(load_config(CONFIGS / f"{name}.yaml")).items():
        counts[tensor.split(".")[0]] += math.prod(shape)
    assert counts == {"network": network, "text_encoder": text_encoder, "autoencoder": AUTOENCODER}


def test_the_full_size_model_is_built_without_memory():
    """Nine gigabytes of parameters have shapes only, until a checkpoint fills them."""
    before = psutil.Process().memory_info().rss
    networks = build_networks(ModelConfig())
    parameters = [parameter for network in networks.values() for parameter in network.get_parameters()]
    assert sum(math.prod(parameter.shape) for parameter in parameters) == 2_288_606_321
    assert psutil.Process().memory_info().rss - before < 0.5e9


# --- which configuration ---


def test_the_checkpoint_says_what_it_is(checkpoint):
    pipe = load(checkpoint=checkpoint)
    assert pipe.config == SMALL
    assert pipe.settings().num_frames == 3


def test_a_config_given_goes_before_the_checkpoints(checkpoint, tmp_path):
    given = replace(SMALL, sampling=replace(SMALL.sampling, fps=12))
    assert load(given, checkpoint).config == given
    path = tmp_path / "model.yaml"
    path.write_text("preconditioning: edm\n")
    with pytest.raises(CheckpointError, match="is of another model than the configuration"):
        load(path, checkpoint)


@pytest.mark.parametrize("kind", PRECONDITIONINGS)
def test_the_preconditioning_of_the_config_is_used(checkpoint, kind):
    pipe = load(replace(SMALL, preconditioning=kind), str(checkpoint))
    assert pipe.denoiser.preconditioning is PRECONDITIONINGS[kind]


def test_errors_of_the_parts_reach_the_caller(checkpoint):
    for arguments, error in (
        ({"config": "nowhere.yaml", "checkpoint": checkpoint}, ConfigError),
        ({"checkpoint": "nowhere.safetensors"}, CheckpointError),
        ({"checkpoint": checkpoint, "mode": 2}, RuntimeSetupError),
    ):
        with pytest.raises(error):
            load(**arguments)


def test_shapes_are_compared_before_networks_take_memory(checkpoint, monkeypatch):
    """Whatever a checkpoint's configuration asks for."""
    monkeypatch.setattr(build, "place", lambda *_: pytest.fail("the networks were given their types"))
    wide = replace(SMALL, unet=replace(SMALL.unet, model_channels=2048))
    with pytest.raises(CheckpointError, match=r"of another model than the configuration: \d+ of another shape"):
        load(wide, checkpoint)


# --- precision ---


def test_weights_are_float32_on_a_cpu(checkpoint):
    pipe = load(checkpoint=checkpoint)
    for network in (pipe.denoiser.network, pipe.autoencoder.decoder, pipe.conditioner.image_encoder):
        assert {parameter.dtype for parameter in network.get_parameters()} == {ms.float32}


def test_o2_halves_the_networks_but_neither_norms_nor_encoders(checkpoint):
    pipe = load(checkpoint=checkpoint, amp_level="O2")
    for network in (pipe.denoiser.network, pipe.autoencoder.decoder, pipe.conditioner.image_encoder):
        for parameter in network.get_parameters():
            if "norm" in parameter.name or "mix_factor" in parameter.name:
                assert parameter.dtype == ms.float32, parameter.name
        half = sum(parameter.size for parameter in network.get_parameters() if parameter.dtype == ms.float16)
        assert half > 0.9 * sum(parameter.size for parameter in network.get_parameters())
    assert {parameter.dtype for parameter in pipe.autoencoder.encoder.get_parameters()} == {ms.float32}


# --- layouts ---


def test_the_image_decoder_is_in_a_checkpoint_of_the_temporal_model(golden, golden_config, golden_checkpoint, tmp_path):
    """The published file has Stable Diffusion's decoder too, in the conditioner's autoencoder."""
    config = tmp_path / "image.yaml"
    config.write_text(f"base: {golden_config}\nautoencoder: {{decoder: image}}\n")
    pipe = load(config, golden_checkpoint, mode=1)
    assert not pipe.autoencoder.decoder.temporal
    scale = pipe.config.autoencoder.scale_factor
    decoded = pipe.autoencoder.decode(golden["decoder_z"][None] * scale, chunk_size=3)
    assert_close(decoded[0], golden["image_decoder_out"])
    assert_close(pipe.autoencoder.encode(golden["frames"][None])[0] / scale, golden["frames_mode"])


def test_a_temporal_config_on_a_checkpoint_of_the_image_decoder(tmp_path):
    """The layers that are not there are named."""
    image = replace(SMALL, autoencoder=replace(SMALL.autoencoder, decoder="image"))
    path = write_checkpoint(tmp_path / "image.safetensors", random_tensors(image), image)
    assert not load(checkpoint=path).autoencoder.decoder.temporal
    with pytest.raises(CheckpointError, match=r"\d+ names missing \(autoencoder\.decoder\.mid\.resnets\.0\.spatial"):
        load(SMALL, path)


def test_an_encoder_that_is_incomplete_is_not_replaced(tmp_path):
    """By the conditioner's, as one is that is not there at all."""
    tensors = random_tensors(SMALL)
    del tensors["autoencoder.encoder.conv_in.weight"]
    path = write_checkpoint(tmp_path / "damaged.safetensors", tensors, SMALL)
    with pytest.raises(CheckpointError, match=r"1 names missing \(autoencoder\.encoder\.conv_in\.weight\)"):
        load(checkpoint=path)


def test_a_checkpoint_from_diffusers_has_one_encoder_for_both(tmp_path):
    """diffusers stores the autoencoder once; it encodes the image for the network, and videos."""
    model = replace(SMALL, autoencoder=replace(SMALL.autoencoder, num_res_blocks=2))  # diffusers has no other
    config = tmp_path / "model.yaml"
    config.write_text(dump_config(model))
    tensors = random_tensors(model)
    source = write_checkpoint(tmp_path / "small.safetensors", tensors, model)
    path = convert(convert(source, config, tmp_path, to="diffusers"), config, tmp_path / "back")
    assert not any(name.startswith("autoencoder.encoder.") for name in Checkpoint(path).shapes)
    pipe = load(checkpoint=path)
    assert pipe.autoencoder.encoder is pipe.conditioner.encoder
    for prefix, network in (("network", pipe.denoiser.network), ("autoencoder.decoder", pipe.autoencoder.decoder)):
        for name, parameter in network.parameters_and_names():
            np.testing.assert_array_equal(parameter.asnumpy(), tensors[f"{prefix}.{name}"], err_msg=name)


def test_the_encoder_of_the_first_stage_is_used_where_there_is_one(checkpoint):
    pipe = load(checkpoint=checkpoint)
    assert pipe.autoencoder.encoder is not pipe.conditioner.encoder
    assert pipe.autoencoder.encoder.has_quant_conv is False


def test_a_missing_checkpoint_and_an_unknown_amp_level_are_told():
    with pytest.raises(CheckpointError, match="no checkpoint was given"):
        load_pipeline(device_target=DEVICE)
    with pytest.raises(ConfigError, match="amp_level must be one of auto, O0, O2"):
        compute_dtype("CPU", "O1")
