"""What other programs write: it is found, values land where they belong, and what was chosen is said."""

import json
import struct
from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from svd.checkpoints import tensor_files
from svd.checkpoints.float8 import FLOAT8
from svd.checkpoints.tensor_files import LazyTensor
from svd.config import ModelConfig, load_config
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.layouts import DIFFUSERS
from svd_tools.checkpoints.recognition import recognise
from svd_tools.checkpoints.tables import TRANSFORMS

UNET, IMAGE = "model.diffusion_model.", "conditioner.embedders.3."
VISUAL = "conditioner.embedders.0.open_clip.model.visual."


# --- averages ---


def averages(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Twice the weights of the UNet, as sgm's training keeps averages."""
    unet = {name: value for name, value in weights.items() if name.startswith(UNET)}
    kept = {"model_ema." + name.removeprefix("model.").replace(".", ""): 2 * value for name, value in unet.items()}
    return kept | {"model_ema.decay": np.array(0.99, np.float32), "model_ema.num_updates": np.array(7, np.int32)}


@pytest.mark.parametrize("choice", ["auto", "ema", "plain"])
def test_averages_beside_the_weights(sgm_weights, ours, converted, choice):
    found, printed = converted(sgm_weights | averages(sgm_weights), f"--weights={choice}")
    count = sum(name.startswith(UNET) for name in sgm_weights)
    assert (
        f"NOTE: {count} averages (EMA) are beside the weights and {'left out' if choice == 'plain' else 'taken'}"
        in printed
    )
    assert "--weights" in printed
    for name, value in found.items():
        factor = 2 if name.startswith("network.") and choice != "plain" else 1
        assert np.array_equal(value, factor * ours[name]), name


def test_averages_of_some_weights_alone(sgm_weights, ours, converted):
    """A training of the temporal layers keeps no others."""
    kept = {name: value for name, value in averages(sgm_weights).items() if "time_stack" in name}
    found, printed = converted(sgm_weights | kept)
    assert f"{len(kept)} averages" in printed
    for name, value in found.items():
        doubled = name.startswith("network.") and ".temporal." in name
        assert np.array_equal(value, (2 if doubled else 1) * ours[name]), name


def test_averages_of_nobody_are_listed(sgm_weights, config, tmp_path, refuse):
    save_file(sgm_weights | {"model_ema.surprise": np.ones(2, np.float32)}, tmp_path / "x.safetensors")
    assert "model_ema.surprise  [2]" in refuse(tmp_path / "x.safetensors", config)


def test_averages_that_are_not_there(sgm_file, config, refuse):
    assert "has no averages (EMA); use --weights plain" in refuse(sgm_file, config, "--weights=ema")


# --- wrappers ---


@pytest.mark.parametrize(
    ("wrapped", "note"),
    [
        (lambda name: f"module.{name}", "the wrapper module is taken off"),
        (lambda name: f"_orig_mod.{name}", "the wrapper _orig_mod is taken off"),
        (lambda name: f"module._orig_mod.{name}", "the wrapper module is taken off"),
        (lambda name: name.replace("diffusion_model.", "diffusion_model._orig_mod."), "wrapper _orig_mod"),
        (lambda name: name.replace("model.out.", "model._fsdp_wrapped_module.out."), "wrapper _fsdp_wrapped_module"),
        (lambda name: f"model.{name}", "the weights are those under model"),
        (lambda name: f"state_dict.model.{name}", "the weights are those under state_dict.model"),
    ],
)
def test_prefixes(sgm_weights, ours, converted, same_tensors, wrapped, note):
    found, printed = converted({wrapped(name): value for name, value in sgm_weights.items()})
    assert f"NOTE: {note}" in printed or note in printed
    same_tensors(found, ours)


def test_a_prefix_that_makes_two_tensors_one(sgm_weights, config, tmp_path, refuse):
    name = f"{UNET}out.2.bias"
    save_file(sgm_weights | {f"module.{name}": sgm_weights[name]}, tmp_path / "x.safetensors")
    assert "are both in the checkpoint, but mean the same" in refuse(tmp_path / "x.safetensors", config)


def test_our_own_names_and_those_of_diffusers_in_wrappers(
    sgm_weights, random_weights, config, ours, converted, same_tensors
):
    same_tensors(converted({f"module.{name}": value for name, value in ours.items()})[0], ours)
    theirs = random_weights(config, "diffusers")
    plain, _ = converted(theirs)
    same_tensors(converted({f"model.{name}": value for name, value in theirs.items()})[0], plain)


@pytest.mark.parametrize(
    "keys", [("module",), ("model",), ("state_dict",), ("model", "state_dict"), ("net", "ema_off")]
)
def test_dictionaries_in_pytorch_files(sgm_weights, ours, config, tmp_path, convert, same_tensors, keys):
    torch = pytest.importorskip("torch")
    content = {name: torch.from_numpy(value) for name, value in sgm_weights.items()}
    state = {0: {"exp_avg": torch.ones(3), "step": torch.tensor(3)}}
    beside = {"optimizer": {"state": state}, "param_shapes": [torch.Size([3])], "names": {"a"}, "type": torch.float16}
    for key in reversed(keys):
        content = {key: content, "global_steps": 7, **beside}
    torch.save(content, tmp_path / "x.pt")
    path, printed = convert(tmp_path / "x.pt", config, "--overwrite")
    assert keys[-1] in printed
    same_tensors(load_file(path), ours)


def test_averages_in_a_dictionary_of_their_own(sgm_weights, ours, config, tmp_path, convert):
    torch = pytest.importorskip("torch")
    weights = {name: torch.from_numpy(value) for name, value in sgm_weights.items()}
    torch.save({"model": weights, "ema": {name: 2 * value for name, value in weights.items()}}, tmp_path / "x.pt")
    for choice, factor in (("auto", 2), ("plain", 1)):
        path, printed = convert(tmp_path / "x.pt", config, "--overwrite", f"--weights={choice}")
        assert "averages (EMA)" in printed and "those under model" in printed
        name = "network.conv_in.weight"
        assert np.array_equal(load_file(path)[name], factor * ours[name])


# --- float8 and bfloat16 ---


def write_typed(path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """A .safetensors file of (type, shape, bytes)."""
    header, data = {}, b""
    for name, (code, shape, body) in tensors.items():
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def float8(weights: dict[str, np.ndarray], code: str, scale=None) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Random bytes of finite values in the place of matrices, float16 in that of the others."""
    rng, finite = np.random.default_rng(0), np.flatnonzero(np.isfinite(FLOAT8[code])).astype(np.uint8)
    tensors = {}
    for name, value in weights.items():
        if value.ndim < 2:
            tensors[name] = ("F16", value.shape, value.astype(np.float16).tobytes())
            continue
        tensors[name] = (code, value.shape, rng.choice(finite, value.shape).tobytes())
        if scale is not None:
            key, shape = scale(name), scale.shape(value)
            factors = rng.uniform(0.1, 2, shape).astype(np.float32)
            tensors[key] = ("F32", shape, factors.tobytes())
            tensors[key.replace("scale_weight", "scale_input").replace("weight_scale", "input_scale")] = tensors[key]
    return tensors


class Scale:
    """Names and shapes of scales beside weights."""

    def __init__(self, name, shape):
        self._name, self.shape = name, shape

    def __call__(self, name: str) -> str:
        return self._name(name)


SCALES = {
    "scale_weight": Scale(lambda name: name.removesuffix("weight") + "scale_weight", lambda value: ()),
    "one of an array": Scale(lambda name: name.removesuffix("weight") + "scale_weight", lambda value: (1,)),
    "weight_scale": Scale(lambda name: f"{name}_scale", lambda value: ()),
    "rows": Scale(lambda name: f"{name}_scale", lambda value: (len(value), *[1] * (value.ndim - 1))),
    "none": None,
}  # fmt: skip


@pytest.mark.parametrize("code", FLOAT8)
@pytest.mark.parametrize("kind", ["scale_weight", "none"])
def test_float8(sgm_weights, config, tmp_path, convert, code, kind):
    check_float8(sgm_weights, config, tmp_path, convert, code, SCALES[kind])


@pytest.mark.parametrize("kind", ["one of an array", "weight_scale", "rows"])
def test_other_scales(sgm_weights, config, tmp_path, convert, kind):
    check_float8(sgm_weights, config, tmp_path, convert, "F8_E4M3", SCALES[kind])


def check_float8(weights, config, tmp_path, convert, code, scale):
    tensors = float8(weights, code, scale)
    tensors[f"{UNET}scaled_fp8"] = (code, (0,), b"")
    write_typed(tmp_path / "x.safetensors", tensors)
    path, printed = convert(tmp_path / "x.safetensors", config, "--to=sgm")
    found = load_file(path)
    matrices = sum(value.ndim > 1 for value in weights.values())
    assert f"tensors of type {code} are read as float32" in printed
    assert (f"NOTE: {matrices} tensors are multiplied by the scales beside them" in printed) == (scale is not None)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        if value.ndim < 2:
            continue
        expected = FLOAT8[code][np.frombuffer(tensors[name][2], np.uint8)].reshape(value.shape)
        if scale is not None:
            factors = np.frombuffer(tensors[scale(name)][2], np.float32)
            expected = expected * factors.reshape(-1, *[1] * (value.ndim - 1))
        assert found[name].dtype == np.float32 and np.array_equal(found[name], expected), name


def test_float8_of_pytorch(sgm_weights, config, tmp_path, convert):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in sgm_weights.items()}
    tensors = {name: value.to(torch.float8_e5m2) if value.ndim > 1 else value for name, value in tensors.items()}
    torch.save(tensors, tmp_path / "x.pt")
    found = load_file(convert(tmp_path / "x.pt", config, "--to=sgm")[0])
    for name, value in tensors.items():
        assert np.array_equal(found[name], value.float().numpy()), name


def test_a_scale_of_another_shape(sgm_weights, config, tmp_path, refuse):
    wrong = Scale(lambda name: f"{name}_scale", lambda value: (len(value) + 1,))
    write_typed(tmp_path / "x.safetensors", float8(sgm_weights, "F8_E4M3", wrong))
    assert "neither a number nor one for each row; re-save" in refuse(tmp_path / "x.safetensors", config)


def test_float8_that_is_not_finite(sgm_weights, config, tmp_path, refuse):
    tensors = float8(sgm_weights, "F8_E4M3")
    name = f"{UNET}out.2.weight"
    tensors[name] = (*tensors[name][:2], b"\x7f" + tensors[name][2][1:])
    write_typed(tmp_path / "x.safetensors", tensors)
    assert f"tensor {name} holds NaN" in refuse(tmp_path / "x.safetensors", config)


def test_types_that_stay_unknown(config, tmp_path, refuse):
    write_typed(tmp_path / "x.safetensors", {"x": ("F8_E8M0", (2,), b"ab")})
    assert "tensor x has type F8_E8M0, which is not supported; re-save" in refuse(tmp_path / "x.safetensors", config)


@pytest.mark.parametrize("to", ["svd", "sgm", "diffusers"])
def test_no_tensor_is_read_twice(sgm_weights, config, tmp_path, convert, monkeypatch, to):
    """Also where one is in two places of the model, and where scales stand beside."""
    weights = {n: v for n, v in sgm_weights.items() if not n.startswith(IMAGE)}
    write_typed(tmp_path / "x.safetensors", float8(weights, "F8_E4M3", SCALES["weight_scale"]))
    read, reads = tensor_files._read_pieces, Counter()
    monkeypatch.setattr(tensor_files, "_read_pieces", lambda name, *rest: reads.update([name]) or read(name, *rest))
    convert(tmp_path / "x.safetensors", config, f"--to={to}")
    assert set(reads.values()) == {1} and len(reads) > len(weights) / 2


# --- parts of a model, and others ---


@pytest.mark.parametrize("front", ["", "diffusion_model.", "unet."])
@pytest.mark.parametrize("layout", ["sgm", "diffusers"])
def test_a_unet_alone(random_weights, config, tmp_path, refuse, layout, front):
    root = {"sgm": UNET, "diffusers": "unet."}[layout]
    weights = random_weights(config, layout)
    unet = {front + name.removeprefix(root): value for name, value in weights.items() if name.startswith(root)}
    save_file(unet, tmp_path / "x.safetensors")
    error = refuse(tmp_path / "x.safetensors", config)
    assert "no image encoder (CLIP) and no autoencoder" in error and "ImageOnlyCheckpointSave" in error
    assert len(error.splitlines()) == 1


@pytest.fixture
def unet_and_base(random_weights, config, tmp_path):
    """A UNet by diffusers' names alone, as AnimateLCM-SVD's file has it, and the model that it was tuned from."""
    weights, base = random_weights(config, "diffusers"), tmp_path / "base.safetensors"
    save_file(random_weights(config, "sgm"), base)
    unet = {n.removeprefix("unet."): -v for n, v in weights.items() if n.startswith("unet.")}
    return unet, base


def test_a_unet_and_the_model_that_it_was_tuned_from(unet_and_base, config, tmp_path, convert):
    """In each layout of the base: the UNet's tensors, and the base's others."""
    unet, base = unet_and_base
    save_file(unet, tmp_path / "x.safetensors")
    plain = load_file(convert(base, config)[0])
    names = {entry.ours: entry for entry in expand(DIFFUSERS, load_config(config), plain)}
    for other in (base, convert(base, config, "--overwrite")[0]):
        written, printed = convert(tmp_path / "x.safetensors", config, f"--base_model={other}", "--overwrite")
        assert "x.safetensors is a .safetensors file in diffusers' layout" in printed
        found = load_file(written)
        assert found.keys() == plain.keys()
        for name, value in found.items():
            if name.startswith("network."):
                entry = names[name]
                stored = unet[entry.theirs.removeprefix("unet.")]
                np.testing.assert_array_equal(value, TRANSFORMS[entry.transform].to_ours(stored))
            else:
                np.testing.assert_array_equal(value, plain[name])


def test_a_unet_that_does_not_fit_its_base(unet_and_base, config, tmp_path, refuse):
    unet, base = unet_and_base
    file = tmp_path / "x.safetensors"
    save_file({n: v for n, v in unet.items() if n != "conv_out.bias"}, file)
    assert "1 missing" in refuse(file, config, f"--base_model={base}"), "the base has it, but of another training"
    save_file(unet | {"lora_of_whom": np.ones(2, np.float32)}, file)
    assert "1 unexpected" in refuse(file, config, f"--base_model={base}")
    save_file(unet | {"conv_out.bias": np.ones(5, np.float32)}, file)
    assert "1 wrongly shaped" in refuse(file, config, f"--base_model={base}")
    assert "has more than a UNet: leave the base model out (--base_model)" in refuse(
        base, config, f"--base_model={base}"
    )
    save_file(unet, file)
    assert "in any layout, as base_model" in refuse(file, config)
    assert "does not exist" in refuse(file, config, "--base_model=nowhere.safetensors")
    assert "has a UNet alone" in refuse(file, config, f"--base_model={file}")
    text = "configs/stable_diffusion/v1_5.yaml"
    assert "a base model is for UNets of Stable Video Diffusion" in refuse(file, text, f"--base_model={base}")


@pytest.mark.parametrize(
    ("prefixes", "what"),
    [
        (VISUAL, "has no image encoder (CLIP): give the whole model"),
        ("first_stage_model.", "has no autoencoder: give the whole model"),
        (("first_stage_model.encoder.", IMAGE), "has no encoder of an autoencoder: give the whole model"),
        (UNET, "its tensors are"),
    ],
)
def test_whole_networks_that_are_missing(sgm_weights, config, tmp_path, refuse, prefixes, what):
    save_file({n: v for n, v in sgm_weights.items() if not n.startswith(prefixes)}, tmp_path / "x.safetensors")
    assert what in refuse(tmp_path / "x.safetensors", config)


def test_what_train_py_wrote_is_for_export(ours, config, tmp_path, refuse):
    save_file({n: v for n, v in ours.items() if n.startswith("network.")}, tmp_path / "x.safetensors")
    assert "svd_tools/export.py merges" in refuse(tmp_path / "x.safetensors", config)


@pytest.mark.parametrize("name", ["svd_sgm", "svd_image_decoder_sgm", "svd_mindone"])
@pytest.mark.parametrize("wrapper", ["", "module.", "model."])
def test_names_of_full_size(manifest, name, wrapper):
    """With averages and without wrappers every name is as it was."""
    shapes, config = manifest(name), ModelConfig()
    averaged = ["model_ema." + key.removeprefix("model.").replace(".", "") for key in shapes if key.startswith(UNET)]
    tensors = {wrapper + key: LazyTensor((), np.dtype(np.float32), ("", 0), None) for key in [*shapes, *averaged]}
    recognised = recognise("x", tensors, config)
    assert recognised.layout.name == "sgm" and recognised.tensors.keys() == shapes.keys()
    assert f"{len(averaged):,} averages" in " ".join(recognised.notes)
    same = recognise("x", {wrapper + key: tensors[wrapper + key] for key in shapes}, config, "plain")
    assert same.tensors.keys() == shapes.keys() and len(same.notes) == (wrapper != "")
