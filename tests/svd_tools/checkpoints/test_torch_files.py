"""PyTorch's files: what torch.save writes, and what somebody else may write in its place."""

import os
import struct
import zipfile

import numpy as np
import pytest

from svd.checkpoints.tensor_header import CheckpointError
from svd_tools.checkpoints import torch_files
from svd_tools.checkpoints.sources import read_weights
from svd_tools.checkpoints.torch_files import read_torch

# Opcodes of a pickle, put together by hand: these tests need no torch, and torch writes no malicious files.
EMPTY_DICT, MARK, TUPLE, SETITEM, REDUCE, PERSISTENT, BUILD, STOP = (
    b"}",
    b"(",
    b"t",
    b"s",
    b"R",
    b"Q",
    b"b",
    b".",
)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def group(*parts: bytes) -> bytes:
    return MARK + b"".join(parts) + TUPLE


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tensor(key: str, shape, strides, offset=0, storage="FloatStorage", count=6) -> bytes:
    stored = group(text("storage"), name("torch", storage), text(key), text("cpu"), integer(count)) + PERSISTENT
    hooks = name("collections", "OrderedDict") + group() + REDUCE
    sizes = [group(*map(integer, numbers)) for numbers in (shape, strides)]
    return name("torch._utils", "_rebuild_tensor_v2") + group(stored, integer(offset), *sizes, b"\x89", hooks) + REDUCE


def archive(path, pickled: bytes, records=None, prefix="archive/", compression=zipfile.ZIP_STORED, extra=()):
    """A PyTorch file with this pickle and these storages."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{prefix}data.pkl", b"\x80\x02" + pickled + STOP)
        for key, content in (records or {}).items():
            file.writestr(f"{prefix}data/{key}", content)
        for key, content in extra:
            file.writestr(key, content)
    return path


def dictionary(**values: bytes) -> bytes:
    return EMPTY_DICT + b"".join(text(key) + value + SETITEM for key, value in values.items())


X = np.arange(6, dtype=np.float32)
STORAGE = {"0": X.tobytes()}


def test_strides_offsets_and_shared_storages(tmp_path):
    path = archive(
        tmp_path / "x.ckpt",
        dictionary(
            plain=tensor("0", (2, 3), (3, 1)),
            turned=tensor("0", (3, 2), (1, 3)),
            tail=tensor("0", (2,), (1,), offset=4),
            spread=tensor("0", (2, 2), (0, 2), offset=1),
            one=tensor("0", (), (), offset=5),
            none=tensor("0", (0, 3), (3, 1)),
            thin=tensor("0", (1, 3), (99, 1)),
        ),
        STORAGE,
    )
    values = {key: lazy.read() for key, lazy in read_torch(path).items()}
    assert np.array_equal(values["plain"], X.reshape(2, 3))
    assert np.array_equal(values["turned"], X.reshape(2, 3).T) and values["turned"].flags.c_contiguous
    assert np.array_equal(values["tail"], [4, 5])
    assert np.array_equal(values["spread"], [[1, 3], [1, 3]])
    assert values["one"] == 5 and values["one"].shape == ()
    assert values["none"].shape == (0, 3)
    assert np.array_equal(values["thin"], X[None, :3])


def test_dictionaries_within_and_beside(tmp_path):
    inner = dictionary(weight=tensor("0", (6,), (1,)), version=integer(3))
    path = archive(tmp_path / "x.ckpt", dictionary(epoch=integer(7), state_dict=inner), STORAGE)
    assert list(read_torch(path)) == ["state_dict.weight"]


def test_parameters(tmp_path):
    rebuilt = name("torch._utils", "_rebuild_parameter")
    hooks = name("collections", "OrderedDict") + group() + REDUCE
    parameter = rebuilt + group(tensor("0", (6,), (1,)), b"\x88", hooks) + REDUCE
    path = archive(tmp_path / "x.ckpt", dictionary(weight=parameter), STORAGE)
    assert np.array_equal(read_torch(path)["weight"].read(), X)


@pytest.mark.parametrize(
    "module, attribute",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_qtensor"),
        ("collections", "Counter"),
        ("svd.checkpoints.tensor_files", "stored_tensor"),
    ],
)
def test_anything_but_tensors_is_refused_and_not_run(tmp_path, module, attribute):
    witness = tmp_path / "ran"
    call = name(module, attribute) + group(text(f"touch {witness}")) + REDUCE
    path = archive(tmp_path / "x.ckpt", dictionary(weight=tensor("0", (6,), (1,)), evil=call), STORAGE)
    with pytest.raises(CheckpointError, match=f"asks for {module}.{attribute}") as error:
        read_torch(path)
    assert len(str(error.value).splitlines()) == 1 and "re-save" in str(error.value)
    assert not witness.exists()


def test_classes_of_lightning_are_keys(tmp_path):
    """As in sd-v1-4.ckpt; and numbers of NumPy. What calls such a class is refused."""
    key = name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    score = (
        name("numpy.core.multiarray", "scalar") + group(name("numpy", "dtype") + group(text("f8")) + REDUCE) + REDUCE
    )
    state = b"}" + key + dictionary(best=score, last=tensor("0", (), ())) + b"s"
    inner = dictionary(weight=tensor("0", (6,), (1,)))
    path = archive(tmp_path / "x.ckpt", dictionary(callbacks=state, state_dict=inner), STORAGE)
    found = list(read_torch(path))
    assert found[-1] == "state_dict.weight" and found[0].endswith("model_checkpoint.ModelCheckpoint.last")
    path = archive(tmp_path / "x.ckpt", dictionary(state_dict=inner, evil=key + group() + REDUCE), STORAGE)
    with pytest.raises(CheckpointError, match="it calls pytorch_lightning"):
        read_torch(path)


def test_attributes_set_by_one_file_do_not_reach_the_next(tmp_path):
    defaults = MARK + b"N" + dictionary(__defaults__=group(integer(1))) + TUPLE
    poisoned = name("torch._utils", "_rebuild_tensor_v2") + defaults + BUILD
    archive(tmp_path / "x.ckpt", dictionary(weight=poisoned), STORAGE)
    assert read_torch(tmp_path / "x.ckpt") == {}
    path = archive(tmp_path / "y.ckpt", dictionary(weight=tensor("0", (6,), (1,))), STORAGE)
    assert np.array_equal(read_torch(path)["weight"].read(), X)


@pytest.mark.parametrize(
    "pickled",
    [
        dictionary(weight=tensor("0", (7,), (1,))),
        dictionary(weight=tensor("0", (2, 3), (4, 1))),
        dictionary(weight=tensor("0", (6,), (1,), offset=-1)),
        dictionary(weight=tensor("0", (6,), (-1,))),
        dictionary(weight=tensor("1", (6,), (1,))),
    ],
)
def test_tensors_beyond_their_storage(tmp_path, pickled):
    with pytest.raises(CheckpointError, match="weight reaches beyond its storage"):
        read_torch(archive(tmp_path / "x.ckpt", pickled, STORAGE))


@pytest.mark.parametrize(
    "pickled, reason",
    [
        (text("just text"), "holds a str"),
        (
            dictionary(weight=name("torch._utils", "_rebuild_tensor_v2") + group() + REDUCE),
            "damaged pickle: TypeError",
        ),
        (dictionary(weight=group(text("module"), *[integer(1)] * 4) + PERSISTENT), "it holds a module"),
        (dictionary(weight=tensor("0", (6,), (1,)))[:40], "damaged pickle"),
        (b"\xff", "damaged pickle"),
    ],
)
def test_other_content(tmp_path, pickled, reason):
    with pytest.raises(CheckpointError, match=reason):
        read_torch(archive(tmp_path / "x.ckpt", pickled, STORAGE))


def test_other_archives(tmp_path):
    good = dictionary(weight=tensor("0", (6,), (1,)))
    np.savez(tmp_path / "arrays.npz", x=X)
    with pytest.raises(CheckpointError, match="no data.pkl"):
        read_torch(tmp_path / "arrays.npz")
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch(archive(tmp_path / "x.ckpt", good, STORAGE, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="big-endian"):
        read_torch(archive(tmp_path / "x.ckpt", good, STORAGE, extra=[("archive/byteorder", b"big")]))


# --- archives and pickles that would take all memory, or for ever ---


def test_records_that_are_bombs(tmp_path):
    """Compressed, a few megabytes would become gigabytes; stored as they are, they take the space that they say."""
    good = dictionary(weight=tensor("0", (6,), (1,)))
    path = archive(tmp_path / "x.ckpt", good, STORAGE)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/byteorder", bytes(1 << 24))
    with pytest.raises(CheckpointError, match="record archive/byteorder is compressed"):
        read_torch(path)
    path = archive(tmp_path / "y.ckpt", good, STORAGE, extra=[("archive/byteorder", bytes(100))])
    with pytest.raises(CheckpointError, match="its record archive/byteorder has 100 bytes, more than any model needs"):
        read_torch(path)
    path = archive(tmp_path / "z.ckpt", good + b"0" * (17 << 20))
    with pytest.raises(CheckpointError, match="archive/data.pkl has .* bytes, more than any model needs"):
        read_torch(path)


def test_a_list_of_too_many_records(tmp_path, monkeypatch):
    path = archive(tmp_path / "x.ckpt", dictionary(weight=tensor("0", (6,), (1,))), STORAGE)
    monkeypatch.setattr(torch_files, "LARGEST_DIRECTORY", 100)
    with pytest.raises(CheckpointError, match="lists more records than any model needs"):
        read_torch(path)


def test_dictionaries_that_stand_in_one_another(tmp_path, monkeypatch):
    """A file of a few kilobytes with more names than could ever be listed."""
    monkeypatch.setattr(torch_files, "MOST_ENTRIES", 1000)
    inner = dictionary(weight=tensor("0", (6,), (1,))) + b"q\x01"
    for number in range(2, 7):
        again = b"".join(text(f"{index}") + b"h" + bytes([number - 1]) + SETITEM for index in range(50))
        inner += b"0" + EMPTY_DICT + again + b"q" + bytes([number])
    with pytest.raises(CheckpointError, match="more entries than any model needs"):
        read_torch(archive(tmp_path / "x.ckpt", inner, STORAGE))
    itself = EMPTY_DICT + b"q\x01" + text("again") + b"h\x01" + SETITEM
    assert read_torch(archive(tmp_path / "y.ckpt", itself, STORAGE)) == {}


def test_what_stands_beside_the_tensors_of_a_training(tmp_path):
    """DeepSpeed's and Lightning's: sets, shapes, types, optimizers; as PyTorch pickles them."""
    torch = pytest.importorskip("torch")
    content = {
        "module": {"weight": torch.ones(2)},
        "optimizer": {
            "state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(1.0)}},
            "param_groups": [{"lr": 0.1}],
        },
        "param_shapes": [{"weight": torch.Size([2])}],
        "names": {"a", "b"},
        "types": (torch.float16, torch.bfloat16, torch.device("cpu"), frozenset([1])),
        "version": torch.__version__,
        "raw": b"bytes",
        ("a", "key"): 3,
    }
    for protocol in (2, 4):
        torch.save(content, tmp_path / "x.pt", pickle_protocol=protocol)
        found = read_torch(tmp_path / "x.pt")
        assert list(found) == ["module.weight"] and np.array_equal(found["module.weight"].read(), [1, 1])


def test_types_of_eight_bits_and_others(tmp_path):
    torch = pytest.importorskip("torch")
    values = torch.arange(0, 96, dtype=torch.uint8).reshape(2, 48)
    tensors = {
        name: values.view(getattr(torch, name))
        for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    }
    torch.save(
        tensors | {"turned": tensors["float8_e5m2"].T, "uint16": torch.ones(3, dtype=torch.uint16)}, tmp_path / "x"
    )
    found = read_torch(tmp_path / "x")
    for name, value in tensors.items():
        assert np.array_equal(found[name].read(), value.float().numpy(), equal_nan=True), name
    assert np.array_equal(found["turned"].read(), tensors["float8_e5m2"].T.float().numpy(), equal_nan=True)
    assert found["uint16"].read().tolist() == [1, 1, 1]
    torch.save({"x": torch.ones(2, dtype=torch.complex64)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="tensor x has type C64, which is not supported; re-save"):
        read_torch(tmp_path / "x")


def test_truncated_archives(tmp_path):
    path = archive(tmp_path / "x.ckpt", dictionary(weight=tensor("0", (6,), (1,))), STORAGE)
    content = path.read_bytes()
    for size in range(4, len(content), 11):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            read_torch(path)


def test_what_torch_saves(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    tensors = {
        "base": base,
        "permuted": base.permute(2, 0, 1),
        "slice": base[:, 1:, ::2],
        "expanded": torch.ones(3, 1).expand(3, 5),
        "half": base.half(),
        "bfloat": base.bfloat16() / 3,
        "double": base.double() / 3,
        "long": base.long(),
        "int": base.int(),
        "short": base.short(),
        "char": base.char(),
        "byte": base.byte(),
        "bool": base > 3,
        "parameter": torch.nn.Parameter(base * 2),
        "scalar": torch.tensor(1.5),
    }
    network = torch.nn.Linear(2, 3).half()
    for content in (tensors, {"state_dict": tensors, "step": 3}, network.state_dict()):
        torch.save(content, tmp_path / "x.bin")
        expected = content
        if "state_dict" in content:
            expected = {f"state_dict.{key}": value for key, value in tensors.items()}
        found = read_torch(tmp_path / "x.bin")
        assert found.keys() == expected.keys()
        for key, lazy in found.items():
            value = expected[key].detach()
            value = value.float() if value.dtype == torch.bfloat16 else value
            read = lazy.read()
            assert read.dtype == value.numpy().dtype and np.array_equal(read, value.numpy()), key


def test_torch_files_with_more_than_tensors(tmp_path):
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"weight": torch.ones(2), "evil": Evil()}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="asks for posix.system"):
        read_weights(tmp_path / "x.ckpt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="torch.nn.modules.linear.Linear"):
        read_weights(tmp_path / "x.ckpt")
    torch.save({"weight": torch.ones(2), "evil": Evil()}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="asks for posix.system"):
        read_weights(tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match="no checkpoint of PyTorch.*execute it"):
        read_weights(tmp_path / "x.ckpt")
    assert not (tmp_path / "ran").exists()


def equal(tensors, expected: dict) -> None:
    assert tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        assert np.array_equal(tensors[key].read(), tensor.numpy()), key


def test_files_from_before_pytorch_1_6(tmp_path):
    torch = pytest.importorskip("torch")
    state = {
        "w": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "counter": torch.tensor(3),
        "t": torch.randn(4, 6).T,
    }
    state["part"] = state["w"][1:]
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    opened = read_weights(tmp_path / "x.pth")
    assert "before 1.6" in opened.kind
    equal(opened.tensors, {f"state_dict.{name}": tensor for name, tensor in state.items()})
    content = (tmp_path / "x.pth").read_bytes()
    for size in (30, len(content) // 2, len(content) - 1):
        (tmp_path / "x.pth").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="damaged|truncated"):
            for tensor in read_weights(tmp_path / "x.pth").tensors.values():
                tensor.read()


def test_torchscript(tmp_path):
    """Its code is neither read nor run."""
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.BatchNorm2d(4))).eval()
    torch.jit.trace(network, torch.randn(2, 3, 5, 5)).save(tmp_path / "x.pt")
    equal(read_weights(tmp_path / "x.pt").tensors, network.state_dict())
