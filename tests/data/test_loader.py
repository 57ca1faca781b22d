"""Batches are the same however they are loaded, and no worker process is left behind or missed."""

import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from threading import Event
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
from numbered_items import Away, Hanging, Lame, Large, Logged, Numbers, Starved

from svd.data.dataset import Dataset, DatasetError, Unavailable
from svd.data.loader import Loader, Stopped
from svd.data.outage import Outage, RetryPolicy

ROOT = Path(__file__).parents[2]


def take(count: int, dataset: Dataset, **options) -> list[tuple]:
    """Sample numbers, items and failures of the first batches."""
    options = {"seed": 5, "batch_size": 2} | options
    with Loader(dataset, **options) as loader:
        return [
            (batch.samples, [(item.index, item.draws.tolist()) for item in batch.items], batch.failures)
            for batch in islice(loader, count)
        ]


def indices(batches: list[tuple]) -> list[int]:
    return [index for _, items, _ in batches for index, _ in items]


def failures(batches: list[tuple]) -> list[tuple[str, str]]:
    return [failure for _, _, found in batches for failure in found]


# --- what is loaded ---


def test_workers_change_nothing():
    dataset = Numbers(11, bad=[2, 3, 7, 9], noted=[4, 5])
    alone = take(12, dataset, workers=0)
    assert take(12, dataset, workers=2, prefetch=3) == alone
    reasons = {2: "rotten", 3: "rotten", 4: "smells", 5: "smells", 7: "rotten", 9: "rotten"}
    assert sorted(failures(alone)) == [(f"item {index}", reason) for index, reason in reasons.items()]


def test_two_ranks_see_together_what_one_sees_with_twice_the_batch():
    dataset = Numbers(7, bad=[2])
    one = take(9, dataset, batch_size=2, workers=0)
    two = [take(9, dataset, batch_size=1, rank=rank, ranks=2, workers=0) for rank in (0, 1)]
    for (samples, items, _), *parts in zip(one, *two):
        assert samples == [s for part, _, _ in parts for s in part]
        assert items == [i for _, part, _ in parts for i in part]


def test_resuming_goes_on_where_it_stopped():
    dataset = Numbers(5, bad=[1])
    whole = take(9, dataset, workers=0, batch_size=3)
    resumed = take(4, dataset, workers=0, batch_size=3, first_batch=5)
    assert [batch[:2] for batch in resumed] == [batch[:2] for batch in whole[5:]]


def test_every_item_once_in_each_epoch_across_batches():
    epochs = np.reshape(indices(take(15, Numbers(10), workers=0, batch_size=4)), (6, 10))
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()


def test_samples_of_one_item_differ_and_seeds_too():
    draws = [str(items) for _, items, _ in take(6, Numbers(1), workers=0, batch_size=1)]
    assert len(set(draws)) == 6
    assert indices(take(5, Numbers(50), workers=0)) != indices(take(5, Numbers(50), workers=0, seed=6))


def test_arrays_arrive_whole_and_can_be_written_to():
    with Loader(Large(), 0, 1, workers=1) as loader:
        for _ in range(3):
            (item,) = next(loader).items
            for name, array in Large.arrays().items():
                np.testing.assert_array_equal(item[name], array)
                item[name][:] = 0


# --- bad items ---


def test_replacements_are_good_spread_and_reported_once():
    dataset = Numbers(20, bad=range(10))
    batches = take(100, dataset, workers=0)
    assert set(indices(batches)) == set(range(10, 20))
    assert max(np.bincount(indices(batches))) < 40  # 20 of each on average, no favourites
    assert sorted(failures(batches)) == sorted((f"item {index}", "rotten") for index in range(10))


def test_one_good_item_among_99_bad_ones():
    dataset = Numbers(100, bad=set(range(100)) - {42})
    batches = take(50, dataset, workers=0)
    assert set(indices(batches)) == {42}
    assert len(failures(batches)) == len(set(failures(batches))) <= 99
    tried = np.bincount(dataset.tried)
    assert tried[42] == 100 and np.delete(tried, 42).max() == 1  # what is known to be bad is not opened again
    assert take(50, dataset, workers=2) == batches


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_items(workers):
    with pytest.raises(DatasetError, match=r"none of the 5 items .* item \d: rotten; item \d: rotten; ") as error:
        take(1, Numbers(5, bad=range(5)), workers=workers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_program_is_not_passed_over(workers):
    with pytest.raises(
        DatasetError, match=r"^item 0 could not be loaded: RuntimeError: of a kind that nobody expects$"
    ):
        take(1, Numbers(1, faulty=[0]), workers=workers)


# --- processes ---


def children() -> set[int]:
    """This process' children that load data."""
    found = psutil.Process().children(recursive=True)
    return {child.pid for child in found if "spawn_main" in " ".join(child.cmdline())}


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_an_item_that_kills_its_process_is_replaced():
    batches = take(8, Numbers(4, killing=[2]), workers=2)
    assert failures(batches) == [("item 2", "the processes that loaded it died, twice (signal 9, Killed)")]
    expected = take(8, Numbers(4, bad=[2]), workers=0)
    assert [batch[:2] for batch in batches] == [batch[:2] for batch in expected]


def test_a_process_that_dies_by_accident_changes_nothing(tmp_path):
    dataset = Numbers(4, killing=[2], once=str(tmp_path / "died"))
    batches = take(6, dataset, workers=2)
    assert (tmp_path / "died").exists()
    assert batches == take(6, Numbers(4), workers=0)


def test_workers_that_cannot_start(capfd):
    with pytest.raises(DatasetError, match=r"could not start \(exit code 3\); workers=0"):
        take(1, Lame(3), workers=1)


def test_no_process_is_left_whatever_it_is_doing():
    before = children()
    with Loader(Numbers(5, slow=1000), 0, 1, workers=2):
        pass  # nothing was asked for: none was started
    assert children() == before
    loader = Loader(Numbers(5), 0, 1, workers=2)
    next(loader)
    assert len(children() - before) in (1, 2)
    loader.close()
    assert children() == before
    loader = Loader(Numbers(5, slow=1000), 0, 1, workers=2)
    loader._prefetch()
    wait_until(lambda: len(children() - before) == 2)
    start = time.monotonic()
    loader.close()
    assert children() == before and time.monotonic() - start < 10


# --- what cannot be read now, and what hangs ---

AWAY = {
    "away": Unavailable("item", "its disk is away"),
    "no memory": MemoryError("no"),
    "an error of the disk": OSError(5, "Input/output error"),
}


@pytest.mark.parametrize(("error", "workers"), [*((error, 0) for error in AWAY), ("an error of the disk", 2)])
def test_what_cannot_be_read_now_is_waited_for(tmp_path, error, workers):
    """The samples are as if nothing had happened, and it is told of once, and once more when it is over."""
    error, told = AWAY[error], []

    def comes_back() -> bool:
        """Once every process has found it away; called time and again."""
        if len(os.listdir(tmp_path)) >= max(workers, 1):
            (tmp_path / "back").touch()
        return False

    retry = RetryPolicy(first=0.05, longest=0.2)
    dataset = Away(5, tmp_path, error, bad=[2])
    batches = take(6, dataset, workers=workers, retry=retry, report=told.append, should_stop=comes_back)
    assert batches == take(6, Numbers(5, bad=[2]), workers=0)
    first, last = told
    assert "cannot be read now: " in first and first.endswith("; trying again, for 5 minutes at most")
    assert str(getattr(error, "reason", "Input/output" if isinstance(error, OSError) else "memory")) in first
    assert last.startswith("the data can be read again, after ")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_for_long_is_given_up(tmp_path, workers):
    told = []
    retry, start = RetryPolicy(first=0.05, longest=0.2, limit=0.3), time.monotonic()
    with pytest.raises(DatasetError, match=r"^item could not be read for 0.3 s: its disk is away; mend that, or"):
        take(1, Away(5, tmp_path, AWAY["away"]), workers=workers, retry=retry, report=told.append)
    assert 0.3 <= time.monotonic() - start < 20
    assert len(told) == 1 and "trying again" in told[0]


def test_pauses_grow():
    load, pauses = Mock(side_effect=[AWAY["away"]] * 5 + ["item"]), []
    assert Outage(RetryPolicy(1, 5, 300)).retry(load, pauses.append) == "item"
    assert pauses == [1, 2, 4, 5, 5]


def test_an_outage_that_is_given_up_is_not_told_of_again():
    """By another thread, whose item fails before the first one's error ends the run."""

    def away():
        raise Unavailable("item", "its disk is away")

    outage = Outage(RetryPolicy(limit=0.0))
    for _ in range(2):
        with pytest.raises(DatasetError, match="could not be read for 0 s"):
            outage.retry(away, time.sleep)
    assert len(list(outage.messages())) == 1


def test_an_item_that_hangs_its_process_is_replaced():
    """After a while without progress, twice; one that is read slowly is not touched."""
    batches = take(5, Hanging(4, hanging=[2], long=[1]), workers=2, item_seconds=0.6)
    reason = "the processes that loaded it died, twice (ended, after 0.6 s in which nothing was read)"
    assert failures(batches) == [("item 2", reason)]
    expected = take(5, Numbers(4, bad=[2]), workers=0)
    assert [batch[:2] for batch in batches] == [batch[:2] for batch in expected]


def test_an_item_that_is_read_for_ever_is_replaced(monkeypatch):
    monkeypatch.setattr("svd.data.workers.LONGEST", 4)
    batches = take(3, Hanging(4, circling=[2]), workers=2, item_seconds=0.3)
    assert failures(batches) == [("item 2", "the processes that loaded it died, twice (ended, after 1.2 s)")]


def test_a_process_that_waits_for_its_disk_says_nothing_about_the_item(monkeypatch):
    """Its state, as Linux has it, is D."""
    monkeypatch.setattr("svd.data.workers._state", lambda pid: "D")
    retry = RetryPolicy(first=0.05, limit=0.5)
    with pytest.raises(DatasetError, match="item 0 could not be read for 0.5 s: its disk does not answer"):
        take(1, Hanging(1, hanging=[0]), workers=1, item_seconds=0.3, retry=retry)


def test_a_process_that_is_stopped_changes_nothing():
    before = children()
    with Loader(Numbers(9), 5, 2, workers=1, item_seconds=1.0) as loader:
        first = next(loader)
        wait_until(lambda: children() - before)
        os.kill((children() - before).pop(), signal.SIGSTOP)
        items = [first.items, *(next(loader).items for _ in range(5))]
    expected = take(6, Numbers(9), workers=0)
    assert [item.index for batch in items for item in batch] == indices(expected)


def test_whoever_waits_may_stop():
    """Within a moment, whatever the processes are doing."""
    wanted = []
    with Loader(Hanging(3, hanging=[0, 1, 2]), 0, 1, workers=2, should_stop=lambda: bool(wanted)) as loader:
        loader._prefetch()
        wanted.append(True)
        start = time.monotonic()
        with pytest.raises(Stopped):
            next(loader)
    assert time.monotonic() - start < 10


def test_pauses_may_be_stopped_without_processes(tmp_path):
    dataset = Away(3, tmp_path, AWAY["away"])
    with Loader(dataset, 0, 1, workers=0, should_stop=lambda: True) as loader, pytest.raises(Stopped):
        next(loader)


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The pauses between two starts of a process, which last a tenth of that."""
    asked = []

    class ShortWait(Event):
        def wait(self, timeout: float) -> bool:
            asked.append(timeout)
            return super().wait(timeout / 10)

    monkeypatch.setattr("svd.data.workers.Event", ShortWait)
    return asked


def test_a_process_that_is_killed_while_it_starts_is_started_again(tmp_path, pauses):
    assert take(3, Starved(4, tmp_path, 1), workers=1) == take(3, Numbers(4), workers=0)
    assert len(os.listdir(tmp_path)) == 2 and pauses == [1]


def test_processes_that_are_killed_whenever_they_start(tmp_path, pauses):
    with pytest.raises(DatasetError, match=r"could not start \(signal 9, Killed\); workers=0 needs none"):
        take(1, Starved(4, tmp_path, 99), workers=1)
    assert len(os.listdir(tmp_path)) == 3 and pauses[:2] == [1, 2]


SCRIPT = """
import os, signal, sys, time
import psutil
from numbered_items import Numbers
from test_loader import children
from svd.data.loader import Loader

with Loader(Numbers(50), 0, 4, workers=2) as loader:
    {body}
"""


def run_script(body: str) -> subprocess.Popen:
    """A program of its own that has a loader, in a process group of its own."""
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    script = SCRIPT.format(body=body.replace("\n", "\n    "))
    command = [sys.executable, "-c", script]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | paths, start_new_session=True, **pipes)


def test_no_process_survives_a_parent_that_was_killed():
    parent = run_script("next(loader)\nprint(*children(), flush=True)\ntime.sleep(1000)")
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers and all(map(psutil.pid_exists, workers))
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(is_running(pid) for pid in workers))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_ctrl_c_is_the_parents_affair():
    body = """
caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append(1))
loader._prefetch()
while not children():
    pass
os.killpg(0, signal.SIGINT)  # while the workers are starting
next(loader)
workers = children()
os.killpg(0, signal.SIGINT)
time.sleep(0.3)
for _ in range(10):
    next(loader)
print(len(caught), children() == workers)
"""
    out, err = run_script(body).communicate(timeout=600)
    assert (out, err) == ("2 True\n", "")


@pytest.mark.parametrize("workers, prefetch, batch_size", [(1, 3, 1), (1, 1, 4)])
def test_samples_are_loaded_ahead_but_not_without_end(tmp_path, workers, prefetch, batch_size):
    ahead = max(workers * prefetch, batch_size)
    with Loader(Logged(tmp_path), 0, batch_size, workers=workers, prefetch=prefetch) as loader:
        for taken in (1, 2):
            next(loader)
            expected = taken * batch_size + ahead
            wait_until(lambda: len(os.listdir(tmp_path)) >= expected)  # noqa: B023 (called at once)
            time.sleep(0.1)
            assert len(os.listdir(tmp_path)) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"first_batch": -1}, "first_batch must be at least 0"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"prefetch": 0}, "prefetch must be at least 1"),
        ({"rank": 2, "ranks": 2}, r"rank must be from 0 to 1 \(of 2 ranks\), got 2"),
        ({"dataset": Numbers(0)}, "no items"),
    ],
)
def test_arguments_that_are_refused(options, message):
    with pytest.raises(DatasetError, match=message):
        Loader(**({"dataset": Numbers(3), "seed": 0, "batch_size": 1} | options))
