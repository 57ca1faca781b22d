"""What a kind of model says of its networks."""

from dataclasses import replace

import pytest
from small_model import SMALL

from svd.build import build_networks, optional_parts
from svd.config.models import KINDS
from svd.models import model_of
from svd.models.svd import parts


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_module_whose_parts_fit_together(kind):
    config = KINDS[kind]()
    found = {part.prefix: part for part in model_of(config).parts(config)}
    assert len(found) == len(model_of(config).parts(config)), "no two parts have one prefix"
    assert {part.stand_in for part in found.values()} <= {"", *found}
    for part in found.values():
        assert part.stand_in or part.spare or not part.optional, "what can be absent needs a stand-in, or does nothing"
        assert part.stand_in != part.prefix and not (part.spare and part.stand_in)


@pytest.mark.parametrize("decoder", ["temporal", "image"])
def test_parts_of_stable_video_diffusion(decoder):
    config = replace(SMALL, autoencoder=replace(SMALL.autoencoder, decoder=decoder))
    assert {part.prefix for part in parts(config) if part.exact} == {
        "conditioner.autoencoder.encoder",
        "autoencoder.encoder",
    }
    spare = {part.prefix for part in parts(config) if part.spare}
    assert spare == {"conditioner.autoencoder.decoder"}
    assert build_networks(config).keys() == {part.prefix for part in parts(config)} - spare
    assert optional_parts(config).keys() == {"autoencoder.encoder.", "conditioner.autoencoder.decoder."}
    stand_ins = {part.stand_in for part in parts(config)} - {""}
    assert ("conditioner.autoencoder.decoder" in stand_ins) == (decoder == "image")
