"""Adapters of other programs: every style is recognised, and wherever they are given, what helps is said."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from svd.checkpoints.foreign import adapter_style
from svd.checkpoints.lora import read_lora
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_header import CheckpointError

BLOCK = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1"
STYLES = {
    "kohya's scripts": [f"lora_unet_{BLOCK.replace('.', '_')}_to_q.{end}" for end in
                        ("lora_down.weight", "lora_up.weight", "alpha")],
    "peft": [f"base_model.model.{BLOCK}.to_q.lora_{end}.weight" for end in "AB"],
    "diffusers and peft": [f"unet.{BLOCK}.to_q.lora_{end}.weight" for end in "AB"],
    "peft, several": [f"{BLOCK}.to_q.lora_{end}.default.weight" for end in "AB"],
    "before it used peft": [f"unet.{BLOCK}.to_q.lora.{end}.weight" for end in ("down", "up")],
    "first releases": [f"{BLOCK}.processor.to_q_lora.{end}.weight" for end in ("down", "up")],
    "ComfyUI": [f"diffusion_model.{BLOCK}.to_q.lora_{end}.weight" for end in ("down", "up")],
    "LyCORIS": [f"lycoris_{BLOCK.replace('.', '_')}.{end}" for end in ("hada_w1_a", "hada_w2_b")],
}  # fmt: skip


def read_config(path):
    return Checkpoint(path).config


@pytest.mark.parametrize("style", STYLES)
def test_every_style_in_every_place(tmp_path, style):
    """As a checkpoint, with a model's configuration and without, and as adapters."""
    path = tmp_path / "x.safetensors"
    save_file({name: np.ones((2, 2), np.float32) for name in STYLES[style]}, path, {"format": "pt"})
    network = pytest.importorskip("mindspore").nn.Dense(1, 1)
    for read in (read_config, read_lora, lambda path: Checkpoint(path).load({"network": network})):
        remedy = "merge them .*merge_and_unload" if style == "LyCORIS" else f"convert them with .*convert.py .*{path}"
        with pytest.raises(CheckpointError, match=rf"holds adapters \(LoRA\) as .*: {remedy}") as error:
            read(path)
        assert style.split(",")[0] in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_adapters(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    for read in (read_config, read_lora):
        with pytest.raises(
            CheckpointError, match="holds adapters .*: convert them with .*give what that writes as lora"
        ):
            read(tmp_path)


def test_models_are_no_adapters():
    weights = [f"model.diffusion_model.{number}.weight" for number in range(9)]
    assert adapter_style(weights) is None and adapter_style([]) is None
    assert adapter_style([*weights, *STYLES["peft"]]) is None
    assert adapter_style(["network.x.lora_down", "network.x.lora_up"]) is None  # this project's own
