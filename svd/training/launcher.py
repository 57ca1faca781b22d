"""A run of several processes and the script that launched it (scripts/train_ascend.sh)."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil

from svd.signals import exit_code

LAUNCHER = "SVD_LAUNCHER"
"""Environment variable with the pid of the script."""
STOPPED = "SVD_STOPPED"
"""Environment variable with the file for the exit code of a stopped run."""
_CHECK = 1.0
"""Polling interval in seconds."""


def is_leader() -> bool:
    """Whether this process holds the lock of the run's folder: it is alone, or the first by msrun's numbers."""
    role = os.environ.get("MS_ROLE")
    return role is None or (role == "MS_WORKER" and os.environ.get("MS_NODE_ID") == "0")


def end_with_launcher() -> None:
    """Receive SIGTERM when the script, or msrun in between, has ended: nobody would notice this process any more."""
    if LAUNCHER in os.environ:
        numbers = [os.getppid(), int(os.environ[LAUNCHER])]
        threading.Thread(target=_watch, args=(numbers,), name="launcher", daemon=True).start()


def stop_code(number: int) -> int:
    """The exit code after this signal; 0 under the script, which reads the code from a file: msrun kills the other
    processes after any code but 0.
    """
    if STOPPED not in os.environ:
        return exit_code(number)
    Path(os.environ[STOPPED]).write_text(f"{exit_code(number)}\n")
    return 0


def _watch(numbers: list[int]) -> None:
    try:
        processes = [psutil.Process(number) for number in numbers]
        while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
            time.sleep(_CHECK)
    except psutil.NoSuchProcess:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
