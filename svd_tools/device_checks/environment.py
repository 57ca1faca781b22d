"""Versions and the device, without private data; and whether the device computes at all."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

import svd
from svd_tools.device_checks.outcome import NETWORK, Outcome, Settings, relative_error

ASCEND = Path("/usr/local/Ascend")
PACKAGES = ("mindspore", "numpy", "safetensors", "nvidia-cudnn-cu11", "nvidia-cublas-cu11")


def facts(settings: Settings) -> Iterator[dict[str, str]]:
    """Facts about the machine, in the order they become known: versions, the device once it is set up, and its card.

    Raises RuntimeSetupError if the device is not available.
    """
    yield {
        "project": f"{svd.__version__}{_commit(Path(svd.__file__).parents[1])}",
        "Python": platform.python_version(),
        **{package: version for package in PACKAGES if (version := _installed(package))},
        "system": f"{platform.system()} {platform.machine()}",
    }
    from svd import runtime

    device = runtime.setup(settings.device, settings.mode)
    yield {"device": device, "mode": f"{settings.mode} ({'pynative' if settings.mode else 'graph'})"}
    yield _non_empty({"Ascend": lambda: {"CANN": cann_version()}, "GPU": _cuda, "CPU": _processor}[device]())
    if device != "CPU":
        yield _non_empty(_card(device))


def _non_empty(found: dict[str, str]) -> dict[str, str]:
    return {name: fact for name, fact in found.items() if fact}


def _commit(root: Path) -> str:
    """The commit of a clone, and whether files differ from it; empty outside of a clone."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""
    git = ["git", "-C", str(root)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return f", commit {commit.stdout.strip()}{', changed' if changed.stdout else ''}" if commit.stdout else ""


def _installed(package: str) -> Optional[str]:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> dict[str, str]:
    """Name of a CPU, what determines its speed and rounding, and which kernels are used."""
    import psutil

    from svd.operators.library import library

    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    name = re.search(r"model name\s*:\s*(.*)", text)
    vectors = [flag for flag in ("avx2", "avx512f", "amx_tile", "asimd", "sve") if re.search(rf"\b{flag}\b", text)]
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return {
        "processor": name.group(1) if name else platform.processor(),
        "vector instructions": " ".join([*vectors, *([f"(ONEDNN_MAX_CPU_ISA={limit})"] if limit else [])]),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "kernels": "C++" if library() else "MindSpore's own operators",
    }


def _card(device: str) -> dict[str, str]:
    import mindspore as ms

    (ms.Tensor(1.0) + 1).asnumpy()  # Ascend reports its memory only after first use
    properties = ms.hal.get_device_properties(0)
    return {
        "card": str(properties.name),
        "memory": f"{properties.total_memory / 1e9:.1f} GB" if properties.total_memory else "",
        "cards": str(count_cards(device)),
    }


def count_cards(device: str) -> int:
    """Number of cards of this kind in the machine."""
    import mindspore as ms

    return getattr(ms.device_context, device.lower()).device_count()


def cann_version(ascend: Path = ASCEND) -> str:
    """Versions of CANN and of the driver, from the files of their installers; empty if there are none."""
    home = os.environ.get("ASCEND_TOOLKIT_HOME") or os.environ.get("ASCEND_HOME_PATH")
    toolkit = Path(home) if home else ascend / "ascend-toolkit" / "latest"
    files = {
        "toolkit": [*sorted(toolkit.glob("*/ascend_toolkit_install.info")), toolkit / "compiler" / "version.info"],
        "driver": [ascend / "driver" / "version.info"],
        "firmware": [ascend / "firmware" / "version.info"],
    }
    found = {}
    for part, paths in files.items():
        texts = [path.read_text(errors="replace") for path in paths if path.is_file()]
        versions = [m.group(1) for text in texts if (m := re.search(r"(?im)^\s*version\s*=\s*\[?([\w.:+-]+)", text))]
        if versions:
            found[part] = versions[0]
    return ", ".join(f"{part} {version}" for part, version in found.items())


def _cuda() -> dict[str, str]:
    nvcc = str(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc")
    driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {"CUDA": _first_line("release (.*)", [nvcc, "--version"]), "driver": _first_line("(.*)", driver)}


def _first_line(pattern: str, command: list[str]) -> str:
    """The first match of a pattern in a command's output; empty if there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(pattern, done.stdout) if done.returncode == 0 else None
    return match.group(1).strip() if match else ""


def product() -> Outcome:
    """A matrix product of integers, which is exact in float32, and one of random numbers."""
    import numpy as np
    from mindspore import Tensor, ops

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 256, 256), np.float32)
    whole = rng.integers(-8, 9, (2, 256, 256)).astype(np.float32)
    exact = ops.matmul(*map(Tensor, whole)).asnumpy()
    if not np.array_equal(exact, whole[0] @ whole[1]):
        raise ArithmeticError("a product of whole numbers is wrong")
    expected = a.astype(np.float64) @ b.astype(np.float64)
    return Outcome(relative_error(ops.matmul(Tensor(a), Tensor(b)), expected), NETWORK)


def checks(settings: Settings) -> dict[str, Callable[[], Outcome]]:
    return {"product of matrices": product}


_PATH = re.compile(r"(?<![\w.>])/(?:[^\s/:'\",()\[\]]+/)+")


def redacted(text: str) -> str:
    """A program's output without names of user and host, and with paths inside the project alone."""
    roots = {str(Path(svd.__file__).parents[1]): "<project>", sys.prefix: "<python>", sys.base_prefix: "<python>"}
    for root, name in sorted(roots.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(root + "/", f"{name}/")
    text = _PATH.sub(".../", text)
    for name in {platform.node(), *(os.environ.get(variable, "") for variable in ("USER", "LOGNAME", "HOSTNAME"))}:
        if len(name) > 2:
            text = re.sub(rf"\b{re.escape(name)}\b", "<name>", text)
    return text
