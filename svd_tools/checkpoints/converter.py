"""Converting a checkpoint from any layout, and writing a model in any layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from svd.checkpoints.foreign import adapter_style
from svd.checkpoints.formats import MODEL_FORMAT, TOKENIZER
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_files import write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import Model, dump_config, load_config
from svd.console import first_few, printable
from svd_tools.checkpoints.adapters import convert_adapters
from svd_tools.checkpoints.assembly import Source, assemble, find_tokenizer, open_source, other_model, stores_tokenizer
from svd_tools.checkpoints.conversion import Weights, absent_parts, to_layout
from svd_tools.checkpoints.layout import Entry, Layout, expand
from svd_tools.checkpoints.layouts import ENDINGS, OURS, find_layout, layouts_of
from svd_tools.checkpoints.output import cast_all, writing
from svd_tools.checkpoints.recognition import Choice
from svd_tools.checkpoints.reversal import convert_reversal, unet_file
from svd_tools.checkpoints.sources import read_weights


def convert(
    pt_weights_file: str | Path,
    config: str | Path,
    out_dir: str | Path,
    to: str = OURS,
    dtype: str = "keep",
    report: bool = False,
    overwrite: bool = False,
    weights: Choice = "auto",
    image_model: Optional[str | Path] = None,
    tokenizer: Optional[str | Path] = None,
    reversal_of: Optional[str | Path] = None,
    base_model: Optional[str | Path] = None,
) -> Path:
    """Convert a checkpoint, print what was found and left out, and return the path written.

    The arguments are those of svd_tools/convert.py (`--help`).

    Raises:
        CheckpointError: the source cannot be read or does not fit the config; nothing was written.
    """
    source, model = Path(pt_weights_file), _model(config)
    target = output_path(source, Path(out_dir), to)
    if reversal_of is not None:
        name = source.resolve().name if source.is_dir() else source.stem
        source, target = unet_file(source), target.with_name(f"{name}_reversal.safetensors")
    check_free(target, overwrite)
    opened = read_weights(source, layouts_of(model))
    if reversal_of is not None:
        if to != OURS or image_model or base_model or tokenizer or report:
            options = "--to, --image_model, --base_model, --tokenizer and --report"
            raise CheckpointError(f"reversal_of goes without {options}")
        unet = open_source(source, opened, model, weights, complete=False)
        return convert_reversal(unet, Path(reversal_of), target, dtype)
    if adapter_style(opened.tensors):
        if to != OURS or weights != "auto" or image_model or base_model or tokenizer:
            options = "--to, --weights, --image_model, --base_model and --tokenizer"
            raise CheckpointError(f"{source} holds adapters (LoRA): they are converted without {options}")
        return convert_adapters(source, opened.tensors, model, target, dtype, report)
    layout = find_layout(model, to)
    layout.check(model, True)
    rest = other_model(model, image_model, base_model)
    sources = [open_source(source, opened, model, weights, complete=rest is None)]
    if rest is not None:
        path, base = rest
        sources.append(open_source(path, read_weights(path, layouts_of(base)), base, weights))
    vocabulary = _vocabulary(sources, tokenizer, layout)
    assembled = assemble(*sources)
    if report:
        _print_report(assembled, (to, expand(layout, model, assembled.tensors)))
    write_model(target, assembled, model, layout, dtype, vocabulary)
    return target


def _vocabulary(sources: Sequence[Source], tokenizer: Optional[str | Path], layout: Layout) -> str:
    """The vocabulary that is written; raises CheckpointError if there is none, or if it would not be used."""
    if stores_tokenizer(sources[0].config, layout):
        return find_tokenizer(sources, None if tokenizer is None else Path(tokenizer))
    if tokenizer is not None:
        raise CheckpointError(f"there is no place for a vocabulary in {layout.title}", setting="tokenizer")
    return ""


def _model(config: str | Path) -> Model:
    """The configuration in a YAML file, or in a checkpoint of this project."""
    return Checkpoint(config).config if Path(config).suffix == ".safetensors" else load_config(config)


def output_path(source: Path, out_dir: Path, to: str) -> Path:
    """The output path: the source's name with the layout's ending in the folder; never the source itself."""
    target = out_dir / f"{source.resolve().name if source.is_dir() else source.stem}{ENDINGS[to]}"
    if target.resolve() == source.resolve():
        target = target.with_name(f"{target.stem}_{to}{target.suffix}")
    return target


def _print_report(weights: Weights, written: tuple[str, Sequence[Entry]]) -> None:
    """Print where every tensor goes: ours | theirs | our shape | transform; a table per foreign layout."""
    shapes = {name: str(list(shape)) for name, shape in weights.shapes.items()}
    for layout, entries in sorted([*weights.entries, written], key=lambda table: table[0]):
        if layout == OURS:
            continue
        rows = [("ours", layout, "shape", "transform")]
        rows += [(entry.ours, entry.theirs, shapes[entry.ours], entry.transform) for entry in entries]
        widths = [max(map(len, column)) for column in zip(*rows)]
        for row in rows:
            print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    for name in weights.leftovers:
        print(printable(f"ignored | {name}"))


def check_free(target: Path, overwrite: bool) -> None:
    """Raise CheckpointError if the target exists, unless it may be overwritten."""
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists; choose another --out_dir, or give --overwrite to replace it")


def write_model(target: Path, weights: Weights, config: Model, layout: Layout, dtype: str, tokenizer: str) -> None:
    """Write a whole model in a layout, and print what was left out and what was written.

    Args:
        dtype: keep, or a key of DTYPES.
        tokenizer: its vocabulary, as it is in the metadata of a checkpoint; empty if there is none.
    """
    outputs = cast_all(to_layout(weights.tensors, layout, config), dtype)
    written = {entry.ours for entry in expand(layout, config, weights.tensors)}
    _print_differences(weights, config, written, layout)
    metadata = {"format": "pt"}
    if layout.name == OURS:
        metadata = {"format": MODEL_FORMAT, "config": dump_config(config)}
        metadata |= {TOKENIZER: tokenizer} if tokenizer else {}
    with writing(target, outputs) as (temporary, progress):
        if layout.folder:
            layout.folder.write(temporary, outputs, config, progress, tokenizer)
        else:
            write_safetensors(temporary, outputs, metadata, progress)
    print(f"wrote {len(outputs)} tensors in {layout.title}:\n{target}")


def _print_differences(weights: Weights, config: Model, written: set[str], to: Layout) -> None:
    """Print what of the source is ignored, and what the written checkpoint lacks."""
    if weights.leftovers:
        some = first_few(weights.leftovers)
        print(printable(f"ignored: {len(weights.leftovers)} tensors that are no part of the model ({some})"))
    if to.partial:
        count = len(weights.tensors) - len(written)
        print(f"NOTE: not written: the {to.partial} ({count} tensors); there is no place for it in {to.title}.")
        return
    for front, title in absent_parts(config, written).items():
        count = sum(name.startswith(front) for name in weights.shapes)
        found = any(name.startswith(front) for name in weights.tensors)
        why = f"there is no place for it in {to.title}" if found else "the source does not have it"
        print(f"NOTE: not written: {title} ({count} tensors); {why}.")
        print("      Image-to-video does not use it.")
