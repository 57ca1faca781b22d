"""Initial weights for training from scratch."""

from __future__ import annotations

from math import prod
from zlib import crc32

import numpy as np

from svd.seeds import Purpose, generator

TOKENS = ("class_embedding", "position_embedding", "token_embedding")


def initial_value(name: str, shape: tuple[int, ...], seed: int, zero: bool = False) -> np.ndarray:
    """The initial value of a parameter, float32; it follows from the arguments alone.

    Weights are uniform with a variance of 1 / (3 inputs), PyTorch's default; biases are zero. So are layers
    marked by `svd.layers.marks.zero_init` (`zero`): residual blocks, transformers and temporal layers are then the
    identity, as in Stable Diffusion's UNet, and a video model starts as its image model.
    """
    rng = generator(seed, crc32(name.encode()), Purpose.INITIALIZATION)
    if name.endswith("mix_factor"):
        return np.full(shape, 0.5, np.float32)
    if name.endswith("time_conv_out.weight"):  # the identity, [3 3 3 1]
        return np.eye(3, dtype=np.float32)[:, :, None, None] * np.array([0, 1, 0], np.float32)[:, None]
    if name.endswith(TOKENS):
        return rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
    if zero or name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)  # a normalisation
    bound = prod(shape[1:]) ** -0.5
    return rng.uniform(-bound, bound, shape).astype(np.float32)
