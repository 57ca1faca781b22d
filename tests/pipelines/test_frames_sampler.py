"""Windows of given frames by a tiny model: context guidance, and what is told."""

from dataclasses import replace

import numpy as np
import pytest
from comparison import CHAIN, assert_close
from small_text_model import build_text_pipe
from text_training import TINY_VIDEO

from svd.config import ConfigError, TemporalConfig, TextSamplingConfig, VideoLDMLayers
from svd.pipelines.given_frames import FramesSampler
from svd.pipelines.pipeline import NoiseSource

MODEL = replace(
    TINY_VIDEO,
    temporal=TemporalConfig(video_ldm=VideoLDMLayers(frames=True, motion=True)),
    sampling=TextSamplingConfig(num_frames=4, height=8, width=8, sampling_steps=1, spacing="trailing"),
)
SHAPE = (4, 4, 8, 8)
LATENTS = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
TWO, NONE = np.array([1, 1, 0, 0], np.float32), np.zeros(4, np.float32)
SEED = (3, 1)


@pytest.fixture(scope="module")
def pipe():
    return build_text_pipe(MODEL)


def draw(pipe, mask=TWO, guidance=1.0, noise=0, **told) -> np.ndarray:
    told = {"seed": SEED, "prompt": "a cat", "fps": 8.0, "motion_bucket_id": 60.0} | told
    return FramesSampler(pipe, MODEL.sampling, guidance, noise)(LATENTS, mask, **told)


def test_without_given_frames_it_is_text_to_video(eager, pipe):
    noise = NoiseSource(SEED, 1)((1, *SHAPE)).asnumpy()
    expected = pipe("a cat", noise=noise, guidance=1, motion_bucket_id=60.0, output="latents", progress=False)
    assert np.array_equal(draw(pipe, NONE), expected)
    assert np.abs(draw(pipe) - expected).max() > 0.01


def test_context_guidance(mode, pipe):
    """f(z) + s (f(z; c) - f(z)): of a single step of ddim, whose result is linear in f."""
    with_frames, without = draw(pipe), draw(pipe, NONE)
    for scale in (0.0, 2.5):
        expected = without + scale * (with_frames - without)
        assert_close(draw(pipe, guidance=scale), expected, CHAIN)


def test_what_is_told_counts(eager, pipe):
    before = draw(pipe)
    for told in ({"seed": (3, 2)}, {"motion_bucket_id": 3.0}, {"prompt": ""}, {"noise": 100}):
        assert np.abs(draw(pipe, **told) - before).max() > 1e-4, told
    assert np.array_equal(draw(pipe, fps=3.0), before)  # this model is not told it


def test_models_that_are_given_no_frames_are_refused(eager):
    other = build_text_pipe(TINY_VIDEO)
    with pytest.raises(ConfigError, match="the model is given no frames"):
        FramesSampler(other, MODEL.sampling)
