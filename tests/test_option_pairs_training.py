"""The options of train.py together: every pair of values that goes together is trained, and what must agree agrees.

Every row of the table is trained for two updates as it says, and compared with the plainest training of the same: in
pynative mode, by one process, with the kernels, in one micro-batch, without recomputing, loading workers and
previews; and with averages of the weights, which change nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pytest
from text_training import text_options, write_text_inputs
from training_rows import train_row
from training_runs import ROOT, Outcome, checkpoint, distance, metrics, options, start, tensors, train_here

from svd_tools import encode_latents

OPTIONS = {
    "learned": [
        "temporal layers",
        "the UNet",
        "adapters",
        "image_model",
        "autoencoder",
        "temporal_decoder",
        "image_encoder",
    ],
    "cards": [1, 2],
    "data": ["videos", "latents"],
    "mode": [0, 1],
    "kernels": [True, False],
    "accumulation": [1, 2],
    "recompute": [False, True],
    "precision": ["O0", "O2"],
    "batch": [1, 2],
    "ema": [0.0, 0.9],
    "workers": [0, 1],
    "previews": [False, True],
    "sharded": [False, True],
}
UNET = {"temporal layers", "the UNet", "adapters", "image_model"}
LEARNED = {
    "temporal layers": [],
    "the UNet": ["--train.temporal_only=False"],
    "adapters": ["--train.lora.rank=4"],
}
REFUSED = {
    ("learned", "data"): lambda learned, data: data == "latents" and learned not in UNET,
    ("learned", "previews"): lambda learned, previews: previews and learned not in UNET,
    ("cards", "sharded"): lambda cards, sharded: sharded and cards == 1,
}
"""Pairs that make no sense; all others do."""
CLOSE = {"O0": 1e-5, "O2": 5e-2}
"""Relative: of losses, of norms of gradients, and of checkpoints in the 2-norm. Of float32 they differ by some 1e-6. In
float16 every operation is off by up to 5e-4, and small gradients lose digits: their averages differ by some 1e-2."""


def sensible(row: dict) -> bool:
    return not any(refuse(row[a], row[b]) for (a, b), refuse in REFUSED.items() if a in row and b in row)


def seconds(row: dict) -> float:
    """About what a row costs: graphs are compiled, float16 is slow on CPU, and previews are graphs of their own."""
    row = {"learned": "autoencoder", "precision": "O0", "mode": 1, "cards": 1, "kernels": True} | row
    of_unet, half = row["learned"] in UNET, row["precision"] == "O2"
    clips = row.get("batch", 1) * row.get("accumulation", 1)
    if row["mode"] == 1:
        cost = (1 if of_unet else 0.7) + half * (1 if of_unet else 0.5) * (1 + 0.5 * (clips - 1))
    else:
        cost = {"temporal_decoder": 5, "autoencoder": 6, "image_encoder": 4}.get(row["learned"], 7) * (1 + half)
        cost += 3 * (not row["kernels"]) + 2 * (row.get("accumulation") == 2)
    cost += row.get("previews", False) * (2.5 if row["mode"] else 4) * (1.5 if half else 1)
    return (cost + 0.6 * row.get("workers", 0)) * (2.2 if row["cards"] == 2 else 1)


def covering(seed: int) -> list[dict]:
    """Few and cheap rows that have every sensible pair of values: row by row, from a pair that is missing, the value
    that adds most; of many seeds, this one made the cheapest rows.
    """
    missing = {
        frozenset({(a, value), (b, other)}): None
        for a, b in combinations(OPTIONS, 2)
        for value in OPTIONS[a]
        for other in OPTIONS[b]
        if sensible({a: value, b: other})
    }
    chance, rows = Random(seed), []
    row = {"learned": "temporal_decoder", "mode": 0, "precision": "O2"}
    while missing:
        for option in chance.sample(list(OPTIONS), len(OPTIONS)):
            choices = [value for value in OPTIONS[option] if sensible(row | {option: value})]
            if option not in row:
                row[option] = max(choices, key=lambda value: worth(row | {option: value}, option, missing))
        rows.append({option: row[option] for option in OPTIONS})
        for pair in combinations(row.items(), 2):
            missing.pop(frozenset(pair), None)
        row = dict(chance.choice(list(missing) or [()]))
    return rows


def worth(row: dict, option: str, missing: dict[frozenset, None]) -> float:
    """New pairs by the value of this option, less what the row costs: three seconds are worth one pair."""
    return sum(frozenset({(option, row[option]), item}) in missing for item in row.items()) - 0.35 * seconds(row)


def text_row(learned: str, **options) -> dict:
    return {option: values[0] for option, values in OPTIONS.items()} | {"learned": learned} | options


ROWS = covering(seed=20632)
TEXT_ROWS = [
    text_row("text_to_video", data="latents", mode=0, accumulation=2, ema=0.9, workers=1),
    text_row("text_to_video", mode=1, recompute=True, precision="O2", batch=2, data="latents"),
    text_row("text_to_image", mode=0, ema=0.9, workers=1),
    text_row("text_to_image", cards=2, kernels=False, data="latents", mode=1, recompute=True, accumulation=2),
]
"""Of models that are given text; images along with the text encoder. Most of a training knows nothing of its task."""


def plainest(row: dict) -> dict:
    """The training that a row must agree with."""
    clips = row["batch"] * row["accumulation"] * row["cards"]
    plain = {"cards": 1, "mode": 1, "kernels": True, "accumulation": 1, "recompute": False, "batch": clips, "ema": 0.9}
    return row | plain | {"workers": 0, "previews": False, "sharded": False}


class Folder:
    """Where rows are trained, each once."""

    def __init__(self, inputs: Path, path: Path):
        """`path` has the latents, and models that are given text with their own."""
        self.inputs, self.path = inputs, path

    def run(self, row: dict) -> Path:
        return self.path / "_".join(str(value).replace(" ", "-") for value in row.values())

    def flags(self, row: dict) -> list[str]:
        """Flags of train.py for a row, and what training_rows.py knows beside them."""
        learned, run = row["learned"], self.run(row)
        of_text = learned.startswith("text_to_")
        flags = options(self.inputs, run)
        if of_text:
            flags = text_options(self.path / "text", run, learned.removeprefix("text_to_"))
            flags += ["--train.text_encoder=True"] * (learned == "text_to_image")
        if row["data"] == "latents" or learned == "image_encoder":
            flags = [flag for flag in flags if "dataset" not in flag]
        if row["data"] == "latents":
            flags += ["--train.dataset=LatentsDataset", f"--train.dataset.init_args.folder={self.path / 'latents'}"]
            flags[-1] += "_text" * of_text
        elif learned == "image_encoder":
            flags += ["--train.dataset=MovingDigits", "--train.dataset.init_args.frames=2"]
            flags += ["--train.dataset.init_args.size=32"]
        flags += LEARNED.get(learned, [f"--train.task={learned}"])
        if row["previews"]:
            flags += [f"--train.preview.images=[{self.inputs / 'photo.png'}]", "--train.preview.every=1"]
            flags += ["--train.preview.sampling_steps=1", "--train.preview.format=gif"]
        return ["portable"] * (not row["kernels"]) + [
            *flags,
            "--train.updates=2",
            # A large eps: where a gradient is next to nothing, Adam would make an update of its rounding.
            "--train.optimizer.eps=1e-2",
            "--train.optimizer.max_grad_norm=1e9",
            f"--environment.mode={row['mode']}",
            f"--environment.amp_level={row['precision']}",
            f"--train.gradient_accumulation={row['accumulation']}",
            f"--train.recompute={row['recompute']}",
            f"--train.batch_size={row['batch']}",
            f"--train.optimizer.ema_decay={row['ema']}",
            f"--train.workers={row['workers']}",
            f"--train.shard_optimizer={row['sharded']}",
        ]

    def trained(self, row: dict) -> Path:
        """The folder of the row's training, which is done now if it has not been."""
        run = self.run(row)
        if not run.exists():
            outcome = train_row(self.flags(row))
            assert outcome.code == 0, outcome.err
        return run


@pytest.fixture(scope="module")
def folder(inputs, tmp_path_factory) -> Folder:
    path = tmp_path_factory.mktemp("pairs")
    (path / "text").mkdir()
    of_text = [*text_options(write_text_inputs(path / "text"), path, "image"), "--train.text_encoder=True"]
    for flags, name in ((options(inputs, path), "latents"), (of_text, "latents_text")):
        assert encode_latents.main([*flags, f"--out={path / name}", "--passes=4"]) == 0
    return Folder(inputs, path)


@pytest.fixture(scope="module")
def two_cards(folder) -> Folder:
    """All rows of two cards, trained by one pair of processes."""
    rows = [folder.flags(row) for row in (*ROWS, *TEXT_ROWS) if row["cards"] == 2]
    (folder.path / "rows.json").write_text(json.dumps(rows))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    script = ROOT / "tests/training_rows.py"
    program = [shutil.which("msrun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")]
    program += ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True", "--bind_core=False"]
    program += [f"--log_dir={folder.path / 'logs'}", "--cluster_time_out=300", script, folder.path / "rows.json"]
    child = start(folder.path / "log", *program)
    code = child.wait(400)
    assert code == 0, (folder.path / "logs/worker_0.log").read_text()[-3000:]
    return folder


def name(row: dict) -> str:
    return "-".join(str(value).replace(" ", "_") for value in row.values())


def test_every_pair_is_in_the_table():
    for a, b in combinations(OPTIONS, 2):
        for value in OPTIONS[a]:
            for other in OPTIONS[b]:
                together = any(row[a] == value and row[b] == other for row in ROWS)
                assert together == sensible({a: value, b: other}), (a, value, b, other)


@pytest.mark.parametrize("row", (*ROWS, *TEXT_ROWS), ids=name)
def test_a_row_agrees_with_the_plainest(folder, row, request):
    if row["cards"] == 2:
        request.getfixturevalue("two_cards")
    run, plain = folder.trained(row), folder.trained(plainest(row))
    close = CLOSE[row["precision"]]
    a, b = metrics(run), metrics(plain)
    assert len(a) == len(b) == 2 and np.isfinite(a["loss"]).all()
    assert (run / "previews").is_dir() == row["previews"]
    if row["precision"] == "O2" and a["void_updates"].tolist() != b["void_updates"].tolist():
        # Another micro-batch has other gradients, which may overflow where those of a larger one do not.
        assert a["loss"][0] == pytest.approx(b["loss"][0], rel=1e-3)
        return
    for column in ("loss", "grad_norm"):
        # Where micro-batches are added up, a norm that is infinite for the plainest may be no number.
        found = np.where(np.isnan(a[column]) & np.isinf(b[column]), np.inf, a[column])
        np.testing.assert_allclose(found, b[column], rtol=close, err_msg=column)
    a, b = tensors(checkpoint(run, 2)), tensors(checkpoint(plain, 2))
    kinds = {key.split("/")[0] for key in a}
    assert kinds == {"trained", "optimizer", *(["ema"] if row["ema"] else [])}
    b = {key: value for key, value in b.items() if key.split("/")[0] in kinds}
    for kind in kinds:
        assert distance(a, b, f"{kind}/") < close, kind


@pytest.mark.parametrize("pair", REFUSED, ids="-".join)
def test_what_makes_no_sense_is_refused(folder, pair):
    """With a sentence, before anything is done."""
    count = 0
    for value in OPTIONS[pair[0]]:
        for other in OPTIONS[pair[1]]:
            if not REFUSED[pair](value, other):
                continue
            row = {key: values[0] for key, values in OPTIONS.items()} | dict(zip(pair, (value, other)))
            outcome: Outcome = train_here(*folder.flags(row))
            assert outcome.code == 2 and len(outcome.error) > 40, outcome.err
            assert not folder.run(row).exists()
            count += 1
    assert count
