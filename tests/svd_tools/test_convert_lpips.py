"""svd convert-lpips: both files' names, and what is refused."""

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from svd.networks.perceptual import VGG16, load_lpips
from svd_tools.convert_lpips import main

LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Of torchvision's vgg16.features."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Files of the published names and shapes, and their tensors."""
    folder, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    widths = [channels for level in VGG16 for channels in level]
    vgg = {"classifier.6.bias": np.zeros(1000, np.float32)}
    for number, a, b in zip(LAYERS, [3, *widths], widths):
        vgg[f"features.{number}.weight"] = rng.standard_normal((b, a, 3, 3), np.float32) * np.float32(0.05)
        vgg[f"features.{number}.bias"] = rng.standard_normal(b, np.float32)
    linear = {f"lin{i}.model.1.weight": rng.random((1, level[-1], 1, 1), np.float32) for i, level in enumerate(VGG16)}
    save_file(vgg, folder / "vgg16.safetensors")
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(value) for name, value in linear.items()}, folder / "vgg.pth")
    return folder, vgg, linear


def flags(folder, out) -> list[str]:
    return [f"--vgg={folder / 'vgg16.safetensors'}", f"--linear={folder / 'vgg.pth'}", f"--out={out}"]


def test_every_tensor_has_its_place(eager, published, tmp_path, capsys):
    folder, vgg, linear = published
    out = tmp_path / "new/lpips.safetensors"
    assert main(flags(folder, out)) == 0
    assert "wrote 31 tensors" in capsys.readouterr().out
    stored = list(load_file(out).values())
    found = {(value.shape, float(value.sum())) for value in stored}
    wanted = {(v.shape, float(v.sum())) for name, v in (vgg | linear).items() if "classifier" not in name}
    assert found == wanted
    network = load_lpips(out)
    x, y = (Tensor(np.random.default_rng(i).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)) for i in range(2))
    assert network(x, y).asnumpy()[0] > 0.01
    np.testing.assert_array_equal(network.levels[2].convs[1].weight.asnumpy(), vgg["features.12.weight"])
    np.testing.assert_array_equal(network.levels[4].weight.asnumpy(), linear["lin4.model.1.weight"])
    assert main(flags(folder, out)) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*flags(folder, out), "--overwrite"]) == 0


def test_other_files_are_refused(published, tmp_path, capsys):
    folder, *_ = published
    swapped = [f"--vgg={folder / 'vgg.pth'}", f"--linear={folder / 'vgg16.safetensors'}", f"--out={tmp_path / 'a.pt'}"]
    assert main(swapped) == 2 and "has to end with .safetensors" in capsys.readouterr().err
    swapped[-1] = f"--out={tmp_path / 'a.safetensors'}"
    assert main(swapped) == 2
    assert "is not torchvision's VGG16: it has no features.0.weight" in capsys.readouterr().err
    assert main(flags(tmp_path, tmp_path / "a.safetensors")) == 2
    assert not list(tmp_path.iterdir())
