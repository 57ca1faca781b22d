"""What a person reads: lines on standard error, results on standard output, and what may not be printed raw."""

from __future__ import annotations

import errno
import os
import sys
from typing import Optional, TextIO
from unicodedata import category

LONGEST_LINE = 2000
"""Characters of what an error says, which may quote its input."""


def log(text: str) -> None:
    """A line on standard error, where the progress bars are too."""
    print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with its control characters written out, so that no name in it can steer the terminal.

    Surrogates, which stand for bytes that are not UTF-8, are written out as well; new lines and tabs are kept.
    """
    return "".join(_written_out(c) if category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t" else c for c in text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode()


def one_line(error: BaseException) -> str:
    """What an error says, in one line that may be printed, cut where it is endless; its type where it says nothing."""
    text = printable(" ".join(str(error).split()))
    return f"{text[:LONGEST_LINE]} ..." if len(text) > LONGEST_LINE else text or type(error).__name__


class Stream:
    """A standard stream that may go away, such as a pipe whose reader ends: the work goes on without it.

    What is written after the first failure goes nowhere; `failure` says what it was.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.failure: Optional[OSError] = None

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action, *arguments) -> None:
        try:
            action(*arguments)
        except OSError as error:
            self.failure = self.failure or error
            # What is still buffered, and what others write to the same file, must not fail again.
            silence(self._stream.fileno())
            self._stream.flush()


def guard_streams() -> None:
    """Make standard output and standard error survive their readers, and print any name; for programs."""
    for number in range(3):  # one that is closed would be given to the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 (open as long as the program runs)
        # A path is given on as the bytes that it is.
        stream.reconfigure(line_buffering=True, errors="surrogateescape" if name == "stdout" else "backslashreplace")
        setattr(sys, name, Stream(stream))


def silence(*files: int) -> None:
    """Let what is written to these open files (numbers), by whatever part of the process, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in files:
        os.dup2(nowhere, number)
    os.close(nowhere)


def lost_output() -> str:
    """Why standard output could not be written, or empty; a reader that has read enough is no reason."""
    failure = getattr(sys.stdout, "failure", None)
    return "" if failure is None or failure.errno == errno.EPIPE else failure.strerror or str(failure)
