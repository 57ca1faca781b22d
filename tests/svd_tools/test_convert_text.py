"""Converting models that are given text: every layout there and back bit for bit, several sources, and refusals."""

import gzip
import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_text import MERGES, VOCABULARY
from text_configs import (
    TEXT_CONFIGS,
    TOKENIZER,
    random_checkpoint,
    read_folder,
    write_folder,
    write_vocabulary_folder,
)

from svd import build
from svd.checkpoints.formats import TRAINED_FORMAT
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import dump_config, load_config, parse_config
from svd_tools.checkpoints.trained import read_trained, write_merged, write_trained

MODULES = "temporal: {motion_modules: {heads: 4, max_frames: 6, middle: true}}\n"
CONSTANT = ("position_ids", ".pe")
"""Ends of the names of what follows from the config."""


@pytest.fixture(scope="module")
def text_configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text_configs")
    paths = {name: folder / f"{name}.yaml" for name in TEXT_CONFIGS}
    for name, path in paths.items():
        path.write_text(TEXT_CONFIGS[name])
    return paths


@pytest.fixture(scope="module")
def weights_of(text_configs):
    known = {}

    def draw(model: str, layout: str) -> dict[str, np.ndarray]:
        if (model, layout) not in known:
            known[model, layout] = random_checkpoint(text_configs[model], layout)
        return dict(known[model, layout])

    return draw


@pytest.fixture
def vocabulary(tmp_path):
    return write_vocabulary_folder(tmp_path / "vocabulary")


@pytest.fixture
def single_file(tmp_path, weights_of):
    """The image model, first or second, as a single file."""

    def write(model: str = "first", name: str = "x"):
        save_file(weights_of(model, "sgm"), tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    return write


def stored(path) -> dict[str, np.ndarray]:
    """The tensors of a file or a folder, without constants."""
    tensors = read_folder(path) if path.is_dir() else load_file(path)
    return {name: value for name, value in tensors.items() if not name.endswith(CONSTANT)}


# --- there and back ---


@pytest.mark.parametrize("model", ["first", "second"])
def test_single_files(model, single_file, weights_of, text_configs, vocabulary, convert, same_tensors):
    config = text_configs[model]
    ours, printed = convert(single_file(model), config, f"--tokenizer={vocabulary}")
    assert "NOTE" not in printed and "the layout of Stable Diffusion's single file" in printed
    assert {name: v.shape for name, v in load_file(ours).items()} == build.parameter_shapes(load_config(config))
    with safe_open(ours, "np") as file:
        assert parse_config(file.metadata()["config"]) == load_config(config)
        assert json.loads(file.metadata()["tokenizer"]) == {"vocab": VOCABULARY, "merges": MERGES}
    same_tensors(stored(convert(ours, config, "--to=sgm")[0]), weights_of(model, "sgm"))
    again, _ = convert(ours, config, "--overwrite")
    with safe_open(again, "np") as file:
        assert file.metadata()["tokenizer"] == TOKENIZER


@pytest.mark.parametrize("model", ["first", "second", "motion", "modelscope"])
def test_diffusers_folders(model, tmp_path, weights_of, text_configs, convert, same_tensors):
    config = text_configs[model]
    folder = write_folder(tmp_path / "model", weights_of(model, "diffusers"))
    ours, printed = convert(folder, config)
    assert "is a diffusers folder in diffusers' layout" in printed and "NOTE" not in printed
    back, _ = convert(ours, config, "--to=diffusers")
    same_tensors(stored(back), stored(folder))
    for name in ("vocab.json", "merges.txt"):
        assert (back / "tokenizer" / name).read_bytes() == (folder / "tokenizer" / name).read_bytes()
    same_tensors(stored(convert(back, config, "--to=diffusers")[0]), stored(folder))


def test_values_are_where_they_belong(single_file, weights_of, text_configs, vocabulary, convert):
    theirs = {model: weights_of(model, "sgm") for model in ("first", "second")}
    ours = {
        model: load_file(convert(single_file(model, model), text_configs[model], f"--tokenizer={vocabulary}")[0])
        for model in theirs
    }
    projection = theirs["first"]["model.diffusion_model.input_blocks.1.1.proj_in.weight"]
    assert projection.shape == (32, 32, 1, 1)
    assert np.array_equal(ours["first"]["network.down_blocks.0.attentions.0.proj_in.weight"], projection[..., 0, 0])
    tower = "cond_stage_model.transformer.text_model"
    layer = ours["first"]["text_encoder.layers.1.attn.to_k.bias"]
    assert np.array_equal(layer, theirs["first"][f"{tower}.encoder.layers.1.self_attn.k_proj.bias"])
    fused = theirs["second"]["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"]
    assert np.array_equal(ours["second"]["text_encoder.layers.0.attn.to_v.weight"], fused[64:])
    decoder = theirs["second"]["first_stage_model.decoder.up.0.block.1.conv2.weight"]
    assert np.array_equal(ours["second"]["autoencoder.decoder.up_blocks.1.resnets.1.conv2.weight"], decoder)


@pytest.mark.parametrize("model", ["first", "second"])
def test_projections_of_either_kind_are_read(
    model, tmp_path, weights_of, text_configs, vocabulary, convert, same_tensors
):
    """And those of the config are written."""
    weights = weights_of(model, "sgm")
    for name, value in weights.items():
        if name.startswith("model.") and name.endswith(("proj_in.weight", "proj_out.weight")):
            weights[name] = value[..., 0, 0] if model == "first" else value[..., None, None]
    save_file(weights, tmp_path / "x.safetensors")
    ours, _ = convert(tmp_path / "x.safetensors", text_configs[model], f"--tokenizer={vocabulary}")
    same_tensors(stored(convert(ours, text_configs[model], "--to=sgm")[0]), weights_of(model, "sgm"))


def test_types_on_request(single_file, weights_of, text_configs, vocabulary, convert):
    half, _ = convert(single_file(), text_configs["first"], "--to=sgm", "--dtype=fp16")
    indices = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    found = load_file(half)
    assert np.array_equal(found.pop(indices), np.arange(12)[None])
    assert {value.dtype for value in found.values()} == {np.dtype(np.float16)}


# --- temporal layers and an image model ---


def motion_parts(weights_of, layout: str):
    """(motion modules, the image model's tensors) of the model with both."""
    whole = weights_of("motion", "diffusers")
    image = {name: value for name, value in whole.items() if "motion_modules" not in name}
    if layout == "diffusers":
        return {n.removeprefix("unet."): v for n, v in whole.items() if "motion_modules" in n}, image
    return weights_of("motion", "animatediff"), image


def test_motion_modules_over_an_image_model_of_any_layout(tmp_path, weights_of, text_configs, convert, same_tensors):
    modules, image = motion_parts(weights_of, "animatediff")
    save_file({f"module.{name}": value for name, value in modules.items()}, tmp_path / "mm.safetensors")
    folder = write_folder(tmp_path / "image", image)
    own, _ = convert(folder, text_configs["first"])
    single, _ = convert(folder, text_configs["first"], "--to=sgm")
    results = []
    for base in (folder, own, single):
        arguments = [f"--image_model={base}", f"--tokenizer={folder}", "--overwrite"]
        path, printed = convert(tmp_path / "mm.safetensors", text_configs["motion"], *arguments)
        assert "AnimateDiff's layout, of motion modules alone" in printed and str(base) in printed
        results.append(load_file(path))
    assert {n: v.shape for n, v in results[0].items()} == build.parameter_shapes(load_config(text_configs["motion"]))
    for result in results[1:]:
        same_tensors(result, results[0])
    back, printed = convert(path, text_configs["motion"], "--to=animatediff")
    assert "NOTE: not written: the image model (" in printed
    same_tensors(stored(back), modules)
    positions = load_file(back)["mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0."
                                "attention_blocks.1.pos_encoder.pe"]  # fmt: skip
    assert positions.shape == (1, 6, 64) and np.allclose(positions[0, 3, :2], [np.sin(3), np.cos(3)])


@pytest.mark.parametrize("shape", ["folder", "file", "beside the UNet"])
def test_motion_adapters(shape, tmp_path, weights_of, text_configs, convert, same_tensors):
    modules, image = motion_parts(weights_of, "diffusers")
    expected, _ = convert(write_folder(tmp_path / "whole", weights_of("motion", "diffusers")), text_configs["motion"])
    folder = write_folder(tmp_path / "image", image)
    adapter = (folder if shape == "beside the UNet" else tmp_path) / "motion_adapter"
    adapter.mkdir()
    file = adapter / "diffusion_pytorch_model.fp16.safetensors"
    save_file(
        modules | {"mid_block.motion_modules.0.transformer_blocks.0.pos_embed.pe": np.ones((1, 6, 64), "f")}, file
    )
    source = {"folder": adapter, "file": file, "beside the UNet": folder}[shape]
    arguments = [] if shape == "beside the UNet" else [f"--image_model={folder}"]
    same_tensors(convert(source, text_configs["motion"], *arguments)[0], expected)


def test_a_unet_alone_takes_the_rest_from_an_image_model(tmp_path, weights_of, text_configs, convert, same_tensors):
    """As srpkdyy/VideoLDM and tunings of Stable Diffusion's UNet save it."""
    for model in ("srpkdyy", "first"):
        whole = weights_of(model, "diffusers")
        unet = {name.removeprefix("unet."): value for name, value in whole.items() if name.startswith("unet.")}
        if model == "srpkdyy":
            unet["down_blocks.0.tempo_attns.0.pos_enc.dummy"] = np.zeros(1, np.float32)
        save_file(unet, tmp_path / f"{model}.safetensors")
        rest = {name: value for name, value in whole.items() if not name.startswith("unet.")}
        others = weights_of("first", "diffusers")
        folder = write_folder(tmp_path / f"{model}_image", {n: rest.get(n, -v) for n, v in others.items()})
        arguments = [f"--image_model={folder}", "--overwrite"]
        path, _ = convert(tmp_path / f"{model}.safetensors", text_configs[model], *arguments)
        expected, _ = convert(write_folder(tmp_path / model, whole), text_configs[model], "--overwrite")
        same_tensors(path, expected)


def test_the_folder_of_modelscopes_three_files(tmp_path, weights_of, text_configs, vocabulary, convert, same_tensors):
    torch = pytest.importorskip("torch")
    weights, folder = weights_of("modelscope", "modelscope"), tmp_path / "modelscope"
    folder.mkdir()
    files = {"text2video_pytorch_model.pth": {}, "open_clip_pytorch_model.bin": {}, "VQGAN_autoencoder.pth": {}}
    for name, value in weights.items():
        file = next(file for file in files if name.startswith(file.split(".")[0]))
        files[file][name.split(".", 1)[1].replace(".0.op.", ".op.")] = torch.from_numpy(value)
    files["open_clip_pytorch_model.bin"]["visual.proj"] = torch.ones(3, 3)
    files["open_clip_pytorch_model.bin"]["transformer.resblocks.2.ln_1.bias"] = torch.ones(32)
    for file, tensors in files.items():
        torch.save({"state_dict": tensors} if file.startswith("VQGAN") else tensors, folder / file)
    ours, printed = convert(folder, text_configs["modelscope"], f"--tokenizer={vocabulary}")
    assert "ignored: 2 tensors" in printed and "in ModelScope's layout" in printed
    found = load_file(ours)
    projection = weights["text2video_pytorch_model.input_blocks.1.2.proj_in.weight"]
    assert projection.ndim == 3
    assert np.array_equal(found["network.down_blocks.0.attentions.0.temporal.proj_in.weight"], projection[..., 0])
    assert {n: v.shape for n, v in found.items()} == build.parameter_shapes(load_config(text_configs["modelscope"]))
    back, _ = convert(ours, text_configs["modelscope"], "--to=diffusers")
    same_tensors(load_file(convert(back, text_configs["modelscope"], "--overwrite")[0]), found)


def test_trained_motion_modules_are_exported(tmp_path, weights_of, text_configs, convert, same_tensors):
    """Alone, as a file of AnimateDiff's, and in the model that they began with, with its vocabulary."""
    ours, _ = convert(write_folder(tmp_path / "model", weights_of("motion", "diffusers")), text_configs["motion"])
    stored_config = dump_config(load_config(text_configs["motion"]))
    metadata = {"format": TRAINED_FORMAT, "config": stored_config, "pretrained": str(ours)}
    before = load_file(ours)
    trained = {name: -value for name, value in before.items() if ".temporal." in name}
    save_file(trained, tmp_path / "trained.safetensors", metadata)
    opened = read_trained(tmp_path / "trained.safetensors")
    write_trained(opened, tmp_path / "modules.safetensors", "animatediff")
    write_merged(opened, ours, tmp_path / "merged", "diffusers")
    assert (tmp_path / "merged" / "tokenizer" / "vocab.json").is_file()
    merged, _ = convert(tmp_path / "merged", text_configs["motion"])
    same_tensors(merged, before | trained)
    arguments = [f"--image_model={write_folder(tmp_path / 'image', motion_parts(weights_of, 'diffusers')[1])}"]
    same_tensors(convert(tmp_path / "modules.safetensors", text_configs["motion"], *arguments)[0], before | trained)
    spatial = {"network.conv_in.weight": before["network.conv_in.weight"]}
    save_file(trained | spatial, tmp_path / "trained.safetensors", metadata)
    with pytest.raises(CheckpointError, match="no place for network.conv_in.weight"):
        write_trained(read_trained(tmp_path / "trained.safetensors"), tmp_path / "x.safetensors", "animatediff")


# --- vocabularies ---


def test_vocabularies_of_every_kind(tmp_path, single_file, text_configs, convert):
    model = {"type": "BPE", "vocab": VOCABULARY, "merges": [merge.split(" ") for merge in MERGES]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with gzip.open(tmp_path / "bpe_simple_vocab_16e6.txt.gz", "wt") as file:
        file.write("\n".join(["bpe_simple_vocab_16e6.txt#version: 0.2", *MERGES, "beyond the", ""]))
    write_vocabulary_folder(tmp_path / "model" / "tokenizer")
    for name in ("tokenizer.json", "bpe_simple_vocab_16e6.txt.gz", "model", "model/tokenizer"):
        ours, _ = convert(single_file(), text_configs["first"], f"--tokenizer={tmp_path / name}", "--overwrite")
        with safe_open(ours, "np") as file:
            assert file.metadata()["tokenizer"] == TOKENIZER, name


def test_vocabularies_that_are_missing_or_of_others(tmp_path, single_file, text_configs, convert, refuse, weights_of):
    source, config = single_file(), text_configs["first"]
    error = refuse(source, config)
    assert "has no vocabulary" in error and "bpe_simple_vocab_16e6.txt.gz" in error and "(--tokenizer)" in error
    assert "no vocabulary" in refuse(source, config, "--to=diffusers")
    convert(source, config, "--to=sgm")
    assert "no place for a vocabulary" in refuse(source, config, "--to=sgm", f"--tokenizer={tmp_path}", "--overwrite")
    assert "has no vocabulary: give" in refuse(source, config, f"--tokenizer={tmp_path}")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}))
    assert "not that of CLIP" in refuse(source, config, f"--tokenizer={tmp_path}")
    (tmp_path / "vocab.json").write_text("{")
    assert "vocab.json is no JSON" in refuse(source, config, f"--tokenizer={tmp_path}")
    (tmp_path / "x.gz").write_bytes(b"\x1f\x8b" + bytes(30))
    assert "x.gz is damaged" in refuse(source, config, f"--tokenizer={tmp_path / 'x.gz'}")


# --- refusals ---


@pytest.mark.parametrize(
    "name, shape, what",
    [
        ("model.diffusion_model.input_blocks.0.0.weight", (32, 9, 3, 3), "is an inpainting model (9 channels)"),
        ("model.diffusion_model.label_emb.weight", (1000, 128), "Stable Diffusion's x4 upscaler"),
        ("unet.conv_in.weight", (32, 8, 3, 3), "InstructPix2Pix"),
        ("control_model.input_hint_block.0.weight", (16, 3, 3, 3), "is a ControlNet"),
        ("controlnet_cond_embedding.conv_in.weight", (16, 3, 3, 3), "is a ControlNet"),
        ("conditioner.embedders.1.model.ln_final.weight", (1280,), "is Stable Diffusion XL"),
        ("unet.mid_block.attentions.0.transformer_blocks.9.norm1.bias", (1280,), "is Stable Diffusion XL"),
        ("model.diffusion_model.middle_block.1.transformer_blocks.3.norm1.bias", (9,), "is Stable Diffusion XL"),
        ("conditioner.embedders.0.model.transformer.resblocks.0.ln_1.bias", (9,), "the refiner of Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", (9, 3), "a diffusion transformer"),
        ("transformer_blocks.7.attn.to_q.weight", (9, 9), "a diffusion transformer"),
        ("model.diffusion_model.init_attn.0.norm.weight", (32,), "VideoCrafter"),
        ("model.diffusion_model.input_blocks.1.1.time_stack.0.norm1.weight", (32,), "Stable Video Diffusion"),
        ("unet.down_blocks.0.temp_convs.0.conv1.0.weight", (32,), "ModelScope"),
        ("unet.down_blocks.0.motion_modules.0.norm.weight", (32,), "AnimateDiff"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", (32, 1024),
         "is of Stable Diffusion 2: its cross-attention sees 1024 channels"),
    ],
)  # fmt: skip
def test_other_models_are_named(name, shape, what, tmp_path, text_configs, refuse):
    save_file({name: np.ones(shape, np.float32)}, tmp_path / "x.safetensors")
    error = refuse(tmp_path / "x.safetensors", text_configs["first"])
    assert what in error and len(error.splitlines()) == 1


def test_an_image_model_with_a_config_of_another_kind(single_file, text_configs, config, refuse, sgm_file):
    error = refuse(single_file(), text_configs["motion"])
    assert "is of another kind of model, Stable Diffusion; the config is of" in error and "image_model" in error
    assert "Stable Video Diffusion" in refuse(sgm_file, text_configs["first"])
    assert "the config is of Stable Video Diffusion" in refuse(single_file(), config)
    second = single_file("second")
    assert "cross-attention sees 32 channels" in refuse(second, text_configs["first"])


def test_files_of_this_project_with_another_config(tmp_path, single_file, text_configs, vocabulary, convert, refuse):
    ours, _ = convert(single_file(), text_configs["first"], f"--tokenizer={vocabulary}")
    changed = tmp_path / "changed.yaml"
    changed.write_text(TEXT_CONFIGS["first"].replace("num_heads: 2", "num_heads: 4"))
    assert "its unet.num_heads is 2, not 4" in refuse(ours, changed, "--to=sgm")
    assert "it is of another kind" in refuse(ours, text_configs["motion"])
    changed.write_text(TEXT_CONFIGS["first"].replace("num_heads: 2", "num_heads: 2, convolution_projection: false"))
    written = load_file(convert(ours, changed, "--to=sgm")[0])
    assert written["model.diffusion_model.middle_block.1.proj_in.weight"].shape == (64, 64)


def test_motion_modules_of_another_version(tmp_path, weights_of, text_configs, single_file, refuse):
    modules, source = weights_of("motion", "animatediff"), tmp_path / "mm.safetensors"
    save_file(modules, source)
    assert "no image model: give the image model" in (error := refuse(source, text_configs["motion"]))
    assert "(--image_model)" in error
    arguments = [f"--image_model={single_file()}"]
    changed = tmp_path / "changed.yaml"
    changed.write_text(TEXT_CONFIGS["motion"].replace("middle: true", "middle: false"))
    assert "one in the middle, as v2 has" in refuse(source, changed, *arguments)
    block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
    save_file(modules | {f"{block}.pos_encoder.pe": np.ones((1, 24, 32), np.float32)}, source)
    assert "for 24 frames (24 in v1" in refuse(source, text_configs["motion"], *arguments)
    changed.write_text(TEXT_CONFIGS["second"].replace("image_ldm", "video_ldm") + MODULES)
    save_file(modules, source)
    error = refuse(source, changed, f"--image_model={single_file('second', 'base')}")
    assert "trained over Stable Diffusion 1, and do not fit Stable Diffusion 2" in error


def test_options_that_are_not_used(tmp_path, single_file, text_configs, vocabulary, sgm_file, config, refuse):
    source, first = single_file(), text_configs["first"]
    arguments = [f"--image_model={source}", f"--tokenizer={vocabulary}"]
    assert "has all networks: leave the image model out" in refuse(source, first, *arguments)
    assert "for models that are given text" in refuse(sgm_file, config, f"--image_model={source}")
    assert "no place for a vocabulary" in refuse(sgm_file, config, f"--tokenizer={vocabulary}")
    assert "has no layout sgm; it is written as svd, animatediff, diffusers" in refuse(
        source, text_configs["motion"], "--to=sgm"
    )
    assert "has no layout diffusers; it is written as svd" in refuse(source, text_configs["srpkdyy"], "--to=diffusers")


def test_settings_of_folders(tmp_path, weights_of, text_configs, convert, refuse):
    folder = write_folder(tmp_path / "model", weights_of("first", "diffusers"))
    written, _ = convert(folder, text_configs["first"], "--to=diffusers")

    def say(name: str, **settings):
        path = written / name
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    say("scheduler/scheduler_config.json", beta_schedule="linear")
    _, printed = convert(written, text_configs["first"])
    arguments = text_configs["first"], "--overwrite"
    assert "says beta_schedule linear; that of the config, scaled_linear, is taken" in printed
    say("scheduler/scheduler_config.json", prediction_type="v_prediction")
    assert "says prediction_type v_prediction, but the config asks for epsilon" in refuse(written, *arguments)
    say("scheduler/scheduler_config.json", prediction_type="epsilon")
    say("unet/config.json", attention_head_dim=[4, 4])
    assert "unet/config.json says attention_head_dim [4, 4]" in refuse(written, *arguments)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableVideoDiffusionPipeline"}))
    (folder / "text_encoder").rename(folder / "image_encoder")
    error = refuse(folder, *arguments)
    assert "diffusers' StableVideoDiffusionPipeline, and not what the config is of" in error
