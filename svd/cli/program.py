"""What every program does: its signals and streams, one line for what is wrong, and an exit code."""

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
"""Exit code of bad input and of surroundings that refuse."""


def begin(program: str, hint: str = "") -> None:
    """Make this process a program: signals end it at once, and streams that go away do not.

    Called before anything else is imported, since that takes seconds.
    """
    console.guard_streams()
    signals.guard(program, hint)


def run(parser: ArgumentParser, work: Callable[[Namespace], object], argv: Optional[list[str]] = None) -> int:
    """Do the work of a command line, given its options; returns the exit code: a whole number that `work` returns, or
    else 0, or 2.

    What the user can mend is said in one line on standard error, below the lines of a longer list, if the error has
    `details`. Where the error names a setting, the flag of that setting is added, if the parser has one.
    """
    from svd.cli.options import parse

    warnings.showwarning = lambda message, *_, **__: console.log(f"warning: {message}")
    try:
        result = work(parse(parser, argv))
    except KeyboardInterrupt:  # by a debugger or a test; the signal itself ends the program elsewhere
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
    """The flag by which a program is given a setting; empty if it has none, or several.

    `amp_level` is `--SVD.amp_level` in one program and `--environment.amp_level` in another, `svd_config` is
    `--svd_config` or `--SVD.config`.
    """
    if not setting:
        return ""
    flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    flags = {name: flag for name, flag in flags.items() if not any(other.startswith(f"{name}.") for other in flags)}
    exact = [flag for name, flag in flags.items() if _plain(name) == _plain(setting)]
    ending = [flag for name, flag in flags.items() if name.endswith(f".{setting}")]
    return next((found[0] for found in (exact, ending) if len(found) == 1), "")


def _plain(name: str) -> str:
    return name.lower().replace(".", "_")


def is_user_error(error: BaseException) -> bool:
    """Whether an error is reported in one line: bad input, a drive that refuses, or too little memory."""
    from jsonargparse import ArgumentError

    return isinstance(error, (UserError, ArgumentError, OSError, FloatingPointError, MemoryError))
