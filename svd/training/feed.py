"""What the training step is fed with, until a signal asks for the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from typing import Any, Optional

from mindspore import Tensor

from svd.data.loader import Batch, Loader, Stopped
from svd.data.outage import RetryPolicy
from svd.errors import UserError
from svd.signals import deferred
from svd.training.config import TrainConfig
from svd.training.distributed import Ranks

RETRY = RetryPolicy()
"""How long is waited for videos that cannot be read now."""
GRACE = 5.0
"""Seconds after a signal in which data are still waited for, to end the update that they are for."""


class ElsewhereError(UserError):
    """What ends the run happened to another of its processes, and this one knows of it."""


class Feed:
    """Batches, and what the loss takes of them. What ends it on one rank ends it on all, at the same batch.

    Args:
        config: of the training.
        samples: how many of the stream are used up, by all ranks together.
        ranks: this process among those of the run.
        inputs: makes a batch what the loss takes.
        log: prints a line.
    """

    def __init__(
        self,
        config: TrainConfig,
        samples: int,
        ranks: Ranks,
        inputs: Callable[[Batch], tuple[Tensor, ...]],
        log: Callable[[str], None],
    ):
        self._config, self._samples, self._ranks = config, samples, ranks
        self._inputs, self._log = inputs, log
        self._signals: list[int] = []
        self._signalled: Optional[float] = None
        self._open = ExitStack()
        self.agreed = ranks.count == 1
        """Whether all processes of the run know what ends it, and so can save together."""

    def __enter__(self) -> Feed:
        c, ranks = self._config, self._ranks
        first = ceil(self._samples / (c.batch_size * ranks.count))
        # On CPU, processes wait half a minute for one another: their pauses must not end further apart than that.
        retry = RETRY if ranks.count == 1 else replace(RETRY, longest=min(RETRY.longest, 15))
        loader = Loader(
            *(c.dataset, c.seed, c.batch_size, first, ranks.rank, ranks.count, c.workers),
            item_seconds=c.item_seconds,
            retry=retry,
            report=self._log,
            should_stop=self._waits_no_more,
        )
        self._loader = self._open.enter_context(loader)
        self._signals = self._open.enter_context(deferred())
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    @property
    def signal(self) -> int:
        """The number of the first signal that asks for the end, or 0."""
        self._answer()
        return self._signals[0] if self._signals else 0

    def _answer(self) -> None:
        """Tell, once, what a signal leads to."""
        if self._signals and self._signalled is None:
            self._signalled = time.monotonic()
            self._log("stopping after this update, with a checkpoint (Ctrl-C again: at once, without)")

    def _waits_no_more(self) -> bool:
        """Whether a signal came so long ago that data are not waited for any longer."""
        return self.signal > 0 and time.monotonic() - self._signalled > GRACE

    def next(self) -> tuple[Batch, tuple[Tensor, ...]]:
        """The next batch, and what the loss takes of it.

        Raises:
            Stopped: on every rank, where one waits no more.
            ElsewhereError: where the batch of another rank cannot be had.
            Exception: whatever keeps this rank from having its own.
        """
        batch, inputs, problem = None, (), None
        self._answer()  # an update of many micro-batches takes long
        try:
            batch = next(self._loader)
            inputs = self._inputs(batch)
        except Exception as error:
            problem = error
        stopped = isinstance(problem, Stopped)
        failures, stops = self._ranks.sum(float(problem is not None and not stopped), float(stopped))
        if not failures and not stops:
            return batch, inputs
        self.agreed = True
        if problem is not None and not (stopped and failures):
            raise problem
        raise ElsewhereError("another process of the run had to end: see what it says") if failures else Stopped

    def stopped_by(self) -> int:
        """The signal that has ended this rank, or another."""
        return self.signal or signal.SIGTERM
