"""Images and videos from text: what the pipeline's arguments do, on small random models."""

import warnings
from dataclasses import fields, replace
from functools import cache

import mindspore as ms
import numpy as np
import pytest
from comparison import CHAIN, assert_close
from mindspore import Tensor
from small_text_model import SMALL_IMAGE, SMALL_VIDEO, build_text_pipe, small_text_pipe

from svd.conditioning.tokenizer import PromptError
from svd.config import ConfigError, MotionModules, TemporalConfig, TextSamplingConfig, VideoLDMLayers
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.guidance import guided
from svd.diffusion.preconditioning import vp_v
from svd.errors import NumericalError
from svd.pipelines.text_to_video import TextToVideo
from svd.pipelines.windows import in_windows


def quiet(pipe, *args, **options) -> np.ndarray:
    return pipe(*args, progress=False, **options)


@pytest.fixture
def image_pipe(mode) -> TextToVideo:
    return small_text_pipe("image", mode)


@pytest.fixture
def video_pipe(mode) -> TextToVideo:
    return small_text_pipe("video", mode)


@pytest.fixture
def pipe(eager) -> TextToVideo:
    """That of videos, where one mode is enough."""
    return small_text_pipe("video", 1)


def test_images(image_pipe):
    image = quiet(image_pipe, "a cat")
    assert image.shape == (16, 24, 3) and image.dtype == np.uint8 and image.std() > 1
    assert quiet(image_pipe, "a cat", output="latents").shape == (4, 8, 12)


def test_several_images(eager):
    pipe = small_text_pipe("image", 1)
    several = quiet(pipe, ["a cat", "the dog"], seed=[0, 1], output="float")
    assert several.shape == (2, 16, 24, 3) and several.dtype == np.float32
    np.testing.assert_allclose(several[0] * 255, quiet(pipe, "a cat"), atol=0.51)


def test_videos(video_pipe):
    video = quiet(video_pipe, "a cat")
    assert video.shape == (3, 16, 24, 3) and video.dtype == np.uint8 and video.std() > 1
    assert quiet(video_pipe, ["a cat"], output="latents").shape == (1, 3, 4, 8, 12)
    assert np.abs(video[0].astype(int) - video[1]).max() > 1


def test_a_clip_is_as_alone_in_its_batch(pipe):
    together = quiet(pipe, ["a cat", "the dog"], ["slow", ""], seed=[3, 4], output="latents", eta=0.5)
    for i, (prompt, negative, seed) in enumerate((("a cat", "slow", 3), ("the dog", "", 4))):
        assert_close(together[i], quiet(pipe, prompt, negative, seed=seed, output="latents", eta=0.5), CHAIN)


def test_without_temporal_layers_it_is_the_image_model_frame_by_frame(eager):
    """The networks of images have the same names, and are given each frame's noise."""
    video, image = build_text_pipe(SMALL_VIDEO), build_text_pipe(SMALL_IMAGE)
    shared = video.denoiser.network.parameters_dict()
    for parameter in image.denoiser.network.get_parameters():
        parameter.set_data(shared[parameter.name])
    noise = np.random.default_rng(0).standard_normal((1, 3, 4, 8, 12)).astype(np.float32)
    frames = quiet(video, "a cat", noise=noise, image_only=True, output="latents")
    images = [quiet(image, "a cat", noise=noise[:, [i]], output="latents") for i in range(3)]
    assert_close(frames, np.stack(images), CHAIN)
    assert np.abs(quiet(video, "a cat", noise=noise, output="latents") - frames).max() > 0.01


SETTINGS = {
    "num_frames": (2, {}),
    "height": (24, {}),
    "width": (16, {}),
    "fps": (30, {}),
    "motion_bucket_id": (20, {}),
    "sampling_steps": (3, {}),
    "sampler": ("euler", {}),
    "eta": (0.5, {}),
    "spacing": ("trailing", {}),
    "offset": (7, {}),
    "guidance": (3.0, {}),
    "guidance_interval": ((0.0, 1.0), {}),
    "guidance_rescale": (0.7, {}),
    "reuse_every": (2, {"sampling_steps": 3}),
    "reuse_depth": (0, {"sampling_steps": 3, "reuse_every": 2}),
    "window": (2, {}),
    "window_overlap": (1, {"num_frames": 4, "window": 2}),
    "decode_chunk_size": (2, {"decode_overlap": 1}),
    "decode_overlap": (0, {"num_frames": 6, "decode_chunk_size": 3}),
    "decode_tile_size": (8, {}),
    "decode_memory_gb": (1e-9, {}),
}
"""A value that is not the small model's own, and what it takes to have an effect."""


def test_every_setting_is_tried():
    assert SETTINGS.keys() == {field.name for field in fields(TextSamplingConfig)}


@pytest.fixture(scope="module")
def draw():
    """draw(**settings): a video, or its latents, of a model that is told the frame rate and the motion bucket, and
    whose decoder is that of videos, so that all settings have an effect; each is made once."""
    autoencoder = replace(SMALL_VIDEO.autoencoder, decoder="temporal")
    layers = TemporalConfig(video_ldm=VideoLDMLayers(fps=True, motion=True))
    pipe = build_text_pipe(replace(SMALL_VIDEO, autoencoder=autoencoder, temporal=layers))
    return cache(lambda **settings: quiet(pipe, "a cat", **settings))


@pytest.mark.filterwarnings("ignore:.* is not the size")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_the_video(eager, draw, name):
    """In latents, if it is not of decoding."""
    value, more = SETTINGS[name]
    more = {"output": "float" if name.startswith("decode") else "latents", **more}
    videos = [draw(**more), draw(**{**more, name: value})]
    assert videos[0].shape != videos[1].shape or np.abs(videos[0] - videos[1]).max() > 1e-6


def test_guidance_in_an_interval_of_noise_levels(eager, draw):
    """Of no noise level that is visited, it is no guidance."""
    never = draw(guidance=3.0, guidance_interval=(100.0, 200.0), output="latents")
    np.testing.assert_array_equal(never, draw(guidance=1.0, output="latents"))


def test_guidance(pipe):
    """At 1 it is left out; the negative prompt is what it leads away from, which is empty otherwise."""
    noise = np.random.default_rng(0).standard_normal((1, 3, 4, 8, 12)).astype(np.float32)
    settings = pipe.settings(guidance=2.0)
    cond, uncond = pipe.conditioner(["a cat"], 8), pipe.conditioner([""], 8)
    x = noise * np.sqrt(1 + 2.0**2)
    x0_cond, x0_uncond = (pipe.denoiser(x, 2.0, each).asnumpy() for each in (cond, uncond))
    pair = pipe.condition(["a cat"], [""], settings, progress=False)
    guide = guided(pipe.denoiser.bind, *pair, 2.0)
    assert_close(guide(Tensor(x.astype(np.float32)), 2.0), 2 * x0_cond - x0_uncond, CHAIN)
    plain = quiet(pipe, "a cat", output="latents")
    assert np.abs(plain - quiet(pipe, "a cat", "the dog", output="latents")).max() > 1e-3
    same = quiet(pipe, "a cat", "a cat", output="latents")  # D_u = D_c: guidance has no effect
    assert_close(same, quiet(pipe, "a cat", guidance=1, output="latents"), CHAIN)


def test_without_an_end_at_zero_latents_are_on_the_models_own_scale(pipe):
    """With a network that says that all is noise, what is left is the start; at unit variance, as the model has it."""
    silent = Denoiser(lambda x, *_: x, vp_v(pipe.sigmas))
    silent = replace_denoiser(pipe, silent)
    noise = np.random.default_rng(0).standard_normal((1, 3, 4, 8, 12)).astype(np.float32)
    record, sigmas = vp_v(pipe.sigmas), pipe.levels(pipe.settings())
    x = noise[0] * np.sqrt(1 + sigmas[0] ** 2)
    for sigma, sigma_next in zip(sigmas, sigmas[1:]):
        x0 = (record.c_skip(sigma) + record.c_out(sigma) * record.c_in(sigma)) * x
        x = x0 + (x - x0) * sigma_next / sigma
    result = quiet(silent, "a cat", noise=noise, guidance=1, output="latents")
    assert sigmas[-1] == pipe.sigmas[0] > 0
    assert_close(result, x / np.sqrt(1 + sigmas[-1] ** 2), 1e-5)


def replace_denoiser(pipe: TextToVideo, denoiser: Denoiser) -> TextToVideo:
    return TextToVideo(pipe.config, pipe.conditioner, denoiser, pipe.autoencoder, pipe.free_memory)


# --- windows ---


def test_windows_of_a_frame_wise_denoiser_are_the_whole():
    x = np.random.default_rng(0).standard_normal((2, 11, 4, 3, 3)).astype(np.float32)
    seen = []

    def denoise(x, sigma):
        seen.append(x.shape[1])
        return x * Tensor(np.float32(0.5)) + Tensor(np.float32(sigma))

    result = in_windows(denoise, 4, 1)(Tensor(x), 2.0)
    assert seen == [4, 4, 4, 4]  # of 11 frames: 0-3, 3-6, 6-9, and the last, shifted back to fit, 7-10
    np.testing.assert_allclose(result.asnumpy(), 0.5 * x + 2, rtol=1e-6)


def test_windows_cross_fade_where_they_overlap():
    number = iter(range(2))
    denoise = in_windows(lambda x, sigma: Tensor(np.full(x.shape, next(number), np.float32)), 4, 2)
    result = denoise(Tensor(np.zeros((1, 6, 1, 1, 1), np.float32)), 1.0).asnumpy().ravel()
    np.testing.assert_allclose(result, [0, 0, 1 / 3, 2 / 3, 1, 1], rtol=1e-6)


def test_a_longer_video_in_windows(pipe):
    """Noise belongs to frames: what lies in the first window alone begins with the same."""
    one = quiet(pipe, "a cat", num_frames=6, window=3, window_overlap=0, sampling_steps=1, output="latents")
    alone = quiet(pipe, "a cat", num_frames=3, sampling_steps=1, output="latents")
    assert one.shape == (6, 4, 8, 12) and np.isfinite(one).all()
    assert_close(one[:3], alone, CHAIN)
    whole = quiet(pipe, "a cat", window=5, output="latents")  # larger than the video
    np.testing.assert_array_equal(whole, quiet(pipe, "a cat", output="latents"))


def test_frames_without_positions_are_refused(eager):
    layers = TemporalConfig(motion_modules=MotionModules(heads=2, max_frames=4))
    pipe = build_text_pipe(replace(SMALL_VIDEO, temporal=layers))
    for wrong in ({"num_frames": 5}, {"num_frames": 9, "window": 5}):
        with pytest.raises(ConfigError, match=r"positions for 4 frames: give a window of at most 4, and a video of"):
            quiet(pipe, "a cat", **wrong)
    assert quiet(pipe, "a cat", num_frames=6, window=4, output="latents").shape[0] == 6


# --- what is refused, and what is warned of ---


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prompt": []}, "prompt must be text, or a list of texts"),
        ({"prompt": [1]}, "prompt must be text, or a list of texts"),
        ({"prompt": None}, "prompt must be text, or a list of texts"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt must be one, or one for each of 1 prompts"),
        ({"negative_prompt": "a", "guidance": 1}, "negative_prompt acts through guidance"),
        ({"output": "video"}, "output must be uint8, float or latents"),
        ({"steps": 3}, "unknown setting steps; known are num_frames, height"),
        ({"height": 18}, "height and width must be multiples of 4, got 18 x 24"),
        ({"sampling_steps": 1001}, "sampling_steps must be at most 1000, the timesteps that there are, got 1001"),
        (
            {"sampling_steps": 1000},
            "1000 steps of leading spacing with offset 1 would begin at timestep 1000, which must",
        ),
        ({"sampling_steps": 1, "offset": 0}, "1 steps of leading spacing with offset 0 would begin at timestep 0"),
        ({"sampling_steps": 1, "spacing": "linspace"}, "1 steps of linspace spacing .* would begin at timestep 0"),
        ({"seed": [1, 2]}, "seed must be one number, or one for each of 1 clips"),
        ({"seed": -1}, "seed must not be negative"),
        ({"noise": np.zeros((1, 3, 4, 8, 8))}, r"noise must be of shape \[1, 3, 4, 8, 12\]"),
        ({"motion_bucket_id": 5}, "the model is not told how much moves: motion_bucket_id cannot be 5"),
        ({"sampler": "euler", "eta": 1}, "eta is for the sampler ddim"),
    ],
)
def test_what_cannot_be_is_refused(pipe, arguments, message):
    with pytest.raises(ConfigError, match=message):
        quiet(pipe, **{"prompt": "a cat", **arguments})


def test_bytes_that_are_no_text_are_refused(pipe):
    with pytest.raises(PromptError, match="is not UTF-8"):
        quiet(pipe, "a \udcff")


def test_a_model_of_images_makes_no_videos(eager):
    with pytest.raises(ConfigError, match="the model turns text into images: num_frames must be 1, got 2"):
        quiet(small_text_pipe("image", 1), "a cat", num_frames=2)


def test_what_is_warned_of(pipe):
    with pytest.warns(UserWarning, match="16 x 16 is not the size that the model was trained on: 16 x 24"):
        quiet(pipe, "a cat", width=16, output="latents")
    with pytest.warns(UserWarning, match="a prompt of 10000 tokens is cut after 10"):
        quiet(pipe, "cat " * 10_000, output="latents")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet(pipe, "", output="latents")


def test_values_that_are_not_finite_are_an_error(pipe):
    broken = replace_denoiser(pipe, Denoiser(lambda x, *_: x * ms.Tensor(np.float32(np.nan)), vp_v(pipe.sigmas)))
    with pytest.raises(NumericalError, match="not finite: try amp_level O0"):
        quiet(broken, "a cat")
