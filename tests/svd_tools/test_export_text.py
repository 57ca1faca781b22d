"""Exports of models that are given text: what was trained in the whole model, with its vocabulary; merged adapters."""

from pathlib import Path

import numpy as np
import pytest
from device import DEVICE
from safetensors.numpy import load_file, save_file
from small_text_model import METADATA, SMALL_IMAGE, SMALL_VIDEO, write_text_checkpoint

from svd import load_pipeline
from svd.checkpoints.formats import TRAINED_FORMAT
from svd.checkpoints.lora import describe_alphas
from svd.checkpoints.model_file import Checkpoint
from svd.config import dump_config
from svd_tools.export import export, main

LAYERS = ("network.mid_block.attentions.0.spatial.ff.proj_in", "text_encoder.layers.0.attn.to_q")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_text_checkpoint(tmp_path_factory.mktemp("models") / "video.safetensors", SMALL_VIDEO)


def test_temporal_layers_and_a_text_encoder(video, tmp_path):
    before = load_file(video)
    trained = {name: value + 1 for name, value in before.items() if ".temporal." in name or name.startswith("text_")}
    folder = tmp_path / "run" / "checkpoints" / "update_3"
    folder.mkdir(parents=True)
    facts = {"format": TRAINED_FORMAT, "config": dump_config(SMALL_VIDEO), "pretrained": str(video)}
    save_file(trained, folder / "trained.safetensors", facts)
    merged = export(tmp_path / "run", tmp_path / "out")
    assert (
        Checkpoint(merged).config == SMALL_VIDEO and Checkpoint(merged).metadata["tokenizer"] == METADATA["tokenizer"]
    )
    found = load_file(merged)
    assert found.keys() == before.keys()
    assert all(np.array_equal(value, trained.get(name, before[name])) for name, value in found.items())


def test_adapters_of_an_image_model_in_a_video_model(video, tmp_path, capsys):
    """As they are loaded: of two networks, one of the layers is GEGLU's."""
    generator, before, tensors = np.random.default_rng(0), load_file(video), {}
    for layer in LAYERS:
        o, i = before[f"{layer}.weight"].shape
        tensors[f"{layer}.lora_down"] = generator.standard_normal((2, i)).astype(np.float32)
        tensors[f"{layer}.lora_up"] = generator.standard_normal((o, 2)).astype(np.float32)
    facts = {
        "format": TRAINED_FORMAT,
        "config": dump_config(SMALL_IMAGE),
        **describe_alphas(dict.fromkeys(LAYERS, 3.0)),
    }
    save_file(tensors, tmp_path / "lora.safetensors", facts)
    merged = export(tmp_path / "lora.safetensors", tmp_path / "out", pretrained=video, lora_scale=0.5)
    found = load_file(merged)
    assert Checkpoint(merged).config == SMALL_VIDEO
    changed = {name for name, value in found.items() if value.tobytes() != before[name].tobytes()}
    assert changed == {f"{layer}.weight" for layer in LAYERS}
    pipe = load_pipeline(None, video, DEVICE, 1, "O0", tmp_path / "lora.safetensors", 0.5)
    loaded = {f"network.{p.name}": p.asnumpy() for p in pipe.denoiser.network.get_parameters()}
    assert loaded[f"{LAYERS[0]}.weight"].tobytes() == found[f"{LAYERS[0]}.weight"].tobytes()
    save_file(before, tmp_path / "bare.safetensors", {"config": dump_config(SMALL_VIDEO)})
    flags = [f"--checkpoint={tmp_path / 'lora.safetensors'}", f"--pretrained={tmp_path / 'bare.safetensors'}"]
    assert main([*flags, f"--out_dir={tmp_path / 'bare'}"]) == 2
    assert "has no vocabulary: convert it again, with one" in capsys.readouterr().err
