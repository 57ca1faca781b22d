"""Progress: every item comes through, and the first is told of by itself where it compiles a graph."""

import pytest

from svd.pipelines.progress import steps


@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_items_in_order(compiling, count):
    assert list(steps(list(range(count)), "sampling", "step", compiling)) == list(range(count))


def test_compilation_is_told_of_before_the_first_item_and_left_out_of_the_bar(capsys):
    items = steps([1, 2, 3], "sampling", "step", compiling=True)
    next(items)
    assert capsys.readouterr().err == "sampling: compiling the graph ... (once per size)\n"
    next(items)
    told = capsys.readouterr().err
    assert told.startswith("sampling: compiled, and the first step done, in ") and told.splitlines()[0].endswith(" s")
    assert "1/3" in told, "the bar starts after the step that compiled"
    assert list(items) == [3]
    assert "3/3" in capsys.readouterr().err


def test_without_compilation_there_is_only_the_bar(capsys):
    list(steps([1, 2], "decoding", "chunk", compiling=False))
    told = capsys.readouterr().err
    assert "compil" not in told
    assert "decoding: 100%" in told and "2/2" in told and "chunk" in told


def test_a_single_item_that_compiles_needs_no_bar(capsys):
    list(steps([1], "encoding", "image", compiling=True))
    assert len(capsys.readouterr().err.splitlines()) == 2
