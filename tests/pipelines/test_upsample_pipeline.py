"""The pipeline of upsamplers: sizes, windows and tiles, what noise does, and what is refused."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from device import eagerly
from mindspore import Tensor, nn, ops
from small_model import fill
from small_upsampler import SMALL_IMAGES, SMALL_UPSAMPLER

from svd.build import build_networks
from svd.config import AutoencoderConfig, ConfigError
from svd.diffusion.denoiser import Denoiser
from svd.models import model_of
from svd.models.upsampler import build_preconditioning
from svd.pipelines.upsample import MemoryLimitError, Upsample

RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 256, (6, 7, 10, 3), dtype=np.uint8)
SHORT = RNG.integers(0, 256, (7, 5, 6, 3), dtype=np.uint8)
"""Of which two windows are made, or three."""


class Local(nn.Cell):
    """A network that sees no further than its neighbours in space and time, and everything that it is given."""

    compute_dtype = ms.float32

    def __init__(self):
        super().__init__()
        self.space = nn.Conv2d(6, 3, 3, pad_mode="pad", padding=1, weight_init=Tensor(self.weight(3, 6, 3, 3)))

    def weight(self, *shape: int) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32) / np.prod(shape[1:]) ** 0.5

    def construct(self, x: Tensor, c_noise: Tensor, context: Tensor, vector: Tensor, image_only: bool) -> Tensor:
        b, t, c, h, w = x.shape
        y = ops.reshape(self.space(ops.reshape(x, (b * t, c, h, w))), (b, t, 3, h, w))
        return ops.tanh(y + ops.sum(vector) * 0.01 + c_noise / 1000)


def build(config=SMALL_UPSAMPLER) -> Upsample:
    networks = build_networks(config)
    for network in networks.values():
        fill(network)
    return model_of(config).pipeline(config, networks, lambda: 10**10, {})


@pytest.fixture(scope="module")
def pipe() -> Upsample:
    return build()


@pytest.fixture(scope="module")
def unchanged(pipe) -> np.ndarray:
    with eagerly():
        return pipe(SHORT, output="float", progress=False)


@pytest.fixture(scope="module")
def local() -> Upsample:
    config = SMALL_UPSAMPLER
    denoiser = Denoiser(Local(), build_preconditioning(config))
    return Upsample(config, model_of(config).build_conditioner(config, {}, {}), denoiser, None, lambda: 10**10)


@pytest.mark.parametrize("tile, overlap", [(16, 4), (12, 6), (24, 8)])
def test_in_tiles_and_windows_as_whole(eager, local, tile, overlap):
    """Exactly, where networks see less than the margin of a tile: noise and steps are those of the whole video."""
    video = RNG.integers(0, 256, (9, 40, 52, 3), dtype=np.uint8)
    whole = local(video, output="float", window=9, window_overlap=0, progress=False)
    cut = local(video, output="float", tile=tile, tile_overlap=overlap, progress=False)
    assert whole.std() > 0.1 and np.abs(cut - whole).max() < 1e-5


def test_any_size_is_enlarged(eager, pipe):
    """The sides of the small model's frames need be multiples of nothing; those of the other two are made so."""
    deeper = replace(SMALL_IMAGES.unet, channel_mult=[1, 1, 1])
    for one in (pipe, build(replace(SMALL_IMAGES, unet=deeper))):
        result = one(VIDEO[:2], progress=False)
        assert result.shape == (2, 14, 20, 3) and result.dtype == np.uint8
        assert one(VIDEO[0], progress=False).shape == (14, 20, 3)


def test_without_temporal_layers_frames_are_images(eager, pipe):
    noise = RNG.standard_normal((6, 3, 14, 20)).astype(np.float32)
    low_noise = RNG.standard_normal((6, 3, 7, 10)).astype(np.float32)
    options = {"image_only": True, "output": "float", "progress": False}
    together = pipe(VIDEO, noise=noise, low_noise=low_noise, **options)
    for i in (0, 3, 5):
        alone = pipe(VIDEO[i], noise=noise[i : i + 1], low_noise=low_noise[i : i + 1], **options)
        np.testing.assert_allclose(alone, together[i], atol=1e-4)
    with_time = pipe(VIDEO, noise=noise, low_noise=low_noise, output="float", progress=False)
    assert np.abs(with_time - together).max() > 0.01


def test_noise_is_of_the_seed_and_the_frame_alone(eager, pipe):
    first, again, other = (pipe(VIDEO, seed=seed, progress=False, eta=1.0) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    stream = list(pipe.stream(iter(VIDEO), seed=1, progress=False, eta=1.0))
    assert np.array_equal(np.stack(stream), first)


def test_the_level_of_the_noise_is_added_and_told(eager, pipe):
    """A given video that is all noise is as good as another; the network hears of the level even so."""
    zeros = {"noise": np.zeros((6, 3, 14, 20)), "low_noise": np.zeros((6, 3, 7, 10))}
    grey = np.full((6, 7, 10, 3), 0.5, np.float32)  # no signal and no noise: the level is told, and nothing else
    low, high = (pipe(grey, noise_level=level, output="float", progress=False, **zeros) for level in (0, 300))
    assert np.abs(low - high).max() > 0.01
    conditioner = pipe.conditioner
    x, n = (RNG.standard_normal((2, 3, 4, 5)).astype(np.float32) for _ in range(2))
    alpha_bar = np.cumprod(1 - np.linspace(0.0001**0.5, 0.02**0.5, 1000) ** 2)
    noisy = np.sqrt(alpha_bar[300]) * x + np.sqrt(1 - alpha_bar[300]) * n
    seen = conditioner.noised(x, n, 300)
    assert seen.shape == (2, 3, 8, 10)
    np.testing.assert_allclose(seen, conditioner.noised(noisy.astype(np.float32), 0 * n, 0), atol=1e-3)


@pytest.mark.parametrize(
    "name, value",
    [
        ("noise_level", 300),
        ("sampling_steps", 3),
        ("eta", 1.0),
        ("spacing", "trailing"),
        ("offset", 100),
        ("window", 3),
        ("window_overlap", 2),
        ("tile", 4),
        ("preconditioning", "vp_eps"),
    ],
)
def test_every_setting_changes_the_result(eager, pipe, unchanged, name, value):
    options = {"output": "float", "progress": False}
    if name == "preconditioning":
        changed = build(replace(SMALL_UPSAMPLER, preconditioning=value))(SHORT, **options)
    else:
        changed = pipe(SHORT, **options, **{name: value})
    assert np.abs(changed - unchanged).max() > 1e-3


def test_latents_are_decoded_in_tiles_if_asked(eager):
    config = replace(
        SMALL_IMAGES,
        unet=replace(SMALL_IMAGES.unet, in_channels=7, out_channels=4),
        autoencoder=AutoencoderConfig(channels=32, channel_mult=[1, 1], num_res_blocks=1, decoder="image"),
    )
    pipe, options = build(config), {"output": "float", "progress": False}
    latents = pipe(VIDEO[0], output="latents", progress=False)
    assert latents.shape == (4, 7, 10)
    whole, tiled = pipe(VIDEO[0], **options), pipe(VIDEO[0], decode_tile_size=8, **options)
    assert whole.shape == tiled.shape == (14, 20, 3) and np.abs(whole - tiled).max() > 1e-3
    with pytest.raises(MemoryLimitError, match="decoding 1920 x 1080 needs .* give decode_tile_size="):
        pipe.check_memory(pipe.settings(memory_gb=0.5, tile=16), 1080, 1920, 1)


@pytest.mark.parametrize(
    "video, options, message",
    [
        (VIDEO[..., :2], {}, "video must be"),
        (VIDEO[:0], {}, "video must be"),
        (VIDEO.astype(np.float32), {}, "floats in"),
        (VIDEO, {"noise_level": 350}, "noise_level must be below 350"),
        (VIDEO, {"guidance": 2.0}, "guidance is for models that are given text"),
        (VIDEO, {"prompt": "a cat"}, "prompt is for models that are given text"),
        (VIDEO, {"output": "latents"}, "output latents is for models that have some"),
        (VIDEO, {"decode_tile_size": 64}, "decode_tile_size is for models of latents"),
        (VIDEO, {"tile_overlap": 2}, "tile_overlap is for tiles"),
        (VIDEO, {"sampling_steps": 1001}, "sampling_steps must be at most 1000"),
        (VIDEO, {"window": 2, "window_overlap": 2}, "window_overlap 2 must be smaller than window 2"),
        (VIDEO, {"noise": np.zeros((6, 3, 4, 4))}, "noise must be"),
        (VIDEO, {"num_frames": 4}, "unknown setting num_frames"),
        (VIDEO, {"seed": -1}, "seed must not be negative"),
    ],
)
def test_what_is_refused(eager, pipe, video, options, message):
    with pytest.raises(ConfigError, match=message):
        pipe(video, progress=False, **options)


def test_what_does_not_fit_is_told_a_tile_that_does(eager, pipe):
    settings, size = pipe.settings(memory_gb=1.0), (1080, 1920, 1)
    with pytest.raises(MemoryLimitError, match="needs about .* GB, and there are 1.0 GB: give tile=") as error:
        pipe.check_memory(settings, *size)
    tile = int(str(error.value).rpartition("=")[2])
    pipe.check_memory(replace(settings, tile=tile), *size)
    with pytest.raises(MemoryLimitError):
        pipe.check_memory(replace(settings, tile=tile + 1), *size)
    with pytest.raises(MemoryLimitError, match="give a window below 4"):
        pipe.check_memory(replace(settings, memory_gb=2e-5), 8, 8, 1)


def test_frames_on_their_way_have_to_fit_too(eager, pipe):
    """As many as windows and steps make, however long the video is; without overlap, windows go alone."""
    settings = pipe.settings(memory_gb=4.0, sampling_steps=75, tile=64)
    pipe.check_memory(settings, 1080, 1920, length=4)
    with pytest.raises(MemoryLimitError, match="keeping 235 frames of 1920 x 1080.* give window_overlap=0"):
        pipe.check_memory(settings, 1080, 1920)
    pipe.check_memory(replace(settings, window_overlap=0), 1080, 1920)
