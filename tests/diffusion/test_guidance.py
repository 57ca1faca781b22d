from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from mindspore import Tensor

from svd.diffusion.guidance import guided, linear_scale, triangular_scale
from svd.diffusion.samplers import euler, heun


@dataclass(frozen=True)
class Shift:
    """A stand-in for a conditioning record: one number per clip, [b]."""

    value: np.ndarray

    def stack(self, other):
        return Shift(np.concatenate([self.value, other.value]))


class Recorder:
    """A denoiser that depends on all it is given and remembers the batch sizes it was called with."""

    def __init__(self):
        self.batches = []

    def bind(self, conditioning):
        return partial(self, conditioning=conditioning)

    def __call__(self, x, sigma, conditioning):
        self.batches.append(x.shape[0])
        shift = conditioning.value.reshape(-1, 1, 1, 1, 1)
        return x * 0.5 + (shift if isinstance(x, np.ndarray) else Tensor(shift)) * sigma


COND, UNCOND = Shift(np.float32([3, 4])), Shift(np.float32([-1, 0.5]))
X = np.random.default_rng(0).standard_normal((2, 5, 3, 2, 2)).astype(np.float32)


def test_linear_scale_of_stable_video_diffusion():
    scale = linear_scale(1.0, 2.5, 14)
    assert scale.shape == (14,)
    np.testing.assert_allclose(scale, 1 + np.arange(14) * (1.5 / 13))
    np.testing.assert_array_equal(linear_scale(1.0, 2.5, 1), [1.0])


def test_triangular_scale():
    np.testing.assert_allclose(triangular_scale(1.0, 2.5, 5), [1, 1.75, 2.5, 1.75, 1])
    np.testing.assert_allclose(triangular_scale(0.0, 1.0, 9, period=0.5), [0, 0.5, 1, 0.5, 0, 0.5, 1, 0.5, 0])
    scale = triangular_scale(1.0, 2.5, 14)
    np.testing.assert_allclose(scale, scale[::-1])
    np.testing.assert_allclose(scale[:3], [1, 1 + 3 / 13, 1 + 6 / 13])


@pytest.mark.parametrize("scale", [1.0, np.ones(5)], ids=["number", "per frame"])
def test_scale_one_is_the_conditional_branch_alone(scale):
    denoise = Recorder()
    x0 = guided(denoise.bind, COND, UNCOND, scale)(X, 2.0)
    assert denoise.batches == [2]
    np.testing.assert_array_equal(x0, Recorder()(X, 2.0, COND))


@pytest.mark.parametrize("scale", [7.0, linear_scale(1.0, 2.5, 5)], ids=["number", "per frame"])
def test_both_branches_in_one_batch_equal_two_calls(scale):
    denoise = Recorder()
    x0 = guided(denoise.bind, COND, UNCOND, scale)(X, 2.0)
    assert denoise.batches == [4] and x0.dtype == np.float32
    x0_cond, x0_uncond = denoise(X, 2.0, COND), denoise(X, 2.0, UNCOND)
    per_frame = np.broadcast_to(scale, 5)
    for frame in range(5):
        expected = x0_uncond[:, frame] + per_frame[frame] * (x0_cond - x0_uncond)[:, frame]
        np.testing.assert_allclose(x0[:, frame], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [np.asarray, Tensor], ids=["array", "tensor"])
@pytest.mark.parametrize("sigma", [1e-6, 0.3, 2.0, 700.0])
def test_by_default_guidance_acts_everywhere(kind, sigma):
    """Bit for bit, as an interval without bounds does."""
    scale, recorder, x = linear_scale(1.0, 2.5, 5), Recorder(), kind(X)
    both = Recorder()(kind(np.concatenate([X, X])), sigma, UNCOND.stack(COND))
    expected = both[:2] + kind(scale.astype(np.float32).reshape(1, 5, 1, 1, 1)) * (both[2:] - both[:2])
    for interval in ((), ((0.0, np.inf),)):
        np.testing.assert_array_equal(
            np.asarray(guided(recorder.bind, COND, UNCOND, scale, *interval)(x, sigma)), expected
        )
    assert recorder.batches == [4, 4]


@pytest.mark.parametrize("kind", [np.asarray, Tensor], ids=["array", "tensor"])
def test_outside_of_the_interval_is_the_conditional_branch_alone(kind):
    """The lower bound lies outside, the higher inside, as in the paper."""
    denoise, scale = Recorder(), linear_scale(1.0, 2.5, 5)
    in_interval = guided(denoise.bind, COND, UNCOND, scale, (0.5, 4.0))
    for sigma, batch in ((700.0, 2), (4.01, 2), (4.0, 4), (0.51, 4), (0.5, 2), (0.002, 2)):
        result = in_interval(kind(X), sigma)
        assert denoise.batches.pop() == batch, sigma
        expected = (
            Recorder()(kind(X), sigma, COND)
            if batch == 2
            else guided(Recorder().bind, COND, UNCOND, scale)(kind(X), sigma)
        )
        np.testing.assert_array_equal(np.asarray(result), np.asarray(expected))


def test_a_sampler_in_an_interval():
    """Euler calls at 8, 4, 2, 1; Heun also where each step ends. At every call its own noise level decides."""
    sigmas = [8.0, 4.0, 2.0, 1.0, 0.0]
    for sampler, batches in ((euler, [2, 4, 4, 2]), (heun, [2, 4, 4, 4, 4, 2, 2])):
        denoise = Recorder()
        sampler(guided(denoise.bind, COND, UNCOND, 3.0, (1.0, 4.0)), X, sigmas)
        assert denoise.batches == batches


def test_tensors_give_what_arrays_give():
    denoise = guided(Recorder().bind, COND, UNCOND, linear_scale(1.0, 2.5, 5))
    np.testing.assert_allclose(denoise(Tensor(X), 2.0).asnumpy(), denoise(X, 2.0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, Tensor], ids=["array", "tensor"])
@pytest.mark.parametrize("rescale", [0.7, 1.0])
def test_rescaled_guidance(kind, rescale):
    """The network's output, here (D - x / 5) / -0.9 at any noise level, gets the conditional one's deviation."""
    c_skip, c_out = 0.2, -0.9
    guide = guided(Recorder().bind, COND, UNCOND, 7.0, rescale=rescale, c_skip=lambda sigma: np.float64(c_skip))
    result = np.asarray(guide(kind(X), 2.0))
    assert result.dtype == np.float32
    cond, plain = ((Recorder()(X, 2.0, COND) - c_skip * X) / c_out, guided(Recorder().bind, COND, UNCOND, 7.0)(X, 2.0))
    plain = (plain - c_skip * X) / c_out
    for b in range(2):
        expected = rescale * plain[b] * cond[b].std() / plain[b].std() + (1 - rescale) * plain[b]
        np.testing.assert_allclose(result[b], c_skip * X[b] + c_out * expected, rtol=1e-4, atol=1e-4)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="14 scales, one per frame, but x has 5 frames"):
        guided(Recorder().bind, COND, UNCOND, linear_scale(1.0, 2.5, 14))(X, 2.0)
    for interval in ((4.0, 0.5), (1.0, 1.0), (-1.0, 2.0), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="interval of guidance must be two noise levels, the lower first"):
            guided(Recorder().bind, COND, UNCOND, 3.0, interval)
    with pytest.raises(ValueError, match="at least one frame, not 0"):
        linear_scale(1.0, 2.5, 0)
    with pytest.raises(ValueError, match=r"period .* must be positive, not 0"):
        triangular_scale(1.0, 2.5, 14, period=0.0)
