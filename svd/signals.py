"""Signals that ask a program to end: answered at any moment, in one line, with nothing half-written.

Python answers signals between its own instructions, and so not while MindSpore compiles or computes; and MindSpore puts
a handler of its own, which turns SIGINT into SIGTERM, in the place of Python's whenever it compiles. Hence the signals
are blocked for all threads, so that no handler is called, and one thread waits for them.
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
"""What ends a program. One that is ignored (nohup) stays ignored."""
_MEANING = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}

_guarded = False
_requests: Optional[list[int]] = None
"""Where signals are noted while they are deferred."""


def exit_code(number: int) -> int:
    """That of a process which a signal has ended, as shells have it: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


def guard(program: str, hint: str = "") -> None:
    """From now on, a signal of ENDING ends this process at once; for programs, at their start, in the main thread.

    Its child processes are killed and its unfinished files removed; finished ones are kept.

    Args:
        program: name in the line that is written to standard error.
        hint: what that line ends with, such as "the same command continues".
    """
    global _guarded
    _guarded = True
    answered = {number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, answered)  # what is started from here on inherits it
    line = f"{program}: {{}}{'; ' if hint else ''}{hint}"
    threading.Thread(target=_watch, args=(answered, line), name="signals", daemon=True).start()


@contextmanager
def deferred() -> Iterator[list[int]]:
    """A list to which the signals of ENDING are added meanwhile, for work that comes to an end by itself.

    A second SIGINT ends the program at once.
    """
    global _requests
    _requests = requests = []
    old = {} if _guarded else {number: signal.signal(number, _note) for number in ENDING}
    try:
        yield requests
    finally:
        _requests = None
        for number, handler in old.items():
            signal.signal(number, handler)


def _note(number: int, _) -> None:
    """The handler where no thread watches: in a program that has this one as a part."""
    if number == signal.SIGINT and signal.SIGINT in _requests:
        raise KeyboardInterrupt
    _requests.append(number)


def _watch(answered: set[int], line: str) -> NoReturn:
    while True:
        number = int(signal.sigwait(answered))
        requests = _requests  # the main thread may put None there at any moment
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
        print(gap + line.format(_MEANING[number]), file=sys.stderr, flush=True)
        console.silence(1, 2)  # the main thread goes on for a moment, and would tell how its children ended
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it may have ended by itself
                child.kill()
    finally:
        os._exit(exit_code(number))
