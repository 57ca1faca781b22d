"""What the extractors of metrics are made of, in its Ascend form: all operators are documented there."""

import mindspore as ms
import pytest
from device import cpu_only
from mindir import export, zeros
from mindspore import nn
from test_export import BOOKKEEPING, undocumented

from svd.layers.basic import Linear
from svd.metrics.i3d import Block, Unit
from svd.metrics.inception import AveragePool, Branches, MaxPool
from svd.metrics.inception import Unit as PictureUnit
from svd.metrics.volumes import MaxPool3d
from svd.placement import place

pytestmark = cpu_only("graphs for Ascend are exported on CPU")

NETWORKS = {
    "volumes": (
        lambda: nn.SequentialCell(
            Unit(3, 8, 7, 2), MaxPool3d((1, 3), (1, 2)), Block(8, (4, 4, 4, 4, 4, 4), 1e-5),
            MaxPool3d((2, 2), (2, 2), at_end=True), Linear(7, 3),
        ),
        (1, 10, 3, 56, 56),
    ),
    "pictures": (
        lambda: nn.SequentialCell(
            PictureUnit(3, 8, (3, 3), 2, True), nn.MaxPool2d(3, 2), Branches(AveragePool(), MaxPool()),
        ),
        (2, 3, 43, 43),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_operator_is_documented_for_ascend(name, tmp_path):
    build, shape = NETWORKS[name]
    network = place(build().set_train(False), "Ascend", ms.float32)
    graph = export(network, [zeros(*shape)], tmp_path)
    operators = {node.primitive for node in graph.nodes} - set(BOOKKEEPING)
    assert {"Conv2D", "BatchNorm", "MaxPool"} <= operators and not operators & {"Conv3D", "MaxPool3D", "AvgPool3D"}
    assert undocumented(graph) == set()
