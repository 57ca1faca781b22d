"""A stream of frames is denoised as if all its windows went together from step to step, and few frames are kept."""

import numpy as np
import pytest

from svd.autoencoder.windows import WindowedAxis, apply_in_windows
from svd.pipelines.moving_windows import Frame, denoise_stream

STEPS = 5


def smooth(x: np.ndarray, step: int) -> np.ndarray:
    """An estimate of frames [t c h w] that depends on neighbours, on the window's ends and on the step."""
    padded = np.pad(x, ((1, 1), (0, 0), (0, 0), (0, 0)))
    return np.tanh(padded[:-2] + 2 * x - padded[2:] + step).astype(np.float32)


def advance(x: np.ndarray, estimate: np.ndarray, step: int) -> np.ndarray:
    return 0.5 * x + estimate / (step + 1)


def together(x: np.ndarray, size: int, overlap: int) -> np.ndarray:
    """All windows of a video [t c h w] go together."""
    for step in range(STEPS):
        axes = [WindowedAxis(0, size, overlap)]
        x = advance(x, apply_in_windows(lambda w, step=step: smooth(w, step), x, axes), step)
    return x


class Stream:
    """Frames one after the other, and how many of them are on their way at most."""

    def __init__(self, x: np.ndarray):
        self.x, self.taken, self.given, self.most = x, 0, 0, 0

    def frames(self):
        for number, x in enumerate(self.x):
            self.taken += 1
            self.most = max(self.most, self.taken - self.given)
            yield Frame(number, x, x[:0], np.random.default_rng(0))

    def run(self, size: int, overlap: int) -> np.ndarray:
        found = []
        for frame in denoise_stream(
            self.frames(),
            size,
            overlap,
            STEPS,
            lambda frames, step: smooth(np.stack([frame.x for frame in frames]), step),
            lambda frame, estimate, step: advance(frame.x, estimate, step),
        ):
            assert frame.number == len(found) and frame.step == STEPS
            self.given += 1
            found.append(frame.x)
        return np.stack(found)


@pytest.mark.parametrize("size, overlap", [(1, 0), (4, 0), (4, 1), (4, 2), (4, 3), (8, 2)])
def test_a_stream_is_denoised_as_a_whole(size, overlap):
    rng = np.random.default_rng(0)
    for length in range(1, 25):
        x = rng.standard_normal((length, 2, 1, 1)).astype(np.float32)
        np.testing.assert_allclose(Stream(x).run(size, overlap), together(x, size, overlap), rtol=1e-5, atol=1e-5)


def test_frames_are_kept_for_as_many_windows_as_steps():
    x = np.zeros((400, 1, 1, 1), np.float32)
    stream = Stream(x)
    stream.run(8, 2)
    assert stream.taken == 400 and stream.most <= (STEPS + 2) * 6 + 8
