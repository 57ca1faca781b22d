"""Write a model with random weights, to train from scratch.

python svd_tools/initialize.py --config configs/digits/model.yaml --out outputs/digits/initial.safetensors
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("initialize")

from pathlib import Path
from typing import Optional

import numpy as np
from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt

from svd import cli
from svd.checkpoints.tensor_files import LazyTensor
from svd.config import load_config
from svd.initialization import initial_value
from svd_tools.checkpoints.conversion import Weights
from svd_tools.checkpoints.converter import check_free, write_model


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, type=str, help="Model, such as configs/digits/model.yaml.")
    parser.add_argument("--out", required=True, type=str, help="File to write: NAME.safetensors.")
    parser.add_argument("--seed", default=0, type=NonNegativeInt, help="The same seed gives the same weights.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the file if it exists.")
    return parser


def initialize(config: str | Path, out: str | Path, seed: int = 0, overwrite: bool = False) -> None:
    """Write a model with random weights; it has one encoder for images and videos.

    Raises:
        ConfigError: the configuration cannot be used.
        CheckpointError: the file exists, or could not be written.
    """
    # MindSpore takes seconds to import, which --help and errors do not wait for
    from svd.build import build_networks, optional_parts
    from svd.layers.marks import zero_init_names

    model, target = load_config(config), Path(out)
    check_free(target, overwrite)
    networks = {f"{prefix}.": network for prefix, network in build_networks(model).items()}
    networks = {prefix: network for prefix, network in networks.items() if prefix not in optional_parts(model)}
    shapes = {prefix + p.name: tuple(p.shape) for prefix, cell in networks.items() for p in cell.get_parameters()}
    zeros = {prefix + name for prefix, cell in networks.items() for name in zero_init_names(cell)}
    tensors = {
        name: _tensor(name, shape, seed, place, name in zeros) for place, (name, shape) in enumerate(shapes.items())
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_model(target, Weights(tensors, []), shapes, model, "svd", "keep")


def _tensor(name: str, shape: tuple[int, ...], seed: int, place: int, zero: bool) -> LazyTensor:
    return LazyTensor(shape, np.dtype(np.float32), ("", place), lambda: initial_value(name, shape, seed, zero))


def main(argv: Optional[list[str]] = None, program: str = "initialize.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), lambda args: initialize(**vars(args)), argv)
