"""What every program does: its signals and streams, one line for what is wrong, and an exit code."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

from svd import console, signals
from svd.console import one_line, visible
from svd.errors import UserError

FAILED = 2
"""Exit code of bad input and of surroundings that refuse."""


def begin(program: str, hint: str = "") -> None:
    """Make this process a program: signals end it at once, and streams that go away do not.

    Called before anything else is imported, since that takes seconds.
    """
    console.guard_streams()
    signals.guard(program, hint)


def run(program: str, work: Callable[[], object], flags: Mapping[str, str] = MappingProxyType({})) -> int:
    """Do the work of a command line; returns its exit code: a whole number that `work` returns, or else 0, or 2.

    What the user can mend is told in one line on standard error, below the lines of a longer list, if the error has
    `details`. `flags` says what messages of the library call the flags, and what this program calls them.
    """
    warnings.showwarning = lambda message, *_, **__: console.say(f"warning: {message}")
    try:
        result = work()
    except KeyboardInterrupt:  # by a debugger or a test; the signal itself ends the program elsewhere
        print(f"{program}: interrupted", file=sys.stderr)
        return signals.exit_code(signal.SIGINT)
    except Exception as error:
        if not is_users(error):
            raise
        for line in getattr(error, "details", ()):
            print(visible(line), file=sys.stderr)
        message = one_line(error)
        for theirs, ours in flags.items():
            message = message.replace(theirs, ours)
        print(f"{program}: error: {message}", file=sys.stderr)
        return FAILED
    lost = console.lost_output()
    if lost:
        print(f"{program}: error: standard output could not be written ({lost}); the rest was done", file=sys.stderr)
        return FAILED
    return result if type(result) is int else 0


def is_users(error: BaseException) -> bool:
    """Whether an error is told in one line: bad input, a drive that refuses, or too little memory."""
    from jsonargparse import ArgumentError

    return isinstance(error, (UserError, ArgumentError, OSError, FloatingPointError, MemoryError))
