"""A persistent queue of millions of paths and their results, safe from interruptions."""

from __future__ import annotations

import csv
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from svd.console import printable
from svd.data.dataset import DatasetError
from svd.files import atomic_write

Row = dict[str, Any]
"""Result of a path: `path`, `why` (why it failed, or empty) and the values of the columns (None if it failed)."""
PAGE = 1000
"""Paths in memory at a time."""


class Journal:
    """A table with a row per path, in an SQLite file; memory does not grow with it.

    A recorded row survives the death of the process. The file is kept after the job, so that a later run handles new
    paths only.

    Args:
        path: The file, created if it does not exist. Empty: a temporary file.
        columns: Names of the values of a row, and their SQL types.
        subject: Kind of the rows; a file of another subject is refused.

    Raises:
        DatasetError: the file is no journal of this subject, or another process has it open.
    """

    def __init__(self, path: str | Path, columns: Mapping[str, str], subject: str):
        self._columns, self._path = list(columns), path
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            if path and os.path.lexists(path) and not os.path.isfile(path):  # opening a named pipe would block
                raise sqlite3.OperationalError("it is no ordinary file")
            self._db = sqlite3.connect(path, timeout=1, isolation_level=None)
            try:
                self._open(columns, subject)
            except sqlite3.Error:
                self._db.close()
                raise
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise DatasetError(f"{path}: another run has it open; wait for it, or choose another --out") from error
            raise DatasetError(f"{path}: cannot be used ({error}); delete it, or choose another --out") from error
        (found,) = self._db.execute("SELECT subject FROM about").fetchone()
        if found != subject:
            self.close()
            raise DatasetError(f"{path} holds {found}, not {subject}; delete it, or choose another --out")

    def _open(self, columns: Mapping[str, str], subject: str) -> None:
        # One writer, also enforced on network drives. With write-ahead logging a commit costs microseconds and survives
        # a killed process; a power cut loses the last rows at most.
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._db.execute(f"PRAGMA {setting}")
        with self._transaction():
            values = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            # why is NULL while a path is pending, and empty on success
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS items "
                f"(path TEXT PRIMARY KEY, found INTEGER, why TEXT, {values}) WITHOUT ROWID"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS about (subject TEXT)")
            self._db.execute("INSERT INTO about SELECT ? WHERE NOT EXISTS (SELECT * FROM about)", (subject,))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()
        if isinstance(error, sqlite3.Error):
            raise DatasetError(f"{self._path}, where this is kept: {error}; check the drive") from error

    def close(self) -> None:
        self._db.close()

    def register(self, found: Iterable[tuple[str, str]], retry_failed: bool = False) -> None:
        """Register the (path, why it cannot be used or empty) found now; other paths are ignored from here on.

        Earlier results of a path are kept, failures only without `retry_failed`.
        """
        with self._transaction():
            self._db.execute("UPDATE items SET found = 0")
            if retry_failed:
                self._db.execute("UPDATE items SET why = NULL WHERE why <> ''")
            self._db.executemany(
                "INSERT INTO items (path, found, why) VALUES (?, 1, NULLIF(?, '')) "
                "ON CONFLICT (path) DO UPDATE SET found = 1, why = COALESCE(excluded.why, why)",
                found,
            )

    def pending(self) -> Iterator[str]:
        """Pending paths, sorted; rows may be recorded during iteration."""
        last = ""
        while page := self._db.execute(
            "SELECT path FROM items WHERE found AND why IS NULL AND path > ? ORDER BY path LIMIT ?", (last, PAGE)
        ).fetchall():
            yield from (path for (path,) in page)
            (last,) = page[-1]

    def record(self, row: Row) -> None:
        """Record the row of a registered path; that of a failure needs no values."""
        values = ", ".join(f"{name} = :{name}" for name in self._columns)
        row = dict.fromkeys(self._columns) | row
        self._db.execute(f"UPDATE items SET why = :why, {values} WHERE path = :path", row)

    def add(self, rows: Iterable[Row]) -> None:
        """Register and record rows; raises DatasetError if a path has two."""
        names = ["path", "why", *self._columns]
        insert = f"INSERT INTO items ({', '.join(names)}, found) VALUES (:{', :'.join(names)}, 1)"
        with self._transaction():
            for row in rows:
                try:
                    self._db.execute(insert, row)
                except sqlite3.IntegrityError as error:
                    raise DatasetError(f"{row['path']} has more than one row; give every file once") from error

    def rows(self, where: str = "why = ''", order: str = "path") -> Iterator[Row]:
        """Rows of registered paths that satisfy an SQL condition, by default the successful ones."""
        names = ["path", "why", *self._columns]
        cursor = self._db.execute(f"SELECT {', '.join(names)} FROM items WHERE found AND {where} ORDER BY {order}")
        return (dict(zip(names, values)) for values in cursor)

    def failures(self) -> Iterator[Row]:
        return self.rows("why <> ''")

    def count(self, where: str = "why = ''") -> int:
        """Number of such rows."""
        return self._db.execute(f"SELECT COUNT(*) FROM items WHERE found AND {where}").fetchone()[0]

    def reasons(self) -> list[tuple[str, int]]:
        """The five most frequent reasons of failures, with their counts."""
        return self._db.execute(
            "SELECT why, COUNT(*) FROM items WHERE found AND why <> '' GROUP BY why ORDER BY COUNT(*) DESC, why LIMIT 5"
        ).fetchall()

    def _transaction(self) -> sqlite3.Connection:
        """A transaction: the changes of the block are committed together, or rolled back if it raises."""
        self._db.execute("BEGIN IMMEDIATE")
        return self._db


def write_csv(target: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write these columns of the rows to a CSV file, atomically."""
    with atomic_write(target, need=0) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def report(journal: Journal, listing: Path, columns: Sequence[str], failures: Iterable[Row], things: str, done: str):
    """Print how many things are done and why others failed, and list these; raises DatasetError if all have failed.

    Args:
        listing: the CSV file of failures; removed if there are none.
        columns: its columns.
        failures: rows of the failures as they are listed.
        things, done: words for messages, such as videos and scored.
    """
    succeeded, failed = journal.count(), journal.count("why <> ''")
    if failed:
        write_csv(listing, columns, failures)
    else:
        listing.unlink(missing_ok=True)
    print(f"{succeeded} {things} are {done}, {failed} failed" + (f" and are listed in {listing}:" if failed else ""))
    for why, count in journal.reasons():
        print(printable(f"{count:>8}  {why}"))
    if failed and not succeeded:
        raise DatasetError(f"none of the {failed} {things} could be {done}; {listing} says why")
