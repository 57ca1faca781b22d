"""Convert the published weights of a network that `svd evaluate` measures with.

python svd_tools/convert_extractor.py --weights i3d_pretrained_400.pt
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("convert-extractor")

from typing import Optional

from jsonargparse import ArgumentParser

from svd import cli
from svd_tools.checkpoints.extractors import convert_extractor


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--weights", required=True, type=str, help="The published file, by whose names the network is recognised: "
        "i3d_pretrained_400.pt (FVD), pt_inception-2015-12-05-6726825d.pth (FID), conv3d_deepnetA_ucf.npz (IS), "
        "OpenAI's ViT-B-32.pt or a folder of transformers (CLIPSIM). Pickles are not executed.")  # fmt: skip
    add("--out_dir", type=str, default="models/extractors", help="Folder to write to, as i3d.safetensors and so on.")
    add("--tokenizer", type=Optional[str], help="Vocabulary of CLIP, if the weights are a single file: the folder "
        "tokenizer of a diffusers folder, or bpe_simple_vocab_16e6.txt.gz.")  # fmt: skip
    add("--mean", type=Optional[str], help="Mean clip of C3D's training: mean2.npz, which is published beside its "
        "weights.")  # fmt: skip
    add("--overwrite", action="store_true", help="Replace the output if it exists.")
    return parser


def main(argv: Optional[list[str]] = None, program: str = "convert_extractor.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), lambda args: convert_extractor(**vars(args)), argv)
