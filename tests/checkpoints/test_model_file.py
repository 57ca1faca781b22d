"""Reading checkpoints: values land where their names say, in either precision, and what is wrong is told of by name."""

import json
import tracemalloc
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from safetensors.numpy import save_file
from small_checkpoint import damaged, small_tensors, write_checkpoint
from small_model import SMALL

from svd.build import build_networks
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ConfigError, ModelConfig

# NumPy's own warnings would be lines of their own beside the error.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
ENCODER = "conditioner.image_encoder"


class Pair(nn.Cell):
    """Two parameters, of different shapes and types."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((2, 3), np.float32)), name="weight")
        self.half = Parameter(Tensor(np.zeros(4, np.float16)), name="half")


VALUES = {"pair.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "pair.half": np.ones(4, np.float32) / 3}


def read_config(path) -> ModelConfig:
    return Checkpoint(path).config


def load_pair(path, **changes) -> Pair:
    """A Pair loaded from a file of VALUES with these changes (`weight`, `half`); None leaves a tensor out."""
    values = VALUES | {f"pair.{name}": value for name, value in changes.items()}
    save_file({name: value for name, value in values.items() if value is not None}, path)
    pair = Pair()
    Checkpoint(path).load({"pair": pair})
    return pair


def message(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# --- values ---


def test_weights_are_mapped_and_the_file_stays_as_it_is(path):
    """Nothing of the file's size is allocated, and what training writes into a parameter does not reach the file."""
    values = np.ones((1024, 1024), np.float32)
    save_file({"linear.weight": values, "linear.bias": values[0]}, path)
    before = path.read_bytes()
    linear = nn.Dense(1024, 1024)
    tracemalloc.start()
    Checkpoint(path).load({"linear": linear})
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert allocated < values.nbytes / 4
    ops.Assign()(linear.weight, Tensor(2 * values))
    assert (linear.weight.asnumpy() == 2).all() and path.read_bytes() == before


def test_every_value_lands_in_the_parameter_of_its_name(path):
    tensors = small_tensors()
    networks = build_networks(SMALL)
    Checkpoint(write_checkpoint(path, tensors)).load(networks)
    loaded = {f"{prefix}.{p.name}": p.asnumpy() for prefix, cell in networks.items() for p in cell.get_parameters()}
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)


def test_what_the_file_holds_for_others_is_left_alone(path):
    networks = build_networks(SMALL)
    write_checkpoint(path, small_tensors() | {"something.else": np.full(3, np.nan, np.float32)})
    Checkpoint(path).load({ENCODER: networks[ENCODER]})
    first = next(iter(networks[ENCODER].get_parameters()))
    np.testing.assert_array_equal(first.asnumpy(), small_tensors()[f"{ENCODER}.{first.name}"])


def test_half_precision_in_the_file_is_exact_in_float32(path):
    """Published files are fp16; on a CPU they are computed in fp32."""
    half = {name: value.astype(np.float16) for name, value in small_tensors().items()}
    single = {name: value.astype(np.float32) for name, value in half.items()}
    loaded = []
    for tensors in (half, single):
        cell = build_networks(SMALL)[ENCODER]
        Checkpoint(write_checkpoint(path, tensors)).load({ENCODER: cell})
        loaded.append({p.name: p for p in cell.get_parameters()})
    for name, parameter in loaded[0].items():
        assert parameter.dtype == ms.float32
        np.testing.assert_array_equal(parameter.asnumpy(), loaded[1][name].asnumpy())


def test_a_parameter_keeps_its_own_type(path):
    pair = load_pair(path)
    assert (pair.weight.dtype, pair.half.dtype) == (ms.float32, ms.float16)
    np.testing.assert_array_equal(pair.weight.asnumpy(), VALUES["pair.weight"])
    np.testing.assert_array_equal(pair.half.asnumpy(), VALUES["pair.half"].astype(np.float16))


def test_a_new_load_replaces_the_values(path):
    """In place: what holds the parameter sees the new value."""
    pair = load_pair(path)
    weight = pair.weight
    save_file(VALUES | {"pair.weight": VALUES["pair.weight"] + 1}, path)
    Checkpoint(path).load({"pair": pair})
    assert pair.weight is weight
    np.testing.assert_array_equal(weight.asnumpy(), VALUES["pair.weight"] + 1)


# --- values that cannot be used ---


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_value_that_is_not_finite_is_told_of_by_name(path, value, dtype):
    weight = VALUES["pair.weight"].astype(dtype)
    weight[1, 2] = value
    with pytest.raises(CheckpointError, match=r"pair\.weight holds values that are not finite \(NaN or infinity\)"):
        load_pair(path, weight=weight)


def test_infinities_that_cancel_are_found(path):
    """Their sum is NaN, or finite where the sum is looked at alone."""
    with pytest.raises(CheckpointError, match="not finite"):
        load_pair(path, half=np.array([np.inf, -np.inf, 1, 1], np.float32))


def test_large_values_are_not_taken_for_infinite(path):
    """Summed in float32 or float16 they would overflow."""
    assert np.isfinite(load_pair(path, weight=np.full((2, 3), 3e38, np.float32)).weight.asnumpy()).all()
    half = np.full(4, 60000, np.float16)
    np.testing.assert_array_equal(load_pair(path, half=half).half.asnumpy(), half)


def test_a_value_that_does_not_fit_float16_is_told_of_with_the_remedy(path):
    with pytest.raises(CheckpointError, match=r"pair\.half does not fit float16: use amp_level O0"):
        load_pair(path, half=np.array([1, 2, 70000, 3], np.float32))


def test_a_value_that_does_not_fit_float32_is_told_of(path):
    with pytest.raises(CheckpointError, match=r"pair\.weight does not fit float32: the checkpoint is damaged"):
        load_pair(path, weight=np.full((2, 3), 1e300))


def test_nan_in_a_whole_model_names_the_tensor(path):
    name = next(key for key in small_tensors() if key.endswith("conv1.weight"))
    write_checkpoint(path, damaged(name, np.nan))
    with pytest.raises(CheckpointError) as error:
        Checkpoint(path).load(build_networks(SMALL))
    assert message(error) == f"{path}: {name} holds values that are not finite (NaN or infinity)"


# --- another model ---


def test_missing_and_wrongly_shaped_tensors_are_listed(path):
    with pytest.raises(CheckpointError) as error:
        load_pair(path, weight=None, half=np.ones(5, np.float32))
    assert message(error) == (
        f"{path} is of another model than the configuration: 1 names missing (pair.weight); "
        "1 of another shape (pair.half [5] instead of [4])"
    )


def test_one_tensor_missing_is_no_shape_error(path):
    with pytest.raises(CheckpointError, match=r"1 names missing \(pair.half\)$"):
        load_pair(path, half=None)


def test_a_model_of_another_width(path):
    """Counted, and the first three named."""
    write_checkpoint(path, small_tensors())
    wide = replace(SMALL, unet=replace(SMALL.unet, model_channels=64))
    with pytest.raises(CheckpointError, match=r"of another model .*: \d+ of another shape \(.*\[128, 32\] instead of "
                       r"\[256, 64\], .*, .*, \.\.\.\)") as error:  # fmt: skip
        Checkpoint(path).load(build_networks(wide))
    assert "missing" not in message(error)


def test_a_shape_is_checked_before_any_value_is_set(path):
    pair = Pair()
    save_file(VALUES | {"pair.half": np.ones(5, np.float32)}, path)
    with pytest.raises(CheckpointError):
        Checkpoint(path).load({"pair": pair})
    assert not pair.weight.asnumpy().any()


# --- bfloat16 ---


def test_a_parameter_of_bfloat16_is_rounded(path):
    """To the nearest of 8 bits; others keep their types."""
    weight = np.array([[1 + 2**-7, 1 + 2**-9, -3.14159], [1e30, 1e-30, 0]], np.float32)
    save_file(VALUES | {"pair.weight": weight}, path)
    pair = Pair()
    pair.weight.set_dtype(ms.bfloat16)
    Checkpoint(path).load({"pair": pair})
    assert pair.weight.dtype == ms.bfloat16 and pair.half.dtype == ms.float16
    rounded = pair.weight.astype(ms.float32).asnumpy()
    assert rounded[0].tolist() == [1 + 2**-7, 1, -3.140625]
    np.testing.assert_allclose(rounded[1], weight[1], rtol=2**-8)


def test_float16_in_a_file_fits_bfloat16(path):
    save_file(VALUES | {"pair.weight": np.full((2, 3), 65504, np.float16)}, path)
    pair = Pair()
    pair.weight.set_dtype(ms.bfloat16)
    Checkpoint(path).load({"pair": pair})
    np.testing.assert_allclose(pair.weight.astype(ms.float32).asnumpy(), 65504, rtol=2**-8)


# --- files of others, and damaged ones ---


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.encoder.conv_in.weight",
        "vision_model.embeddings.class_embedding",
        "down_blocks.0.resnets.0.spatial_res_block.norm1.weight",
        "encoder.conv_in.weight",
        "module.model.diffusion_model.input_blocks.0.0.weight",
        "_orig_mod.model.diffusion_model.out.2.bias",
        "state_dict.module.down_blocks.0.resnets.0.norm1.weight",
        "diffusion_model.input_blocks.0.0.weight",
        "unet.conv_in.weight",
    ],
)
def test_a_foreign_checkpoint_is_to_be_converted(path, name):
    """Stability's file, and the three of diffusers: told with the command, from either entry."""
    save_file({name: np.zeros(3, np.float32)}, path)
    command = f"python svd_tools/convert.py --pt_weights_file {path} --config CONFIG --out_dir DIR"
    for read in (read_config, lambda path: Checkpoint(path).load({"pair": Pair()})):
        with pytest.raises(CheckpointError) as error:
            read(path)
        assert message(error) == f"{path} has to be converted first: {command}"


@pytest.mark.parametrize("name", ["svd.ckpt", "svd.bin", "svd.pt", "svd.pth", "folder"])
def test_pickles_and_folders_are_to_be_converted(tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="has to be converted first: python svd_tools/convert.py"):
        read_config(path)


def test_a_missing_checkpoint(path):
    with pytest.raises(CheckpointError, match=f"^checkpoint {path} does not exist: check the path"):
        read_config(path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999], ids=str)
def test_a_truncated_checkpoint(path, keep):
    """Cut in the length of the header, in the header, and in the values."""
    whole = write_checkpoint(path, small_tensors()).read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file .*: copy it again") as error:
        Checkpoint(path)
    assert message(error).startswith(str(path))


@pytest.mark.parametrize("where", ["at the end", "between header and values"])
def test_bytes_that_belong_to_no_tensor(path, where):
    """Whatever shifted or lengthened the file, its values cannot be trusted."""
    whole = write_checkpoint(path, VALUES).read_bytes()
    if where == "at the end":
        path.write_bytes(whole + b"1234")
    else:
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])
        for tensor in header.values():
            if "data_offsets" in tensor:
                tensor["data_offsets"] = [offset + 4 for offset in tensor["data_offsets"]]
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"1234" + whole[8 + length :])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file .4 of its bytes belong to no tensor"):
        Checkpoint(path)


def test_a_text_file_is_no_checkpoint(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        read_config(path)


# --- the configuration in a checkpoint ---


def test_the_configuration_is_read_back(path):
    assert Checkpoint(write_checkpoint(path, VALUES, SMALL)).config == SMALL
    assert Checkpoint(str(write_checkpoint(path, VALUES, ModelConfig()))).config == ModelConfig()


def test_a_checkpoint_without_configuration(path):
    write_checkpoint(path, VALUES, config=None)
    with pytest.raises(CheckpointError, match="holds no configuration: say which$"):
        read_config(path)


def test_a_damaged_configuration(path):
    save_file(VALUES, path, {"config": "sampling: {fps"})
    with pytest.raises(ConfigError, match="the config in the checkpoint is not valid YAML") as error:
        read_config(path)
    message(error)


def test_the_names_of_a_network(path):
    write_checkpoint(path, {"pair.half": VALUES["pair.half"], "pair_of_others.half": VALUES["pair.half"]})
    assert Checkpoint(path).names("pair") == {"pair.half"} and not Checkpoint(str(path)).names("other")


def test_other_types_are_read_too(path):
    """Integers as they are, and bfloat16 as float32, which holds its values exactly."""
    save_file({"steps": np.array([7, 8])}, path)
    assert Checkpoint(path).read("steps").tolist() == [7, 8]
    header = b'{"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.array([0x3F80, 0xC000], "<u2").tobytes())
    values = Checkpoint(path).read("x")
    assert values.dtype == np.float32 and values.tolist() == [1, -2]
