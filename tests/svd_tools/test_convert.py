"""The converter as a whole: every layout, there and back bit for bit, and what it prints."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from svd import build
from svd.config import load_config, parse_config
from svd_tools.checkpoints.converter import output_path
from svd_tools.convert import main

ROOT = Path(__file__).parents[2]


def save_ckpt(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    ms.save_checkpoint([{"name": n, "data": ms.Tensor(v)} for n, v in tensors.items()], str(path))
    return path


def as_mindspore_names(name: str) -> str:
    """Names as MindSpore's own normalisations, and mindone's last convolution, give them."""
    kind = name.split(".")[-2] if "." in name else ""
    is_norm = kind.startswith(("norm", "ln_")) or ".in_layers.0." in name or ".out_layers.0." in name or "out.0" in name
    if is_norm:
        name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
    return name.replace(".conv_out.time_mix_conv.", ".conv_out.conv3d.")


# --- there and back ---


def test_golden_there_and_back(golden, convert, same_tensors):
    source, config = golden
    ours, printed = convert(source, config)
    assert "is a .safetensors file in Stability's layout (sgm): 1388 tensors" in printed and "NOTE" not in printed
    shapes = build.parameter_shapes(load_config(config))
    assert {name: value.shape for name, value in load_file(ours).items()} == shapes
    back, _ = convert(ours, config, "--to=sgm")
    same_tensors(back, source)


def test_our_file_holds_its_config(golden, convert):
    source, config = golden
    path, _ = convert(source, config)
    with safe_open(path, "np") as file:
        assert file.metadata()["format"] == "svd-mindspore"
        assert parse_config(file.metadata()["config"]) == load_config(config)


def test_values_are_where_they_belong(sgm_file, sgm_weights, config, convert):
    ours = load_file(convert(sgm_file, config)[0])
    unet, decoder = "model.diffusion_model", "first_stage_model.decoder"
    visual = "conditioner.embedders.0.open_clip.model.visual"
    q, k, v = np.split(sgm_weights[f"{visual}.transformer.resblocks.1.attn.in_proj_weight"], 3)
    expected = {
        "network.mid_block.resnets.1.blend.mix_factor": sgm_weights[f"{unet}.middle_block.2.time_mixer.mix_factor"],
        "network.up_blocks.0.upsample.conv.bias": sgm_weights[f"{unet}.output_blocks.1.1.conv.bias"],
        "network.down_blocks.0.resnets.0.temporal.conv2.weight": sgm_weights[
            f"{unet}.input_blocks.1.0.time_stack.out_layers.3.weight"
        ][..., 0],
        "autoencoder.decoder.up_blocks.0.resnets.2.blend.mix_factor": -sgm_weights[
            f"{decoder}.up.1.block.2.mix_factor"
        ],
        "autoencoder.decoder.mid.attention.to_q.weight": sgm_weights[f"{decoder}.mid.attn_1.q.weight"][..., 0, 0],
        "conditioner.image_encoder.projection.weight": sgm_weights[f"{visual}.proj"].T,
        "conditioner.image_encoder.layers.1.attn.to_q.weight": q,
        "conditioner.image_encoder.layers.1.attn.to_k.weight": k,
        "conditioner.image_encoder.layers.1.attn.to_v.weight": v,
    }
    for name, values in expected.items():
        assert np.array_equal(ours[name], values), name


@pytest.mark.parametrize("decoder", ["temporal", "image"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_single_files_there_and_back(configs, random_weights, tmp_path, convert, same_tensors, decoder, dtype):
    weights = random_weights(configs[decoder], "sgm", dtype)
    save_file(weights, tmp_path / "x.safetensors")
    ours, _ = convert(tmp_path / "x.safetensors", configs[decoder])
    assert {value.dtype for value in load_file(ours).values()} == {np.dtype(dtype)}
    same_tensors(convert(ours, configs[decoder], "--to=sgm")[0], weights)
    same_tensors(convert(ours, configs[decoder], "--overwrite")[0], ours)


def test_mixed_types_are_kept(sgm_weights, config, tmp_path, convert, same_tensors):
    mixed = {name: value.astype(np.float16) if i % 3 else value for i, (name, value) in enumerate(sgm_weights.items())}
    save_file(mixed, tmp_path / "x.safetensors")
    ours, _ = convert(tmp_path / "x.safetensors", config)
    same_tensors(convert(ours, config, "--to=sgm")[0], mixed)


def test_one_fused_tensor_of_three_types(sgm_file, sgm_weights, config, convert):
    ours, _ = convert(sgm_file, config)
    tensors = load_file(ours)
    name = "conditioner.image_encoder.layers.0.attn.to_q.weight"
    tensors[name] = tensors[name].astype(np.float16)
    save_file(tensors, ours)
    fused = load_file(convert(ours, config, "--to=sgm")[0])[
        "conditioner.embedders.0.open_clip.model.visual.transformer.resblocks.0.attn.in_proj_weight"
    ]
    assert fused.dtype == np.float32 and np.array_equal(fused[:32], tensors[name].astype(np.float32))


def test_types_on_request(sgm_file, sgm_weights, config, convert):
    half, _ = convert(sgm_file, config, "--to=sgm", "--dtype=fp16")
    for name, value in load_file(half).items():
        assert value.dtype == np.float16 and np.array_equal(value, sgm_weights[name].astype(np.float16))
    single, _ = convert(half, config, "--dtype=fp32")
    assert {value.dtype for value in load_file(single).values()} == {np.dtype(np.float32)}


# --- other files ---


def test_mindones_checkpoint(sgm_weights, config, tmp_path, convert, same_tensors):
    tower = "conditioner.embedders.0.open_clip.model"
    extra = {
        f"{tower}.positional_embedding": np.ones((77, 24), np.float32),
        f"{tower}.logit_scale": np.array(4.6, np.float32),
        f"{tower}.ln_final.gamma": np.ones(24, np.float32),
        f"{tower}.token_embedding.embedding_table": np.full((10, 24), np.nan, np.float32),
    }
    renamed = {as_mindspore_names(name): value for name, value in sgm_weights.items()}
    assert sum(name.endswith(".gamma") for name in renamed) > 100
    source = save_ckpt(tmp_path / "mindone.ckpt", renamed | extra)
    ours, printed = convert(source, config)
    assert "is a MindSpore checkpoint in Stability's layout" in printed
    assert "ignored: 4 tensors that are no part of the model" in printed and "logit_scale" in printed
    same_tensors(convert(ours, config, "--to=sgm")[0], sgm_weights)


@pytest.mark.parametrize("gamma", [False, True])
def test_our_names_in_a_mindspore_checkpoint(sgm_file, config, tmp_path, convert, same_tensors, gamma):
    ours, _ = convert(sgm_file, config)
    tensors = load_file(ours)
    names = {name: as_mindspore_names(name) if gamma else name for name in tensors}
    source = save_ckpt(tmp_path / "ours.ckpt", {names[name]: value for name, value in tensors.items()})
    again, printed = convert(source, config)
    assert again.name == "ours.safetensors" and "is a MindSpore checkpoint in this project's layout" in printed
    same_tensors(again, ours)


def test_our_names_in_mindspores_safetensors(sgm_file, config, tmp_path, convert, same_tensors):
    ours, _ = convert(sgm_file, config)
    parameters = [{"name": name, "data": ms.Tensor(value)} for name, value in load_file(ours).items()]
    ms.save_checkpoint(parameters, str(tmp_path / "ms.safetensors"), format="safetensors")
    same_tensors(convert(tmp_path / "ms.safetensors", config)[0], ours)


@pytest.mark.parametrize("ending", ["ckpt", "bin", "pt"])
def test_pytorch_files(sgm_weights, sgm_file, config, tmp_path, convert, same_tensors, ending):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in sgm_weights.items()}
    path = tmp_path / f"torch.{ending}"
    torch.save({"state_dict": tensors, "global_step": 3} if ending == "ckpt" else tensors, path)
    ours, printed = convert(path, config)
    assert "is a PyTorch file (read without executing its pickle)" in printed
    same_tensors(ours, convert(sgm_file, config)[0])


def test_bfloat16_becomes_float32(sgm_weights, config, tmp_path, convert):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value).bfloat16() for name, value in sgm_weights.items()}
    torch.save(tensors, tmp_path / "b.ckpt")
    back = load_file(convert(tmp_path / "b.ckpt", config, "--to=sgm")[0])
    for name, value in back.items():
        assert value.dtype == np.float32 and np.array_equal(value, tensors[name].float().numpy())


@pytest.mark.parametrize(
    "prefixes",
    [
        ("first_stage_model.encoder.",),
        ("conditioner.embedders.3.encoder.decoder.", "conditioner.embedders.3.encoder.post_quant_conv."),
    ],
)
def test_groups_that_image_to_video_does_not_use(sgm_weights, config, tmp_path, convert, same_tensors, prefixes):
    weights = {name: value for name, value in sgm_weights.items() if not name.startswith(prefixes)}
    save_file(weights, tmp_path / "x.safetensors")
    ours, printed = convert(tmp_path / "x.safetensors", config)
    notes = [line for line in printed.splitlines() if line.startswith("NOTE")]
    assert len(notes) == 1 and "the source does not have it" in notes[0]
    assert f"({len(sgm_weights) - len(weights)} tensors)" in notes[0]
    same_tensors(convert(ours, config, "--to=sgm")[0], weights)


# --- what is printed, and where it is written ---


def test_report(sgm_file, config, convert):
    printed = convert(sgm_file, config, "--report")[1].splitlines()
    rows = [[cell.strip() for cell in line.split(" | ")] for line in printed if " | " in line]
    assert rows[0] == ["ours", "sgm", "shape", "transform"]
    assert [
        "autoencoder.decoder.time_conv_out.weight",
        "first_stage_model.decoder.conv_out.time_mix_conv.weight",
        "[3, 3, 3, 1]",
        "temporal",
    ] in rows
    assert len(rows) == 1 + len(build.parameter_shapes(load_config(config)))
    assert len({line.index("|") for line in printed if " | " in line}) == 1


def test_report_lists_what_is_ignored(sgm_weights, config, tmp_path, convert):
    tower = "conditioner.embedders.0.open_clip.model.transformer.resblocks"
    extra = {f"{tower}.{i}.ln_1.weight": np.ones(3, np.float32) for i in range(5)}
    save_file(sgm_weights | extra, tmp_path / "x.safetensors")
    _, printed = convert(tmp_path / "x.safetensors", config, "--report")
    assert sum(line.startswith("ignored | ") for line in printed.splitlines()) == 5
    assert "ignored: 5 tensors" in printed and "ln_1.weight, ...)" in printed


def test_names_of_the_output(tmp_path):
    source = tmp_path / "svd.safetensors"
    assert output_path(source, tmp_path / "out", "svd").name == "svd.safetensors"
    assert output_path(source, tmp_path, "svd").name == "svd_svd.safetensors"
    assert output_path(source, tmp_path, "sgm").name == "svd_sgm.safetensors"
    assert output_path(source, tmp_path, "diffusers").name == "svd_diffusers"
    assert output_path(tmp_path / "a_sgm.safetensors", tmp_path, "svd").name == "a_sgm_svd.safetensors"
    folder = tmp_path / "model"
    folder.mkdir()
    assert output_path(folder / ".", tmp_path, "sgm").name == "model_sgm.safetensors"


def test_an_existing_file_is_kept_unless_asked(sgm_file, config, convert, refuse):
    written, _ = convert(sgm_file, config)
    written.write_text("mine")
    assert "exists; choose another --out_dir, or give --overwrite" in refuse(sgm_file, config)
    assert written.read_text() == "mine"
    convert(sgm_file, config, "--overwrite")
    assert len(load_file(written)) > 100


def test_the_script_runs_from_the_root_and_as_a_module(sgm_file, config, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for i, start in enumerate((["svd_tools/convert.py"], ["-m", "svd_tools.convert"])):
        out = tmp_path / str(i)
        done = subprocess.run(
            [sys.executable, *start, f"--pt_weights_file={sgm_file}", f"--config={config}", f"--out_dir={out}"],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == str(out / "tiny.safetensors")
        assert (out / "tiny.safetensors").is_file()


def test_help_and_wrong_arguments(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0 and "diffusers folder" in capsys.readouterr().out
    for arguments in (["--to=onnx"], [], ["--pt_weights_file=x", "--config=y", "--out_dir=z", "--surprise"]):
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 2
