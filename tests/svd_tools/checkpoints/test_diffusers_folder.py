"""The diffusers layout: folders as diffusers writes them, and folders that diffusers loads."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from svd.config import load_config
from svd_tools.checkpoints.layouts import DIFFUSERS

FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "image_encoder": "model.safetensors",
}


def load_folder(folder):
    return {part: load_file(folder / part / name) for part, name in FILES.items()}


@pytest.fixture
def folder(random_weights, config, tmp_path):
    """The tiny model as diffusers stores it."""
    weights = random_weights(config, "diffusers")
    path = tmp_path / "model"
    for part, name in FILES.items():
        (path / part).mkdir(parents=True)
        tensors = {key.removeprefix(f"{part}."): value for key, value in weights.items() if key.startswith(f"{part}.")}
        save_file(tensors, path / part / name, metadata={"format": "pt"})
        settings = DIFFUSERS.folder.config_files(load_config(config))[f"{part}/config.json"]
        (path / part / "config.json").write_text(json.dumps(settings))
    return path


def same_folders(a, b, same_tensors):
    for part in FILES:
        same_tensors(load_folder(a)[part], load_folder(b)[part])


def test_there_and_back(folder, config, convert, same_tensors):
    ours, printed = convert(folder, config)
    assert "is a diffusers folder in diffusers' layout" in printed
    assert [line.split("(")[0] for line in printed.splitlines() if line.startswith("NOTE")] == [
        "NOTE: not written: the encoder of the first stage ",
        "NOTE: not written: the decoder of the conditioner's autoencoder ",
    ]
    back, _ = convert(ours, config, "--to=diffusers")
    assert back.name == "model_diffusers"
    same_folders(back, folder, same_tensors)


def test_by_way_of_the_single_file(folder, config, convert, same_tensors):
    single, printed = convert(folder, config, "--to=sgm")
    names = load_file(single).keys()
    assert printed.count("NOTE") == 2 and "Image-to-video does not use it" in printed
    assert not any(
        name.startswith(("first_stage_model.encoder", "conditioner.embedders.3.encoder.dec")) for name in names
    )
    back, _ = convert(single, config, "--to=diffusers")
    same_folders(back, folder, same_tensors)


def test_from_the_single_file(sgm_file, sgm_weights, config, convert):
    written, printed = convert(sgm_file, config, "--to=diffusers", "--dtype=fp16")
    assert printed.count("there is no place for it in diffusers' layout") == 2
    vae = load_folder(written)["vae"]
    mix = sgm_weights["first_stage_model.decoder.mid.block_2.mix_factor"].astype(np.float16)
    assert np.array_equal(
        vae["decoder.mid_block.resnets.1.time_mixer.mix_factor"], mix
    )  # theirs means what sgm's means
    quant = sgm_weights["conditioner.embedders.3.encoder.quant_conv.weight"].astype(np.float16)
    assert np.array_equal(vae["quant_conv.weight"], quant)


def test_report_of_both_layouts(sgm_file, config, convert):
    _, printed = convert(sgm_file, config, "--to=diffusers", "--report")
    heads = [line.split() for line in printed.splitlines() if line.startswith("ours ")]
    assert [head[2] for head in heads] == ["diffusers", "sgm"]


def test_shards_and_the_fp16_variant(folder, config, convert, same_tensors):
    expected, _ = convert(folder, config)
    unet = load_file(folder / "unet" / FILES["unet"])
    names = list(unet)
    shards = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[:100],
              "diffusion_pytorch_model-00002-of-00002.safetensors": names[100:]}  # fmt: skip
    for shard, part in shards.items():
        save_file({name: unet[name] for name in part}, folder / "unet" / shard)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "unet" / FILES["unet"]).unlink()
    vae = folder / "vae"
    shutil.move(vae / FILES["vae"], vae / "diffusion_pytorch_model.fp16.safetensors")
    same_tensors(convert(folder, config, "--overwrite")[0], expected)


def test_bin_files_with_position_ids(folder, config, convert, same_tensors):
    torch = pytest.importorskip("torch")
    expected, _ = convert(folder, config)
    for part, name in FILES.items():
        tensors = {key: torch.from_numpy(value) for key, value in load_file(folder / part / name).items()}
        if part == "image_encoder":  # as older releases of transformers save them
            tensors["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
        binary = "pytorch_model.bin" if part == "image_encoder" else "diffusion_pytorch_model.bin"
        torch.save(tensors, folder / part / binary)
        (folder / part / name).unlink()
    path, printed = convert(folder, config, "--overwrite")
    assert "ignored: 1 tensors" in printed
    same_tensors(path, expected)


def test_an_existing_folder_is_replaced_on_request(folder, config, convert, refuse, same_tensors):
    written, _ = convert(folder, config, "--to=diffusers")
    (written / "mine").write_text("")
    assert "exists" in refuse(folder, config, "--to=diffusers")
    assert (written / "mine").exists()
    convert(folder, config, "--to=diffusers", "--overwrite")
    assert not (written / "mine").exists() and [path.name for path in written.parent.iterdir()] == [written.name]


def test_folders_that_are_incomplete(folder, config, tmp_path, refuse):
    assert "has no unet, no vae, no image_encoder folder" in refuse(folder / "unet", config)
    path = folder / "unet" / FILES["unet"]
    content = path.read_bytes()
    path.unlink()
    assert "unet has no weights" in refuse(folder, config)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "diffusion_pytorch_model-1.safetensors"}}))
    assert "diffusion_pytorch_model-1.safetensors does not exist" in refuse(folder, config)
    index.write_text(json.dumps({"map": 3}))
    assert "index.json is damaged" in refuse(folder, config)
    path.write_bytes(content[:-5])
    assert "truncated" in refuse(folder, config)


@pytest.mark.parametrize("variants", [("bf16",), ("fp16", "bf16"), ("fp32", "bf16"), ("bf16", "non_ema")])
def test_variants(folder, config, convert, same_tensors, variants):
    """The most precise is taken where there is none without a variant, and said."""
    expected, _ = convert(folder, config)
    whole = folder / "unet" / FILES["unet"]
    for variant in variants[1:]:
        save_file({"x": np.zeros(3, np.float32)}, whole.with_suffix(f".{variant}.safetensors"))
    whole.rename(whole.with_suffix(f".{variants[0]}.safetensors"))
    path, printed = convert(folder, config, "--overwrite")
    assert f"NOTE: of unet the variant {variants[0]} is taken." in printed and printed.count("the variant ") == 1
    same_tensors(path, expected)


def test_bfloat16_in_a_variant(folder, config, convert):
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    whole = folder / "unet" / FILES["unet"]
    half = {name: torch.from_numpy(value).bfloat16() for name, value in load_file(whole).items()}
    save(half, whole.with_suffix(".bf16.safetensors"))
    whole.unlink()
    path, printed = convert(folder, config)
    assert "tensors of type BF16 are read as float32" in printed
    written, expected = load_file(path)["network.conv_in.weight"], half["conv_in.weight"]
    assert written.dtype == np.float32 and np.array_equal(written, expected.float().numpy())


INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


@pytest.mark.parametrize(
    "content",
    ["[" * 9000 + "]" * 9000, '{"weight_map": {"a": %s}}' % ("9" * 5000), '{"weight_map": {"a": 3}}',
     '{"weight_map": 1}', "[3]", '{"weight_map": {"a": "x", "a": "y"}}', '{"weight_map": {"a": "\\u0000"}}'],
    ids=lambda content: content[:30],
)  # fmt: skip
def test_an_index_of_another_kind(folder, config, refuse, content):
    (folder / "unet" / FILES["unet"]).unlink()
    (folder / INDEX).write_text(content)
    assert len(refuse(folder, config).splitlines()) == 1


@pytest.mark.parametrize("place", [INDEX, f"unet/{FILES['unet']}", "vae/config.json", "unet/shard.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_in_the_place_of_one(folder, config, refuse, place, kind):
    """A named pipe would be waited for for ever."""
    path = folder / place
    (folder / "unet" / FILES["unet"]).unlink() if place.startswith("unet") else path.unlink()
    if place.endswith("shard.safetensors"):
        (folder / INDEX).write_text(json.dumps({"weight_map": {"conv_in.weight": "shard.safetensors"}}))
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    error = refuse(folder, config)
    assert len(error.splitlines()) == 1 and path.name in error


def test_folders_of_deepspeed(tmp_path, config, refuse):
    state = tmp_path / "step" / "mp_rank_00_model_states.pt"
    state.parent.mkdir()
    state.touch()
    assert "give its file mp_rank_00_model_states.pt" in refuse(state.parent, config)
    (state.parent / "zero_to_fp32.py").touch()
    assert "run its zero_to_fp32.py, and give the file" in refuse(state.parent, config)


@pytest.mark.parametrize(
    "part, key, value",
    [
        ("unet", "num_attention_heads", [4, 4]),
        ("unet", "num_attention_heads", 4),
        ("vae", "scaling_factor", 0.13),
        ("image_encoder", "num_attention_heads", 4),
        ("image_encoder", "hidden_act", "quick_gelu"),
    ],
)
def test_settings_that_no_shape_shows(folder, config, refuse, part, key, value):
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert f"{part}/config.json says {key} " in refuse(folder, config)


def test_settings_that_cannot_be_read(folder, config, convert, refuse):
    path = folder / "vae" / "config.json"
    path.write_text("{")
    assert "vae/config.json is damaged" in refuse(folder, config)
    path.unlink()
    convert(folder, config)


def test_models_that_diffusers_has_no_equal_of(configs, random_weights, golden, tmp_path, refuse):
    save_file(random_weights(configs["image"], "sgm"), tmp_path / "x.safetensors")
    error = refuse(tmp_path / "x.safetensors", configs["image"], "--to=diffusers")
    assert "no place for a frame-wise one" in error and "--to sgm" in error
    assert "Stability always 2; with 1" in refuse(*golden, "--to=diffusers")
    text = configs["temporal"].read_text()
    changed = tmp_path / "changed.yaml"
    changed.write_text(text + "preconditioning: edm\n")
    save_file(random_weights(changed, "sgm"), tmp_path / "y.safetensors")
    assert "no preconditioning but v_scaling, not edm" in refuse(tmp_path / "y.safetensors", changed, "--to=diffusers")
    changed.write_text(text.replace("channel_mult: [1, 2], num", "channel_mult: [2, 2], num"))
    save_file(random_weights(changed, "sgm"), tmp_path / "z.safetensors")
    assert "channel_mult 1" in refuse(tmp_path / "z.safetensors", changed, "--to=diffusers")


# --- with diffusers itself ---


@pytest.fixture
def diffusers():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return pytest.importorskip("diffusers")


def test_diffusers_loads_and_runs_what_is_written(diffusers, sgm_file, config, convert):
    written, _ = convert(sgm_file, config, "--to=diffusers")
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(written)
    stored = load_folder(written)
    for part, network in (
        ("unet", pipeline.unet),
        ("vae", pipeline.vae),
        ("image_encoder", pipeline.image_encoder),
    ):
        state = network.state_dict()
        assert state.keys() == stored[part].keys()
        assert all(np.array_equal(value.numpy(), stored[part][name]) for name, value in state.items())
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert pipeline.unet.config.num_attention_heads == [2, 4]
    assert pipeline.image_encoder.config.hidden_act == "gelu"
    pipeline.scheduler.set_timesteps(25)
    assert np.allclose(pipeline.scheduler.sigmas[[0, 1, -2, -1]], [700, 545.729, 0.002, 0], rtol=1e-5)
    assert np.isclose(pipeline.scheduler.init_noise_sigma, np.sqrt(700**2 + 1))
    pipeline.set_progress_bar_config(disable=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    frames = pipeline(
        image, height=32, width=32, num_frames=2, num_inference_steps=1, decode_chunk_size=2, output_type="pt"
    ).frames  # fmt: skip
    assert tuple(frames.shape) == (1, 2, 3, 32, 32)


def test_what_diffusers_saves_there_and_back(diffusers, sgm_file, config, tmp_path, convert, same_tensors):
    written, _ = convert(sgm_file, config, "--to=diffusers")
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(written)
    pipeline.save_pretrained(tmp_path / "saved")
    ours, _ = convert(tmp_path / "saved", config)
    back, _ = convert(ours, config, "--to=diffusers")
    same_folders(back, written, same_tensors)
    pipeline.to(dtype=pytest.importorskip("torch").float16)
    pipeline.save_pretrained(tmp_path / "sharded", max_shard_size="200KB", variant="fp16")
    assert len(list((tmp_path / "sharded" / "unet").glob("*.safetensors"))) > 1
    ours, _ = convert(tmp_path / "sharded", config)
    back, _ = convert(ours, config, "--to=diffusers")
    assert all(value.dtype == np.float16 for value in load_folder(back)["unet"].values())
