"""What the programs that are given text share: prompts, options, and a result for each prompt."""

from __future__ import annotations

import re
import time
from typing import Any, Optional

from jsonargparse import ArgumentParser, Namespace

from svd.cli import options
from svd.cli.outputs import add_outputs, check_outputs, describe, image_writers, side_file, video_writers, write_results
from svd.config import ConfigError, ImageLDMConfig, TextSamplingConfig, VideoLDMConfig
from svd.console import log, printable

MOST_PROMPTS, MOST_BYTES = 10_000, 2**24
"""In a file."""
LONGEST_STEM = 60
"""Characters of a prompt that begin the name of its result."""
OF_VIDEOS = {"num_frames", "fps", "motion_bucket_id", "window", "window_overlap"}
OF_VIDEOS |= {"decode_chunk_size", "decode_overlap", "decode_memory_gb"}
"""Sampling settings that one image does not have."""


def build_parser(program: str, description: str, kind: type[ImageLDMConfig]) -> ArgumentParser:
    """The command line of a kind of model; the sampling flags are the fields of TextSamplingConfig."""
    videos = kind is VideoLDMConfig
    what, one = ("video", "a video") if videos else ("image", "an image")
    parser = options.new_parser(program, description, f"File of these options; one is written beside each {what}.")
    add = parser.add_argument
    add("--prompt", nargs="+", type=str, help=f"What is to be seen: one text, or several, with {one} for each.")
    add("--prompt_file", type=Optional[str], help="Text file of prompts instead, one a line, in UTF-8.")
    add("--negative_prompt", type=str, default="", help="What is not to be seen: guidance leads away from it.")
    add_outputs(parser, what)
    options.add_device(parser)
    options.add_compile_cache(parser)
    example = "configs/video_ldm/animatediff_v3.yaml" if videos else "configs/stable_diffusion/v1_5.yaml"
    options.add_model(parser, "Weights, as `svd convert` writes them.", group="model", example=example)
    _add_weights(parser, videos)
    options.add_sampling(parser, () if videos else OF_VIDEOS, "sampling", TextSamplingConfig)
    return parser


def _add_weights(parser: ArgumentParser, videos: bool) -> None:
    """Add the options for weights of other files."""
    add = parser.add_argument
    add("--model.lora", nargs="+", type=str, help="Adapters (LoRA) to merge into the weights, one file or several, as "
        "`svd convert` makes them of other programs', or `svd train` writes them.")  # fmt: skip
    add("--model.lora_scale", nargs="+", type=float, default=[1.0], help="How much of what the adapters add: one "
        "number, or one for each file; 0 leaves the model as it is.")  # fmt: skip
    if videos:
        add("--model.spatial", type=Optional[str], help="Another image model, such as a personalised one, in this "
            "project's layout: its spatial layers and text encoder replace the model's own.")  # fmt: skip
        add("--model.decoder", type=Optional[str], help="Stable Video Diffusion, in this project's layout: its "
            "temporal decoder decodes the video, in place of the decoder of images.")  # fmt: skip


def run(parser: ArgumentParser, args: Namespace, kind: type[ImageLDMConfig]) -> None:
    """The work of the command line."""
    if not args.model.checkpoint:
        raise ConfigError("--model.checkpoint is missing: the weights, as `svd convert` writes them")
    prompts, others = read_prompts(args), other_weights(args)
    options.check_compile_cache(args)
    check_outputs(args)
    model = options.resolve_model(args.model, kind)
    sampling = options.resolve_sampling(model, args.sampling)
    pipe = options.load(args, args.model, model, **others)
    facts = describe(args.mode, args.model.checkpoint, args.model.lora)
    for prompt in prompts:
        start = time.perf_counter()
        result = pipe(prompt, args.negative_prompt, settings=sampling, seed=args.seed)
        writers = video_writers(args.format, result, sampling.fps) if pipe.makes_videos else image_writers(result)
        beside = side_file(parser, args, facts, prompt=[prompt], prompt_file=None)
        written = write_results(args, stem_of(prompt), writers, beside)
        what = f"{len(result)} frames" if pipe.makes_videos else "an image"
        log(f"{printable(stem_of(prompt))}: {what} in {time.perf_counter() - start:.1f} s")
        print(*written, sep="\n")


def other_weights(args: Namespace) -> dict[str, Any]:
    """The arguments of `load_pipeline` for weights of other files, those that are given; raises ConfigError."""
    scales = args.model.lora_scale
    if not args.model.lora and scales != [1.0]:
        raise ConfigError("--model.lora_scale is for the adapters of --model.lora, and none are given")
    given = {name: args.model.get(name) for name in ("lora", "spatial", "decoder") if args.model.get(name)}
    return given | ({"lora_scale": scales[0] if len(scales) == 1 else scales} if args.model.lora else {})


def read_prompts(args: Namespace) -> list[str]:
    """The prompts of `--prompt` or `--prompt_file`, looked through; raises ConfigError."""
    if bool(args.prompt) == bool(args.prompt_file):
        raise ConfigError("--prompt or --prompt_file is missing" if not args.prompt else
                          "--prompt and --prompt_file are both given: leave one of them out")  # fmt: skip
    prompts = args.prompt or _lines(args.prompt_file)
    for flag, text in [("--negative_prompt", args.negative_prompt), *(("--prompt", prompt) for prompt in prompts)]:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # bytes of a command line that are no text become lone surrogates
            raise ConfigError(f"{flag} is not UTF-8: character {error.start + 1} stands for another byte") from error
    if not all(prompt.strip() for prompt in prompts):
        raise ConfigError("--prompt is empty: say what is to be seen")
    return prompts


def stem_of(prompt: str) -> str:
    """The beginning of a prompt as a file name: its words, with hyphens in between."""
    return re.sub(r"[\W_]+", "-", prompt)[:LONGEST_STEM].strip("-").lower() or "prompt"


def _lines(path: str) -> list[str]:
    where = f"--prompt_file {path}"
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from error
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{where} has more than {MOST_BYTES >> 20} MB")
    try:
        lines = [line.strip() for line in text.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise ConfigError(f"{where} is not UTF-8: line {line} has a byte that is no character") from error
    prompts = [line for line in lines if line]
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise ConfigError(f"{where} has {len(prompts)} prompts; 1 to {MOST_PROMPTS} are taken")
    return prompts
