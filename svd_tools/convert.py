"""Convert a checkpoint of Stable Video Diffusion between Stability's, diffusers' and this project's layout.

python svd_tools/convert.py --pt_weights_file svd.safetensors --config configs/svd.yaml --out_dir models
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are answered from here on, also while all this is imported
    from svd.cli import start

    start("convert")

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Optional, get_args

import numpy as np
from jsonargparse import ArgumentParser
from tqdm import tqdm

from svd import cli
from svd.config import ModelConfig, dump_config, load_config
from svd.console import printable
from svd.files import atomic_write
from svd_tools.checkpoints.checkpoint_maps import OPTIONAL_GROUPS, Entry, Layout, Shape, expand
from svd_tools.checkpoints.conversion import Weights, gather, groups_without, scatter
from svd_tools.checkpoints.diffusers_folder import check_expressible, check_settings, write_folder
from svd_tools.checkpoints.recognition import Choice, recognise
from svd_tools.checkpoints.sources import read_weights
from svd_tools.checkpoints.tensor_files import ConversionError, LazyTensor, cast, write_safetensors

LAYOUT_NAMES = {
    "svd": "this project's layout",
    "sgm": "Stability's layout (sgm)",
    "diffusers": "diffusers' layout",
}
DTYPES = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pt_weights_file",
        required=True,
        type=str,
        help="Checkpoint to convert: Stability's file (.safetensors, .ckpt, .pt, .bin) or ComfyUI's, a diffusers "
        "folder, mindone's .ckpt, or a file of this project; also of a training, with averages or wrappers. The layout "
        "is told from the names.",
    )
    parser.add_argument("--config", required=True, type=str, help="Config of the model, for instance configs/svd.yaml.")
    parser.add_argument("--out_dir", required=True, type=str, help="Folder to write to; made if it does not exist.")
    parser.add_argument(
        "--weights",
        choices=get_args(Choice),
        default="auto",
        help="Which weights to take from a training checkpoint: ema, the averages that it keeps beside the weights, or "
        "plain, the weights themselves. auto: the averages, if there are any.",
    )
    parser.add_argument("--to", choices=tuple(LAYOUT_NAMES), default="svd", help="Layout to write.")
    parser.add_argument("--dtype", choices=("keep", *DTYPES), default="keep", help="Type of the written values.")
    parser.add_argument("--report", action="store_true", help="Print where every tensor comes from and goes to.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the output if it exists.")
    return parser


def convert(
    pt_weights_file: str | Path,
    config: str | Path,
    out_dir: str | Path,
    to: Layout = "svd",
    dtype: str = "keep",
    report: bool = False,
    overwrite: bool = False,
    weights: Choice = "auto",
) -> Path:
    """Convert a checkpoint, say what was found and left out, and return the path written.

    The arguments are those of the command line (`--help`).

    Raises:
        ConversionError: the source cannot be read or does not fit the config; nothing was written.
    """
    source, model = Path(pt_weights_file), load_config(config)
    target = output_path(source, Path(out_dir), to)
    check_free(target, overwrite)
    opened = read_weights(source)
    recognised = recognise(printable(str(source)), opened.tensors, weights)
    layout, tensors = recognised.layout, recognised.tensors
    print(printable(f"{source} is {opened.kind} in {LAYOUT_NAMES[layout]}: {len(tensors)} tensors"))
    for note in (*opened.notes, *recognised.notes):
        print(printable(f"NOTE: {note}."))
    if "diffusers" in (layout, to):
        check_expressible(model)
    if layout == "diffusers" and source.is_dir():
        check_settings(source, model)
    from svd.build import parameter_shapes  # MindSpore takes seconds to import: --help and errors do not wait for it

    shapes = parameter_shapes(model)
    gathered = gather(tensors, layout, model, shapes)
    if report:
        _print_report(gathered, shapes, {layout: gathered.entries, to: expand(to, model, gathered.tensors)})
    write_model(target, gathered, shapes, model, to, dtype)
    return target


def output_path(source: Path, out_dir: Path, to: Layout) -> Path:
    """Where a source is converted to: `output_name` in the folder; never the source itself."""
    target = out_dir / output_name(source.resolve().name if source.is_dir() else source.stem, to)
    if target.resolve() == source.resolve():
        target = target.with_name(f"{target.stem}_{to}{target.suffix}")
    return target


def output_name(stem: str, to: Layout) -> str:
    """<stem>.safetensors, <stem>_sgm.safetensors or <stem>_diffusers."""
    return {"svd": f"{stem}.safetensors", "sgm": f"{stem}_sgm.safetensors", "diffusers": f"{stem}_diffusers"}[to]


def check_free(target: Path, overwrite: bool) -> None:
    """Raise ConversionError where something would be replaced that nobody asked to replace."""
    if target.exists() and not overwrite:
        raise ConversionError(f"{target} exists; choose another --out_dir, or give --overwrite to replace it")


def write_model(
    target: Path, weights: Weights, shapes: Mapping[str, Shape], config: ModelConfig, to: Layout, dtype: str
) -> None:
    """Write a whole model in a layout, and say what was left out and what was written.

    Args:
        shapes: the shapes of all that our layout can hold, by name.
        dtype: keep, or a key of DTYPES.
    """
    outputs = cast_all(scatter(weights.tensors, to, config), dtype)
    written = {entry.ours for entry in expand(to, config, weights.tensors)}
    _print_differences(weights, shapes, written, to)
    metadata = {"format": "pt"}
    if to == "svd":
        metadata = {"format": "svd-mindspore", "config": dump_config(config)}
    with writing(target, outputs) as (temporary, progress):
        if to == "diffusers":
            write_folder(temporary, outputs, config, progress)
        else:
            write_safetensors(temporary, outputs, metadata, progress)
    print(f"wrote {len(outputs)} tensors in {LAYOUT_NAMES[to]}:\n{target}")


def cast_all(tensors: Mapping[str, LazyTensor], dtype: str) -> dict[str, LazyTensor]:
    """The tensors in the type of that name in DTYPES, or as they are if it is `keep`."""
    if dtype == "keep":
        return dict(tensors)
    return {name: cast(name, tensor, DTYPES[dtype]) for name, tensor in tensors.items()}


@contextlib.contextmanager
def writing(target: Path, outputs: Mapping[str, LazyTensor]) -> Iterator[tuple[Path, Callable[[int], object]]]:
    """(`atomic_write`'s temporary path, what is told the bytes of each tensor) while the outputs are written."""
    need = sum(tensor.nbytes for tensor in outputs.values())
    # disable=None: no bar where the output is no terminal
    bar = tqdm(total=need, unit="B", unit_scale=True, desc="writing", disable=None)
    with bar, atomic_write(target, need) as temporary:
        yield temporary, bar.update


def _print_differences(weights: Weights, shapes: Mapping[str, Shape], written: set[str], to: Layout) -> None:
    """Say what of the source is ignored, and what the written checkpoint does not have."""
    if weights.leftovers:
        some = ", ".join(weights.leftovers[:3]) + (", ..." if len(weights.leftovers) > 3 else "")
        print(printable(f"ignored: {len(weights.leftovers)} tensors that are no part of the model ({some})"))
    for group, count in groups_without(shapes, written).items():
        held = any(name not in written and name.startswith(group) for name in weights.tensors)
        why = f"there is no place for it in {LAYOUT_NAMES[to]}" if held else "the source does not have it"
        print(f"NOTE: not written: {OPTIONAL_GROUPS[group]} ({count} tensors); {why}.")
        print("      Image-to-video does not use it.")


def _print_report(weights: Weights, shapes: Mapping[str, Shape], layouts: Mapping[Layout, list[Entry]]) -> None:
    """Print where every tensor is: ours | theirs | our shape | transform; a table for each foreign layout."""
    for layout in sorted(layouts.keys() - {"svd"}):
        rows = [("ours", layout, "shape", "transform")]
        rows += [
            (entry.ours, entry.theirs, str(list(shapes[entry.ours])), entry.transform) for entry in layouts[layout]
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    for name in weights.leftovers:
        print(printable(f"ignored | {name}"))


def main(argv: Optional[list[str]] = None, program: str = "convert.py") -> int:
    """The command line; returns 0, or 2 after one line on stderr that says what is wrong."""
    return cli.run(build_parser(program), lambda args: convert(**vars(args)), argv)
