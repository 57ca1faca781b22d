"""The name tables, against the published checkpoints' names and against themselves."""

import math
from collections import defaultdict

import numpy as np
import pytest

from svd import build
from svd.config import AutoencoderConfig, ModelConfig, UNetConfig
from svd.models.svd import parts
from svd_tools.checkpoints.conversion import is_leftover, plain_name
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.layouts import DIFFUSERS, SGM, SVD, detect_layout, find_layout, layouts_of
from svd_tools.checkpoints.tables import TRANSFORMS, Table

FULL = {decoder: ModelConfig(autoencoder=AutoencoderConfig(decoder=decoder)) for decoder in ("temporal", "image")}


@pytest.fixture(scope="module")
def shapes():
    return {decoder: build.parameter_shapes(config) for decoder, config in FULL.items()}


def foreign(layout, config, shapes):
    """Their names with the shapes that ours imply."""
    return {
        entry.theirs: TRANSFORMS[entry.transform].shape(shapes[entry.ours])
        for entry in expand(find_layout(config, layout), config, shapes)
    }


@pytest.mark.parametrize("decoder, name", [("temporal", "svd_sgm"), ("image", "svd_image_decoder_sgm")])
def test_every_tensor_of_the_single_files_is_placed(shapes, manifest, decoder, name):
    assert foreign("sgm", FULL[decoder], shapes[decoder]) == manifest(name)
    assert {entry.ours for entry in expand(SGM, FULL[decoder], shapes[decoder])} == set(shapes[decoder])


def test_every_tensor_of_the_diffusers_folder_is_placed(shapes, manifest):
    published = {
        f"{part}.{name}": shape
        for part in ("unet", "vae", "image_encoder")
        for name, shape in manifest(f"svd_diffusers_{part}").items()
    }
    assert foreign("diffusers", FULL["temporal"], shapes["temporal"]) == published


def test_every_tensor_of_mindones_checkpoint_is_placed_or_left_over(shapes, manifest):
    expected = foreign("sgm", FULL["temporal"], shapes["temporal"])
    published = {plain_name(name, SGM): shape for name, shape in manifest("svd_mindone").items()}
    left_over = {name for name in published if name not in expected}
    assert {name: shape for name, shape in published.items() if name not in left_over} == expected
    assert {name.removeprefix("conditioner.embedders.0.open_clip.model.") for name in left_over} == {
        "positional_embedding",
        "text_projection",
        "logit_scale",
        "token_embedding.embedding_table",
        "ln_final.weight",
        "ln_final.bias",
    }
    assert all(is_leftover(name, published[name], SGM, FULL["temporal"]) for name in left_over)
    assert not any(is_leftover(name, shape, SGM, FULL["temporal"]) for name, shape in expected.items())


def test_parameter_counts(shapes):
    def count(prefix):
        return sum(math.prod(shape) for name, shape in shapes["temporal"].items() if name.startswith(prefix))

    assert count("network.") == 1_524_623_082
    assert count("conditioner.image_encoder.") == 632_076_800
    quant_conv = 8 * 8 + 8
    assert count("autoencoder.") + quant_conv == 97_742_847
    assert count("conditioner.autoencoder.encoder.") == count("autoencoder.encoder.") + quant_conv


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_invert_themselves(name):
    transform = TRANSFORMS[name]
    shape = (4,) if name.startswith("gain") else (4, 6, 3, 3) if name == "over_time" else (4, 6)
    theirs = np.random.default_rng(0).standard_normal(transform.shape(shape)).astype(np.float16)
    ours = transform.to_ours(theirs)
    assert ours.shape == shape
    if name.startswith("third"):
        assert np.array_equal(ours, theirs[{"third_1": 0, "third_2": 4, "third_3": 8}[name] :][:4])
    else:
        assert np.array_equal(transform.to_theirs(ours), theirs)


@pytest.mark.parametrize("layout", ["sgm", "diffusers"])
def test_no_two_tensors_share_a_name(shapes, layout):
    sharing = defaultdict(list)
    for entry in expand(find_layout(FULL["temporal"], layout), FULL["temporal"], shapes["temporal"]):
        sharing[entry.theirs].append(entry.transform)
    for transforms in sharing.values():
        assert len(transforms) == 1 or sorted(transforms) == ["third_1", "third_2", "third_3"]


UNETS = [
    UNetConfig(model_channels=32, channel_mult=[1, 2, 2], num_res_blocks=1, attention_resolutions=[2, 4],
               num_head_channels=16, context_dim=1024, vector_dim=96),
    UNetConfig(model_channels=32, channel_mult=[1, 1, 2, 2], num_res_blocks=3, attention_resolutions=[1],
               num_head_channels=16, context_dim=1024, vector_dim=96),
    UNetConfig(model_channels=32, channel_mult=[1], num_res_blocks=2, attention_resolutions=[1],
               num_head_channels=32, context_dim=1024, vector_dim=96),
]  # fmt: skip


@pytest.mark.parametrize("unet", UNETS)
def test_other_sizes_fit_diffusers_networks(unet):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    config = ModelConfig(unet=unet, autoencoder=AutoencoderConfig(channels=32, channel_mult=[1, 2, 4]))
    settings = DIFFUSERS.folder.config_files(config)
    with torch.device("meta"):
        parts = {
            "unet": diffusers.UNetSpatioTemporalConditionModel.from_config(settings["unet/config.json"]),
            "vae": diffusers.AutoencoderKLTemporalDecoder.from_config(settings["vae/config.json"]),
        }
    theirs = {
        f"{part}.{name}": tuple(value.shape)
        for part, network in parts.items()
        for name, value in network.state_dict().items()
    }
    ours = foreign("diffusers", config, build.parameter_shapes(config))
    assert {name: shape for name, shape in ours.items() if not name.startswith("image_encoder.")} == theirs


def test_other_sizes_number_the_blocks_of_the_single_file():
    config = ModelConfig(unet=UNETS[0])
    names = [f"network.up_blocks.{i}.upsample.conv.weight" for i in (0, 1)]
    names += [
        "network.down_blocks.1.downsample.conv.bias",
        "network.up_blocks.2.resnets.1.spatial.conv1.weight",
    ]
    assert [entry.theirs.removeprefix("model.diffusion_model.") for entry in expand(SGM, config, names)] == [
        "output_blocks.1.2.conv.weight",  # behind the transformer
        "output_blocks.3.2.conv.weight",
        "input_blocks.4.0.op.bias",
        "output_blocks.5.0.in_layers.2.weight",
    ]
    config = ModelConfig(unet=UNETS[1])
    assert expand(SGM, config, names[:1])[0].theirs.endswith("output_blocks.3.1.conv.weight")


def test_a_name_without_a_row_is_a_mistake():
    with pytest.raises(LookupError, match="surprise"):
        expand(SGM, FULL["temporal"], ["network.surprise.weight"])
    with pytest.raises(LookupError, match="kernel"):
        Table(("theirs",), (("norm", "norm"),)).translate("kernel", "theirs", FULL["temporal"])
    with pytest.raises(LookupError, match="upscaler"):
        expand(SGM, FULL["temporal"], ["upscaler.weight"])


def test_layouts_are_told_by_their_names():
    layouts = layouts_of(FULL["temporal"])
    assert detect_layout(["a", "model.diffusion_model.out.0.weight"], layouts) is SGM
    assert detect_layout(["network.conv_in.weight"], layouts) is SVD
    assert detect_layout(["vae.x", "unet.conv_in.weight"], layouts) is DIFFUSERS
    assert detect_layout(["transformer.wte.weight"], layouts) is None


def test_columns_of_their_own():
    """A table within another may have names of others than the one around it."""
    inner = Table(("second", "first"), (("norm", "n2", "n1"),))
    outer = Table(
        ("first", "second"), (("a.{i}", "x.{next}", None, inner), ("b", "y", "z")), lambda config, i, j: {"next": i + 1}
    )
    assert outer.translate("a.3.norm.weight", "first", FULL["temporal"]) == ("x.4.n1.weight", "same")
    assert outer.translate("a.3.norm.weight", "second", FULL["temporal"]) is None
    assert outer.translate("b.bias", "second", FULL["temporal"]) == ("z.bias", "same")


def test_folders_of_diffusers_are_the_roots_of_its_layout():
    assert list(DIFFUSERS.folder.networks) == ["unet", "vae", "image_encoder"]
    assert {place.root for place in DIFFUSERS.places.values() if place} == set(DIFFUSERS.folder.networks)


@pytest.mark.parametrize("layout", [SGM, DIFFUSERS], ids=lambda layout: layout.name)
def test_a_layout_says_where_every_part_is(layout):
    for config in FULL.values():
        assert [part.prefix for part in parts(config) if part.prefix not in layout.places] == []


def test_plain_names():
    assert plain_name("a.norm.gamma", SGM) == "a.norm.weight"
    assert plain_name("a.norm.beta", SGM) == "a.norm.bias"
    assert plain_name("decoder.conv_out.conv3d.weight", SGM) == "decoder.conv_out.time_mix_conv.weight"
    assert plain_name("a.gamma_rays.weight", SGM) == "a.gamma_rays.weight"
