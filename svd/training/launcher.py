"""A run of several processes, and the script that has started it (scripts/train_ascend.sh)."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil

from svd.signals import exit_code

LAUNCHER = "SVD_LAUNCHER"
"""The environment variable with the number of the script's process."""
STOPPED = "SVD_STOPPED"
"""That with the file for the exit code of a run that was stopped."""
_CHECK = 1.0
"""Seconds between two looks."""


def leads() -> bool:
    """Whether this process holds the folder for all of its run: alone, or the first by the number that msrun gives."""
    role = os.environ.get("MS_ROLE")
    return role is None or (role == "MS_WORKER" and os.environ.get("MS_NODE_ID") == "0")


def follow() -> None:
    """Be sent SIGTERM when the script, or msrun in between, is gone: nobody would see this process any more."""
    if LAUNCHER in os.environ:
        numbers = [os.getppid(), int(os.environ[LAUNCHER])]
        threading.Thread(target=_follow, args=(numbers,), name="launcher", daemon=True).start()


def code_of_stop(number: int) -> int:
    """The exit code after this signal. msrun kills the others for one that is not 0: the script is told."""
    if STOPPED not in os.environ:
        return exit_code(number)
    Path(os.environ[STOPPED]).write_text(f"{exit_code(number)}\n")
    return 0


def _follow(numbers: list[int]) -> None:
    try:
        processes = [psutil.Process(number) for number in numbers]
        while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
            time.sleep(_CHECK)
    except psutil.NoSuchProcess:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
