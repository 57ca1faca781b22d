"""Published weights of extractors, as they are published: converted, or refused in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest
from device import DEVICE
from published_extractors import manifest, weights
from safetensors.numpy import save_file
from small_text import MERGES, SMALL_TEXT, VOCABULARY

from svd import runtime
from svd.checkpoints.tensor_files import LazyTensor, read_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ImageEncoderConfig
from svd.metrics import clip_similarity
from svd.metrics.clip_similarity import Clip
from svd.metrics.extractors import EXTRACTORS, load_extractor
from svd_tools.checkpoints.extractors import LAYOUTS, MEAN, _mean, _ours, _read_npz, convert_extractor
from svd_tools.checkpoints.names.extractors import CLIP_TOWERS
from svd_tools.checkpoints.tables import TRANSFORMS
from svd_tools.convert_extractor import main

SKIPPED = "num_batches_tracked"
"""Scalars of batch normalisations, which files may lack."""


@pytest.fixture(scope="module")
def i3d_file(tmp_path_factory):
    """As VideoGPT's file, but random."""
    path = tmp_path_factory.mktemp("published") / "i3d_pretrained_400.safetensors"
    shapes = manifest("i3d_pytorch")
    save_file({n: weights(n, shape) if shape else np.array(0) for n, shape in shapes.items()}, path)
    return path


def test_i3d(i3d_file, tmp_path, capsys):
    assert main([f"--weights={i3d_file}", f"--out_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out == f"wrote the weights of I3D trained on Kinetics-400:\n{tmp_path}/i3d.safetensors\n"
    runtime.setup(DEVICE, 1)
    network, metadata = load_extractor(tmp_path, "i3d", DEVICE)
    assert metadata["source"] == i3d_file.name and len(metadata["sha256"]) == 64
    first = weights("Conv3d_1a_7x7.conv3d.weight", (64, 3, 7, 7, 7))
    # over the channels of seven neighbouring frames
    assert np.array_equal(network.stem[0].conv.conv.weight.asnumpy().reshape(64, 7, 3, 7, 7), first.swapaxes(1, 2))
    variance = weights("Mixed_5c.b2b.bn.running_var", (128,))
    assert np.array_equal(network.blocks[8].branch2[1].norm.moving_variance.asnumpy(), variance)
    assert main([f"--weights={i3d_file}", f"--out_dir={tmp_path}"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main([f"--weights={i3d_file}", f"--out_dir={tmp_path}", "--overwrite"]) == 0


def unread(shapes: dict) -> dict[str, LazyTensor]:
    return {
        name: LazyTensor(shape, np.dtype(np.float32), ("", 0), lambda: pytest.fail("read"))
        for name, shape in shapes.items()
    }


def layout_of(names) -> object:
    return next(layout for layout in LAYOUTS if layout.mark in names)


@pytest.mark.parametrize("name", ["i3d_pytorch", "inception_v3_fid", "c3d_sports1m"])
def test_every_name_of_a_published_file_is_placed(name, tmp_path):
    shapes = manifest(name)
    outputs = _ours(tmp_path / name, unread(shapes), layout_of(shapes))
    unused = sum(SKIPPED in other or other.startswith("fc.") for other in shapes)
    assert len(outputs) == len(shapes) - unused
    assert sum(np.prod(t.shape) for t in outputs.values()) == sum(
        np.prod(shape) for other, shape in shapes.items() if SKIPPED not in other and not other.startswith("fc.")
    )
    for lacking in (next(iter(outputs)), list(outputs)[-1]):
        assert lacking in outputs
    without = {other: shape for number, (other, shape) in enumerate(shapes.items()) if number != 10}
    with pytest.raises(CheckpointError, match="lacks 1 tensors"):
        _ours(tmp_path / name, unread(without), layout_of(shapes))


def chainer_names(shapes: dict) -> dict:
    """As TGANv2's file, with its classes."""
    renamed = {n.replace("conv1.", "conv1a.").replace("conv2.", "conv2a."): s for n, s in shapes.items()}
    return renamed | {"fc8.weight": (101, 4096), "fc8.bias": (101,)}


def test_c3d_of_tganv2(tmp_path):
    shapes = chainer_names(manifest("c3d_sports1m"))
    assert _ours(tmp_path / "x.npz", unread(shapes), layout_of(shapes))["fc8.bias"].shape == (101,)


def test_arrays_of_chainer_and_the_mean_clip(tmp_path):
    mean = np.random.default_rng(0).uniform(80, 120, MEAN).astype(np.float32)
    np.savez(tmp_path / "x.npz", **{"conv1a/W": np.ones((2, 3)), "conv1a/b": np.zeros(2), "mean": mean})
    assert {n: t.shape for n, t in _read_npz(tmp_path / "x.npz").items()} == {
        "conv1a.weight": (2, 3), "conv1a.bias": (2,), "mean": MEAN,
    }  # fmt: skip
    centre = _mean(str(tmp_path / "x.npz")).read()
    assert centre.shape == (16, 3, 112, 112) and np.array_equal(centre[5, 2], mean[2, 5, 8:120, 8:120])


def test_what_is_refused(i3d_file, tmp_path, capsys):
    def refused(*options: str) -> str:
        assert main([*options, f"--out_dir={tmp_path / 'out'}"]) == 2
        out, err = capsys.readouterr()
        assert not out and not (tmp_path / "out").exists()
        return err.splitlines()[-1]

    save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors")
    assert "of no extractor that is known" in refused(f"--weights={tmp_path / 'other.safetensors'}")
    assert "does not exist" in refused(f"--weights={tmp_path / 'nowhere.npz'}")
    assert "does not exist" in refused(f"--weights={tmp_path / 'nowhere.pt'}")
    (tmp_path / "damaged.npz").write_bytes(b"PK\3\4nothing")
    assert "no archive of arrays" in refused(f"--weights={tmp_path / 'damaged.npz'}")
    assert "takes no mean (--mean)" in refused(f"--weights={i3d_file}", "--mean=mean2.npz")
    (tmp_path / "folder").mkdir()
    assert "has no model.safetensors nor pytorch_model.bin" in refused(f"--weights={tmp_path / 'folder'}")
    save_file({"visual.class_embedding": np.zeros(3)}, tmp_path / "clip.safetensors")
    assert "does not fit CLIP ViT-B/32: it lacks" in refused(f"--weights={tmp_path / 'clip.safetensors'}")
    np.savez(tmp_path / "no_mean.npz", mean=np.zeros((3, 16, 112, 112)))
    with pytest.raises(CheckpointError, match="mean of the shape"):
        _mean(str(tmp_path / "no_mean.npz"))
    with pytest.raises(CheckpointError, match="give mean2.npz"):
        _mean(None)


def test_torchvisions_inception_is_told(tmp_path):
    shapes = manifest("inception_v3_fid") | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    with pytest.raises(CheckpointError, match="torchvision's Inception.*pt_inception-2015-12-05"):
        _ours(tmp_path / "x.pth", unread(shapes), layout_of(shapes))


def test_files_that_are_no_extractor(i3d_file, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"c3d.safetensors is missing.*conv3d_deepnetA_ucf.npz.*convert-extractor"
    ):
        load_extractor(tmp_path, "c3d", DEVICE)
    save_file({"a": np.zeros(3)}, tmp_path / "i3d.safetensors")
    with pytest.raises(CheckpointError, match="holds no weights of I3D"):
        load_extractor(tmp_path, "i3d", DEVICE)
    assert read_safetensors(i3d_file).keys() == manifest("i3d_pytorch").keys()
    assert all(extractor.published for extractor in EXTRACTORS.values())


@pytest.fixture
def small_clip(monkeypatch) -> Clip:
    """A tiny CLIP that takes the place of the published one; with random weights."""
    small = EXTRACTORS["clip"]
    image = ImageEncoderConfig(width=24, layers=1, heads=3, patch_size=8, image_size=16, output_dim=20)
    monkeypatch.setitem(EXTRACTORS, "clip", replace(small, build=lambda: Clip(image, SMALL_TEXT)))
    monkeypatch.setattr(clip_similarity, "TEXT", SMALL_TEXT)
    runtime.setup(DEVICE, 1)
    return Clip(image, SMALL_TEXT)


def stored_as(clip: Clip, column: str) -> dict[str, np.ndarray]:
    """Its weights in the layout of OpenAI (sgm) or of transformers (diffusers)."""
    parts: dict[str, list] = {}
    for parameter in clip.get_parameters():
        theirs, transform = CLIP_TOWERS.translate(parameter.name, column, None)
        parts.setdefault(theirs.removeprefix("."), []).append((transform, parameter.asnumpy()))
    found = {}
    for name, entries in parts.items():
        arrays = [TRANSFORMS[transform].to_theirs(values) for transform, values in sorted(entries, key=lambda e: e[0])]
        found[name] = np.ascontiguousarray(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])
    return found


@pytest.mark.parametrize("column", ["diffusers", "sgm"])
def test_clip_with_its_vocabulary(small_clip, tmp_path, capsys, column):
    folder = tmp_path / "clip-vit-base-patch32"
    folder.mkdir()
    weights_of_clip = stored_as(small_clip, column) | {"logit_scale": np.array(4.6)}
    save_file(weights_of_clip, folder / "model.safetensors")
    source = folder if column == "diffusers" else folder / "model.safetensors"
    assert main([f"--weights={source}", f"--out_dir={tmp_path}"]) == 2
    assert "vocabulary" in capsys.readouterr().err
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    tokenizer = [] if column == "diffusers" else [f"--tokenizer={folder}"]
    assert main([f"--weights={source}", f"--out_dir={tmp_path}", *tokenizer]) == 0
    network, metadata = load_extractor(tmp_path, "clip", DEVICE)
    for ours, stored in zip(small_clip.get_parameters(), network.get_parameters()):
        assert np.array_equal(ours.asnumpy(), stored.asnumpy()), ours.name
    clips = np.random.default_rng(0).integers(0, 256, (1, 2, 20, 24, 3), dtype=np.uint8)
    similarity = clip_similarity.ClipSimilarity(network, metadata, SMALL_TEXT, 16)(clips, ["a cat"])
    assert similarity.shape == (1,) and abs(similarity[0]) <= 1


def test_another_clip_than_openais_is_told(tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"hidden_act": "gelu"}}))
    with pytest.raises(CheckpointError, match="not OpenAI's CLIP.*activation is gelu"):
        convert_extractor(tmp_path, tmp_path)
