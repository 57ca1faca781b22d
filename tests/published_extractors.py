"""The extractors with weights that follow from their published names, as those of tests/golden_family/extractors."""

import json
import lzma
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters

from svd_tools.checkpoints.tables import TRANSFORMS, Table

ROOT = Path(__file__).parent
SEED = 70
EXTRACTORS = 1e-3
"""The tolerance of the golden values of this set."""


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(ROOT / "golden_family/extractors/values.npz") as values:
        return dict(values)


@cache
def manifest(name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a published file's tensors by name: i3d_pytorch, inception_v3_fid or c3d_sports1m."""
    content = json.loads(lzma.decompress((ROOT / "manifests/extractors.json.xz").read_bytes()))
    return {key: tuple(shape) for key, shape in content[name].items()}


@cache
def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        values = 0.8 + 0.4 * random.rand(*shape)
    elif len(shape) > 1:
        values = random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    else:
        values = (1 if name.endswith("weight") else 0) + 0.1 * random.randn(*shape)
    return values.astype(np.float32)


def build(network: Callable[[], nn.Cell], table: Table, of: Callable = weights) -> nn.Cell:
    """A network with weights `of` a published name and shape."""
    with no_init_parameters():
        cell = network()
    for parameter in cell.get_parameters():
        if parameter.name == "mean":
            parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
            continue
        theirs, transform = table.translate(parameter.name, "pytorch", None)
        values = of(theirs, TRANSFORMS[transform].shape(tuple(parameter.shape)))
        parameter.set_data(Tensor(np.ascontiguousarray(TRANSFORMS[transform].to_ours(values))))
    return cell.set_train(False)


def squares(number: int, low: float, *shape: int) -> np.ndarray:
    """The golden inputs: random squares of 8 x 8 pixels."""
    small = (*shape[:-2], shape[-2] // 8, shape[-1] // 8)
    values = np.random.RandomState(SEED + number).uniform(low, 1, small).astype(np.float32)
    return values.repeat(8, -1).repeat(8, -2)
