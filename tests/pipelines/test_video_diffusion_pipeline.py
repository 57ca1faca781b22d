"""The pipeline of models in pixel space: chains of the references, seeds, conditions, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from comparison import CHAIN, assert_close
from small_model import fill

from svd.build import build_networks
from svd.config import ConfigError, PixelSamplingConfig, VideoDiffusionConfig
from svd.config.pixel_networks import FactorisedAttention, LucidrainsConfig, PixelTemporalConfig, PixelUNetConfig
from svd.models.video_diffusion import pipeline

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
    ):
        with pytest.raises(ConfigError, match=message):
            pipe(progress=False, **options)
    with pytest.raises(ConfigError, match=r"condition must be \[1 4\], got \[3\]"):
        told(condition=np.ones(3), progress=False)
    with pytest.raises(ConfigError, match="sampling_steps must be at most 4"):
        told(sampling_steps=5, progress=False)
    reference = replace(VIDEO, temporal=PixelTemporalConfig(FactorisedAttention(distance=3, reference=True)))
    with pytest.raises(ConfigError, match="num_frames must be 4"):
        reference.check_sampling(SAMPLING)


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
