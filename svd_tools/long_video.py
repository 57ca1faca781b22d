"""Make videos of any length from a picture or from words: key frames, and frames between them (VideoLDM).

svd long-video --model.prediction=prediction.safetensors --model.interpolation=interpolation.safetensors
       --image=three.png --seconds=120
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("long-video")

from math import isfinite
from pathlib import Path
from typing import Any, Optional

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt

from svd import cli
from svd.cli import options, streamed
from svd.cli.outputs import check_outputs, describe, side_file
from svd.cli.text import stem_of
from svd.config import ConfigError, TextSamplingConfig
from svd.console import one_line
from svd.files import sha256
from svd.yaml_files import load_yaml, read_yaml

MODELS = ("prediction", "interpolation")
MOST_LABELS = 10_000


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = options.new_parser(program, __doc__, "File of these options; one is written beside the video.")
    add = parser.add_argument
    add("--image", type=Optional[str], help="Picture that the video begins with.")
    add("--prompt", type=str, default="", help="What is to be seen. Without an image, the first frame is drawn from "
        "it, by the spatial layers of the model for prediction.")  # fmt: skip
    add("--seconds", type=float, default=60.0, help="Length of the video.")
    add("--labels", type=Optional[str], help="YAML file of what changes over time: a list of mappings with `time` in "
        "seconds, increasing, and `prompt` or `motion` (a motion bucket) from then on.")  # fmt: skip
    add("--context_guidance", type=float, default=1.0, help="How far key frames are led away from what would be drawn "
        "without the frames before them; 1 leaves it out.")  # fmt: skip
    add("--context_noise", type=NonNegativeInt, default=0, help="Timesteps whose noise the frames that predictions "
        "continue from get, so that small errors are not continued; 0 for none.")  # fmt: skip
    streamed.add_outputs(parser)
    options.add_device(parser)
    options.add_compile_cache(parser)
    for name in MODELS:
        add(f"--model.{name}", type=Optional[str], help=f"Weights of a model for {name}, as `svd train` writes them.")
    streamed.add_precision(parser)
    streamed.add_sampling(parser)
    return parser


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    check(args)
    models = {name: streamed.model_of(args, args.model[name]) for name in MODELS}
    sampling = streamed.resolve_sampling(args, list(models.values()))
    fps = sampling[1].fps
    labels = read_labels(args, any(model.own_layers.motion for model in models.values()), sampling[0])
    image = first_image(args, sampling[0])
    facts = {
        **{name: value for name, value in args.as_dict().items() if name not in streamed.NOT_OF_RESULT},
        **{f"{name} sha256": sha256(args.model[name]) for name in MODELS},
        "first frame": None if image is None else image.tobytes().hex(),
        "labels": labels,
    }
    stem = Path(args.image).stem if args.image else stem_of(args.prompt)
    work = streamed.Work.of(args.output_dir, f"{stem}_seed{args.seed}", facts)

    def make() -> None:
        from svd.pipelines.long_video import Label, LongVideo, labels_at

        pipes = [options.load(args, streamed.given(args, args.model[name]), models[name]) for name in MODELS]
        guidance = args.context_guidance, args.context_noise
        long = LongVideo(*pipes, tuple(sampling), *guidance, args.decode_chunk_size)
        first = long.first_frame(args.prompt, args.seed) if image is None else long.encoded(image)
        stages = long.stages(first, args.seed, fps, labels_at([Label(**label) for label in labels]))
        beside = side_file(parser, args, describe(args.mode, args.model.prediction, None), "video")
        total = max(round(args.seconds * fps), 1)
        streamed.write(work, stages, fps, total, beside, args.seconds)

    streamed.once(work, make)


def check(args: Namespace) -> None:
    """Raise ConfigError or FileError unless the options can be used, as far as they say without the models."""
    for name in MODELS:
        if not args.model[name]:
            raise ConfigError(f"--model.{name} is missing: the weights, as `svd train --train.task={name}` writes them")
    if not args.image and not args.prompt.strip():
        raise ConfigError("--image or --prompt is missing: what the video begins with")
    if args.image and args.sampling.guidance is not None:
        raise ConfigError("--sampling.guidance is for a first frame that is drawn from words, and --image is given")
    if not (args.seconds > 0 and isfinite(args.seconds)):
        raise ConfigError(f"--seconds must be positive, got {args.seconds:g}")
    options.check_compile_cache(args)
    check_outputs(args)


def first_image(args: Namespace, sampling: TextSamplingConfig):
    """The picture that the video begins with, uint8 [h w 3]; None if it is drawn. Raises ImageError."""
    if not args.image:
        return None
    from svd.data.images import load_image, prepare_image

    return prepare_image(load_image(args.image), sampling.height, sampling.width)


def read_labels(args: Namespace, told: bool, sampling: TextSamplingConfig) -> list[dict[str, Any]]:
    """What is seen from which time on: time, prompt, motion; raises ConfigError.

    Args:
        told: whether a model is told how much moves.
    """
    labels = [{"time": 0.0, "prompt": args.prompt, "motion": sampling.motion_bucket_id}]
    if not args.labels:
        return labels
    where = f"--labels {args.labels}"
    try:
        content = load_yaml(read_yaml(args.labels))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{where} cannot be read: {one_line(error)}") from error
    if not isinstance(content, list) or not 0 < len(content) <= MOST_LABELS:
        raise ConfigError(f"{where} has to be a list of 1 to {MOST_LABELS} mappings, such as {{time: 30, motion: 60}}")
    for number, entry in enumerate(content, 1):
        which = f"{where}: label {number}"
        if not isinstance(entry, dict) or not {"time"} < entry.keys() <= {"time", "prompt", "motion"}:
            raise ConfigError(f"{which} has to have a time, and a prompt or motion, got {str(entry)[:60]}")
        new = labels[-1] | entry
        for name, most in (("time", 1e9), ("motion", 10_000)):
            if type(new[name]) not in (int, float) or not 0 <= new[name] <= most:
                raise ConfigError(f"{which}: {name} has to be a number from 0 to {most:g}, got {str(new[name])[:40]!r}")
        if not isinstance(new["prompt"], str):
            raise ConfigError(f"{which}: prompt has to be text, got {str(new['prompt'])[:40]}")
        if "motion" in entry and not told:
            raise ConfigError(f"{which}: neither model is told how much moves (temporal.video_ldm.motion)")
        if number > 1 and new["time"] <= labels[-1]["time"]:
            raise ConfigError(f"{which}: time {new['time']:g} does not follow {labels[-1]['time']:g}")
        if new["time"] == 0:
            labels = []
        labels.append(new)
    return labels


def main(argv: Optional[list[str]] = None, program: str = "long_video.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
