"""Compiled graphs that are kept between processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from training_runs import assert_same, checkpoint, options, start_training, tensors

from svd import compile_cache
from svd.build import load_pipeline
from svd.compile_cache import CompileCache, open_cache
from svd.layers.basic import Linear
from svd.trust import write_trusted

SCRIPT = """
import sys
sys.argv[0] = "-c"  # as in consoles, where there is no script
import svd
from svd import runtime
runtime.setup("CPU")
import numpy as np
from mindspore import Tensor, nn
from svd.compile_cache import CompileCache
from svd.layers.basic import Linear

class Scaled(nn.Cell):
    __module__ = "svd.scaled"  # as if its source were of the package

    def __init__(self, layer):
        super().__init__(auto_prefix=False)
        self.layer = layer

    def construct(self, x, number: int):
        return self.layer(x) * number

folder, weight, *calls = sys.argv[1:]
layer = Linear(3, 2)
layer.weight.set_data(Tensor(np.full((2, 3), float(weight), np.float32)))
layer.bias.set_data(Tensor(np.zeros(2, np.float32)))
scaled = Scaled(layer)
cache = CompileCache(folder, "facts")
cache.keep("layer", layer)
cache.keep("scaled", scaled)
for call in calls:
    rows, _, number = call.partition("x")
    x = Tensor(np.ones((int(rows), 3), np.float32))
    print((scaled(x, int(number)) if number else layer(x)).asnumpy().tolist(), flush=True)
"""
LOADED = "Use the compilation cache"
VIDEOS = """
import json, sys
import numpy as np
from svd.build import load_pipeline

checkpoint, kept, out, *changes = sys.argv[1:]
pipe = load_pipeline(None, checkpoint, "CPU", compile_cache=kept)
image = np.linspace(0, 1, 8 * 8 * 3, dtype=np.float32).reshape(8, 8, 3)
options = {"progress": False, "sampling_steps": 2, "output": "float"}
videos = {change: pipe(image, **options, **json.loads(change)) for change in changes}
np.savez(out, **videos)
"""
CHANGES = ["{}", '{"num_frames": 2, "decode_chunk_size": 1}', '{"guidance": 1.0}']
"""Of settings, one after the other, of a pipeline whose graphs are kept."""


def start(folder: Path, weight: float, *calls: str) -> subprocess.Popen:
    """A process whose layer, of this weight, is called with so many rows; ROWSxNUMBER multiplies its result."""
    (script := folder.with_suffix(".py")).write_text(SCRIPT)
    command = map(str, [sys.executable, script, folder, weight, *calls])
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "GLOG_v": "2", "MS_SUBMODULE_LOG_v": ""}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: subprocess.Popen, weight: float, *calls: str) -> str:
    """Its results are right, whatever was kept; returns all that it has said."""
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    expected = []
    for call in calls:
        rows, _, number = call.partition("x")
        expected.append([[3 * weight * int(number or 1)] * 2] * int(rows))
    assert [eval(line) for line in said.splitlines() if line.startswith("[[")] == expected
    return said


def run(folder: Path, weight: float, *calls: str) -> str:
    return finish(start(folder, weight, *calls), weight, *calls)


def graphs(folder: Path) -> dict[Path, int]:
    """By paths, when they were used last."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.graph")}


def written(folder: Path) -> dict[Path, int]:
    """By paths, the numbers of the files, which are others when they are written again."""
    return {path: path.stat().st_ino for path in folder.glob("*.graph")}


CALLS = ["1", "2", "3", "1x2", "2x2", "3x3"]


@pytest.fixture(scope="module")
def six_graphs(tmp_path_factory) -> Path:
    """A folder of the graphs of `CALLS`: to be copied."""
    folder = tmp_path_factory.mktemp("graphs") / "kept"
    assert run(folder, 1, *CALLS).count(LOADED) == 0
    assert len(graphs(folder)) == len(list(folder.iterdir())) == 6
    return folder


@pytest.fixture
def folder(six_graphs, tmp_path) -> Path:
    return shutil.copytree(six_graphs, tmp_path / "kept")


def test_another_process_takes_what_was_kept(folder):
    """With its own weights; graphs of other shapes, numbers and cells are told apart, in whatever order they come."""
    kept, used = written(folder), graphs(folder)
    assert run(folder, 2, "4", "3x3", "2", "2x5", "1", "1x2").count(LOADED) == 4
    assert len(graphs(folder)) == 8 and kept.items() <= written(folder).items()
    assert sum(graphs(folder)[path] > time for path, time in used.items()) == 4
    assert {path.stat().st_mode & 0o077 for path in [folder, *folder.iterdir()]} == {0}


def test_what_is_damaged_or_not_ours_is_compiled_again(folder):
    """And replaced: graphs that were cut, changed or emptied, a link to another, a folder, what others can write."""
    paths = sorted(graphs(folder))
    content = bytearray(paths[1].read_bytes())
    content[-9] ^= 1
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    paths[1].write_bytes(content)
    paths[2].write_bytes(b"")
    paths[3].unlink()
    paths[3].symlink_to(paths[5])  # of another graph
    paths[4].chmod(0o606)
    kept = written(folder)
    said = run(folder, 2, *CALLS)
    assert said.count(LOADED) == 1
    assert f"svd: {paths[4]} is not used: others can write it (mode 0606; chmod go-w makes it yours alone)" in said
    changed = {path for path, number in written(folder).items() if kept.get(path) != number}
    assert changed == set(paths[:5])
    paths[5].unlink()
    paths[5].mkdir()
    assert run(folder, 2, *CALLS).count(LOADED) == 5
    assert run(folder, 2, *CALLS).count(LOADED) == 6
    assert {path.stat().st_mode & 0o077 for path in graphs(folder)} == {0}


def test_a_folder_that_others_can_write_is_not_used(folder):
    folder.chmod(0o770)
    said = run(folder, 2, "1", "2")
    assert LOADED not in said
    told = f"svd: compiled graphs are not kept: {folder} is not used: others can write it (mode 0770; chmod go-w "
    assert said.count("svd: compiled graphs are not kept") == said.count(told) == 1


def test_two_processes_at_once(tmp_path):
    """Also while neither has anything: each keeps, or takes, whole graphs."""
    folder = tmp_path / "kept"
    for _ in range(2):
        processes = [start(folder, weight, "1", "2", "2x3") for weight in (1, 2)]
        for weight, process in zip((1, 2), processes):
            assert "not kept" not in finish(process, weight, "1", "2", "2x3")
    assert len(graphs(folder)) == len(list(folder.iterdir())) == 3


def test_settings_that_change_between_videos(inputs, tmp_path):
    """Each video is that of a pipeline that keeps nothing; another process finds all graphs, in whatever order."""
    kept, results = tmp_path / "kept", [tmp_path / "first.npz", tmp_path / "second.npz"]
    (script := tmp_path / "videos.py").write_text(VIDEOS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    found = []
    for out, changes in zip(results, (CHANGES, CHANGES[::-1])):
        command = [sys.executable, script, inputs / "tiny.safetensors", kept, out, *changes]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        found.append(graphs(kept))
    assert len(found[0]) >= 5 and found[1].keys() == found[0].keys()  # their times are those of their last use

    image = np.linspace(0, 1, 8 * 8 * 3, dtype=np.float32).reshape(8, 8, 3)
    plain = load_pipeline(None, inputs / "tiny.safetensors", "CPU", mode=1)
    for change in CHANGES:
        video = plain(image, progress=False, sampling_steps=2, output="float", **json.loads(change))
        compiled, loaded = (np.load(out)[change] for out in results)
        assert_close(compiled, video, 1e-5)
        np.testing.assert_array_equal(loaded, compiled)


# --- what a graph depends on ---


class FakeCell(Linear):
    """Compiles as MindSpore does: with the number of the process's graph."""

    __module__ = "svd.fake"
    compiled = 0

    def __init__(self):
        super().__init__(3, 2)

    def compile(self, *args, **kwargs):
        folder = Path(os.environ["MS_COMPILER_CACHE_PATH"]) / "rank_0/graph_cache"
        path = folder / f"compile_cache_{FakeCell.compiled}.mindir"
        FakeCell.compiled += 1
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return path.read_text()
        path.write_text(repr((args, kwargs)))
        return "compiled"


def as_another_process(monkeypatch) -> None:
    monkeypatch.setattr(
        compile_cache, "_check_whole", lambda graph: None
    )  # what fake cells write is none of MindSpore's
    workspace = compile_cache._Workspace()
    monkeypatch.setattr(compile_cache, "_workspace", lambda: workspace)


@pytest.fixture
def compile_in(tmp_path, monkeypatch):
    """Returns what a cell of this name and these attributes takes or writes, as another process would."""

    def compile_in(*args, name="network", facts="config", folder=tmp_path / "kept", cell=None, **attributes):
        as_another_process(monkeypatch)
        FakeCell.compiled = 0
        cell = cell or FakeCell()
        vars(cell).update(attributes)
        CompileCache(folder, facts).keep(name, cell)
        return cell.compile(*args)

    return compile_in


@pytest.mark.parametrize(
    "change", ["facts", "sources", "kernels", "name", "training", "number", "shape", "parameters", "scale"]
)
def test_another_graph_is_compiled(compile_in, monkeypatch, tmp_path, change):
    x = Tensor(np.zeros((2, 3), np.float32))
    assert compile_in(x, 1) == "compiled" and compile_in(x, 1) != "compiled"
    arguments, changed = [x, 1], {}
    if change == "sources":
        (tmp_path / "svd").mkdir()
        (tmp_path / "svd/other.py").write_text("another version")
        monkeypatch.setattr(compile_cache, "__file__", str(tmp_path / "svd/compile_cache.py"))
    elif change == "kernels":
        monkeypatch.setattr(compile_cache, "library", lambda: None)
    elif change == "number":
        arguments = [x, 2]
    elif change == "shape":
        arguments = [Tensor(np.zeros((3, 3), np.float32)), 1]
    elif change == "parameters":
        changed["cell"] = FakeCell()
        changed["cell"].weight.set_dtype(ms.float16)
    else:
        changed[change] = {"facts": "another", "name": "decoder", "training": True, "scale": 2.0}[change]
    assert compile_in(*arguments, **changed) == "compiled"
    assert compile_in(*arguments, **changed) != "compiled"


def test_the_sources_are_all_that_is_compiled(monkeypatch, tmp_path):
    """Python's and the kernels', wherever they are in the package, by names and contents."""
    monkeypatch.setattr(compile_cache, "__file__", str(tmp_path / "compile_cache.py"))
    paths = [tmp_path / name for name in ("a.py", "layers/b.py", "operators/kernels/c.cpp", "operators/kernels/d.h")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first")
    digests = [compile_cache._sources()]
    (tmp_path / "notes.txt").write_text("not compiled")
    assert compile_cache._sources() == digests[0]
    for path in paths:
        path.write_text("second")
        digests.append(compile_cache._sources())
    paths[0].rename(tmp_path / "e.py")
    digests.append(compile_cache._sources())
    (tmp_path / "e.py").unlink()
    digests.append(compile_cache._sources())
    assert len(set(digests)) == len(digests) == 7


def test_values_of_tensors_do_not_matter(compile_in):
    assert compile_in((Tensor([1.0]), None)) == "compiled"
    assert compile_in((Tensor([2.0]), None)) != "compiled"
    assert compile_in((Tensor([2.0]), Tensor([2.0]))) == "compiled"


def test_if_mindspore_counted_otherwise_nothing_wrong_would_be_served(tmp_path, monkeypatch):
    """It finds nothing then, and how it counts is known from what it writes."""
    as_another_process(monkeypatch)
    cell, cache = FakeCell(), CompileCache(tmp_path / "kept")
    cache.keep("network", cell)
    FakeCell.compiled = 3
    assert cell.compile(1) == "compiled" == cell.compile(2)
    again = FakeCell()
    cache.keep("network", again)
    assert again.compile(1) == repr(((1,), {})) and again.compile(2) == repr(((2,), {}))
    FakeCell.compiled = 9
    last = FakeCell()
    cache.keep("network", last)
    assert last.compile(1) == "compiled" and last.compile(2) == repr(((2,), {}))


@pytest.mark.parametrize("fault", ["a file", "no space", "MindSpore's own"])
def test_without_a_place_for_them_graphs_are_compiled(compile_in, tmp_path, monkeypatch, fault, capsys):
    folder = tmp_path / "kept"
    if fault == "a file":
        folder.touch()
    elif fault == "no space":

        def refuse(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(compile_cache, "write_trusted", refuse)
    else:
        monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "unused"))
    assert compile_in("x") == "compiled"
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "unused again"))
    assert compile_in("x") == "compiled"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("svd: compiled graphs are not kept: ") for line in lines)


# --- where graphs are kept ---


def test_what_was_not_used_for_longest_is_removed(tmp_path, monkeypatch):
    """Loading is use; files of others stay."""
    folder = tmp_path / "kept"
    (folder).mkdir(mode=0o700)
    (folder / "notes.txt").write_text("x" * 1000)
    monkeypatch.setattr(compile_cache, "LIMIT", 300)
    paths = [folder / f"{name}.graph" for name in "abcd"]
    for age, path in enumerate(paths):
        write_trusted(path, b"x" * (100 - 32))  # with their digests, 100 bytes each
        os.utime(path, (age + 1, age + 1))
    assert compile_cache._read(paths[0]) is not None
    compile_cache._evict(folder)
    assert sorted(graphs(folder)) == [paths[0], *paths[2:]] and (folder / "notes.txt").exists()
    monkeypatch.setattr(compile_cache, "LIMIT", 99)
    compile_cache._evict(folder)
    assert not graphs(folder)


def test_what_mindspore_could_not_write_whole_is_not_kept(six_graphs):
    """Of a graph that it has written, without its last byte, and of half of it."""
    graph = next(six_graphs.glob("*.graph")).read_bytes()[:-32]  # without the digest
    compile_cache._check_whole(graph)
    for part in (graph[:-1], graph[: len(graph) // 2]):
        with pytest.raises(OSError, match="could not write all of a graph"):
            compile_cache._check_whole(part)


def test_a_graph_that_is_too_large_is_not_kept(compile_in, tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "LIMIT", 5)
    assert compile_in("x") == compile_in("x") == "compiled"
    assert not graphs(tmp_path / "kept")


@pytest.fixture
def user(tmp_path, monkeypatch) -> Path:
    """Nothing is said but where this user's caches are; returns where graphs go by default."""
    monkeypatch.delenv("SVD_COMPILE_CACHE", raising=False)
    monkeypatch.delenv("MS_COMPILER_CACHE_ENABLE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compile_cache, "library", lambda: None)
    return tmp_path / "svd-mindspore" / "graphs"


def test_by_default_graphs_are_in_the_users_cache_folder(user, monkeypatch, tmp_path):
    assert open_cache("auto", "CPU")._folder == user
    monkeypatch.setenv("SVD_COMPILE_CACHE", str(tmp_path / "another"))
    assert open_cache("auto", "CPU")._folder == tmp_path / "another"
    assert open_cache(tmp_path / "a third", "CPU")._folder == tmp_path / "a third"
    assert open_cache("off", "CPU") is open_cache(None, "CPU") is None
    monkeypatch.setenv("SVD_COMPILE_CACHE", "off")
    assert open_cache("auto", "CPU") is None


@pytest.mark.parametrize("where", ["another device", "kernels of this process"])
def test_where_it_is_not_known_that_loaded_graphs_are_equal_none_are_kept_by_default(
    user, monkeypatch, where, tmp_path
):
    """By default: in a folder that is asked for, they are."""
    device = "Ascend" if where == "another device" else "CPU"
    if where == "kernels of this process":
        monkeypatch.setattr(compile_cache, "library", lambda: Path("/tmp/svd-kernels-abc/kernels-def.so"))
    assert open_cache("auto", device) is None
    assert open_cache(tmp_path, device) is not None


def test_graphs_of_several_processes_are_not_kept(user, tmp_path):
    """They may differ between them."""
    assert open_cache("auto", "CPU", ranks=2) is open_cache(tmp_path, "CPU", ranks=2) is None


@pytest.mark.parametrize("home", ["none", "a file", "others can write it"])
def test_without_a_home_graphs_are_compiled(user, monkeypatch, home, capsys):
    if home == "none":
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    elif home == "a file":
        user.parent.touch()
    else:
        user.parent.mkdir()
        user.parent.chmod(0o777)
    assert open_cache("auto", "CPU") is None
    assert capsys.readouterr().err.startswith("svd: compiled graphs are not kept: ")


def test_a_folder_that_cannot_be_written_is_read(compile_in, tmp_path, monkeypatch, capsys):
    """As that of an image of a container may be."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    assert compile_in("x") == "compiled"
    for name in ("write_trusted", "_evict"):
        monkeypatch.setattr(compile_cache, name, refuse)
    monkeypatch.setattr(compile_cache.os, "utime", refuse)
    assert compile_in("x") != "compiled" and not capsys.readouterr().err


# --- training ---


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """What trainings have written: without a cache, with an empty one, and with what the latter has kept."""
    folder, checkpoints = tmp_path_factory.mktemp("training"), {}
    for name, cache in (("without", "off"), ("compiled", folder / "kept"), ("loaded", folder / "kept")):
        flags = ["--environment.mode=0", "--train.updates=3", "--train.gradient_accumulation=2"]
        flags += [f"--environment.compile_cache={cache}", "--train.temporal_only=True"]
        child = start_training(folder / f"{name}.log", *options(inputs, folder / name), *flags)
        assert child.wait() == 0, child.said
        checkpoints[name] = tensors(checkpoint(folder / name, 3))
        if name == "compiled":
            kept = written(folder / "kept")
    assert any(path.name.startswith("step-") for path in kept) and written(folder / "kept") == kept
    return checkpoints


@pytest.mark.parametrize("name", ["compiled", "loaded"])
def test_a_training_is_the_same_with_graphs_that_are_kept(trained, name):
    """Weights, averages and states of the optimizer, bit for bit."""
    assert_same(trained[name], trained["without"])
