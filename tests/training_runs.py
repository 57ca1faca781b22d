"""A tiny model, a few videos, and train.py run on them: in this process, or in one of its own."""

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from device import TRAINING
from PIL import Image
from safetensors.numpy import load_file
from small_checkpoint import random_tensors, write_checkpoint
from small_model import SMALL
from training_videos import write_training_videos

from svd.config import AutoencoderConfig, UNetConfig, dump_config
from svd_tools import train

ROOT = Path(__file__).parents[1]

TINY = replace(
    SMALL,
    unet=UNetConfig(
        model_channels=32,
        channel_mult=[1],
        num_res_blocks=1,
        attention_resolutions=[],
        num_head_channels=32,
        context_dim=16,
        vector_dim=24,
    ),
    autoencoder=AutoencoderConfig(channels=32, channel_mult=[1], num_res_blocks=1),
    sampling=replace(SMALL.sampling, height=8, width=8),
)
"""A single level, with a transformer in its middle: compiled and trained in half the time of the small model."""

VIDEOS = 4


@dataclass
class Outcome:
    """What a run left behind."""

    code: int
    out: str
    err: list[str]

    @property
    def error(self) -> str:
        """The only line of standard error, what is said of the training aside."""
        lines = [line for line in self.err if line and not line.startswith(("# ", "training: "))]
        assert len(lines) == 1, lines
        assert lines[0].startswith("train.py: error: ")
        return lines[0].removeprefix("train.py: error: ")


def write_inputs(folder: Path) -> Path:
    """Write the tiny model, an image and videos/videos.csv; returns the folder."""
    write_checkpoint(folder / "tiny.safetensors", random_tensors(TINY), TINY)
    (folder / "tiny.yaml").write_text(dump_config(TINY))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    (folder / "videos").mkdir()
    write_training_videos(folder / "videos", VIDEOS)
    return folder


def options(inputs: Path, run: Path) -> list[str]:
    """Flags of a short training in pynative mode, without other processes; those that follow them replace them."""
    return [
        f"--svd_config={inputs / 'tiny.yaml'}",
        "--environment.mode=1",
        *TRAINING,
        f"--train.pretrained={inputs / 'tiny.safetensors'}",
        f"--train.output_dir={run}",
        "--train.updates=6",
        "--train.workers=0",
        "--train.log_every=1",
        "--train.optimizer.learning_rate=1e-2",  # so that every update shows in the weights
        "--train.optimizer.warmup_updates=0",
        "--train.dataset.init_args.frames=3",
        "--train.dataset.init_args.step=2",
        "--train.dataset.init_args.height=8",
        "--train.dataset.init_args.width=8",
        f"--train.dataset.init_args.metadata={inputs / 'videos/videos.csv'}",
    ]


def train_here(*argv: str | Path) -> Outcome:
    """Run train.py in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = train.main([str(argument) for argument in argv])
    return Outcome(code, out.getvalue(), re.split("[\r\n]+", err.getvalue().strip("\r\n")))


@dataclass
class Child:
    """A process, and a file of what it says."""

    process: subprocess.Popen
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 600) -> None:
        """Wait until it has said something."""
        self._wait(lambda: text in self.said or self.process.poll() is not None, seconds)
        assert text in self.said, self.said[-3000:]

    def wait(self, seconds: float = 600) -> int:
        """Wait until it has ended; returns the exit code."""
        self._wait(lambda: self.process.poll() is not None, seconds)
        return self.process.returncode

    def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                for process in (*descendants(self.process.pid), psutil.Process(self.process.pid)):
                    process.kill()
                raise AssertionError(f"took more than {seconds} s: {self.said[-3000:]}")
            time.sleep(0.05)


def start(log: Path, *argv: str | Path, **environment: str) -> Child:
    """Start a program in a session of its own, with train.py and MindSpore's programs within reach."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PATH": path, **environment}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [str(argument) for argument in argv], stdout=file, stderr=file, env=env, start_new_session=True
        )
    return Child(process, log)


def start_training(log: Path, *flags: str | Path, patch: str = "") -> Child:
    """Start train.py; with the source `patch`, after which its `main` is called."""
    if not patch:
        return start(log, sys.executable, ROOT / "train.py", *flags)
    # as train.py does
    begin = "from svd.cli import begin\nbegin('train.py')\nimport os, signal, sys, time\nfrom svd_tools import train"
    code = f"{begin}\n{patch}\nsys.exit(train.main(sys.argv[1:]))"
    return start(log, sys.executable, "-c", code, *flags)


def descendants(pid: int) -> list[psutil.Process]:
    """The processes that a process has started, and those that they have."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def all_gone(pids: list[int], seconds: float = 20) -> bool:
    """Whether processes have ended, or do so now. Who inherited them may not have taken notice."""

    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    end = time.monotonic() + seconds
    while any(map(runs, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def checkpoint(run: Path, update: int) -> Path:
    return run / "checkpoints" / f"update_{update:08d}"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, as FILE/NAME; shared-out optimizer states as if they were not."""
    return {
        f"{path.stem.split('_')[0]}/{name}": value
        for path in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    different = [name for name in a if a[name].dtype != b[name].dtype or a[name].tobytes() != b[name].tobytes()]
    assert not different, f"{len(different)} of {len(a)} differ, the first is {different[0]}"


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray], kind: str = "") -> float:
    """How far a is from b, relative to b, in the 2-norm over all tensors whose names begin so."""
    assert a.keys() == b.keys()
    chosen = [name for name in b if name.startswith(kind)]
    square = sum(np.sum((a[name].astype(np.float64) - b[name]) ** 2) for name in chosen)
    return float(np.sqrt(square / sum(np.sum(b[name].astype(np.float64) ** 2) for name in chosen)))


def metrics(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv")
