"""Turn images into videos with Stable Video Diffusion.

python image_to_video.py --SVD.config=configs/svd.yaml --SVD.checkpoint=models/svd.safetensors --image=photo.jpg
python image_to_video.py --image=assets/three.png   (with the small model of moving digits that comes with the project)
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("image-to-video")

import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace
from PIL import Image

from svd import cli
from svd.cli import options
from svd.cli.outputs import add_outputs, check_outputs, describe, side_file, video_writers, write_results
from svd.config import ConfigError, ModelConfig, SamplingConfig
from svd.console import first_few, log
from svd.data.image_files import ImageError, UnknownImageError, check_image
from svd.data.images import RESIZES, find_images, load_image, prepared_size
from svd.data.noise_file import read_noise
from svd.files import sha256
from svd.resources import DIGITS


def build_parser(program: str) -> ArgumentParser:
    """The command line; the sampling flags are the fields of SamplingConfig."""
    parser = options.new_parser(program, __doc__, "File of these options; one is written beside each video.")
    add = parser.add_argument
    add("--image", nargs="+", type=str, help="Image file, folder of images, or several of both.")
    add("--last_image", nargs="+", type=str, help="Image that the video ends with, or one for each image, in their "
        "order: the video is drawn forward from the image and backward from the last one at once.")  # fmt: skip
    add("--resize", choices=RESIZES, default="crop", help="How an image of another size is brought to "
        "the video's: crop fills it, pad shows all of the image on black, fit gives the video the image's "
        "shape.")  # fmt: skip
    add("--prepare", choices=("auto", "digits", "none"), default="auto", help="digits makes light strokes on black of "
        "a photograph or drawing, as the model of moving digits knows them; auto does so if no model is given, and "
        "nothing with others.")  # fmt: skip
    add_outputs(parser)
    add("--noise", type=Optional[str], help="Noise to start from instead of the seed's: an .npz file with `noise` "
        "[b t c h/8 w/8] and `aug_noise` [b 3 h w], both of unit variance.")  # fmt: skip
    options.add_device(parser)
    options.add_compile_cache(parser)
    options.add_model(parser, "Weights, as svd_tools/convert.py writes them; without them and without a model, the "
        "small model of moving digits that comes with the project.")  # fmt: skip
    add("--SVD.lora", type=Optional[str], help="Adapters to merge into the weights: lora.safetensors, as train.py "
        "writes it with --train.lora.rank.")  # fmt: skip
    add("--SVD.lora_scale", type=float, default=1.0, help="How much of what the adapters add; 0 leaves the model as it "
        "is.")  # fmt: skip
    add("--SVD.reversal", type=Optional[str], help="For --last_image: what fine-tuning for videos backward in time has "
        "changed, as `svd convert --reversal_of` writes it.")  # fmt: skip
    options.add_sampling(parser)
    return parser


def resolve(args: Namespace) -> tuple[ModelConfig, SamplingConfig]:
    """Resolve model and sampling settings: given options, then the model's configuration; `args` is updated."""
    digits = DIGITS / "model.safetensors"
    default = args.SVD.checkpoint is None and args.SVD.config is None and digits.is_file()
    if default:
        args.SVD.checkpoint = str(digits)
        log(f"no --SVD.checkpoint was given: using {digits.name} of moving digits, {DIGITS}")
    if args.prepare == "auto":
        args.prepare = "digits" if default else "none"
    if args.prepare == "digits" and args.resize != "crop":
        raise ConfigError(f"--resize={args.resize} is for images that are not made anew: add --prepare=none")
    if not args.SVD.checkpoint:
        raise ConfigError("--SVD.checkpoint is missing: the weights, as svd_tools/convert.py writes them")
    if not args.image:
        raise ConfigError("--image is missing: an image file, a folder, or several of both")
    if args.SVD.lora is None and args.SVD.lora_scale != 1:
        raise ConfigError("--SVD.lora_scale is for the adapters of --SVD.lora, and none are given")
    options.check_compile_cache(args)
    model = options.resolve_model(args.SVD, ModelConfig)
    sampling = options.resolve_sampling(model, args.SVD)
    model.check_ends(sampling, bool(args.last_image), args.SVD.reversal is not None)
    return model, sampling


def usable_images(paths: list[Path], named: set[Path]) -> tuple[list[Path], Image.Image, list[Path]]:
    """Images whose headers are valid; the first of them, decoded; and the damaged ones.

    A named file has to be valid, or ImageError is raised; files in a folder that are no images are skipped. Problems
    are reported at once.
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


def last_images(given: list[str], paths: list[Path]) -> dict[Path, Path]:
    """The last images by the first ones: one for all of them, or one for each; all can be used.

    Raises:
        ConfigError: there are not as many.
        ImageError: one cannot be used.
    """
    found = [path for name in given for path in find_images(name)]
    if len(found) not in (1, len(paths)):
        raise ConfigError(f"--last_image takes one image, or as many as --image ({len(paths)}), got {len(found)}")
    for path in dict.fromkeys(found):
        check_image(path)
    return dict(zip(paths, found * (len(paths) // len(found))))


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


def preparation(args: Namespace, sampling: SamplingConfig) -> Optional[Callable[[Image.Image, Path], Image.Image]]:
    """What `--prepare` makes of an image, once the device is set up; None for nothing."""
    if args.prepare == "none":
        return None
    from mindspore import get_context

    from svd_tools.digits.picture import Preparation

    return Preparation(sampling.height, sampling.width, get_context("device_target"))


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    model, sampling = resolve(args)
    check_outputs(args)
    # A bad image is reported before minutes of loading and compiling; images are decoded one at a time.
    found = find_images(args.image)
    ends = last_images(args.last_image, found) if args.last_image else {}
    paths, first, damaged = usable_images(found, set(map(Path, args.image)))
    noise = read_noise(args.noise, noise_shapes(model, sampling, first, args.resize)) if args.noise else {}
    adapters = {"lora": args.SVD.lora, "lora_scale": args.SVD.lora_scale}
    pipe = options.load(args, args.SVD, model, **adapters, reversal=args.SVD.reversal)
    prepare = preparation(args, sampling)
    facts = describe(args.mode, args.SVD.checkpoint, args.SVD.lora)
    facts |= {"reversal sha256": sha256(args.SVD.reversal)} if args.SVD.reversal else {}
    for path in paths:
        start = time.perf_counter()
        try:
            image, first = first or load_image(path), None
            last = load_image(ends[path]) if path in ends else None
        except ImageError as error:  # its header was valid
            log(f"warning: {error}")
            damaged.append(path)
            continue
        if prepare:
            image = prepare(image, path)
            last = None if last is None else prepare(last, ends[path])
        facts["image sha256"], given, stem = sha256(path), {"image": [str(path)]}, path.stem
        if last is not None:
            facts["last image sha256"], given["last_image"] = sha256(ends[path]), [str(ends[path])]
            stem = f"{stem}_to_{ends[path].stem}"
        beside = side_file(parser, args, facts, **given)
        frames = pipe(image, last_image=last, settings=sampling, seed=args.seed, resize=args.resize, **noise)
        writers = video_writers(args.format, frames, args.SVD.fps)
        written = write_results(args, stem, writers, beside)
        log(f"{path}: {len(frames)} frames in {time.perf_counter() - start:.1f} s")
        print(*written, sep="\n")
    if damaged:
        some = first_few(damaged, 5)
        raise ImageError(f"{len(damaged)} images could not be used ({some}); the videos of all others are written")


def main(argv: Optional[list[str]] = None, program: str = "image_to_video.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
