"""Image to video beyond the trained length, and between two images: what the pipeline's arguments do.

`pipe` is the small random model under pynative mode; tests/parity/test_two_images.py compares with PyTorch, in graph
mode too.
"""

from dataclasses import replace

import numpy as np
import pytest
from comparison import CHAIN, assert_close, relative_error
from PIL import Image
from small_model import SMALL, build_small_pipe

from svd.config import ConfigError
from svd.data.images import ImageError

HEIGHT, WIDTH = 16, 24


@pytest.fixture(scope="module")
def built():
    return build_small_pipe()


@pytest.fixture
def pipe(eager, built):
    return built


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def other(photo) -> np.ndarray:
    return 255 - photo[::-1]


def latents(pipe, image, **options) -> np.ndarray:
    """Of one step, unless it is said."""
    return pipe(image, progress=False, output="latents", **{"sampling_steps": 1, **options})


# --- windows ---


def test_a_window_of_all_frames_is_none(pipe, photo):
    """Bit for bit, whatever its overlap."""
    plain = latents(pipe, photo, churn=1.0)
    for options in ({"window": 3}, {"window": 14, "window_overlap": 5}):
        np.testing.assert_array_equal(latents(pipe, photo, churn=1.0, **options), plain)


def test_the_first_window_is_the_video_of_its_length(pipe, photo):
    """One step, no overlap: its frames beside the first are those of a video as long as a window, from this noise."""
    generator = np.random.default_rng(1)
    noise = generator.standard_normal((1, 5, 4, 8, 12), dtype=np.float32)
    options = {"aug_noise": generator.standard_normal((1, 3, HEIGHT, WIDTH), dtype=np.float32)}
    windows = latents(pipe, photo, num_frames=5, window=3, window_overlap=0, noise=noise, **options)
    first, second = (latents(pipe, photo, noise=noise[:, frames], **options) for frames in ([0, 1, 2], [0, 3, 4]))
    assert_close(windows[1:3], first[1:], CHAIN)
    assert_close(windows[3:], second[1:], CHAIN)
    assert_close(windows[0], (first[0] + second[0]) / 2, CHAIN)


def test_noise_of_a_seed_is_shared_and_noise_given_is_as_it_is(pipe, photo, monkeypatch):
    """The seed's stream: noise, noise on the image, then the orders of each clip."""
    started = []
    monkeypatch.setattr(pipe, "sample", lambda pair, noise, *_: started.append(noise) or noise)
    options = {"num_frames": 7, "window": 3, "window_overlap": 0}
    latents(pipe, [photo, photo], seed=[4, 5], **options)
    for clip, seed in zip(started[0], (4, 5)):
        generator = np.random.default_rng(seed)
        drawn = generator.standard_normal((7, 4, 8, 12), dtype=np.float32)
        generator.standard_normal((3, HEIGHT, WIDTH), dtype=np.float32)
        order = generator.permutation(2)
        expected = [0, 1, 2, *(1 + order), *(1 + order[order])]
        np.testing.assert_array_equal(clip, drawn[expected])
    given = np.random.default_rng(9).standard_normal((1, 7, 4, 8, 12), dtype=np.float32)
    latents(pipe, photo, noise=given, **options)
    np.testing.assert_array_equal(started[1], given)


def test_clips_in_windows_are_as_alone(pipe, photo, other):
    options = {"num_frames": 5, "window": 3, "churn": 1.0}
    batch = latents(pipe, [photo, other], seed=[1, 2], **options)
    for result, image, seed in zip(batch, (photo, other), (1, 2)):
        assert_close(result, latents(pipe, image, seed=seed, **options))


def test_half_of_a_window_overlaps_by_default(pipe, photo):
    options = {"num_frames": 7, "window": 5}
    plain = latents(pipe, photo, **options)
    np.testing.assert_array_equal(plain, latents(pipe, photo, window_overlap=2, **options))
    assert relative_error(plain, latents(pipe, photo, window_overlap=1, **options)) > 1e-3


def test_a_video_in_windows(pipe, photo):
    video = pipe(photo, num_frames=6, window=3, sampling_steps=1, progress=False)
    assert video.shape == (6, HEIGHT, WIDTH, 3) and video.dtype == np.uint8


# --- between two images ---


def test_between_two_images(pipe, photo, other):
    """Both count; exchanged, with the noise reversed, they give the video reversed."""
    noise = np.random.default_rng(3).standard_normal((1, 3, 4, 8, 12), dtype=np.float32)
    video = latents(pipe, photo, last_image=other, noise=noise)
    assert min(relative_error(video, latents(pipe, image, noise=noise)) for image in (photo, other)) > 0.01
    back = latents(pipe, other, last_image=photo, noise=noise[:, ::-1])
    assert_close(back[::-1], video, CHAIN)
    linear = latents(pipe, photo, last_image=other, noise=noise, fusion="linear")
    assert relative_error(linear, video) > 1e-3


def test_linear_fusion_leaves_the_ends_to_their_images(pipe, photo, other):
    """One step, without guidance: the first frame is that of the first image's video, and so is the last."""
    noise = np.random.default_rng(3).standard_normal((1, 3, 4, 8, 12), dtype=np.float32)
    options = {"guidance": 1.0}
    video = latents(pipe, photo, last_image=other, fusion="linear", noise=noise, **options)
    forward, backward = (
        latents(pipe, photo, noise=noise, **options),
        latents(pipe, other, noise=noise[:, ::-1], **options),
    )
    assert_close(video[0], forward[0], CHAIN)
    assert_close(video[-1], backward[0], CHAIN)
    assert_close(video[1], (forward[1] + backward[1]) / 2, CHAIN)


def test_several_images_with_one_last_image_or_several(pipe, photo, other):
    third = np.roll(photo, 5, 1)
    one, both = (latents(pipe, [photo, other], last_image=last, seed=[1, 2]) for last in (third, [third, photo]))
    assert_close(one[0], both[0])
    assert_close(both[1], latents(pipe, other, last_image=photo, seed=2))
    files = [Image.fromarray(image) for image in (photo, third)]
    assert_close(latents(pipe, files[0], last_image=files[1], seed=1), one[0])


def test_the_last_image_takes_the_size_of_the_first(pipe):
    """With `fit`, which the first one chooses the size for."""
    portrait, landscape = (Image.fromarray(np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8))
                           for h, w in ((60, 40), (40, 60)))  # fmt: skip
    with pytest.warns(UserWarning, match="24 x 16 is not the size"):
        video = pipe(portrait, last_image=landscape, resize="fit", sampling_steps=1, progress=False)
    assert video.shape == (3, 24, 16, 3)


def test_renoise(pipe, photo, other):
    """It has an effect on any video, and the seed repeats it."""
    for options in ({}, {"last_image": other}):
        repeated = {"renoise": 1, "renoise_part": 1.0, **options}
        first, again = (latents(pipe, photo, churn=1.0, seed=3, **repeated) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert relative_error(first, latents(pipe, photo, churn=1.0, seed=3, **options)) > 0.01


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"last_image": "other", "num_frames": 6, "window": 3}, "a video between two images is drawn at once"),
        ({"last_image": "other", "image_only": True}, "image_only leaves out what joins two images"),
        ({"fusion": "linear"}, "fusion is for videos between two images: give last_image"),
        ({"window": 1}, "window must be at least 2, its first frame and another, got 1"),
        (
            {"window": 3, "window_overlap": 2},
            "window_overlap 2 must be smaller than what window 3 has beside its first",
        ),
        ({"window_overlap": 2}, "window_overlap 2 goes with a window"),
        ({"renoise": 1, "sampler": "dpmpp_2m"}, "renoise is for the samplers euler and heun, got dpmpp_2m"),
        ({"renoise": -1}, "renoise must not be negative"),
        ({"renoise": 1, "renoise_part": 1.5}, "renoise_part must be from 0 to 1"),
        ({"renoise_part": 0.7}, "renoise_part 0.7 goes with renoise"),
        ({"window": 10_000}, "window must be at most 1024"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(pipe, photo, other, options, what):
    options = {name: other if value == "other" else value for name, value in options.items()}
    with pytest.raises(ConfigError, match=f"^{what}") as error:
        latents(pipe, photo, **options)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused(pipe, photo, other):
    with pytest.raises(ConfigError, match="last_image must be one image, or one for each of 3, got 2"):
        latents(pipe, [photo] * 3, last_image=[other] * 2)
    with pytest.raises(ImageError, match="nowhere.png: no such file"):
        latents(pipe, photo, last_image="nowhere.png")


def test_a_model_may_have_a_fusion_of_its_own(pipe, photo, other, monkeypatch):
    monkeypatch.setattr(pipe, "config", replace(SMALL, sampling=replace(SMALL.sampling, fusion="linear")))
    latents(pipe, photo)
    own = latents(pipe, photo, last_image=other)
    np.testing.assert_array_equal(own, latents(pipe, photo, last_image=other, fusion="linear"))
