"""The command `svd`: a subcommand per program, whose module is imported when it is called."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, NoReturn, Optional

from svd.cli.program import begin


class Command(NamedTuple):
    module: str
    """Has `main(argv, program)`, which returns the exit code."""
    summary: str
    hint: str = ""
    """End of the message when a signal ends it."""


CONTINUES, NOTHING = "the same command continues", "nothing was written"
COMMANDS = {
    "image-to-video": Command("svd_tools.image_to_video", "turn images into videos"),
    "text-to-image": Command("svd_tools.text_to_image", "turn text into images"),
    "text-to-video": Command("svd_tools.text_to_video", "turn text into videos"),
    "long-video": Command("svd_tools.long_video", "make videos of any length", CONTINUES),
    "interpolate": Command("svd_tools.interpolate", "make four frames of every frame of a video", CONTINUES),
    "upsample": Command("svd_tools.upsample", "upsample videos and images", NOTHING),
    "sample": Command("svd_tools.sample", "draw videos with a model in pixel space"),
    "extend": Command("svd_tools.extend", "extend videos with a model in pixel space"),
    "reconstruct": Command("svd_tools.reconstruct", "reconstruct videos from a part of them, in pixel space"),
    "train": Command("svd_tools.train", "train a model's temporal layers, or another part of it"),
    "convert": Command("svd_tools.convert", "convert a checkpoint between layouts", NOTHING),
    "convert-lpips": Command("svd_tools.convert_lpips", "make the perceptual loss of published weights", NOTHING),
    "export": Command("svd_tools.export", "export what was trained, merged or alone", NOTHING),
    "initialize": Command("svd_tools.initialize", "write a model with random weights", NOTHING),
    "motion-bucket": Command("svd_tools.motion_bucket", "score how much videos move, for training", CONTINUES),
    "encode-latents": Command("svd_tools.encode_latents", "encode the videos of a training once", CONTINUES),
    "check-device": Command("svd_tools.check_device", "check what works on a device", "what was done is in the report"),
    "evaluate": Command("svd_tools.evaluate", "measure videos: FVD, FID, IS, CLIPSIM", CONTINUES),
    "convert-extractor": Command("svd_tools.convert_extractor", "convert what videos are measured with", NOTHING),
    "continuity": Command("svd_tools.continuity", "measure how continuous videos are", NOTHING),
    "evaluate-decoder": Command("svd_tools.evaluate_decoder", "measure how decoders give videos back"),
    "make-digits": Command("svd_tools.digits.make", "write videos of moving digits", CONTINUES),
    "digits evaluate": Command("svd_tools.digits.evaluate", "measure a model of moving digits", CONTINUES),
    "digits train-judge": Command("svd_tools.digits.train_judge", "train the network that judges digits", CONTINUES),
    "digits words": Command("svd_tools.digits.words", "measure a model of words to moving digits"),
    "digits long": Command("svd_tools.digits.long", "measure models of long videos of moving digits", CONTINUES),
    "digits pixels": Command("svd_tools.digits.pixels", "compare models of Moving MNIST in pixel space", CONTINUES),
    "digits upsampler": Command("svd_tools.digits.upsampler", "measure an upsampler of moving digits"),
    "digits publish": Command("svd_tools.digits.publish", "put a trained model of digits where it is shipped"),
    "digits lora-direction": Command("svd_tools.digits.lora_direction", "measure where adapters let digits move"),
}


def start(name: str, argv: Optional[list[str]] = None, program: str = "") -> NoReturn:
    """Run a subcommand in this process: signals are handled from here on, also while its module is imported.

    Args:
        name: of the subcommand.
        argv: its arguments; those of this process if None.
        program: name in messages; the name of the started file if empty.
    """
    command, program = COMMANDS[name], program or Path(sys.argv[0]).name
    begin(program, command.hint)
    sys.exit(import_module(command.module).main(argv, program))


def main() -> NoReturn:
    """The command line `svd COMMAND ...`."""
    words = sys.argv[1:]
    for length in (1, 2):
        name = " ".join(words[:length])
        if name in COMMANDS:
            start(name, words[length:], f"svd {name}")
    begin("svd")
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items())
    parser = ArgumentParser(
        prog="svd",
        description="Stable Video Diffusion on MindSpore.",
        usage="svd COMMAND [OPTIONS]",
        epilog=f"commands (svd COMMAND --help says more):\n{rows}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    if words and words[0] not in ("-h", "--help"):
        parser.error(f"there is no command {words[0]!r}; svd --help lists them")
    parser.print_help()
    sys.exit(0)


image_to_video, train, convert, check_device = (
    partial(start, name) for name in ("image-to-video", "train", "convert", "check-device")
)
"""Older commands, beside `svd`: svd-image-to-video, svd-train, svd-convert, svd-check-device."""
