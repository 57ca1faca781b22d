"""The rules of the house, read from the sources: who imports whom, and which words belong where.

entry points -> cli -> build -> models -> pipelines, training -> networks, autoencoder, conditioning -> layers ->
operators
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = (
    {"operators", "graph_key"},
    {"layers"},
    {"networks", "autoencoder", "conditioning", "placement", "compile_cache", "graphs"},
    {"pipelines", "training", "metrics"},
    {"models", "personalization"},
    {"build"},
    {"build_training"},
    {"cli"},
)
"""Rooms of svd/, each allowed to import itself and those of earlier stages."""
STAGE = {room: number for number, rooms in enumerate(STAGES) for room in rooms}
SHARED = {
    *("errors", "console", "signals", "files", "records", "yaml_files", "trust"),
    *("resources", "seeds"),
    *("config", "initialization", "runtime", "checkpoints", "data", "diffusion"),
}
"""Rooms that every stage may import, and that import none of them."""
ENTRY_POINTS = {"image_to_video", "train", "svd_tools"}
FOREIGN = {"torch", "torchvision", "diffusers", "transformers", "mindone"}
CONTEXT_CALLS = {"set_context", "set_device", "set_auto_parallel_context"}


def imported_modules(tree: ast.AST, package: str) -> set[str]:
    """Dotted names of all that is imported, in functions too; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def violations(source: str, path: str) -> list[str]:
    """What a module of svd/ or svd_tools/ imports or calls against the rules; `path` is relative to the root."""
    tree = ast.parse(source)
    parts = Path(path).with_suffix("").parts
    imported = imported_modules(tree, ".".join(parts[:-1]))
    faults = [f"{path} imports {name}" for name in sorted(imported) if name.split(".")[0] in FOREIGN]
    if parts[0] == "svd":
        faults += [f"{path} imports {name}" for name in sorted(imported) if not _allowed(parts[1], name)]
    if path != "svd/runtime.py":
        names = {getattr(node, "attr", getattr(node, "id", None)) for node in ast.walk(tree)}
        names |= {name.split(".")[-1] for name in imported}
        faults += [f"{path} uses {name}, which is for svd/runtime.py" for name in sorted(names & CONTEXT_CALLS)]
    return faults


def _allowed(room: str, name: str) -> bool:
    """Whether a module of this room of svd/ may import that name."""
    top, _, rest = name.partition(".")
    if top in ENTRY_POINTS:
        return False
    if top != "svd" or room.startswith("__"):  # the doors of the house
        return True
    other = rest.split(".")[0]
    if other == room or other in SHARED or other.startswith("__"):
        return True
    return other in STAGE and room in STAGE and STAGE[other] < STAGE[room]


def modules() -> list[str]:
    paths = [*(ROOT / "svd").rglob("*.py"), *(ROOT / "svd_tools").rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


@pytest.mark.parametrize("path", modules())
def test_imports_go_down_only(path):
    assert violations((ROOT / path).read_text(), path) == []


def test_every_room_is_known():
    """A new room has to be given its place here."""
    rooms = {Path(path).parts[1].removesuffix(".py") for path in modules() if path.startswith("svd/")}
    assert rooms - set(STAGE) - SHARED == {"__init__", "__main__"}


@pytest.mark.parametrize(
    "path, source",
    [
        ("svd/layers/blend.py", "from svd.networks.unet import UNet"),
        ("svd/layers/blend.py", "import svd.networks.unet"),
        ("svd/layers/blend.py", "from ..networks import unet"),
        ("svd/networks/unet.py", "from svd.conditioning.conditioning import Conditioning"),
        ("svd/networks/unet.py", "from svd.build import load_pipeline"),
        ("svd/networks/unet.py", "from svd import load_pipeline"),
        ("svd/pipelines/image_to_video.py", "def f():\n    from svd.training.trainer import Trainer"),
        ("svd/diffusion/denoiser.py", "from svd.networks.unet import UNet"),
        ("svd/diffusion/denoiser.py", "from svd.layers.basic import conv2d"),
        ("svd/config/models.py", "from svd.layers.basic import conv2d"),
        ("svd/build.py", "from svd_tools.convert import convert"),
        ("svd/build.py", "from svd_tools import train"),
        ("svd/__init__.py", "import torch"),
        ("svd/checkpoints/model_file.py", "def f():\n    import torch.nn as nn"),
        ("svd_tools/checkpoints/torch_files.py", "from torch import load"),
        ("svd_tools/checkpoints/torch_files.py", "from diffusers.models import UNet2DModel"),
        ("svd/build.py", "import mindspore as ms\nms.set_context(mode=0)"),
        ("svd/build.py", "from mindspore import set_device as choose\nchoose('CPU')"),
        ("svd_tools/convert.py", "import mindspore.context as c\nf = c.set_context"),
    ],
)
def test_what_breaks_the_rules_is_found(path, source):
    assert len(violations(source, path)) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("svd/networks/unet.py", "from svd.layers.basic import conv2d\nfrom svd.config import UNetConfig"),
        ("svd/networks/unet.py", "from .blocks import Block\nfrom ..layers import basic"),
        ("svd/pipelines/image_to_video.py", "from svd.diffusion.samplers import euler\nimport numpy as np"),
        ("svd/build.py", "from svd import runtime\nfrom svd.pipelines.image_to_video import ImageToVideo"),
        ("svd/runtime.py", "import mindspore as ms\nms.set_context(mode=0)"),
        ("svd_tools/convert.py", "from svd.build import parameter_shapes"),
    ],
)
def test_what_keeps_the_rules_is_not(path, source):
    assert violations(source, path) == []


ALL = [path for folder in ("svd", "svd_tools", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")]
ALL = sorted(str(path.relative_to(ROOT)) for path in [*ALL, *ROOT.glob("*.py")])
FLAG = re.compile(r"(?<![\w-])--[A-Za-z]")
FOREIGN_NAME = re.compile(
    r"diffusion_model|first_stage_model|cond_stage|embedders|vision_model|model_ema|input_blocks|output_blocks|lora_unet"
)
"""In the names of parameters elsewhere."""
FOREIGN_ROOMS = ("svd_tools/checkpoints/", "svd/checkpoints/foreign.py")
OTHERS_FLAGS = {
    "svd/operators/library.py": {"--version"},
    "svd/checkpoints/foreign.py": {
        "python svd_tools/convert.py --pt_weights_file ",
        " --config CONFIG --out_dir DIR",
    },
}
"""Those of compilers, and of a whole command that an error gives."""


def texts(source: str) -> list[str]:
    """The string constants of a module, but for docstrings and what documents a constant."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in constants if id(node) not in documentation]


def flags_named(source: str) -> list[str]:
    return [text for text in texts(source) if FLAG.search(text)]


@pytest.mark.parametrize("path", [path for path in modules() if re.match("svd/(?!cli/)", path)])
def test_the_library_names_no_flags(path):
    """An error names a setting, and the command line says its flag for it."""
    assert set(flags_named((ROOT / path).read_text())) <= OTHERS_FLAGS.get(path, set())


@pytest.mark.parametrize("path", [path for path in modules() if not path.startswith(FOREIGN_ROOMS)])
def test_names_of_other_projects_stay_in_their_room(path):
    assert [text for text in texts((ROOT / path).read_text()) if FOREIGN_NAME.search(text)] == []


@pytest.mark.parametrize("path", ALL)
def test_nobody_changes_where_modules_are_found(path):
    tree = ast.parse((ROOT / path).read_text())
    assert [ast.unparse(node) for node in ast.walk(tree) if ast.unparse(node) == "sys.path"] == []


def module_name(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


PROGRAMS = {module_name(path): path for path in ALL if re.match("svd_tools|scripts", path)}
PROGRAMS = {name: path for name, path in PROGRAMS.items() if "\ndef main(" in (ROOT / path).read_text()}


@pytest.mark.parametrize("path", [p for p in ALL if re.match("svd_tools|scripts", p)])
def test_programs_are_imported_by_nobody(path):
    """What two of them need is in a room below them."""
    imported = imported_modules(ast.parse((ROOT / path).read_text()), "")
    assert sorted(name for name in imported if {name, name.rpartition(".")[0]} & PROGRAMS.keys()) == []


def test_the_rules_of_words_find_what_breaks_them():
    assert flags_named('"""svd --help"""\nraise ValueError(f"{x}: try --SVD.amp_level=O0")') != []
    assert flags_named('X = 1\n"""As --SVD.x."""\ndef f():\n    "--a"\n    return "-- a dash, x--y"') == []
