"""Pickles are interpreted: what they may say, and what they can never make this program do."""

import collections
import pickle
import struct

import pytest

from svd_tools.checkpoints import pickles
from svd_tools.checkpoints.pickles import PickledTensor, Refused, Storage, read_pickle

EMPTY_DICT, TUPLE2, SETITEM, STOP = b"}", b"\x86", b"s", b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_plain_values_are_as_pickle_reads_them(protocol):
    shared = {"numbers": [1, 300, 70000, -5, 2**40, 1.5], "nothing": None, "flags": (True, False)}
    content = {"a": shared, "b": shared, "text": "ü" * 300, "deep": [[()], {}], 7: (1, 2, 3), "ordered": ["x"] * 3}
    assert read_pickle(pickle.dumps(content, protocol)) == content
    ordered = collections.OrderedDict(x=1, y=2)
    assert read_pickle(pickle.dumps(ordered, protocol)) == {"x": 1, "y": 2}
    assert sorted(read_pickle(pickle.dumps({3, 4}, protocol))) == [3, 4]


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_called(protocol):
    """Also not by instructions that few pickles have."""
    for evil in (print, pickle.PickleError("x"), range(3)):
        with pytest.raises((Refused, TypeError)):
            read_pickle(pickle.dumps({"x": evil}, protocol))


@pytest.mark.parametrize(
    "data",
    [
        b"(S'touch ran'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch ran'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # EXT1
        b"Pstorage\n.",  # PERSID
    ],
)
def test_every_way_to_name_something(data):
    with pytest.raises(Refused):
        read_pickle(data)


@pytest.mark.parametrize(
    "data",
    [b"", b".", b"0.", b"R.", b"NNR.", b"]N.", b"h\x07.", b"N)R.", b"I12\n", b"\xff."],
)
def test_damaged_pickles_raise(data):
    with pytest.raises(Exception):  # noqa: B017 (almost anything is raised, and told by the reader of files)
        read_pickle(data)


def test_keys_that_would_take_for_ever_are_left_out():
    """Of a tuple of a tuple twice, of that twice, ... a hash takes 2^n steps; of these numbers all hashes are equal."""
    nested = b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + TUPLE2 for n in range(100))
    assert read_pickle(EMPTY_DICT + nested + b"N" + SETITEM + STOP) == {}
    prime = 2**61 - 1
    colliding = {n * prime: n for n in range(1, 100)} | {"kept": 1}
    assert read_pickle(pickle.dumps(colliding, 2)) == {"kept": 1}


def test_the_number_of_instructions_is_limited(monkeypatch):
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 1000)
    with pytest.raises(Refused, match="more instructions than any model needs"):
        read_pickle(b"N0" * 2000 + STOP)


def test_tensors():
    storage = b"(" + text("storage") + b"ctorch\nHalfStorage\n" + text("0") + text("cpu") + b"K\x06tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89NtR"
    assert read_pickle(tensor + STOP) == PickledTensor(Storage("F16", "0"), 0, (2, 3), (3, 1))
    listed = tensor.replace(b"K\x02K\x03\x86", b"]")
    with pytest.raises(TypeError, match="shape is not whole numbers"):
        read_pickle(listed + STOP)
    flat = tensor.replace(b"K\x02K\x03\x86", b"K\x02\x85")
    with pytest.raises(ValueError, match="1 axes and 2 strides"):
        read_pickle(flat + STOP)
