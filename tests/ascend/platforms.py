"""On which devices an operator runs, as MindSpore documents it."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import cache

from mindspore.ops import auto_generate, operations

PLATFORM = re.compile(r"\b(Ascend|GPU|CPU)\b")
SECTION = re.compile(r"Supported Platforms:[ \t]*\n[ \t]*(?P<line>.*)")
REFERENCE = re.compile(r"[Rr]efer to :\w+:`~?(?P<name>mindspore(?:\.\w+)+)`")


@cache
def documented_platforms(primitive: str) -> frozenset[str]:
    """The devices in "Supported Platforms:" of an operator, or of the function that its documentation refers to.

    Empty for an operator that does not exist, that says nothing, or that is deprecated.
    """
    for module in (operations, auto_generate):
        text = inspect.getdoc(getattr(module, primitive, None)) or ""
        section = SECTION.search(text)
        if section is None and (reference := REFERENCE.search(text)):
            section = SECTION.search(_documentation(reference["name"]))
        if section is not None:
            return frozenset(PLATFORM.findall(section["line"]))
    return frozenset()


def _documentation(name: str) -> str:
    """The docstring of mindspore.a.b; empty if there is none."""
    module, _, member = name.rpartition(".")
    return inspect.getdoc(getattr(importlib.import_module(module), member, None)) or ""
