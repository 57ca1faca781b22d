"""The pipeline's call: what it takes, what it gives, and that every setting does what it says.

`pipe` is the small random model under graph mode; `light` is the pipeline around it with networks of no cost, for
what does not depend on their values.
"""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comparison import assert_close, relative_error
from device import DEVICE
from mindspore import Tensor
from PIL import Image
from small_model import SMALL

from svd import runtime
from svd.cli.options import parse
from svd.conditioning.conditioning import Conditioning
from svd.config import ConfigError, load_config
from svd.data.images import ImageError, prepare_image
from svd.pipelines.progress import Bars
from svd_tools import image_to_video

CONFIGS = Path(__file__).parents[2] / "configs"
HEIGHT, WIDTH, FRAMES = 16, 24, 3
LATENTS = (FRAMES, 4, 8, 12)


@pytest.fixture(scope="session")
def _mode() -> int:
    """Graph mode only: the modes are compared with each other, and with the reference, in test_golden.py."""
    return 0


@pytest.fixture
def pipe(small_pipe):
    return small_pipe


@pytest.fixture
def light(small_pipe):
    """Every video of it is grey; `calls` keeps what the networks were called with."""
    light = copy.copy(small_pipe)
    light.bars, light.calls = Bars(), {"conditioner": [], "denoiser": [], "decoder": []}

    def conditioner(images, *numbers_and_noise):
        light.calls["conditioner"].append((images, *numbers_and_noise))
        b, t, (h, w) = len(images), numbers_and_noise[0], (side // 2 for side in images.shape[-2:])
        shapes = (b, 1, 16), (b, t, 4, h, w), (b, 24)
        return tuple(Conditioning(*(Tensor(np.zeros(shape, np.float32)) for shape in shapes)) for _ in range(2))

    def denoise(x, sigma):
        light.calls["denoiser"].append((x, sigma))
        return x * 0

    def decode_window(z):
        light.calls["decoder"].append(z.shape)
        return np.zeros((*z.shape[:2], 3, 2 * z.shape[3], 2 * z.shape[4]), np.float32)

    light.conditioner, light.autoencoder = SimpleNamespace(pair=conditioner), copy.copy(light.autoencoder)
    light.denoiser = SimpleNamespace(bind=lambda conditioning, image_only, reuse: denoise)
    light.autoencoder._decode_window = decode_window
    return light


@pytest.fixture
def photo() -> np.ndarray:
    """uint8 [h w 3] of the video's size."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def other(photo) -> np.ndarray:
    return 255 - photo[::-1]


def latents(pipe, image, **options) -> np.ndarray:
    return pipe(image, progress=False, output="latents", **options)


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- images in ---


def test_a_path_a_pil_image_and_an_array_give_the_same_video(pipe, photo, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    expected = latents(pipe, photo)
    for image in (path, str(path), Image.fromarray(photo)):
        np.testing.assert_array_equal(latents(pipe, image), expected)
    for dtype in (np.float32, np.float64, np.float16):
        assert_close(latents(pipe, (photo / 255).astype(dtype)), expected, 2e-5 if dtype != np.float16 else 5e-3)


def test_an_array_of_the_videos_size_keeps_its_values(light):
    """Finer than 8 bits."""
    image = np.random.default_rng(3).random((HEIGHT, WIDTH, 3), dtype=np.float32)
    light(image, progress=False)
    np.testing.assert_array_equal(light.calls["conditioner"][0][0][0].transpose(1, 2, 0), image * 2 - 1)


def test_an_array_of_another_size_is_resized_as_a_file_is(light, tmp_path):
    """Without distortion, and floats like bytes."""
    large = np.random.default_rng(1).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    for resize in ("crop", "pad"):
        for image in (large, large / 255, Image.fromarray(large)):
            light(image, resize=resize, progress=False)
        expected = prepare_image(Image.fromarray(large), HEIGHT, WIDTH, resize) / 127.5 - 1
        for call in light.calls["conditioner"]:
            np.testing.assert_allclose(call[0][0].transpose(1, 2, 0), expected, atol=1e-6)
        light.calls["conditioner"].clear()


def test_fit_chooses_the_size_of_the_video_by_the_image(light):
    """A portrait gives a portrait: of about the area, in multiples of what the networks halve."""
    portrait = Image.new("RGB", (400, 600))
    with pytest.warns(UserWarning, match="24 x 16 is not the size that the model was trained on: 16 x 24"):
        video = light(portrait, resize="fit", progress=False)
    assert video.shape == (FRAMES, 24, 16, 3)
    images, *_, noise = light.calls["conditioner"][0]
    assert images.shape == noise.shape == (1, 3, 24, 16)


def test_several_images_in_a_list_or_an_array(light, photo, other):
    for images in ([photo, other], (photo, other), np.stack([photo, other]), [photo, Image.fromarray(other)]):
        assert light(images, progress=False).shape == (2, FRAMES, HEIGHT, WIDTH, 3)
    assert light([photo], progress=False).shape == (1, FRAMES, HEIGHT, WIDTH, 3)
    assert light(photo, progress=False).shape == (FRAMES, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ("nowhere.png", "nowhere.png: no such file; check the path"),
        (Image.new("RGB", (1, 1)), "1x1: too small"),
        (np.full((HEIGHT, WIDTH, 3), np.nan), "NaN"),
        (np.full((HEIGHT, WIDTH, 3), 255.0), r"floats must lie in \[0, 1\]"),
        (np.zeros((HEIGHT, WIDTH), np.uint8), r"images of shape \[16, 24\]"),
        ([], "no image was given"),
        (np.zeros((0, HEIGHT, WIDTH, 3), np.uint8), "no image was given"),
    ],
    ids=["missing", "small", "nan", "range", "grey", "none", "empty"],
)
def test_an_image_that_cannot_be_used(light, image, what):
    with pytest.raises(ImageError, match=what) as error:
        light(image)
    one_line(error)
    assert not light.calls["conditioner"]


def test_images_of_different_shapes_are_fitted_one_by_one_only(light):
    portrait, landscape = Image.new("RGB", (60, 90)), Image.new("RGB", (90, 60))
    assert light([portrait, landscape], progress=False).shape[0] == 2, "crop brings them to one size"
    with pytest.raises(ImageError, match="different shapes cannot be fitted in one batch"):
        light([portrait, landscape], resize="fit")


def test_an_unknown_resize(light):
    with pytest.raises(ImageError, match="resize 'stretch' is unknown; choose crop, pad or fit"):
        light(Image.new("RGB", (60, 90)), resize="stretch")


# --- videos out ---


def test_outputs(pipe, photo):
    video = pipe(photo, progress=False)
    assert video.dtype == np.uint8 and video.shape == (FRAMES, HEIGHT, WIDTH, 3)
    exact = pipe(photo, progress=False, output="float")
    assert exact.dtype == np.float32 and exact.shape == video.shape
    assert exact.min() >= 0 and exact.max() <= 1 and exact.std() > 0.01
    np.testing.assert_array_equal(video, np.round(exact * 255))
    z = latents(pipe, photo)
    assert z.dtype == np.float32 and z.shape == LATENTS
    np.testing.assert_array_equal(pipe.decode(z[None], pipe.settings(), progress=False)[0], exact)


def test_values_beyond_black_and_white_are_clipped(light, photo):
    light.autoencoder._decode_window = lambda z: np.tile(
        np.float32([-1.5, 0, 1.5]).reshape(1, 1, 3, 1, 1), (*z.shape[:2], 1, HEIGHT, WIDTH)
    )
    assert {tuple(pixel) for pixel in light(photo, progress=False).reshape(-1, 3)} == {(0, 128, 255)}
    assert {tuple(pixel) for pixel in light(photo, progress=False, output="float").reshape(-1, 3)} == {(0, 0.5, 1)}


def test_an_unknown_output(light, photo):
    with pytest.raises(ConfigError, match="output must be uint8, float or latents, got 'mp4'"):
        light(photo, output="mp4")


def test_encode_and_decode_are_of_matching_shapes(pipe):
    video = np.random.default_rng(2).uniform(-1, 1, (1, FRAMES, 3, HEIGHT, WIDTH)).astype(np.float32)
    encoded = pipe.autoencoder.encode(video)
    assert encoded.shape == (1, *LATENTS)
    assert pipe.autoencoder.decode(encoded).shape == video.shape
    one = pipe.autoencoder.encode(video[:, 1:2])
    assert_close(encoded[:, 1:2], one)


# --- batches and noise ---


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_a_batch_of_two_clips_equals_two_batches_of_one(pipe, photo, other, churn):
    batch = latents(pipe, [photo, other], seed=3, churn=churn)
    single = [latents(pipe, image, seed=3, churn=churn) for image in (photo, other)]
    assert relative_error(*single) > 0.01
    assert_close(batch, np.stack(single))


def test_the_same_seed_gives_the_same_video(pipe, photo):
    first = pipe(photo, seed=1, progress=False)
    np.testing.assert_array_equal(pipe(photo, seed=1, progress=False), first)
    assert (pipe(photo, seed=2, progress=False) != first).mean() > 0.5
    np.testing.assert_array_equal(pipe(photo, progress=False), pipe(photo, seed=0, progress=False))


def test_clips_of_a_batch_may_have_seeds_and_motion_buckets_of_their_own(pipe, photo):
    batch = latents(pipe, [photo, photo], seed=[3, (7, 4)], motion_bucket_id=[0, 200], churn=1.0)
    first, second, still = (
        latents(pipe, photo, seed=seed, motion_bucket_id=bucket, churn=1.0)
        for seed, bucket in ((3, 0), ((7, 4), 200), ((7, 4), 0))
    )
    assert_close(batch, np.stack([first, second]))
    assert min(relative_error(first, still), relative_error(second, still)) > 1e-3, "by the seed, and by the bucket"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"seed": [1]}, "seed must be one number, or one for each of 2 clips, got 1"),
        ({"seed": [1, -2]}, "seed must not be negative, got -2"),
        ({"motion_bucket_id": [1, 2, 3]}, "motion_bucket_id must be one number, or one for each of 2 images"),
        ({"motion_bucket_id": [1, -2]}, "motion_bucket_id must not be negative, got -2"),
    ],
    ids=str,
)
def test_seeds_and_motion_buckets_that_do_not_fit(light, photo, given, what):
    with pytest.raises(ConfigError, match=f"^{what}"):
        light([photo, photo], **given)
    assert not light.calls["conditioner"]


def test_the_image_model_alone_draws_frame_by_frame(pipe, photo):
    """Without its temporal layers no frame is changed by another's noise, in latents and decoded."""
    noise = np.random.default_rng(8).standard_normal((1, *LATENTS), dtype=np.float32)
    other = noise.copy()
    other[:, -1] *= -1
    for image_only in (False, True):
        options = {"image_only": image_only, "guidance": [2.0, 2.0]}
        a, b = (latents(pipe, photo, noise=given, **options) for given in (noise, other))
        changed = np.abs(a - b).max((1, 2, 3)) > 1e-4
        assert changed.tolist() == ([False, False, True] if image_only else [True, True, True])


def test_nothing_is_compiled_for_another_seed_image_or_schedule(pipe, photo, other):
    """Of the same size; the noise levels are inputs of the graph."""

    def compiled() -> int:
        networks = (pipe.conditioner.image_encoder, pipe.conditioner.encoder, pipe.autoencoder.decoder)
        return sum(len(cell.compile_cache) for cell in (*networks, *pipe.denoiser.graphs.values()))

    pipe(photo, seed=1, sampling_steps=2, progress=False)
    before = compiled()
    pipe(other, seed=2, sampling_steps=3, sigma_max=80.0, fps=9, motion_bucket_id=3, progress=False)
    assert compiled() == before >= 5
    pipe.conditioner.image_encoder(Tensor(np.zeros((7, 3, 8, 8), np.float32)))
    assert compiled() == before + 1, "for seven images at once"


def test_noise_given_is_used_as_it_is_and_a_seed_stands_for_known_noise(pipe, photo):
    """NumPy's generator: first the latents' noise, then the image's. Videos of today can be drawn again tomorrow."""
    generator = np.random.default_rng(5)
    noise = generator.standard_normal((1, *LATENTS), dtype=np.float32)
    aug_noise = generator.standard_normal((1, 3, HEIGHT, WIDTH), dtype=np.float32)
    expected = latents(pipe, photo, seed=5)
    for given in ({"noise": noise, "aug_noise": aug_noise}, {"noise": noise.tolist()}, {"aug_noise": aug_noise}):
        np.testing.assert_array_equal(latents(pipe, photo, seed=5, **given), expected)
    both = {"noise": noise, "aug_noise": aug_noise}
    np.testing.assert_array_equal(latents(pipe, photo, seed=99, **both), expected)
    for name in both:
        assert relative_error(latents(pipe, photo, seed=5, **{name: -both[name]}), expected) > 1e-4


@pytest.mark.parametrize("given", [(), ("noise",), ("aug_noise",), ("noise", "aug_noise")], ids="+".join)
def test_what_is_drawn_does_not_depend_on_what_is_given(light, photo, given):
    """Nor on the number of clips: noise, noise on the image and churn, each from its own place in the seed's stream."""
    generator = np.random.default_rng(7)
    noise, aug_noise, churned = (
        generator.standard_normal(shape, dtype=np.float32) for shape in (LATENTS, (3, HEIGHT, WIDTH), LATENTS)
    )
    for clips in (1, 2):
        zeros = {"noise": np.zeros((clips, *LATENTS)), "aug_noise": np.zeros((clips, 3, HEIGHT, WIDTH))}
        options = {"guidance": [1.0, 1.0], "sigma_max": 10.0, "churn": 0.5, "sampling_steps": 2}
        light([photo] * clips, seed=7, progress=False, **options, **{name: zeros[name] for name in given})
        augmented = light.calls["conditioner"][-1][-1]
        x, sigma = light.calls["denoiser"][-2]
        assert sigma == pytest.approx(12.5), "10, raised by a quarter"
        start = 0 if "noise" in given else noise * np.sqrt(1 + 10**2)
        for clip in range(clips):
            np.testing.assert_array_equal(augmented[clip], 0 if "aug_noise" in given else aug_noise)
            np.testing.assert_allclose(x.asnumpy()[clip], start + 7.5 * churned, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"noise": np.zeros(LATENTS)}, r"noise must be of shape \[1, 3, 4, 8, 12\], got \[3, 4, 8, 12\]"),
        ({"noise": np.zeros((2, *LATENTS))}, r"noise must be of shape \[1, 3, 4, 8, 12\], got \[2, 3, 4, 8, 12\]"),
        ({"aug_noise": np.zeros((1, 3, 8, 12))}, r"aug_noise must be of shape \[1, 3, 16, 24\], got \[1, 3, 8, 12\]"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_noise_that_does_not_fit(light, photo, given, what):
    with pytest.raises(ConfigError, match=f"^{what}$"):
        light(photo, **given)
    assert not light.calls["conditioner"]


# --- settings ---


def test_an_unknown_setting_is_answered_with_the_known_ones(light, photo):
    with pytest.raises(ConfigError, match="unknown setting num_frame, speed; known are num_frames, .*memory_gb"):
        light(photo, num_frame=3, speed=1)


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ({"num_frames": 1}, "num_frames must be at least 2"),
        ({"num_frames": 0}, "num_frames must be at least 2"),
        ({"height": 18}, "height and width must be multiples of 4, got 18 x 24"),
        ({"sampling_steps": -3}, "sampling_steps must be positive, got -3"),
        ({"guidance": (1.0,)}, "guidance takes two numbers"),
        *[
            ({"guidance_interval": interval}, "guidance_interval takes two noise levels from 0 up, the lower first")
            for interval in ((1.0,), (5.0, 0.3), (2.0, 2.0), (-1.0, 2.0), (0.0, float("nan")))
        ],
    ],
    ids=str,
)
def test_a_setting_out_of_bounds(light, photo, setting, what):
    with pytest.raises(ConfigError, match=what):
        light(photo, **setting)


def test_what_is_not_set_is_the_models_own(light):
    own = replace(SMALL.sampling, fps=11, motion_bucket_id=3)
    light.config = replace(SMALL, sampling=own)
    assert light.settings() == own
    assert light.settings(fps=5, guidance=(2.0, 3.0)) == replace(own, fps=5, guidance=(2.0, 3.0))


def test_settings_may_be_given_as_a_whole(light, photo):
    """As they are, and with some of their fields changed."""
    own = replace(SMALL.sampling, fps=11, num_frames=4, sampling_steps=1)
    assert light(photo, settings=own, fps=8, progress=False).shape[0] == 4
    assert light.calls["conditioner"][0][1:3] == (4, 8) and len(light.calls["denoiser"]) == 1


def test_settings_reach_the_conditioner_and_the_schedule(light, photo):
    settings = {"num_frames": 5, "fps": 9, "motion_bucket_id": 60, "noise_aug_strength": 0.1}
    light(photo, **settings, sampling_steps=3, sigma_min=0.1, sigma_max=8.0, rho=1.0, progress=False)
    assert light.calls["conditioner"][0][1:5] == (5, 9, [60], 0.1)
    sigmas = [sigma for _, sigma in light.calls["denoiser"]]
    np.testing.assert_allclose(sigmas, [8.0, 4.05, 0.1])
    assert light.calls["denoiser"][0][0].shape == (2, 5, 4, 8, 12), "unconditional and conditional"


def test_guidance_over_the_frames(pipe, photo):
    """One step is linear in the scale: D_u + s (D_c - D_u), s by frame; frames of scale 1 are the conditional's."""
    options = {"sampling_steps": 1, "seed": 2}
    conditional = latents(pipe, photo, guidance=[1.0, 1.0 + 1e-9], **options)
    linear = latents(pipe, photo, guidance=[1.0, 2.5], **options)
    triangular = latents(pipe, photo, guidance=[1.0, 2.5], guidance_shape="triangular", **options)
    change = relative_error(linear, conditional)
    assert change > 1e-3
    for result, scales in ((linear, (1, 1.75, 2.5)), (triangular, (1, 2.5, 1))):
        for frame, scale in enumerate(scales):
            direction = (linear[2] - conditional[2]) / 1.5 if frame == 2 else (linear[1] - conditional[1]) / 0.75
            if frame:
                assert_close(result[frame], conditional[frame] + (scale - 1) * direction, 1e-3 * change)
            else:
                assert_close(result[frame], conditional[frame], 1e-3 * change)


def test_guidance_in_an_interval_of_noise_levels(light, photo):
    """Noise levels 8, 6, 4, 2: at 6 and 4 both branches are run, at the others only that of the image."""
    schedule = {"sampling_steps": 4, "sigma_max": 8.0, "sigma_min": 2.0, "rho": 1.0, "progress": False}
    conditions, bind = [], light.denoiser.bind

    def noted(conditioning, image_only, reuse):
        return lambda x, sigma: conditions.append(conditioning) or bind(conditioning, image_only, reuse)(x, sigma)

    light.denoiser.bind = noted
    light([photo, photo], guidance_interval=[3.0, 6.0], **schedule)
    assert [(x.shape[0], sigma) for x, sigma in light.calls["denoiser"]] == [(2, 8.0), (4, 6.0), (4, 4.0), (2, 2.0)]
    assert [conditioning.context.shape[0] for conditioning in conditions] == [2, 4, 4, 2]


def test_an_interval_of_all_noise_levels_is_the_default(pipe, photo):
    np.testing.assert_array_equal(latents(pipe, photo, guidance_interval=[0.0, 701.0]), latents(pipe, photo))


def test_a_guidance_interval_on_the_command_line():
    """Infinity too comes back from the file of options that a run leaves."""
    parser = image_to_video.build_parser("image_to_video.py")
    model = [f"--SVD.config={CONFIGS / 'svd.yaml'}", "--SVD.checkpoint=weights.safetensors", "--image=a.png"]
    for flags, interval in (([], [0.0, np.inf]), (["[0.3,5]"], [0.3, 5.0]), (["[0.3,.inf]"], [0.3, np.inf])):
        flags = [f"--SVD.guidance_interval={flag}" for flag in flags]
        args = parse(parser, model + flags)
        _, sampling = image_to_video.resolve(args)
        assert sampling.guidance_interval == interval
        again = parser.parse_string(parser.dump(args))
        assert again.SVD.guidance_interval == interval


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_churn_draws_new_noise_and_is_reproducible(pipe, photo, sampler):
    options = {"sampler": sampler, "seed": 4}
    churned = latents(pipe, photo, churn=2.0, **options)
    np.testing.assert_array_equal(latents(pipe, photo, churn=2.0, **options), churned)
    assert relative_error(churned, latents(pipe, photo, **options)) > 0.01
    assert relative_error(churned, latents(pipe, photo, churn=2.0, sampler=sampler, seed=5)) > 0.01


def test_noise_of_a_stochastic_sampler_is_the_seeds(pipe, photo):
    options = {"sigma_max": 5.0, "seed": 4}
    drawn = latents(pipe, photo, sampler="dpmpp_2m_sde", **options)
    np.testing.assert_array_equal(latents(pipe, photo, sampler="dpmpp_2m_sde", **options), drawn)
    plain = latents(pipe, photo, sampler="dpmpp_2m", **options)
    assert relative_error(plain, drawn) > 0.001  # the small random model contracts
    np.testing.assert_array_equal(latents(pipe, photo, sampler="dpmpp_2m_sde", eta=0.0, **options), plain)


def test_second_order_samplers_are_nearer_to_the_solution(pipe, photo):
    """Twelve steps of each against sixty of Euler's, which all converge to."""
    options = {"sigma_max": 5.0, "seed": 6}
    solution = latents(pipe, photo, sampling_steps=60, **options)
    error = {
        sampler: np.sqrt(np.mean((latents(pipe, photo, sampling_steps=12, sampler=sampler, **options) - solution) ** 2))
        for sampler in ("euler", "heun", "dpmpp_2m", "unipc")
    }
    assert all(error[sampler] < 0.7 * error["euler"] for sampler in ("heun", "dpmpp_2m", "unipc")), error
    assert error["euler"] < 0.1 * np.abs(solution).max()


# --- decoding within memory ---


def decoded_shapes(light, photo, **settings) -> list[tuple[int, ...]]:
    """Frames, height and width in latents of every call of the decoder."""
    light.calls["decoder"].clear()
    assert light(photo, progress=False, **settings).shape[1:] == (HEIGHT, WIDTH, 3)
    return [(shape[1], *shape[3:]) for shape in light.calls["decoder"]]


def test_chunks_and_their_overlap(light, photo):
    whole = (8, 12)
    assert decoded_shapes(light, photo, num_frames=7, decode_chunk_size=7) == [(7, *whole)]
    assert decoded_shapes(light, photo, num_frames=7, decode_chunk_size=100) == [(7, *whole)]
    assert decoded_shapes(light, photo, num_frames=7, decode_chunk_size=3, decode_overlap=0) == [(3, *whole)] * 3
    assert decoded_shapes(light, photo, num_frames=7, decode_chunk_size=3, decode_overlap=2) == [(3, *whole)] * 5
    assert decoded_shapes(light, photo, num_frames=7, decode_chunk_size=3) == [(3, *whole)] * 3, "a third: one frame"
    assert decoded_shapes(light, photo, num_frames=7, decode_chunk_size=1) == [(1, *whole)] * 7


def test_tiles(light, photo):
    """Tiles of 8 pixels are 4 latents, each a quarter over the last: three down, four across."""
    shapes = decoded_shapes(light, photo, decode_chunk_size=3, decode_tile_size=8)
    assert shapes == [(3, 4, 4)] * 12
    assert decoded_shapes(light, photo, decode_chunk_size=3, decode_tile_size=512) == [(3, 8, 12)]


@pytest.mark.parametrize(("frames_that_fit", "chunk"), [(0.3, 1), (1.0, 1), (2.0, 2), (2.9, 2), (50, 3)])
def test_the_memory_limit_decides_the_chunk_and_it_is_said(light, photo, capsys, frames_that_fit, chunk):
    """Less than a frame cannot be decoded: then it is one."""
    per_frame = light.autoencoder.decode_bytes_per_frame(8, 12)
    limit = frames_that_fit * (per_frame + 1) / 1e9
    light(photo, decode_memory_gb=limit)
    assert light.calls["decoder"][0][1] == chunk
    assert f"decoding {chunk} of 3 frames at a time: about 0.0 GB of the 0.0 GB allowed" in capsys.readouterr().err


def test_more_clips_share_the_memory_limit(light, photo):
    limit = 3.1 * light.autoencoder.decode_bytes_per_frame(8, 12) / 1e9
    light([photo] * 3, decode_memory_gb=limit, progress=False)
    assert {shape[:2] for shape in light.calls["decoder"]} == {(3, 1)}


def test_without_a_limit_it_is_half_of_what_is_free(light, photo, capsys):
    light.free_memory = lambda: 5 * light.autoencoder.decode_bytes_per_frame(8, 12)
    light(photo)
    assert light.calls["decoder"][0][1] == 2
    light.calls["decoder"].clear()
    light(photo, decode_chunk_size=3)
    assert light.calls["decoder"][0][1] == 3, "what is asked for goes before the limit"
    assert capsys.readouterr().err.count("frames at a time") == 1, "and need not be said"


def test_the_real_decoder_in_chunks(pipe, photo):
    """Two chunks of two frames, which share the one in the middle: the others are as their chunk alone has them."""
    z = latents(pipe, photo)[None]
    video = pipe.decode(z, pipe.settings(decode_chunk_size=2, decode_overlap=1), progress=False)[0]
    first, last = (pipe.autoencoder.decode(part)[0] for part in (z[:, :2], z[:, 1:]))
    expected = np.stack([first[0], (first[1] + last[0]) / 2, last[1]]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(video, np.clip((expected + 1) / 2, 0, 1), atol=1e-6)
    assert np.abs(first[1] - last[0]).max() > 1e-3


# --- progress and warnings ---


def test_compilation_is_said_once_per_size(light, photo, capsys):
    light(photo)
    assert capsys.readouterr().err.count("compiling the graph") == 3, "encoding, sampling, decoding"
    light(photo, seed=1, fps=9, sampling_steps=3, sampler="heun")
    assert "compiling" not in capsys.readouterr().err
    light(photo, num_frames=4)
    assert capsys.readouterr().err.count("compiling the graph") == 2, "the image is encoded as before"
    light(photo, guidance=[1.0, 1.0])
    assert capsys.readouterr().err.count("compiling the graph") == 1, "without guidance half the clips are sampled"
    light(photo, guidance_interval=[1.0, 5.0])
    assert "compiling" not in capsys.readouterr().err, "the first step is without guidance, as just now"


def test_nothing_is_compiled_in_pynative_mode(light, photo, capsys):
    runtime.setup(DEVICE, mode=1)
    light(photo)
    told = capsys.readouterr().err
    assert "compil" not in told
    assert all(bar in told for bar in ("encoding: 100%", "sampling: 100%", "decoding: 100%"))


def test_progress_can_be_turned_off(light, photo, capsys):
    light(photo, progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ({"fps": 40}, "fps 40 is outside of what the model was trained on: 6 to 31"),
        ({"fps": 5}, "fps 5 is outside of what the model was trained on: 6 to 31"),
        ({"motion_bucket_id": 256}, "motion_bucket_id 256 is outside of .*: 0 to 255"),
        ({"noise_aug_strength": 0.5}, "noise_aug_strength 0.5 is outside of .*: 0.011 to 0.223"),
        ({"noise_aug_strength": 0.0}, "noise_aug_strength 0 is outside of .*: 0.011 to 0.223"),
        ({"width": 28}, "16 x 28 is not the size that the model was trained on: 16 x 24"),
        ({"height": 20}, "20 x 24 is not the size that the model was trained on: 16 x 24"),
    ],
    ids=str,
)
def test_outside_of_the_training_a_warning_says_the_range(light, photo, setting, what):
    with pytest.warns(UserWarning, match=f"^{what}$") as warned:
        light(photo, progress=False, **setting)
    assert len(warned) == 1 and warned[0].filename == __file__, "it points to the caller"


def test_inside_of_the_training_nothing_is_warned_of(light, photo):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fps, motion, strength in ((6, 0, 0.011), (31, 255, 0.223), (7, 127, 0.02)):
            light(photo, fps=fps, motion_bucket_id=motion, noise_aug_strength=strength, progress=False)


def test_svd_xt_1_1_was_trained_on_single_values(light, photo):
    light.config = replace(SMALL, trained_range=load_config(CONFIGS / "svd_xt_1_1.yaml").trained_range)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        light(photo, progress=False)
    with pytest.warns(UserWarning) as warned:
        light(photo, fps=8, motion_bucket_id=100, progress=False)
    assert [str(warning.message).split(": ")[-1] for warning in warned] == ["7 only", "127 only"]


# --- values that are not finite ---


def test_a_network_that_returns_nan_is_told_of(light, photo):
    light.denoiser.bind = lambda conditioning, image_only, reuse: lambda x, sigma: x * float("nan")
    with pytest.raises(FloatingPointError, match="^the network returned values that are not finite: try amp_level O0$"):
        light(photo, progress=False)
    assert not light.calls["decoder"]


def test_a_decoder_that_returns_nan_is_told_of(light, photo):
    """Cast to 8 bits it would be some colour."""
    light.autoencoder._decode_window = lambda z: np.full((*z.shape[:2], 3, HEIGHT, WIDTH), np.nan, np.float32)
    with pytest.raises(FloatingPointError, match="^the decoder returned values that are not finite: try amp_level O0$"):
        light(photo, progress=False)


def test_latents_that_are_nan_are_told_of_by_the_real_decoder(pipe):
    with pytest.raises(FloatingPointError, match="the decoder returned values that are not finite"):
        pipe.decode(np.full((1, *LATENTS), np.nan, np.float32), pipe.settings(decode_chunk_size=3), progress=False)
