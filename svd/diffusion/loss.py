"""The denoising loss, and the noise levels that it is trained at."""

import math

import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import ArrayLike

from svd.diffusion.denoiser import Denoise
from svd.diffusion.preconditioning import Preconditioning


def log_normal(normal: ArrayLike, mean: float, std: float) -> np.ndarray:
    """Noise levels with ln sigma ~ N(mean, std^2) from unit Gaussian numbers, float64 (EDM, arXiv 2206.00364, 5)."""
    exponents = mean + std * np.asarray(normal, np.float64)
    # The last bit of np.exp depends on the processor, and with AVX-512 on the address of its result.
    return np.vectorize(math.exp, otypes=[np.float64])(exponents)


def loss_coefficients(preconditioning: Preconditioning, sigma: ArrayLike) -> Tensor:
    """The coefficients of `DenoisingLoss` for noise levels sigma [...]: float32 [6 ...], computed in float64."""
    sigma = np.asarray(sigma, np.float64)
    rows = (sigma, *preconditioning.coefficients(sigma), preconditioning.weight(sigma))
    return Tensor(np.stack(rows).astype(np.float32))


class DenoisingLoss(nn.Cell):
    """lambda(sigma) |D(x0 + sigma n; sigma) - x0|^2, its mean (EDM, equation 8; SVD, appendix D.2).

    D is `denoise`, of a network F(latents, c_noise, context, vector, image_only, ...); with `image_only` the frames are
    independent images.
    """

    def __init__(self, denoise: Denoise, image_only: bool = False):
        super().__init__(auto_prefix=False)
        self.denoise, self.image_only = denoise, image_only

    def construct(
        self, latents: Tensor, noise: Tensor, coefficients: Tensor, context: Tensor, concat: Tensor, vector, *others
    ) -> Tensor:
        """The loss of b clips, a float32 scalar.

        Args:
            latents: x0, scaled latents [b t c h w].
            noise: n, unit Gaussian [b t c h w].
            coefficients: of each clip's noise level, `loss_coefficients`, [6 b]; or of each frame's, [6 b t].
            context, concat, vector, others: fields of the conditioning.
        """
        by_frame = ops.reshape(coefficients, (6, latents.shape[0], -1, 1, 1, 1))
        x, inputs = latents + by_frame[0] * noise, (context, vector, self.image_only, *others)
        denoised = self.denoise(x, coefficients[1:5], concat, *inputs)
        return ops.mean(by_frame[5] * ops.square(denoised - latents))
