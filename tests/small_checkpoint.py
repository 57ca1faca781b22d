"""The small random model as a file: what the command line and `load_pipeline` are given in tests."""

from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from small_model import SMALL, fill

from svd.build import build_networks
from svd.config import ModelConfig, dump_config


def random_tensors(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random weights of a small model by their names in a checkpoint, the same every time."""
    return {
        f"{prefix}.{parameter.name}": parameter.asnumpy().copy()
        for seed, (prefix, network) in enumerate(build_networks(config).items())
        for parameter in fill(network, seed).get_parameters()
    }


_small_tensors = cache(lambda: random_tensors(SMALL))


def small_tensors() -> dict[str, np.ndarray]:
    """The weights of `small_model.build_small_pipe` by their names in a checkpoint; the dictionary may be changed."""
    return dict(_small_tensors())


def write_checkpoint(path: Path, tensors: dict[str, np.ndarray], config: ModelConfig | None = SMALL) -> Path:
    """A checkpoint as svd_tools/convert.py writes it; without metadata if `config` is None."""
    metadata = None if config is None else {"format": "svd-mindspore", "config": dump_config(config)}
    save_file(tensors, path, metadata)
    return path


def damaged(name: str, value: float) -> dict[str, np.ndarray]:
    """The weights with one element of one tensor replaced."""
    tensors = small_tensors()
    tensors[name] = tensors[name].copy()
    tensors[name].flat[3] = value
    return tensors
