"""Turn images into videos with Stable Video Diffusion.

python image_to_video.py --SVD.config=configs/svd.yaml --SVD.checkpoint=models/svd.safetensors --image=photo.jpg
python image_to_video.py --image=assets/three.png   (with the small model of moving digits that comes with the project)
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are answered from here on, also while all this is imported
    from svd.cli import start

    start("image-to-video")

import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import Literal, Optional

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt
from PIL import Image

from svd import __version__, cli, runtime
from svd.checkpoints.model_file import read_config
from svd.cli import options
from svd.config import ConfigError, ModelConfig, SamplingConfig, load_config
from svd.console import log, printable
from svd.data.image_files import ImageError, UnknownImageError, check_image
from svd.data.images import RESIZES, find_images, load_image, prepared_size
from svd.data.noise_file import read_noise
from svd.data.videos import write_frames, write_video
from svd.files import LONGEST_NAME, check_folder, free_name, sha256, shortened, write_text
from svd.resources import DIGITS

ROOM = 24
"""Bytes of a name that are left for suffixes, and for the number of a video that is not the first of its name."""


def build_parser(program: str) -> ArgumentParser:
    """The command line; the sampling flags are the fields of SamplingConfig."""
    parser = options.new_parser(program, __doc__, "File of these options; one is written beside each video.")
    add = parser.add_argument
    add("--image", nargs="+", type=str, help="Image file, folder of images, or several of both.")
    add("--resize", choices=RESIZES, default="crop", help="How an image of another size is brought to "
        "the video's: crop fills it, pad shows all of the image on black, fit gives the video the image's "
        "shape.")  # fmt: skip
    add("--output_dir", type=str, default="outputs", help="Folder to write to; nothing in it is overwritten.")
    add("--format", nargs="+", choices=("mp4", "gif", "png"), default=["mp4", "gif"], help="What to write; png is a "
        "folder of frames.")  # fmt: skip
    add("--seed", type=NonNegativeInt, default=0, help="Seed of the noise: the same seed gives the same video on every "
        "device.")  # fmt: skip
    add("--noise", type=Optional[str], help="Noise to start from instead of the seed's: an .npz file with `noise` "
        "[b t c h/8 w/8] and `aug_noise` [b 3 h w], both of unit variance.")  # fmt: skip
    add("--device_target", choices=("auto", *runtime.DEVICE_TARGETS), default="auto", help="Where to run; auto takes "
        "the best device that is there.")  # fmt: skip
    add("--mode", type=Literal[0, 1], default=0, help="0: compiled graph, 1: pynative.")
    add("--compile_cache", type=Optional[str], help="Folder in which compiled graphs are kept, so that later runs of "
        "the same model and sizes start sooner.")  # fmt: skip
    add("--SVD.config", type=Optional[str], help="Model, such as configs/svd.yaml; if it is not given, what the "
        "checkpoint says of itself.")  # fmt: skip
    add("--SVD.checkpoint", type=Optional[str], help="Weights, as svd_tools/convert.py writes them; without them "
        "and without a model, the small model of moving digits that comes with the project.")  # fmt: skip
    add("--SVD.lora", type=Optional[str], help="Adapters to merge into the weights: lora.safetensors, as train.py "
        "writes it with --train.lora.rank.")  # fmt: skip
    add("--SVD.lora_scale", type=float, default=1.0, help="How much of what the adapters add; 0 leaves the model as it "
        "is.")  # fmt: skip
    add("--SVD.amp_level", choices=("auto", "O0", "O2", "bf16"), default="auto", help="O0: float32. O2: float16 inside "
        "the networks. bf16: bfloat16 (Ascend). auto: O2 on Ascend, O0 elsewhere.")  # fmt: skip
    options.add_sampling(parser)
    return parser


def resolve(args: Namespace) -> tuple[ModelConfig, SamplingConfig]:
    """Model and sampling settings: what was given, then the model's configuration, then defaults; in `args`, too."""
    digits = DIGITS / "model.safetensors"
    if args.SVD.checkpoint is None and args.SVD.config is None and digits.is_file():
        args.SVD.checkpoint = str(digits)
        log(f"no --SVD.checkpoint was given: using {digits.name} of moving digits, {DIGITS}")
    if not args.SVD.checkpoint:
        raise ConfigError("--SVD.checkpoint is missing: the weights, as svd_tools/convert.py writes them")
    if not args.image:
        raise ConfigError("--image is missing: an image file, a folder, or several of both")
    if args.SVD.lora is None and args.SVD.lora_scale != 1:
        raise ConfigError("--SVD.lora_scale is for the adapters of --SVD.lora, and none are given")
    if args.compile_cache and args.mode == 1:
        raise ConfigError("--compile_cache keeps compiled graphs, and --mode=1 compiles none: leave one of them out")
    if args.seed >= 2**64:
        raise ConfigError("--seed must be below 2^64")
    model = load_config(args.SVD.config) if args.SVD.config else read_config(args.SVD.checkpoint)
    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    given = {name: args.SVD[name] for name in names if args.SVD[name] is not None}
    sampling = dataclasses.replace(model.sampling, **given)
    model.check_size(sampling.height, sampling.width)
    for name, value in dataclasses.asdict(sampling).items():
        args.SVD[name] = value
    return model, sampling


def usable_images(paths: list[Path], named: set[Path]) -> tuple[list[Path], Image.Image, list[Path]]:
    """Which images can be used, as far as a short look tells; the first of them, decoded; and which are damaged.

    One that is named, not found in a folder, has to be sound: else ImageError is raised. Files in a folder that are no
    images at all are passed over. What is wrong is said at once.
    """
    usable, first, damaged = [], None, []
    for path in paths:
        try:
            if first is None:
                first = load_image(path)
            else:
                check_image(path)
            usable.append(path)
        except ImageError as error:
            if path in named or len(paths) == 1:
                raise
            log(f"warning: {error}")
            if not isinstance(error, UnknownImageError):
                damaged.append(path)
    if first is None:
        raise ImageError(f"none of these {len(paths)} images can be used")
    return usable, first, damaged


def noise_shapes(
    model: ModelConfig, sampling: SamplingConfig, image: Image.Image, resize: str
) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in a --noise file, for this image."""
    height, width = prepared_size(image, sampling.height, sampling.width, resize, model.size_multiple)
    scale, channels = model.autoencoder.downsampling, model.autoencoder.latent_channels
    return {
        "noise": (1, sampling.num_frames, channels, height // scale, width // scale),
        "aug_noise": (1, 3, height, width),
    }


def run(parser: ArgumentParser, args: Namespace) -> None:
    """Do what the command line asks for."""
    model, sampling = resolve(args)
    check_folder(args.output_dir, "--output_dir")
    if args.compile_cache:
        check_folder(args.compile_cache, "--compile_cache")
    # A bad image is told of before minutes of loading and compiling; but they are decoded when their turn comes.
    paths, first, damaged = usable_images(find_images(args.image), set(map(Path, args.image)))
    noise = read_noise(args.noise, noise_shapes(model, sampling, first, args.resize)) if args.noise else {}

    from svd.build import load_pipeline  # MindSpore takes seconds to import

    start = time.perf_counter()
    lora = args.SVD.lora, args.SVD.lora_scale
    choices = (args.device_target, args.mode, args.SVD.amp_level, *lora, args.compile_cache)
    pipe = load_pipeline(model, args.SVD.checkpoint, *choices)
    log(f"loaded {args.SVD.checkpoint} in {time.perf_counter() - start:.1f} s")
    facts = describe(args)
    for path in paths:
        start = time.perf_counter()
        try:
            image, first = first or load_image(path), None
        except ImageError as error:  # its head was sound
            log(f"warning: {error}")
            damaged.append(path)
            continue
        beside = side_file(parser, args, path, facts)
        frames = pipe(image, seed=args.seed, resize=args.resize, **noise, **dataclasses.asdict(sampling))
        written = write_results(args, path, frames, beside)
        log(f"{path}: {len(frames)} frames in {time.perf_counter() - start:.1f} s")
        for result in written:
            print(result)
    if damaged:
        some = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        raise ImageError(f"{len(damaged)} images could not be used ({some}); the videos of all others are written")


def write_results(args: Namespace, image: Path, frames: np.ndarray, beside: str) -> list[Path]:
    """Write the frames in every format, and the text beside them; returns the paths.

    What is finished stays, whatever happens to the rest.
    """
    suffixes = {"mp4": ".mp4", "gif": ".gif", "png": "_frames"}
    chosen = [suffixes[name] for name in dict.fromkeys(args.format)]
    folder, ending = Path(args.output_dir), f"_seed{args.seed}"
    stem = shortened(image.stem, LONGEST_NAME - len(ending) - ROOM) + ending
    try:
        with free_name(folder, stem, [".yaml", *chosen]) as name:
            for suffix in chosen:
                if suffix == "_frames":
                    write_frames(folder / (name + suffix), frames)
                else:
                    write_video(folder / (name + suffix), frames, args.SVD.fps)
            write_text(folder / f"{name}.yaml", beside)
    except OSError as error:
        raise OSError(f"--output_dir {folder}: {error}; make room there, or choose another folder") from error
    return [folder / (name + suffix) for suffix in [*chosen, ".yaml"]]


def describe(args: Namespace) -> dict[str, str]:
    """What the options of a run do not say, and all its videos share."""
    lora = {"lora sha256": sha256(args.SVD.lora)} if args.SVD.lora else {}
    return {
        "svd": __version__,
        **runtime.describe(args.mode),
        "checkpoint bytes": str(Path(args.SVD.checkpoint).stat().st_size),
        **lora,
        "command": shlex.join(sys.argv),
    }


def side_file(parser: ArgumentParser, args: Namespace, image: Path, facts: dict[str, str]) -> str:
    """The options of one video as a file for --config, headed by what they do not say."""
    chosen = args.clone()
    chosen.image = [str(image)]
    chosen.config = None
    lines = ["# Repeat this video with: python image_to_video.py --config THIS_FILE"]
    for name, value in {**facts, "image sha256": sha256(image)}.items():
        lines.append(f"# {name}: {printable(value)}".replace("\n", "\\n"))
    return "\n".join([*lines, parser.dump(chosen)])


def main(argv: Optional[list[str]] = None, program: str = "image_to_video.py") -> int:
    """The command line; returns 0, or 2 after one line on stderr that says what is wrong."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
