"""Write a model with random weights, to train from scratch.

python svd_tools/initialize.py --config configs/digits/model.yaml --out outputs/digits/initial.safetensors
svd initialize --config configs/digits/words_image.yaml --captions clips.csv --out outputs/words/initial.safetensors
svd initialize --config configs/digits/words_video.yaml --image_model image.safetensors --out video.safetensors
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("initialize")

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np
from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt

from svd import cli
from svd.checkpoints.formats import MODEL_FORMAT, TOKENIZER
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_files import LazyTensor, finite, read_safetensors, write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import (
    ConfigError,
    ImageLDMConfig,
    LatentModel,
    Model,
    UpsamplerConfig,
    VideoDiffusionConfig,
    dump_config,
    load_config,
)
from svd.config.models import different_settings
from svd.console import first_few
from svd.data.csv_rows import CsvRows
from svd.errors import check
from svd.initialization import initial_value
from svd_tools.checkpoints.converter import check_free, writing
from svd_tools.checkpoints.vocabulary import read_vocabulary, train_vocabulary


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", required=True, type=str, help="Model, such as configs/digits/model.yaml.")
    add("--out", required=True, type=str, help="File to write: NAME.safetensors.")
    add("--seed", default=0, type=NonNegativeInt, help="The same seed gives the same weights.")
    add("--overwrite", action="store_true", help="Replace the file if it exists.")
    add("--grey", action="store_true", help="For videos without colours: the decoder's three begin alike, and so they "
        "stay while it learns from grey ones.")  # fmt: skip
    add("--image_model", type=Optional[str], help="Checkpoint of an image model, whose weights and vocabulary a model "
        "of videos gets; its temporal layers alone are then random.")  # fmt: skip
    add("--tokenizer", type=Optional[str], help="Vocabulary of a model that is given text: folder of vocab.json and "
        "merges.txt.")  # fmt: skip
    add("--captions", type=Optional[str], help="Instead: CSV file with a column caption, from which a vocabulary is "
        "learned.")  # fmt: skip
    return parser


def initialize(
    config: str | Path,
    out: str | Path,
    seed: int = 0,
    overwrite: bool = False,
    image_model: Optional[str | Path] = None,
    tokenizer: Optional[str | Path] = None,
    captions: Optional[str | Path] = None,
    grey: bool = False,
) -> None:
    """Write a model with random weights; it has one encoder for images and videos.

    `image_model` gives its latents' scale, too: it belongs to the weights. With `grey` the decoder's last convolution
    has the same weights for each colour: on grey videos their gradients are equal, and so they stay the same.

    Raises:
        ConfigError: the configuration cannot be used.
        CheckpointError: the file exists, or could not be written; or the image model is of other networks.
        DatasetError, TokenizerError: no vocabulary can be had.
    """
    # MindSpore takes seconds to import, which --help and errors do not wait for
    from svd.build import build_networks, optional_parts
    from svd.layers.marks import temporal_parameters, zero_init_names

    model, target = load_config(config), Path(out)
    check(not (grey and image_model), "grey is about the decoder, which is the image model's: leave one of them out")
    check(not grey or isinstance(model, LatentModel), "grey is about the decoder, and this model has none")
    check_free(target, overwrite)
    vocabulary = _vocabulary(model, image_model=image_model, tokenizer=tokenizer, captions=captions)
    if image_model is not None and isinstance(model, ImageLDMConfig):
        model = _scaled_as(model, Checkpoint(image_model).config)
    metadata = {"format": MODEL_FORMAT, "config": dump_config(model), **vocabulary}
    networks = {f"{prefix}.": network for prefix, network in build_networks(model).items()}
    networks = {prefix: network for prefix, network in networks.items() if prefix not in optional_parts(model)}
    shapes = {prefix + p.name: tuple(p.shape) for prefix, cell in networks.items() for p in cell.get_parameters()}
    zeros = {prefix + name for prefix, cell in networks.items() for name in zero_init_names(cell)}
    tensors = {}
    for place, (name, shape) in enumerate(shapes.items()):
        values = partial(initial_value, name, shape, seed, name in zeros)
        if grey and name.endswith("decoder.conv_out.weight"):  # [3 c 3 3]
            values = partial(_alike, values)
        tensors[name] = LazyTensor(shape, np.dtype(np.float32), ("", place), values)
    if image_model is not None:
        new = {prefix + p.name for prefix, cell in networks.items() for p in temporal_parameters(cell)}
        tensors |= _taken(Path(image_model), {name: shape for name, shape in shapes.items() if name not in new})
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target, tensors) as (temporary, progress):
        write_safetensors(temporary, tensors, metadata, progress)
    print(f"wrote {len(tensors)} tensors:\n{target}")


def _alike(values: Callable[[], np.ndarray]) -> np.ndarray:
    """Weights [o ...] with those of the first output in place of all."""
    array = values()
    return np.repeat(array[:1], len(array), 0)


def _vocabulary(model: Model, **sources: Optional[str | Path]) -> dict[str, str]:
    """The metadata of a model's tokenizer, empty if it has none; one source has to be given if it has one."""
    given = [name for name, source in sources.items() if source is not None]
    if getattr(model, "text_encoder", None) is None:
        over_images = isinstance(model, (UpsamplerConfig, VideoDiffusionConfig))
        if given and (given != ["image_model"] or not over_images):
            raise ConfigError(f"{given[0]} is for models that are given text", setting=given[0])
        if given:
            _check_image_model(model, Checkpoint(sources["image_model"]))
        return {}
    if len(given) != 1:
        some = " and ".join(given) or "none"
        raise ConfigError(f"the vocabulary of a model that is given text: give one of {', '.join(sources)}, got {some}")
    source = Path(sources[given[0]])
    if given[0] == "tokenizer":
        return {TOKENIZER: read_vocabulary(source, model.text_encoder)}
    if given[0] == "captions":
        rows = CsvRows(str(source), ("caption",), (), "give a CSV file with the column caption")
        return {TOKENIZER: train_vocabulary((caption for _, (caption,) in rows), model.text_encoder)}
    checkpoint = Checkpoint(source)
    _check_image_model(model, checkpoint)
    return {TOKENIZER: checkpoint.metadata[TOKENIZER]} if TOKENIZER in checkpoint.metadata else {}


def _check_image_model(model: Model, checkpoint: Checkpoint) -> None:
    """Raise an error unless the checkpoint is of the image model in a model of videos."""
    of_image, upsampler = checkpoint.config, isinstance(model, UpsamplerConfig)
    if upsampler and model.temporal is None:
        raise ConfigError("image_model is for models with temporal layers over an image model", setting="image_model")
    if isinstance(model, VideoDiffusionConfig):
        differing = _other_image_model(model, of_image)
    else:
        kind = UpsamplerConfig if upsampler else ImageLDMConfig
        differing = (
            "" if isinstance(of_image, kind) else f"it is no model that {'upsamples' if upsampler else 'is given text'}"
        )
        model = model if differing or upsampler else _scaled_as(model, of_image)
        for part in kind.networks:
            if not differing and part != "temporal" and getattr(of_image, part) != getattr(model, part):
                differing = f"its {part} is another one"
    if differing:
        problem = f"{checkpoint.path} is no image model of this video model: {differing}"
        raise CheckpointError(problem, setting="image_model")


def _scaled_as(model: LatentModel, other: LatentModel) -> LatentModel:
    """The model with the scale of another one's latents."""
    return replace(model, autoencoder=replace(model.autoencoder, scale_factor=other.autoencoder.scale_factor))


def _other_image_model(model: VideoDiffusionConfig, image: Model) -> str:
    """Why a model in pixel space is not the image model of another one; empty if it is."""
    if not isinstance(image, VideoDiffusionConfig):
        return "it is not in pixel space"
    if model.lucidrains is not None or image.temporal_layers or not model.temporal_layers:
        return "one of them must have temporal layers, the other none"
    if image.preconditioning != model.preconditioning:
        return f"its preconditioning is {image.preconditioning}, not {model.preconditioning}"
    return next(iter(different_settings("unet", image.unet, model.unet)), "")


def _taken(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, LazyTensor]:
    """Tensors of these names and shapes from a checkpoint, as stored; raises CheckpointError."""
    there = read_safetensors(path)
    wrong = [name for name, shape in shapes.items() if name not in there or there[name].shape != shape]
    if wrong:
        raise CheckpointError(f"{path} lacks {len(wrong)} tensors of the image model ({first_few(wrong)})")
    return {name: finite(name, there[name]) for name in shapes}


def main(argv: Optional[list[str]] = None, program: str = "initialize.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), lambda args: initialize(**vars(args)), argv)
