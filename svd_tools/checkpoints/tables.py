"""Tables of our names and those of other programs: one direction is written, the other derived.

A row is `(ours, theirs, theirs, ..., [rows])`, with a column for each program. It renames the front of a name, up to a
dot or the end; the rows (or the table) at its end rename the rest, and without them the rest is `.weight`, `.bias` or
nothing. `{i}` and `{j}` stand for numbers, other names in braces for numbers that follow from them. `name : transform`
says how the stored values differ; on a row for a weight and a bias it is meant for the weight, and it may be in braces,
if it follows from the config. None: not stored there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from svd.config import Model

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transform:
    """A transform of shapes and values from ours to theirs, and back."""

    shape: Callable[[Shape], Shape]
    to_theirs: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray], np.ndarray]


def _third(index: int) -> Transform:
    """Ours is a third of theirs; theirs is the concatenation of three."""
    return Transform(
        lambda s: (3 * s[0], *s[1:]),
        lambda x: x,
        lambda x: x[index * len(x) // 3 : (index + 1) * len(x) // 3],
    )


TRANSFORMS = {
    "same": Transform(lambda s: s, lambda x: x, lambda x: x),
    # [o i 3 1] over [b c t (h w)] is [o i 3 1 1] over [b c t h w]
    "temporal": Transform(lambda s: (*s, 1), lambda x: x[..., None], lambda x: x[..., 0]),
    # [o i] is [o i 1] over frames, and [o i 1 1] over pixels
    "linear_1": Transform(lambda s: (*s, 1), lambda x: x[..., None], lambda x: x[..., 0]),
    "linear_1x1": Transform(lambda s: (*s, 1, 1), lambda x: x[..., None, None], lambda x: x[..., 0, 0]),
    "linear_1x1x1": Transform(lambda s: (*s, 1, 1, 1), lambda x: x[..., None, None, None], lambda x: x[..., 0, 0, 0]),
    # [o (t i) h w] over neighbouring frames is [o i t h w] over clips, with t = h
    "over_time": Transform(
        lambda s: (s[0], s[1] // s[2], s[2], *s[2:]),
        lambda x: x.reshape(len(x), x.shape[2], -1, *x.shape[2:]).swapaxes(1, 2),
        lambda x: x.swapaxes(1, 2).reshape(len(x), -1, *x.shape[3:]),
    ),
    # layers over frames as layers over clips: [o i 3 3] is [o i 1 3 3], and gains [c] have axes for what they multiply
    "over_frames": Transform(lambda s: (*s[:2], 1, *s[2:]), lambda x: x[:, :, None], lambda x: x[:, :, 0]),
    "gain_of_channels": Transform(lambda s: (*s, 1, 1, 1), lambda x: x.reshape(-1, 1, 1, 1), np.ravel),
    "gain_of_clips": Transform(lambda s: (1, *s, 1, 1, 1), lambda x: x.reshape(1, -1, 1, 1, 1), np.ravel),
    "transpose": Transform(lambda s: s[::-1], lambda x: x.T, lambda x: x.T),
    # Our alpha weighs the spatial branch; theirs, in the decoder, the temporal one:
    # 1 - sigmoid(m) = sigmoid(-m).
    "negate": Transform(lambda s: s, np.negative, np.negative),
    **{f"third_{i + 1}": _third(i) for i in range(3)},
}
LINEAR = ("same", "linear_1", "linear_1x1")
"""Ways to store the matrix of a linear layer, all of which are read in place of one another."""


@dataclass(frozen=True)
class Table:
    """Names in one kind of network or layer."""

    columns: tuple[str, ...]
    """Programs whose names follow ours in a row."""
    rows: tuple[tuple, ...]
    numbers: Callable[[Model, int, int], Mapping[str, int | str]] = lambda config, i, j: {}
    """(model, i, j) -> what else is in braces, for a table of a whole network."""

    def translate(self, name: str, column: str, config: Model) -> Optional[tuple[str, str]]:
        """(foreign name, transform) of one of our names; None if it is not stored."""
        return self._translate(name, column, config, self.numbers, {})

    def _translate(
        self, name: str, column: str, config: Model, numbers: Callable, known: dict[str, int]
    ) -> Optional[tuple[str, str]]:
        for ours, *row in self.rows:
            match = re.match(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(ours)) + r"(?:\.|$)", name)
            if match is None:
                continue
            theirs, inner = row[self.columns.index(column)], row[len(self.columns) :]
            if theirs is None:
                return None
            known = known | {key: int(value) for key, value in match.groupdict().items()}
            theirs, _, transform = theirs.partition(" : ")
            others = numbers(config, known.get("i", 0), known.get("j", 0))
            theirs, transform = theirs.format(**known, **others), transform.format(**others)
            rest = name[match.end() :]
            if inner:
                table = inner[0] if isinstance(inner[0], Table) else replace(self, rows=inner[0])
                found = table._translate(rest, column, config, numbers, known)
                return found and (f"{theirs}.{found[0]}", found[1])
            if rest in ("", "weight", "bias"):
                return f"{theirs}.{rest}".rstrip("."), "same" if rest == "bias" else transform or "same"
        raise LookupError(f"no row of the tables is for {name}")
