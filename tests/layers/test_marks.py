"""Which layers are temporal, and which begin at zero: by their marks, against the names of the published layouts."""

import re
from dataclasses import replace

import pytest
from mindspore import nn
from small_model import SMALL

from svd.autoencoder.decoder import Decoder
from svd.build import build_networks
from svd.layers.marks import temporal, temporal_parameters, zero_init_names

TEMPORAL = re.compile(r"\.(temporal|frame_embedding|blend)\.|time_conv_out\.")
ZERO = re.compile(
    r"^network\.conv_out\."
    r"|\.(spatial|temporal)\.conv2\.|\.resnets\.\d+\.conv2\."  # the last layer of a residual block
    r"|\.attentions\.\d+\.proj_out\."
    r"|\.temporal\.(attn1\.to_out|attn2\.to_out|ff\.proj_out|ff_in\.proj_out)\."
    r"|\.frame_embedding\.linear_2\."
)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Cell]:
    image_decoder = Decoder(replace(SMALL.autoencoder, decoder="image"))
    return build_networks(SMALL) | {"conditioner.autoencoder.decoder": image_decoder}


def test_temporal_parameters(networks):
    """In the order of the network, which optimizer states are kept in."""
    for prefix, network in networks.items():
        expected = [p.name for p in network.get_parameters() if TEMPORAL.search(p.name)]
        assert [p.name for p in temporal_parameters(network)] == expected
        assert bool(expected) == (prefix in ("network", "autoencoder.decoder"))


def test_what_begins_at_zero(networks):
    for prefix, network in networks.items():
        names = {p.name for p in network.get_parameters() if ZERO.search(f"{prefix}.{p.name}")}
        assert zero_init_names(network) == names
        assert bool(names) == ("image_encoder" not in prefix)


def test_a_mark_is_of_all_within():
    inner = nn.Dense(2, 3)
    network = nn.SequentialCell(nn.Dense(2, 2), temporal(nn.SequentialCell(inner)))
    assert temporal_parameters(network) == [inner.weight, inner.bias]
