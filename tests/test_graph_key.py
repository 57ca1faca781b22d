"""What a compiled graph depends on."""

import json
from functools import partial

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from svd.graph_key import UnknownError, described_cell, described_inputs
from svd.layers.axes import per_image
from svd.layers.basic import GroupNorm, Linear


class Layers(nn.Cell):
    """Of two layers, equal or the same one."""

    __module__ = "svd.layers"

    def __init__(self, shared: bool = False, **attributes):
        super().__init__()
        self.first = Linear(2, 2)
        self.second = self.first if shared else Linear(2, 2)
        for name, value in attributes.items():
            setattr(self, name, value)


def key(cell: nn.Cell) -> str:
    return json.dumps(described_cell(cell))


def test_equal_cells_have_equal_keys():
    """Whatever the values of their parameters, and whenever they were made."""
    assert key(Layers()) == key(Layers()) and key(GroupNorm(32)) == key(GroupNorm(32))
    one, other = Layers(), Layers()
    other.first.weight.set_data(Tensor(np.ones((2, 2), np.float32)))
    assert key(one) == key(other)
    gradients = [ms.value_and_grad(cell, None, ms.ParameterTuple(cell.get_parameters())) for cell in (one, other)]
    assert key(Layers(gradients=gradients[0])) == key(Layers(gradients=gradients[1]))


DIFFERENT = [
    ({"scale": 1.0}, {"scale": 2.0}),
    ({"scale": 1}, {"scale": True}),
    ({"scale": 1}, {}),
    ({"shared": True}, {"shared": False}),
    ({"sizes": (1, 2)}, {"sizes": (2, 1)}),
    ({"sizes": (1, 2)}, {"sizes": [1, 2]}),
    ({"table": {"a": 1}}, {"table": {"a": 2}}),
    ({"table": Tensor([1.0, 2.0])}, {"table": Tensor([1.0, 3.0])}),
    ({"table": np.array([1, 2])}, {"table": np.array([1.0, 2.0])}),
    ({"weight": Parameter(Tensor([1.0]), name="a")}, {"weight": Parameter(Tensor([1.0]), name="b")}),
    ({"weight": Parameter(Tensor([1.0]))}, {"weight": Parameter(Tensor([1.0]), requires_grad=False)}),
    ({"operator": ops.Concat(1)}, {"operator": ops.Concat(2)}),
    ({"operator": ops.ReLU()}, {"operator": ops.Tanh()}),
    ({"function": partial(per_image, 1)}, {"function": partial(per_image, 2)}),
    ({"dtype": ms.float16}, {"dtype": ms.float32}),
]


@pytest.mark.parametrize("one, other", DIFFERENT, ids=[str(sorted({*a, *b})) for a, b in DIFFERENT])
def test_what_changes_a_graph_changes_the_key(one, other):
    assert key(Layers(**one)) != key(Layers(**other)) and key(Layers(**one)) == key(Layers(**one))


@pytest.mark.parametrize("change", ["train", "recompute", "freeze", "float16"])
def test_what_is_set_later_changes_the_key(change):
    one, other = Layers(relu=nn.ReLU()), Layers(relu=nn.ReLU())
    if change == "train":
        other.set_train()
    elif change == "recompute":
        other.first.recompute()
    elif change == "freeze":
        other.first.weight.requires_grad = False
    else:
        other.relu.to_float(ms.float16)  # not the layers, whose operators are shared
    assert key(one) != key(other)


class Foreign(Linear):
    """Of a source that may change without notice."""


@pytest.mark.parametrize(
    "cell",
    [Foreign(2, 2), nn.SequentialCell(Foreign(2, 2)), Layers(function=lambda x: x), Layers(thing=iter(()))],
    ids=["cell", "part", "function", "value"],
)
def test_what_is_not_known_has_no_key(cell):
    with pytest.raises(UnknownError, match="it is not known what"):
        described_cell(cell)


def test_of_inputs_shapes_and_types_count_and_values_of_what_is_no_tensor():
    x, y = Tensor([1.0, 2.0]), Tensor([3.0, 4.0])
    assert described_inputs([x, {"n": 1}]) == described_inputs([y, {"n": 1}])
    alike = [[x, 1], [x, 2], [x, None], [(x,), 1], [[x], 1], [x, "1"], [x.astype(ms.float16), 1], [Tensor([1.0]), 1]]
    assert len({json.dumps(described_inputs(inputs)) for inputs in alike}) == len(alike)
    with pytest.raises(UnknownError):
        described_inputs([object()])
