"""Converting the published files of the networks whose features metrics are of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from svd.checkpoints.formats import TOKENIZER
from svd.checkpoints.tensor_files import LazyTensor, finite, write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.console import one_line, printable
from svd.files import sha256
from svd.records import read_json
from svd_tools.checkpoints.names.extractors import C3D, CLIP_TOWERS, I3D, INCEPTION
from svd_tools.checkpoints.output import writing
from svd_tools.checkpoints.sources import read_weights
from svd_tools.checkpoints.tables import TRANSFORMS, Table
from svd_tools.checkpoints.vocabulary import WHERE, read_vocabulary

LARGEST_CONFIG = 1 << 20  # bytes
MEAN = (3, 16, 128, 171)
"""Of C3D's mean clip, blue first, of which the centre is used."""


class Published(NamedTuple):
    """A layout of an extractor's weights."""

    extractor: str
    mark: str
    """A tensor that it is recognised by."""
    table: Table
    column: str
    unused: str = "(?!)"
    """A regular expression for names that have no place in ours."""


LAYOUTS = (
    Published("i3d", "Conv3d_1a_7x7.conv3d.weight", I3D, "pytorch"),
    Published("inception", "Mixed_7c.branch_pool.conv.weight", INCEPTION, "pytorch", r"fc\."),
    Published("c3d", "conv1.weight", C3D, "pytorch"),
    Published("c3d", "conv1a.weight", C3D, "chainer"),
    Published("clip", "vision_model.embeddings.class_embedding", CLIP_TOWERS, "diffusers", r".*\.position_ids$"),
    Published("clip", "visual.class_embedding", CLIP_TOWERS, "sgm", "attn_mask$"),
)
_HUGGING_FACE = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of transformers."""


def convert_extractor(
    weights: str | Path,
    out_dir: str | Path,
    tokenizer: Optional[str] = None,
    mean: Optional[str] = None,
    overwrite: bool = False,
) -> Path:
    """Convert the weights of an extractor, print what they are, and return the path written.

    The arguments are those of svd_tools/convert_extractor.py (`--help`).

    Raises:
        CheckpointError: the file is of no extractor, or not the one that is meant, or something is missing beside it.
    """
    source = Path(weights)
    file = _weights_file(source)
    tensors = _read_npz(file) if file.suffix == ".npz" else read_weights(file).tensors
    layout = next((layout for layout in LAYOUTS if layout.mark in tensors), None)
    if layout is None:
        some = ", ".join(list(tensors)[:3]) or "none at all"
        known = "I3D (pytorch-i3d, VideoGPT), FID's Inception (pytorch-fid), C3D (TGANv2, c3d-pytorch) or CLIP ViT-B/32"
        raise CheckpointError(printable(f"{file} is of no extractor that is known, {known}: its tensors are {some}"))
    name = layout.extractor
    for given, wanted, option in ((tokenizer, "clip", "tokenizer"), (mean, "c3d", "mean")):
        if given is not None and name != wanted:
            raise CheckpointError(f"{file} holds the weights of {name}, which takes no {option}", setting=option)
    target = Path(out_dir) / f"{name}.safetensors"
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists; choose another folder, or replace it", setting="overwrite")
    outputs = _ours(file, tensors, layout)
    metadata = {"source": source.name, "sha256": sha256(file)}
    if name == "clip":
        metadata[TOKENIZER] = _vocabulary(source, tokenizer)
    if name == "c3d":
        outputs["mean"] = _mean(mean)
    _write(target, name, outputs, metadata)
    return target


def _weights_file(source: Path) -> Path:
    """The file with the weights: of a folder, transformers'."""
    if not source.is_dir():
        return source
    found = [source / name for name in _HUGGING_FACE if (source / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{source} has no {' nor '.join(_HUGGING_FACE)}: give a folder of transformers, or a file"
        )
    if (source / "config.json").is_file():
        config = read_json(source / "config.json", LARGEST_CONFIG)
        text = config.get("text_config") if isinstance(config, dict) else None
        activation = text.get("hidden_act", "quick_gelu") if isinstance(text, dict) else "quick_gelu"
        if activation != "quick_gelu":
            raise CheckpointError(f"{source} is not OpenAI's CLIP, which CLIPSIM is of: its activation is {activation}")
    return found[0]


def _read_npz(path: Path) -> dict[str, LazyTensor]:
    """The arrays of a file of Chainer or NumPy: a layer's W and b are its weight and its bias."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {re.sub("/b$", ".bias", re.sub("/W$", ".weight", name)): arrays[name] for name in arrays}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except Exception as error:  # of a damaged archive, almost any
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CheckpointError(f"{path} is no archive of arrays, or damaged: {one_line(error)}") from error
    return {n: LazyTensor(a.shape, a.dtype, (str(path), 0), partial(np.asarray, a)) for n, a in found.items()}


def _ours(file: Path, tensors: Mapping[str, LazyTensor], layout: Published) -> dict[str, LazyTensor]:
    """The tensors under our names; raises CheckpointError unless they are exactly those of the network."""
    from svd.metrics.extractors import EXTRACTORS  # MindSpore takes seconds to import

    extractor, settings = EXTRACTORS[layout.extractor], {}
    if "fc8.bias" in tensors:
        settings["classes"] = tensors["fc8.bias"].shape[0]
    from mindspore.nn.utils import no_init_parameters

    with no_init_parameters():
        network = extractor.build(**settings)
    outputs, expected = {}, {}
    for parameter in network.get_parameters():
        if parameter.name == "mean":
            continue
        theirs, transform = layout.table.translate(parameter.name, layout.column, None)
        theirs = theirs.removeprefix(".")
        expected[theirs] = TRANSFORMS[transform].shape(tuple(parameter.shape))
        if theirs in tensors:
            outputs[parameter.name] = _transformed(theirs, tensors[theirs], transform, tuple(parameter.shape))
    missing = [name for name in expected if name not in tensors]
    wrong = [f"{n} {list(tensors[n].shape)}, not {list(shape)}" for n, shape in expected.items()
             if n in tensors and tensors[n].shape != shape]  # fmt: skip
    others = [name for name, tensor in tensors.items()
              if name not in expected and tensor.shape and not re.match(layout.unused, name)]  # fmt: skip
    if layout.extractor == "inception" and tensors.get("fc.bias") is not None and tensors["fc.bias"].shape != (1008,):
        others.append("fc.bias of another number of classes than 1008, as torchvision's Inception has")
    for names, fault in ((missing, "lacks"), (wrong, "has in another shape"), (others, "has beside")):
        if names:
            details = tuple(f"  {name}" for name in names)
            problem = f"does not fit {extractor.title}: it {fault} {len(names)} tensors, such as {names[0]}"
            raise CheckpointError(printable(f"{file} {problem}; get {extractor.published}"), details)
    return outputs


def _transformed(name: str, tensor: LazyTensor, transform: str, shape: tuple[int, ...]) -> LazyTensor:
    read = finite(name, tensor).read
    to_ours = TRANSFORMS[transform].to_ours
    return LazyTensor(shape, tensor.dtype, tensor.position, lambda: np.ascontiguousarray(to_ours(read())))


def _vocabulary(source: Path, tokenizer: Optional[str]) -> str:
    from svd.metrics.clip_similarity import TEXT

    path = Path(tokenizer) if tokenizer is not None else source
    if tokenizer is None and not source.is_dir():
        raise CheckpointError(f"{source} has no vocabulary beside the weights: give {WHERE}", setting="tokenizer")
    return read_vocabulary(path, TEXT)


def _mean(path: Optional[str]) -> LazyTensor:
    """The mean clip [16 3 112 112] of C3D's training, blue first."""
    if path is None:
        problem = "C3D's mean clip is missing: give mean2.npz, which TGANv2 publishes beside the weights"
        raise CheckpointError(problem, setting="mean")
    arrays = _read_npz(Path(path))
    if "mean" not in arrays or arrays["mean"].shape != MEAN or arrays["mean"].dtype.kind != "f":
        raise CheckpointError(
            f"{path} holds no mean of the shape {list(MEAN)}: give mean2.npz of TGANv2", setting="mean"
        )
    mean = finite("mean", arrays["mean"]).read()[:, :, 8:120, 8:120].swapaxes(0, 1).astype(np.float32)
    return LazyTensor(mean.shape, mean.dtype, (path, 0), partial(np.ascontiguousarray, mean))


def _write(target: Path, name: str, outputs: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
    from svd.metrics.extractors import EXTRACTORS, FORMAT, ROOT

    outputs = {f"{ROOT}.{key}": tensor for key, tensor in outputs.items()}
    with writing(target, outputs) as (temporary, progress):
        write_safetensors(temporary, outputs, {"format": FORMAT, "extractor": name, **metadata}, progress)
    print(f"wrote the weights of {EXTRACTORS[name].title}:\n{target}")
