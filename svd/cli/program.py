"""The frame of every program: signals, streams, one error line, and an exit code."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Optional

from svd import console, signals
from svd.console import one_line, printable
from svd.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

FAILED = 2
"""Exit code for bad input or environment."""


def begin(program: str, hint: str = "") -> None:
    """Set up the process of a program: signals end it at once, broken streams do not.

    Called before other imports, which take seconds.
    """
    console.guard_streams()
    signals.guard(program, hint)


def run(parser: ArgumentParser, work: Callable[[Namespace], object], argv: Optional[list[str]] = None) -> int:
    """Parse a command line and call `work`; returns the exit code: an int returned by `work`, otherwise 0, or 2.

    A user error is printed as one line on standard error, after the lines of its `details` if it has any. If it names
    a setting, the flag of that setting is added.
    """
    from svd.cli.options import parse

    warnings.showwarning = lambda message, *_, **__: console.log(f"warning: {message}")
    try:
        result = work(parse(parser, argv))
    except KeyboardInterrupt:  # from a debugger or a test; the signal itself is handled elsewhere
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return signals.exit_code(signal.SIGINT)
    except Exception as error:
        if not is_user_error(error):
            raise
        for line in getattr(error, "details", ()):
            print(printable(line), file=sys.stderr)
        flag = flag_of(getattr(error, "setting", ""), parser)
        return _fail(parser, f"{one_line(error)}{f' ({flag})' if flag else ''}")
    lost = console.lost_output()
    if lost:
        return _fail(parser, f"standard output could not be written ({lost}); the rest was done")
    return result if type(result) is int else 0


def _fail(parser: ArgumentParser, message: str) -> int:
    print(f"{parser.prog}: error: {message}", file=sys.stderr)
    return FAILED


def flag_of(setting: str, parser: ArgumentParser) -> str:
    """The flag of a setting in this program; empty if there is none, or more than one.

    `amp_level` is `--SVD.amp_level` in one program and `--environment.amp_level` in another, `svd_config` is
    `--svd_config`, `--SVD.config` or `--model.config`.
    """
    if not setting:
        return ""
    flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    flags = {name: flag for name, flag in flags.items() if not any(other.startswith(f"{name}.") for other in flags)}
    wanted = _plain(setting), _plain(setting).replace("svd_", "model_")
    exact = [flag for name, flag in flags.items() if _plain(name) in wanted]
    ending = [flag for name, flag in flags.items() if name.endswith(f".{setting}")]
    return next((found[0] for found in (exact, ending) if len(found) == 1), "")


def _plain(name: str) -> str:
    return name.lower().replace(".", "_")


def is_user_error(error: BaseException) -> bool:
    """Whether an error is reported in one line: bad input, a drive that refuses, or too little memory."""
    from jsonargparse import ArgumentError

    return isinstance(error, (UserError, ArgumentError, OSError, FloatingPointError, MemoryError))
