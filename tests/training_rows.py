"""Trainings of given flags, one after the other in this process, or in each of several ranks: `msrun training_rows.py`.

A row is a list of flags of train.py; `portable` before them has the layers computed without the kernels.
"""

import json
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

from training_runs import Outcome, train_here

import svd  # noqa: F401 (before MindSpore)

# isort: split
import mindspore as ms


def train_row(row: list[str]) -> Outcome:
    """Run train.py with the flags of a row, in this process."""
    kernels = patch("svd.operators.table.library", lambda: None) if row[0] == "portable" else nullcontext()
    with kernels:
        return train_here(*(flag for flag in row if flag != "portable"))


def main() -> int:
    """Train the rows of a JSON file; every rank does the same. Returns how many have failed."""
    ms.device_context.cpu.op_tuning.threads_num(1)  # as in conftest.py
    failed = 0
    for row in json.loads(Path(sys.argv[1]).read_text()):
        try:
            outcome = train_row(row)
            said = "\n".join(outcome.err)
        except Exception:  # told with its row, and the others are trained too
            outcome, said = None, traceback.format_exc()
        if outcome is None or outcome.code != 0:
            failed += 1
            print(f"failed: {' '.join(row)}\n{said}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
