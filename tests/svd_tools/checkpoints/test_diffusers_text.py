"""Folders of models that are given text, with diffusers itself: it loads what is written, and what it saves is read."""

import inspect
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from text_configs import TEXT_CONFIGS, TOKENIZER, random_checkpoint, read_folder, write_folder

from svd.conditioning.tokenizer import Tokenizer
from svd.config import ImageLDMConfig, TextSamplingConfig, load_config
from svd_tools.checkpoints.layouts import find_layout

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

PIPELINES = {
    "first": "StableDiffusionPipeline",
    "second": "StableDiffusionPipeline",
    "motion": "AnimateDiffPipeline",
    "modelscope": "TextToVideoSDPipeline",
}
PARTS = ("unet", "vae", "text_encoder")
PROMPTS = ["", "a photo of the cat", "Three dogs, FAST and slow", "seven seven seven seven"]


@pytest.mark.parametrize("model", PIPELINES)
def test_diffusers_loads_what_is_written_and_what_it_saves_is_read(model, tmp_path, convert, same_tensors):
    path = tmp_path / f"{model}.yaml"
    path.write_text(TEXT_CONFIGS[model])
    config = load_config(path)
    ours, _ = convert(write_folder(tmp_path / "model", random_checkpoint(path, "diffusers")), path)
    written, _ = convert(ours, path, "--to=diffusers")
    pipeline = getattr(diffusers, PIPELINES[model]).from_pretrained(written)
    check_networks(pipeline, written)
    check_settings(pipeline, config)

    pipeline.save_pretrained(tmp_path / "saved")
    same_tensors(convert(tmp_path / "saved", path)[0], ours)
    pipeline.save_pretrained(tmp_path / "half", max_shard_size="200KB", variant="fp16")
    assert len(list((tmp_path / "half" / "unet").glob("*.safetensors"))) > 1
    again, printed = convert(tmp_path / "half", path)
    assert "of unet the variant fp16 is taken" in printed
    same_tensors(again, ours)
    for part in PARTS:  # as early releases, which had pickles and other names
        folder = tmp_path / "half" / part
        for file in folder.glob("*.fp16*"):
            file.unlink()
        stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        torch.save(getattr(pipeline, part).state_dict(), folder / f"{stem}.bin")
    same_tensors(convert(tmp_path / "half", path, "--overwrite")[0], ours)


def check_networks(pipeline, written):
    """Of every network, diffusers has exactly the tensors of the folder."""
    stored = read_folder(written)
    for part in PARTS:
        state = {
            name.removeprefix("text_model."): v.numpy() for name, v in getattr(pipeline, part).state_dict().items()
        }
        names = {name for name in stored if name.startswith(f"{part}.")}
        shown = {name.removeprefix(f"{part}.").removeprefix("text_model."): stored[name] for name in names}
        assert state.keys() - {"embeddings.position_ids"} == shown.keys()
        for name, value in shown.items():
            exact = not name.endswith(".pe")  # sines of float32 angles
            assert np.array_equal(state[name], value) if exact else np.allclose(state[name], value, atol=1e-6), name


def check_settings(pipeline, config):
    """What no tensor shows."""
    tokens = pipeline.tokenizer(PROMPTS, padding="max_length", max_length=12, truncation=True).input_ids
    ours, _ = Tokenizer.from_metadata(TOKENIZER, config.text_encoder)(PROMPTS)
    assert np.array_equal(tokens, ours)
    assert pipeline.text_encoder.config.hidden_act == config.text_encoder.activation
    assert pipeline.vae.config.scaling_factor == 0.18215
    scheduler = pipeline.scheduler.config
    assert scheduler.prediction_type == {"vp_eps": "epsilon", "vp_v": "v_prediction"}[config.preconditioning]
    assert scheduler.beta_schedule == "scaled_linear" and not scheduler.clip_sample
    heads = {
        module.heads
        for name, module in pipeline.unet.named_modules()
        if name.endswith("attentions.0.transformer_blocks.0.attn1")
    }
    assert heads == ({2} if config.unet.num_heads else {2, 4})


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_schedulers(sampler):
    """Every setting is one that diffusers knows."""
    config = ImageLDMConfig(sampling=TextSamplingConfig(sampler=sampler))
    settings = find_layout(config, "diffusers").folder.config_files(config)["scheduler/scheduler_config.json"]
    kind = getattr(diffusers, settings["_class_name"])
    assert settings.keys() - {"_class_name", "_diffusers_version"} <= inspect.signature(kind).parameters.keys()
    assert kind.from_config(settings).config.timestep_spacing == "leading"


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_motion_adapters_that_diffusers_saves(version, tmp_path, convert, same_tensors):
    """Beside an image model, alone, and within the UNet that diffusers makes of both."""
    first, motion = tmp_path / "first.yaml", tmp_path / "motion.yaml"
    first.write_text(TEXT_CONFIGS["first"])
    motion.write_text(TEXT_CONFIGS["motion"].replace("middle: true", f"middle: {str(version == 'v2').lower()}"))
    base, _ = convert(write_folder(tmp_path / "model", random_checkpoint(first, "diffusers")), first, "--to=diffusers")
    torch.manual_seed(0)
    adapter = diffusers.MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=1, motion_num_attention_heads=4, motion_max_seq_length=6,
        use_motion_mid_block=version == "v2",
    )  # fmt: skip
    adapter.save_pretrained(tmp_path / "adapter")
    alone, _ = convert(tmp_path / "adapter", motion, f"--image_model={base}")
    pipeline = diffusers.AnimateDiffPipeline.from_pretrained(base, motion_adapter=adapter)
    pipeline.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "motion_adapter").is_dir()
    whole, printed = convert(tmp_path / "whole", motion)
    assert "the folder motion_adapter is left out" in printed
    same_tensors(whole, alone)
    index = json.loads((base / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    shutil.copytree(tmp_path / "adapter", base / "motion_adapter")
    same_tensors(convert(base, motion)[0], alone)
    name = "network.down_blocks.1.attentions.0.temporal.block.attn2.to_out.weight"
    theirs = "down_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_out.0.weight"
    assert np.array_equal(load_file(alone)[name], adapter.state_dict()[theirs].numpy())
