"""Compiled graphs that are kept between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from svd.compile_cache import CompileCache

SCRIPT = """
import sys
import svd
from svd import runtime
runtime.setup("CPU")
import numpy as np
from mindspore import Tensor
from svd.compile_cache import CompileCache
from svd.layers.basic import Linear
folder, weight, *shapes = sys.argv[1:]
layer = Linear(3, 2)
layer.weight.set_data(Tensor(np.full((2, 3), float(weight), np.float32)))
layer.bias.set_data(Tensor(np.zeros(2, np.float32)))
CompileCache(folder, "facts").keep("layer", layer)
for rows in map(int, shapes):
    print(layer(Tensor(np.ones((rows, 3), np.float32))).asnumpy().tolist())
"""


def run(folder: Path, weight: float, *rows: int) -> tuple[list, str]:
    (script := folder.with_suffix(".py")).write_text(SCRIPT)  # of a -c MindSpore cannot read the sources
    command = map(str, [sys.executable, script, folder, weight, *rows])
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [eval(line) for line in done.stdout.splitlines() if line.startswith("[[")], done.stdout + done.stderr


def graphs(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.mindir")}


def test_another_process_takes_what_was_kept(tmp_path):
    """With its own weights; graphs of other shapes are told apart, in whatever order they come."""
    assert run(tmp_path, 1, 1, 2)[0] == [[[3, 3]], [[3, 3], [3, 3]]]
    kept = graphs(tmp_path)
    values, said = run(tmp_path, 2, 1, 2)
    assert values == [[[6, 6]], [[6, 6], [6, 6]]] and graphs(tmp_path) == kept and len(kept) >= 2
    assert "Use the compilation cache" in said
    assert run(tmp_path, 2, 2, 1)[0] == [[[6, 6], [6, 6]], [[6, 6]]]


@pytest.mark.parametrize("change", ["facts", "sources", "name", "training"])
def test_what_a_graph_depends_on_is_in_the_folders_name(tmp_path, monkeypatch, change):
    class Cell:
        training = False

        def compile(self, *args):
            pass

    def folders(name="network", **attributes):
        cell = Cell()
        vars(cell).update(attributes)
        CompileCache(tmp_path, facts).keep(name, cell)
        cell.compile("x")
        return {path.name for path in tmp_path.iterdir()}

    facts = "config"
    assert folders() == folders() and len(folders()) == 1
    if change == "sources":
        monkeypatch.setattr("svd.compile_cache._sources", lambda: "others")
    facts = "another" if change == "facts" else facts
    arguments = {"name": {"name": "decoder"}, "training": {"training": True}}.get(change, {})
    assert len(folders(**arguments)) == 2
