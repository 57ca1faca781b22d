"""Compiling the kernels in kernels/, once per machine."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Optional

from svd.trust import read_trusted, user_cache, write_trusted

FOLDER = Path(__file__).parent / "kernels"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math")
"""No -ffast-math: NaN and infinity keep their meaning."""
LINK_FLAGS = ("-pthread", "-shared", "-fPIC")
_PRIVATE = "svd-kernels-"
"""How names of folders begin that end with their process."""


def _compiler() -> Optional[str]:
    """The C++ compiler: CXX, or else an installed one."""
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name]
    return next(filter(None, map(shutil.which, names)), None)


def _processor() -> str:
    """The processor that the code is compiled for: different machines may share a cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _key(compiler: str) -> str:
    """A digest of everything that the compiled code depends on. Raises OSError if the compiler cannot be run."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    sources = [path.read_bytes() for path in sorted(FOLDER.iterdir())]
    parts = [version, " ".join(FLAGS).encode(), _processor().encode(), *sources]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compiled(compiler: str) -> bytes:
    """Compile the kernels; raises OSError with the compiler's last line."""
    with tempfile.TemporaryDirectory() as aside:
        target = Path(aside) / "kernels.so"
        command = [compiler, *FLAGS, *LINK_FLAGS, *map(str, FOLDER.glob("*.cpp")), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise OSError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        return target.read_bytes()


def _usable(path: Path) -> bool:
    """Whether the file exists, only this user can write it, it is intact, and it can be loaded; prints why not."""
    try:
        if read_trusted(path) is None:
            return False
        ctypes.CDLL(str(path))  # the folder may be mounted noexec
    except OSError as error:
        print(f"svd: {error}", file=sys.stderr)
        return False
    return True


def _kept(code: bytes, name: str, folder: Optional[Path]) -> Path:
    """Write compiled kernels to the folder, or else to one of this process; raises OSError."""
    if folder is not None:
        try:
            write_trusted(folder / name, code, 0o700)
        except OSError as error:
            print(f"svd: compiled kernels are not kept: {error}", file=sys.stderr)
        else:
            if _usable(folder / name):
                return folder / name
    private = Path(tempfile.mkdtemp(prefix=_PRIVATE))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    write_trusted(private / name, code, 0o700)
    if not _usable(private / name):
        raise OSError("what it compiles cannot be loaded")
    return private / name


@cache
def library() -> Optional[Path]:
    """Path of the compiled kernels; None if they cannot be compiled, or if SVD_NATIVE=0.

    They are cached in the user's cache folder. If that cannot be used, or others can write there, they are compiled for
    this process alone.
    """
    compiler = _compiler()
    if compiler is None or os.environ.get("SVD_NATIVE") == "0":
        return None
    try:
        name = f"kernels-{_key(compiler)}.so"
        try:
            folder = user_cache()
        except OSError as error:
            print(f"svd: compiled kernels are not kept: {error}", file=sys.stderr)
            folder = None
        if folder is not None and _usable(folder / name):
            return folder / name
        print("svd: compiling kernels for this CPU (once, a few seconds) ...", file=sys.stderr)
        return _kept(_compiled(compiler), name, folder)
    except OSError as error:
        print(f"svd: using MindSpore's own, slower operators ({compiler}: {error})", file=sys.stderr)
        return None


def is_kept(path: Optional[Path]) -> bool:
    """Whether a later process will find these kernels at the same path, or will have none, either."""
    return path is None or not path.parent.name.startswith(_PRIVATE)
