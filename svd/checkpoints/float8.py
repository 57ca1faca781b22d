"""float8 types (arXiv 2209.05433), which NumPy lacks: tables of all 256 values."""

from __future__ import annotations

import numpy as np


def _values(exponent: int, mantissa: int, bias: int, special: dict[int, float]) -> np.ndarray:
    """The reading of every byte: sign, then so many bits of exponent and mantissa, or `special`; float32 [256]."""
    byte = np.arange(256)
    power, fraction = byte >> mantissa & (1 << exponent) - 1, byte & (1 << mantissa) - 1
    normal = np.ldexp(1.0 + fraction / (1 << mantissa), power - bias)
    subnormal = np.ldexp(fraction / (1 << mantissa), 1 - bias)
    values = (np.where(byte < 128, 1, -1) * np.where(power > 0, normal, subnormal)).astype(np.float32)
    values[list(special)] = list(special.values())
    return values


_NANS = dict.fromkeys((*range(0x7D, 0x80), *range(0xFD, 0x100)), np.nan)
FLOAT8 = {
    "F8_E4M3": _values(4, 3, 7, {0x7F: np.nan, 0xFF: np.nan}),  # it has no infinity, so as to reach 448
    "F8_E5M2": _values(5, 2, 15, {0x7C: np.inf, 0xFC: -np.inf, **_NANS}),
    "F8_E4M3FNUZ": _values(4, 3, 8, {0x80: np.nan}),  # instead of a negative zero
    "F8_E5M2FNUZ": _values(5, 2, 16, {0x80: np.nan}),
}
"""The value of each byte, float32 [256] (exact), by the types' names in .safetensors."""
