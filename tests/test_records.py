"""JSON that others have written is bounded, and becomes records whose types hold."""

import os
from dataclasses import dataclass, field
from typing import Optional

import pytest

from svd.records import RecordError, parse_json, read_json, record


@dataclass
class Place:
    number: int = 0
    scale: float = 1.0
    name: Optional[str] = None
    sizes: list[int] = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.number < 0:
            raise ValueError("number must not be negative")


def test_a_record():
    data = parse_json(
        '{"number": 3, "scale": 2, "name": "x", "sizes": [1, 2], "settings": {"a": [null, Infinity]}}', "it"
    )
    assert record(Place, data, "it") == Place(3, 2.0, "x", [1, 2], {"a": [None, float("inf")]})
    assert record(Place, {}, "it") == Place()


@pytest.mark.parametrize(
    "data, problem",
    [
        ([], "has to be a mapping of names to values, not \\[\\]"),
        ({"number": "3"}, "number has to be of type int, not '3'"),
        ({"number": 4.0}, "of type int, not 4.0"),
        ({"number": True}, "of type int, not True"),
        ({"number": None}, "of type int, not None"),
        ({"number": -1}, "must not be negative"),
        ({"scale": "x" * 100}, "of type float, not 'xxx.*\\.\\.\\."),
        ({"name": 3}, "of type str"),
        ({"sizes": {"a": 1}}, "has to be a list"),
        ({"sizes": [1, "2"]}, "sizes\\[1\\] has to be of type int"),
        ({"settings": [1]}, "settings has to be of type dict"),
        ({"other": 1}, "unknown field 'other'"),
    ],
)
def test_what_is_no_record(data, problem):
    with pytest.raises(RecordError, match=f"^it.*{problem}"):
        record(Place, data, "it")


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "[" * 100 + "]" * 100, "9" * 400, '{"a": 1, "a": 2}', b"\xff\xfe", "{} {}"]
)
def test_what_is_no_json(text):
    with pytest.raises(RecordError, match="^it is no JSON that can be used: [^\n]+$"):
        parse_json(text, "it")


def test_files_of_other_kinds_and_sizes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("[" + "1," * 1000 + "1]")
    for name, problem in (
        ("pipe", "no ordinary file"),
        ("large", "more than the 1,000 that are read"),
        (".", "no ordinary"),
    ):
        with pytest.raises(RecordError, match=problem):
            read_json(tmp_path / name, 1000)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")
