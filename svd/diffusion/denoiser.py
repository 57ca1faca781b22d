"""The denoiser: a network with its preconditioning."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from mindspore import Tensor, float32, nn, ops
from numpy.typing import ArrayLike

from svd.diffusion.preconditioning import Preconditioning


class Denoise(nn.Cell):
    """D(x; sigma) = c_skip * x + c_out * F(c_in * x; c_noise), EDM (arXiv 2206.00364), equation 7.

    `network(latents [b t c h w], c_noise [b] or [b t], *inputs)` is F. It may compute in half precision: everything
    around it is float32.
    """

    def __init__(self, network: Callable):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x: Tensor, coefficients: Tensor, concat: Tensor, *inputs) -> Tensor:
        """Estimate clean latents [b t c h w].

        Args:
            x: noisy latents [b t c h w].
            coefficients: `Preconditioning.coefficients` of each clip's noise level, [4 b]; or of each frame's, [4 b t].
                Tensors, not numbers, so that one graph serves all noise levels.
            concat: concatenated to the channels of c_in * x, not scaled itself (SVD, arXiv 2311.15127, appendix D.4),
                [b t c' h w]; or None.
            inputs: the other inputs of the network.
        """
        latents, c_skip, c_out = self.scaled(x, coefficients, concat)
        output = self.network(latents, coefficients[3], *inputs)
        return c_skip * x + c_out * output.astype(float32)

    def scaled(self, x: Tensor, coefficients: Tensor, concat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The latents for the network, c_skip and c_out."""
        # A tensor that is taken apart by Python's rules takes long to compile.
        c_skip, c_out, c_in, _ = ops.Unstack(0)(ops.reshape(coefficients, (4, x.shape[0], -1, 1, 1, 1)))
        latents = c_in * x
        if concat is not None:
            latents = ops.cat((latents, concat), 2)
        return latents, c_skip, c_out


class DenoiseKeeping(Denoise):
    """`Denoise` with a network that returns a feature beside F: (D, feature)."""

    def construct(self, x: Tensor, coefficients: Tensor, concat: Tensor, *inputs) -> tuple[Tensor, Tensor]:
        latents, c_skip, c_out = self.scaled(x, coefficients, concat)
        output, feature = self.network(latents, coefficients[3], *inputs)
        return c_skip * x + c_out * output.astype(float32), feature


class Denoiser:
    """Estimates clean latents with a network, for any conditioning.

    Args:
        network: F(latents [b t c h w], c_noise [b], context, vector, image_only, *others); these are the conditioning's
            `inputs`.
        preconditioning: its scalars.
        split: the network as two graphs (svd.networks.split); if None, the network is called as a whole.
    """

    def __init__(self, network: Callable, preconditioning: Preconditioning, split: Any = None):
        self.network, self.preconditioning = network, preconditioning
        self._prepare = split.prepare if split else lambda inputs, _, image_only: (*inputs[:2], image_only, *inputs[2:])
        self.cell = Denoise(split.evaluate if split else network)
        self.graphs: dict[str, nn.Cell] = {}
        """The compiled cells, by the names of their graphs in the compile cache."""
        if split:
            self._keeping, self._reusing = DenoiseKeeping(split.keeping), Denoise(split.reusing)
            self.graphs = {"network.constants": split.constants, "network.evaluate": self.cell}
            self.graphs |= {"network.keeping": self._keeping, "network.reusing": self._reusing}

    def __call__(self, x: Tensor | np.ndarray, sigma: ArrayLike, conditioning: Any) -> Tensor:
        """D [b t c h w] at one noise level: `bind(conditioning)(x, sigma)`."""
        return self.bind(conditioning)(x, sigma)

    def bind(
        self, conditioning: Any, image_only: bool = False, reuse: tuple[int, int] = (1, 0)
    ) -> Callable[[Tensor | np.ndarray, ArrayLike], Tensor]:
        """Return (x, sigma) -> D [b t c h w], float32, for this conditioning.

        What does not depend on x and sigma is computed once, in the first call: weights must not change afterwards.
        x is [b t c h w], sigma one number or one per clip, [b]. The result raises ValueError when sigma is not positive
        and finite, or has another shape. `conditioning` has `concat`, [b t c' h w] or None, and the network's other
        `inputs`; `image_only` leaves the temporal layers out (alpha = 1).

        `reuse` is (n, depth): the network is evaluated as a whole in every n-th call, and in those between, the feature
        at this depth is that of the last (svd.networks.reuse).
        """
        arguments = self.arguments(conditioning, image_only)
        every, depth = reuse
        if every == 1:
            return lambda x, sigma: self.cell(*arguments(x, sigma))

        def keeping(x: Tensor | np.ndarray, sigma: ArrayLike) -> tuple[Tensor, Tensor]:
            x, coefficients, concat, *others = arguments(x, sigma)
            return self._keeping(x, coefficients, concat, depth, *others)

        def reusing(x: Tensor | np.ndarray, sigma: ArrayLike, feature: Tensor) -> Tensor:
            x, coefficients, concat, *others = arguments(x, sigma)
            return self._reusing(x, coefficients, concat, feature, depth, *others)

        return reused(keeping, reusing, every)

    def arguments(self, conditioning: Any, image_only: bool = False) -> Callable[..., tuple]:
        """Return (x, sigma) -> what `cell` is called with, under the conditions of `bind`."""
        concat = None if conditioning.concat is None else conditioning.concat.astype(float32)

        @cache
        def prepared(num_frames: int) -> tuple:
            return self._prepare(conditioning.inputs, num_frames, image_only)

        def of(x: Tensor | np.ndarray, sigma: ArrayLike) -> tuple:
            x = (x if isinstance(x, Tensor) else Tensor(x)).astype(float32)
            coefficients = self.preconditioning.coefficients(_per_clip(sigma, x.shape[0])).astype(np.float32)
            return x, Tensor(coefficients), concat, *prepared(x.shape[1])

        return of


def reused(
    keeping: Callable[[Any, ArrayLike], tuple[Any, Any]], reusing: Callable[[Any, ArrayLike, Any], Any], every: int
) -> Callable[[Any, ArrayLike], Any]:
    """Return (x, sigma) -> D, for the steps of one video: keeping(x, sigma) -> (D, feature) in the first call and in
    every n-th after it, reusing(x, sigma, feature) -> D, with the last feature, in the others (DeepCache, arXiv
    2312.00858, section 3.3).
    """
    calls, feature = 0, None

    def denoise(x: Any, sigma: ArrayLike) -> Any:
        nonlocal calls, feature
        calls += 1
        if (calls - 1) % every:
            return reusing(x, sigma, feature)
        estimate, feature = keeping(x, sigma)
        return estimate

    return denoise


def _per_clip(sigma: ArrayLike, b: int) -> np.ndarray:
    sigma = np.asarray(sigma, np.float64)
    if sigma.shape not in ((), (b,)):
        raise ValueError(f"sigma must be one number or one per clip, [{b}], not of shape {list(sigma.shape)}")
    if not np.all((sigma > 0) & (sigma < np.inf)):
        raise ValueError(f"sigma must be positive and finite, not {sigma}")
    return np.broadcast_to(sigma, (b,))
