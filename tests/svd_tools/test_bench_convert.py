"""The benchmark's own checkpoints are what it takes them for."""

import pytest

from scripts import bench_convert as bench
from svd_tools.checkpoints.sources import read_weights

SHAPES = {"a.weight": (3, 4, 2), "a.bias": (3,), "b": (1,)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["safetensors", "mindspore", "pytorch"])
def test_synthetic_checkpoints(tmp_path, same_tensors, dtype, kind):
    getattr(bench, f"write_{kind}")(tmp_path / "x.ckpt", SHAPES, dtype)
    tensors = read_weights(tmp_path / "x.ckpt").tensors
    same_tensors({name: tensor.read() for name, tensor in tensors.items()}, dict(bench.values(SHAPES, dtype)))


def test_shapes_are_the_published_ones(tmp_path, manifest):
    (tmp_path / "config.yaml").write_text("{}\n")
    assert bench.sgm_shapes(tmp_path / "config.yaml") == manifest("svd_sgm")
