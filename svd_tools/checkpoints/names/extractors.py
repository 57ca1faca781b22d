"""Names of the networks whose features metrics are of: ours, and those of the files that are published."""

from svd_tools.checkpoints.names.clip import CLIP, TEXT_ENCODER
from svd_tools.checkpoints.tables import Table

_NORM = (
    ("gamma",           "weight"),
    ("beta",            "bias"),
    ("moving_mean",     "running_mean"),
    ("moving_variance", "running_var"),
)  # fmt: skip

# --- I3D: pytorch-i3d and VideoGPT ---

_UNIT = (
    ("conv.conv", "conv3d : over_time"),
    ("norm",      "bn", _NORM),
)  # fmt: skip
_STEM = ("Conv3d_1a_7x7", "", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
_BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
I3D = Table(("pytorch",), (
    *((f"stem.{i}", name, _UNIT) for i, name in enumerate(_STEM) if name),
    *((f"blocks.{i}", f"Mixed_{name}", (
        ("branch0",   "b0",  _UNIT),
        ("branch1.0", "b1a", _UNIT),
        ("branch1.1", "b1b", _UNIT),
        ("branch2.0", "b2a", _UNIT),
        ("branch2.1", "b2b", _UNIT),
        ("branch3.1", "b3b", _UNIT),
    )) for i, name in enumerate(_BLOCKS)),
    ("logits", "logits.conv3d : linear_1x1x1"),
))  # fmt: skip

# --- Inception: pytorch-fid, whose names are torchvision's ---

_UNIT_2D = (
    ("conv", "conv"),
    ("norm", "bn", _NORM),
)  # fmt: skip
_BRANCHES_35 = ("branch1x1", "branch5x5_1 branch5x5_2", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3", "- branch_pool")
_BRANCHES_17 = (
    "branch1x1", "branch7x7_1 branch7x7_2 branch7x7_3",
    "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5", "- branch_pool",
)  # fmt: skip
_BRANCHES_8 = (
    "branch1x1", "branch3x3_1 branch3x3_2a|branch3x3_2b",
    "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a|branch3x3dbl_3b", "- branch_pool",
)  # fmt: skip
_TO_17 = ("branch3x3", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3")
_TO_8 = ("branch3x3_1 branch3x3_2", "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4")
_INCEPTION = {
    "5b": _BRANCHES_35, "5c": _BRANCHES_35, "5d": _BRANCHES_35,
    "6a": _TO_17, "6b": _BRANCHES_17, "6c": _BRANCHES_17, "6d": _BRANCHES_17, "6e": _BRANCHES_17,
    "7a": _TO_8, "7b": _BRANCHES_8, "7c": _BRANCHES_8,
}  # fmt: skip
"""Units of each branch one after the other: `-` has no weights, and `|` stands between two side by side."""
_STEM_2D = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "", "Conv2d_3b_1x1", "Conv2d_4a_3x3")


def _units(branches: tuple[str, ...]):
    """The rows of a block."""
    for j, names in enumerate(branches):
        for k, name in enumerate(names.split(" ")):
            sides = name.split("|")
            for side, theirs in enumerate(sides):
                if theirs != "-":
                    yield f"branches.{j}.{k}" + (f".branches.{side}" if len(sides) > 1 else ""), theirs, _UNIT_2D


INCEPTION = Table(("pytorch",), (
    *((f"stem.{i}", name, _UNIT_2D) for i, name in enumerate(_STEM_2D) if name),
    *((f"blocks.{i}", f"Mixed_{name}", tuple(_units(names))) for i, (name, names) in enumerate(_INCEPTION.items())),
))  # fmt: skip

# --- C3D: c3d-pytorch, and the file of TGANv2 ---

C3D = Table(("pytorch", "chainer"), (
    *((f"features.{place}.conv", f"{name if number > 1 else name[:-1]} : over_time", f"{name} : over_time")
      for number, (place, name) in enumerate(zip(
          (0, 3, 6, 8, 11, 13, 16, 18), ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
      ))),
    *((name, name, name) for name in ("fc6", "fc7", "fc8")),
))  # fmt: skip

# --- CLIP, both towers: OpenAI's names, and those of transformers ---

CLIP_TOWERS = Table(("sgm", "diffusers"), (
    ("image",                  "visual",                      "", CLIP),
    ("text.encoder",           "",                            "", TEXT_ENCODER),
    ("text.projection.weight", "text_projection : transpose", "text_projection.weight"),
))  # fmt: skip
