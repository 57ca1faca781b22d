"""What tests share: both modes, the golden model, the small one, and what the tiny one is trained on."""

import os

# Read when NumPy is imported: its second thread would spin beside every test, and beside the programs that they start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import svd  # before MindSpore, whose slow convolutions it may have to cure

# isort: split
import gc
import shutil
import signal
import tempfile
from functools import cache
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from device import AMP_LEVEL, DEVICE
from small_model import build_small_pipe
from tqdm import tqdm

from svd import runtime
from svd_tools.convert import convert

GOLDEN = Path(__file__).parent / "golden"
OWN_GRAPHS = []
"""The folder of compiled graphs that this process has made, of a run of the tests."""
DEAREST = (
    "test_option_pairs_training",
    "test_sampling_pairs",
    "test_train_ranks",
    "test_video_blocks",
    "test_text_to_video_pipeline",
    "test_export",
)

# One operator after the other: an error is raised where it occurs, and on CPU pynative mode runs ten times faster
# than with its threads, which wait for one another.
ms.runtime.launch_blocking()

# Threads of a kernel wait for one another without sleeping: an eighth of the suite's time, where two processes run it.
ms.device_context.cpu.op_tuning.threads_num(1)


# nohup and shells in the background let signals be ignored, by what the tests start, too.
for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_configure() -> None:
    """A device that is not there is told of at once, in one line. Compiled graphs are kept for this run alone."""
    try:
        runtime.setup(DEVICE)
    except runtime.RuntimeSetupError as error:
        raise pytest.UsageError(str(error)) from None
    if DEVICE == "CPU" and "SVD_COMPILE_CACHE" not in os.environ:  # workers inherit it
        OWN_GRAPHS.append(tempfile.mkdtemp(prefix="svd-test-graphs-"))
        os.environ["SVD_COMPILE_CACHE"] = OWN_GRAPHS[0]


def pytest_unconfigure() -> None:
    """Workers have ended by now."""
    for folder in OWN_GRAPHS:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The dearest files first: none of them is still running when all others are done."""
    items.sort(key=lambda item: DEAREST.index(item.path.stem) if item.path.stem in DEAREST else len(DEAREST))


def pytest_collection_finish() -> None:
    """MindSpore looks for garbage before it compiles a graph: not among all that has been imported, time and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # a compiler makes many objects, and little garbage


@pytest.fixture(autouse=True, scope="module")
def _freeze_what_stays() -> None:
    """Nor among the models and graphs that the tests of other files keep."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_bars_of_others() -> None:
    """Bars that an error has left open, which its traceback holds: the next one would be drawn below them."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


@pytest.fixture(scope="session", params=[0, 1], ids=["graph", "pynative"])
def _mode(request) -> int:
    """Of the session, so that the tests of a mode run one after the other."""
    return request.param


@pytest.fixture
def mode(_mode) -> int:
    """0 for graph mode, 1 for pynative: set for this test, whatever ran before."""
    runtime.setup(DEVICE, _mode)
    return _mode


@pytest.fixture
def eager() -> None:
    """Pynative mode, for tests that would learn nothing from a second mode."""
    runtime.setup(DEVICE, 1)


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Inputs and outputs of Stability's code."""
    with np.load(GOLDEN / "values.npz") as values:
        return dict(values)


@pytest.fixture(scope="session")
def golden_config() -> Path:
    return GOLDEN / "config.yaml"


@pytest.fixture(scope="session")
def golden_source() -> Path:
    """The golden weights, laid out as the published single file."""
    return GOLDEN / "weights.safetensors"


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory, golden_source, golden_config) -> Path:
    return convert(golden_source, golden_config, tmp_path_factory.mktemp("golden"))


@pytest.fixture
def golden_pipe(mode, golden_config, golden_checkpoint):
    """The golden pipeline of this mode; the graphs it has compiled are kept for the tests that follow."""
    return _load_once(golden_config, golden_checkpoint, mode)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """Folder of a tiny model, an image and videos to train on: to be read only."""
    from training_runs import write_inputs  # train.py, which most tests do not need

    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def small_pipe(mode):
    """The small random pipeline of this mode."""
    return _build_once(mode)


@cache
def _load_once(config: Path, checkpoint: Path, mode: int):
    return svd.load_pipeline(config, checkpoint, device_target=DEVICE, mode=mode, amp_level=AMP_LEVEL)


@cache
def _build_once(mode: int):
    return build_small_pipe()
