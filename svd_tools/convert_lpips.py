"""Make LPIPS, a perceptual loss of decoders, of the published weights of VGG16 and of its linear layers.

svd convert-lpips --vgg vgg16-397923af.pth --linear vgg.pth --out models/lpips.safetensors

The first file is torchvision's (vgg16, IMAGENET1K_V1), the second is in the package lpips (lpips/weights/v0.1/vgg.pth).
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("convert-lpips")

from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser

from svd import cli
from svd.checkpoints.tensor_files import LazyTensor, finite, write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd_tools.checkpoints.output import cast_all, writing
from svd_tools.checkpoints.sources import read_weights

FEATURES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of the convolutions among torchvision's layers, by level."""
NAMES = {
    "vgg": {
        f"features.{number}.{kind}": f"lpips.levels.{level}.convs.{i}.{kind}"
        for level, numbers in enumerate(FEATURES)
        for i, number in enumerate(numbers)
        for kind in ("weight", "bias")
    },
    "linear": {f"lin{level}.model.1.weight": f"lpips.levels.{level}.weight" for level in range(len(FEATURES))},
}
"""Our names by the published ones, by the file that has them."""
WHAT = {"vgg": "torchvision's VGG16", "linear": "the linear layers of LPIPS for VGG16"}


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--vgg",
        required=True,
        type=str,
        help="torchvision's VGG16 (vgg16-397923af.pth), or .safetensors with its names.",
    )
    add("--linear", required=True, type=str, help="LPIPS' linear layers for VGG16 (lpips/weights/v0.1/vgg.pth).")
    add("--out", required=True, type=str, help="File to write, .safetensors.")
    add("--overwrite", action="store_true", help="Replace the output if it exists.")
    return parser


def convert_lpips(vgg: str | Path, linear: str | Path, out: str | Path, overwrite: bool = False) -> Path:
    """Write LPIPS and return the path; raises CheckpointError, and then nothing is written."""
    target = Path(out)
    if target.suffix != ".safetensors":
        raise CheckpointError(f"{target} has to end with .safetensors", setting="out")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists; choose another --out, or give --overwrite to replace it")
    from svd.networks.perceptual import FORMAT, Lpips  # MindSpore takes seconds to import

    shapes = {f"lpips.{parameter.name}": tuple(parameter.shape) for parameter in Lpips().get_parameters()}
    tensors = _tensors("vgg", Path(vgg), shapes) | _tensors("linear", Path(linear), shapes)
    outputs = cast_all(tensors, "fp32")
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target, outputs) as (temporary, progress):
        write_safetensors(temporary, outputs, {"format": FORMAT}, progress)
    print(f"wrote {len(outputs)} tensors:\n{target}")
    return target


def _tensors(part: str, path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, LazyTensor]:
    """The tensors of a file by our names."""
    given, found = read_weights(path).tensors, {}
    for name, ours in NAMES[part].items():
        if name not in given:
            raise CheckpointError(f"{path} is not {WHAT[part]}: it has no {name}")
        if tuple(given[name].shape) != shapes[ours]:
            raise CheckpointError(
                f"{path} is not {WHAT[part]}: {name} is {list(given[name].shape)}, not {list(shapes[ours])}"
            )
        found[ours] = finite(name, given[name])
    return found


def main(argv: Optional[list[str]] = None, program: str = "convert_lpips.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), lambda args: convert_lpips(**vars(args)), argv)
