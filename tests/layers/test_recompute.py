"""Blocks that are computed again on the way back: the same gradients, whatever network they are of."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor, nn, ops
from small_model import SMALL, fill

from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.autoencoder.layers import PixelAttention
from svd.conditioning.clip_layers import EncoderLayer
from svd.conditioning.image_encoder import ImageEncoder
from svd.layers.recompute import recompute_blocks
from svd.layers.resblock import ResBlock, VideoResBlock

NETWORKS = {
    "encoder": (lambda: Encoder(SMALL.autoencoder, quant_conv=True), (2, 3, 8, 12), (ResBlock, PixelAttention)),
    "temporal_decoder": (lambda: Decoder(SMALL.autoencoder), (1, 3, 4, 4, 6), (VideoResBlock, PixelAttention)),
    "image_decoder": (
        lambda: Decoder(replace(SMALL.autoencoder, decoder="image")),
        (2, 4, 4, 6),
        (ResBlock, PixelAttention),
    ),
    "image_encoder": (lambda: ImageEncoder(SMALL.image_encoder), (2, 3, 8, 8), (EncoderLayer,)),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_gradients_are_the_same(eager, case):
    build, shape, _ = NETWORKS[case]
    x, results = Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32)), []
    for recompute in (False, True):
        network = fill(build())
        if recompute:
            recompute_blocks(network)
        weights = ms.ParameterTuple(network.get_parameters())
        loss, gradients = ms.value_and_grad(lambda x, f=network: ops.mean(ops.square(f(x))), None, weights)(x)
        results.append([loss, *gradients])
    for result, expected in zip(*results):
        assert_close(result, expected, 1e-6)


@pytest.mark.parametrize("case", NETWORKS)
def test_what_is_recomputed_are_the_blocks(case):
    build, _, blocks = NETWORKS[case]
    network = build()
    recompute_blocks(network)
    chosen = [cell for _, cell in network.cells_and_names() if isinstance(cell, blocks)]
    inside = {id(cell) for block in chosen for _, cell in block.cells_and_names()}
    assert chosen and len(inside) > len(chosen)
    for name, cell in network.cells_and_names():
        if list(cell.get_parameters()):  # the others are shared with all networks of the process
            assert ("recompute" in (cell.get_scope() or "")) == (id(cell) in inside), name


def test_blocks_within_blocks_are_left_to_theirs(monkeypatch):
    """MindSpore takes it once only, of the outer or of the inner cell."""
    seen = []
    monkeypatch.setattr(nn.Cell, "recompute", lambda self: seen.append(type(self)))
    recompute_blocks(VideoResBlock(32, 32))
    assert seen == [VideoResBlock]
