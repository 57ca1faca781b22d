"""Long videos piece by piece: which frames a window is given, what comes out, and that stopped work goes on the same.

The networks are stand-ins: a window is a function of what is given and of its seed.
"""

from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from svd.config import ConfigError
from svd.pipelines.interpolate import Encode, Interpolate, interpolation_stages
from svd.pipelines.long_video import KeyFrames, Label, labels_at
from svd.pipelines.streaming import Decode, Record, StateError, stream, write_stream

TOLD = ("a cat", 60.0)


class Sampler:
    """Fills what is not given with the line between the given frames, or goes on from the last two of them; calls are
    noted down.
    """

    def __init__(self, frames: int):
        self.pipe = SimpleNamespace(
            config=SimpleNamespace(sampling=SimpleNamespace(num_frames=frames), size_multiple=2),
            autoencoder=AUTOENCODER,
        )
        self.settings = SimpleNamespace(decode_tile_size=None)
        self.calls = []

    def __call__(self, latents, mask, seed, prompt, fps, motion) -> np.ndarray:
        given = np.flatnonzero(mask)
        self.calls.append((tuple(given), seed, prompt, fps, motion))
        known = latents[given].reshape(len(given), -1).mean(1)
        line = np.interp(np.arange(len(latents)), given, known)
        if len(given) < 3 and given[-1] != len(latents) - 1:
            step = known[-1] - known[-2] if len(given) == 2 else 1.0
            line = known[-1] + step * (np.arange(len(latents)) - given[-1])
        made = line.reshape(-1, 1, 1, 1) * np.ones_like(latents) + 0.25  # given frames, too, which must not be used
        return made.astype(np.float32)


class Autoencoder:
    """Pixels are latents, one channel for three."""

    decoder = SimpleNamespace(temporal=False)

    def encode(self, video: np.ndarray):
        return SimpleNamespace(asnumpy=lambda: video[:, :, :1])

    def decode(self, latents: np.ndarray, tile_size=None) -> np.ndarray:
        return np.repeat(latents, 3, 2)


AUTOENCODER = Autoencoder()


def values(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1)[:, 0]


def latents(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32).reshape(-1, 1, 1, 1)


# --- interpolation ---


def interpolated(n: int, window: int, chunks: tuple[int, ...] = ()) -> tuple[np.ndarray, list]:
    """What becomes of n frames that come in pieces, and the calls of the sampler."""
    sampler = Sampler(window)
    stage = Interpolate(sampler, (3,), 8.0, lambda time: TOLD)
    given, made = np.cumsum(np.arange(n)), []
    for piece in np.split(given, chunks):
        if len(piece):
            stage.take(latents(*piece))
        while stage.ready():
            made.append(stage.run())
    stage.ended = True
    while stage.ready():
        made.append(stage.run())
    return values(np.concatenate(made)), sampler.calls


@pytest.mark.parametrize("window", [5, 9, 17])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 11])
def test_three_frames_between_two(n, window):
    result, calls = interpolated(n, window)
    assert len(result) == 4 * (n - 1) + 1
    given = np.cumsum(np.arange(n))
    np.testing.assert_array_equal(result[::4], given)  # as they are
    between = np.interp(np.arange(len(result)), np.arange(n) * 4, given)
    others = np.arange(len(result)) % 4 > 0
    np.testing.assert_allclose(result[others], between[others] + 0.25, rtol=1e-6)
    intervals = (window - 1) // 4
    assert len(calls) == -(-(n - 1) // intervals)
    assert all(call[0] == tuple(range(0, min(window, 4 * n - 3), 4)) for call in calls)
    assert [call[1] for call in calls] == [(3, number) for number in range(len(calls))]


def test_pieces_do_not_matter():
    whole, _ = interpolated(11, 9)
    for chunks in ((1, 2, 3), (5,), (4, 6, 10)):
        np.testing.assert_array_equal(interpolated(11, 9, chunks)[0], whole)


def test_windows_of_other_lengths_are_refused():
    for frames in (1, 4, 6, 8):
        with pytest.raises(ConfigError, match=f"must be 5, 9, 13, ..., got {frames}"):
            Interpolate(Sampler(frames), (0,), 8.0, lambda time: TOLD)


# --- key frames ---


def test_key_frames_continue_from_the_last_two():
    sampler = Sampler(6)
    stage = KeyFrames(sampler, latents(10), (7,), 2.0, lambda time: TOLD)
    first, second, third = (stage.run() for _ in range(3))
    assert [call[0] for call in sampler.calls] == [(0,), (0, 1), (0, 1)]
    assert [call[1] for call in sampler.calls] == [(7, 0), (7, 1), (7, 2)]
    assert len(first) == 6 and len(second) == len(third) == 4
    np.testing.assert_allclose(values(first), [10, 11.25, 12.25, 13.25, 14.25, 15.25])
    np.testing.assert_allclose(values(second), 15.25 + np.arange(1, 5) + 0.25)  # the motion goes on


def test_the_naive_way_is_given_one():
    sampler = Sampler(6)
    stage = KeyFrames(sampler, latents(10), (7,), 2.0, lambda time: TOLD, context=1)
    made = [stage.run() for _ in range(2)]
    assert [call[0] for call in sampler.calls] == [(0,), (0,)] and [len(frames) for frames in made] == [6, 5]


def test_a_window_has_to_be_longer_than_what_it_is_given():
    with pytest.raises(ConfigError, match="must be above 2, got 2"):
        KeyFrames(Sampler(2), latents(1), (0,), 2.0, lambda time: TOLD)


def test_labels_change_over_time():
    at = labels_at([Label(0, "a", 1), Label(2.5, "b", 2), Label(4, "b", 3)])
    assert [at(time) for time in (0, 2.4, 2.5, 3.9, 4, 100)] == [("a", 1)] * 2 + [("b", 2)] * 2 + [("b", 3)] * 2
    sampler = Sampler(6)
    stage = KeyFrames(sampler, latents(0), (0,), 2.0, at)
    for _ in range(3):
        stage.run()
    assert [(call[2], call[4]) for call in sampler.calls] == [("a", 1), ("b", 2), ("b", 3)]  # from 0.5, 3 and 5 s on


# --- decoding ---


@pytest.mark.parametrize(("chunk", "overlap"), [(4, 0), (4, 1), (6, 2), (20, 6)])
@pytest.mark.parametrize("n", [1, 4, 5, 13])
def test_decoding_in_chunks(n, chunk, overlap):
    """Each frame once, the last ones repeated; where frames are decoded by themselves, chunks do not show."""
    stage = Decode(AUTOENCODER, chunk, overlap, None, (3, 5), held=2)
    numbers = np.linspace(-1, 1, n)
    stage.take(latents(*numbers) * np.ones((1, 1, 4, 6), np.float32))
    stage.ended = True
    made = np.concatenate([stage.run() for _ in iter(stage.ready, False)])
    assert made.shape == (n + 2, 3, 5, 3) and made.dtype == np.uint8
    expected = np.round((numbers + 1) / 2 * 255)
    assert np.abs(made[:n, 0, 0, 0] - expected).max() <= 1 and (made[n:] == made[n - 1]).all()


def test_chunks_cross_fade():
    class Numbered(Autoencoder):
        number = 0

        def decode(self, x: np.ndarray, tile_size=None) -> np.ndarray:
            self.number += 1
            return np.repeat(np.full_like(x, self.number / 4), 3, 2)

    stage = Decode(Numbered(), 4, 2, None, (1, 1))
    stage.take(latents(*range(6)))
    made = np.concatenate([stage.run(), stage.run()])[:, 0, 0, 0] / 255 * 2 - 1
    np.testing.assert_allclose(made, [0.25, 0.25, 1 / 3, 5 / 12], atol=0.01)


# --- all together ---


def long_stages() -> list:
    sampler = Sampler(9)
    keys = KeyFrames(Sampler(5), latents(0) * np.ones((1, 1, 2, 2), np.float32), (0,), 1.0, lambda time: TOLD)
    between = [Interpolate(sampler, (1 + i,), 4.0, lambda time: TOLD) for i in range(2)]
    return [keys, *between, Decode(AUTOENCODER, 6, 2, None, (2, 2))]


def test_few_frames_wait_however_long_the_video_is():
    stages, most, made = long_stages(), [], 0
    for frames in stream(stages):
        made += 0 if frames is None else len(frames)
        most.append(sum(array.nbytes for stage in stages for array in stage.state.values()))
        if made >= 1500:
            break
    tenth = len(most) // 10
    assert max(most) == max(most[: 2 * tenth])


class Stopped(Exception):
    pass


def written(path, stages, total, stop=None) -> np.ndarray:
    """The frames of a work that is stopped before, or after, the n-th append, and gone on with, to the end."""
    store = path / "frames.npy"
    calls = iter(range(10**9))
    record = Record(path / "state.safetensors")
    numbers = record.restore(stages) or {"frames": 0, "bytes": 0}
    kept = list(np.load(store)[: numbers["bytes"]]) if store.exists() else []

    def append(frames) -> int:
        number = next(calls)
        if stop == (number, "before"):
            raise Stopped
        kept.extend(frames)
        np.save(store, np.array(kept))
        if stop == (number, "after"):
            raise Stopped
        return len(kept)

    with suppress(Stopped):
        write_stream(stages, record, append, total, numbers["frames"], lambda new: None)
    return np.array(kept)


@pytest.mark.parametrize("stop", [(number, when) for number in (0, 1, 7, 30) for when in ("before", "after")])
def test_stopped_work_goes_on_as_if_it_had_not_been(tmp_path, stop):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = written(tmp_path / "whole", long_stages(), 150)
    assert len(whole) == 150
    assert len(written(tmp_path / "stopped", long_stages(), 150, stop)) < 150
    np.testing.assert_array_equal(written(tmp_path / "stopped", long_stages(), 150), whole)
    np.testing.assert_array_equal(written(tmp_path / "stopped", long_stages(), 150), whole)  # nothing is left to do


@pytest.mark.parametrize(("stop", "chunk"), [(None, 2), ((2, "after"), 2), ((8, "before"), 2), (None, 5), (None, 25)])
def test_a_given_video(tmp_path, stop, chunk):
    """Of 7 frames of 3 x 5, 28: with those between, and the last one held; the same if it was stopped."""
    frames = [np.full((3, 5, 3), 10 * number, np.uint8) for number in range(7)]

    def stages() -> list:
        video = SimpleNamespace(pictures=lambda: iter(frames), fps=5.0, height=3, width=5)
        return interpolation_stages(Sampler(9), video, 1, 0, TOLD, chunk)

    if stop:
        assert len(written(tmp_path, stages(), 28, stop)) < 28
    made = written(tmp_path, stages(), 28)
    assert made.shape == (28, 3, 5, 3)
    np.testing.assert_array_equal(made[::4, 0, 0, 0], 10 * np.arange(7))
    assert (made[24:] == 60).all()


def test_a_damaged_record(tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(StateError, match="damaged .*; remove"):
        Record(path).restore(long_stages())


def test_frames_are_padded_to_what_the_model_takes():
    pictures = (np.full((3, 5, 3), number, np.uint8) for number in range(5))
    stage = Encode(AUTOENCODER, pictures, 2, 4)
    assert [stage.run().shape for _ in iter(stage.ready, False)] == [(2, 1, 4, 8), (2, 1, 4, 8), (1, 1, 4, 8)]
    assert stage.ended and stage.read == 5
