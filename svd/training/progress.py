"""Progress of a run on the terminal. Its failure never ends the run: terminals close, and pipes lose their readers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tqdm import tqdm

from svd.console import Stream, one_line, printable

PATIENCE = 5.0
"""Seconds that a run waits for whoever reads its output and has stopped."""
_tolerant = suppress(OSError, ValueError)  # a stream may be gone, closed, or unable to encode a character


class Progress:
    """A progress bar over the updates, with numbers after it and log lines above it.

    Args:
        done: updates at the start.
        total: updates in all.
        quiet: log lines without a bar.
    """

    def __init__(self, done: int, total: int, quiet: bool):
        self._stream = Stream(sys.stderr, PATIENCE)
        self._numbers: dict[str, str] = {}
        self._failed: set[str] = set()
        self._bar = tqdm(disable=True)
        with _tolerant:
            self._bar = tqdm(
                desc="training", unit="update", initial=done, total=total, disable=quiet, file=self._stream
            )  # fmt: skip

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        with _tolerant:
            self._bar.close()

    def update(self) -> None:
        """Advance by one update."""
        with _tolerant:
            self._bar.update()

    def show(self, **numbers: str) -> None:
        """Show numbers behind the bar; each stays until it is shown anew."""
        self._numbers |= numbers
        with _tolerant:
            self._bar.set_postfix(self._numbers)

    def log(self, text: str) -> None:
        """Print a line above the bar."""
        with _tolerant:
            self._bar.write(printable(text), file=self._stream)

    @contextmanager
    def dispensable(self, what: str) -> Iterator[None]:
        """A context for what a run can do without: a failure of any kind is logged once, and the run goes on."""
        try:
            yield
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                reason = describe_error(error)
                self.log(f"warning: {what} could not be written: {reason}; the run goes on (this is said once)")


def describe_error(error: BaseException) -> str:
    """An error in one line, with its type unless its message stands alone."""
    text = one_line(error)
    plain = isinstance(error, OSError) or text == type(error).__name__
    return text if plain else f"{type(error).__name__}: {text}"
