"""Train the network that svd_tools/evaluate.py judges videos of moving digits with, on made clips of real handwriting.

    svd digits train-judge --out=judge.safetensors      # ten minutes on two busy cores

The same command continues a training that was stopped. The run is in a folder beside the judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np
from jsonargparse import ArgumentParser, Namespace

from svd import __version__, cli, runtime
from svd.cli.options import add_device
from svd.config import ConfigError
from svd.console import log
from svd.data.dataset import Dataset
from svd.data.moving_digits import MovingDigits
from svd.files import atomic_write, check_folder
from svd.signals import exit_code
from svd.training.config import OptimizerConfig, TrainConfig


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="Judge to write, a .safetensors file; beside it, OUT_run has the run.")
    add("--source", type=str, default="sklearn", help="Handwriting, as of the data that the videos are compared with.")
    add("--size", type=int, default=64, help="Pixels of a clip's height and width, a multiple of 8.")
    add("--updates", type=int, default=10_000, help="Updates of the weights.")
    add("--batch_size", type=int, default=8, help="Lessons of an update, of 7 frames.")
    add("--test_clips", type=int, default=1024, help="Clips of held-out handwriting that the judge is tested on.")
    add("--test_pictures", type=int, default=10_000, help="And single frames of one digit of it.")
    add("--natural", type=float, default=0.5, help="Share of the lessons that look as people's pictures do, as of "
        "MovingDigits.")  # fmt: skip
    add("--seed", type=int, default=0, help="Of the weights, the clips, their order and their changes.")
    add("--workers", type=int, default=0, help="Processes that make clips; with 0, this one does.")
    add_device(parser)
    return parser


def run(args: Namespace) -> int:
    """Train, test and write the judge; returns the exit code: 0, or that of the signal that stopped the training."""
    import mindspore as ms  # takes seconds

    from svd.placement import place
    from svd.training.checkpoint import begin_or_resume, load
    from svd.training.distributed import Ranks
    from svd.training.trainer import Trainer
    from svd_tools.digits.judge import CELL, DigitJudge, write_judge
    from svd_tools.digits.lessons import JudgeTask, Lessons, held_out_accuracy

    if args.size % CELL:
        raise ConfigError(f"--size must be a multiple of {CELL}, got {args.size}")
    check_folder(args.out.parent, "--out")
    data = {"size": args.size, "source": args.source, "seed": args.seed}
    settings = {**data, "natural": args.natural, "batch_size": args.batch_size, "updates": args.updates}
    config = training(args, Lessons(1_000_000, **data, natural=args.natural, part="train"))
    tested = MovingDigits(args.test_clips, **data, part="test")
    pictures = MovingDigits(args.test_pictures, frames=1, digits=[1], **data, part="test")
    device = runtime.setup(args.device_target, args.mode)
    ms.set_seed(args.seed)
    parameters = (judge := DigitJudge(args.size)).trainable_params()
    place(judge, device, ms.float32, parameters)
    task = JudgeTask(judge, args.seed)
    resume, state = begin_or_resume(config)
    if resume is not None and state.settings != settings:
        raise ConfigError(
            f"{config.output_dir} is a run of other options, {state.settings}: remove it, or change --out"
        )
    state.settings = settings
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(task, config, state, {}, Ranks(), False, None, memory=lambda: runtime.peak_memory(device))
    if resume is not None:
        trainer.restore(resume)
    if not trainer.run():
        return exit_code(trainer.stopped_by)
    load(trainer.last_checkpoint, "ema", task.trained)
    for parameter in parameters:  # the judge is tested as it is written, in float16
        parameter.set_data(ms.Tensor(parameter.asnumpy().astype(np.float16).astype(np.float32)))
    accuracy = held_out_accuracy(judge.set_train(False), tested, pictures)
    facts = {**settings, "sklearn_too": True, **accuracy, "svd": __version__, **runtime.describe(args.mode)}
    with atomic_write(args.out, need=0) as aside:
        write_judge(aside, judge, args.size, facts)
    for name, value in accuracy.items():
        log(f"{name}: {value:.4f}")
    print(args.out)
    return 0


def training(args: Namespace, lessons: Dataset) -> TrainConfig:
    """How the judge is trained."""
    return TrainConfig(
        dataset=lessons,
        output_dir=f"{args.out.with_suffix('')}_run",
        updates=args.updates,
        batch_size=args.batch_size,
        seed=args.seed,
        workers=args.workers,
        resume="auto",
        checkpoint_every=500,
        log_every=50,
        optimizer=OptimizerConfig(
            learning_rate=3e-3,
            schedule="cosine",
            warmup_updates=100,
            betas=(0.9, 0.99),
            weight_decay=0.02,
            ema_decay=0.995,
        ),
    )


def main(argv: Optional[list[str]] = None, program: str = "train_judge.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), run, argv)
