"""The benchmarks of the networks and of a video: at a tiny size, both sides compute the same.

They run in this process, which has imported everything; test_bench_train runs a program as it is.
"""

import importlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from device import cpu_only

pytestmark = cpu_only("the benchmarks are of CPU")

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def interleaved(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield importlib.import_module("interleaved")
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def run(interleaved, monkeypatch):
    """Run a benchmark; returns what each of its comparisons built and how far the sides are apart."""
    found = []

    def compare(sides, arguments, repeats, unit, inputs, profile):
        built, calls = zip(*(build(*arguments) for build in sides))
        interleaved.check_parameters(*built)
        found.append((inputs, interleaved.check_values(*(interleaved.Turn(call(), 0.0) for call in calls))))

    def run(program: str, *options: str):
        monkeypatch.setattr("sys.argv", [program, *options])
        importlib.import_module(program).main()
        return found

    monkeypatch.setattr(interleaved, "compare", compare)
    monkeypatch.setattr(interleaved, "in_own_process", lambda function, *arguments: function(*arguments))
    return run


@pytest.mark.parametrize("size, shape", [("tiny", "2 x 3 x 4 x 4 x 4"), ("tiny_image", "2 x 1 x 4 x 8 x 8")])
def test_bench_unet(run, size, shape):
    ((inputs, difference),) = run("bench_unet", f"--size={size}")
    assert inputs == f"latents {shape}"
    assert 0 < difference < 1e-4  # no difference at all: both sides would be the same


def test_bench_train(run):
    """Of the temporal layers over Stable Diffusion's; test_bench_train is that of Stable Video Diffusion's."""
    ((inputs, difference),) = run("bench_train", "--size=tiny_animatediff")
    assert inputs == "latents 2 x 3 x 4 x 8 x 8"
    assert difference < 1e-5


def test_bench_pipeline(run):
    inputs, differences = zip(*run("bench_pipeline", "--tiny"))
    assert inputs == ("3 frames of 16 x 16", "1 image of 224 x 224", "3 frames of 16 x 16, 2 steps")
    assert np.array(differences) == pytest.approx(0, abs=2e-4)


def test_side_that_is_killed(interleaved):
    with pytest.raises(SystemExit, match="process of pytorch was killed"):
        interleaved.Side("pytorch", os._exit, (9,))


def test_refuses_other_values(interleaved):
    with pytest.raises(SystemExit, match="differ by 1.0e-02"):
        interleaved.check_values(interleaved.Turn(1.01, 0.0), interleaved.Turn(1.0, 0.0))
    with pytest.raises(SystemExit, match="differ by nan"):
        interleaved.check_values(interleaved.Turn(float("nan"), 0.0), interleaved.Turn(1.0, 0.0))
    with pytest.raises(SystemExit, match="not the same network"):
        interleaved.check_parameters(interleaved.Built(0.0, 3), interleaved.Built(0.0, 4))


def test_bench_pixels(run):
    (training, of_training), (sampling, of_sampling) = run("bench_pixels", "--size=tiny")
    assert training == sampling == "clips 2 x 3 x 1 x 8 x 8"
    assert 0 < of_training < 1e-4 and 0 < of_sampling < 1e-4
