"""Feature reuse across the steps of a sampler."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from comparison import assert_close
from device import eagerly
from mindspore import Tensor, nn, ops
from small_model import SMALL, build_small_pipe, fill

from svd.conditioning.conditioning import Conditioning
from svd.config import ConfigError
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.guidance import guided
from svd.diffusion.preconditioning import v_scaling
from svd.diffusion.samplers import euler
from svd.diffusion.schedules import karras
from svd.layers.axes import per_image
from svd.networks.blocks.svd import svd_unet
from svd.networks.reuse import evaluate_keeping, evaluate_reusing
from svd.networks.split import Split

RNG = np.random.default_rng(0)
DEPTHS = range(SMALL.unet.steps_down)
STEPS, EVERY, SCALE = 5, 3, 2.0


def random(*shape: int) -> Tensor:
    return Tensor(RNG.standard_normal(shape).astype(np.float32))


X, NOISE_LEVEL = random(2, 3, 8, 4, 6), Tensor(np.array([0.5, -0.3], np.float32))
CONDITIONING = [Conditioning(random(1, 1, 16), random(1, 3, 4, 4, 6), random(1, 24)) for _ in range(2)]
SIGMAS = karras(STEPS, 10, 0.1)


@cache
def network() -> nn.Cell:
    return fill(svd_unet(SMALL.unet))


def plainly(unet: nn.Cell, x: Tensor, c_noise: Tensor, constants: tuple, depth: int, feature=None):
    """The network as a list of steps, where the block beside the skip of this depth is given the feature, if there is
    one; returns what it was given, too.
    """
    embs = unet._embeddings(unet.time_embedding(_embedded(unet, c_noise)), constants[0], x.shape[1])
    x = per_image(unet.conv_in, x)
    down, up = [], []
    for level in unet.down_blocks:
        down += [*((level, j) for j in range(len(level.resnets))), *_changes_size(level, "downsample")]
    for level in unet.up_blocks:
        up += [*((level, j) for j in range(len(level.resnets))), *_changes_size(level, "upsample")]
    middle = [(unet.mid_block, j) for j in range(len(unet.mid_block.resnets))]

    def run(step, x: Tensor) -> Tensor:
        if not isinstance(step, tuple):
            return per_image(step, x)
        level, j = step
        return level.layer(j, x, embs, constants, False)

    skips = [x]
    for step in down:
        skips.append(x := run(step, x))
    for step in middle:
        x = run(step, x)
    for step in up:
        if isinstance(step, tuple):
            if len(skips) - 1 == depth:
                x = feature = x if feature is None else feature
            x = ops.cat((x, skips.pop()), 2)
        x = run(step, x)
    return per_image(unet.conv_out, per_image(unet.norm_out, x)), feature


def _changes_size(level: nn.Cell, name: str) -> list[nn.Cell]:
    return [getattr(level, name)] if hasattr(level, name) else []


def _embedded(unet: nn.Cell, c_noise: Tensor) -> Tensor:
    angles = c_noise.asnumpy()[:, None, None] * unet.frequencies.asnumpy()
    return Tensor(np.concatenate([np.cos(angles), np.sin(angles)], -1).astype(np.float32))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_feature_of_the_same_step_changes_nothing(eager, depth):
    """Bit for bit; and one of another input is used as the plain computation does."""
    constants = network().constants(random(2, 1, 16), random(2, 24), 3)
    expected = network().evaluate(X, NOISE_LEVEL, constants)
    whole, feature = evaluate_keeping(network(), X, NOISE_LEVEL, constants, False, depth)
    again = evaluate_reusing(network(), X, NOISE_LEVEL, feature, constants, False, depth)
    np.testing.assert_array_equal(whole.asnumpy(), expected.asnumpy())
    np.testing.assert_array_equal(again.asnumpy(), expected.asnumpy())
    other = X + 0.1 * random(*X.shape)
    assert_close(plainly(network(), X, NOISE_LEVEL, constants, depth)[1], feature, 1e-5)
    changed = evaluate_reusing(network(), other, NOISE_LEVEL, feature, constants, False, depth)
    assert_close(changed, plainly(network(), other, NOISE_LEVEL, constants, depth, feature)[0], 1e-5)
    assert np.abs((changed - network().evaluate(other, NOISE_LEVEL, constants)).asnumpy()).max() > 1e-3


def sampled(denoiser: Denoiser, reuse: tuple[int, int]) -> np.ndarray:
    """What guided sampling makes of the same noise."""
    noise = np.random.default_rng(1).standard_normal((1, 3, 4, 4, 6)).astype(np.float32)
    denoise = guided(lambda conditioning: denoiser.bind(conditioning, reuse=reuse), *CONDITIONING, SCALE)
    return euler(denoise, Tensor(noise * SIGMAS[0].astype(np.float32)), SIGMAS).asnumpy()


def sampled_plainly(every: int, depth: int) -> np.ndarray:
    """The same in NumPy, but for the network, step by step."""
    x = np.random.default_rng(1).standard_normal((1, 3, 4, 4, 6)).astype(np.float32) * SIGMAS[0].astype(np.float32)
    cond, uncond = CONDITIONING
    both = uncond.stack(cond)
    constants, feature = network().constants(both.context, both.vector, 3), None
    for step, (sigma, following) in enumerate(zip(SIGMAS, SIGMAS[1:])):
        c_skip, c_out, c_in = 1 / (sigma**2 + 1), -sigma / np.sqrt(sigma**2 + 1), 1 / np.sqrt(sigma**2 + 1)
        latents = np.concatenate([np.concatenate([x, x]) * c_in, both.concat.asnumpy()], 2).astype(np.float32)
        c_noise = Tensor(np.full(2, 0.25 * np.log(sigma), np.float32))
        kept = None if step % every == 0 else feature
        output, feature = plainly(network(), Tensor(latents), c_noise, constants, depth, kept)
        x0_uncond, x0_cond = c_skip * x + c_out * output.asnumpy()
        x0 = x0_uncond + SCALE * (x0_cond - x0_uncond)
        x = x0 + (x - x0) * (following / sigma)
    return x


@pytest.fixture(scope="module")
def denoisers() -> dict[int, Denoiser]:
    """By mode, so that graphs are compiled once."""
    return {mode: Denoiser(network(), v_scaling(), Split(network())) for mode in (0, 1)}


@pytest.mark.parametrize("depth", [1])
def test_a_video_is_that_of_the_plain_computation(mode, denoisers, depth):
    """Of the whole network in every third step, and of the outer blocks in the others."""
    result = sampled(denoisers[mode], (EVERY, depth))
    with eagerly():
        assert_close(result, sampled_plainly(EVERY, depth), 1e-5)


def test_in_every_step_it_is_the_whole_network(eager, denoisers):
    """Bit for bit, as if there were no reuse; and in the first step alone, what is kept is of that step."""
    denoiser = denoisers[1]
    plain = sampled(denoiser, (1, 1))
    denoise = guided(denoiser.bind, *CONDITIONING, SCALE)
    start = np.random.default_rng(1).standard_normal((1, 3, 4, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(plain, euler(denoise, Tensor(start * SIGMAS[0].astype(np.float32)), SIGMAS).asnumpy())
    assert_close(plain, sampled_plainly(1, 1), 1e-5)


def test_the_error_is_bounded_and_falls_with_more_work(eager, denoisers):
    """Against the whole network in every step, of random weights: less is skipped by a smaller n, and by more depth."""
    exact = sampled(denoisers[1], (1, 1))
    errors = {
        reuse: np.sqrt(np.mean((sampled(denoisers[1], reuse) - exact) ** 2) / np.mean(exact**2))
        for reuse in ((2, 0), (2, 3), (5, 0), (5, 3))
    }
    assert 0 < errors[2, 3] < errors[2, 0] < 0.1 and errors[2, 3] < errors[5, 3] < errors[5, 0] < 0.4


def test_a_video_of_the_pipeline(eager):
    """Its settings choose how; they have to be possible."""
    pipe = build_small_pipe()
    image = np.linspace(0, 1, 16 * 24 * 3, dtype=np.float32).reshape(16, 24, 3)
    options = {"progress": False, "output": "latents", "sampling_steps": 3}
    exact, reused = pipe(image, **options), pipe(image, reuse_every=2, reuse_depth=2, **options)
    assert 1e-4 < np.abs(reused - exact).max() < np.abs(exact).max()
    np.testing.assert_array_equal(pipe(image, reuse_every=1, **options), exact)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"reuse_every": 0}, "reuse_every must be positive, got 0"),
        ({"reuse_every": 2, "reuse_depth": -1}, "reuse_depth must not be negative, got -1"),
        ({"reuse_depth": 2}, "reuse_depth 2 goes with reuse_every: leave it at 1, or give reuse_every"),
        ({"reuse_every": 2, "reuse_depth": 4}, "the network has nothing to reuse deeper than 3, got reuse_depth 4"),
        ({"reuse_every": 2, "window": 2}, "reuse_every 2 is for videos that are drawn at once, and window 2 draws"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        SMALL.check_sampling(replace(SMALL.sampling, **settings))
