"""Turn text into videos with VideoLDM, AnimateDiff, ModelScope and other temporal layers over Stable Diffusion.

svd text-to-video --model.checkpoint=models/v3_sd15_mm.safetensors --prompt="a lighthouse in a storm"
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("text-to-video")

from typing import Optional

from jsonargparse import ArgumentParser

from svd import cli
from svd.cli import text
from svd.config import VideoLDMConfig


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    return text.build_parser(program, __doc__, VideoLDMConfig)


def main(argv: Optional[list[str]] = None, program: str = "text_to_video.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: text.run(parser, args, VideoLDMConfig), argv)
