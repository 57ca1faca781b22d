"""A tiny model, random checkpoints of it in every layout, and how to run the converter on them."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from svd import build
from svd.config import load_config
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.layouts import find_layout
from svd_tools.checkpoints.tables import TRANSFORMS
from svd_tools.convert import convert as convert_file
from svd_tools.convert import main

TESTS = Path(__file__).parents[1]
GOLDEN = """
unet: {model_channels: 32, channel_mult: [1, 1, 2, 2], num_res_blocks: 1, num_head_channels: 16, context_dim: 32,
       vector_dim: 96}
autoencoder: {channels: 32, channel_mult: [1, 1, 2, 2], num_res_blocks: 1}
image_encoder: {width: 64, layers: 2, heads: 4, patch_size: 32, output_dim: 32}
"""
TINY = """
unet: {model_channels: 32, channel_mult: [1, 2], num_res_blocks: 1, attention_resolutions: [1],
       num_head_channels: 16, context_dim: 24, vector_dim: 96}
autoencoder: {channels: 32, channel_mult: [1, 2], decoder: DECODER}
image_encoder: {width: 32, layers: 2, heads: 2, patch_size: 32, output_dim: 24}
"""


@pytest.fixture(scope="session")
def _shapes_once():
    """`parameter_shapes`, which builds the networks of a config to learn their shapes: once for each."""
    parameter_shapes, known = build.parameter_shapes, {}

    def shapes_of(config) -> dict[str, tuple[int, ...]]:
        key = repr(config)
        known[key] = known[key] if key in known else parameter_shapes(config)
        return dict(known[key])

    return shapes_of


@pytest.fixture(autouse=True, scope="module")
def _networks_are_built_once(_shapes_once):
    """Most of a conversion's time is the building of networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "parameter_shapes", _shapes_once)
        yield


@pytest.fixture(scope="session")
def manifest():
    """Names and shapes of a published checkpoint."""

    def read(name: str) -> dict[str, tuple[int, ...]]:
        with gzip.open(TESTS / "manifests" / f"{name}.json.gz", "rt") as file:
            return {key: tuple(shape) for key, shape in json.load(file).items()}

    return read


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """(checkpoint, config) of the golden model, in Stability's layout."""
    config = tmp_path_factory.mktemp("golden") / "golden.yaml"
    config.write_text(GOLDEN)
    return TESTS / "golden" / "weights.safetensors", config


@pytest.fixture(scope="session")
def configs(tmp_path_factory):
    """The configs of the tiny model, by the kind of its decoder."""
    folder = tmp_path_factory.mktemp("configs")
    paths = {decoder: folder / f"{decoder}.yaml" for decoder in ("temporal", "image")}
    for decoder, path in paths.items():
        path.write_text(TINY.replace("DECODER", decoder))
    return paths


@pytest.fixture(scope="session")
def config(configs):
    """The config of the tiny model with the temporal decoder."""
    return configs["temporal"]


@pytest.fixture(scope="session")
def random_weights(_shapes_once):
    """Random tensors of a config's model in a layout."""

    def draw(config: Path, layout: str, dtype=np.float32) -> dict[str, np.ndarray]:
        rng, model = np.random.default_rng(0), load_config(config)
        shapes = _shapes_once(model)
        return {
            entry.theirs: rng.standard_normal(TRANSFORMS[entry.transform].shape(shapes[entry.ours])).astype(dtype)
            for entry in expand(find_layout(model, layout), model, shapes)
        }

    return draw


@pytest.fixture(scope="session")
def sgm_weights(random_weights, config):
    return random_weights(config, "sgm")


@pytest.fixture
def sgm_file(sgm_weights, tmp_path):
    """The tiny model in Stability's single file."""
    path = tmp_path / "in" / "tiny.safetensors"
    path.parent.mkdir()
    save_file(sgm_weights, path)
    return path


@pytest.fixture
def convert(tmp_path, capsys):
    """Run the converter's command line; returns (what it wrote, what it printed)."""

    def run(source: Path, config: Path, *arguments: str) -> tuple[Path, str]:
        status = main(
            [f"--pt_weights_file={source}", f"--config={config}", f"--out_dir={tmp_path / 'out'}", *arguments]
        )
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return Path(printed.out.splitlines()[-1]), printed.out

    return run


@pytest.fixture(scope="session")
def _ours(sgm_weights, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    save_file(sgm_weights, folder / "tiny.safetensors")
    return load_file(convert_file(folder / "tiny.safetensors", config, folder / "out"))


@pytest.fixture
def ours(_ours):
    """The tiny model in this project's layout."""
    return dict(_ours)


@pytest.fixture
def converted(tmp_path, config, convert):
    """Convert tensors of a .safetensors file; (what became of them, what was printed)."""

    def run(tensors: dict[str, np.ndarray], *arguments: str) -> tuple[dict[str, np.ndarray], str]:
        save_file(tensors, tmp_path / "x.safetensors")
        path, printed = convert(tmp_path / "x.safetensors", config, "--overwrite", *arguments)
        return load_file(path), printed

    return run


@pytest.fixture
def refuse(tmp_path, capsys):
    """Run the converter on what it must refuse: exit code 2, one last line (returned), and no file."""

    def run(source: Path, config: Path, *arguments: str) -> str:
        out = tmp_path / "out"
        before = sorted(out.rglob("*"))
        status = main([f"--pt_weights_file={source}", f"--config={config}", f"--out_dir={out}", *arguments])
        lines = capsys.readouterr().err.splitlines()
        assert status == 2
        assert lines[-1].startswith("convert.py: error: ")
        assert sum(line.startswith("convert.py") for line in lines) == 1
        assert sorted(out.rglob("*")) == before
        return "\n".join(lines)

    return run


@pytest.fixture(scope="session")
def same_tensors():
    """Check that two dictionaries, or .safetensors files, hold the same bits."""

    def check(a, b) -> None:
        a, b = (x if isinstance(x, dict) else load_file(x) for x in (a, b))
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
            assert a[name].tobytes() == b[name].tobytes(), name

    return check
