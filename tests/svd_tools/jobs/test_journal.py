"""The journal of a long piece of work: what else may stand in its place."""

import os

import pytest

from svd.data.dataset import DatasetError
from svd_tools.jobs.journal import Journal


@pytest.mark.parametrize("kind", ["pipe", "folder", "text"])
def test_what_is_no_journal(tmp_path, kind):
    path = tmp_path / "x.journal"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("some text that is longer than the head of a database" * 10)
    with pytest.raises(DatasetError, match=r"x.journal: cannot be used \(.*\); delete it, or choose another --out"):
        Journal(path, {"score": "REAL"}, "scores")
