"""Denoising a stream of frames in overlapping windows, as if it were one whole, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svd.autoencoder.windows import WindowedAxis


@dataclass(eq=False)
class Frame:
    """A frame on its way from noise to data."""

    number: int
    x: np.ndarray
    """Noisy, [c h w]."""
    given: np.ndarray
    """What is concatenated to it, [c' h w]."""
    rng: np.random.Generator
    step: int = 0
    """Steps that it has taken."""
    total: Any = 0.0
    """Sum of what windows have estimated of it in this step, by their weights."""
    weight: float = 0.0


@dataclass(eq=False)
class Window:
    """Frames that are seen at a time, of which the first `own` are in no later window."""

    frames: list[Frame]
    own: int
    step: int = field(default=0)
    """Steps in which it was evaluated."""

    def ready(self, earlier: int) -> bool:
        """Whether the next step can be evaluated: all frames are there, and earlier windows are ahead."""
        return self.step < earlier and all(frame.step == self.step for frame in self.frames)


Estimate = Callable[[list[Frame], int], np.ndarray]
"""(frames, step) -> what is estimated of them, [t c h w]."""
Advance = Callable[[Frame, np.ndarray, int], np.ndarray]
"""(frame, what is estimated of it, step) -> x after the step."""


def windows_of(frames: Iterable[Frame], size: int, overlap: int) -> Iterator[Window]:
    """Windows of `size` frames that share `overlap` with the one before; the last is moved back to end with the video,
    and one shorter than a window is a window.
    """
    waiting, stride = [], size - overlap
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == size + stride:
            yield Window(waiting[:size], stride)
            waiting = waiting[stride:]
    if len(waiting) > size:
        yield Window(waiting[:size], len(waiting) - size)
    if waiting:
        last = waiting[-size:]
        yield Window(last, len(last))


def denoise_stream(
    frames: Iterable[Frame], size: int, overlap: int, steps: int, estimate: Estimate, advance: Advance
) -> Iterator[Frame]:
    """Denoise frames in windows, and yield them when they have taken all steps.

    In every step, what windows estimate of a frame that they share is cross-faded (MultiDiffusion, arXiv 2302.08113),
    so that the result is that of all windows going together from step to step. Here each goes as far as its neighbours
    let it: at most as many windows as steps are kept, however long the video is.
    """
    fade = WindowedAxis(0, size, overlap).fade
    source, kept, ended = windows_of(frames, size, overlap), [], False
    while kept or not ended:
        window = next(source, None)
        ended = window is None
        kept += [] if ended else [window]
        moved = True
        while moved:
            moved = False
            for earlier, window in zip([None, *kept], kept):
                if not window.ready(steps if earlier is None else earlier.step):
                    continue
                _evaluate(window, fade(len(window.frames)), estimate, advance)
                moved = True
        while kept and kept[0].step == steps:
            yield from kept[0].frames[: kept[0].own]
            kept = kept[1:]


def _evaluate(window: Window, weights: np.ndarray, estimate: Estimate, advance: Advance) -> None:
    """One step of a window; its own frames, of which everything is estimated then, take it."""
    estimates = estimate(window.frames, window.step)
    for frame, of_frame, weight in zip(window.frames, estimates, weights):
        frame.total, frame.weight = frame.total + weight * of_frame, frame.weight + weight
    for frame in window.frames[: window.own]:
        frame.x = advance(frame, frame.total / frame.weight, window.step)
        frame.step, frame.total, frame.weight = frame.step + 1, 0.0, 0.0
    window.step += 1
