"""Converting a checkpoint from any layout, and writing a model in any layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from svd.checkpoints.foreign import adapter_style
from svd.checkpoints.formats import MODEL_FORMAT
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_files import write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ModelConfig, dump_config, load_config
from svd.console import first_few, printable
from svd_tools.checkpoints.adapters import convert_adapters
from svd_tools.checkpoints.conversion import Weights, absent_parts, from_layout, to_layout
from svd_tools.checkpoints.layouts import LAYOUTS, SVD, Entry, Layout, expand
from svd_tools.checkpoints.output import cast_all, writing
from svd_tools.checkpoints.recognition import Choice, recognise
from svd_tools.checkpoints.sources import read_weights
from svd_tools.checkpoints.tables import Shape


def convert(
    pt_weights_file: str | Path,
    config: str | Path,
    out_dir: str | Path,
    to: str = SVD.name,
    dtype: str = "keep",
    report: bool = False,
    overwrite: bool = False,
    weights: Choice = "auto",
) -> Path:
    """Convert a checkpoint, print what was found and left out, and return the path written.

    The arguments are those of svd_tools/convert.py (`--help`).

    Raises:
        CheckpointError: the source cannot be read or does not fit the config; nothing was written.
    """
    source, model = Path(pt_weights_file), _model(config)
    target = output_path(source, Path(out_dir), to)
    check_free(target, overwrite)
    opened = read_weights(source)
    if adapter_style(opened.tensors):
        if to != SVD.name or weights != "auto":
            raise CheckpointError(f"{source} holds adapters (LoRA): they are converted without --to and --weights")
        return convert_adapters(source, opened.tensors, model, target, dtype, report)
    recognised = recognise(printable(str(source)), opened.tensors, weights)
    layout, tensors, target_layout = recognised.layout, recognised.tensors, LAYOUTS[to]
    print(printable(f"{source} is {opened.kind} in {layout.title}: {len(tensors)} tensors"))
    for note in (*opened.notes, *recognised.notes):
        print(printable(f"NOTE: {note}."))
    for either in (layout, target_layout):
        either.check(model, True)
    if source.is_dir():
        layout.check_settings(source, model)
    from svd.build import parameter_shapes  # MindSpore takes seconds to import, which --help and errors do not wait for

    shapes = parameter_shapes(model)
    gathered = from_layout(tensors, layout, model, shapes)
    if report:
        written = expand(target_layout, model, gathered.tensors)
        _print_report(gathered, shapes, {layout.name: gathered.entries, to: written})
    write_model(target, gathered, shapes, model, to, dtype)
    return target


def _model(config: str | Path) -> ModelConfig:
    """The configuration in a YAML file, or in a checkpoint of this project."""
    return Checkpoint(config).config if Path(config).suffix == ".safetensors" else load_config(config)


def output_path(source: Path, out_dir: Path, to: str) -> Path:
    """The output path: `output_name` in the folder; never the source itself."""
    target = out_dir / output_name(source.resolve().name if source.is_dir() else source.stem, to)
    if target.resolve() == source.resolve():
        target = target.with_name(f"{target.stem}_{to}{target.suffix}")
    return target


def _print_report(weights: Weights, shapes: Mapping[str, Shape], layouts: Mapping[str, Sequence[Entry]]) -> None:
    """Print where every tensor goes: ours | theirs | our shape | transform; a table per foreign layout."""
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


def output_name(stem: str, to: str) -> str:
    """<stem>.safetensors, <stem>_sgm.safetensors or <stem>_diffusers."""
    return stem + LAYOUTS[to].ending


def check_free(target: Path, overwrite: bool) -> None:
    """Raise CheckpointError if the target exists, unless it may be overwritten."""
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists; choose another --out_dir, or give --overwrite to replace it")


def write_model(
    target: Path, weights: Weights, shapes: Mapping[str, Shape], config: ModelConfig, to: str, dtype: str
) -> None:
    """Write a whole model in a layout, and print what was left out and what was written.

    Args:
        shapes: the shapes of all tensors of our layout, by name.
        dtype: keep, or a key of DTYPES.
    """
    layout = LAYOUTS[to]
    outputs = cast_all(to_layout(weights.tensors, layout, config), dtype)
    written = {entry.ours for entry in expand(layout, config, weights.tensors)}
    _print_differences(weights, shapes, config, written, layout)
    metadata = {"format": "pt"}
    if layout is SVD:
        metadata = {"format": MODEL_FORMAT, "config": dump_config(config)}
    with writing(target, outputs) as (temporary, progress):
        if layout.write_folder:
            layout.write_folder(temporary, outputs, config, progress)
        else:
            write_safetensors(temporary, outputs, metadata, progress)
    print(f"wrote {len(outputs)} tensors in {layout.title}:\n{target}")


def _print_differences(
    weights: Weights, shapes: Mapping[str, Shape], config: ModelConfig, written: set[str], to: Layout
) -> None:
    """Print what of the source is ignored, and what the written checkpoint lacks."""
    if weights.leftovers:
        some = first_few(weights.leftovers)
        print(printable(f"ignored: {len(weights.leftovers)} tensors that are no part of the model ({some})"))
    for front, title in absent_parts(config, written).items():
        count = sum(name.startswith(front) for name in shapes)
        found = any(name.startswith(front) for name in weights.tensors)
        why = f"there is no place for it in {to.title}" if found else "the source does not have it"
        print(f"NOTE: not written: {title} ({count} tensors); {why}.")
        print("      Image-to-video does not use it.")
