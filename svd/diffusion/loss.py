"""The denoising loss, and the noise levels that it is trained at."""

import numpy as np
from mindspore import Tensor, float32, nn, ops
from numpy.typing import ArrayLike

from svd.diffusion.preconditioning import Preconditioning


def log_normal(normal: ArrayLike, mean: float, std: float) -> np.ndarray:
    """Noise levels with ln sigma ~ N(mean, std^2) from unit Gaussian numbers, float64 (EDM, arXiv 2206.00364, 5)."""
    return np.exp(mean + std * np.asarray(normal, np.float64))


def loss_coefficients(preconditioning: Preconditioning, sigma: ArrayLike) -> Tensor:
    """All that `DenoisingLoss` has to know of the noise levels sigma [b]: float32 [6 b], computed in float64."""
    p = preconditioning
    sigma = np.asarray(sigma, np.float64)
    rows = (sigma, p.c_skip(sigma), p.c_out(sigma), p.c_in(sigma), p.c_noise(sigma), p.weight(sigma))
    return Tensor(np.stack(rows).astype(np.float32))


class DenoisingLoss(nn.Cell):
    """lambda(sigma) |D(x0 + sigma n; sigma) - x0|^2, its mean (EDM, equation 8; SVD, appendix D.2).

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise). F is `network(x [b t c h w], c_noise [b], context, vector)`.
    """

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(
        self, latents: Tensor, noise: Tensor, coefficients: Tensor, context: Tensor, concat: Tensor, vector: Tensor
    ) -> Tensor:
        """The loss of b clips, a float32 scalar.

        Args:
            latents: x0, scaled latents [b t c h w].
            noise: n, unit Gaussian [b t c h w].
            coefficients: of each clip's noise level, `loss_coefficients`, [6 b].
            context: what cross-attention sees [b n d].
            concat: what is joined to the channels of c_in x, not scaled itself [b t c' h w].
            vector: embedded numbers [b v].
        """
        sigma, c_skip, c_out, c_in, _, weight = ops.reshape(coefficients, (6, -1, 1, 1, 1, 1))
        x = latents + sigma * noise
        output = self.network(ops.cat((c_in * x, concat), 2), coefficients[4], context, vector)
        denoised = c_skip * x + c_out * output.astype(float32)
        return ops.mean(weight * ops.square(denoised - latents))
