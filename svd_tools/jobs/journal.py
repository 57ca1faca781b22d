"""What is to be done for millions of paths, and what came of it: on disk, and safe from interruptions."""

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
"""What came of a path: `path`, `why` (empty, or why it failed) and the values of the columns (None if it failed)."""
PAGE = 1000
"""Paths that are held in memory at a time."""


class Journal:
    """A table of paths with a row each, in an SQLite file; memory does not grow with it.

    Every row is kept as soon as it is recorded, whatever becomes of the process. The file stays after the work is
    done, so that the work can be done again for what is new.

    Args:
        path: The file; made if it does not exist. Without one, a temporary file that nobody sees.
        columns: Names of the values of a row, and their types in SQL.
        subject: What the rows are of; a file of another subject is refused.

    Raises:
        DatasetError: the file is no journal of this subject, or another process has it open.
    """

    def __init__(self, path: str | Path, columns: Mapping[str, str], subject: str):
        self._columns, self._path = list(columns), path
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            if path and os.path.lexists(path) and not os.path.isfile(path):  # a named pipe would be waited for for ever
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
        # One writer, which also holds on network drives. The log is written ahead: a commit costs microseconds,
        # outlives a killed process, and a power cut takes the last rows at most.
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._db.execute(f"PRAGMA {setting}")
        with self._transaction():
            values = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            # why is NULL for what is still to do, and empty for what is done
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
        """Take down the (path, why it cannot be used or empty) there are now; others are passed over from here on.

        What is known of a path is kept, its failure only unless that is to be tried again.
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
        """Paths that are still to do, in their order; rows may be recorded on the way."""
        last = ""
        while page := self._db.execute(
            "SELECT path FROM items WHERE found AND why IS NULL AND path > ? ORDER BY path LIMIT ?", (last, PAGE)
        ).fetchall():
            yield from (path for (path,) in page)
            (last,) = page[-1]

    def record(self, row: Row) -> None:
        """Keep the row of a path that is registered; that of a failure needs no values."""
        values = ", ".join(f"{name} = :{name}" for name in self._columns)
        row = dict.fromkeys(self._columns) | row
        self._db.execute(f"UPDATE items SET why = :why, {values} WHERE path = :path", row)

    def add(self, rows: Iterable[Row]) -> None:
        """Register and record rows; raises DatasetError if one path has two."""
        names = ["path", "why", *self._columns]
        insert = f"INSERT INTO items ({', '.join(names)}, found) VALUES (:{', :'.join(names)}, 1)"
        with self._transaction():
            for row in rows:
                try:
                    self._db.execute(insert, row)
                except sqlite3.IntegrityError as error:
                    raise DatasetError(f"{row['path']} has more than one row; give every file once") from error

    def rows(self, where: str = "why = ''", order: str = "path") -> Iterator[Row]:
        """The rows there are now for which an SQL condition holds, by default those of success."""
        names = ["path", "why", *self._columns]
        cursor = self._db.execute(f"SELECT {', '.join(names)} FROM items WHERE found AND {where} ORDER BY {order}")
        return (dict(zip(names, values)) for values in cursor)

    def failures(self) -> Iterator[Row]:
        return self.rows("why <> ''")

    def count(self, where: str = "why = ''") -> int:
        """How many such rows there are."""
        return self._db.execute(f"SELECT COUNT(*) FROM items WHERE found AND {where}").fetchone()[0]

    def reasons(self) -> list[tuple[str, int]]:
        """The reasons why paths failed, and how many did, the five most frequent first."""
        return self._db.execute(
            "SELECT why, COUNT(*) FROM items WHERE found AND why <> '' GROUP BY why ORDER BY COUNT(*) DESC, why LIMIT 5"
        ).fetchall()

    def _transaction(self) -> sqlite3.Connection:
        """A block whose changes are kept as a whole, or not at all if it raises."""
        self._db.execute("BEGIN IMMEDIATE")
        return self._db


def write_csv(target: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write these columns of the rows beside the target, and rename it."""
    with atomic_write(target, need=0) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def report(journal: Journal, listing: Path, columns: Sequence[str], failures: Iterable[Row], things: str, done: str):
    """Say how many things are done and why others failed, and list these; raises DatasetError if they are all.

    Args:
        listing: the CSV file of failures; removed if there are none.
        columns: its columns.
        failures: rows of the failures as they are listed.
        things, done: words, such as videos and scored.
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
