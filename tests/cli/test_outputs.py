"""What is written beside a video: options that --config takes, and the command that it is for."""

import pytest

from svd.cli.options import parse
from svd.cli.outputs import side_file
from svd_tools.image_to_video import build_parser


@pytest.mark.parametrize(
    ("program", "command"),
    [("image_to_video.py", "python image_to_video.py"), ("svd image-to-video", "svd image-to-video")],
)
def test_a_side_file_is_for_the_program_that_wrote_it(tmp_path, program, command):
    parser = build_parser(program)
    args = parse(parser, ["--image", "a.png", "b.png", "--seed=3", "--SVD.fps=9", "--SVD.guidance=[1,2]"])
    text = side_file(parser, args, {"command": "one\nline \x1b", "svd": "1"}, image=["b.png"])
    head, facts, version, options = text.split("\n", 3)
    assert head == f"# Repeat this video with: {command} --config THIS_FILE"
    assert (facts, version) == ("# command: one\\nline \\x1b", "# svd: 1")
    (tmp_path / "side.yaml").write_text(options)
    again = parse(parser, [f"--config={tmp_path / 'side.yaml'}"])
    assert again.image == ["b.png"] and args.image == ["a.png", "b.png"]
    again.image, again.config = args.image, args.config
    assert again == args
