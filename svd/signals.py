"""Termination signals: handled at any moment, with one line of output and no half-written files.

Python runs signal handlers between bytecodes, and so not while MindSpore compiles or computes; and MindSpore replaces
Python's handler by its own, which turns SIGINT into SIGTERM, whenever it compiles. Hence the signals are blocked in all
threads, so that no handler is called, and one thread waits for them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, Optional

import psutil

from svd import console, files

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a program. An ignored one (nohup) stays ignored."""
_MEANING = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}

LONGEST_PRINT = 2.0
"""Seconds that the last line may take."""

_guarded = False
_requests: Optional[list[int]] = None
"""Signals received while they are deferred; None while they are not."""


def exit_code(number: int) -> int:
    """Exit code of a process ended by a signal, as in shells: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


def guard(program: str, hint: str = "") -> None:
    """From now on, a signal of ENDING ends this process at once; for programs, at their start, in the main thread.

    Its child processes are killed and its temporary files removed; finished ones are kept.

    Args:
        program: name in the line on standard error.
        hint: end of that line, such as "the same command continues".
    """
    global _guarded
    _guarded = True
    handled = {number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)  # inherited by all threads and processes started later
    line = f"{program}: {{}}{'; ' if hint else ''}{hint}"
    threading.Thread(target=_watch, args=(handled, line), name="signals", daemon=True).start()


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Collect the signals of ENDING in a list, for work that polls it and stops by itself.

    A second SIGINT ends the program at once.
    """
    global _requests
    _requests = requests = []
    old = {} if _guarded else {number: signal.signal(number, _record) for number in ENDING}
    try:
        yield requests
    finally:
        _requests = None
        for number, handler in old.items():
            signal.signal(number, handler)


def _record(number: int, _) -> None:
    """The handler without the watching thread: in a program that embeds this one."""
    if number == signal.SIGINT and signal.SIGINT in _requests:
        raise KeyboardInterrupt
    _requests.append(number)


def _watch(handled: set[int], line: str) -> NoReturn:
    while True:
        number = int(signal.sigwait(handled))
        requests = _requests  # the main thread may reset it at any moment
        if signal.getsignal(number) == signal.SIG_IGN:
            continue
        if requests is None or (number == signal.SIGINT and signal.SIGINT in requests):
            _end(number, line)
        requests.append(number)


def _end(number: int, line: str) -> NoReturn:
    try:
        files.discard_unfinished()
        bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
        gap = "\n" if getattr(bars, "_instances", None) else ""  # below a progress bar
        text = gap + line.format(_MEANING[number])
        # A stream that nobody reads blocks whoever writes to it, for ever.
        printing = threading.Thread(target=print, args=(text,), kwargs={"file": sys.stderr, "flush": True}, daemon=True)
        printing.start()
        printing.join(LONGEST_PRINT)
        console.silence(1, 2)  # the main thread runs on for a moment, and would report how its children ended
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it may have exited by itself
                child.kill()
    finally:
        os._exit(exit_code(number))
