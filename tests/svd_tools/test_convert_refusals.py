"""Everything that the converter must refuse: exit code 2, one line that says why, and no file left behind."""

import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from svd_tools.checkpoints import converter
from svd_tools.convert import main

ROOT = Path(__file__).parents[2]


def test_names_and_shapes_that_do_not_fit_are_all_listed(sgm_weights, config, tmp_path, refuse):
    weights = dict(sgm_weights)
    unet = "model.diffusion_model"
    del weights[f"{unet}.out.2.bias"], weights[f"{unet}.middle_block.1.norm.weight"]
    weights[f"{unet}.surprise"] = np.ones((2, 3), np.float32)
    weights[f"{unet}.out.0.weight"] = np.ones(33, np.float32)
    weights[f"{unet}.out.0.bias"] = np.ones(32, np.int64)
    save_file(weights, tmp_path / "x.safetensors")
    lines = refuse(tmp_path / "x.safetensors", config).splitlines()
    assert lines[:-1] == [
        "2 tensors missing:",
        f"  {unet}.middle_block.1.norm.weight  [64]",
        f"  {unet}.out.2.bias  [4]",
        "1 tensors unexpected:",
        f"  {unet}.surprise  [2, 3]",
        "1 tensors wrongly shaped:",
        f"  {unet}.out.0.weight  [33], expected [32]",
        "1 tensors not of a floating type:",
        f"  {unet}.out.0.bias  int64",
    ]
    assert "2 missing, 1 unexpected, 1 wrongly shaped, 1 not of a floating type" in lines[-1]


def test_part_of_an_optional_group_is_not_enough(sgm_weights, config, tmp_path, refuse):
    weights = dict(sgm_weights)
    del weights["first_stage_model.encoder.conv_in.bias"]
    save_file(weights, tmp_path / "x.safetensors")
    assert "1 missing" in refuse(tmp_path / "x.safetensors", config)


def test_checkpoints_of_other_models(golden, sgm_file, config, tmp_path, refuse):
    assert "missing" in refuse(golden[0], config) and "wrongly shaped" in refuse(sgm_file, golden[1])
    save_file({"transformer.wte.weight": np.ones(3, np.float32)}, tmp_path / "gpt.safetensors")
    error = refuse(tmp_path / "gpt.safetensors", config)
    assert "no checkpoint of Stable Video Diffusion: its tensors are transformer.wte.weight" in error
    save_file({}, tmp_path / "nothing.safetensors")
    assert "its tensors are none at all" in refuse(tmp_path / "nothing.safetensors", config)


def test_one_tensor_under_two_names(sgm_weights, config, tmp_path, refuse):
    name = "model.diffusion_model.out.0.gamma"
    save_file(sgm_weights | {name: np.ones(32, np.float32)}, tmp_path / "x.safetensors")
    assert "both in the checkpoint" in refuse(tmp_path / "x.safetensors", config)


@pytest.mark.parametrize("value, word", [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("to", ["svd", "sgm", "diffusers"])
def test_values_that_are_not_finite(sgm_weights, config, tmp_path, refuse, value, word, to):
    name = "conditioner.embedders.3.encoder.quant_conv.weight"
    weights = {key: tensor.copy() for key, tensor in sgm_weights.items()}
    weights[name].flat[3] = value
    save_file(weights, tmp_path / "x.safetensors")
    assert f"tensor {name} holds {word}" in refuse(tmp_path / "x.safetensors", config, f"--to={to}")


def test_values_too_large_for_fp16(sgm_weights, config, tmp_path, refuse):
    weights = {key: tensor.copy() for key, tensor in sgm_weights.items()}
    weights["model.diffusion_model.out.2.bias"][1] = 1e6
    save_file(weights, tmp_path / "x.safetensors")
    assert "tensor network.conv_out.bias holds 1e+06" in refuse(tmp_path / "x.safetensors", config, "--dtype=fp16")


def bad_files():
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    return {
        "empty": (b"", "no checkpoint"),
        "text": (b"just some text, long enough for a header", "no checkpoint"),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "no checkpoint"),
        "lfs": (lfs, "pointer of Git LFS"),
        "legacy": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(20), "damaged pickle"),
        "encrypted": (bytes.fromhex("d85e3a7f") + bytes(20), "encrypted"),
        "zip": (b"PK\x03\x04" + bytes(30), "truncated or damaged"),
        "mindspore": (b"\n\xff\x7f" + bytes(30), "no MindSpore checkpoint"),
        "header": (struct.pack("<Q", 10**6) + b'{"x": 1}', "truncated"),
    }


@pytest.mark.parametrize("kind", bad_files())
def test_files_that_are_no_checkpoint(config, tmp_path, refuse, kind):
    content, reason = bad_files()[kind]
    (tmp_path / "x.ckpt").write_bytes(content)
    assert reason in refuse(tmp_path / "x.ckpt", config)


def test_truncated_safetensors(sgm_file, config, refuse):
    content = sgm_file.read_bytes()
    for size in (20, len(content) // 2, len(content) - 1):
        sgm_file.write_bytes(content[:size])
        assert "truncated" in refuse(sgm_file, config)


def test_paths_and_configs_that_do_not_exist(sgm_file, config, tmp_path, refuse):
    assert "nowhere.safetensors does not exist" in refuse(tmp_path / "nowhere.safetensors", config)
    assert "nowhere.yaml" in refuse(sgm_file, tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("unet: {model_chanels: 3}")
    assert "model_chanels" in refuse(sgm_file, tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("unet: {model_channels: many}")
    assert "model_channels" in refuse(sgm_file, tmp_path / "bad.yaml")


def test_a_file_in_place_of_the_folder(sgm_file, config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    status = main([f"--pt_weights_file={sgm_file}", f"--config={config}", f"--out_dir={tmp_path / 'file'}"])
    assert status == 2 and "File exists" in capsys.readouterr().err


def test_a_full_disk(sgm_file, config, monkeypatch, refuse, tmp_path):
    (tmp_path / "out").mkdir()

    def full(path, *_):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(converter, "write_safetensors", full)
    assert "No space left on device" in refuse(sgm_file, config)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert "no space for" in refuse(sgm_file, config, "--to=sgm")


def test_an_interruption(sgm_file, config, monkeypatch, tmp_path, capsys):
    def interrupted(path, *_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(converter, "write_safetensors", interrupted)
    status = main([f"--pt_weights_file={sgm_file}", f"--config={config}", f"--out_dir={tmp_path / 'out'}"])
    assert status == 130 and capsys.readouterr().err.endswith("convert.py: interrupted\n")
    assert list((tmp_path / "out").iterdir()) == []


def ended(number: int, sgm_file: Path, config: Path, out: Path) -> tuple[int, str]:
    """(exit code, standard error) of a conversion that gets a signal in the middle of writing."""
    script = (
        "from svd.cli import begin\n"
        "begin('convert.py', 'nothing was written')\n"  # before the threads that libraries start
        "import runpy, sys, time, svd.checkpoints.tensor_files as files\n"
        "def slow(path, *_):\n"
        "    path.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
        "files.write_safetensors = slow\n"
        "sys.argv[0] = 'convert.py'\n"
        "runpy.run_module('svd_tools.convert', run_name='__main__')\n"
    )
    arguments = [f"--pt_weights_file={sgm_file}", f"--config={config}", f"--out_dir={out}"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("writing"):
            break
    time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def test_a_job_that_is_ended(sgm_file, config, tmp_path):
    """SIGTERM in the middle of writing: the temporary file goes, too."""
    code, errors = ended(signal.SIGTERM, sgm_file, config, tmp_path / "out")
    assert code == 143 and errors.endswith("convert.py: terminated; nothing was written\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_job_leaves_is_removed_by_the_next(sgm_file, config, tmp_path, convert):
    """And nothing else: another target's may still be written."""
    out = tmp_path / "out"
    code, _ = ended(signal.SIGKILL, sgm_file, config, out)
    (left,) = out.iterdir()
    assert code == -signal.SIGKILL and left.name.startswith(".tiny") and left.read_bytes() == b"half"
    other = left.rename(left.with_name(left.name.replace("tiny", "other")))
    left.write_bytes(b"half")
    written, _ = convert(sgm_file, config)
    assert sorted(path.name for path in out.iterdir()) == sorted([other.name, written.name])


def test_names_cannot_steer_the_terminal(sgm_weights, config, tmp_path, convert, refuse):
    """Of tensors, whether they are unexpected or left out, of wrappers, and of the file itself."""
    evil = "\x1b]0;owned\x07\r\x9b2J"
    path = tmp_path / f"{evil}.safetensors"
    save_file(sgm_weights | {f"model.diffusion_model.{evil}": np.ones(3, np.float32)}, path)
    error = refuse(path, config)
    assert "\\x1b]0;owned\\x07\\r\\x9b2J  [3]" in error and not any(c in error for c in "\x1b\x07\r\x9b")
    save_file({f"{evil}.{n}": v for n, v in sgm_weights.items()} | {f"{evil}.x.scaled_fp8": np.ones(1)}, path)
    path = path.rename(tmp_path / "x.safetensors")
    _, printed = convert(path, config, "--report")
    assert "those under \\x1b]0;owned" in printed and not any(c in printed for c in "\x1b\x07\r\x9b")
    save_file({evil: np.ones(3)}, path)
    assert "\x1b" not in refuse(path, config)


def test_what_is_no_file(config, tmp_path, refuse):
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is a named pipe: give a file" in refuse(tmp_path / "pipe", config)
    assert "is a device: give a file" in refuse(Path("/dev/null"), config)
