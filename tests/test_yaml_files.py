"""YAML of others: what takes time, memory or the interpreter is refused before anything is built of it."""

import os
import time

import pytest
import yaml

from svd.yaml_files import DEEPEST, LARGEST, MOST_VALUES, checked_yaml, load_yaml, read_yaml


def laughs(levels: int) -> str:
    """Aliases of aliases: nine to the power of `levels` values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


REFUSED = {
    "laughs": (laughs(12), "more than 10,000 values"),
    "laughs merged": ("a: &a {b: 1}\n" + "\n".join(["c: [" + ", ".join(["*a"] * 5000) + "]"] * 3), "values"),
    "itself": ("&a [*a]", "stands for nothing, or for what it is a part of"),
    "itself in a mapping": ("a: &a {b: {c: *a}}", "stands for nothing, or for what it is a part of"),
    "no anchor": ("a: *b", "b"),
    "deep lists": ("a: " + "[" * 100_000, "nest"),
    "deep mappings": ("{a: " * 200 + "1" + "}" * 200, "nested too deeply"),
    "deep by aliases": ("\n".join(["a0: &a0 []"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 60)]), "too deeply"),
    "twice": ("seed: 1\nb: 2\nseed: 3", "'seed' stands twice"),
    "twice within": ("a: {b: 1, c: [1, 1], b: 2}", "'b' stands twice"),
    "nul": (r'a: "b\0c"', "NUL"),
    "digits": ("a: " + "9" * 400, "a number of 400 digits"),
    "hexadecimal": ("a: 0x" + "f" * 4000, "digits"),
    "sixties": ("a: " + "1:" * 3000 + "1", "digits"),
    "values": ("[" + "a," * 20_000 + "]", "values"),
    "large": ("a: " + "x" * LARGEST, "more than the 131,072"),
    "control": ("a: \x01", "control characters|special characters"),
    "cut": ("a: [1\nb: {", "parsing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_be_loaded(name):
    text, what = REFUSED[name]
    start = time.perf_counter()
    with pytest.raises(yaml.YAMLError, match=what):
        checked_yaml(text)
    assert time.perf_counter() - start < 5, "it takes milliseconds"


def test_what_people_write():
    for text in (
        "",
        "a: 1",
        "- a\n- b",
        "word",
        laughs(3),
        "base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}\nthird: {<<: *b, <<: *b}",
        "a: [1, 1, 1]\nb: {a: 1}\nc: {a: 1}",
        "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1),
        "[" + ",".join(["a"] * (MOST_VALUES - 10)) + "]",
        "image: [" + "0" * 64 + ".png]",
        f"sha: '{'1' * 64}'",
        "a: 1e-3\nb: .inf\nc: 2024-01-01\nd: null",
    ):
        assert checked_yaml(text) == text
        assert load_yaml(text) == yaml.safe_load(text)


def test_names_that_are_no_utf_8_come_back():
    name = b"caf\xe9".decode(errors="surrogateescape")
    assert load_yaml(checked_yaml(yaml.safe_dump({"image": name}, allow_unicode=True))) == {"image": name}


def test_dates_and_objects_that_cannot_be():
    for text in ("a: 2020-99-99", "a: !!python/object/apply:os.system [ls]", "? [a]\n: b"):
        with pytest.raises(yaml.YAMLError):
            load_yaml(checked_yaml(text))


def test_files_that_are_not_read(tmp_path):
    (tmp_path / "large.yaml").write_bytes(b"#" * (LARGEST + 1))
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, what in (("large", "bytes, more than"), ("latin", "no text in UTF-8"), ("pipe", "no ordinary file")):
        with pytest.raises(yaml.YAMLError, match=what):
            read_yaml(tmp_path / f"{name}.yaml")
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "nowhere.yaml")
    (tmp_path / "fine.yaml").write_text("a: 夜景", encoding="utf-8")
    assert read_yaml(tmp_path / "fine.yaml") == "a: 夜景"
