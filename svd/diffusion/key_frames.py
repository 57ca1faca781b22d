"""Between two key frames: denoising forward from the first and backward from the last, fused in every step.

Time reversal fusion (arXiv 2403.14611) and Generative Inbetweening (arXiv 2408.15239). Functions take NumPy
arrays or tensors [b t c h w], and `denoise(x, sigma) -> x0`, as the samplers do.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from svd.diffusion.samplers import Churn, Denoise, Noise, Progress, steps_of

Fusion = Literal["average", "linear"]
Both = Callable[[Any, Any, float], tuple[Any, Any]]
"""(x, R x, sigma) -> (D(x), D'(R x)): R reverses time, D is given the first image, and D' the last."""


def fused(both: Both, share: np.ndarray) -> Denoise:
    """Return (x, sigma) -> share D(x) + (1 - share) R D'(R x).

    `share` is how much the forward video counts in each frame, [t] (`forward_share`). D is linear in what the network
    predicts, and the rest of it is the same both ways: this is the papers' average of predicted noise, or v.
    """
    share = np.asarray(share, np.float32).reshape(1, -1, 1, 1, 1)

    def denoise(x: Any, sigma: float) -> Any:
        forward, backward = both(x, reversed_in_time(x), sigma)
        weight = share if isinstance(x, np.ndarray) else _tensor(share)
        return forward * weight + reversed_in_time(backward) * (1 - weight)

    return denoise


def apart(forward: Denoise, backward: Denoise) -> Both:
    """Two denoisers, one after the other."""
    return lambda x, reversed_x, sigma: (forward(x, sigma), backward(reversed_x, sigma))


def together(denoise: Denoise) -> Both:
    """One denoiser of [b 2t c h w], the forward frames and then the backward ones, as `bind_both` gives it."""

    def both(x: Any, reversed_x: Any, sigma: float) -> tuple[Any, Any]:
        x0, t = denoise(_joined(x, reversed_x, 1), sigma), x.shape[1]
        return x0[:, :t], x0[:, t:]

    return both


@dataclass(frozen=True)
class BothWays:
    """The conditioning of clips forward from an image, and that of as many backward from another."""

    forward: Any
    backward: Any

    def stack(self, other: "BothWays") -> "BothWays":
        """The two as one batch."""
        return BothWays(self.forward.stack(other.forward), self.backward.stack(other.backward))


def bind_both(bind: Callable[[Any], Denoise]) -> Callable[[BothWays], Denoise]:
    """From `bind(conditioning)` of a network whose batch is forward clips and then backward ones (svd.layers.reversal):
    the same for BothWays, whose denoiser takes and gives [b 2t c h w].
    """

    def bound(ways: BothWays) -> Denoise:
        denoise = bind(ways.forward.stack(ways.backward))

        def one_after_the_other(x: Any, sigma: float) -> Any:
            b, t = x.shape[0], x.shape[1] // 2
            x0 = denoise(_joined(x[:, :t], x[:, t:], 0), sigma)
            return _joined(x0[:b], x0[b:], 1)

        return one_after_the_other

    return bound


def forward_share(fusion: Fusion, num_frames: int) -> np.ndarray:
    """How much the forward video counts in each frame, float64 [t]: half, or all of the first frame to none of the
    last.
    """
    return np.full(num_frames, 0.5) if fusion == "average" else np.linspace(1, 0, num_frames)


def fused_scale(scale: np.ndarray, fusion: Fusion) -> np.ndarray:
    """Guidance scales [t] by the distance from the given image -> those of both directions, each in its own time.

    Averages of both ends need scales that agree: the mean of each frame's two.
    """
    return (scale + scale[::-1]) / 2 if fusion == "average" else scale


def renoised(sampler: Callable, repeats: int, part: float) -> Callable:
    """Return the sampler, with this part of its steps, from the first, repeated: each time with the noise back that the
    step took away, x + sqrt(sigma^2 - sigma'^2) n (arXiv 2408.15239).

    What one direction has settled is then open to the other again. The sampler must have no memory of earlier steps,
    and take `churn`; the result takes `noise`, which draws unit Gaussian noise of a shape, and what the sampler takes.
    """

    def sample(
        denoise: Denoise,
        x: Any,
        sigmas: Sequence[float],
        *,
        noise: Noise,
        churn: Churn | None = None,
        progress: Progress = iter,
    ) -> Any:
        steps = steps_of(sigmas)
        each = churn and replace(churn, s_churn=churn.s_churn / len(steps))  # it is for all steps together
        last = int(len(steps) * part)
        for number, (sigma, sigma_next) in enumerate(progress(steps)):
            x_next = sampler(denoise, x, [sigma, sigma_next], churn=each, noise=noise)
            for _ in range(repeats if number < last else 0):
                x = x_next + noise(x.shape) * math.sqrt(sigma**2 - sigma_next**2)
                x_next = sampler(denoise, x, [sigma, sigma_next], churn=each, noise=noise)
            x = x_next
        return x

    return sample


def reversed_in_time(x: Any) -> Any:
    """[b t ...] -> the same, the last frame first."""
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x[:, ::-1])
    from mindspore import ops  # on NumPy arrays the maths runs without it

    return ops.flip(x, (1,))


def _joined(x: Any, y: Any, axis: int) -> Any:
    if isinstance(x, np.ndarray):
        return np.concatenate([x, y], axis)
    from mindspore import ops

    return ops.cat([x, y], axis)


def _tensor(values: np.ndarray) -> Any:
    from mindspore import Tensor

    return Tensor(values)
