"""No setting is ignored: of every training, each changes something that is observed here, or is refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from mindspore import nn
from safetensors.numpy import load_file
from small_model import fill
from tiny_task import Items, tiny_config, tiny_trainer
from training_runs import TINY, metrics, options
from training_videos import write_training_videos

from svd import build_training
from svd.build import build_networks
from svd.build_training import build_objective, check_task, latents_model, load_trainer, plan_training
from svd.checkpoints.model_file import Checkpoint
from svd.config import ConfigError
from svd.data.dataset import BadItem, DatasetError
from svd.data.latents_dataset import LatentsDataset
from svd.data.moving_digits import MovingDigits
from svd.data.video_dataset import VideoDataset
from svd.training import tasks
from svd.training.checkpoint import TrainState
from svd.training.config import (
    DiscriminatorConfig,
    EnvironmentConfig,
    LoRAConfig,
    LossConfig,
    OptimizerConfig,
    PreviewConfig,
    TrainConfig,
)
from svd.training.tasks import Plan, find_task
from svd.training.uses import USES, check_used
from svd_tools import encode_latents
from svd_tools import train as program

ANOTHER = {
    "temporal_only": False,
    "text_encoder": True,
    "dropout": 0.5,
    "embeddings": "captions.safetensors",
    "patch_size": 4,
    "epochs": 3.0,
    "updates": 4,
    "batch_size": 2,
    "gradient_accumulation": 3,
    "recompute": True,
    "shard_optimizer": True,
    "seed": 5,
    "workers": 1,
    "checkpoint_every": 3,
    "keep_checkpoints": 1,
    "log_every": 3,
    "lora.rank": 2,
    "lora.alpha": 7.0,
    "lora.modules": ["temporal.attn1"],
    "loss.p_mean": 0.0,
    "loss.p_std": 1.0,
    "loss.noise_aug_mean": -1.0,
    "loss.noise_aug_std": 0.1,
    "loss.drop_context": 1.0,
    "loss.drop_concat": 1.0,
    "loss.kl_weight": 0.1,
    "loss.perceptual": "ssim",
    "loss.perceptual_weight": 0.3,
    "loss.lpips": "lpips.safetensors",
    "loss.single_frames": 1,
    "consistency.levels": 6,
    "consistency.skip": 2,
    "consistency.solver": "heun",
    "consistency.guidance_first": [3.0, 3.0],
    "consistency.guidance_last": [4.0, 4.0],
    "consistency.distance": "l2",
    "consistency.huber": 0.1,
    "consistency.weighting": 1.0,
    "discriminator.kind": "temporal",
    "discriminator.weight": 0.5,
    "discriminator.start": 7,
    "discriminator.learning_rate": 1e-3,
    "discriminator.channels": 16,
    "discriminator.layers": 2,
    "optimizer.learning_rate": 1e-3,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_updates": 1,
    "optimizer.betas": (0.5, 0.9),
    "optimizer.eps": 1e-2,
    "optimizer.weight_decay": 0.5,
    "optimizer.max_grad_norm": 1e-2,
    "optimizer.ema_decay": 0.2,
    "preview.images": ["photo.png"],
    "preview.prompts": ["a three"],
    "preview.clips": 2,
    "preview.every": 2,
    "preview.format": "gif",
    "preview.sampling_steps": 3,
    "preview.seed": 4,
}
"""A value for each setting that is not its default."""
ELSEWHERE = {
    "dataset": "the tests of this file that begin with test_an_argument",
    "task": "test_tasks differ in all that they learn",
    "pretrained": "tests/test_train_refusals.py",
    "output_dir": "tests/test_train.py",
    "scale_clips": "tests/test_train_text.py",
    "resume": "tests/test_train_resume.py",
    "item_seconds": "tests/data/test_loader.py",
    **{f"loss.{name}": "tests/training/tasks/test_frames_tasks.py" for name in ("all_frames", "frames_noise")},
    "loss.given_frames": "tests/training/tasks/test_frames_tasks.py",
}
LOOP = ("epochs", "updates", "batch_size", "gradient_accumulation", "seed", "workers", "checkpoint_every")
LOOP += ("keep_checkpoints", "log_every", "preview.every")
LOOP += tuple(name for name in ANOTHER if name.startswith("optimizer."))
"""What the loop does with whatever is learned."""
TASKS = tuple(name for name in ANOTHER if name not in LOOP)
"""What depends on what is learned, and from what."""


def changed(config: TrainConfig, name: str, value) -> TrainConfig:
    part, _, inner = name.rpartition(".")
    return replace(config, **({part: replace(getattr(config, part), **{inner: value})} if part else {name: value}))


def refusal(config: TrainConfig) -> str | None:
    """Why train.py, on one card, does not begin."""
    try:
        check_task(config, TINY)
        check_used(config, cards=1)
        if isinstance(config.dataset, LatentsDataset):
            config.dataset.check(latents_model(config, TINY, Checkpoint(config.pretrained)))
    except (ConfigError, DatasetError) as error:
        return str(error)
    return None


def test_every_setting_is_named():
    (defaults,) = pd.json_normalize(asdict(TrainConfig(None))).to_dict("records")
    assert defaults.keys() == ANOTHER.keys() | ELSEWHERE.keys()
    environment = {"mode", "device_target", "amp_level", "compile_cache"}
    assert {field.name for field in fields(EnvironmentConfig)} == environment
    for name, value in defaults.items():
        assert name in ELSEWHERE or ANOTHER[name] != value
    for use in (*USES, *map(find_task, tasks.TASKS)):
        for setting in use.settings:
            assert any(name == setting or name.startswith(f"{setting}.") for name in defaults), setting


# --- the loop ---


def footprint(config: TrainConfig) -> list:
    """What a training of the tiny task leaves: files, metrics, weights, previews, and how many processes it has."""
    previews, processes = [], []
    before = set(psutil.Process().children(recursive=True))
    trainer = tiny_trainer(
        config,
        preview=previews.append if config.preview.images else None,
        hook=lambda samples: processes.append(len({*psutil.Process().children(recursive=True)} - before)),
    )
    trainer.run()
    run = Path(config.output_dir)
    table = metrics(run).drop(columns=["clips_per_second", "memory_gb"])
    last = trainer.last_checkpoint
    weights = {path.stem: load_file(path) for path in last.glob("*.safetensors")}
    files = sorted(path.name for path in (run / "checkpoints").iterdir())
    bits = sorted((kind, name, value.tobytes()) for kind, of in weights.items() for name, value in of.items())
    return [files, table.to_csv(), bits, previews, max(processes)]


@pytest.fixture(scope="module")
def loop_base(tmp_path_factory) -> tuple[dict, list]:
    from svd import runtime

    runtime.setup("CPU", 1)
    base = {"updates": None, "epochs": 2.0, "optimizer": OptimizerConfig(learning_rate=0.05, warmup_updates=2)}
    base["preview"] = PreviewConfig(images=["photo.png"], every=5)
    folder = tmp_path_factory.mktemp("loop")
    return base, footprint(tiny_config(folder / "base", Items(6), **base))


@pytest.mark.parametrize("name", LOOP)
def test_a_setting_of_the_loop_changes_something(eager, loop_base, tmp_path, name):
    base, expected = loop_base
    config = changed(tiny_config(tmp_path / "run", Items(6), **base), name, ANOTHER[name])
    assert footprint(config) != expected


def test_the_loop_repeats_itself(eager, loop_base, tmp_path):
    """So that what differs is the setting's doing."""
    base, expected = loop_base
    assert footprint(tiny_config(tmp_path / "run", Items(6), **base)) == expected


# --- the tasks ---


@pytest.fixture(scope="module")
def latents(inputs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("latents") / "latents"
    assert encode_latents.main([*options(inputs, out), f"--out={out}", "--passes=1"]) == 0
    return out


KINDS = {
    "image_to_video": ("videos", {}),
    "image_to_video from latents": ("latents", {}),
    "image_to_video with LoRA": ("videos", {"lora": LoRAConfig(rank=1, modules=["temporal.attn1", "temporal.attn2"])}),
    "image_to_video with LoRA from latents": ("latents", {"lora": LoRAConfig(rank=1, modules=["temporal.attn2.to_v"])}),
    "image_to_video with previews": ("videos", {"preview": PreviewConfig(images=["another.png"])}),
    "consistency": ("videos", {}),
    "image_model": ("videos", {}),
    "image_model from latents": ("latents", {}),
    "autoencoder": ("videos", {}),
    "temporal_decoder": ("videos", {}),
    "temporal_decoder against discriminators": (
        "larger videos",
        {
            "loss": LossConfig(perceptual="ssim"),
            "discriminator": DiscriminatorConfig(kind="both", channels=8, layers=1),
            "preview": PreviewConfig(clips=1),
        },
    ),
    "image_encoder": ("digits", {}),
}


@dataclass
class Kind:
    config: TrainConfig
    networks: dict[str, nn.Cell]

    def observed(self, config: TrainConfig) -> Iterator:
        """What is trained, how, the previews, from what, and what it loses: computed as far as it is asked for."""
        networks = self.networks
        if config.recompute or config.lora != self.config.lora or config.task.endswith("coder"):
            networks = built(config)
        task = build_objective(Plan(config, TINY, networks, find_task(config.task).trained(config, networks)))
        cells = [cell for network in networks.values() for _, cell in network.cells_and_names()]
        scales = [getattr(cell, "lora_scale", None) for cell in cells]
        recomputed = [cell.get_scope() for cell in cells if list(cell.get_parameters())]
        yield sorted((name, parameter.shape) for name, parameter in task.trained.items())
        yield scales
        yield recomputed
        yield config.preview
        items = [config.dataset.load(index, np.random.default_rng(index)) for index in range(2)]
        tensors = task.inputs(items, [3, 4])
        yield [x.asnumpy().tobytes() for x in tensors]
        opponent = getattr(task, "opponent", None)
        if opponent is None:
            yield task.loss(*tensors).asnumpy().tobytes()
        else:
            yield opponent.start, opponent.learning_rate
            yield sorted((name, parameter.shape) for name, parameter in opponent.trained.items())
            yield task.loss.judge(True, *tensors)[1].asnumpy().tobytes()


def built(config: TrainConfig) -> dict[str, nn.Cell]:
    """The networks that are loaded for the task, with their values, and adapters if there are to be any."""
    networks, needed = build_networks(TINY), find_task(config.task).needs(config)
    networks = {name: fill(cell, 3) for name, cell in networks.items() if needed is None or name in needed}
    if plan_training(config, TINY, networks).train.lora.rank:
        for parameter in networks["network"].get_parameters():
            if parameter.name.endswith("lora_up"):
                parameter.set_data(parameter + 1)
    return networks


@pytest.fixture(scope="module", params=KINDS)
def kind(request, inputs, latents) -> Kind:
    data, options = KINDS[request.param]
    datasets = {
        "videos": lambda: VideoDataset(str(inputs / "videos/videos.csv"), "", 3, 2, 8, 8),
        "larger videos": lambda: VideoDataset(str(inputs / "videos/videos.csv"), "", 3, 2, 16, 16),
        "latents": lambda: LatentsDataset(str(latents)),
        "digits": lambda: MovingDigits(frames=2, size=32),
    }
    of_the_unet = request.param.startswith(("image_to_video", "image_model"))
    loss = LossConfig(drop_context=0, drop_concat=0) if of_the_unet else LossConfig()
    options = {"pretrained": str(inputs / "tiny.safetensors"), "loss": loss} | options
    config = TrainConfig(datasets[data](), task=request.param.split()[0], **options)
    assert refusal(config) is None
    return Kind(config, built(config))


def test_a_setting_of_a_task_changes_something_or_is_refused(eager, kind):
    """In all tasks, from videos and latents, with and without adapters."""
    expected, refused = list(kind.observed(kind.config)), set()
    assert list(kind.observed(kind.config)) == expected
    for name in TASKS:
        config = changed(kind.config, name, ANOTHER[name])
        if config == kind.config:
            continue
        reason = refusal(config)
        if reason is None:
            assert any(found != value for found, value in zip(kind.observed(config), expected)), name
        else:
            refused.add(name)
            assert reason.startswith(f"train.{name} is ") or "latents" in reason, reason
    assert "shard_optimizer" in refused and "recompute" not in refused
    distilled = kind.config.task == "consistency"
    of_the_unet = kind.config.task in ("image_to_video", "image_model")
    assert ("loss.p_mean" in refused) == ("loss.drop_context" in refused) == (not of_the_unet)
    assert ("preview.images" in refused) == (not of_the_unet and not distilled)
    assert ("consistency.levels" in refused) == ("consistency.distance" in refused) == (not distilled)
    assert ("loss.kl_weight" in refused) == (kind.config.task != "autoencoder")
    assert ("lora.rank" in refused) == (kind.config.task not in ("image_to_video", "consistency"))
    assert ("lora.alpha" in refused) == (not kind.config.lora.rank)
    of_decoders = kind.config.task in ("autoencoder", "temporal_decoder")
    has_temporal_only = kind.config.task in ("image_to_video", "consistency", "temporal_decoder")
    assert ("temporal_only" in refused) == (not has_temporal_only or kind.config.lora.rank > 0)
    assert ("preview.seed" in refused) == (not kind.config.preview.wanted)
    assert ("preview.clips" in refused) == (not of_decoders)
    assert ("loss.single_frames" in refused) == (kind.config.task != "temporal_decoder")
    assert ("discriminator.weight" in refused) == (kind.config.discriminator.kind == "none")
    assert ("loss.perceptual_weight" in refused) == (kind.config.loss.perceptual == "none")
    assert "loss.lpips" in refused


def test_the_compute_type_reaches_what_is_trained(eager, kind, tmp_path, monkeypatch):
    """In every task, by the setting; the masters stay float32."""
    seen = []
    monkeypatch.setattr(build_training, "Preview", lambda *args: seen.append(args))
    monkeypatch.setattr(build_training, "prepared_images", lambda *args: args)
    for level, expected in (("O0", "Float32"), ("O2", "Float16")):
        config = replace(kind.config, output_dir=str(tmp_path))
        trainer, plan = load_trainer(config, EnvironmentConfig(1, "CPU", level), TINY, TrainState(), None)
        assert plan.chosen and {str(plan.networks[name].compute_dtype) for name in plan.chosen} == {expected}
        assert trainer.objective.trained.keys() == plan.trained.keys()
        assert {str(parameter.dtype) for parameter in plan.trained.values()} == {"Float32"}
        assert trainer.loss_scale.dynamic == (level == "O2")
    assert len(seen) == 2 * bool(kind.config.preview.images)


def test_previews_have_their_settings(eager, inputs, tmp_path, monkeypatch):
    """All of them but the interval, which is the loop's."""
    seen = []
    monkeypatch.setattr(build_training, "Preview", lambda *args: seen.append(args[1:]))
    monkeypatch.setattr(build_training, "prepared_images", lambda *args: args)
    data = VideoDataset(str(inputs / "videos/videos.csv"), "", 3, 2, 8, 8)
    preview = PreviewConfig(images=["image.png"], format="gif", sampling_steps=3, seed=4)
    config = TrainConfig(
        data, pretrained=str(inputs / "tiny.safetensors"), output_dir=str(tmp_path / "run"), preview=preview
    )
    load_trainer(config, EnvironmentConfig(1, "CPU"), TINY, TrainState(), None)
    images, folder, form, sampling = seen[0]
    assert (images, folder, form) == ((["image.png"], 8, 8), tmp_path / "run/previews", "gif")
    assert sampling == {"num_frames": 3, "height": 8, "width": 8, "seed": 4, "sampling_steps": 3}


@pytest.mark.parametrize(
    ("name", "value", "options", "message"),
    [
        ("scale_clips", 5, {}, "train.scale_clips is 5, but it is for the task autoencoder, not for "
         "image_to_video; leave it at 0"),
        ("loss.kl_weight", 0.1, {}, "train.loss.kl_weight is 0.1, but it is for the task autoencoder, not for "
         "image_to_video; leave it at 1e-06"),
        ("temporal_only", False, {"lora": LoRAConfig(rank=2)}, "train.temporal_only is False, but it chooses between "
         "layers, and adapters (lora.rank) are trained instead of them; leave it at True"),
        ("preview.format", "gif", {}, "train.preview.format is gif, but there are no previews: give "
         "train.preview.images, train.preview.prompts for a model that is given text, or train.preview.clips for a "
         "decoder; leave it at mp4"),
        ("shard_optimizer", True, {}, "train.shard_optimizer is True, but there is one card, which has all states: it "
         "is for several (scripts/train_ascend.sh); leave it at False"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)  # fmt: skip
def test_what_is_said(name, value, options, message):
    config = changed(TrainConfig(None, **options), name, value)
    with pytest.raises(ConfigError) as error:
        check_used(config, cards=1)
    assert str(error.value) == message
    assert name != "shard_optimizer" or check_used(config) is check_used(config, cards=2) is None


def test_a_file_may_state_the_defaults_of_every_task():
    """As configs/svd_train.yaml does."""
    for task in tasks.TASKS:
        check_used(TrainConfig(None, task=task), cards=1)


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("**/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_of_the_project_are_used_as_a_whole(path, monkeypatch):
    if "train:" not in path.read_text():
        pytest.skip("a model")
    monkeypatch.chdir(CONFIGS[0].parents[2])
    parser = program.build_parser("train.py")
    other = ["--train.dataset=MovingDigits", "--train.dataset.init_args.source=sklearn"]  # its data are not there
    args = parser.parse_args([f"--config={path}", *other])
    check_used(parser.instantiate(args).train, cards=1)


# --- the data ---

ARGUMENTS = {
    VideoDataset: {"data_dir": ".", "frames": 2, "step": 1, "height": 16, "width": 16, "horizontal_flip": True},
    MovingDigits: {
        "clips": 7,
        "frames": 3,
        "digits": [3],
        "speed": [1.0, 1.5],
        "direction": 30.0,
        "varied": 1.0,
        "natural": 1.0,
        "looks": ["inverted"],
        "size": 40,
        "fps": 9,
        "source": "nowhere",
        "part": "test",
        "seed": 3,
    },
    LatentsDataset: {"drawn_frames": 1},
}


def items(dataset) -> list:
    """What a dataset gives, as text and bytes."""
    given = [len(dataset), dataset.frames, dataset.height, dataset.width, getattr(dataset, "drawn_frames", None)]
    for index in range(2):
        try:
            item = vars(dataset.load(index, np.random.default_rng(3)))
        except BadItem as error:
            item = {"error": error}
        given += [(k, v.tobytes() if isinstance(v, np.ndarray) else str(v)) for k, v in item.items()]
    return given


@pytest.mark.parametrize("dataset", ARGUMENTS, ids=lambda cls: cls.__name__)
def test_an_argument_of_the_data_changes_them(inputs, latents, tmp_path, dataset):
    another = write_training_videos(tmp_path, 2)
    base = {
        VideoDataset: {"metadata": str(inputs / "videos/videos.csv"), "frames": 3, "step": 2, "height": 8, "width": 8},
        MovingDigits: {"frames": 2, "size": 64, "speed": [1.0, 3.0]},
        LatentsDataset: {"folder": str(latents)},
    }[dataset]
    first = {VideoDataset: {"metadata": str(another)}, LatentsDataset: {"folder": str(tmp_path)}}.get(dataset, {})
    values = {**first, **ARGUMENTS[dataset]}
    assert values.keys() == inspect.signature(dataset.__init__).parameters.keys() - {"self"}
    expected = items(dataset(**base))
    assert items(dataset(**base)) == expected
    for name, value in values.items():
        try:
            found = items(dataset(**{**base, name: value}))
        except DatasetError:
            continue
        assert found != expected, name
