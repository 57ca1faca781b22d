"""Untrusted YAML: its events are checked before anything is built, so that none exhausts time or memory.

A few lines of YAML can expand to billions of values (aliases of aliases), recursive values, or nesting that crashes the
interpreter; a duplicate key in a mapping silently drops a setting.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from svd.console import one_line

LARGEST = 2**17
"""Bytes of a file; a thousand paths of images fit."""
MOST_VALUES = 10_000
"""Scalars, lists and mappings, counted as often as aliases repeat them."""
DEEPEST = 32
"""Nesting depth of lists and mappings."""
LONGEST_NUMBER = 40
"""Digits; no setting has more."""

_NUMBER = re.compile(r"[-+]?(0[xob][0-9a-fA-F_]+|[0-9][0-9_:]*|[0-9_:]*\.[0-9_]*([eE][-+]?[0-9]+)?)")

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def loader(text: str) -> type:
    """The faster of PyYAML's safe loaders that can read the text.

    File names that are not UTF-8 are written with surrogates, which the loader in C refuses.
    """
    return yaml.SafeLoader if _SURROGATE.search(text) else getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(text: str) -> Any:
    """Load text that `checked_yaml` has passed; raises yaml.YAMLError, for an invalid date for example."""
    try:
        return yaml.load(text, loader(text))
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(one_line(error)) from error


def read_yaml(path: str | Path) -> str:
    """The text of a YAML file, checked by `checked_yaml`.

    Raises:
        yaml.YAMLError: it is no regular file, too large, not UTF-8, or refused by `checked_yaml`.
        OSError: it cannot be read.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would block
        raise yaml.YAMLError("it is no ordinary file")
    if status.st_size > LARGEST:
        raise yaml.YAMLError(f"it has {status.st_size:,} bytes, more than the {LARGEST:,} that are read")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"it is no text in UTF-8: {error}") from error
    return checked_yaml(text)


@dataclass
class _Open:
    """A list or mapping that is not closed yet."""

    anchor: str | None
    mapping: bool
    values: int = 1
    depth: int = 1
    keys: set[str] = field(default_factory=set)
    items: int = 0

    def add(self, values: int, depth: int, scalar: str | None = None) -> None:
        self.values += values
        self.depth = max(self.depth, depth + 1)
        if self.values > MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {MOST_VALUES:,} values")
        if self.mapping and self.items % 2 == 0 and scalar is not None and scalar != "<<":
            if scalar in self.keys:
                raise yaml.YAMLError(f"{scalar!r} stands twice in one mapping")
            self.keys.add(scalar)
        self.items += 1


def checked_yaml(text: str) -> str:
    """Return the text itself; raises yaml.YAMLError if it is no YAML or exceeds a limit. Nothing is built."""
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"it has {len(text):,} characters, more than the {LARGEST:,} that are read")
    anchors: dict[str, tuple[int, int]] = {}
    levels = [_Open(None, mapping=False)]
    for event in yaml.parse(text, Loader=loader(text)):
        if isinstance(event, yaml.CollectionStartEvent):
            levels.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            anchors.pop(event.anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = levels.pop()
            levels[-1].add(closed.values, closed.depth)
            if closed.anchor:
                anchors[closed.anchor] = (closed.values, closed.depth)
        elif isinstance(event, yaml.ScalarEvent):
            _check_scalar(event)
            levels[-1].add(1, 0, event.value)
            if event.anchor:
                anchors[event.anchor] = (1, 0)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise yaml.YAMLError(f"*{event.anchor} stands for nothing, or for what it is a part of")
            levels[-1].add(*anchors[event.anchor])
        if len(levels) + levels[-1].depth > DEEPEST + 2:
            raise yaml.YAMLError("it is nested too deeply")
    return text


def _check_scalar(event: yaml.ScalarEvent) -> None:
    if "\0" in event.value:
        raise yaml.YAMLError("a text with a NUL character")
    if not event.style and len(event.value) > LONGEST_NUMBER and _NUMBER.fullmatch(event.value):
        raise yaml.YAMLError(f"a number of {len(event.value)} digits")
