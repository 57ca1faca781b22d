"""Parts of other checkpoints: spatial layers of a personalised image model, the temporal decoder, several adapters."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device import DEVICE
from safetensors.numpy import load_file, save_file
from small_checkpoint import small_tensors, write_checkpoint
from small_model import SMALL
from small_text_model import METADATA, SMALL_IMAGE, SMALL_VIDEO, write_text_checkpoint

from svd import load_pipeline
from svd.checkpoints.lora import describe_alphas
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ConfigError, TemporalConfig, VideoLDMLayers, dump_config
from svd.layers.marks import spatial_parameters
from svd_tools import text_to_video

Q, FC = "network.down_blocks.1.attentions.0.spatial.attn1.to_q", "text_encoder.layers.0.mlp.fc1"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints: an image model that differs from the video models' in every layer, two video models, and SVD's."""
    folder = tmp_path_factory.mktemp("files")
    told = replace(SMALL_VIDEO, temporal=TemporalConfig(video_ldm=VideoLDMLayers(text=True)))
    image = write_text_checkpoint(folder / "image.safetensors", SMALL_IMAGE)
    tensors = {name: np.float32(1.1) * value for name, value in load_file(image).items()}
    save_file(tensors, image, {"format": "svd-mindspore", "config": dump_config(SMALL_IMAGE), **METADATA})
    return {
        "image": image,
        "video": write_text_checkpoint(folder / "video.safetensors", SMALL_VIDEO),
        "told": write_text_checkpoint(folder / "told.safetensors", told),
        "svd": write_checkpoint(folder / "svd.safetensors", small_tensors()),
    }


def load(checkpoint: Path, mode: int = 1, **options):
    return load_pipeline(None, checkpoint, DEVICE, mode, "O0", **options)


def parameters(pipe) -> dict[str, np.ndarray]:
    networks = {"network": pipe.denoiser.network, "text_encoder": pipe.conditioner.text_encoder}
    return {f"{prefix}.{p.name}": p.asnumpy() for prefix, network in networks.items() for p in network.get_parameters()}


# --- spatial layers of another image model ---


@pytest.mark.parametrize("model", ["video", "told"])
def test_a_personalised_image_model(files, model):
    """Its spatial layers and text encoder, under the same temporal layers, which see what they did before."""
    own, image, pipe = load(files[model]), load(files["image"]), load(files[model], spatial=files["image"])
    before, theirs, swapped = map(parameters, (own, image, pipe))
    spatial = {f"network.{p.name}" for p in spatial_parameters(pipe.denoiser.network)} | {FC + ".weight"}
    assert len(before) > len(theirs) > len(spatial) > 50
    for name, value in swapped.items():
        assert value.tobytes() == (theirs if name in theirs else before)[name].tobytes(), name
    assert not [name for name in spatial if theirs[name].tobytes() == before[name].tobytes()]
    told, others = pipe.conditioner(["a cat"], 8), [each.conditioner(["a cat"], 8).context for each in (image, own)]
    assert np.array_equal(told.context.asnumpy(), others[0].asnumpy())
    if model == "told":
        assert np.array_equal(told.temporal_context.asnumpy(), others[1].asnumpy())
        assert np.abs(told.temporal_context.asnumpy() - told.context.asnumpy()).max() > 1e-3
    else:
        assert told.temporal_context is None


@pytest.mark.parametrize("model", ["video", "told"])
def test_swapped_back_it_is_the_first_video_again(files, model):
    first, swapped, back = (
        load(files[model], spatial=spatial)("a cat", progress=False) for spatial in (None, files["image"], files[model])
    )
    assert first.tobytes() == back.tobytes() and np.abs(first.astype(int) - swapped).mean() > 1


def test_image_models_that_do_not_fit(files, tmp_path):
    with pytest.raises(ConfigError, match="spatial: the model has no temporal layers") as error:
        load(files["image"], spatial=files["image"])
    assert error.value.setting == "spatial"
    with pytest.raises(CheckpointError, match="has no spatial layers for .*: it is no model that is given text"):
        load(files["video"], spatial=files["svd"])
    for name, other in {
        "its unet.context_dim is 32, not 16": replace(
            SMALL_IMAGE,
            unet=replace(SMALL_IMAGE.unet, context_dim=32),
            text_encoder=replace(SMALL_IMAGE.text_encoder, width=32),
        ),
        "its preconditioning is vp_v, not vp_eps": replace(SMALL_IMAGE, preconditioning="vp_v"),
    }.items():
        save_file({}, tmp_path / "other.safetensors", {"config": dump_config(other)})
        with pytest.raises(CheckpointError, match=name):
            load(files["video"], spatial=tmp_path / "other.safetensors")


# --- the decoder of Stable Video Diffusion ---


def test_the_temporal_decoder(files):
    """It decodes an image model's latents as it decodes its own."""
    latents = np.random.default_rng(0).standard_normal((1, 3, 4, 8, 12)).astype(np.float32)
    pipe, svd = load(files["video"], decoder=files["svd"]), load(files["svd"])
    assert pipe.config.autoencoder.decoder == "temporal"
    decoded = [each.autoencoder.decode(latents, 3) for each in (pipe, svd)]
    assert np.array_equal(*decoded)


def test_decoders_that_do_not_fit(files, tmp_path):
    other = replace(SMALL, autoencoder=replace(SMALL.autoencoder, scale_factor=0.5))
    path = write_checkpoint(tmp_path / "scaled.safetensors", small_tensors(), other)
    with pytest.raises(CheckpointError, match="decodes other latents .*autoencoder.scale_factor is 0.5, not 0.18215"):
        load(files["image"], decoder=path)
    with pytest.raises(CheckpointError, match="decodes frame by frame: a temporal decoder is in") as error:
        load(files["image"], decoder=files["image"])
    assert error.value.setting == "decoder"


# --- adapters ---


@pytest.fixture(scope="module")
def loras(files) -> list[Path]:
    """Two files: of a layer of each of two networks, and of one of them again with another rank."""
    generator, stored, paths = np.random.default_rng(1), load_file(files["image"]), []
    for number, layers in enumerate(({Q: 2, FC: 3}, {Q: 4})):
        tensors = {}
        for layer, rank in layers.items():
            o, i = stored[f"{layer}.weight"].shape
            tensors[f"{layer}.lora_down"] = generator.standard_normal((rank, i)).astype(np.float32)
            tensors[f"{layer}.lora_up"] = generator.standard_normal((o, rank)).astype(np.float32)
        alphas = {layer: float(rank + number) for layer, rank in layers.items()}
        metadata = {"format": "svd-mindspore-trained", "config": dump_config(SMALL_IMAGE), **describe_alphas(alphas)}
        paths.append(files["image"].with_name(f"lora{number}.safetensors"))
        save_file(tensors, paths[-1], metadata)
    return paths


def test_adapters_of_two_networks_are_merged_at_their_scales(files, loras):
    base, adapted = parameters(load(files["image"])), parameters(load(files["image"], lora=loras, lora_scale=[0.5, -1]))
    first, second = map(load_file, loras)
    wanted = base | {
        f"{Q}.weight": base[f"{Q}.weight"]
        + 0.5 * first[f"{Q}.lora_up"] @ first[f"{Q}.lora_down"]
        - 5 / 4 * second[f"{Q}.lora_up"] @ second[f"{Q}.lora_down"],
        f"{FC}.weight": base[f"{FC}.weight"] + 0.5 * first[f"{FC}.lora_up"] @ first[f"{FC}.lora_down"],
    }
    for name, value in adapted.items():
        if name in (f"{Q}.weight", f"{FC}.weight"):
            np.testing.assert_allclose(value, wanted[name], atol=1e-6 * np.abs(wanted[name]).max())
        else:
            assert value.tobytes() == base[name].tobytes(), name
    one = parameters(load(files["image"], lora=loras, lora_scale=0.0))
    assert all(one[name].tobytes() == value.tobytes() for name, value in base.items())


def test_scales_that_do_not_fit(files, loras):
    with pytest.raises(ConfigError, match="lora_scale gives 3 scales for 2 files") as error:
        load(files["image"], lora=loras, lora_scale=[1, 2, 3])
    assert error.value.setting == "lora_scale"
    with pytest.raises(CheckpointError, match="is of another model than .*its unet.in_channels is 4, not 8"):
        load(files["svd"], lora=loras[0])


def test_flags(files, loras, tmp_path, capsys, eager):
    """Several adapters with a scale each, another image model and decoder: the file beside the video repeats it all."""
    common = ["--prompt=a cat", "--mode=1", "--format=gif", f"--output_dir={tmp_path}"]
    flags = ["--model.lora", *map(str, loras), "--model.lora_scale", "0.5", "0.25"]
    flags += [f"--model.spatial={files['image']}", f"--model.decoder={files['svd']}"]
    assert text_to_video.main([*common, f"--model.checkpoint={files['video']}", *flags]) == 0
    assert text_to_video.main([*common, f"--config={tmp_path / 'a-cat_seed0.yaml'}"]) == 0
    first, second = (tmp_path / f"a-cat_seed0{end}.gif" for end in ("", "_1"))
    assert first.read_bytes() == second.read_bytes()
    checkpoint = f"--model.checkpoint={files['video']}"
    for flag, problem in {
        "--model.lora_scale=2": "--model.lora_scale is for the adapters of --model.lora, and none are given",
        f"--model.decoder={files['image']}": "decodes frame by frame",
        f"--model.spatial={files['svd']}": "has no spatial layers for",
    }.items():
        assert text_to_video.main([*common, checkpoint, flag]) == 2
        assert problem in capsys.readouterr().err.splitlines()[-1]
