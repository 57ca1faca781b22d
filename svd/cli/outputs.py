"""Outputs of programs that generate images and videos, with a side file of the options that repeat each."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt
from PIL import Image

from svd import __version__, runtime
from svd.config import ConfigError
from svd.console import printable
from svd.data.videos import write_frames, write_video
from svd.files import LONGEST_NAME, atomic_write, check_folder, free_name, sha256, shortened, write_text

FORMATS = {"mp4": ".mp4", "gif": ".gif", "png": "_frames"}
"""Endings of the names of videos, by format."""
Writer = Callable[[Path], None]
ROOM = 24
"""Bytes of a name reserved for suffixes and for the number that makes a name unique."""


def add_outputs(parser: ArgumentParser, what: Literal["video", "image"] = "video") -> None:
    """Add `--output_dir`, `--seed`, and for videos `--format`."""
    add = parser.add_argument
    add("--output_dir", type=str, default="outputs", help="Folder to write to; nothing in it is overwritten.")
    if what == "video":
        add("--format", nargs="+", choices=tuple(FORMATS), default=["mp4", "gif"], help="What to write; png is a "
            "folder of frames.")  # fmt: skip
    add("--seed", type=NonNegativeInt, default=0, help=f"Seed of the noise: the same seed gives the same {what} on "
        "every device.")  # fmt: skip


def check_outputs(args: Namespace) -> None:
    """Raise ConfigError or FileError unless the options of `add_outputs` can be used."""
    if args.seed >= 2**64:
        raise ConfigError("--seed must be below 2^64")
    check_folder(args.output_dir, "--output_dir")


def video_writers(formats: list[str], frames: np.ndarray, fps: int) -> dict[str, Writer]:
    """Writers of frames uint8 [t h w 3] in these formats, by the endings of their names."""
    writers = {"png": partial(write_frames, frames=frames)}
    return {FORMATS[name]: writers.get(name, partial(write_video, frames=frames, fps=fps)) for name in formats}


def image_writers(image: np.ndarray) -> dict[str, Writer]:
    """The writer of an image uint8 [h w 3], by the ending of its name."""
    return {".png": partial(_write_png, image=image)}


def write_results(args: Namespace, stem: str, writers: Mapping[str, Writer], beside: str) -> list[Path]:
    """Write a result by each of its writers, and the side file; returns the paths.

    Finished files are kept, whatever happens to the rest.

    Args:
        args: the options of `add_outputs`.
        stem: start of the names; truncated if they would be too long.
        writers: by the endings of the names.
        beside: text of the side file.
    """
    folder, ending = Path(args.output_dir), f"_seed{args.seed}"
    stem = shortened(stem, LONGEST_NAME - len(ending) - ROOM) + ending
    try:
        with free_name(folder, stem, [".yaml", *writers]) as name:
            for suffix, write in writers.items():
                write(folder / (name + suffix))
            write_text(folder / f"{name}.yaml", beside)
    except OSError as error:
        raise OSError(f"--output_dir {folder}: {error}; make room there, or choose another folder") from error
    return [folder / (name + suffix) for suffix in [*writers, ".yaml"]]


def _write_png(path: Path, image: np.ndarray) -> None:
    with atomic_write(path) as aside:
        Image.fromarray(image).save(aside)


def describe(mode: int, checkpoint: str | Path, lora: None | str | list[str]) -> dict[str, str]:
    """Facts about a run beside its options, the same for all its results."""
    files = [lora] if isinstance(lora, str) else lora
    adapters = {"lora sha256": " ".join(map(sha256, files))} if files else {}
    return {
        "svd": __version__,
        **runtime.describe(mode),
        "checkpoint bytes": str(Path(checkpoint).stat().st_size),
        **adapters,
        "command": shlex.join(sys.argv),
    }


def side_file(parser: ArgumentParser, args: Namespace, facts: dict[str, str], what: str = "", **changed: Any) -> str:
    """The options of one result as a file for --config, with further facts as comments.

    Args:
        what: a video, or an image; by the options if empty.
        changed: options with other values for this result, such as its image or prompt.
    """
    chosen = args.clone()
    chosen.update(Namespace(config=None, **changed))
    program = f"python {parser.prog}" if parser.prog.endswith(".py") else parser.prog
    what = what or ("video" if "format" in args else "image")
    lines = [f"# Repeat this {what} with: {program} --config THIS_FILE"]
    lines += [f"# {name}: {printable(value)}".replace("\n", "\\n") for name, value in facts.items()]
    return "\n".join([*lines, parser.dump(chosen)])
