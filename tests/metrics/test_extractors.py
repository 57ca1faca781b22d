"""The extractors at full size against the public PyTorch classes, with the same random weights."""

import os

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close, relative_error
from device import DEVICE
from mindspore import Tensor
from published_extractors import EXTRACTORS as TOLERANCE
from published_extractors import build, golden, squares, weights

from svd import runtime
from svd.metrics.c3d import C3D
from svd.metrics.extractors import load_extractor
from svd.metrics.frechet import frechet_distance
from svd.metrics.i3d import I3D, cropped, squeezed
from svd.metrics.inception import Inception
from svd.metrics.resizing import bilinear
from svd_tools.checkpoints import extractors
from svd_tools.checkpoints.names.extractors import C3D as C3D_NAMES
from svd_tools.checkpoints.names.extractors import I3D as I3D_NAMES
from svd_tools.checkpoints.names.extractors import INCEPTION as INCEPTION_NAMES

I3D_FILE = os.environ.get("SVD_I3D_WEIGHTS", "")
"""i3d_pretrained_400.pt, where a user has it."""


@pytest.fixture(scope="module")
def i3d() -> I3D:
    return build(I3D, I3D_NAMES)


@pytest.fixture(scope="module")
def c3d() -> C3D:
    return build(lambda: C3D(487), C3D_NAMES)


@pytest.fixture(scope="module")
def inception() -> Inception:
    return build(Inception, INCEPTION_NAMES)


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return Tensor(np.ascontiguousarray(squares(0, -1, 1, 3, 10, 224, 224).swapaxes(1, 2)))


def test_weights_and_inputs_are_the_golden_ones(clip):
    probes = golden()
    assert np.array_equal(weights("Conv3d_1a_7x7.conv3d.weight", (64, 3, 7, 7, 7)).ravel()[:5],
                          probes["probe_Conv3d_1a_7x7.conv3d.weight"])  # fmt: skip
    assert np.array_equal(weights("fc6.bias", (4096,))[:5], probes["probe_fc6.bias"])
    assert np.array_equal(clip.asnumpy()[0, 0, 0, 0, ::8][:5], probes["probe_clip"])


def test_i3d(mode, i3d, clip):
    """With TensorFlow's padding: 10 frames become 5, 3 and 2, of which the average over two leaves one."""
    assert_close(i3d(clip), golden()["i3d_videogpt_logits"], TOLERANCE)


def test_the_epsilon_of_i3d_is_seen(eager, clip):
    """pytorch-i3d's normalisation and VideoGPT's are two networks."""
    network = build(lambda: I3D(eps=1e-3), I3D_NAMES)
    pooled = network.pooled(clip)
    assert_close(pooled, golden()["i3d_pooled"], TOLERANCE)
    logits = network.logits(pooled).asnumpy().mean(1)
    assert_close(logits, golden()["i3d_logits"].mean(1), TOLERANCE)
    assert relative_error(logits, golden()["i3d_videogpt_logits"]) > 3 * TOLERANCE


def test_c3d_has_pools_that_are_not_filled(mode, c3d):
    clip = Tensor(np.ascontiguousarray(squares(2, -1, 1, 3, 16, 112, 112).swapaxes(1, 2)))
    logits = c3d(clip)
    assert_close(logits, golden()["c3d_ceil_logits"], TOLERANCE)
    assert relative_error(logits, golden()["c3d_padded_logits"]) > 100 * TOLERANCE


def test_layers_in_front_of_the_logits_of_c3d(eager, c3d):
    clip = Tensor(np.ascontiguousarray(squares(2, -1, 1, 3, 16, 112, 112).swapaxes(1, 2)))
    for result, name in zip(c3d.hidden(clip), ("fc6", "fc7")):
        assert_close(result, golden()[f"c3d_ceil_{name}"], TOLERANCE)


def pictures() -> Tensor:
    return Tensor(bilinear(squares(1, 0, 2, 3, 40, 56), 299, 299) * 2 - 1)


def test_inception(mode, inception):
    assert_close(inception(pictures()), golden()["inception_2048"], TOLERANCE)


def test_parts_of_inception(eager, inception):
    x, found = pictures(), {}
    for number, cell in enumerate(inception.stem):
        x = cell(x)
        found[64 if number == 3 else 192] = x
    for number, cell in enumerate(inception.blocks):
        x = cell(x)
        if number == 7:
            found[768] = x
    for width, features in found.items():
        assert_close(features.asnumpy().mean((2, 3)), golden()[f"inception_{width}"], TOLERANCE)


@pytest.mark.parametrize("name", ["many", "few"])
def test_distances_are_those_of_the_published_code(name):
    distance = frechet_distance(*(golden()[f"features_{name}_{one}"] for one in "ab"))
    assert distance == pytest.approx(float(golden()[f"fid_{name}"]), rel=1e-3)
    assert distance == pytest.approx(float(golden()[f"fvd_{name}"]), rel=1e-3)


@pytest.mark.skipif(not I3D_FILE, reason="SVD_I3D_WEIGHTS names no file: i3d_pretrained_400.pt is not published here")
@pytest.mark.parametrize("frames, expected", [(30, 151.26), (10, 569.2)])
def test_the_published_weights_give_the_published_distance(tmp_path, frames, expected):
    """Videos of zeros against videos of ones, 64 x 64 pixels (JunyaoHu/common_metrics_on_video_quality)."""
    runtime.setup(DEVICE, ms.GRAPH_MODE)
    extractors.convert_extractor(I3D_FILE, tmp_path)
    network, _ = load_extractor(tmp_path, "i3d", DEVICE)
    for prepared in (cropped, squeezed):
        clips = [np.full((1, frames, 64, 64, 3), value, np.uint8) for value in (0, 255)]
        zeros, ones = (network(Tensor(prepared(clip))).asnumpy().repeat(8, 0) for clip in clips)
        assert frechet_distance(zeros, ones) == pytest.approx(expected, rel=2e-3)
