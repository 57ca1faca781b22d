"""Turn images into videos with Stable Video Diffusion.

python image_to_video.py --SVD.config=configs/svd.yaml --SVD.checkpoint=models/svd.safetensors --image=photo.jpg
python image_to_video.py --image=assets/three.png   (with the small model of moving digits that comes with the project)
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are answered from here on, also while all this is imported
    from svd.cli import begin

    begin("image_to_video.py")

import dataclasses
import hashlib
import shlex
import sys
import time
from pathlib import Path
from typing import Literal, Optional
from zipfile import BadZipFile

import jsonargparse
import numpy as np
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt

from svd import __version__, cli, runtime
from svd.checkpoint import read_config
from svd.config import ConfigError, ModelConfig, SamplingConfig, load_config
from svd.data.images import find_images, load_image
from svd.data.videos import write_frames, write_video
from svd.files import check_folder, free_name, write_text

DIGITS = Path(__file__).parent / "assets" / "digits" / "model.safetensors"
"""The model that comes with the project: handwritten digits that move (docs/digits.md)."""


def build_parser() -> ArgumentParser:
    """The command line; the sampling flags are the fields of SamplingConfig."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="image_to_video.py", description=__doc__.splitlines()[0], exit_on_error=False)
    parser.add_argument("--config", action="config", help="File of these options; one is written beside each video.")
    add = parser.add_argument
    add("--image", nargs="+", help="Image file, folder of images, or several of both.")
    add("--resize", choices=("crop", "pad", "fit"), default="crop", help="How an image of another size is brought to "
        "the video's: crop fills it, pad shows all of the image on black, fit gives the video the image's "
        "shape.")  # fmt: skip
    add("--output_dir", default="outputs", help="Folder to write to; nothing in it is overwritten.")
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
    parser.add_class_arguments(SamplingConfig, "SVD", help="sampling (what is not given is as the model's config says)")
    # No defaults here: a file of --print_config must not state what nobody asked for, and so override that config.
    parser.set_defaults({f"SVD.{field.name}": None for field in dataclasses.fields(SamplingConfig)})
    return parser


def resolve(parser: ArgumentParser, argv: Optional[list[str]]) -> tuple[Namespace, ModelConfig, SamplingConfig]:
    """Options, model and sampling settings: what was given, then the model's configuration, then the defaults."""
    args = parser.parse_args(argv)
    if args.SVD.checkpoint is None and args.SVD.config is None and DIGITS.is_file():
        args.SVD.checkpoint = str(DIGITS)
        print(f"no --SVD.checkpoint was given: using {DIGITS.name} of moving digits, {DIGITS.parent}", file=sys.stderr)
    if not args.SVD.checkpoint:
        raise ConfigError("--SVD.checkpoint is missing: the weights, as svd_tools/convert.py writes them")
    if not args.image:
        raise ConfigError("--image is missing: an image file, a folder, or several of both")
    model = load_config(args.SVD.config) if args.SVD.config else read_config(args.SVD.checkpoint)
    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    given = {name: args.SVD[name] for name in names if args.SVD[name] is not None}
    sampling = dataclasses.replace(model.sampling, **given)
    model.check_size(sampling.height, sampling.width)
    for name, value in dataclasses.asdict(sampling).items():
        args.SVD[name] = value
    return args, model, sampling


def read_noise(path: Optional[str]) -> dict[str, np.ndarray]:
    """The arrays of a --noise file by name; none if no file is given."""
    if path is None:
        return {}
    remedy = "write one with numpy.savez(path, noise=..., aug_noise=...)"
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as arrays:
            noise = {name: arrays[name] for name in ("noise", "aug_noise") if name in arrays}
    except (BadZipFile, EOFError, OSError, ValueError) as error:
        raise ConfigError(f"--noise {path} cannot be read as an .npz file ({error}): {remedy}") from error
    if not noise:
        raise ConfigError(f"--noise {path} holds neither `noise` nor `aug_noise`: {remedy}")
    return noise


def run(argv: Optional[list[str]] = None) -> None:
    """Do what the command line asks for."""
    parser = build_parser()
    args, model, sampling = resolve(parser, argv)
    paths = find_images(args.image)
    images = [load_image(path) for path in paths]  # a bad image is told of before minutes of loading and compiling
    noise = read_noise(args.noise)
    check_folder(args.output_dir, "--output_dir")
    if args.compile_cache:
        check_folder(args.compile_cache, "--compile_cache")

    from svd.build import load_pipeline  # MindSpore takes seconds to import

    start = time.perf_counter()
    lora = args.SVD.lora, args.SVD.lora_scale
    options = (args.device_target, args.mode, args.SVD.amp_level, *lora, args.compile_cache)
    pipe = load_pipeline(model, args.SVD.checkpoint, *options)
    print(f"loaded {args.SVD.checkpoint} in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    for path, image in zip(paths, images):
        start = time.perf_counter()
        frames = pipe(image, seed=args.seed, resize=args.resize, **noise, **dataclasses.asdict(sampling))
        written = write_results(parser, args, path, frames, runtime.describe(args.mode))
        print(f"{path}: {len(frames)} frames in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        for result in written:
            print(result)


def write_results(
    parser: ArgumentParser, args: Namespace, image: Path, frames: np.ndarray, environment: dict[str, str]
) -> list[Path]:
    """Write the frames in every format, and beside them the options that repeat the run; returns the paths."""
    suffixes = {"mp4": ".mp4", "gif": ".gif", "png": "_frames"}
    chosen = [suffixes[name] for name in dict.fromkeys(args.format)]
    folder = Path(args.output_dir)
    try:
        with free_name(folder, f"{image.stem}_seed{args.seed}", [".yaml", *chosen]) as name:
            for suffix in chosen:
                if suffix == "_frames":
                    write_frames(folder / (name + suffix), frames)
                else:
                    write_video(folder / (name + suffix), frames, args.SVD.fps)
            write_text(folder / f"{name}.yaml", side_file(parser, args, image, environment))
    except OSError as error:
        raise OSError(f"--output_dir {folder}: {error}; make room there, or choose another folder") from error
    return [folder / (name + suffix) for suffix in [*chosen, ".yaml"]]


def side_file(parser: ArgumentParser, args: Namespace, image: Path, environment: dict[str, str]) -> str:
    """The options of one video as a file for --config, headed by what they do not say."""
    options = args.clone()
    options.image = [str(image)]
    options.config = None
    facts = {
        "svd": __version__,
        **environment,
        "image sha256": hashlib.sha256(image.read_bytes()).hexdigest(),
        "checkpoint bytes": Path(args.SVD.checkpoint).stat().st_size,
        **({"lora sha256": hashlib.sha256(Path(args.SVD.lora).read_bytes()).hexdigest()} if args.SVD.lora else {}),
        "command": shlex.join(sys.argv),
    }
    head = ["# Repeat this video with: python image_to_video.py --config THIS_FILE"]
    return "\n".join([*head, *(f"# {name}: {value}" for name, value in facts.items()), parser.dump(options)])


def main(argv: Optional[list[str]] = None) -> int:
    return cli.run("image_to_video.py", lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
