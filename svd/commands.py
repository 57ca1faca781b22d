"""The commands that `pip install` makes: programs of the project, run as in a clone, with their signals and streams."""

from __future__ import annotations

import runpy


def image_to_video() -> None:
    _run("svd_programs.image_to_video")


def train() -> None:
    _run("svd_programs.train")


def convert() -> None:
    _run("svd_tools.convert")


def check_device() -> None:
    _run("svd_tools.check_device")


def _run(module: str) -> None:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
