"""Bounding the compiled graphs in memory: a network has one per input shape, and MindSpore would keep them all."""

from mindspore import nn

try:
    from mindspore.graph.api import _cell_graph_executor
except ImportError:  # before MindSpore 2.9
    from mindspore.common.api import _cell_graph_executor

MOST = 8
"""Graphs per network: a video needs two of the UNet with a guidance interval, and one of each other network."""


def keep_latest(cell: nn.Cell, most: int = MOST) -> None:
    """Keep at most `most` compiled graphs of a cell in memory, and release the least recently used.

    A released graph is compiled again when it is needed.
    """
    compile_graph, used = cell.compile, []  # phases (MindSpore's keys of graphs), least recently used first

    def compile_within(*args, **kwargs):  # MindSpore calls it before every run
        result = compile_graph(*args, **kwargs)
        phase = cell.current_phase
        if phase in used:
            used.remove(phase)
        used.append(phase)
        if len(used) > most:
            oldest = used.pop(0)
            _cell_graph_executor.del_net_res(cell, {oldest})
            cell.compile_cache.discard(oldest)
        return result

    cell.compile = compile_within
