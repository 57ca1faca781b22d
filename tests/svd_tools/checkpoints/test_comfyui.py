"""ComfyUI's single files: every network is where it belongs, bit for bit."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from svd.config import load_config
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.layouts import DIFFUSERS
from svd_tools.checkpoints.tables import TRANSFORMS

IMAGE, VISUAL = "conditioner.embedders.3.", "conditioner.embedders.0.open_clip.model.visual."


def transformers_clip(tensors: dict[str, np.ndarray], model) -> dict[str, np.ndarray]:
    """CLIP of our names by those of transformers, behind Stability's prefix."""
    names = [name for name in tensors if name.startswith("conditioner.image_encoder.")]
    return {
        VISUAL + entry.theirs.removeprefix("image_encoder."): np.ascontiguousarray(
            TRANSFORMS[entry.transform].to_theirs(tensors[entry.ours])
        )
        for entry in expand(DIFFUSERS, model, names)
    }


@pytest.mark.parametrize("clip", ["transformers", "OpenCLIP"])
def test_a_file_of_comfyui(sgm_weights, ours, config, converted, same_tensors, clip):
    weights = {name: value for name, value in sgm_weights.items() if not name.startswith(IMAGE)}
    if clip == "transformers":
        weights = {name: value for name, value in weights.items() if not name.startswith(VISUAL)}
        weights |= transformers_clip(ours, load_config(config))
        weights[f"{VISUAL}vision_model.embeddings.position_ids"] = np.arange(50)[None]
    found, printed = converted(weights)
    assert ("has the names of transformers" in printed) == (clip == "transformers")
    assert "there is one autoencoder" in printed and "first stage's encodes the image" in printed
    image = "conditioner.autoencoder.encoder."
    for name, value in found.items():
        if not name.startswith(image):
            assert value.tobytes() == ours[name].tobytes(), name
        elif "quant_conv" not in name:
            assert value.tobytes() == ours[f"autoencoder.encoder.{name.removeprefix(image)}"].tobytes(), name
    assert (
        np.array_equal(found[f"{image}quant_conv.weight"][..., 0, 0], np.eye(8))
        and not found[f"{image}quant_conv.bias"].any()
    )
    assert ours.keys() - found.keys() == {name for name in ours if name.startswith("conditioner.autoencoder.decoder.")}
    again, _ = converted(converted(weights, "--to=sgm")[0])
    same_tensors(again, found)


def test_the_first_stages_last_convolution_is_the_conditioners(random_weights, configs, tmp_path, convert):
    """Of the model that decodes frame by frame: its first stage is a whole autoencoder of images."""
    weights = random_weights(configs["image"], "sgm")
    weights = {name: value for name, value in weights.items() if not name.startswith(IMAGE)}
    save_file(weights, tmp_path / "x.safetensors")
    found = load_file(convert(tmp_path / "x.safetensors", configs["image"])[0])
    for end in ("quant_conv.weight", "encoder.conv_out.bias"):
        assert np.array_equal(
            found[f"conditioner.autoencoder.encoder.{end.removeprefix('encoder.')}"],
            weights[f"first_stage_model.{end}"],
        )


def test_the_report_has_the_names_of_the_file(sgm_weights, converted):
    weights = {name: value for name, value in sgm_weights.items() if not name.startswith(IMAGE)}
    rows = [line.split(" | ") for line in converted(weights, "--report")[1].splitlines() if " | " in line]
    places = {row[0].strip(): row[1].strip() for row in rows}
    assert places["conditioner.autoencoder.encoder.conv_in.bias"] == "first_stage_model.encoder.conv_in.bias"
