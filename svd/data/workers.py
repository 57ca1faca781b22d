"""Processes that load items of a data set, and survive neither their parent nor a broken video."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Optional

import numpy as np

from svd.data.dataset import BadItem, Dataset, DatasetError
from svd.data.stream import DATA, generator


class WorkerDied(Exception):
    """A worker process ended before it had loaded its item; the message says how."""


class Worker:
    """A process that loads items, one at a time; started when it is needed and not running."""

    # multiprocessing looks after all ended processes when it starts one: one thread at a time may do that
    _lock = Lock()

    def __init__(self, dataset: Dataset, seed: int):
        self._dataset = dataset
        self._seed = seed
        self._process: Optional[multiprocessing.Process] = None
        self._connection: Optional[Connection] = None
        self._closed = False

    def load(self, index: int, sample: int) -> Any:
        """As `load_item`; raises WorkerDied too."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((index, sample))
            result = _receive(self._connection)
        except (EOFError, OSError) as error:
            raise WorkerDied(self._end()) from error
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """End the process for good, whatever it is doing."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
                self._process.join()

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise DatasetError("the loader is closed")
            # never forked: MindSpore has threads, and a forked process would have their locks but not them
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs, self._dataset, self._seed), daemon=True)
            self._process.start()
            theirs.close()  # so that the process has the only one, and the connection ends when it dies
        try:
            self._connection.recv()
        except (EOFError, OSError) as error:
            how = self._end()
            raise DatasetError(f"a process that loads data could not start ({how}); workers=0 needs none") from error

    def _end(self) -> str:
        """Clear away a process whose connection has ended, and say how it died."""
        with self._lock:
            self._process.join()
            code, self._process = self._process.exitcode, None
            self._connection.close()
        return f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"


def block_interrupts() -> None:
    """Keep Ctrl-C, which the terminal sends to every process, from those that this thread will start."""
    resource_tracker.ensure_running()  # multiprocessing would start it later, and then lift the block
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def load_item(dataset: Dataset, seed: int, index: int, sample: int) -> Any:
    """An item of the data set for a sample; raises BadItem, and DatasetError for any other failure."""
    try:
        return dataset.load(index, generator(seed, sample, DATA))
    except (BadItem, DatasetError):
        raise
    except Exception as error:  # nothing that a file can cause: a fault of the program, or no memory left
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise DatasetError(f"{dataset.name(index)} could not be loaded: {what}") from error


def _work(connection: Connection, dataset: Dataset, seed: int) -> None:
    """The life of a worker process. It ends with the connection: when the parent closes it or dies."""
    dataset.enter_worker()
    try:
        connection.send(None)
        while True:
            index, sample = connection.recv()
            try:
                result = load_item(dataset, seed, index, sample)
            except (BadItem, DatasetError) as error:
                result = error
            _send(connection, result)
    except (EOFError, OSError):
        return


def _send(connection: Connection, value: Any) -> None:
    """Send a value; its arrays as they are, which takes a clip a sixth of the time that `connection.send` takes."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    connection.send((pickled, [len(view) for view in views]))
    for view in views:
        while len(view):
            view = view[os.write(connection.fileno(), view) :]


def _receive(connection: Connection) -> Any:
    """What `_send` has sent."""
    pickled, lengths = connection.recv()
    arrays = [np.empty(length, np.uint8) for length in lengths]
    for array in arrays:
        view = memoryview(array)
        while len(view):
            count = os.readv(connection.fileno(), [view])
            if count == 0:
                raise EOFError
            view = view[count:]
    return pickle.loads(pickled, buffers=arrays)
