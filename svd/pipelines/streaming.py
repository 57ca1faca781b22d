"""A video made piece by piece: stages that need few frames at a time, and a record from which stopped work goes on."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
from safetensors import SafetensorError, safe_open

from svd.autoencoder.autoencoder import Autoencoder
from svd.checkpoints.tensor_files import save_tensors
from svd.console import one_line
from svd.errors import NumericalError, UserError
from svd.files import atomic_write

State = dict[str, np.ndarray]


class StateError(UserError):
    """The record of stopped work is damaged."""


class Stage(ABC):
    """Makes frames of those of the stage before, a window at a time.

    Attributes:
        pending: frames that are still needed, [n ...]; None before the first.
        windows: how many it has made.
        ended: whether no more frames come.
        seconds, made: the shortest time of a window, and the frames of the last one.
    """

    growth = 1
    """How many frames it makes of one."""

    def __init__(self):
        self.pending: Optional[np.ndarray] = None
        self.windows, self.ended = 0, False
        self.seconds, self.made = np.inf, 0

    def take(self, frames: np.ndarray) -> None:
        """Add frames of the stage before."""
        self.pending = frames if self.pending is None else np.concatenate([self.pending, frames])

    @abstractmethod
    def ready(self) -> bool:
        """Whether there are enough frames for a window."""

    @abstractmethod
    def make(self) -> np.ndarray:
        """The frames of the next window."""

    def run(self) -> np.ndarray:
        """`make`, and keep count and time."""
        start = time.perf_counter()
        frames = self.make()
        self.windows += 1
        self.seconds, self.made = min(self.seconds, time.perf_counter() - start), len(frames)
        return frames

    @property
    def state(self) -> State:
        """What it takes to go on from here."""
        state = {"counts": np.array([self.windows, self.ended], np.int64)}
        return state if self.pending is None else state | {"pending": self.pending}

    @state.setter
    def state(self, state: State) -> None:
        self.windows, self.ended = int(state["counts"][0]), bool(state["counts"][1])
        self.pending = state.get("pending")


class Decode(Stage):
    """Latents [n c h w] -> frames uint8 [n H W 3], in chunks, which cross-fade over the frames that they share.

    Args:
        chunk: frames decoded at a time.
        overlap: frames that neighbouring chunks share, for temporal decoders.
        tile: pixels of tiles; None for whole frames.
        crop: height and width of what is kept.
        held: how often the last frame is repeated.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        chunk: int,
        overlap: int,
        tile: Optional[int],
        crop: tuple[int, int],
        held: int = 0,
    ):
        super().__init__()
        self.autoencoder, self.chunk, self.overlap, self.tile = autoencoder, chunk, overlap, tile
        self.crop, self.held = crop, held
        self.tail: Optional[np.ndarray] = None  # of the last chunk, decoded: [overlap 3 H W]

    def ready(self) -> bool:
        waiting = 0 if self.pending is None else len(self.pending)
        # the last chunk waits for the end, of which it has to know
        return waiting > (self.chunk if not self.ended else 0 if self.tail is None else self.overlap)

    def make(self) -> np.ndarray:
        latents = self.pending[: self.chunk]
        last = self.ended and len(self.pending) <= self.chunk
        padding = np.repeat(latents[-1:], self.chunk - len(latents), 0)  # one graph for all chunks
        padded = np.concatenate([latents, padding])[None]
        video = self.autoencoder.decode(padded, tile_size=self.tile)[0, : len(latents)]
        if not np.isfinite(video).all():
            raise NumericalError("the decoder returned values that are not finite: try amp_level O0", "amp_level")
        if self.tail is not None:
            n = self.overlap
            new = (np.arange(1, n + 1, dtype=np.float32) / (n + 1)).reshape(n, 1, 1, 1)
            video[:n] = self.tail + new * (video[:n] - self.tail)
        kept = len(video) if last else len(video) - self.overlap
        self.tail = video[kept:] if self.overlap and not last else None
        self.pending = self.pending[len(latents) if last else kept :]
        frames = np.clip((video[:kept, :, : self.crop[0], : self.crop[1]] + 1) / 2, 0, 1)
        frames = np.round(frames.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        return np.concatenate([frames, frames[-1:].repeat(self.held, 0)]) if last and self.held else frames

    @property
    def state(self) -> State:
        state = super().state
        return state if self.tail is None else state | {"tail": self.tail}

    @state.setter
    def state(self, state: State) -> None:
        Stage.state.fset(self, state)
        self.tail = state.get("tail")


def stream(stages: list[Stage]) -> Iterator[Optional[np.ndarray]]:
    """Run a window after the other, of the last stage that is ready, so that few frames wait; yields after each: the
    frames of the last stage, or None for another's. It ends where the first stage does.
    """
    while True:
        ready = [number for number, stage in enumerate(stages) if stage.ready()]
        if ready:
            frames = stages[ready[-1]].run()
            if ready[-1] + 1 < len(stages):
                stages[ready[-1] + 1].take(frames)
                frames = None
            yield frames
            continue
        after = next((stage for stage in stages if not stage.ended), None)
        if after is None:
            return
        after.ended = True  # all before it have nothing more to give


def seconds_per_frame(stages: list[Stage]) -> float:
    """How long a frame of the last stage takes, by the fastest window of each; all have made one."""
    total, share = 0.0, 1.0
    for stage in reversed(stages):
        total += share * stage.seconds / stage.made
        share /= stage.growth
    return total


class Record:
    """The file from which stopped work goes on: the states of the stages, and numbers of what is written."""

    def __init__(self, path: Path):
        self.path = path

    def save(self, stages: list[Stage], **numbers: int) -> None:
        """Replace the record; raises OSError if the drive refuses."""
        arrays = {f"{i}.{name}": value for i, stage in enumerate(stages) for name, value in stage.state.items()}
        with atomic_write(self.path) as aside:
            save_tensors(aside, arrays, {"numbers": json.dumps(numbers)})

    def restore(self, stages: list[Stage]) -> Optional[dict[str, Any]]:
        """Set the states of the stages, and return the numbers; None if there is no record.

        Raises:
            StateError: it is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
                numbers = json.loads(file.metadata()["numbers"])
            for i, stage in enumerate(stages):
                prefix = f"{i}."
                stage.state = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{self.path}: damaged ({one_line(error)}); remove {self.path.parent}") from error
        return numbers


def write_stream(
    stages: list[Stage],
    record: Record,
    append: Callable[[np.ndarray], int],
    total: int,
    written: int,
    progress: Callable[[int], object],
) -> int:
    """Make frames and write them until there are `total`; returns how many there are, fewer if the stages end.

    Args:
        append: writes frames [n h w 3], perhaps none; returns the bytes of all that is written.
        written: frames that are there already.
        progress: is told the number of frames that are new, after each window that has made some.
    """
    if written == total:
        return written
    for frames in stream(stages):
        new = np.empty(0) if frames is None else frames[: total - written]
        size = append(new)
        written += len(new)
        record.save(stages, frames=written, bytes=size)
        if len(new):
            progress(len(new))
        if written == total:
            break
    return written
