"""The denoising loss, and the noise levels that it is trained at."""

import numpy as np
from mindspore import Tensor, float32, nn, ops
from numpy.typing import ArrayLike

from svd.diffusion.preconditioning import Preconditioning


def log_normal(normal: ArrayLike, mean: float, std: float) -> np.ndarray:
    """Noise levels with ln sigma ~ N(mean, std^2) from unit Gaussian numbers, float64 (EDM, arXiv 2206.00364, 5)."""
    return np.exp(mean + std * np.asarray(normal, np.float64))


def loss_coefficients(preconditioning: Preconditioning, sigma: ArrayLike) -> Tensor:
    """All that `DenoisingLoss` has to know of the noise levels sigma [...]: float32 [6 ...], computed in float64."""
    p = preconditioning
    sigma = np.asarray(sigma, np.float64)
    rows = (sigma, p.c_skip(sigma), p.c_out(sigma), p.c_in(sigma), p.c_noise(sigma), p.weight(sigma))
    return Tensor(np.stack(rows).astype(np.float32))


class DenoisingLoss(nn.Cell):
    """lambda(sigma) |D(x0 + sigma n; sigma) - x0|^2, its mean (EDM, equation 8; SVD, appendix D.2).

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise). F is `network(x [b t c h w], c_noise, context, vector,
    image_only)`; with `image_only` the frames are images that do not see each other.
    """

    def __init__(self, network: nn.Cell, image_only: bool = False):
        super().__init__(auto_prefix=False)
        self.network, self.image_only = network, image_only

    def construct(
        self, latents: Tensor, noise: Tensor, coefficients: Tensor, context: Tensor, concat: Tensor, vector: Tensor
    ) -> Tensor:
        """The loss of b clips, a float32 scalar.

        Args:
            latents: x0, scaled latents [b t c h w].
            noise: n, unit Gaussian [b t c h w].
            coefficients: of each clip's noise level, `loss_coefficients`, [6 b]; or of each frame's, [6 b t].
            context: what cross-attention sees [b n d].
            concat: what is joined to the channels of c_in x, not scaled itself [b t c' h w].
            vector: embedded numbers [b v].
        """
        by_frame = ops.reshape(coefficients, (6, latents.shape[0], -1, 1, 1, 1))
        sigma, c_skip, c_out, c_in, _, weight = by_frame
        x = latents + sigma * noise
        output = self.network(ops.cat((c_in * x, concat), 2), coefficients[4], context, vector, self.image_only)
        denoised = c_skip * x + c_out * output.astype(float32)
        return ops.mean(weight * ops.square(denoised - latents))
