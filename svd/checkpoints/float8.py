"""float8 types (arXiv 2209.05433), which NumPy lacks: tables of all 256 values."""

from __future__ import annotations

import numpy as np


def _values(exponent: int, mantissa: int, bias: int) -> np.ndarray:
    """The finite reading of every byte: sign, then so many bits of exponent and mantissa; float32 [256]."""
    byte = np.arange(256)
    power, fraction = byte >> mantissa & (1 << exponent) - 1, byte & (1 << mantissa) - 1
    normal = np.ldexp(1.0 + fraction / (1 << mantissa), power - bias)
    subnormal = np.ldexp(fraction / (1 << mantissa), 1 - bias)
    return (np.where(byte < 128, 1, -1) * np.where(power > 0, normal, subnormal)).astype(np.float32)


def _e4m3() -> np.ndarray:
    values = _values(4, 3, bias=7)
    values[[0x7F, 0xFF]] = np.nan  # it has no infinity, so as to reach 448
    return values


def _e5m2() -> np.ndarray:
    values = _values(5, 2, bias=15)
    values[0x7C:0x80], values[0xFC:] = np.nan, np.nan
    values[[0x7C, 0xFC]] = np.inf, -np.inf
    return values


def _without_negative_zero(exponent: int, mantissa: int, bias: int) -> np.ndarray:
    values = _values(exponent, mantissa, bias)
    values[0x80] = np.nan
    return values


FLOAT8 = {
    "F8_E4M3": _e4m3(),
    "F8_E5M2": _e5m2(),
    "F8_E4M3FNUZ": _without_negative_zero(4, 3, bias=8),
    "F8_E5M2FNUZ": _without_negative_zero(5, 2, bias=16),
}
"""The value of each byte, float32 [256] (exact), by the types' names in .safetensors."""
