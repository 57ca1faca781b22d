"""Checkpoints of xdiffusion and lucidrains: converted, they give the values of these projects; every published name has
its place.
"""

import json
import lzma
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from comparison import CHAIN, assert_close
from device import DEVICE
from mindspore import Tensor

import svd
from svd import build
from svd.checkpoints.tensor_files import read_safetensors, write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import PixelSamplingConfig, TextAttentionLayers, VideoDiffusionConfig, dump_config, load_config
from svd.config.pixel_networks import FactorisedAttention, LucidrainsConfig, PixelTemporalConfig, PixelUNetConfig
from svd.layers.factorised import distance_buckets
from svd.networks.lucidrains import DISTANCE, Block
from svd.pipelines.video_diffusion import VideoDiffusion
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.layouts import XDIFFUSION
from svd_tools.checkpoints.tables import TRANSFORMS
from svd_tools.convert import convert

ROOT = Path(__file__).parents[3]
GOLDEN, CONFIGS = ROOT / "tests" / "golden_family", ROOT / "configs" / "video_diffusion"
WHOLE = 1e-4 / 2  # of outputs whose largest value is above 2; chains have CHAIN
UNET = PixelUNetConfig(1, 32, [1, 2], 1, [2], num_head_channels=16, context_dim=24)
SAMPLING = PixelSamplingConfig(num_frames=5, height=16, width=16, sampling_steps=4, gamma=1)
IMAGE = VideoDiffusionConfig(UNET, PixelTemporalConfig(), sampling=SAMPLING)
VIDEO_LDM = replace(IMAGE, temporal=PixelTemporalConfig(text_attention=TextAttentionLayers(heads=4)))
VDM = VideoDiffusionConfig(
    replace(UNET, context_dim=None, embedding_networks=2),
    PixelTemporalConfig(FactorisedAttention(distance=4, reference=True)),
    sampling=SAMPLING,
)
LUCIDRAINS = VideoDiffusionConfig(
    lucidrains=LucidrainsConfig(dim=16, dim_mults=[1, 2], attn_heads=2, attn_dim_head=16, reference=True),
    preconditioning="cosine_eps",
    timesteps=4,
    sampling=PixelSamplingConfig(num_frames=5, height=8, width=8, sampling_steps=4, gamma=0),
)
CONDITIONED = replace(LUCIDRAINS, lucidrains=replace(LUCIDRAINS.lucidrains, cond_dim=12))
SOURCES = {
    "image": (IMAGE, "videoldm_xdiffusion/weights"),
    "video_ldm": (VIDEO_LDM, "videoldm_xdiffusion/weights"),
    "vdm": (VDM, "vdm_xdiffusion/weights"),
    "lucidrains": (LUCIDRAINS, "vdm_lucidrains/weights"),
    "conditioned": (CONDITIONED, "vdm_lucidrains/weights_cond"),
}


@cache
def values(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "values.npz") as loaded:
        return dict(loaded)


def swapped(x: np.ndarray) -> np.ndarray:
    """[b c t h w] as [b t c h w], and back."""
    return np.ascontiguousarray(np.moveaxis(x, -4, -3))


def source_of(name: str) -> dict:
    tensors = read_safetensors(GOLDEN / f"{SOURCES[name][1]}.safetensors")
    return {key: t for key, t in tensors.items() if name != "image" or ".temporal_" not in key}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pixels")


@pytest.fixture(scope="module")
def pipes(folder) -> dict:
    return {}


@pytest.fixture
def load(folder, pipes, request):
    """Converts a golden checkpoint, and loads it, once for each mode."""
    mode = 1 if "eager" in request.fixturenames else request.getfixturevalue("mode")

    def load_once(name: str) -> VideoDiffusion:
        if (name, mode) not in pipes:
            path = folder / f"{name}.safetensors"
            if not path.exists():
                path = run_convert(folder, source_of(name), SOURCES[name][0], name)
            pipes[name, mode] = svd.load_pipeline(checkpoint=path, device_target=DEVICE, mode=mode)
        return pipes[name, mode]

    return load_once


def run_convert(folder: Path, tensors: dict, config: VideoDiffusionConfig, name: str, **options) -> Path:
    source, settings = folder / "sources" / f"{name}.safetensors", folder / f"{name}.yaml"
    source.parent.mkdir(exist_ok=True)
    write_safetensors(source, tensors, {})
    settings.write_text(dump_config(config))
    return convert(source, settings, folder, **options)


def evaluate(pipe: VideoDiffusion, x, c_noise, context=None, vector=None, independent=None) -> np.ndarray:
    """The network's answer to x [b c t h w]."""
    c_noise = Tensor(np.asarray(c_noise, np.float32))
    others = (None if array is None else Tensor(array) for array in (context, vector))
    independent = None if independent is None else Tensor(independent)
    return swapped(network_of(pipe)(Tensor(swapped(x)), c_noise, *others, False, independent).asnumpy())


def network_of(pipe: VideoDiffusion):
    return pipe.denoiser.graphs["network.constants"].network


def answer(pipe: VideoDiffusion, x: np.ndarray, sigma: np.ndarray, condition=None) -> np.ndarray:
    """The same by way of the denoiser, whose graph the sampler has, too."""
    c_skip, c_out, c_in, _ = pipe.denoiser.preconditioning.coefficients(sigma).reshape(4, 2, 1, 1, 1, 1)
    conditioning, _ = pipe.conditionings(2, condition, condition, pipe.config.sampling)
    start = swapped(x / c_in)
    denoised = pipe.denoiser.bind(conditioning)(start.astype(np.float32), sigma).asnumpy()
    return swapped((denoised - c_skip * start) / c_out)


def sigmas(name: str) -> np.ndarray:
    return np.exp(-values(name)["logsnr_t"].astype(np.float64) / 2)


def sample(pipe: VideoDiffusion, draws: np.ndarray) -> np.ndarray:
    """A whole chain from the first of these draws."""
    noise, settings = iter(swapped(draws)), pipe.config.sampling
    start, pair = next(noise), pipe.conditionings(2, None, None, settings)
    return swapped(pipe.sample(pair, start, settings, lambda shape: Tensor(next(noise)), progress=False))


def test_video_ldm_of_xdiffusion(mode, load):
    golden = values("videoldm_xdiffusion")
    result = answer(load("video_ldm"), golden["x"], sigmas("videoldm_xdiffusion"), golden["text"])
    assert_close(result, golden["video_out"], WHOLE)


def test_image_model_of_xdiffusion(eager, load):
    """By itself, and in the video model."""
    golden = values("videoldm_xdiffusion")
    x, c_noise = golden["x"], 2000 / np.pi * np.arctan(sigmas("videoldm_xdiffusion"))
    images = golden["image_out"].reshape(2, 5, 1, 16, 16)
    result = evaluate(load("image"), x, c_noise, golden["text"])
    assert_close(swapped(result), images, WHOLE)
    inputs = Tensor(swapped(x)), Tensor(c_noise.astype(np.float32)), Tensor(golden["text"])
    assert_close(network_of(load("video_ldm"))(*inputs, None, True), images, WHOLE)


def test_video_diffusion_models_of_xdiffusion(mode, load):
    golden, pipe = values("vdm_xdiffusion"), load("vdm")
    assert_close(answer(pipe, golden["x"], sigmas("vdm_xdiffusion")), golden["out"], WHOLE)
    assert_close(sample(pipe, golden["sample_noise"]), golden["sample_out"], CHAIN)


def test_layers_of_xdiffusion(eager, folder, load):
    golden, network = values("vdm_xdiffusion"), network_of(load("vdm"))
    spatial, temporal = network.mid_block.attentions[0].spatial, network.mid_block.attentions[0].temporal
    h = spatial(Tensor(swapped(golden["mid_res_out"])), None)
    assert_close(swapped(h.asnumpy()), golden["mid_spatial_attn_out"])
    positions = temporal.constants(None, 5)
    h = temporal(Tensor(swapped(golden["mid_spatial_attn_out"])), None, *positions)
    assert_close(swapped(h.asnumpy()), golden["mid_temporal_attn_out"])
    core = golden["temporal_attn_core_in"].transpose(0, 2, 1)[None]
    core = temporal.attend(Tensor(np.ascontiguousarray(core)), *positions).asnumpy()[0]
    assert_close(core.transpose(0, 2, 1), golden["temporal_attn_core_out"])


def test_network_of_lucidrains(mode, load):
    """Both modes with a mask and a condition; a whole chain."""
    golden, independent = values("vdm_lucidrains"), np.repeat([[True], [False]], 5, 1)
    result = evaluate(load("conditioned"), golden["x"], golden["time"], None, golden["cond"], independent)
    assert_close(result, golden["cond_focus_some_out"], WHOLE)
    result = sample(load("lucidrains"), golden["sample_noise"])
    assert_close((result + 1) / 2, golden["sample_out"], CHAIN)


def test_masks_and_conditions_of_lucidrains(eager, load):
    golden, frames = values("vdm_lucidrains"), np.arange(40)
    ahead = np.clip(frames - frames[:, None], -DISTANCE, DISTANCE)
    np.testing.assert_array_equal(distance_buckets(DISTANCE)[ahead + DISTANCE], golden["relative_bucket"])
    x, time, cond = golden["x"], golden["time"], golden["cond"]
    assert_close(evaluate(load("lucidrains"), x, time), golden["plain_out"], WHOLE)
    for name, clips in (("all", [True, True]), ("first", [True, False])):
        independent = np.repeat(np.array(clips)[:, None], 5, 1)
        result = evaluate(load("lucidrains"), x, time, independent=independent)
        assert_close(result, golden[f"plain_focus_{name}_out"], WHOLE)
    pipe = load("conditioned")
    result, null = (evaluate(pipe, x, time, vector=v) for v in (cond, np.repeat(pipe.null[None], 2, 0)))
    assert_close(result, golden["cond_out"], WHOLE)
    assert_close(null, golden["cond_null_out"], WHOLE)
    assert_close(null + 2 * (result - null), golden["cond_scale_2_out"], WHOLE)


@pytest.mark.parametrize("name", ["image", "video_ldm", "vdm"])
def test_every_name_of_the_published_checkpoints_has_its_place(name):
    """Or is ignored for a reason: text encoders, tables of the schedule, copies."""
    file = "xdiffusion_vdm" if name == "vdm" else name
    config = load_config(CONFIGS / f"{file}.yaml")
    stored = json.loads(lzma.decompress((ROOT / "tests" / "manifests" / "pixel_models.json.xz").read_bytes()))[name]
    shapes = build.parameter_shapes(config)
    entries = expand(XDIFFUSION, config, shapes)
    placed = {entry.theirs: list(TRANSFORMS[entry.transform].shape(shapes[entry.ours])) for entry in entries}
    ignored = {key for key in stored if re.match(XDIFFUSION.ignored, key)}
    assert placed == {key: shape for key, shape in stored.items() if key not in ignored}
    assert len(placed) == len(shapes)


def of_training(name: str) -> dict:
    """The checkpoint of lucidrains' trainer: weights and averages, both with the tables of the schedule."""
    weights = source_of(name)
    schedule = {"betas": replace(weights["time_mlp.1.bias"])}
    averages = {key: replace(t, read=lambda t=t: t.read() * np.float32(2)) for key, t in weights.items()}
    files = {f"model.denoise_fn.{key}": t for key, t in weights.items()}
    files |= {f"ema.denoise_fn.{key}": t for key, t in averages.items()}
    return files | {f"{front}.{key}": t for front in ("model", "ema") for key, t in schedule.items()}


def test_averages_of_a_training_are_chosen(tmp_path):
    for weights, factor in (("auto", 2), ("ema", 2), ("plain", 1)):
        path = run_convert(tmp_path, of_training("lucidrains"), LUCIDRAINS, weights, weights=weights)
        stored = read_safetensors(path)["network.conv_in.weight"].read()
        reference = source_of("lucidrains")["init_conv.weight"].read()[:, :, 0]
        np.testing.assert_array_equal(stored, factor * reference)


def test_files_of_lucidrains_before_0_7_have_group_norms(eager, tmp_path):
    config = replace(LUCIDRAINS, lucidrains=replace(LUCIDRAINS.lucidrains, norm="group"))
    tensors = {}
    for name, tensor in source_of("lucidrains").items():
        if re.search(r"block[12]\.norm\.gamma", name):
            flat = replace(tensor, shape=tensor.shape[:1], read=lambda t=tensor: t.read().ravel())
            tensors |= {name.replace("gamma", "weight"): flat, name.replace("gamma", "bias"): flat}
        else:
            tensors[name] = tensor
    converted = read_safetensors(run_convert(tmp_path, tensors, config, "old"))
    assert converted.keys() == build.parameter_shapes(config).keys()
    block = Block(8, 16, "group")
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 4, 4)).astype(np.float32)
    y = block.proj(Tensor(x[0])).asnumpy()  # [t c h w]
    groups = y.reshape(3, 8, 2, 4, 4).astype(np.float64)
    mean, variance = groups.mean((0, 2, 3, 4), keepdims=True), groups.var((0, 2, 3, 4), keepdims=True)
    normal = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(y.shape)
    assert_close(block(Tensor(x)).asnumpy()[0], normal / (1 + np.exp(-normal)))


def test_what_does_not_fit_is_refused(tmp_path):
    copy = "_score_network._context_transformers.0._projections.timestep._projection.1.bias"
    tensors = source_of("image")
    tensors[copy] = replace(tensors[copy], read=lambda t=tensors[copy]: t.read() + 1)
    with pytest.raises(CheckpointError, match="are one layer, but differ"):
        run_convert(tmp_path, tensors, IMAGE, "differs")
    for name, config, message in (
        ("vdm", replace(VDM, temporal=PixelTemporalConfig(FactorisedAttention(distance=4))), "reference: true"),
        ("vdm", LUCIDRAINS, "lucidrains is another network"),
        ("lucidrains", IMAGE, "no section lucidrains"),
        ("lucidrains", CONDITIONED, "1 missing|missing"),
        ("video_ldm", IMAGE, "unexpected"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run_convert(tmp_path, source_of(name), config, "other", overwrite=True)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_converted_model_is_converted_again_without_change(tmp_path):
    path = run_convert(tmp_path, source_of("vdm"), VDM, "vdm")
    again = convert(path, tmp_path / "vdm.yaml", tmp_path / "again")
    assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    "path", sorted(set(CONFIGS.glob("*.yaml")) - set(CONFIGS.glob("train_*.yaml"))), ids=lambda path: path.stem
)
def test_published_sizes(path):
    config = load_config(path)
    assert isinstance(config, VideoDiffusionConfig)
    config.check_size(config.sampling.height, config.sampling.width)
    millions = sum(np.prod(shape) for shape in build.parameter_shapes(config).values()) / 1e6
    assert 15 < millions < 60, millions
