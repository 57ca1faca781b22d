"""Groups of checks in processes of their own: a crash, a hang or lack of memory ends that process alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

import psutil

import svd
from svd.runtime import RuntimeSetupError
from svd_tools.device_checks.environment import redacted
from svd_tools.device_checks.outcome import Result, Settings

TAIL = 15
"""Lines of a failed check's output in the report."""


@dataclasses.dataclass
class Found:
    """Results and facts that the processes of a group have reported."""

    results: list[Result] = dataclasses.field(default_factory=list)
    facts: dict[str, str] = dataclasses.field(default_factory=dict)


def run_group(settings: Settings, time_limit: float, report: Callable[[str, Optional[Result]], object]) -> Found:
    """Run the checks of a group; if its process dies in one of them, another continues with the rest.

    Args:
        time_limit: seconds for a check; a process that takes longer is killed.
        report: called with the name of a check that begins, and again with its result.

    Raises:
        RuntimeSetupError: the device is not available.
    """
    found = Found()
    while True:
        done = tuple(result.check for result in found.results)
        ended = _run_process(dataclasses.replace(settings, done=done), time_limit, report, found)
        if ended or len(found.results) == len(done):  # no progress: another process would make none either
            return found


def _run_process(settings: Settings, time_limit: float, report, found: Found) -> bool:
    """Run one process and collect its events; returns whether the group is done."""
    current, start = "", time.perf_counter()
    with tempfile.TemporaryFile() as printed, _worker(settings, printed) as (process, events):
        for event in _events(events, time_limit):
            if "refused" in event:
                raise RuntimeSetupError(event["refused"])
            if "facts" in event:
                found.facts |= event["facts"]
            elif "skipped" in event:
                result = Result(settings.group, "all", "", "skipped", note=event["skipped"])
                found.results.append(result)
                report("", result)
                return True
            elif "begins" in event:
                current, start = event["begins"], time.perf_counter()
                report(current, None)
            else:
                result = Result(**event["result"])
                result.error = _tail(result.error)
                found.results.append(result)
                report(current, result)
                current = ""
        why = _why(process, time_limit, time.perf_counter() - start)
        if not why:
            return True
        if current or len(found.results) == len(settings.done):  # it died in a check, or before the first
            result = Result(settings.group, current or "preparation", settings.precision, "failed")
            result.seconds = time.perf_counter() - start
            printed.seek(0)
            result.error = f"{why}\n{_tail(printed.read().decode(errors='replace'))}".strip()
            found.results.append(result)
            report(current, result)
        return found.results[-1].check == "preparation"


@contextlib.contextmanager
def _worker(settings: Settings, printed) -> Iterator[tuple[subprocess.Popen, int]]:
    """A worker process and the pipe of its events; it and its children are killed at the end, whatever happens."""
    reader, writer = os.pipe()
    root = str(Path(svd.__file__).parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    process = subprocess.Popen(
        [sys.executable, "-m", "svd_tools.device_checks.worker", str(writer), json.dumps(vars(settings))],
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.STDOUT,
        pass_fds=[writer],
        env={**os.environ, "PYTHONPATH": path},
    )
    os.close(writer)
    try:
        yield process, reader
    finally:
        kill(process)
        os.close(reader)


def kill(process: subprocess.Popen) -> None:
    """Kill a process and its children."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def _events(reader: int, time_limit: float) -> Iterator[dict]:
    """Events of a worker, until it ends or exceeds the time limit for the next."""
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        rest = b""
        while selector.select(time_limit):
            data = os.read(reader, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from map(json.loads, lines)


def _why(process: subprocess.Popen, time_limit: float, seconds: float) -> str:
    """Why a process has stopped sending events; empty if it exited normally."""
    if seconds >= time_limit:
        kill(process)
        return f"ended after {seconds:.0f} s, the time limit"
    code = process.wait()
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}{', perhaps for lack of memory' if name == 'SIGKILL' else ''}"
    return f"ended with exit code {code}" if code else ""


def _tail(text: str) -> str:
    return "\n".join(redacted(text).strip().splitlines()[-TAIL:])
