"""Terminal output: log lines on standard error, untrusted text made printable, standard streams that may break."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Sequence
from typing import Optional, TextIO
from unicodedata import category

LONGEST_LINE = 2000
"""Characters of an error message, which may quote its input."""


def log(text: str) -> None:
    """Print a line to standard error, like the progress bars."""
    print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with control characters escaped, so that no name in it can control the terminal.

    Surrogates, which stand for bytes that are not UTF-8, are escaped as well; newlines and tabs are kept.
    """
    return "".join(_escaped(c) if category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t" else c for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def one_line(error: BaseException) -> str:
    """An error's message as one printable line, truncated to LONGEST_LINE; the name of its type if it is empty."""
    text = printable(" ".join(str(error).split()))
    return f"{text[:LONGEST_LINE]} ..." if len(text) > LONGEST_LINE else text or type(error).__name__


def first_few(items: Sequence, most: int = 3) -> str:
    """The first of the items, separated by commas, and an ellipsis if there are more."""
    return ", ".join(map(str, items[:most])) + (", ..." if len(items) > most else "")


class Stream:
    """A standard stream that may break, such as a pipe whose reader exits, without ending the program.

    After the first failure, which `failure` records, all output is discarded.

    Args:
        patience: seconds to wait for a reader that has stopped (Ctrl-S); until it goes on, output is then discarded
            without waiting. None: for ever.
    """

    def __init__(self, stream: TextIO, patience: Optional[float] = None):
        self._stream, self._patience = stream, patience
        self.failure: Optional[OSError] = None
        self._held = False

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._patience is None or self._is_taken():
            self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _is_taken(self) -> bool:
        """Whether a few lines can be written now, or soon."""
        try:
            poll = select.poll()
            poll.register(self._stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):  # closed, or no file
            return True
        self._held = not poll.poll(0 if self._held else 1000 * self._patience)
        return not self._held

    def _try(self, action, *arguments) -> None:
        try:
            action(*arguments)
        except OSError as error:
            self.failure = self.failure or error
            # Buffered output, and what others write to the same descriptor, must not fail again.
            silence(self._stream.fileno())
            self._stream.flush()


def guard_streams() -> None:
    """Make standard output and error survive broken pipes and print any file name; for programs."""
    for number in range(3):  # a closed descriptor would be reused for the next opened file
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 (open as long as the program runs)
        # On standard output, paths keep their bytes.
        stream.reconfigure(line_buffering=True, errors="surrogateescape" if name == "stdout" else "backslashreplace")
        setattr(sys, name, Stream(stream))


def silence(*files: int) -> None:
    """Discard what any part of the process writes to these file descriptors."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in files:
        os.dup2(nowhere, number)
    os.close(nowhere)


def lost_output() -> str:
    """Why standard output could not be written, or empty; a closed pipe (`| head`) is no failure."""
    failure = getattr(sys.stdout, "failure", None)
    return "" if failure is None or failure.errno == errno.EPIPE else failure.strerror or str(failure)
