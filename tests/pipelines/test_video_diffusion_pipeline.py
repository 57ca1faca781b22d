"""The pipeline of models in pixel space: chains of the references, seeds, conditions, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from comparison import CHAIN, assert_close
from small_model import fill

from svd.build import build_networks
from svd.config import ConfigError, PixelSamplingConfig, VideoDiffusionConfig
from svd.config.pixel_networks import FactorisedAttention, LucidrainsConfig, PixelTemporalConfig, PixelUNetConfig
from svd.diffusion.reconstruction import bilinear_rows
from svd.models.video_diffusion import pipeline
from svd.pipelines.given import Given

SAMPLING = PixelSamplingConfig(num_frames=2, height=8, width=8, sampling_steps=2)
UNET = PixelUNetConfig(1, 32, [1, 2], 1, [2], num_head_channels=16)
VIDEO = VideoDiffusionConfig(UNET, PixelTemporalConfig(FactorisedAttention()), sampling=SAMPLING)
TOLD = VideoDiffusionConfig(
    lucidrains=LucidrainsConfig(1, 8, [1, 2], 2, 8, cond_dim=4),
    preconditioning="cosine_eps",
    timesteps=4,
    sampling=SAMPLING,
)


def build(config: VideoDiffusionConfig):
    networks = build_networks(config)
    fill(networks["network"])
    return pipeline(config, networks, lambda: 0, {})


@pytest.fixture(scope="module")
def pipe():
    return build(VIDEO)


@pytest.fixture(scope="module")
def small():
    """Of one level, for gradients."""
    return build(replace(VIDEO, unet=replace(UNET, channel_mult=[1], attention_resolutions=[1])))


@pytest.fixture(scope="module")
def told():
    return build(TOLD)


def test_every_sample_follows_from_its_own_seed(eager, pipe):
    videos = pipe(3, seed=7, progress=False)
    assert videos.shape == (3, 2, 8, 8, 1) and videos.dtype == np.uint8
    np.testing.assert_array_equal(pipe(2, seed=7, progress=False), videos[:2])
    np.testing.assert_array_equal(pipe(1, seed=[[7, 1]], progress=False), videos[1:2])
    assert not np.array_equal(videos[0], videos[1])


def test_settings_act(eager, pipe):
    start = np.random.default_rng(0).standard_normal((1, 2, 1, 8, 8)).astype(np.float32)
    videos = [
        pipe(noise=start, output="float", progress=False, **settings)
        for settings in ({}, {"gamma": 1}, {"langevin": 0.5}, {"bound": "dynamic"}, {"sampling_steps": 3})
    ]
    videos.append(pipe(noise=start, output="float", progress=False, image_only=True))
    for i, video in enumerate(videos):
        assert video.min() >= 0 and video.max() <= 1
        assert all(np.abs(video - other).max() > 1e-3 for other in videos[:i])
    with pytest.warns(UserWarning, match="8 x 16 is not the size"):
        assert pipe(width=16, num_frames=3, progress=False).shape == (1, 3, 8, 16, 1)


def test_conditions_guide(eager, told):
    condition = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)

    def run(**options):
        return told(2, output="float", progress=False, gamma=0, **options)

    null = run()
    assert_close(run(condition=told.null), null, CHAIN)
    assert_close(run(condition=condition, guidance=0), null, CHAIN)
    plain, guided = run(condition=condition), run(condition=condition, guidance=3)
    assert np.abs(plain - null).max() > 1e-3 and np.abs(plain - guided).max() > 1e-3
    assert_close(run(condition=condition[0])[0], plain[0], CHAIN)
    other = run(condition=condition, unconditional=condition[1], guidance=3)
    assert_close(other[1], plain[1], CHAIN)


def test_what_cannot_be_is_refused(eager, pipe, told):
    for options, message in (
        ({"condition": np.ones(4)}, "told nothing"),
        ({"guidance": 2.0}, "guidance is for models that are told something"),
        ({"output": "latents"}, "output must be"),
        ({"num_samples": 0}, "num_samples must be positive"),
        ({"height": 9}, "multiples of 2"),
        ({"gamma": 2}, "gamma must be from 0 to 1"),
        ({"quantile": 0.5}, "quantile is for bound"),
        ({"steps": 2}, "unknown setting steps"),
        ({"time": 0.5}, "is for noised videos"),
        ({"noised": VIDEOS}, r"noised must be \[b t h w c\]"),
        ({"given": Given()}, "nothing is given"),
        ({"given": Given(VIDEOS[:1, :2])}, "belong together"),
        ({"given": Given(VIDEOS, [0])}, r"frames must be of shape \[1, 2, 8, 8, 1\], got \[2, 4, 8, 8, 1\]"),
        ({"given": Given(VIDEOS[:1, :2], [2])}, "known frames must be among 0 to 1"),
        ({"given": Given(low=np.zeros((1, 2, 3, 3, 1)))}, r"low must be of shape \[1, 2, 8/k, 8/k, 1\]"),
        ({"given": Given(low=np.zeros((1, 2, 4, 4, 1)), weight=0)}, "weight must be positive"),
        ({"given": Given(VIDEOS[:1, :2], [0], weight=-1)}, "weight must be from 0"),
        ({"given": Given(2.0 * VIDEOS[:1, :2], [0])}, "uint8, or floats from 0 to 1"),
        ({"given": Given(VIDEOS[:1, :2], [0]), "image_only": True}, "drawn from noise alone, by all layers"),
    ):
        with pytest.raises(ConfigError, match=message):
            pipe(progress=False, **options)
    for options, message in (
        ({"frames": 4, "overlap": 2}, "overlap must be from 1 to 1"),
        ({"frames": 4, "overlap": 1}, "frames must be more than the 4 of the video"),
    ):
        with pytest.raises(ConfigError, match=message):
            pipe.extend(VIDEOS, **options)
    with pytest.raises(ConfigError, match=r"condition must be \[1 4\], got \[3\]"):
        told(condition=np.ones(3), progress=False)
    with pytest.raises(ConfigError, match="sampling_steps must be at most 4"):
        told(sampling_steps=5, progress=False)
    reference = replace(VIDEO, temporal=PixelTemporalConfig(FactorisedAttention(distance=3, reference=True)))
    with pytest.raises(ConfigError, match="num_frames must be 4"):
        reference.check_sampling(SAMPLING)


VIDEOS = np.random.default_rng(1).integers(0, 256, (2, 4, 8, 8, 1), np.uint8)


def test_known_frames_stay_and_guide_the_others(eager, small):
    """Replacement, too, lets the network see them; guidance is none of its graph's constants."""
    drawn = [
        small(2, given=Given(VIDEOS, known, weight=weight), num_frames=4, progress=False)
        for known in ([0, 1], [0, 3])
        for weight in (0.0, 1.0, 5.0)
    ]
    drawn.append(small(2, num_frames=4, progress=False))
    for i, (videos, known) in enumerate(zip(drawn, [[0, 1]] * 3 + [[0, 3]] * 3)):
        np.testing.assert_array_equal(videos[:, known], VIDEOS[:, known])
        others = [frame for frame in range(4) if frame not in known]
        assert all(np.abs(videos[:, others].astype(int) - other[:, others]).max() > 1 for other in drawn[:i])
        assert np.abs(videos[:, others].astype(int) - drawn[-1][:, others]).max() > 1
    alone = small(1, given=Given(VIDEOS[1:], [0, 1]), num_frames=4, seed=[[0, 1]], progress=False)
    again = small(2, given=Given(VIDEOS, [0, 1]), num_frames=4, progress=False)
    assert np.abs(alone[0].astype(int) - again[1]).max() <= 1


def test_guidance_brings_a_video_to_its_lower_resolution(eager, small):
    low = np.random.default_rng(2).uniform(0.3, 0.7, (1, 2, 4, 4, 1))
    rows, errors = bilinear_rows(8, 2), []
    for weight in (0.1, 3.0):
        options = {"sampling_steps": 8, "output": "float", "progress": False}
        video = small(given=Given(low=low, weight=weight), **options)[0, ..., 0]
        errors.append(np.abs(rows @ video @ rows.T - low[0, ..., 0]).mean())
    assert errors[1] < errors[0] / 1.5


def test_guidance_of_reconstruction_and_of_conditions_combine(eager, told):
    condition = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    given = Given(VIDEOS[:, :2], [0])
    videos = [told(2, condition=condition, given=given, guidance=scale, progress=False) for scale in (1, 3)]
    np.testing.assert_array_equal(videos[1][:, 0], VIDEOS[:, 0])
    assert np.abs(videos[0].astype(int) - videos[1]).max() > 1


def test_videos_are_extended_to_any_length(eager, small):
    options = {"overlap": 1, "num_frames": 3, "progress": False, "seed": 5}
    long = small.extend(VIDEOS[:, :2], 7, **options)
    assert long.shape == (2, 7, 8, 8, 1) and long.dtype == np.uint8
    np.testing.assert_array_equal(long[:, :2], VIDEOS[:, :2])
    np.testing.assert_array_equal(small.extend(VIDEOS[:, :2], 5, **options), long[:, :5])
    first = small(2, given=Given(VIDEOS[:, 1:4], [0]), num_frames=3, seed=[[5, 0, 0], [5, 1, 0]], progress=False)
    np.testing.assert_array_equal(first[:, 1:], long[:, 2:4])
    assert (small.extend(VIDEOS[:, :2], 7, weight=0, **options) != long).any()


def test_noised_videos_are_denoised(eager, pipe):
    """From an early time little is lost; from the last, all."""
    near, far = (pipe(2, noised=VIDEOS[:, :2], time=time, progress=False).astype(int) for time in (0.001, 1.0))
    assert np.abs(near - VIDEOS[:, :2]).max() <= 2 < np.abs(far - VIDEOS[:, :2]).max()
    assert np.abs(far - pipe(2, progress=False)).max() <= 2


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"unet": UNET, "lucidrains": LucidrainsConfig()}, "takes the place of unet and temporal"),
        ({"unet": PixelUNetConfig(model_channels=4096)}, "at most 20 are built"),
        ({"timesteps": 100}, "timesteps are for preconditioning cosine_eps"),
    ],
)
def test_models_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        VideoDiffusionConfig(**settings)


def test_models_of_other_networks_are_told_apart():
    other = VideoDiffusionConfig(UNET, PixelTemporalConfig(), sampling=SAMPLING)
    assert "temporal.factorised" in VIDEO.different_networks(other)[0]
    assert VIDEO.different_networks(TOLD)[-1].startswith("its lucidrains is None")
    assert not VIDEO.different_networks(VIDEO)
