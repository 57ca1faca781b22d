"""CSV files as programs write them are read as they are meant, or refused in one line; never wrong in silence."""

import math
import os
import time
from pathlib import Path

import pytest

from svd.data.csv_rows import LONGEST_LINE, CsvRows
from svd.data.dataset import DatasetError

NAMES = ("path", "length")


def read(path: Path, content: str | bytes, encoding: str = "utf-8") -> list[tuple]:
    """The rows of a file with this content, with numbers of lines."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return [(line, *cells) for line, cells in CsvRows(str(path), NAMES, ("why",), "give one")]


ONE = [(2, "ü.mp4", "40", "")]


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("path,length\nü.mp4,40\n", "utf-8"),
        ("path,length\r\nü.mp4,40\r\n", "utf-8-sig"),
        ("path;length\r\nü.mp4;40\r\n", "utf-8-sig"),
        ("path\tlength\r\nü.mp4\t40\r\n", "utf-16"),
        ("\ufeffpath\tlength\r\nü.mp4\t40\r\n", "utf-16-be"),
        ("path,length\nü.mp4,40", "utf-32"),
        ("path|length\nü.mp4|40\n", "utf-8"),
        ("path,length\rü.mp4,40\r", "utf-8"),  # an old Mac
        ('"path","length"\n"ü.mp4","40"\n', "utf-8"),
        ('"path";"length"\n"ü.mp4";"40"\n', "utf-8"),
        ("PATH, Length \n ü.mp4 , 40 \n", "utf-8"),
        ("length,,PATH\n40,0,ü.mp4\n", "utf-8"),
        (",path,length\n0,ü.mp4,40\n", "utf-8"),  # pandas' index
        ("path,length,,\nü.mp4,40,,\n", "utf-8"),
        ("path,length\nü.mp4,40,,\n", "utf-8"),
        ("path,length\nü.mp4,40\n\n,,\n \n\x1a", "utf-8"),
    ],
)
def test_as_programs_write_them(tmp_path, text, encoding):
    assert read(tmp_path / "a.csv", text, encoding) == ONE


def test_excel_may_name_the_delimiter(tmp_path):
    expected = [(3, "a,b;c", "40", "")]
    assert read(tmp_path / "a.csv", 'sep=\t\r\npath\tlength\r\n"a,b;c"\t40\r\n') == expected
    assert read(tmp_path / "a.csv", '"sep=^"\npath^length\na,b;c^40\n') == expected


def test_lines_are_numbered_as_in_the_file(tmp_path):
    text = '\npath,caption,length\n\na.mp4,"two\nlines",3\nb.mp4,x,4\n'
    assert read(tmp_path / "a.csv", text) == [(5, "a.mp4", "3", ""), (6, "b.mp4", "4", "")]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("sep=;\n", "no column path and no column length"),
        ("a,b\n", "no column path and no column length; found a, b; give one"),
        ("path,length,Path\n", "more than one column path"),
        ("path,length\na, b.mp4,40\n", "line 2 has more fields than the header; put paths with a comma in quotes"),
        ("path;length\na;b.mp4;40\n", "line 2 has more fields"),
        ('path,length\nc.mp4,1\n"a,40\n', "not a CSV file .*line 3"),
        ('path,length\n"a"b,40\n', "not a CSV file .*line 2"),
        ("path,length\na\0.mp4,40\n", r"not a CSV file in UTF-8 \(it has zero bytes\)"),
        ("path,length\nä,40\n".encode("utf-16-le"), "not a CSV file in UTF-8"),
        ("path,length\na,1\nCafé.mp4,40\n".encode("cp1252"), "line 3, which in Windows-1252 reads 'Café.mp4,40'"),
        ("\ufeffpath,length\na,40\n".encode("utf-16-le")[:-3], "not a CSV file in UTF-8"),
        (os.urandom(20_000) + b"\xff", "not a CSV file"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    with pytest.raises(DatasetError, match=message) as error:
        read(tmp_path / "a.csv", content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "content",
    [
        b"path,length\n" + b"a" * 20_000_000,
        b"path,length\n" + b"," * 1_000_000 + b"\n",
        b"," * 1_000_000 + b"\npath,length\n",
        b"path,length\na,1\n" * 10 + b"\r" * 1000 + b"b" * (LONGEST_LINE + 1),
        b"path,length\n" + b"a" * (2**20 - 100) + b"\nb,1\n",
        b'path,length\n"' + b"a\n" * 1_000_000,
    ],
)
def test_what_would_take_all_memory_is_refused_at_once(tmp_path, content):
    start = time.perf_counter()
    with pytest.raises(DatasetError, match="not a CSV file"):
        read(tmp_path / "a.csv", content)
    assert time.perf_counter() - start < 10


def test_long_lines_that_are_no_trouble(tmp_path):
    path = "a" * (LONGEST_LINE - 3000)
    text = "path,length\n" + f"{path},1\n" * 20
    assert [cells[0] == path for _, *cells in read(tmp_path / "a.csv", text)] == [True] * 20


def test_no_ordinary_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path, "a folder, not a CSV file; give one"),
        (tmp_path / "pipe", "no ordinary file, not a CSV file"),
        ("/dev/zero", "no ordinary file, not a CSV file"),
        (tmp_path / "absent", "no such file; give one"),
        ("a\0b", "embedded null byte"),
    ):
        with pytest.raises(DatasetError, match=message):
            list(CsvRows(str(path), NAMES, (), "give one"))


@pytest.mark.parametrize(
    "text, commas, semicolons",
    [
        ("40", 40, 40),
        ("40.0", 40, 40),
        ("-1e3", -1000, -1000),
        ("127,5", 127.5, 127.5),
        ("23,9760", 23.976, 23.976),
        ("23,976", None, 23.976),  # with commas between cells, this may be twenty-three thousand
        ("1,234,567", None, None),
        ("1.234,5", None, None),
        ("1_000", None, None),
        ("1 000", None, None),
        ("", None, None),
        ("x", None, None),
    ],
)
def test_numbers(tmp_path, text, commas, semicolons):
    for delimiter, expected in ((",", commas), (";", semicolons)):
        (tmp_path / "a.csv").write_text(f"path{delimiter}length\na{delimiter}1\n")
        rows = CsvRows(str(tmp_path / "a.csv"), NAMES, (), "")
        assert len(list(rows)) == 1
        number = rows.number(text)
        assert math.isnan(number) if expected is None else number == expected
