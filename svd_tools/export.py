"""Export what was trained: merged with the model that the training began with, or the trained tensors alone.

python svd_tools/export.py --checkpoint runs/mine --out_dir models
python svd_tools/export.py --checkpoint runs/mine/lora.safetensors --pretrained models/svd.safetensors --out_dir models
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("export")

import re
from math import isfinite
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser

from svd import cli
from svd.checkpoints.tensor_header import CheckpointError, read_header
from svd.console import printable
from svd_tools.checkpoints.converter import check_free
from svd_tools.checkpoints.layouts import ENDINGS, OURS
from svd_tools.checkpoints.output import DTYPES
from svd_tools.checkpoints.trained import read_trained, write_merged, write_trained

_FILES = {"trained": "trained.safetensors", "ema": "ema.safetensors"}
_FOLDER = re.compile(r"update_(\d+)")  # an incomplete folder has another name


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", required=True, type=str, help="Output folder of train.py, of which the newest checkpoint is "
        "taken, or one of its checkpoints: RUN/checkpoints/update_<number>; or a file of adapters (LoRA), such as "
        "RUN/lora.safetensors, to merge.")  # fmt: skip
    add("--out_dir", required=True, type=str, help="Folder to write to; made if it does not exist.")
    add("--weights", choices=("auto", *_FILES), default="auto", help="ema: the average over the training. trained: the "
        "last weights. auto: the average, if the run kept one.")  # fmt: skip
    add("--trained_only", action="store_true", help="Write one .safetensors file with nothing but the trained tensors. "
        "Its names are those of a whole checkpoint (svd, sgm); for diffusers those of the unet's file, to be loaded "
        "with unet.load_state_dict(tensors, strict=False).")  # fmt: skip
    add("--pretrained", type=str, help="The checkpoint that the training began with, if it is no longer where it was "
        "then. Not read with --trained_only.")  # fmt: skip
    add("--lora_scale", type=float, default=1.0, help="How much of what adapters (LoRA) add is merged. Not used with "
        "--trained_only.")  # fmt: skip
    add("--to", choices=tuple(ENDINGS), default=OURS, help="Layout to write.")
    add("--dtype", choices=("keep", *DTYPES), default="keep", help="Type of the written values; keep leaves the "
        "trained ones in float32 and the others as they are.")  # fmt: skip
    add("--overwrite", action="store_true", help="Replace the output if it exists.")
    return parser


def export(
    checkpoint: str | Path,
    out_dir: str | Path,
    weights: str = "auto",
    trained_only: bool = False,
    pretrained: str | Path | None = None,
    to: str = OURS,
    dtype: str = "keep",
    overwrite: bool = False,
    lora_scale: float = 1.0,
) -> Path:
    """Export a training checkpoint, print what was taken, and return the path written.

    The arguments are those of the command line (`--help`).

    Raises:
        CheckpointError: the checkpoint, or the pretrained one, cannot be used; nothing was written.
    """
    path = Path(checkpoint)
    if not isfinite(lora_scale):
        raise CheckpointError(f"--lora_scale must be a finite number, got {lora_scale}")
    if _holds_adapters(path):
        if trained_only:
            raise CheckpointError(f"{path} holds adapters alone already; without --trained_only they are merged")
        target = Path(out_dir) / f"{path.stem}_merged{ENDINGS[to]}"
    else:
        folder = find_checkpoint(path)
        path = _weights_file(folder, weights)
        target = Path(out_dir) / _output_name(folder, to, trained_only)
    check_free(target, overwrite)
    trained = read_trained(path)
    meaning = {_FILES["ema"]: ", averaged over the training", _FILES["trained"]: ", as they were last, not averaged"}
    print(printable(f"exporting {path}: {len(trained.tensors)} trained tensors{meaning.get(path.name, '')}"))
    if trained_only:
        write_trained(trained, target, to, dtype)
    else:
        if not (pretrained or trained.pretrained):
            raise CheckpointError(f"{path} does not say where its model is: give it with --pretrained")
        write_merged(trained, Path(pretrained or trained.pretrained), target, to, dtype, lora_scale)
    return target


def _holds_adapters(path: Path) -> bool:
    return path.suffix == ".safetensors" and path.is_file() and "lora" in read_header(path).metadata


def find_checkpoint(path: Path) -> Path:
    """The folder of a training checkpoint: the path itself, or the newest one of a run's folder."""
    path = path.resolve()
    if not path.is_dir():
        raise CheckpointError(f"{path} is no folder; it takes the output folder of train.py or one of its checkpoints")
    if _FOLDER.fullmatch(path.name) and (path / _FILES["trained"]).is_file():
        return path
    if not (path / "checkpoints").is_dir():
        raise CheckpointError(f"{path} is neither an output folder of train.py nor one of its checkpoints")
    complete = [folder for folder in (path / "checkpoints").iterdir() if _FOLDER.fullmatch(folder.name)]
    if not complete:
        raise CheckpointError(f"{path} has no complete checkpoint: there is no folder checkpoints/update_<number>")
    newest = max(complete, key=_update)
    print(printable(f"the newest of {len(complete)} checkpoints in {path} is that of update {_update(newest)}"))
    return newest


def _update(folder: Path) -> int:
    """The update of a checkpoint."""
    return int(_FOLDER.fullmatch(folder.name).group(1))


def _weights_file(folder: Path, weights: str) -> Path:
    """The requested file of a checkpoint."""
    if weights == "auto":
        weights = "ema" if (folder / _FILES["ema"]).is_file() else "trained"
    path = folder / _FILES[weights]
    if not path.is_file():
        remedy = "; the run kept no average, use --weights trained" if weights == "ema" else ""
        raise CheckpointError(f"{folder} has no {path.name}{remedy}")
    return path


def _output_name(folder: Path, to: str, trained_only: bool) -> str:
    """<run>_<update> with the ending of the layout, and _trained for the trained tensors alone."""
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    name = f"{run.name}_{_update(folder)}{ENDINGS[to]}"
    return f"{name.removesuffix('.safetensors')}_trained.safetensors" if trained_only else name


def main(argv: Optional[list[str]] = None, program: str = "export.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), lambda args: export(**vars(args)), argv)
