"""What a run shows while it is on. None of it is worth a run: terminals are closed, and the readers of pipes end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tqdm import tqdm

from svd.console import Stream, one_line, printable


class Progress:
    """A bar over the updates, with numbers behind it and lines above it.

    Args:
        done: updates at the beginning.
        total: updates in all.
        quiet: no bar, lines alone.
    """

    def __init__(self, done: int, total: int, quiet: bool):
        self._stream = sys.stderr if isinstance(sys.stderr, Stream) else Stream(sys.stderr)
        self._numbers: dict[str, str] = {}
        self._failed: set[str] = set()
        self._bar = tqdm(disable=True)
        with _whatever_is_there():
            self._bar = tqdm(
                desc="training", unit="update", initial=done, total=total, disable=quiet, file=self._stream
            )  # fmt: skip

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        with _whatever_is_there():
            self._bar.close()

    def update(self) -> None:
        """An update is done."""
        with _whatever_is_there():
            self._bar.update()

    def show(self, **numbers: str) -> None:
        """Numbers, which stay until they are shown anew."""
        self._numbers |= numbers
        with _whatever_is_there():
            self._bar.set_postfix(self._numbers)

    def log(self, text: str) -> None:
        """A line above the bar."""
        with _whatever_is_there():
            self._bar.write(printable(text), file=self._stream)

    @contextmanager
    def dispensable(self, what: str) -> Iterator[None]:
        """What the run does not need: where it fails, whatever the reason, this is said once, and the run goes on."""
        try:
            yield
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                self.log(f"warning: {what} could not be written: {named(error)}; the run goes on (this is said once)")


def named(error: BaseException) -> str:
    """An error in one line, with its type where its message is not made to be read alone."""
    text = one_line(error)
    plain = isinstance(error, OSError) or text == type(error).__name__
    return text if plain else f"{type(error).__name__}: {text}"


def _whatever_is_there():
    """A stream may be gone, closed, or unable to show a letter."""
    return suppress(OSError, ValueError)
