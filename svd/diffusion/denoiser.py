"""The denoiser: a network between its preconditioning's scalars."""

from collections.abc import Callable
from typing import Any

import numpy as np
from mindspore import Tensor, float32, ops
from numpy.typing import ArrayLike

from svd.diffusion.preconditioning import Preconditioning


class Denoiser:
    """Estimate clean latents: D(x; sigma) = c_skip * x + c_out * F(c_in * x; c_noise), EDM equation 7.

    `network(latents [b t c h w], c_noise [b], context, vector)` is F. It may compute in half precision:
    everything around it is float32.
    """

    def __init__(self, network: Callable, preconditioning: Preconditioning, per_video: Callable | None = None):
        self.network = network
        self.preconditioning = preconditioning
        self.per_video = per_video

    def for_one_video(self) -> "Denoiser":
        """The same, by the network that `per_video()` returns: it may keep what is the same at all noise levels."""
        return self if self.per_video is None else Denoiser(self.per_video(), self.preconditioning)

    def __call__(self, x: Tensor | np.ndarray, sigma: ArrayLike, conditioning: Any) -> Tensor:
        """Return D [b t c h w], float32, for x [b t c h w] and sigma, one number or one per clip, [b].

        `conditioning` has `context`, `vector` and `concat`: [b t c' h w], joined to the channels of x after
        c_in and not scaled itself (SVD, arXiv 2311.15127, appendix D.4), or None. Raises ValueError when
        sigma is not positive and finite, or has another shape.
        """
        x = (x if isinstance(x, Tensor) else Tensor(x)).astype(float32)
        sigma = _per_clip(sigma, x.shape[0])
        p = self.preconditioning
        c_skip, c_out, c_in, c_noise = (
            Tensor(c(sigma).astype(np.float32)) for c in (p.c_skip, p.c_out, p.c_in, p.c_noise)
        )
        latents = _broadcast(c_in) * x
        if conditioning.concat is not None:
            latents = ops.cat([latents, conditioning.concat.astype(float32)], axis=2)
        output = self.network(latents, c_noise, conditioning.context, conditioning.vector)
        return _broadcast(c_skip) * x + _broadcast(c_out) * output.astype(float32)


def _per_clip(sigma: ArrayLike, b: int) -> np.ndarray:
    sigma = np.asarray(sigma, np.float64)
    if sigma.shape not in ((), (b,)):
        raise ValueError(f"sigma must be one number or one per clip, [{b}], not of shape {list(sigma.shape)}")
    if not np.all((sigma > 0) & (sigma < np.inf)):
        raise ValueError(f"sigma must be positive and finite, not {sigma}")
    return np.broadcast_to(sigma, (b,))


def _broadcast(c: Tensor) -> Tensor:
    return c.reshape(-1, 1, 1, 1, 1)
