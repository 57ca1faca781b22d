"""Compiling the kernels in src/, once for each machine."""

from __future__ import annotations

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

FOLDER = Path(__file__).parent / "src"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math")
"""NaN and infinity keep their meaning: no -ffast-math."""
LINK_FLAGS = ("-pthread", "-shared", "-fPIC")


def _compiler() -> Optional[str]:
    """The C++ compiler: what CXX says, else what is installed."""
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name]
    return next(filter(None, map(shutil.which, names)), None)


def _processor() -> str:
    """What the compiled code depends on: a folder of caches may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


@cache
def library() -> Optional[Path]:
    """The compiled kernels; None where they cannot be compiled, or SVD_NATIVE=0 says not to."""
    compiler = _compiler()
    if compiler is None or os.environ.get("SVD_NATIVE") == "0":
        return None
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    sources = [path.read_bytes() for path in sorted(FOLDER.iterdir())]
    parts = [version, " ".join(FLAGS).encode(), _processor().encode(), *sources]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svd-mindspore"
    target = folder / f"kernels-{key}.so"
    if target.is_file():
        return target
    print("svd: compiling kernels for this CPU (once, a few seconds) ...", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            command = [compiler, *FLAGS, *LINK_FLAGS, *map(str, FOLDER.glob("*.cpp")), "-o", f"{aside}/kernels.so"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                os.replace(f"{aside}/kernels.so", target)
                return target
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    except OSError as error:
        reason = [str(error)]
    print(f"svd: using MindSpore's own, slower operators ({compiler}: {reason[0]})", file=sys.stderr)
    return None
