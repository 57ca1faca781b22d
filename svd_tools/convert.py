"""Convert a checkpoint between the layouts of other programs and this project's.

python svd_tools/convert.py --pt_weights_file svd.safetensors --config configs/svd.yaml --out_dir models
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("convert")

from typing import Optional, get_args

from jsonargparse import ArgumentParser

from svd import cli
from svd_tools.checkpoints.converter import convert
from svd_tools.checkpoints.layouts import ENDINGS, OURS
from svd_tools.checkpoints.output import DTYPES
from svd_tools.checkpoints.recognition import Choice

__all__ = ["build_parser", "convert", "main"]


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pt_weights_file", required=True, type=str, help="Checkpoint to convert: Stability's file (.safetensors, "
        ".ckpt, .pt, .bin) or ComfyUI's, a diffusers folder, mindone's .ckpt, or a file of this project; also of a "
        "training, with averages or wrappers; or motion modules of AnimateDiff, the folder of ModelScope's three "
        "files, or adapters (LoRA) of kohya's scripts, peft, diffusers or AnimateDiff. The layout is told from the "
        "names.")  # fmt: skip
    add("--config", required=True, type=str, help="Config of the model, for instance configs/svd.yaml; or a converted "
        "checkpoint, which holds its own.")  # fmt: skip
    add("--out_dir", required=True, type=str, help="Folder to write to; made if it does not exist.")
    add("--image_model", type=str, help="Checkpoint of the image model that temporal layers (such as motion modules), "
        "or a UNet alone, belong to, in any layout: what they lack is taken from it, the text encoder, autoencoder and "
        "vocabulary included.")  # fmt: skip
    add("--base_model", type=str, help="Checkpoint of Stable Video Diffusion, in any layout, that a UNet alone was "
        "tuned from, such as AnimateLCM-SVD's: the encoders and the autoencoder are taken from it.")  # fmt: skip
    add("--tokenizer", type=str, help="Vocabulary of a model that is given text, if there is none with its checkpoint "
        "(single files have none): the folder tokenizer of a diffusers folder, or bpe_simple_vocab_16e6.txt.gz of "
        "OpenAI's CLIP and open_clip.")  # fmt: skip
    add("--reversal_of", type=str, help="The converted checkpoint that the UNet in --pt_weights_file was "
        "fine-tuned from for videos backward in time (Generative Inbetweening, arXiv 2408.15239): what was changed is "
        "written, for `svd image-to-video --SVD.reversal`.")  # fmt: skip
    add("--weights", choices=get_args(Choice), default="auto", help="Which weights to take from a training checkpoint: "
        "ema, the averages that it keeps beside the weights, or plain, the weights themselves. auto: the averages, if "
        "there are any.")  # fmt: skip
    add("--to", choices=tuple(ENDINGS), default=OURS, help="Layout to write.")
    add("--dtype", choices=("keep", *DTYPES), default="keep", help="Type of the written values.")
    add("--report", action="store_true", help="Print where every tensor comes from and goes to.")
    add("--overwrite", action="store_true", help="Replace the output if it exists.")
    return parser


def main(argv: Optional[list[str]] = None, program: str = "convert.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), lambda args: convert(**vars(args)), argv)
