"""train.py: a whole run in both modes, what it leaves, what its options say, and what --dry_run does."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from device import TRAINING
from PIL import Image, ImageSequence
from safetensors import safe_open
from safetensors.numpy import load_file
from training_runs import TINY, VIDEOS, assert_same, checkpoint, distance, metrics, names, tensors, train_here
from training_videos import write_csv

from svd.config import parse_config
from svd_tools import image_to_video, train

ROOT = Path(__file__).parents[1]
DEFAULTS = ROOT / "configs/svd_train.yaml"
TEMPORAL = re.compile(r"network\..*\.(temporal|frame_embedding|blend)\.")
EPOCHS = 3


def command(inputs: Path, run: Path, mode: int) -> list[str]:
    """As it is documented; then the sizes of the tiny model, and a loss with less chance in it."""
    return [
        f"--config={DEFAULTS}",
        f"--svd_config={inputs / 'tiny.yaml'}",
        f"--train.pretrained={inputs / 'tiny.safetensors'}",
        f"--train.output_dir={run}",
        f"--environment.mode={mode}",
        "--train.temporal_only=True",
        f"--train.epochs={EPOCHS}",
        "--train.dataset.init_args.frames=3",
        "--train.dataset.init_args.step=2",
        f"--train.dataset.init_args.data_dir={inputs / 'videos'}",
        f"--train.dataset.init_args.metadata={inputs / 'videos/videos.csv'}",
        "--train.dataset.init_args.height=8",
        "--train.dataset.init_args.width=8",
        *TRAINING,
        "--train.optimizer.learning_rate=1e-2",
        "--train.optimizer.warmup_updates=0",
        "--train.loss.p_std=0",
        "--train.loss.drop_context=0",
        "--train.loss.drop_concat=0",
        "--train.log_every=1",
        "--train.workers=0",
    ]


@pytest.fixture(scope="module")
def graph_run(inputs, tmp_path_factory) -> Path:
    """In graph mode, with previews after two updates of three, and a process that decodes the videos."""
    run = tmp_path_factory.mktemp("graph") / "run"
    previews = [f"--train.preview.images=[{inputs / 'photo.png'}]", "--train.preview.every=8"]
    previews += ["--train.preview.format=gif", "--train.preview.sampling_steps=2", "--train.preview.seed=5"]
    previews += ["--train.workers=1"]
    outcome = train_here(*command(inputs, run, mode=0), *previews)
    assert outcome.code == 0, outcome.err
    assert "compiling the graph of the training step ... (with the first update)" in outcome.err
    return run


@pytest.fixture(scope="module")
def eager_run(inputs, tmp_path_factory) -> Path:
    """In pynative mode, without previews."""
    run = tmp_path_factory.mktemp("eager") / "run"
    outcome = train_here(*command(inputs, run, mode=1))
    assert outcome.code == 0, outcome.err
    assert outcome.err[-1] == f"python image_to_video.py --SVD.checkpoint={run / 'model.safetensors'} --image=IMAGE"
    return run


@pytest.fixture(params=["graph", "eager"])
def run(request) -> Path:
    return request.getfixturevalue(f"{request.param}_run")


# --- the run ---


def test_the_loss_falls(run):
    losses = metrics(run)["loss"].to_numpy()
    third = len(losses) // 3
    assert len(losses) == EPOCHS * VIDEOS and np.isfinite(losses).all()
    assert losses[-third:].mean() < 0.8 * losses[:third].mean(), losses


def test_both_modes_train_alike_and_previews_change_nothing(graph_run, eager_run):
    """Of twelve updates that turn the loss into half; rounding apart."""
    compiled, eager = metrics(graph_run), metrics(eager_run)
    np.testing.assert_allclose(compiled["loss"], eager["loss"], rtol=1e-4)
    last = EPOCHS * VIDEOS
    a, b = tensors(checkpoint(graph_run, last)), tensors(checkpoint(eager_run, last))
    assert distance(a, b, "trained/") < 1e-2 and distance(a, b, "ema/") < 1e-2


def test_what_is_written(run, inputs):
    assert names(run) - {"previews"} == {
        "checkpoints",
        "config.yaml",
        "loss.png",
        "metrics.csv",
        "model.safetensors",
        "tensorboard",
    }
    assert names(run / "checkpoints") == {"update_00000012"}
    assert names(checkpoint(run, 12)) == {
        "trained.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "state.json",
    }
    assert Image.open(run / "loss.png").size == (960, 540)
    table = metrics(run)
    assert table["update"].tolist() == list(range(1, 13)) and table["epoch"].iloc[-1] == EPOCHS
    assert (table["learning_rate"] == 1e-2).all() and (table["skipped_videos"] == 0).all()


def test_only_the_temporal_parameters_change(run, inputs):
    """And the model has the averages, in a file that says of itself what it is."""
    before, after = load_file(inputs / "tiny.safetensors"), load_file(run / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == {name for name in before if TEMPORAL.match(name)}
    averages = load_file(checkpoint(run, 12) / "ema.safetensors")
    assert averages.keys() == changed
    assert_same(averages, {name: after[name] for name in changed})
    assert distance(averages, load_file(checkpoint(run, 12) / "trained.safetensors")) > 1e-2, "not the last weights"
    with safe_open(run / "model.safetensors", "np") as file:
        assert parse_config(file.metadata()["config"]) == TINY


def test_the_model_makes_the_last_preview(graph_run, inputs, tmp_path):
    """Image to video with the written model, in a mode that shares no graph with the training."""
    assert names(graph_run / "previews") == {"update_00000008_photo.gif", "update_00000012_photo.gif"}
    argv = [f"--SVD.checkpoint={graph_run / 'model.safetensors'}", f"--image={inputs / 'photo.png'}", "--mode=1"]
    argv += ["--SVD.sampling_steps=2", "--seed=5", "--format=gif", f"--output_dir={tmp_path}"]
    assert image_to_video.main(argv) == 0
    video = read_gif(tmp_path / "photo_seed5.gif")
    first, last = (read_gif(graph_run / f"previews/update_{update:08d}_photo.gif") for update in (8, 12))
    assert video.shape == (3, 8, 8, 3) and video.std() > 10
    # A gif has 256 colours, which rounding may swap; the weights of four updates before make another video.
    assert np.abs(video - last).mean() < 0.2 * np.abs(first - last).mean()


def read_gif(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB"), np.float64) for frame in ImageSequence.Iterator(image)])


def test_its_configuration_repeats_the_run(eager_run, tmp_path):
    """Bit for bit, without another word."""
    outcome = train_here("--config", eager_run / "config.yaml", f"--train.output_dir={tmp_path / 'again'}")
    assert outcome.code == 0
    assert_same(tensors(checkpoint(tmp_path / "again", 12)), tensors(checkpoint(eager_run, 12)))
    assert_same(load_file(tmp_path / "again/model.safetensors"), load_file(eager_run / "model.safetensors"))
    assert (metrics(tmp_path / "again")["loss"] == metrics(eager_run)["loss"]).all()


def test_a_good_video_among_nine_bad_ones(inputs, tmp_path):
    """It is trained on again and again; of each of the others the reason is told once, and kept in a list."""
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 1000)
    (tmp_path / "folder.mp4").mkdir()
    good = inputs / "videos/video_0.mp4"
    (tmp_path / "half.mp4").write_bytes(good.read_bytes()[:900])
    bad = ["empty.mp4", "text.mp4", "folder.mp4", "half.mp4", *(f"missing_{i}.mp4" for i in range(4))]
    rows = [(name, 20, 0) for name in bad] + [(good, 20, 0), (inputs / "videos/video_1.mp4", 4, 0)]
    run = tmp_path / "run"
    flags = [f"--train.dataset.init_args.metadata={write_csv(tmp_path / 'videos.csv', rows)}"]
    flags += [f"--train.dataset.init_args.data_dir={tmp_path}", "--train.epochs=0.3"]
    outcome = train_here(*command(inputs, run, mode=1), *flags)
    assert outcome.code == 0
    told = [line.split(": ")[1] for line in outcome.err if line.startswith("warning: ")]
    kept = (run / "skipped_videos_0.csv").read_text().splitlines()
    assert len(told) == len(set(told)) == len(kept) == metrics(run)["skipped_videos"].iloc[-1]
    assert set(told) <= {str(tmp_path / name) for name in bad} | {str(inputs / "videos/video_1.mp4")}
    assert len(told) >= 5, "three samples of ten come upon the good one late enough"


# --- the options ---


@pytest.mark.parametrize("argv", [["--help"], ["--train.dataset.help", "VideoDataset"]], ids=str)
def test_help(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(argv)
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    if argv == ["--help"]:
        assert "Train the temporal layers and blends alone, as VideoLDM does" in text
        assert "0: compiled graph, 1: pynative." in text and "Added to the root of the averaged square." in text
    else:
        assert "The CSV file; has to be given." in text and "Distance between frames of a clip" in text


def leaves(tree: dict, prefix: str = "") -> dict[str, object]:
    """{a: {b: 1}} -> {a.b: 1}"""
    flat = {}
    for key, value in tree.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def test_the_configuration_states_every_default():
    parser = train.build_parser("train.py")
    defaults = leaves(yaml.safe_load(train.dump(parser, parser.parse_args([]))))
    stated = leaves(yaml.safe_load(DEFAULTS.read_text()))
    class_path = "train.dataset.class_path"
    assert defaults.pop(class_path).endswith(f".{stated.pop(class_path)}")
    for name in ("svd_config", "dry_run"):  # of the command line alone
        assert defaults.pop(name) in (None, False)
    assert stated == defaults
    assert len(stated) > 40
    read = leaves(yaml.safe_load(train.dump(parser, parser.parse_args([f"--config={DEFAULTS}"]))))
    assert stated.items() <= read.items(), "and it can be read"


def test_a_dry_run_says_what_would_be_and_writes_nothing(inputs, tmp_path):
    before = load_file(inputs / "tiny.safetensors")
    for temporal_only in (True, False):
        flags = command(inputs, tmp_path / "run", mode=1)
        outcome = train_here(*flags, f"--train.temporal_only={temporal_only}", "--dry_run")
        assert outcome.code == 0 and outcome.err == [""] and names(tmp_path) == set()
        settings = yaml.safe_load(outcome.out)
        assert settings["train"]["optimizer"]["learning_rate"] == 1e-2 and settings["dry_run"] is False
        assert settings["train"]["temporal_only"] is temporal_only and settings["train"]["updates"] is None
        unet = {name: value.size for name, value in before.items() if name.startswith("network.")}
        learned = {name: size for name, size in unet.items() if TEMPORAL.match(name) or not temporal_only}
        others = [name for name in before if name not in unet]
        parts = ("conditioner.image_encoder", "conditioner.autoencoder.encoder", "autoencoder.encoder",
                 "autoencoder.decoder")  # fmt: skip
        sizes = [sum(before[name].size for name in others if name.startswith(f"{part}.")) for part in parts]
        titles = ("the image encoder", "the conditioner's encoder", "the encoder", "the decoder")
        frozen = [(sum(unet.values()) - sum(learned.values()), "the UNet"), *zip(sizes, titles)]
        assert outcome.out.splitlines()[-3:] == [
            "# 4 videos",
            f"# trained: {sum(learned.values()):,} parameters in {len(learned)} tensors of the UNet",
            "# frozen:  " + ", ".join(f"{size:,} of {title}" for size, title in frozen if size),
        ]


def test_a_dry_run_of_the_published_model(inputs):
    """It needs neither the weights nor their memory."""
    flags = [f"--svd_config={ROOT / 'configs/svd.yaml'}", "--train.pretrained=svd.safetensors", "--dry_run"]
    outcome = train_here(*flags, f"--train.dataset.init_args.metadata={inputs / 'videos/videos.csv'}")
    assert outcome.code == 0
    assert "# trained: 656,076,838 parameters in 738 tensors of the UNet" in outcome.out
    assert "# frozen:  868,546,244 of the UNet" in outcome.out
