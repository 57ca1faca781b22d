"""A cache of compiled graphs on disk: a file for each, named by a hash of all that it depends on.

MindSpore's own compile cache serves, as the n-th graph of a process, what was the n-th graph of another process,
whatever has changed since, and never leaves the first folder it was given. So it gets a temporary folder for this
process, and finds nothing there but the cached graph, if there is one, of what is being compiled.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Optional

from google.protobuf.message import DecodeError
from mindspore import nn
from mindspore.train.mind_ir_pb2 import ModelProto

from svd import runtime
from svd.graph_key import UnknownError, described_cell, described_inputs
from svd.operators.library import is_kept, library
from svd.trust import private_folder, read_trusted, user_cache, write_trusted

LIMIT = 2 * 10**9
"""Bytes that the graphs of a folder take at most: hundreds of small networks, or dozens of the largest."""


class CompileCache:
    """Caches the graphs of networks between processes. A failure is printed, and costs no more than time.

    Args:
        folder: created if needed; it may be removed at any time. Graphs that were used last stay, within `LIMIT` bytes.
        facts: what graphs depend on besides sources, versions and what is seen of a cell: the device.
    """

    def __init__(self, folder: str | Path, *facts: str):
        self._folder: Optional[Path] = Path(folder)
        self._facts = [*facts, *runtime.describe(mode=0).values(), _sources(), str(library()), *_compiler_settings()]
        if os.environ.get("MS_COMPILER_CACHE_ENABLE") == "1":
            self._give_up("MS_COMPILER_CACHE_ENABLE=1 is set, and MindSpore has one folder for a process")

    def keep(self, name: str, cell: nn.Cell) -> None:
        """From now on, load the cell's graphs from the cache where they exist.

        Cells that are not of this package alone are compiled as ever: changes of their sources would go unnoticed.
        """
        compile_graph, known = cell.compile, set()

        def compile_or_load(*args, **kwargs):  # MindSpore calls it before every run
            if self._folder is None:
                return compile_graph(*args, **kwargs)
            try:
                inputs = [cell.training, described_inputs([args, kwargs])]
                if (signature := repr(inputs)) in known:
                    return compile_graph(*args, **kwargs)
                known.add(signature)
                facts = json.dumps([name, inputs, described_cell(cell), *self._facts])
            except UnknownError:
                return compile_graph(*args, **kwargs)
            key = hashlib.sha256(facts.encode()).hexdigest()[:24]
            return self._kept(self._folder / f"{name}-{key}.graph", lambda: compile_graph(*args, **kwargs))

        cell.compile = compile_or_load

    def _kept(self, path: Path, compile_graph) -> Any:
        """Compile with the graph of this file in MindSpore's folder, or else write the file."""
        try:
            private_folder(path.parent)
            workspace = _workspace()
            workspace.offer(_read(path))
        except OSError as error:
            self._give_up(str(error))
            return compile_graph()
        with runtime.graph_cache(workspace.folder):
            result = compile_graph()
        try:
            compiled = workspace.take()
            if compiled is not None and len(compiled) <= LIMIT:
                _check_whole(compiled)
                write_trusted(path, compiled)
                _evict(path.parent)
        except OSError as error:
            self._give_up(str(error))
        return result

    def _give_up(self, reason: str) -> None:
        print(f"svd: compiled graphs are not kept: {reason}", file=sys.stderr)
        self._folder = None


def open_cache(setting: Optional[str | Path], device: str, ranks: int = 1) -> Optional[CompileCache]:
    """The cache that a setting asks for; None for no cache.

    Args:
        setting: a folder; `off` or None; or `auto`: what SVD_COMPILE_CACHE says, a folder or `off`, or else the user's
            cache folder, where loaded graphs are known to be equal to compiled ones: on CPU.
        device: Ascend, GPU or CPU.
        ranks: processes of the run; the graphs of several are never kept.
    """
    if setting == "auto":
        setting = os.environ.get("SVD_COMPILE_CACHE") or "auto"
    if setting is None or setting == "off" or ranks > 1:
        return None
    if setting == "auto":
        if device != "CPU" or not is_kept(library()):
            return None
        try:
            setting = user_cache() / "graphs"
        except OSError as error:
            print(f"svd: compiled graphs are not kept: {error}", file=sys.stderr)
            return None
    return CompileCache(setting, device)


class _Workspace:
    """The folder where MindSpore reads and writes graphs, numbered per process."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="svd-graphs-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self._next, self._offered = 0, False

    def offer(self, graph: Optional[bytes]) -> None:
        """Offer MindSpore this graph, or none, for its next compilation."""
        for path in self._graphs():
            path.unlink()
        self._offered = graph is not None
        if graph is not None:
            path = self.folder / "rank_0" / "graph_cache" / f"compile_cache_{self._next}.mindir"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(graph)

    def take(self) -> Optional[bytes]:
        """The graph that MindSpore has written; None if it has used the offered one."""
        graphs = {int(path.stem.rsplit("_", 1)[1]): path for path in self._graphs()}
        if self._offered:
            graphs.pop(self._next, None)
        # If MindSpore counts differently, it has found nothing, and its file shows how it counts.
        number = max(graphs, default=self._next)
        compiled = graphs[number].read_bytes() if number in graphs else None
        for path in self._graphs():
            path.unlink()
        self._next = number + 1
        return compiled

    def _graphs(self) -> list[Path]:
        return list(self.folder.rglob("compile_cache_*.mindir"))


_workspace = cache(_Workspace)
"""The workspace of this process."""


def _read(path: Path) -> Optional[bytes]:
    """The graph of a file; None if there is none that can be used."""
    try:
        graph = read_trusted(path)
    except OSError as error:
        print(f"svd: {error}", file=sys.stderr)
        return None
    if graph is not None:
        with suppress(OSError):  # perhaps it was evicted in the meantime
            os.utime(path)
    return graph


def _check_whole(graph: bytes) -> None:
    """Raise OSError if a part is missing: on a full disk, MindSpore does not say that it could not write all of it."""
    try:
        ModelProto.FromString(graph)
    except DecodeError as error:
        raise OSError(
            "MindSpore could not write all of a graph; is there space in the folder of temporary files?"
        ) from error


def _evict(folder: Path) -> None:
    """Remove the graphs that were not used for longest, until the others take at most `LIMIT` bytes.

    Other processes may do so at the same time, or read what is removed.
    """
    found = []
    for path in folder.glob("*.graph"):  # also what killed processes have not finished
        with suppress(FileNotFoundError):
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= LIMIT:
            break
        path.unlink(missing_ok=True)
        total -= size


def _compiler_settings() -> list[str]:
    """Variables that change what MindSpore's compiler does."""
    return sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("MS_DEV_"))


def _sources() -> str:
    """A digest of this package's sources."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.cpp"), *root.rglob("*.h")]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
