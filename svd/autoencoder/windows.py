"""Overlapping windows over the axes of an array, and their cross-fade."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np

NEGLIGIBLE = 1e-6
"""A weight beside others, and as good as any where there is no other."""


@dataclass(frozen=True)
class WindowedAxis:
    """Windows of one axis: of `size` elements with `overlap`; results are `scale` times longer.

    The outermost `margin` elements of a window, which see less of what is around them, count only where no other window
    has them.
    """

    axis: int
    size: int
    overlap: int
    scale: int = 1
    margin: int = 0

    def starts(self, total: int) -> list[int]:
        """Starts of the windows that cover `total`.

        All have the same size, so that one compiled graph serves them all: the last one is shifted back to fit.

        Raises:
            ValueError: the overlap is not smaller than the window.
        """
        if self.size >= total:
            return [0]
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"windows of {self.size} cannot overlap by {self.overlap}")
        return [*range(0, total - self.size, self.size - self.overlap), total - self.size]

    def fade(self, total: int) -> np.ndarray:
        """A window's weights in the result: a ramp up over the overlap, one, a ramp down. float32 [size * scale]"""
        size, margin = min(self.size, total) * self.scale, self.margin * self.scale
        distance = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1))
        ramp = (distance - margin) / (self.overlap * self.scale - 2 * margin + 1)
        return np.clip(ramp, NEGLIGIBLE, 1).astype(np.float32)


def apply_in_windows(
    function: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    axes: list[WindowedAxis],
    progress: Callable[[list], Iterable] = iter,
) -> np.ndarray:
    """function(x), computed window by window and cross-faded where windows overlap.

    Args:
        function: takes windows of x; its result has the same axes.
        x: the whole array.
        axes: the axes that are cut into windows.
        progress: wraps the list of windows, as tqdm does.

    Returns:
        float32; where one window alone covers an element, what the function returned there, up to rounding.
    """
    corners = list(product(*(a.starts(x.shape[a.axis]) for a in axes)))
    if len(corners) == 1:
        return [function(x) for _ in progress(corners)][0]
    total = weights = weight = None
    for corner in progress(corners):
        window, target = [slice(None)] * x.ndim, [slice(None)] * x.ndim
        for a, start in zip(axes, corner):
            stop = start + min(a.size, x.shape[a.axis])
            window[a.axis] = slice(start, stop)
            target[a.axis] = slice(start * a.scale, stop * a.scale)
        y = function(x[tuple(window)])
        if total is None:
            shape = list(y.shape)
            for a in axes:
                shape[a.axis] = x.shape[a.axis] * a.scale
            total, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            weight = _weight(x, axes)
        total[tuple(target)] += weight * y
        weights[tuple(target)] += weight
    return np.divide(total, weights, out=total)


def _weight(x: np.ndarray, axes: list[WindowedAxis]) -> np.ndarray:
    """The product of the axes' fades, of length 1 along all other axes."""
    weight = np.ones([1] * x.ndim, np.float32)
    for a in axes:
        weight = weight * a.fade(x.shape[a.axis]).reshape([-1 if i == a.axis else 1 for i in range(x.ndim)])
    return weight
