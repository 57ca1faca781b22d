"""Rows of CSV files from any source: Excel in any language, LibreOffice, pandas, old Macs."""

from __future__ import annotations

import csv
import os
import re
import stat
from collections.abc import Iterator, Sequence
from math import nan
from typing import BinaryIO, Optional, TextIO

import numpy as np

from svd.data.dataset import DatasetError

LONGEST_LINE = 2**17
"""Bytes; longer than any row, and the limit of Python's csv module for a field."""

_BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}  # the longer ones first
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""The first line that Excel may write, which names the delimiter."""
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
_DOS_END = "\x1a"


class CsvRows:
    """The rows of a CSV file: pairs of (line number, stripped cells of the requested columns).

    UTF-8, UTF-16 and UTF-32 are recognised by their byte order marks; commas, semicolons, tabs and bars by the header,
    whose names are case-insensitive. Blank rows are skipped, cells that are missing at the end of a row are empty.

    Args:
        path: The file.
        needed: Required columns.
        optional: Columns whose cells are empty if they are missing. All others are ignored.
        remedy: What to do if the file cannot be used; error messages end with it.

    Raises:
        DatasetError: the file cannot be read, is not a CSV file, or a row has more cells than the header; rows are
            checked during iteration.
    """

    def __init__(self, path: str, needed: Sequence[str], optional: Sequence[str], remedy: str):
        self._path, self._remedy = path, remedy
        self._needed, self._optional = needed, optional
        self._decimal_comma = False

    def number(self, text: str) -> float:
        """The number in a cell; nan for anything else, and where a comma may be a decimal or a thousands separator."""
        if "," in text and (self._decimal_comma or not _THOUSANDS.fullmatch(text)):
            text = text.replace(",", ".")
        try:
            return nan if "_" in text else float(text)
        except ValueError:
            return nan

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        try:
            with self._open() as file:
                yield from self._rows(file)
        except UnicodeError as error:
            raise self._not_in_utf8() from error
        except FileNotFoundError as error:
            raise DatasetError(f"{self._path}: no such file; {self._remedy}") from error
        except PermissionError as error:
            raise DatasetError(f"{self._path}: may not be read; change its permissions") from error
        except (OSError, ValueError) as error:  # such as a NUL byte in its name
            if isinstance(error, DatasetError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise DatasetError(f"{self._path}: cannot be read ({reason}); {self._remedy}") from error

    def _open(self) -> TextIO:
        mode = os.stat(self._path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
            raise DatasetError(f"{self._path}: {kind}, not a CSV file; {self._remedy}")
        with open(self._path, "rb") as file:
            start = file.read(4)
            encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8-sig")
            file.seek(0)
            self._scan(file, zeros=encoding != "utf-8-sig")
        return open(self._path, encoding=encoding)  # \r and \r\n end lines, too

    def _scan(self, file: BinaryIO, zeros: bool) -> None:
        """Raise DatasetError for lines that would exhaust memory, and for NUL bytes in UTF-8."""
        length = 0
        while block := file.read(2**20):
            if not zeros and b"\0" in block:
                raise DatasetError(f"{self._path}: not a CSV file in UTF-8 (it has zero bytes); {self._remedy}")
            codes = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero((codes == 10) | (codes == 13))
            gaps = np.diff(ends, prepend=-1 - length, append=len(block))
            if gaps.max() > LONGEST_LINE:
                what = f"a line has more than {LONGEST_LINE} bytes"
                raise DatasetError(f"{self._path}: not a CSV file ({what}); {self._remedy}")
            length = int(gaps[-1]) - (len(ends) > 0)

    def _rows(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        header, delimiter, above = self._header(file)
        self._decimal_comma = delimiter == ";"  # Excel's choice in locales with a decimal comma
        places = self._places(header)
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for row in reader:
                line = above + reader.line_num
                if any(row[len(header) :]):
                    remedy = "put paths with a comma in quotes"
                    raise DatasetError(f"{self._path}: line {line} has more fields than the header; {remedy}")
                row += [""] * (len(header) - len(row))
                cells = [row[place].strip() if place is not None else "" for place in places]
                if any(cells) and cells[0] != _DOS_END:
                    yield line, cells
        except csv.Error as error:
            where = f"line {above + reader.line_num}: {error}"
            raise DatasetError(f"{self._path}: not a CSV file ({where}); {self._remedy}") from error

    def _header(self, file: TextIO) -> tuple[list[str], str, int]:
        """Names of the columns, the delimiter, and the line number of the header."""
        lines = enumerate(file, 1)
        number, line = next((pair for pair in lines if pair[1].strip()), (0, ""))
        if not line:
            raise DatasetError(f"{self._path}: empty; {self._remedy}")
        choice = _DELIMITERS
        if stated := _SEPARATOR_LINE.fullmatch(line.rstrip("\n")):
            choice, (number, line) = stated[1], next(lines, (number, ""))

        def names(delimiter: str) -> list[str]:
            return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]

        headers = {delimiter: names(delimiter) for delimiter in choice}
        known = {delimiter: len({*map(_normalised, header)} & {*self._needed}) for delimiter, header in headers.items()}
        best = max(headers, key=lambda delimiter: (known[delimiter], len(headers[delimiter])))
        return headers[best], best, number

    def _places(self, header: list[str]) -> list[Optional[int]]:
        names = [_normalised(name) for name in header]
        missing = [name for name in self._needed if name not in names]
        if missing:
            columns = " and no column ".join(missing)
            found = ", ".join(header)[:200]
            raise DatasetError(f"{self._path}: no column {columns}; found {found}; {self._remedy}")
        wanted = (*self._needed, *self._optional)
        twice = [name for name in wanted if names.count(name) > 1]
        if twice:
            raise DatasetError(f"{self._path}: more than one column {twice[0]}; keep one of them")
        return [names.index(name) if name in names else None for name in wanted]

    def _not_in_utf8(self) -> DatasetError:
        """The error for another encoding: which line, and how it reads in Windows-1252."""
        with open(self._path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    text = line[max(error.start - 20, 0) : error.start + 10].decode("cp1252", "replace").strip()
                    where = f"line {number}, which in Windows-1252 reads {text!r}"
                    return DatasetError(f"{self._path}: not a CSV file in UTF-8 ({where}); save it as 'CSV UTF-8'")
        return DatasetError(f"{self._path}: not a CSV file in UTF-8; save it as 'CSV UTF-8'")


def _normalised(name: str) -> str:
    """The name of a column in lower case, with underscores for spaces."""
    return name.casefold().replace(" ", "_")
