"""What was trained, exported: merged or alone, in every layout; and everything that is refused."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_checkpoint import random_tensors, write_checkpoint
from small_model import SMALL

from svd import build
from svd.checkpoints.formats import TRAINED_FORMAT
from svd.checkpoints.model_file import Checkpoint
from svd.config import AutoencoderConfig, dump_config, parse_config
from svd_tools.checkpoints import converter
from svd_tools.checkpoints import trained as trained_files
from svd_tools.checkpoints.trained import read_trained, write_merged
from svd_tools.convert import convert
from svd_tools.export import export, main

ROOT = Path(__file__).parents[2]
MODEL = replace(SMALL, autoencoder=AutoencoderConfig(channels=32, channel_mult=[1, 2]))
"""The small model, with as many residual blocks in its autoencoder as diffusers can express."""
TRAINED_CONFIG = replace(MODEL, sampling=replace(MODEL.sampling, num_frames=5, sampling_steps=7))
"""Of the training, which changed how videos are drawn, and no network."""
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
CONV = "network.down_blocks.0.resnets.0.temporal.conv1.weight"


@pytest.fixture(scope="module")
def before() -> dict[str, np.ndarray]:
    """The model that the training begins with: float16, but for its normalisations."""
    tensors = random_tensors(MODEL)
    return {name: value if ".norm" in name else value.astype(np.float16) for name, value in tensors.items()}


@pytest.fixture(scope="module")
def trained(before) -> dict[str, np.ndarray]:
    """The layers over time after the training: every value is another than before."""
    names = [name for name in before if name.startswith("network.") and (".temporal." in name or ".blend." in name)]
    assert len(names) > 50 and CONV in names
    return {name: before[name].astype(np.float32) + 1 for name in names}


@pytest.fixture(scope="module")
def average(trained) -> dict[str, np.ndarray]:
    return {name: value + 1 for name, value in trained.items()}


@pytest.fixture(scope="module")
def pretrained(before, tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "svd.safetensors", before, MODEL)


def save_trained(path: Path, tensors: dict[str, np.ndarray], pretrained: Path, **changes: str) -> Path:
    """A file of trained weights as train.py writes it, with other metadata where `changes` says so."""
    metadata = {"format": TRAINED_FORMAT, "config": dump_config(TRAINED_CONFIG), "pretrained": str(pretrained)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata | changes)
    return path


@pytest.fixture
def run(trained, pretrained, tmp_path) -> Path:
    """The output folder of a training of 500 updates that kept no average."""
    save_trained(tmp_path / "mine" / "checkpoints" / "update_00000500" / "trained.safetensors", trained, pretrained)
    return tmp_path / "mine"


@pytest.fixture
def refuse(tmp_path, capsys):
    """Run the command line on what it must refuse: exit code 2, one line (returned), and no file."""

    def check(checkpoint: Path, *arguments: str) -> str:
        out = tmp_path / "out"
        files = sorted(out.rglob("*"))
        status = main([f"--checkpoint={checkpoint}", f"--out_dir={out}", *arguments])
        lines = capsys.readouterr().err.splitlines()
        assert status == 2 and len(lines) == 1 and lines[0].startswith("export.py: error: ")
        assert sorted(out.rglob("*")) == files
        return lines[0]

    return check


def checkpoint_file(run: Path, name: str = "trained") -> Path:
    return run / "checkpoints" / "update_00000500" / f"{name}.safetensors"


def load(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, or of all files of a folder."""
    if path.is_file():
        return load_file(path)
    found = {}
    for file in path.rglob("*.safetensors"):
        found |= {f"{file.relative_to(path)}:{name}": value for name, value in load_file(file).items()}
    return found


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return file.metadata()


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(dump_config(TRAINED_CONFIG))
    return path


# --- merged ---


def test_merged_is_the_pretrained_model_with_the_trained_tensors_in_place(run, before, trained, tmp_path, same_tensors):
    path = export(run, tmp_path / "out")
    assert path == tmp_path / "out" / "mine_500.safetensors"
    same_tensors(load_file(path), before | trained)
    assert metadata_of(path).keys() == {"format", "config"} and metadata_of(path)["format"] == "svd-mindspore"
    assert parse_config(metadata_of(path)["config"]) == TRAINED_CONFIG


def test_the_pipelines_reader_takes_the_merged_file(run, before, trained, tmp_path):
    networks = build.build_networks(MODEL)
    Checkpoint(export(run, tmp_path / "out")).load(networks)
    parameters = {f"{prefix}.{p.name}": p for prefix, cell in networks.items() for p in cell.get_parameters()}
    for name, value in (before | trained).items():
        assert np.array_equal(parameters[name].asnumpy(), value.astype(np.float32)), name


@pytest.mark.parametrize("to", ["sgm", "diffusers"])
def test_other_layouts_hold_what_the_converter_makes_of_the_merged_file(run, config_file, tmp_path, same_tensors, to):
    ours = export(run, tmp_path / "out")
    theirs = export(run, tmp_path / "out", to=to)
    assert theirs.name == {"sgm": "mine_500_sgm.safetensors", "diffusers": "mine_500_diffusers"}[to]
    same_tensors(load(theirs), load(convert(ours, config_file, tmp_path / "converted", to)))


def test_from_stabilitys_layout_back(run, before, trained, config_file, tmp_path, same_tensors):
    single = export(run, tmp_path / "out", to="sgm")
    same_tensors(load_file(convert(single, config_file, tmp_path / "back")), before | trained)


def test_types_on_request(run, before, trained, tmp_path, same_tensors):
    for dtype, kind in (("fp16", np.float16), ("fp32", np.float32)):
        path = export(run, tmp_path / dtype, dtype=dtype)
        same_tensors(load_file(path), {name: value.astype(kind) for name, value in (before | trained).items()})
    alone = export(run, tmp_path / "fp16", dtype="fp16", trained_only=True)
    same_tensors(load_file(alone), {name: value.astype(np.float16) for name, value in trained.items()})


def test_merging_at_the_end_of_a_run(run, pretrained, before, trained, average, tmp_path, same_tensors, monkeypatch):
    file = save_trained(checkpoint_file(run, "ema"), average, pretrained)
    target = run / "model.safetensors"
    write_merged(read_trained(checkpoint_file(run)), pretrained, target)
    same_tensors(load_file(target), before | trained)
    write_merged(read_trained(file), pretrained, target)  # in place of the older one
    same_tensors(load_file(target), before | average)

    def interrupted(path, *_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(converter, "write_safetensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_merged(read_trained(checkpoint_file(run)), pretrained, target)
    same_tensors(load_file(target), before | average)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "model.safetensors"]


def test_a_pretrained_checkpoint_that_has_moved(run, before, trained, pretrained, tmp_path, refuse, same_tensors):
    save_trained(checkpoint_file(run), trained, tmp_path / "gone.safetensors")
    error = refuse(run)
    assert f"{tmp_path / 'gone.safetensors'}, which the training began with, is not there" in error
    assert "--pretrained" in error and "--trained_only" in error
    same_tensors(load_file(export(run, tmp_path / "out", pretrained=pretrained)), before | trained)


def test_a_pretrained_checkpoint_without_its_config(run, before, trained, tmp_path, same_tensors):
    plain = write_checkpoint(tmp_path / "plain.safetensors", before, None)
    path = export(run, tmp_path / "out", pretrained=plain)
    same_tensors(load_file(path), before | trained)
    assert parse_config(metadata_of(path)["config"]) == TRAINED_CONFIG


def test_the_decoder_is_that_of_the_pretrained_checkpoint(run, trained, pretrained, tmp_path):
    """Training does not need one: the configs of both decoders train the same UNet."""
    config = replace(TRAINED_CONFIG, autoencoder=replace(MODEL.autoencoder, decoder="image"), preconditioning="edm")
    save_trained(checkpoint_file(run), trained, pretrained, config=dump_config(config))
    written = parse_config(metadata_of(export(run, tmp_path / "out"))["config"])
    assert written == replace(TRAINED_CONFIG, preconditioning="edm")


# --- alone ---


@pytest.mark.parametrize("to", ["svd", "sgm", "diffusers"])
def test_the_trained_tensors_alone(run, trained, pretrained, config_file, tmp_path, same_tensors, to):
    """They are those that differ between the whole model after the training and before."""
    whole = load(export(run, tmp_path / "whole", to=to))
    old = load(convert(pretrained, config_file, tmp_path / "old", to))
    changed = {name: value for name, value in whole.items() if not np.array_equal(value, old[name])}
    path = export(run, tmp_path / "out", trained_only=True, to=to)
    kind = {"svd": "", "sgm": "_sgm", "diffusers": "_diffusers"}[to]
    assert path.name == f"mine_500{kind}_trained.safetensors" and len(load_file(path)) == len(trained)
    same_tensors(load_file(path), {name.removeprefix(f"{UNET_FILE}:"): value for name, value in changed.items()})


def test_alone_needs_no_pretrained_checkpoint(run, trained, tmp_path, same_tensors):
    save_trained(checkpoint_file(run), trained, tmp_path / "gone.safetensors")
    path = export(run, tmp_path / "out", trained_only=True)
    same_tensors(load_file(path), trained)
    assert metadata_of(path) == {"format": TRAINED_FORMAT, "config": dump_config(TRAINED_CONFIG)}
    path = export(run, tmp_path / "out", trained_only=True, to="sgm")
    assert metadata_of(path) == {"format": "pt"}


def test_a_unet_alone_does_not_ask_for_a_decoder(run, trained, pretrained, tmp_path, refuse):
    config = replace(MODEL, autoencoder=replace(MODEL.autoencoder, decoder="image"))
    save_trained(checkpoint_file(run), trained, pretrained, config=dump_config(config))
    assert len(load_file(export(run, tmp_path / "out", trained_only=True, to="diffusers"))) == len(trained)
    config = replace(MODEL, preconditioning="edm")
    save_trained(checkpoint_file(run), trained, pretrained, config=dump_config(config))
    assert "no preconditioning but v_scaling" in refuse(run, "--trained_only", "--to=diffusers", "--overwrite")
    assert "no preconditioning but v_scaling" in refuse(run, "--to=diffusers")


# --- which weights, of which checkpoint ---


def test_the_average_is_taken_where_there_is_one(run, trained, average, pretrained, tmp_path, same_tensors, capsys):
    def exported(weights: str) -> dict[str, np.ndarray]:
        return load_file(export(run, tmp_path / "out", weights, trained_only=True, overwrite=True))

    same_tensors(exported("auto"), trained)
    assert "trained.safetensors: " in capsys.readouterr().out
    save_trained(checkpoint_file(run, "ema"), average, pretrained)
    same_tensors(exported("auto"), average)
    assert "ema.safetensors: " in capsys.readouterr().out
    same_tensors(exported("ema"), average)
    same_tensors(exported("trained"), trained)


def test_the_newest_complete_checkpoint_is_taken(run, trained, average, pretrained, tmp_path, same_tensors, capsys):
    folder = run / "checkpoints"
    newest = save_trained(folder / "update_100000000" / "trained.safetensors", average, pretrained)
    for name in ("update_99999999", ".update_200000000", "update_200000000.old"):
        save_trained(folder / name / "trained.safetensors", trained, pretrained)
    path = export(run, tmp_path / "out", trained_only=True)
    assert path.name == "mine_100000000_trained.safetensors"
    assert "that of update 100000000" in capsys.readouterr().out
    same_tensors(load_file(path), average)
    path = export(newest.parents[1] / "update_99999999", tmp_path / "out", trained_only=True)
    assert path.name == "mine_99999999_trained.safetensors"
    same_tensors(load_file(path), trained)


def test_a_checkpoint_that_was_copied_out_of_its_run(run, tmp_path, monkeypatch):
    shutil.copytree(checkpoint_file(run).parent, tmp_path / "best" / "update_00000500")
    monkeypatch.chdir(tmp_path / "best" / "update_00000500")
    assert export(".", tmp_path / "out", trained_only=True).name == "best_500_trained.safetensors"


# --- refused ---


def test_what_is_no_checkpoint(run, tmp_path, refuse):
    assert "nowhere is no folder" in refuse(tmp_path / "nowhere")
    assert "is no folder" in refuse(checkpoint_file(run))
    assert "neither an output folder of train.py nor one of its checkpoints" in refuse(tmp_path)
    assert "neither" in refuse(run / "checkpoints")
    os.rename(checkpoint_file(run).parent, run / "checkpoints" / ".update_00000500")
    assert "neither" in refuse(run / "checkpoints" / ".update_00000500")
    assert "has no complete checkpoint" in refuse(run)
    (run / "checkpoints" / "update_00000600").mkdir()
    assert "update_00000600 has no trained.safetensors" in refuse(run)
    assert "neither" in refuse(run / "checkpoints" / "update_00000600")


def test_an_average_that_was_not_kept(run, refuse):
    assert "has no ema.safetensors; the run kept no average, use --weights trained" in refuse(run, "--weights=ema")


@pytest.mark.parametrize("only", [False, True])
def test_tensors_of_another_model(run, trained, pretrained, refuse, only):
    arguments = ["--trained_only"] if only else []
    of_another = {**trained, "network.surprise.weight": np.ones(3, np.float32), CONV: trained[CONV][:5]}
    save_trained(checkpoint_file(run), of_another, pretrained)
    error = refuse(run, *arguments)
    assert ("its own config says" if only else str(pretrained)) in error and "2 tensors" in error
    assert "network.surprise.weight [3]" in error and f"{CONV} [5, 32, 3, 1] instead of [32, 32, 3, 1]" in error
    save_trained(checkpoint_file(run), {f"network.{i}": np.ones(1, np.float32) for i in range(4)}, pretrained)
    assert "(network.0 [1], network.1 [1], network.2 [1], ...)" in refuse(run, *arguments)


def test_configs_of_two_models(run, trained, pretrained, refuse):
    config = replace(MODEL, unet=replace(MODEL.unet, num_head_channels=32))  # no shape shows it
    save_trained(checkpoint_file(run), trained, pretrained, config=dump_config(config))
    assert f"another model than {pretrained}: its unet.num_head_channels is 32, not 16" in refuse(run)


@pytest.mark.parametrize("value, word", [(np.nan, "NaN"), (-np.inf, "infinity")])
@pytest.mark.parametrize("arguments", [[], ["--to=diffusers"], ["--trained_only", "--to=sgm"]])
def test_trained_values_that_are_not_finite(run, trained, pretrained, refuse, value, word, arguments):
    changed = trained[CONV].copy()
    changed.flat[7] = value
    save_trained(checkpoint_file(run), trained | {CONV: changed}, pretrained)
    assert f"tensor {CONV} holds {word}" in refuse(run, *arguments)


def test_pretrained_checkpoints_that_cannot_be_used(run, before, config_file, tmp_path, pretrained, refuse):
    damaged = dict(before)
    damaged["autoencoder.decoder.conv_in.bias"] = np.full_like(before["autoencoder.decoder.conv_in.bias"], np.nan)
    path = write_checkpoint(tmp_path / "damaged.safetensors", damaged, MODEL)
    assert "autoencoder.decoder.conv_in.bias holds NaN" in refuse(run, f"--pretrained={path}")
    single = convert(pretrained, config_file, tmp_path, "sgm")
    error = refuse(run, f"--pretrained={single}")
    assert "is not in this project's layout; convert it with svd_tools/convert.py" in error
    path.write_bytes(pretrained.read_bytes()[:-1])
    assert "truncated" in refuse(run, f"--pretrained={path}")


def test_trained_files_that_cannot_be_used(run, trained, pretrained, refuse):
    path = checkpoint_file(run)
    write_checkpoint(path, trained, MODEL)
    assert "holds no trained weights as train.py writes them" in refuse(run)
    save_file(trained, path, {"format": TRAINED_FORMAT, "config": dump_config(MODEL)})
    assert "holds no trained weights" in refuse(run)
    save_trained(path, trained, pretrained, config="unet: {model_chanels: 3}")
    assert "model_chanels" in refuse(run)
    save_trained(path, trained, pretrained)
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in refuse(run)


def test_tensors_alone_that_are_not_the_unets(run, before, trained, pretrained, tmp_path, refuse, same_tensors):
    name = "conditioner.image_encoder.layers.0.attn.to_k.weight"  # a third of a tensor of Stability's
    tensors = trained | {name: before[name].astype(np.float32)}
    save_trained(checkpoint_file(run), tensors, pretrained)
    for to in ("sgm", "diffusers"):
        assert f"{name} is no tensor of the UNet" in refuse(run, "--trained_only", f"--to={to}")
    same_tensors(load_file(export(run, tmp_path / "out", trained_only=True)), tensors)


@pytest.mark.parametrize("arguments", [[], ["--trained_only"], ["--to=diffusers"]])
def test_what_exists_is_kept_unless_asked(run, tmp_path, refuse, arguments):
    command = [f"--checkpoint={run}", f"--out_dir={tmp_path / 'out'}", *arguments]
    assert main(command) == 0
    (written,) = (tmp_path / "out").iterdir()
    stamp = written.stat().st_ino
    assert f"{written} exists; choose another --out_dir, or give --overwrite" in refuse(run, *arguments)
    assert written.stat().st_ino == stamp
    assert main([*command, "--overwrite"]) == 0
    assert written.stat().st_ino != stamp and list((tmp_path / "out").iterdir()) == [written]


@pytest.mark.parametrize("arguments", [[], ["--trained_only"]])
def test_a_disk_without_room(run, tmp_path, monkeypatch, refuse, arguments):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert "no space for" in refuse(run, *arguments)


def test_an_interruption(run, tmp_path, monkeypatch, capsys):
    def interrupted(path, *_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(trained_files, "write_safetensors", interrupted)
    assert main([f"--checkpoint={run}", f"--out_dir={tmp_path / 'out'}", "--trained_only"]) == 130
    assert capsys.readouterr().err.endswith("export.py: interrupted\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_script_runs_from_the_root(tmp_path):
    command = [sys.executable, "svd_tools/export.py", f"--checkpoint={tmp_path / 'nowhere'}", f"--out_dir={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("export.py: error: ") and "nowhere" in done.stderr
