"""Export what was trained: merged with the model that the training began with, or the trained tensors alone.

python svd_tools/export.py --checkpoint runs/mine --out_dir models
python svd_tools/export.py --checkpoint runs/mine/lora.safetensors --pretrained models/svd.safetensors --out_dir models
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are answered from here on, also while all this is imported
    from svd.cli import start

    start("export")

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import numpy as np
from jsonargparse import ArgumentParser

from svd import cli
from svd.config import ModelConfig, dump_config, parse_config
from svd.console import printable
from svd.training import TRAINED_FORMAT
from svd_tools.checkpoints.checkpoint_maps import Layout, Shape, detect_layout
from svd_tools.checkpoints.conversion import Weights, gather, scatter
from svd_tools.checkpoints.diffusers_folder import check_expressible, check_unet_expressible
from svd_tools.checkpoints.tensor_files import (
    ConversionError,
    LazyTensor,
    check_finite,
    read_metadata,
    read_safetensors,
    write_safetensors,
)
from svd_tools.convert import DTYPES, LAYOUT_NAMES, cast_all, check_free, output_name, write_model, writing

if TYPE_CHECKING:
    from svd.checkpoints.lora import LoRA

_FILES = {"trained": "trained.safetensors", "ema": "ema.safetensors"}
_FOLDER = re.compile(r"update_(\d+)")  # a folder that is not complete has another name


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
    add("--to", choices=tuple(LAYOUT_NAMES), default="svd", help="Layout to write.")
    add("--dtype", choices=("keep", *DTYPES), default="keep", help="Type of the written values; keep leaves the "
        "trained ones in float32 and the others as they are.")  # fmt: skip
    add("--overwrite", action="store_true", help="Replace the output if it exists.")
    return parser


@dataclass(frozen=True)
class Trained:
    """What a training run wrote: some of a model's tensors."""

    path: Path
    tensors: dict[str, LazyTensor]
    """By our names; reading one raises ConversionError where a value is not finite."""
    config: ModelConfig
    pretrained: str
    """The checkpoint that the training began with; empty if the file does not say."""
    lora: Optional[LoRA] = None
    """What the tensors are together, if they are adapters."""


def export(
    checkpoint: str | Path,
    out_dir: str | Path,
    weights: str = "auto",
    trained_only: bool = False,
    pretrained: str | Path | None = None,
    to: Layout = "svd",
    dtype: str = "keep",
    overwrite: bool = False,
    lora_scale: float = 1.0,
) -> Path:
    """Export a training checkpoint, say what was taken, and return the path written.

    The arguments are those of the command line (`--help`).

    Raises:
        ConversionError: the checkpoint, or the one that the training began with, cannot be used; nothing was written.
    """
    path = Path(checkpoint)
    if not isfinite(lora_scale):
        raise ConversionError(f"--lora_scale must be a finite number, got {lora_scale}")
    if _holds_adapters(path):
        if trained_only:
            raise ConversionError(f"{path} holds adapters alone already; without --trained_only they are merged")
        target = Path(out_dir) / output_name(f"{path.stem}_merged", to)
    else:
        folder = find_checkpoint(path)
        path = _weights_file(folder, weights)
        target = Path(out_dir) / _output_name(folder, to, trained_only)
    check_free(target, overwrite)
    trained = read_trained(path)
    meaning = {_FILES["ema"]: ", averaged over the training", _FILES["trained"]: ", as they were last, not averaged"}
    print(printable(f"exporting {path}: {len(trained.tensors)} trained tensors{meaning.get(path.name, '')}"))
    if trained_only:
        _write_alone(trained, target, to, dtype)
    else:
        if not (pretrained or trained.pretrained):
            raise ConversionError(f"{path} does not say where its model is: give it with --pretrained")
        _write_merged(trained, Path(pretrained or trained.pretrained), target, to, dtype, lora_scale)
    return target


def merge(trained_file: str | Path, pretrained: str | Path, target: str | Path) -> None:
    """Write the model that a training began with, with the trained tensors in place of its own.

    Args:
        trained_file: trained.safetensors or ema.safetensors of a training checkpoint.
        pretrained: the checkpoint that the training began with, in this project's layout.
        target: the .safetensors file to write, in this project's layout too; replaced if it exists.

    Raises:
        ConversionError: the two cannot be merged; nothing was written.
    """
    _write_merged(read_trained(Path(trained_file)), Path(pretrained), Path(target), "svd", "keep")


def write_alone(trained_file: str | Path, target: str | Path) -> None:
    """Write the trained tensors alone, in this project's layout; raises ConversionError.

    Args:
        trained_file: trained.safetensors or ema.safetensors of a training checkpoint.
        target: the .safetensors file to write; replaced if it exists.
    """
    _write_alone(read_trained(Path(trained_file)), Path(target), "svd", "keep")


def find_checkpoint(path: Path) -> Path:
    """The folder of a training checkpoint: the path itself, or the newest one of a run's folder."""
    path = path.resolve()
    if not path.is_dir():
        raise ConversionError(f"{path} is no folder; it takes the output folder of train.py or one of its checkpoints")
    if _FOLDER.fullmatch(path.name) and (path / _FILES["trained"]).is_file():
        return path
    if not (path / "checkpoints").is_dir():
        raise ConversionError(f"{path} is neither an output folder of train.py nor one of its checkpoints")
    complete = [folder for folder in (path / "checkpoints").iterdir() if _FOLDER.fullmatch(folder.name)]
    if not complete:
        raise ConversionError(f"{path} has no complete checkpoint: there is no folder checkpoints/update_<number>")
    newest = max(complete, key=_update)
    print(printable(f"the newest of {len(complete)} checkpoints in {path} is that of update {_update(newest)}"))
    return newest


def _update(folder: Path) -> int:
    """How many updates the weights of a checkpoint have had."""
    return int(_FOLDER.fullmatch(folder.name).group(1))


def _weights_file(folder: Path, weights: str) -> Path:
    """The file of a checkpoint that was asked for."""
    if weights == "auto":
        weights = "ema" if (folder / _FILES["ema"]).is_file() else "trained"
    path = folder / _FILES[weights]
    if not path.is_file():
        remedy = "; the run kept no average, use --weights trained" if weights == "ema" else ""
        raise ConversionError(f"{folder} has no {path.name}{remedy}")
    return path


def _output_name(folder: Path, to: Layout, trained_only: bool) -> str:
    """<run>_<update> with what `output_name` adds, and _trained for the trained tensors alone."""
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    name = output_name(f"{run.name}_{_update(folder)}", to)
    return f"{name.removesuffix('.safetensors')}_trained.safetensors" if trained_only else name


def read_trained(path: Path) -> Trained:
    """Open a file of trained weights.

    Raises:
        ConversionError: the file is damaged, or none that train.py wrote.
    """
    tensors, metadata = read_safetensors(path), read_metadata(path)
    needed = {"config"} if "lora" in metadata else {"config", "pretrained"}
    if metadata.get("format") != TRAINED_FORMAT or not needed <= metadata.keys():
        raise ConversionError(f"{path} holds no trained weights as train.py writes them")
    finite = {name: _finite(name, tensor) for name, tensor in tensors.items()}
    config, lora = parse_config(metadata["config"]), None
    if "lora" in metadata:
        from svd.checkpoints.lora import read_lora  # imports MindSpore

        with _conversion_errors():
            lora = read_lora(path)
    return Trained(path, finite, config, metadata.get("pretrained", ""), lora)


@contextmanager
def _conversion_errors() -> Iterator[None]:
    """Errors of the library's reader under this program's name for them."""
    from svd.checkpoints.model_file import CheckpointError

    try:
        yield
    except CheckpointError as error:
        raise ConversionError(str(error)) from error


def _holds_adapters(path: Path) -> bool:
    return path.suffix == ".safetensors" and path.is_file() and "lora" in read_metadata(path)


def _finite(name: str, tensor: LazyTensor) -> LazyTensor:
    def read() -> np.ndarray:
        values = tensor.read()
        check_finite(values, name)
        return values

    return dataclasses.replace(tensor, read=read)


def _write_merged(
    trained: Trained, pretrained: Path, target: Path, to: Layout, dtype: str, lora_scale: float = 1.0
) -> None:
    if not pretrained.is_file():
        raise ConversionError(
            f"{pretrained}, which the training began with, is not there; say where it is with --pretrained, "
            "or export the trained tensors alone with --trained_only"
        )
    tensors, metadata = read_safetensors(pretrained), read_metadata(pretrained)
    if detect_layout(tensors) != "svd":
        raise ConversionError(f"{pretrained} is not in {LAYOUT_NAMES['svd']}; convert it with svd_tools/convert.py")
    model = trained.config
    if "config" in metadata:
        model = _merged_config(trained, pretrained, parse_config(metadata["config"]))
    if to == "diffusers":
        check_expressible(model)
    shapes = _shapes(model)
    weights = gather(tensors, "svd", model, shapes)
    _check_model(trained, {name: tensor.shape for name, tensor in weights.tensors.items()}, str(pretrained))
    changed = trained.tensors
    if trained.lora is not None:
        names = trained.lora.weights
        changed = {name: _adapted(trained.lora, name, weights.tensors[name], lora_scale) for name in names}
    merged = Weights(weights.tensors | changed, weights.leftovers)
    write_model(target, merged, shapes, model, to, dtype)


def _adapted(lora: LoRA, name: str, weight: LazyTensor, scale: float) -> LazyTensor:
    """A weight with so much of what its adapter adds, float32; at scale 0 as it is."""
    if not scale:
        return weight
    added = dataclasses.replace(weight, dtype=np.dtype(np.float32), read=lambda: lora.added(name, weight.read(), scale))
    return _finite(name, added)


def _merged_config(trained: Trained, pretrained: Path, before: ModelConfig) -> ModelConfig:
    """That of the training, which may choose another noise model, sampling and decoder; the rest has to agree.

    The decoder is that which the pretrained checkpoint holds: the training did not need it.
    """
    autoencoder = dataclasses.replace(trained.config.autoencoder, decoder=before.autoencoder.decoder)
    if different := trained.config.different_networks(before):
        raise ConversionError(f"{trained.path} is of another model than {pretrained}: {different[0]}")
    return dataclasses.replace(trained.config, autoencoder=autoencoder)


def _write_alone(trained: Trained, target: Path, to: Layout, dtype: str) -> None:
    """Write the trained tensors into a file of their own."""
    if trained.lora is not None and to != "svd":
        raise ConversionError(
            f"adapters alone are written in {LAYOUT_NAMES['svd']} only: without --trained_only they are merged, and "
            f"can be exported to {LAYOUT_NAMES[to]}"
        )
    if to == "diffusers":
        check_unet_expressible(trained.config)
    _check_model(trained, _shapes(trained.config), "its own config says")
    metadata = {"format": "pt"}
    if to == "svd":  # without the path of the pretrained checkpoint: it means nothing to others
        metadata = {"format": TRAINED_FORMAT, "config": dump_config(trained.config)}
        if trained.lora is not None:
            metadata |= trained.lora.metadata
    else:
        # A tensor of theirs can be several of ours, but in the UNet; and diffusers has a file for each network.
        others = [name for name in trained.tensors if not name.startswith("network.")]
        if others:
            raise ConversionError(
                f"{others[0]} is no tensor of the UNet: without --trained_only it can be exported to {LAYOUT_NAMES[to]}"
            )
    outputs = cast_all(scatter(trained.tensors, to, trained.config), dtype)
    if to == "diffusers":
        outputs = {name.removeprefix("unet."): tensor for name, tensor in outputs.items()}
    with writing(target, outputs) as (temporary, progress):
        write_safetensors(temporary, outputs, metadata, progress)
    print(f"wrote {len(outputs)} tensors in {LAYOUT_NAMES[to]}:\n{target}")


def _shapes(config: ModelConfig) -> dict[str, Shape]:
    from svd.build import parameter_shapes  # MindSpore takes seconds to import: --help and errors do not wait for it

    return parameter_shapes(config)


def _check_model(trained: Trained, known: Mapping[str, Shape], where: str) -> None:
    """Raise ConversionError for trained tensors that the model does not have, or in another shape."""
    if trained.lora is not None:
        with _conversion_errors():
            trained.lora.check(trained.config, known, where)
        return
    wrong = [
        f"{name} {list(tensor.shape)}" + (f" instead of {list(known[name])}" if name in known else "")
        for name, tensor in trained.tensors.items()
        if known.get(name) != tensor.shape
    ]
    if wrong:
        some = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise ConversionError(
            f"{trained.path} is of another model than {where}: {len(wrong)} tensors are not there or of another "
            f"shape ({some})"
        )


def main(argv: Optional[list[str]] = None, program: str = "export.py") -> int:
    """The command line; returns 0, or 2 after one line on stderr that says what is wrong."""
    return cli.run(build_parser(program), lambda args: export(**vars(args)), argv)
