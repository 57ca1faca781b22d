"""Compiled graphs kept on disk, each in a folder named by all that it depends on.

MindSpore's compile cache alone serves what it kept for the n-th graph of a process, whatever has changed since.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mindspore import Tensor, nn

from svd import runtime
from svd.layers.native.library import library


class CompileCache:
    """Keeps the graphs of networks between processes.

    Args:
        folder: made if it is not there; it may be removed at any time that nothing compiles.
        facts: what graphs depend on beside the sources, versions and shapes: the configuration, device, compute type.
    """

    def __init__(self, folder: str | Path, *facts: str):
        self._folder = Path(folder)
        self._facts = [*facts, *runtime.describe(mode=0).values(), _sources(), str(library())]

    def keep(self, name: str, cell: nn.Cell) -> None:
        """From now on, compile the cell's graphs only where they are not kept."""
        compile_graph, compiled = cell.compile, set()

        def compile_or_load(*args, **kwargs):  # MindSpore calls it before every run
            inputs = [[list(x.shape), str(x.dtype)] if isinstance(x, Tensor) else repr(x) for x in args]
            facts = json.dumps([name, cell.training, inputs, *self._facts])
            if facts in compiled:
                return compile_graph(*args, **kwargs)
            compiled.add(facts)
            key = hashlib.sha256(facts.encode()).hexdigest()[:24]
            with runtime.graphs_kept_in(self._folder / f"{name}-{key}"):
                return compile_graph(*args, **kwargs)

        cell.compile = compile_or_load


def _sources() -> str:
    """A digest of this package."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.cpp"), *root.rglob("*.h")]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
