"""Device, mode, versions: the only place that touches MindSpore's global context."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from svd import errors
from svd.errors import UserError

SUPPORTED = ((2, 7), (2, 10))
"""Oldest and newest supported MindSpore."""
DeviceTarget = Literal["auto", "Ascend", "GPU", "CPU"]
"""auto: the best device that is there."""
Mode = Literal[0, 1]
"""0: compiled graph, 1: pynative."""
AmpLevel = Literal["auto", "O0", "O2", "bf16"]
"""O0: float32. O2: float16 inside the networks. bf16: bfloat16 instead. auto: O2 on Ascend, O0 elsewhere."""


class RuntimeSetupError(UserError, RuntimeError):
    """The installation or device cannot be used; the message says in one sentence what is wrong and what to do."""


def _version(package: str) -> tuple[int, ...]:
    """Major and minor version; (0, 0) if the package is not installed."""
    try:
        text = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return (0, 0)
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in text.split(".")[:2])


def check_versions() -> None:
    """Raise RuntimeSetupError unless the versions of MindSpore and NumPy are supported."""
    oldest, newest = (".".join(map(str, v)) for v in SUPPORTED)
    mindspore = _version("mindspore")
    if not SUPPORTED[0] <= mindspore <= SUPPORTED[1]:
        found = "{}.{} is not supported".format(*mindspore) if any(mindspore) else "is not installed"
        raise RuntimeSetupError(f"MindSpore {found}: pip install 'mindspore>={oldest},<{newest}.99'")
    if _version("numpy") >= (2, 0):
        raise RuntimeSetupError("MindSpore fails at run time with NumPy 2: pip install 'numpy<2'")


def avoid_slow_convolution(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Set ONEDNN_MAX_CPU_ISA=AVX2 where MindSpore's Conv2D would otherwise be a hundred times slower.

    MindSpore 2.9 and 2.10 run Conv2D through oneDNN's reference kernel on processors with AVX-512. oneDNN reads the
    variable when it is loaded, so this is called before `import mindspore`. A value set by the user is kept. Returns
    whether the variable was set here.
    """
    if not (2, 9) <= _version("mindspore") <= (2, 10) or "ONEDNN_MAX_CPU_ISA" in os.environ:
        return False
    if not cpuinfo.is_file() or "avx512f" not in cpuinfo.read_text():
        return False
    if "mindspore" in sys.modules:
        warnings.warn(
            "MindSpore was imported before svd: convolutions on this CPU may be a hundred times slower; "
            "import svd first, or set ONEDNN_MAX_CPU_ISA=AVX2",
            stacklevel=2,
        )
        return False
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    print("svd: set ONEDNN_MAX_CPU_ISA=AVX2 (this MindSpore's Conv2D is slow with AVX-512)", file=sys.stderr)
    return True


def quiet_compiler() -> None:
    """Log errors of MindSpore's compiler alone, unless the user has chosen a log level.

    It would warn for every cached graph that it may be of another network, which `svd.compile_cache` rules out. It
    reads the variable when it is imported.
    """
    if "GLOG_v" not in os.environ:
        os.environ.setdefault("MS_SUBMODULE_LOG_v", "{PIPELINE:3}")


def available_device() -> str:
    """The best available device: Ascend, GPU or CPU (MindSpore's default, by the plugins that it could load)."""
    import mindspore as ms

    return ms.get_context("device_target")


def setup(device_target: str = "auto", mode: int = 0) -> str:
    """Set the device and the mode of this process; returns the device's name.

    Args:
        device_target: Ascend, GPU, CPU, or auto for the best available one.
        mode: 0 for graph mode, 1 for pynative.

    Raises:
        RuntimeSetupError: versions are not supported, or the device is not available.
    """
    check_versions()
    if mode not in (0, 1):
        raise RuntimeSetupError(f"mode must be 0 (graph) or 1 (pynative), got {mode}")
    if device_target not in get_args(DeviceTarget):
        raise RuntimeSetupError(f"device_target must be {', '.join(get_args(DeviceTarget))}, got {device_target}")
    import mindspore as ms

    device = available_device() if device_target == "auto" else device_target
    if ms.get_context("device_target") != device or device != "CPU":
        _set_device(device)
    ms.set_context(mode=mode)
    if device == "CPU" and mode == ms.PYNATIVE_MODE:
        ms.runtime.launch_blocking()  # ten times faster here: operators are small, and synchronisation dominates
    return device


def _set_device(device: str) -> None:
    """Select the device, or raise what is missing; MindSpore's own log lines about it are suppressed."""
    import mindspore as ms

    remedy = {
        "Ascend": "install CANN and source its set_env.sh, or use the CPU",
        "GPU": "scripts/setup_gpu.sh installs CUDA 11 (or set CUDA_HOME to yours), or use the CPU",
        "CPU": "start a new process, the device was chosen before",
    }[device]
    setting = "" if device == "CPU" else "device_target"
    logging.disable(logging.CRITICAL)
    try:
        if device != "CPU" and not getattr(ms.device_context, device.lower()).is_available():
            raise RuntimeSetupError(f"MindSpore cannot use {device} here: {remedy}", setting)
        ms.set_device(device)
    except RuntimeSetupError:
        raise
    except Exception as error:  # MindSpore raises RuntimeError, ValueError or TypeError here, by version
        reason = " ".join(str(error).split())
        raise RuntimeSetupError(f"MindSpore cannot use {device} ({reason}): {remedy}", setting) from error
    finally:
        logging.disable(logging.NOTSET)
    # Otherwise float32 convolutions would run with ten bits of mantissa; what is not float16 is float32 for a reason.
    if device == "Ascend":
        ms.device_context.ascend.op_precision.conv_allow_hf32(False)
    elif device == "GPU":
        ms.device_context.gpu.op_precision.conv_allow_tf32(False)


@contextlib.contextmanager
def graph_cache(folder: Path) -> Iterator[None]:
    """A block in which compiled graphs are loaded from this folder, or else written to it.

    MindSpore uses the first folder of a process for good, and does not check that a graph found there is the same: that
    is up to the caller.
    """
    from mindspore.nn.cell import _cell_graph_executor

    ours = {
        "MS_COMPILER_CACHE_ENABLE": "1",
        "MS_COMPILER_CACHE_PATH": str(folder),
        # Otherwise it hashes the entry script and its imports, and loads nothing more after the first miss.
        "MS_DEV_FORCE_USE_COMPILE_CACHE": "1",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    # It reads the entry script all the same, and fails where there is none, as in consoles and with `python -c`.
    compiler = sys.modules[type(_cell_graph_executor).__module__]
    script, compiler.entry_script_path = compiler.entry_script_path, errors.__file__
    try:
        yield
    finally:
        compiler.entry_script_path = script
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def join_ranks() -> tuple[int, int]:
    """Initialise collectives under msrun; returns (rank, number of ranks), (0, 1) without msrun.

    Called after `setup`. Raises RuntimeSetupError when the processes cannot meet.
    """
    if "MS_ROLE" not in os.environ:  # msrun sets it, also for its scheduler, which ends in `init`
        return 0, 1
    from mindspore import communication

    if os.environ["MS_ROLE"] == "MS_SCHED":
        # The scheduler ends after the others; a signal sent to all must not end it first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        communication.init()
    except Exception as error:  # MindSpore raises RuntimeError, ValueError or TypeError here, by back end
        raise RuntimeSetupError(
            f"the processes of the run cannot meet ({' '.join(str(error).split('.')[0].split())}): look at the logs of "
            "all of them; the address and the port of the first node have to be the same everywhere, and the port free"
        ) from error
    return communication.get_rank(), communication.get_group_size()


def peak_memory(device: str) -> int:
    """Peak memory in bytes on the device (on CPU: of this process)."""
    import mindspore as ms

    if device == "CPU":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return ms.runtime.max_memory_allocated()


def free_memory(device: str) -> int:
    """Free memory in bytes on the device."""
    import mindspore as ms
    import psutil

    if device == "CPU":
        return psutil.virtual_memory().available
    total = ms.hal.get_device_properties(0).total_memory
    return total - ms.runtime.memory_allocated()


def describe(mode: int) -> dict[str, str]:
    """Device, mode and versions, for the side file of a video."""
    import mindspore as ms

    return {
        "device": ms.get_context("device_target"),
        "mode": f"{mode} ({'pynative' if mode else 'graph'})",
        "python": sys.version.split()[0],
        **{package: importlib.metadata.version(package) for package in ("mindspore", "numpy")},
    }
