"""How many compiled graphs stay in memory: a network has one for each size, and MindSpore would keep them all."""

from mindspore import nn

try:
    from mindspore.graph.api import _cell_graph_executor
except ImportError:  # before MindSpore 2.9
    from mindspore.common.api import _cell_graph_executor

MOST = 8
"""Graphs of a network at a time: a video takes two of the UNet where guidance has an interval, and one of the rest."""


def keep_latest(cell: nn.Cell, most: int = MOST) -> None:
    """Release the graphs of a cell that were not used for the longest, so that no more than so many are in memory.

    One that is wanted again is compiled again.
    """
    compile_graph, used = cell.compile, []  # phases, as MindSpore calls its graphs; the latest is the last

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
