"""AllReduce over all cards of this machine, which distributed training needs; on CPU over two processes.

msrun runs this file in every process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from svd_tools.device_checks.environment import count_cards
from svd_tools.device_checks.outcome import Outcome, Settings, Skipped

NUMBERS = 2**22
"""Size of the reduced array, 16 MB in float32."""
CALLS = 5


def sum_over_cards(settings: Settings) -> Outcome:
    """Reduce arrays of rank + 1, whose sum is exact in float32."""
    from svd import runtime

    device = runtime.setup(settings.device, settings.mode)
    cards = 2 if device == "CPU" else count_cards(device)
    if cards < 2:
        raise Skipped("there is one card")
    with tempfile.TemporaryDirectory() as folder:
        run_ranks(cards, Path(folder), settings)
        found = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank_*.json"))]
        if len(found) != cards:
            raise RuntimeError(f"{len(found)} of {cards} processes came to an end")
    note = f"{cards} {'processes' if device == 'CPU' else 'cards'}, 16 MB in {max(f['seconds'] for f in found):.3g} s"
    return Outcome(max(f["difference"] for f in found), 0.0, note)


def run_ranks(cards: int, folder: Path, settings: Settings) -> None:
    """Run the processes; their output is printed if they fail."""
    msrun = shutil.which("msrun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if msrun is None:
        raise FileNotFoundError("msrun, which comes with MindSpore, is not beside Python, and not on the PATH")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [msrun, f"--worker_num={cards}", f"--local_worker_num={cards}", f"--master_port={port}"]
    command += [f"--log_dir={folder}", "--join=True", __file__, settings.device, str(settings.mode), str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        for log in sorted(folder.glob("worker_*.log")):
            print(f"{log.name}:", *log.read_text(errors="replace").splitlines()[-10:], sep="\n")
        print(done.stdout)
        raise RuntimeError(f"msrun ended with {done.returncode}")


def rank(device: str, mode: str, folder: str) -> None:
    """One process: the reduction, its error and its time."""
    import numpy as np
    from mindspore import Tensor

    from svd import runtime
    from svd.training.distributed import Sum

    runtime.setup(device, int(mode))
    number, count = runtime.join_ranks()
    total, x = Sum(), Tensor(np.full(NUMBERS, number + 1, np.float32))
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        result = total(x).asnumpy()
        times.append(time.perf_counter() - start)
    expected = count * (count + 1) / 2
    found = {"difference": float(abs(result / expected - 1).max()), "seconds": statistics.median(times)}
    Path(folder, f"rank_{number}.json").write_text(json.dumps(found))


def checks(settings: Settings) -> dict[str, Callable[[], Outcome]]:
    return {"sum over the cards": lambda: sum_over_cards(settings)}


if __name__ == "__main__":
    rank(*sys.argv[1:])
