"""Settings, outcomes and limits of checks."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal, Optional

import numpy as np

AMP_LEVELS = {"float32": "O0", "float16": "O2", "bfloat16": "bf16"}
NETWORKS = {
    "network": "UNet",
    "conditioner.image_encoder": "image encoder",
    "autoencoder.encoder": "encoder",
    "autoencoder.decoder": "temporal decoder",
}
"""Networks, by the prefix of their parameters in a checkpoint."""
NETWORK = 2e-5
"""Limit of one network in float32, relative to the reference's largest absolute value."""
CHAIN = 2e-4
"""Limit of several networks and steps, one after the other, in float32."""
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff of types with 11 and 8 significant bits."""
GUIDED = 3
"""Factor of a chain's limit over a network's, in 16 bits: guidance of 2.5 takes 2.5 times one result minus 1.5 times
another, whose errors combine to 2.9 (root of squares); the steps of a sampler average theirs."""


def limit_16_bits(precision: str, layers: int, chain: bool = False) -> float:
    """Limit of a network of `layers` convolutions and linear layers, relative to the largest value.

    Each of them rounds its input, its weights and its result; independent errors of equal size add up by their squares.
    Not all layers are in sequence, but attention rounds too, and the largest of many errors is compared: twice that.
    """
    return 2 * ROUNDING[precision] * sqrt(3 * layers) * (GUIDED if chain else 1)


LIMITS = f"""Differences are the largest absolute ones, as parts of the reference's largest absolute value. Limits:

- float32: {NETWORK:g} for a network, {CHAIN:g} for chains of networks and steps, as in the project's tests.
- 16 bits: 2 u sqrt(3 n) for a network of n convolutions and linear layers. Each rounds its input, its weights and its
  result by at most u, 2^-11 in float16 and 2^-8 in bfloat16; independent errors add up by their squares, and the
  largest of many is compared. Chains: {GUIDED} times as much, for what guidance makes of the errors. Networks that stay
  in float32 (the encoder) have its limits.
- Losses and norms of gradients: those of the network that is trained; after updates those of a chain.
"""


@dataclass(frozen=True)
class Settings:
    """Settings of a group of checks."""

    device: str
    """auto, Ascend, GPU or CPU."""
    mode: int
    """0 graph, 1 pynative."""
    group: str
    """The module of the group, in this package if there is no dot in it."""
    variant: str = ""
    """A precision, or a network's prefix, where a module has several groups."""
    quick: bool = False
    """Skip slow checks that others cover."""
    done: tuple[str, ...] = ()
    """Checks that an earlier process has finished, or died in."""

    @property
    def module(self) -> str:
        return self.group if "." in self.group else f"{__package__}.{self.group}"

    @property
    def precision(self) -> str:
        return self.variant if self.variant in AMP_LEVELS else ""


@dataclass
class Outcome:
    """Outcome of a check."""

    difference: Optional[float] = None
    """Relative difference from the reference; None without a reference."""
    limit: Optional[float] = None
    note: str = ""
    """Times and sizes, in words."""
    memory: Optional[int] = None
    """Peak memory in bytes on the device; on CPU, of the process."""


class Skipped(Exception):
    """A check that cannot run here; the message says why."""


@dataclass
class Result:
    """A line of the report."""

    group: str
    check: str
    precision: str
    verdict: Literal["passed", "failed", "skipped"]
    difference: Optional[float] = None
    limit: Optional[float] = None
    seconds: Optional[float] = None
    memory: Optional[int] = None
    note: str = ""
    error: str = ""
    """Tail of the output of a failed check."""


def relative_error(result, reference: np.ndarray) -> float:
    """The largest absolute difference, relative to the reference's largest absolute value; infinite for NaN.

    Raises ValueError if the shapes differ.
    """
    result = np.asarray(result.asnumpy() if hasattr(result, "asnumpy") else result, np.float64)
    if result.shape != reference.shape:
        raise ValueError(f"shape {list(result.shape)} instead of {list(reference.shape)}")
    error = np.abs(result - reference).max() / np.abs(reference).max()
    return float(error) if np.isfinite(error) else float("inf")
