"""The image-to-video task: what is drawn for a sample, and what the loss is given for a clip."""

from dataclasses import replace

import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE
from mindspore import Tensor
from small_model import build_small_pipe

from svd import runtime
from svd.data.video_dataset import Clip
from svd.diffusion.loss import loss_coefficients
from svd.training.config import LossConfig
from svd.training.tasks.video import DenoisingObjective, Draws, draw, trained_parameters

SHAPES = {"latents": (3, 4, 8, 12), "image": (3, 16, 24)}
"""Of a clip of the small model."""
POINT = {"latents": (1, 1, 1, 1), "image": (1, 1, 1)}
FIELDS = list(Draws.__dataclass_fields__)


# --- draws ---


@pytest.fixture(scope="module")
def many() -> Draws:
    """Of 4000 samples, with other means and rates than the defaults."""
    config = LossConfig(p_mean=0.7, p_std=1.2, noise_aug_mean=-2, noise_aug_std=0.4, drop_context=0.2, drop_concat=0.3)
    return draw(config, 5, list(range(4000)), **POINT)


def test_shapes():
    draws = draw(LossConfig(), 0, [4, 9], **SHAPES)
    shapes = {name: getattr(draws, name).shape for name in FIELDS}
    latents, image = (2, 3, 4, 8, 12), (2, 3, 16, 24)
    assert shapes == dict.fromkeys(FIELDS, (2,)) | {"noise": latents, "posterior_noise": latents, "aug_noise": image}
    assert draws.noise.dtype == draws.posterior_noise.dtype == draws.aug_noise.dtype == np.float32


def test_frames_with_a_noise_level_each_meet_the_rest_as_ever():
    config = LossConfig(p_mean=-0.5, p_std=0.7)
    clips, frames = (draw(config, 5, list(range(3000)), (3, 1, 1, 1), (1, 1, 1), each) for each in (False, True))
    assert frames.sigma.shape == (3000, 3)
    logs = np.log(frames.sigma)
    np.testing.assert_allclose([logs.mean(), logs.std()], [-0.5, 0.7], atol=0.03)
    assert abs(np.corrcoef(logs.T) - np.eye(3)).max() < 0.06
    for name in set(FIELDS) - {"sigma"}:
        np.testing.assert_array_equal(getattr(clips, name), getattr(frames, name), err_msg=name)


def test_what_a_sample_meets_does_not_depend_on_its_batch():
    together = draw(LossConfig(), 0, [3, 70_000, 5], **SHAPES)
    for place, sample in enumerate((3, 70_000, 5)):
        alone = draw(LossConfig(), 0, [sample], **SHAPES)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(together, name)[place], getattr(alone, name)[0], err_msg=name)


@pytest.mark.parametrize("seed, sample", [(1, 3), (0, 4)])
def test_seeds_and_samples_differ_in_everything(seed, sample):
    a, b = draw(LossConfig(), 0, [3], **SHAPES), draw(LossConfig(), seed, [sample], **SHAPES)
    for name in FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        if x.dtype == bool:
            continue
        assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.15 if x.size > 1 else x != y, name


def test_the_noises_of_a_sample_differ():
    draws = draw(LossConfig(), 0, [3], **SHAPES)
    noises = [draws.noise.ravel(), draws.posterior_noise.ravel(), draws.aug_noise.ravel()]
    for noise in noises:
        assert abs(noise.mean()) < 0.15 and abs(noise.std() - 1) < 0.1
    shared = np.corrcoef([noise[: noises[1].size] for noise in noises])
    assert np.abs(shared - np.eye(3)).max() < 0.15


def test_levels_are_log_normal(many):
    for values, mean, std in ((many.sigma, 0.7, 1.2), (many.aug_strength, -2, 0.4)):
        logs = np.log(values)
        assert abs(logs.mean() - mean) < 4 * std / np.sqrt(4000)
        assert abs(logs.std() / std - 1) < 4 / np.sqrt(8000)
        assert abs(((logs - mean) ** 3).mean()) / std**3 < 0.2  # not skewed
    for noise in (many.noise, many.posterior_noise, many.aug_noise):
        assert abs(noise.mean()) < 0.07 and abs(noise.std() - 1) < 0.05


def test_image_and_latents_are_left_out_independently(many):
    context, concat = many.keep_context, many.keep_concat
    assert context.dtype == concat.dtype == bool
    for kept, rate in ((context, 0.8), (concat, 0.7), (context & concat, 0.56), (~context & ~concat, 0.06)):
        assert abs(kept.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 4000)


def test_all_that_is_drawn_is_independent(many):
    rows = np.stack([getattr(many, name).reshape(4000) for name in FIELDS])
    rows[[FIELDS.index("sigma"), FIELDS.index("aug_strength")]] = np.log([many.sigma, many.aug_strength])
    assert np.abs(np.corrcoef(rows) - np.eye(len(FIELDS))).max() < 0.08


@pytest.mark.parametrize("rate, kept", [(0.0, True), (1.0, False)])
def test_extreme_rates(rate, kept):
    draws = draw(LossConfig(drop_context=rate, drop_concat=rate), 0, list(range(200)), **POINT)
    assert (draws.keep_context == kept).all() and (draws.keep_concat == kept).all()


def test_a_rate_changes_nothing_else():
    """Nor do means and standard deviations change what is drawn of the rest."""
    config = LossConfig(p_mean=3, noise_aug_std=0, drop_context=1.0)
    a, b = draw(LossConfig(), 0, [3], **SHAPES), draw(config, 0, [3], **SHAPES)
    for name in ("noise", "posterior_noise", "aug_noise", "keep_concat"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_allclose(b.sigma / a.sigma, np.exp(2))
    np.testing.assert_allclose(b.aug_strength, np.exp(-3))


# --- inputs of the loss ---

PIXELS = np.random.default_rng(1).integers(0, 256, (3, 3, 16, 24, 3), dtype=np.uint8)
CLIPS = [Clip(PIXELS[i], fps, bucket, "") for i, (fps, bucket) in enumerate(((8.0, 127.0), (23.5, 30.0), (5.0, 0.0)))]
VIDEO = PIXELS.transpose(0, 1, 4, 2, 3).astype(np.float32) / 127.5 - 1


@pytest.fixture(scope="module")
def task() -> DenoisingObjective:
    runtime.setup(DEVICE, 1)
    pipe = build_small_pipe()
    trained = {f"network.{p.name}": p for p in trained_parameters(pipe.denoiser.network, True)}
    return DenoisingObjective(pipe.conditioner, pipe.autoencoder, pipe.denoiser, trained, LossConfig(), seed=7)


@pytest.fixture(scope="module")
def draws() -> Draws:
    """Of three clips: one is given everything, one no embedding, one no latents."""
    keep = {"keep_context": np.array([True, False, True]), "keep_concat": np.array([True, True, False])}
    return replace(draw(LossConfig(), 7, [10, 11, 12], **SHAPES), **keep)


@pytest.fixture(scope="module")
def inputs(task, draws) -> list[np.ndarray]:
    """Latents, noise, coefficients, context, concat, vector."""
    numbers = [clip.fps for clip in CLIPS], [clip.motion_bucket_id for clip in CLIPS]
    return [x.asnumpy() for x in task.loss_inputs(VIDEO, *numbers, draws)]


def test_shapes_of_the_inputs(eager, inputs):
    latents = (3, 3, 4, 8, 12)
    assert [x.shape for x in inputs] == [latents, latents, (6, 3), (3, 1, 16), latents, (3, 24)]
    assert {x.dtype for x in inputs} == {np.dtype(np.float32)}


def test_latents_are_drawn_from_the_encoders_distribution(eager, task, inputs, draws):
    latents = task.autoencoder.encode(VIDEO, draws.posterior_noise).asnumpy()
    np.testing.assert_array_equal(inputs[0], latents)
    assert np.abs(latents - task.autoencoder.encode(VIDEO).asnumpy()).max() > 0.01


def test_noise_and_its_levels(eager, task, inputs, draws):
    np.testing.assert_array_equal(inputs[1], draws.noise)
    np.testing.assert_array_equal(inputs[2], loss_coefficients(task.preconditioning, draws.sigma).asnumpy())


def test_context_is_the_embedding_of_the_first_frame_or_nothing(eager, task, inputs):
    """Of the frame without the noise that is added to it for its latents."""
    expected = task.conditioner.embed_image(VIDEO[:, 0]).asnumpy()
    np.testing.assert_array_equal(inputs[3][[0, 2]], expected[[0, 2]])
    assert not inputs[3][1].any() and expected.any((1, 2)).all()


def test_concat_are_the_latents_of_the_noisy_first_frame_or_nothing(eager, task, inputs, draws):
    """The same for every frame: the mode, not scaled."""
    noisy = VIDEO[:, 0] + draws.aug_strength.reshape(3, 1, 1, 1).astype(np.float32) * draws.aug_noise
    expected = task.conditioner.encode_image(noisy).asnumpy()
    for frame in range(3):
        assert_close(inputs[4][:2, frame], expected[:2], 1e-6)
    assert not inputs[4][2].any() and expected.any((1, 2, 3)).all()
    clean = task.conditioner.encode_image(VIDEO[:, 0]).asnumpy()
    assert np.abs(clean - expected).max() > 1e-3


def test_vector_is_of_each_clips_numbers(eager, task, inputs, draws):
    """fps - 1, the motion bucket and the strength of the noise on the first frame."""
    for i, clip in enumerate(CLIPS):
        numbers = (clip.fps - 1, clip.motion_bucket_id, draws.aug_strength[i])
        np.testing.assert_array_equal(inputs[5][i], task.conditioner.embed_numbers(1, *numbers).asnumpy()[0])


def test_clips_of_the_dataset_become_inputs(eager, task):
    """Pixels from -1 to 1, first in the order of the channels, and the draws of the samples' numbers."""
    result = task.inputs(CLIPS, [4, 900, 5])
    drawn = draw(LossConfig(), 7, [4, 900, 5], **SHAPES)
    numbers = [clip.fps for clip in CLIPS], [clip.motion_bucket_id for clip in CLIPS]
    expected = task.loss_inputs(VIDEO, *numbers, drawn)
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_the_loss_takes_them(eager, task, inputs):
    """And is another for every clip, all of which it is the mean of."""
    losses = []
    for clips in ([0, 1, 2], [0], [1], [2]):
        part = [array[:, clips] if i == 2 else array[clips] for i, array in enumerate(inputs)]  # coefficients [6 b]
        losses.append(float(task.loss(*map(Tensor, map(np.ascontiguousarray, part))).asnumpy()))
    assert np.isfinite(losses).all() and min(losses) > 0
    np.testing.assert_allclose(losses[0], np.mean(losses[1:]), rtol=1e-5)
    assert np.ptp(losses[1:]) > 1e-3


def test_only_what_is_to_be_trained_has_gradients(task):
    network = {f"network.{p.name}": p for p in task.loss.get_parameters()}
    assert {name for name, p in network.items() if p.requires_grad} == task.trained.keys()
    assert 0 < len(task.trained) < len(network)
