"""Processes that load items of a data set, and survive neither their parent, a broken video nor one that hangs."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import signal
import time
from collections.abc import Callable
from multiprocessing import process, resource_tracker
from multiprocessing.connection import Connection
from threading import Event, Lock
from typing import Any, Optional

import numpy as np

from svd.data.dataset import BadItem, Dataset, DatasetError, Unavailable
from svd.seeds import DATA, generator

ITEM_SECONDS = 120.0
"""How long a process may load an item without reading anything more of it."""
LONGEST = 10
"""How many times as long it may take in all: a decoder may also go round in circles and read."""
STARTS = 3
"""How often a process that is killed while it starts is started again; there may be no memory for the moment."""
_ENDING = 5.0
"""Seconds that a process which was killed has to end. One that waits for a dead disk does not, and is left behind."""


class WorkerDied(Exception):
    """A worker process ended, or had to be ended, before it had loaded its item; the message says how."""


class _Hung(Exception):
    """A worker process is at work on an item for too long."""


class Worker:
    """A process that loads items, one at a time; started when it is needed and not running.

    Args:
        dataset: The items.
        seed: Of what is random about them.
        limit: Seconds that an item may take without reading anything more, and a tenth of those that it may take.
    """

    # multiprocessing looks after all ended processes when it starts one: one thread at a time may do that
    _lock = Lock()

    def __init__(self, dataset: Dataset, seed: int, limit: float = ITEM_SECONDS):
        self._dataset = dataset
        self._seed = seed
        self._limit = limit
        self._process: Optional[multiprocessing.Process] = None
        self._connection: Optional[Connection] = None
        self._closed = Event()

    def load(self, index: int, sample: int) -> Any:
        """As `load_item`; raises WorkerDied too."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((index, sample))
            result = _receive(self._connection, self._wait)
        except _Hung as error:
            if self._end(kill=True) == _WAITING_FOR_A_DISK:
                raise Unavailable(self._dataset.name(index), f"its disk does not answer ({error})") from error
            raise WorkerDied(f"ended, {error}") from error
        except (EOFError, OSError) as error:
            raise WorkerDied(self._end()) from error
        if isinstance(result, Exception):
            raise result
        return result

    def kill(self) -> None:
        """End the process for good, whatever it is doing; `close` waits for it."""
        self._closed.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process for good, whatever it is doing."""
        self.kill()
        with self._lock:
            if self._process is not None:
                _join(self._process)

    def _start(self) -> None:
        for attempt in range(STARTS):
            how, killed = self._try_to_start()
            if how is None:
                return
            if not killed or self._closed.wait(2**attempt):
                break
        raise DatasetError(f"a process that loads data could not start ({how}); workers=0 needs none")

    def _try_to_start(self) -> tuple[Optional[str], bool]:
        """None, or how it ended, and whether it was killed, or there was no memory or no process left for it."""
        try:
            with self._lock:
                if self._closed.is_set():
                    raise DatasetError("the loader is closed")
                # never forked: MindSpore has threads, and a forked process would have their locks but not them
                context = multiprocessing.get_context("spawn")
                self._connection, theirs = context.Pipe()
                worker = context.Process(target=_work, args=(theirs, self._dataset, self._seed), daemon=True)
                worker.start()
                self._process = worker
                theirs.close()  # so that the process has the only one, and the connection ends when it dies
        except OSError as error:
            return " ".join(str(error).split()), True
        try:
            self._wait(least=ITEM_SECONDS)
            self._connection.recv()
        except _Hung as error:
            self._end(kill=True)
            return f"ended, {error}", False
        except (EOFError, OSError):
            how = self._end()
            return how, how.startswith("signal")
        return None, False

    def _wait(self, least: float = 0.0) -> None:
        """Return when there is something to receive; raises _Hung, and EOFError where the process is no longer wanted.

        What it reads shows that a process is at work: a long video or a slow disk takes its time. `least` seconds are
        waited in any case.
        """
        limit = max(self._limit, least)
        poller, pause = select.poll(), min(limit / 4, 0.5) * 1000
        poller.register(self._connection.fileno(), select.POLLIN)
        if poller.poll(pause):  # as it is for most: whoever sends is at work
            return
        began = since = time.monotonic()
        read = _bytes_read(self._process.pid)
        while not poller.poll(pause):
            if self._closed.is_set():
                raise EOFError
            now, before = time.monotonic(), read
            read = _bytes_read(self._process.pid)
            if read != before:
                since = now
            if now - since > limit:
                raise _Hung(f"after {limit:g} s in which nothing was read")
            if now - began > LONGEST * limit:
                raise _Hung(f"after {LONGEST * limit:g} s")

    def _end(self, kill: bool = False) -> str:
        """Clear away a process whose connection has ended, or end it, and say how it died or what it waits for."""
        with self._lock:
            waits = kill and _state(self._process.pid) == "D"
            if kill:
                self._process.kill()
            _join(self._process)
            code, self._process = self._process.exitcode, None
            self._connection.close()
        if waits or code is None:
            return _WAITING_FOR_A_DISK
        return f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"


_WAITING_FOR_A_DISK = "it waits for a disk"


def _join(worker: multiprocessing.Process) -> None:
    """Wait for a killed process, but not for one that only its disk can wake up."""
    worker.join(_ENDING)
    if worker.is_alive():
        process._children.discard(worker)  # which this process would wait for, for ever, before it ends


def _bytes_read(pid: int) -> int:
    """All that a process has read, from files of any kind; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            return int(file.readline().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _state(pid: int) -> str:
    """The state of a process as Linux has it, such as D: waiting for a disk; empty where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1].decode()
    except OSError:
        return ""


def block_interrupts() -> None:
    """Keep Ctrl-C, which the terminal sends to every process, from those that this thread will start."""
    resource_tracker.ensure_running()  # multiprocessing would start it later, and then lift the block
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})


def load_item(dataset: Dataset, seed: int, index: int, sample: int) -> Any:
    """An item of the data set for a sample; raises BadItem, Unavailable, and DatasetError for any other failure."""
    try:
        return dataset.load(index, generator(seed, sample, DATA))
    except (BadItem, Unavailable, DatasetError):
        raise
    except MemoryError as error:
        raise Unavailable(dataset.name(index), "no memory is left to load it") from error
    except OSError as error:
        raise Unavailable(dataset.name(index), " ".join(str(error).split())) from error
    except Exception as error:  # nothing that a file can cause: a fault of the program
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
            except (BadItem, Unavailable, DatasetError) as error:
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


def _receive(connection: Connection, wait: Callable[[], None]) -> Any:
    """What `_send` has sent; `wait` is called before every read."""
    wait()
    pickled, lengths = connection.recv()
    arrays = [np.empty(length, np.uint8) for length in lengths]
    for array in arrays:
        view = memoryview(array)
        while len(view):
            wait()
            count = os.readv(connection.fileno(), [view])
            if count == 0:
                raise EOFError
            view = view[count:]
    return pickle.loads(pickled, buffers=arrays)
