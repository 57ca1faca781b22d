"""Worker processes that load items of a data set; they end with their parent, and may crash or hang on an item."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import process, resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any, Optional

import numpy as np

from svd.data.dataset import BadItem, Dataset, DatasetError, Unavailable
from svd.seeds import Purpose, generator

ITEM_SECONDS = 120.0
"""How long a worker may load an item without reading any more bytes of it."""
LONGEST = 10
"""How many times as long it may take in all: a decoder may also loop while it reads."""
STARTS = 3
"""Attempts to start a process that is killed while it starts; memory may be short for a moment."""
_ENDING = 5.0
"""Seconds that a killed process has to end. One that waits for a dead disk does not, and is left behind."""


class WorkerDied(Exception):
    """A worker process has died, or had to be killed, before its item was loaded; the message says how."""


class _Hung(Exception):
    """A worker process has been loading an item for too long."""


class Worker:
    """A process that loads items, one at a time; started (again) when it is needed.

    Args:
        dataset: The items.
        seed: Of their randomness.
        limit: Seconds that an item may take without any further read; in all it may take LONGEST times as many.
    """

    # multiprocessing reaps all dead processes when it starts one: only one thread at a time may do that
    _lock = Lock()

    def __init__(self, dataset: Dataset, seed: int, limit: float = ITEM_SECONDS):
        self._dataset = dataset
        self._seed = seed
        self._limit = limit
        self._process: Optional[multiprocessing.Process] = None
        self._connection: Optional[Connection] = None
        self._closed = Event()

    def load(self, index: int, sample: int) -> Any:
        """Load an item in the process: `load_item`; raises WorkerDied too."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((index, sample))
            result = _receive(self._connection, self._wait)
        except _Hung as error:
            if self._reap(kill=True) == _WAITING_FOR_A_DISK:
                raise Unavailable(self._dataset.name(index), f"its disk does not answer ({error})") from error
            raise WorkerDied(f"ended, {error}") from error
        except (EOFError, OSError) as error:
            raise WorkerDied(self._reap()) from error
        if isinstance(result, Exception):
            raise result
        return result

    def kill(self) -> None:
        """Kill the process for good, without waiting for its end as `close` does."""
        self._closed.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Kill the process for good, whatever it is doing."""
        self.kill()
        with self._lock:
            if self._process is not None:
                _join(self._process)

    def _start(self) -> None:
        for attempt in range(STARTS):
            how, retry = self._try_to_start()
            if how is None:
                return
            if not retry or self._closed.wait(2**attempt):
                break
        raise DatasetError(f"a process that loads data could not start ({how}); workers=0 needs none")

    def _try_to_start(self) -> tuple[Optional[str], bool]:
        """None or how it died, and whether to retry: it was killed, or there was no memory or no process for it."""
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
                theirs.close()  # the process then holds the only one, and the connection ends when it dies
        except OSError as error:
            return " ".join(str(error).split()), True
        try:
            self._wait(least=ITEM_SECONDS)
            self._connection.recv()
        except _Hung as error:
            self._reap(kill=True)
            return f"ended, {error}", False
        except (EOFError, OSError):
            how = self._reap()
            return how, how.startswith("signal")
        return None, False

    def _wait(self, least: float = 0.0) -> None:
        """Wait until there is something to receive; raises _Hung, and EOFError after `kill`.

        A process that reads is alive: a long video or a slow disk takes its time. At least `least` seconds are waited.
        """
        limit = max(self._limit, least)
        poller, pause = select.poll(), min(limit / 4, 0.5) * 1000
        poller.register(self._connection.fileno(), select.POLLIN)
        if poller.poll(pause):  # the common case: it has sent something
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

    def _reap(self, kill: bool = False) -> str:
        """Reap a process whose connection has ended, or kill it; returns how it died or what it waits for."""
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


class WorkerPool:
    """Workers, and as many threads: each waits for a process and, if that dies, knows which item it was loading."""

    def __init__(self, dataset: Dataset, seed: int, count: int, limit: float = ITEM_SECONDS):
        self._workers = [Worker(dataset, seed, limit) for _ in range(count)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(count, initializer=_block_interrupts)

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """Call a function, which may call `load`, in a thread."""
        return self._threads.submit(function, *arguments)

    def load(self, index: int, sample: int) -> Any:
        """Load an item in an idle worker, again if its process dies; raises WorkerDied if the second does too."""
        worker = self._idle.get()
        try:
            try:
                return worker.load(index, sample)
            except WorkerDied:  # perhaps killed for lack of memory, or by somebody
                return worker.load(index, sample)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Kill the processes, whatever they are doing."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(cancel_futures=True)


_WAITING_FOR_A_DISK = "it waits for a disk"


def _join(worker: multiprocessing.Process) -> None:
    """Wait for a killed process, but not for one in uninterruptible sleep."""
    worker.join(_ENDING)
    if worker.is_alive():
        process._children.discard(worker)  # or else this process would wait for it at exit, for ever


def _bytes_read(pid: int) -> int:
    """Bytes that a process has read so far, from files of any kind; 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            return int(file.readline().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _state(pid: int) -> str:
    """State of a process on Linux, such as D (uninterruptible sleep); empty where the system does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1].decode()
    except OSError:
        return ""


def _block_interrupts() -> None:
    """Shield the processes that this thread will start from Ctrl-C, which the terminal sends to all."""
    resource_tracker.ensure_running()  # multiprocessing would start it later, and then lift the block
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})


def load_item(dataset: Dataset, seed: int, index: int, sample: int) -> Any:
    """Load an item for a sample; raises BadItem, Unavailable, and DatasetError for any other failure."""
    try:
        return dataset.load(index, generator(seed, sample, Purpose.DATA))
    except (BadItem, Unavailable, DatasetError):
        raise
    except MemoryError as error:
        raise Unavailable(dataset.name(index), "no memory is left to load it") from error
    except OSError as error:
        raise Unavailable(dataset.name(index), " ".join(str(error).split())) from error
    except Exception as error:  # no file can cause this: a bug
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise DatasetError(f"{dataset.name(index)} could not be loaded: {what}") from error


def _work(connection: Connection, dataset: Dataset, seed: int) -> None:
    """Main loop of a worker process. It ends with the connection: when the parent closes it or dies."""
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
    """Send a value, with its arrays out of band: a sixth of the time of `connection.send` for a clip."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    connection.send((pickled, [len(view) for view in views]))
    for view in views:
        while len(view):
            view = view[os.write(connection.fileno(), view) :]


def _receive(connection: Connection, wait: Callable[[], None]) -> Any:
    """Receive what `_send` has sent; `wait` is called before every read."""
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
