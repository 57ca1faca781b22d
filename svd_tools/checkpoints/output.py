"""Writing tensors: their type, the progress, and the file that appears when it is whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from svd.checkpoints.tensor_files import LazyTensor, cast
from svd.files import atomic_write

DTYPES = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}


def cast_all(tensors: Mapping[str, LazyTensor], dtype: str) -> dict[str, LazyTensor]:
    """The tensors cast to a type of DTYPES, or unchanged for `keep`; integers are never cast."""
    if dtype == "keep":
        return dict(tensors)
    return {n: cast(n, tensor, DTYPES[dtype]) if tensor.dtype.kind == "f" else tensor for n, tensor in tensors.items()}


@contextlib.contextmanager
def writing(target: Path, outputs: Mapping[str, LazyTensor]) -> Iterator[tuple[Path, Callable[[int], object]]]:
    """(temporary path of `atomic_write`, callback for the bytes of each tensor), with a progress bar."""
    need = sum(tensor.nbytes for tensor in outputs.values())
    # disable=None: no bar unless the output is a terminal
    bar = tqdm(total=need, unit="B", unit_scale=True, desc="writing", disable=None)
    with bar, atomic_write(target, need) as temporary:
        yield temporary, bar.update
