"""Batches for the training step, until a signal requests a stop."""

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
"""How long to wait for videos that cannot be read now."""
GRACE = 5.0
"""Seconds after a signal for which data of the current update are still waited for."""


class ElsewhereError(UserError):
    """Another process of the run has failed, and so all end."""


class Feed:
    """Batches and the inputs of the loss. What ends it on one rank ends it on all, at the same batch.

    Args:
        config: of the training.
        samples: how many samples of the stream all ranks together have consumed.
        ranks: this process among those of the run.
        inputs: a batch -> the inputs of the loss.
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
        """Whether all processes of the run know that it ends, and so can save together."""

    def __enter__(self) -> Feed:
        c, ranks = self._config, self._ranks
        first = ceil(self._samples / (c.batch_size * ranks.count))
        # On CPU, collectives time out after half a minute: pauses of ranks must not differ by more.
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
        """The number of the first signal that requests a stop, or 0."""
        self._acknowledge()
        return self._signals[0] if self._signals else 0

    def _acknowledge(self) -> None:
        """Log, once, what a signal leads to."""
        if self._signals and self._signalled is None:
            self._signalled = time.monotonic()
            self._log("stopping after this update, with a checkpoint (Ctrl-C again: at once, without)")

    def _waits_no_more(self) -> bool:
        """Whether a signal came so long ago that data are no longer waited for."""
        return self.signal > 0 and time.monotonic() - self._signalled > GRACE

    def next(self) -> tuple[Batch, tuple[Tensor, ...]]:
        """The next batch and the inputs of the loss.

        Raises:
            Stopped: on every rank, once one no longer waits.
            ElsewhereError: the batch of another rank could not be loaded.
            Exception: whatever kept this rank from loading its own.
        """
        batch, inputs, problem = None, (), None
        self._acknowledge()  # an update of many micro-batches takes long
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
