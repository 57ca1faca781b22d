"""Decoding in chunks and tiles against decoding at once, and the scale of the latents."""

from dataclasses import replace
from functools import cache

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE
from mindspore import Tensor
from small_model import SMALL, fill

from svd.autoencoder.autoencoder import PEAK_COPIES, Autoencoder
from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.placement import place

RNG = np.random.default_rng(0)
LATENTS = RNG.standard_normal((2, 7, 4, 3, 5)).astype(np.float32)
IMAGE_CONFIG = replace(SMALL.autoencoder, decoder="image")
SCALE = SMALL.autoencoder.scale_factor


# In pynative mode alone: around the networks, whose graphs others compare, all is NumPy's.


@pytest.fixture
def image_autoencoder(eager) -> Autoencoder:
    """With the frame-wise decoder."""
    return _image_autoencoder()


@pytest.fixture
def autoencoder(eager) -> Autoencoder:
    """With the temporal decoder."""
    return _autoencoder()


@cache
def _image_autoencoder() -> Autoencoder:
    return Autoencoder(None, fill(Decoder(IMAGE_CONFIG)), IMAGE_CONFIG)


@cache
def _autoencoder() -> Autoencoder:
    encoder, decoder = Encoder(SMALL.autoencoder, quant_conv=True), Decoder(SMALL.autoencoder)
    return Autoencoder(fill(encoder), fill(decoder), SMALL.autoencoder)


# --- the latents' scale ---


def test_decode_divides_by_the_scale(autoencoder):
    z = LATENTS[:1, :3]
    assert_close(autoencoder.decode(z * SCALE), autoencoder.decoder(Tensor(z)))
    assert_close(autoencoder.decode(Tensor(z * SCALE)), autoencoder.decoder(Tensor(z)))


def test_encode_gives_the_scaled_mode_of_every_frame(autoencoder):
    """As a video of two clips, and frame by frame; the second half of the moments is the variance."""
    video = RNG.uniform(-1, 1, (2, 3, 3, 8, 12)).astype(np.float32)
    frames = [autoencoder.encoder(Tensor(video[i : i + 1, j])).asnumpy() for i in (0, 1) for j in range(3)]
    expected = np.concatenate(frames)[:, :4].reshape(2, 3, 4, 4, 6) * SCALE
    assert_close(autoencoder.encode(video), expected)
    assert_close(autoencoder.encode(Tensor(video)), expected)


# --- chunks ---


@pytest.mark.parametrize("chunk, overlap", [(1, 0), (2, 1), (3, 2), (3, None), (8, None)])
def test_frame_by_frame_no_chunk_shows(image_autoencoder, chunk, overlap):
    """The frame-wise decoder gives any number of frames, in any chunks, as at once."""
    frames = image_autoencoder.decoder(Tensor(LATENTS[0] / SCALE)).asnumpy()
    for count in (1, 2, 5, 7):
        assert_close(image_autoencoder.decode(LATENTS[:1, :count], chunk, overlap)[0], frames[:count])


@pytest.mark.parametrize("count, chunk", [(1, 3), (2, 8), (5, 2), (7, 3)])
def test_chunks_without_overlap_are_put_side_by_side(autoencoder, count, chunk):
    """Each is what the temporal decoder gives for it; the last one has as many frames as the others."""
    z, size = LATENTS[:1, :count], min(chunk, count)
    expected = np.zeros((1, count, 3, 6, 10), np.float32)
    for start in range(0, count, size):
        frames = slice(min(start, count - size), min(start, count - size) + size)
        expected[:, frames] += autoencoder.decoder(Tensor(z[:, frames] / SCALE)).asnumpy()
    if count % size:  # frames that the last two chunks share count half each
        expected[:, count - size : count - count % size] /= 2
    assert_close(autoencoder.decode(z, chunk, overlap=0), expected)


def test_a_chunk_of_all_frames_is_decoding_at_once(autoencoder):
    z = LATENTS[:, :3]
    at_once = autoencoder.decoder(Tensor(z / SCALE))
    for chunk, overlap in ((None, None), (3, None), (3, 2), (8, 5)):
        assert_close(autoencoder.decode(z, chunk, overlap), at_once)


def test_two_clips_equal_two_batches_of_one(autoencoder):
    z = LATENTS[:, :5]
    together = autoencoder.decode(z, chunk_size=3)
    assert_close(together, np.concatenate([autoencoder.decode(z[i : i + 1], chunk_size=3) for i in (0, 1)]))


def test_the_default_overlap_is_a_third_of_a_chunk(autoencoder):
    z = LATENTS[:1]
    default = autoencoder.decode(z, chunk_size=3)
    np.testing.assert_array_equal(default, autoencoder.decode(z, chunk_size=3, overlap=1))
    assert np.abs(default - autoencoder.decode(z, chunk_size=3, overlap=0)).max() > 0.01


def drifting_waves(frames: int, size: int) -> np.ndarray:
    """Scaled latents [1 t 4 h w] of smooth patterns that move by half a pixel per frame at most."""
    generator = np.random.default_rng(0)
    t, y, x = np.ogrid[:frames, :size, :size]
    z = np.zeros((1, frames, 4, size, size))
    for channel in np.tile(range(4), 4):
        ky, kx, phase = generator.uniform(-0.8, 0.8), generator.uniform(-0.8, 0.8), generator.uniform(0, 6)
        vy, vx = generator.uniform(-0.5, 0.5, 2)
        z[:, :, channel] += np.sin(ky * (y - vy * t) + kx * (x - vx * t) + phase)
    return (z * SCALE).astype(np.float32)


def test_no_seam_shows_where_chunks_are_blended(autoencoder):
    """The largest jump from frame to frame that decoding in chunks adds to decoding at once."""
    z = drifting_waves(12, 8)
    at_once = autoencoder.decode(z)

    def largest_jump(overlap):
        difference = autoencoder.decode(z, 6, overlap) - at_once
        return np.abs(np.diff(difference, axis=1)).max()

    hard_cut = largest_jump(0)
    assert hard_cut > 0.5 * np.abs(np.diff(at_once, axis=1)).max()  # a cut does show beside the motion itself
    assert largest_jump(None) < 0.6 * hard_cut
    assert largest_jump(4) < 0.5 * hard_cut


def test_progress_wraps_the_chunks(autoencoder):
    lists = []

    def progress(items):
        lists.append(list(items))
        return items

    autoencoder.decode(LATENTS[:1], 3, 1, progress=progress)
    assert [len(items) for items in lists] == [3]  # 0..2, 2..4, 4..6


# --- tiles ---


class LocalDecoder:
    """Twice the size; then every pixel becomes the sum of itself and its four neighbours."""

    temporal = False

    def __call__(self, z: Tensor) -> Tensor:
        x = np.pad(z.asnumpy()[:, :3].repeat(2, 2).repeat(2, 3), [(0, 0), (0, 0), (1, 1), (1, 1)])
        inner = x[..., 1:-1, 1:-1]
        return Tensor(inner + x[..., 2:, 1:-1] + x[..., :-2, 1:-1] + x[..., 1:-1, 2:] + x[..., 1:-1, :-2])


def test_tiles_of_a_local_decoder_differ_at_their_borders_only():
    """Tiles of 8 latents start at rows 0, 1 of 9 and columns 0, 6, 7 of 15; pixels at their ends lack a neighbour."""
    autoencoder = Autoencoder(None, LocalDecoder(), IMAGE_CONFIG)
    z = RNG.standard_normal((1, 2, 4, 9, 15)).astype(np.float32)
    at_once, tiled = autoencoder.decode(z), autoencoder.decode(z, tile_size=16)
    assert tiled.shape == at_once.shape == (1, 2, 3, 18, 30)
    differs = ~np.isclose(tiled, at_once, rtol=1e-4, atol=1e-4).all((0, 1, 2))
    assert set(np.nonzero(differs.all(1))[0]) == {2, 15}
    assert set(np.nonzero(differs.all(0))[0]) == {12, 14, 15, 27}
    differs[[2, 15]] = differs[:, [12, 14, 15, 27]] = False
    assert not differs.any()


def test_tiles_of_the_image_decoder(image_autoencoder):
    """It normalises and attends over all pixels it sees: larger tiles come closer, and one tile of all is exact."""
    autoencoder = image_autoencoder
    z = SCALE * RNG.standard_normal((1, 1, 4, 15, 18)).astype(np.float32)
    at_once = autoencoder.decode(z)

    def error(tile_size):
        tiled = autoencoder.decode(z, tile_size=tile_size)
        assert tiled.shape == at_once.shape
        return np.sqrt(np.mean((tiled - at_once) ** 2) / np.mean(at_once**2))

    assert error(24) < 0.3 < error(12) < 0.8
    assert error(36) == 0


def test_tiles_and_chunks_of_the_temporal_decoder(autoencoder):
    """Both at once: a window is what the decoder gives for a part of the frames and of the pixels."""
    z = LATENTS[:1, :3]
    result = autoencoder.decode(z, chunk_size=2, overlap=0, tile_size=6)  # 3 latents: 5 columns are 0..2 and 2..4
    corner = autoencoder.decoder(Tensor(z[:, :2, :, :, :3] / SCALE))
    assert_close(result[:, :1, :, :, :4], corner[:, :1, :, :, :4])
    assert result.shape == (1, 3, 3, 6, 10)


# --- memory ---


def test_memory_grows_with_the_pixels_decoded_at_once():
    """Some arrays of the 64 channels that the last level begins with, in the decoder's type."""
    autoencoder = Autoencoder(None, Decoder(SMALL.autoencoder), SMALL.autoencoder)
    assert autoencoder.decode_bytes_per_frame(8, 12) == PEAK_COPIES * 64 * 16 * 24 * 4
    assert autoencoder.decode_bytes_per_frame(8, 12, tile_size=20) == PEAK_COPIES * 64 * 16 * 20 * 4
    place(autoencoder.decoder, DEVICE, ms.float16)
    assert autoencoder.decode_bytes_per_frame(8, 12) == PEAK_COPIES * 64 * 16 * 24 * 2
