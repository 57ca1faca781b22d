"""Sampling of what is known in part: some frames of a video, or all of them at a lower resolution (Video Diffusion
Models, arXiv 2204.03458, section 3.1). A model needs no training for it.

Known frames are replaced by noised ones at every noise level. That alone is the replacement method. Reconstruction
guidance moves the prediction, too, to where the network reconstructs what is known: by -(w alpha / 2) times the
gradient with respect to the paper's z = alpha x, which is -(w / 2) times that with respect to x.
"""

from collections.abc import Callable
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from svd.diffusion.denoiser import Denoise, Denoiser
from svd.diffusion.samplers import Denoise as Predict
from svd.diffusion.samplers import Noise

PredictWithGradient = Callable[[Any, float], tuple[Any, Any]]


def corrected(predict: PredictWithGradient, weight: float) -> Predict:
    """(x, sigma) -> x0 - weight / 2 * gradient: reconstruction guidance.

    `predict` gives x0, and the gradient of the squared error of what is known in it with respect to x.
    """

    def denoise(x, sigma):
        x0, gradient = predict(x, sigma)
        return x0 - gradient * (weight / 2)

    return denoise


def replaced(denoise: Predict, frames: Any, known: Any, noise: Noise) -> Predict:
    """`denoise` given known frames: noised in x, and as they are in the result.

    Args:
        frames: [b t c h w], at unknown places of any value.
        known: 1 at known places and 0 at others, broadcast to the same shape.
        noise: draws unit Gaussian noise of a shape.
    """

    def given(x, sigma):
        noisy = frames + noise(x.shape) * sigma
        return known * frames + (1 - known) * denoise(known * noisy + (1 - known) * x, sigma)

    return given


def bilinear_rows(size: int, factor: int) -> np.ndarray:
    """The rows of an axis of this size that bilinear interpolation makes a `factor` smaller: float32 [size / factor,
    size]. They are those of PyTorch's `interpolate`, without antialiasing: means of two neighbours for an even factor.
    """
    places = (np.arange(size // factor) + 0.5) * factor - 0.5
    return np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0).astype(np.float32)


class DenoiseWithGradient(nn.Cell):
    """D(x; sigma), and the gradient of its squared error at known places with respect to x, one graph."""

    def __init__(self, denoise: Denoise):
        super().__init__(auto_prefix=False)
        self.denoise = denoise
        self.gradient = ms.value_and_grad(self._error, 0, None, has_aux=True)

    def _error(self, x, frames, known, low, rows, columns, scale, coefficients, concat, *inputs):
        if scale is None:
            x0 = self.denoise(x, coefficients, concat, *inputs)
        else:
            both = self.denoise(ops.cat((x, x), 0), coefficients, concat, *inputs)
            x0_uncond, x0_cond = ops.chunk(both, 2, 0)
            x0 = x0_uncond + scale * (x0_cond - x0_uncond)
        error = ops.reduce_sum(ops.square((frames - x0) * known))
        if low is not None:
            error = error + ops.reduce_sum(ops.square(low - self._smaller(x0, rows, columns)))
        return error, x0

    def _smaller(self, x, rows, columns):
        b, t, c, h, w = x.shape
        y = ops.MatMul(transpose_b=True)(ops.reshape(x, (-1, w)), columns)
        y = ops.swapaxes(ops.reshape(y, (b * t * c, h, -1)), 1, 2)
        y = ops.MatMul(transpose_b=True)(ops.reshape(y, (-1, h)), rows)
        y = ops.swapaxes(ops.reshape(y, (b * t * c, columns.shape[0], -1)), 1, 2)
        return ops.reshape(y, (b, t, c, rows.shape[0], columns.shape[0]))

    def construct(
        self,
        x: Tensor,
        frames: Tensor,
        known: Tensor,
        low: Optional[Tensor],
        rows: Optional[Tensor],
        columns: Optional[Tensor],
        scale: Optional[Tensor],
        coefficients: Tensor,
        concat: Optional[Tensor],
        *inputs,
    ):
        """x0 [b t c h w], and the gradient of sum |frames - x0|^2 where `known` + sum |low - rows x0 columns^T|^2.

        Args:
            x: noisy videos [b t c h w].
            frames, known: as those of `replaced`.
            low: videos of a lower resolution [b t c h' w'], or None.
            rows, columns: `bilinear_rows` of height and width, [h' h] and [w' w].
            scale: of classifier-free guidance, or None for none; with it, all that follows is of 2b clips, those
                without the condition first.
            coefficients, concat, inputs: those of `Denoise`.
        """
        inputs = (frames, known, low, rows, columns, scale, coefficients, concat, *inputs)
        (_, x0), gradient = self.gradient(x, *inputs)
        return x0, gradient


def with_gradient(
    cell: DenoiseWithGradient,
    denoiser: Denoiser,
    pair: tuple[Any, Any],
    scale: float,
    frames: Tensor,
    known: Tensor,
    low: Optional[Tensor] = None,
) -> PredictWithGradient:
    """(x, sigma) -> x0 and its gradient, of a network with classifier-free guidance of this scale, 1 for none.

    Args:
        cell: of the denoiser's cell.
        pair: the conditionings (cond, uncond).
        frames, known, low: as `DenoiseWithGradient` takes them.
    """
    cond, uncond = pair
    guided = scale != 1
    arguments = denoiser.arguments(uncond.stack(cond) if guided else cond)
    (h, w), rows, columns = frames.shape[3:], None, None
    if low is not None:
        rows, columns = (Tensor(bilinear_rows(full, full // part)) for full, part in zip((h, w), low.shape[3:]))
    of_guidance = Tensor(scale, ms.float32) if guided else None

    def predict(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        _, *others = arguments(ops.cat((x, x)) if guided else x, sigma)
        return cell(x, frames, known, low, rows, columns, of_guidance, *others)

    return predict
