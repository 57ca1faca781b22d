"""Outputs of programs that generate videos: each in some formats, with a side file of the options that repeat it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Optional

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt

from svd import __version__, runtime
from svd.console import printable
from svd.data.videos import write_frames, write_video
from svd.files import LONGEST_NAME, free_name, sha256, shortened, write_text

FORMATS = {"mp4": ".mp4", "gif": ".gif", "png": "_frames"}
"""Endings of names by format."""
ROOM = 24
"""Bytes of a name reserved for suffixes and for the number that makes a name unique."""


def add_outputs(parser: ArgumentParser) -> None:
    """Add `--output_dir`, `--format` and `--seed`."""
    add = parser.add_argument
    add("--output_dir", type=str, default="outputs", help="Folder to write to; nothing in it is overwritten.")
    add("--format", nargs="+", choices=tuple(FORMATS), default=["mp4", "gif"], help="What to write; png is a folder of "
        "frames.")  # fmt: skip
    add("--seed", type=NonNegativeInt, default=0, help="Seed of the noise: the same seed gives the same video on every "
        "device.")  # fmt: skip


def write_results(args: Namespace, stem: str, frames: np.ndarray, fps: int, beside: str) -> list[Path]:
    """Write frames uint8 [t h w 3] in every format, and the side file; returns the paths.

    Finished files are kept, whatever happens to the rest.

    Args:
        args: the options of `add_outputs`.
        stem: start of the names; truncated if they would be too long.
    """
    chosen = [FORMATS[name] for name in dict.fromkeys(args.format)]
    folder, ending = Path(args.output_dir), f"_seed{args.seed}"
    stem = shortened(stem, LONGEST_NAME - len(ending) - ROOM) + ending
    try:
        with free_name(folder, stem, [".yaml", *chosen]) as name:
            for suffix in chosen:
                if suffix == "_frames":
                    write_frames(folder / (name + suffix), frames)
                else:
                    write_video(folder / (name + suffix), frames, fps)
            write_text(folder / f"{name}.yaml", beside)
    except OSError as error:
        raise OSError(f"--output_dir {folder}: {error}; make room there, or choose another folder") from error
    return [folder / (name + suffix) for suffix in [*chosen, ".yaml"]]


def describe(mode: int, checkpoint: str | Path, lora: Optional[str]) -> dict[str, str]:
    """Facts about a run beside its options, the same for all its videos."""
    adapters = {"lora sha256": sha256(lora)} if lora else {}
    return {
        "svd": __version__,
        **runtime.describe(mode),
        "checkpoint bytes": str(Path(checkpoint).stat().st_size),
        **adapters,
        "command": shlex.join(sys.argv),
    }


def side_file(parser: ArgumentParser, args: Namespace, facts: dict[str, str], **changed: Any) -> str:
    """The options of one video as a file for --config, with further facts as comments.

    Args:
        changed: options with other values for this video, such as its image.
    """
    chosen = args.clone()
    chosen.update(Namespace(config=None, **changed))
    program = f"python {parser.prog}" if parser.prog.endswith(".py") else parser.prog
    lines = [f"# Repeat this video with: {program} --config THIS_FILE"]
    lines += [f"# {name}: {printable(value)}".replace("\n", "\\n") for name, value in facts.items()]
    return "\n".join([*lines, parser.dump(chosen)])
