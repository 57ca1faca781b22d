"""Train Stable Video Diffusion: temporal layers on videos that a CSV file lists, or another part (--train.task).

python train.py --config=configs/svd_train.yaml --svd_config=configs/svd.yaml --train.pretrained=models/svd.safetensors
       --train.dataset.init_args.metadata=clips.csv --train.output_dir=outputs/train
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("train")

import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace

from svd import cli
from svd.cli.options import new_parser
from svd.cli.training import add_training, instantiate_training
from svd.config import (
    ImageLDMConfig,
    LatentModel,
    ModelConfig,
    UpsamplerConfig,
    VideoDiffusionConfig,
    VideoLDMConfig,
    load_config,
)
from svd.console import log
from svd.files import check_folder, write_text
from svd.records import differing
from svd.training.config import TrainConfig
from svd.training.launcher import end_with_launcher, is_leader, stop_code
from svd.training.tasks import TASKS, Plan, find_task

USES = {
    ModelConfig: ("python image_to_video.py", "SVD", "--image=IMAGE"),
    ImageLDMConfig: ("svd text-to-image", "model", "--prompt=PROMPT"),
    VideoLDMConfig: ("svd text-to-video", "model", "--prompt=PROMPT"),
    VideoDiffusionConfig: ("svd sample", "model", "--num_samples=16"),
    UpsamplerConfig: ("svd upsample", "model", "--video=VIDEO"),
}
"""How a trained model is used, by its kind: a program, its group of flags for the model, and what it is given."""
GIVEN_FRAMES = {
    "prediction": "svd long-video --model.prediction",
    "interpolation": "svd interpolate --model.checkpoint",
}
"""The same for models that are given frames, by their task."""
TASKS["image_encoder"] = "svd_tools.digits.image_encoder.ImageEncoderTask"  # of digits alone, and so not of svd


def build_parser(program: str) -> ArgumentParser:
    """The command line; its flags are the fields of svd/training/config.py."""
    parser = new_parser(program, __doc__, "File of these options, such as configs/svd_train.yaml.")
    parser.add_argument("--dry_run", action="store_true", help="Print the resolved options and what would be trained, "
        "and stop.")  # fmt: skip
    add_training(parser)
    return parser


def dump(parser: ArgumentParser, args: Namespace, form: str = "yaml") -> str:
    """All options, null ones included."""
    return parser.dump(args, form, False)  # by position: the keyword differs between versions of jsonargparse


def run(parser: ArgumentParser, args: Namespace) -> int:
    """The work of the command line; returns the exit code: 0, or that of the signal that ended it."""
    end_with_launcher()
    options = instantiate_training(parser, args)
    train: TrainConfig = options.train

    from svd.build import build_networks  # MindSpore: --help and data processes need none
    from svd.build_training import check_task, describe, plan_training
    from svd.checkpoints.model_file import Checkpoint
    from svd.data.images import find_images, load_image
    from svd.training.checkpoint import begin_or_resume
    from svd.training.lock import locked

    model = load_config(args.svd_config) if args.svd_config else Checkpoint(train.pretrained).config
    check_task(train, model)
    model.check_size(train.dataset.height, train.dataset.width)
    for path in find_images(train.preview.images):
        load_image(path)  # a bad image is reported before minutes of loading and compiling
    check_folder(train.output_dir, "--train.output_dir")
    if (cache := options.environment.compile_cache) not in ("auto", "off"):
        check_folder(cache, "--environment.compile_cache")
    if args.dry_run:
        args.dry_run = False  # so that the output can be used as a --config
        print(dump(parser, args))
        print(describe(plan_training(train, model, build_networks(model))))
        return 0
    begin_or_resume(train)  # checked before the folder is created
    with locked(Path(train.output_dir)) if is_leader() else nullcontext():
        return run_alone(parser, args, options, model)


def run_alone(parser: ArgumentParser, args: Namespace, options: Namespace, model: LatentModel) -> int:
    """Start or resume the run in its locked folder; returns the exit code."""
    from svd.build_training import describe, load_trainer
    from svd.training.checkpoint import begin_or_resume, remove_leftovers

    train: TrainConfig = options.train
    settings = json.loads(dump(parser, args, "json"))  # as read from a checkpoint
    resume, state = begin_or_resume(train)
    if resume is not None:
        log(f"continuing from {resume}")
        for name, before, after in differing(state.settings, settings):
            if name != "train.resume":
                log(f"  changed since: {name}: {before} -> {after}")
    state.settings = settings
    trainer, plan = load_trainer(train, options.environment, model, state, resume)
    Path(train.output_dir).mkdir(parents=True, exist_ok=True)
    if trainer.ranks.first:
        log(describe(plan))
        remove_leftovers(trainer.run_folder)
        write_text(trainer.run_folder / "config.yaml", dump(parser, args))
    if not trainer.run():
        return stop_code(trainer.stopped_by)
    if trainer.ranks.first:
        with redirect_stdout(sys.stderr):  # logs of a training go there; standard output may be closed
            finish(plan, trainer.last_checkpoint)
    return 0


def finish(plan: Plan, checkpoint: Path) -> None:
    """Write the trained model, or its adapters, and print how to use it."""
    from svd_tools.checkpoints.trained import read_trained, write_merged, write_trained

    train, kind = plan.train, "ema" if plan.train.optimizer.ema_decay else "trained"
    trained = read_trained(checkpoint / f"{kind}.safetensors")
    program, group, given = USES[type(trained.config)]
    target = Path(train.output_dir) / ("lora.safetensors" if train.lora.rank else "model.safetensors")
    if train.lora.rank:
        write_trained(trained, target)
        flags = sampling_flags(train, trained.config, group)
        log(f"{program} --{group}.checkpoint={train.pretrained} --{group}.lora={target} {flags}{given}")
        return
    scale = measured_scale(plan, checkpoint, kind) if train.scale_clips else None
    write_merged(trained, Path(train.pretrained), target, scale_factor=scale)
    if train.task in GIVEN_FRAMES:
        log(f"{GIVEN_FRAMES[train.task]}={target} ...")
    elif find_task(train.task).complete:
        log(f"{program} --{group}.checkpoint={target} {given}")
    else:
        log(f"the next training may begin with it: --train.pretrained={target}")


def sampling_flags(train: TrainConfig, model: LatentModel, group: str) -> str:
    """The flags with which the pretrained model is sampled as the trained one, of a task that changes how it is."""
    from svd.checkpoints.model_file import Checkpoint

    if not hasattr(find_task(train.task), "result"):
        return ""
    file = Checkpoint(train.pretrained)
    before = file.config if "config" in file.metadata else type(model)()
    changed = differing(asdict(before.sampling), asdict(model.sampling))
    return "".join(f"--{group}.{name}={str(value).replace(' ', '')} " for name, _, value in changed)


def measured_scale(plan: Plan, checkpoint: Path, kind: str) -> float:
    """One over the deviation of the latents, with the weights of this kind in a checkpoint of the training."""
    from svd.autoencoder.autoencoder import autoencoder_part
    from svd.training.checkpoint import load
    from svd.training.tasks.autoencoder import latents_deviation

    train = plan.train
    load(checkpoint, kind, plan.trained)
    encoder = plan.networks[autoencoder_part(plan.networks, "encoder")]
    deviation = latents_deviation(encoder, train.dataset, train.scale_clips, train.seed)
    scale = round(1 / deviation, 4)
    log(f"the latents' deviation is {deviation:.4f}: autoencoder.scale_factor is {scale} in the model")
    return scale


def main(argv: Optional[list[str]] = None, program: str = "train.py") -> int:
    """The command line; returns 0, 2 after one error line on stderr, or 128 + a signal's number."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
