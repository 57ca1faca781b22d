"""Measure a folder of videos: FVD, FID, Inception Score, CLIPSIM.

svd evaluate --videos outputs/clips --reference data/clips --metrics fvd fid

Writes the results, with the protocol of each metric, as .json, and beside it a .yaml that repeats the run. What is
gathered of the videos is kept: the same command goes on where it was stopped, and a reference is measured once.
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("evaluate")

import json
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Optional

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from svd import __version__, cli, runtime
from svd.cli.commands import COMMANDS
from svd.cli.options import add_device, new_parser
from svd.config import ConfigError
from svd.console import log, printable
from svd.files import check_folder, write_text
from svd.resources import DIGITS, find_file
from svd.yaml_files import load_yaml, read_yaml
from svd_tools.measures.clips import Choice, Folder, read_captions
from svd_tools.measures.gathering import Progress, gather
from svd_tools.measures.metrics import METRICS, Measure, Setting

SPLITS = 10
"""Parts that the Inception Score is averaged over, in its paper."""
_OF = {"captions": "clipsim", "splits": "is", "judge": "fvd_digits"}
"""Options that are for one metric alone."""
_OWN = {"videos", "reference", "metrics"}
"""Options that the measuring of a model of digits does not have."""


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = new_parser(program, __doc__, "File of these options, such as the .yaml that a run has written.")
    add = parser.add_argument
    titles = "; ".join(f"{name}: {metric.title}" for name, metric in METRICS.items())
    add("--videos", type=Optional[str], help="Folder of videos to measure, searched with all below it. (Without it a "
        "model of moving digits is measured, as by svd digits evaluate.)")  # fmt: skip
    add("--reference", type=Optional[str], help="Folder of real videos that they are compared with.")
    add("--metrics", nargs="+", choices=tuple(METRICS), default=["fvd"], help=f"What to compute. {titles}.")
    add("--extractors", type=str, default="models/extractors", help="Folder of the networks' weights, as svd "
        "convert-extractor writes them.")  # fmt: skip
    add("--out", type=str, default="outputs/evaluation.json", help="File of the results; an earlier one is replaced.")
    add("--kept", type=str, default="outputs/evaluation", help="Folder in which what is gathered of videos is kept.")
    add("--frames", type=PositiveInt, default=16, help="Frames of a clip, of which there is one for each video.")
    add("--step", type=PositiveInt, default=1, help="Every how many frames of a video one is taken.")
    add("--start", type=Literal["first", "random"], default="first", help="Where in its video a clip begins: with it, "
        "or anywhere by the seed.")  # fmt: skip
    add("--samples", type=Optional[PositiveInt], help="Videos of each folder that are measured, chosen by the seed; "
        "all if it is not given.")  # fmt: skip
    add("--height", type=Optional[PositiveInt], help="Pixels that videos are brought to before all else, by covering "
        "and cropping the centre; needed where their sizes differ.")  # fmt: skip
    add("--width", type=Optional[PositiveInt], help="See --height.")
    add("--skip_unusable", action="store_true", help="Pass over videos that are too short or damaged; they are listed "
        "in the results.")  # fmt: skip
    add("--captions", type=Optional[str], help="CSV file with the columns path (relative to --videos) and caption, for "
        "clipsim. Otherwise the prompt in the side file of each video is taken.")  # fmt: skip
    add("--splits", type=Optional[PositiveInt], help="Parts of the videos over which the Inception Score is averaged; "
        f"{SPLITS} if it is not given.")  # fmt: skip
    add("--judge", type=Optional[str], help="Network that judges digits, for fvd_digits; the one that comes with the "
        "project if it is not given.")  # fmt: skip
    add("--seed", type=NonNegativeInt, default=0, help="Of which videos, and which clips of them, are measured.")
    add("--batch_size", type=PositiveInt, default=4, help="Clips at a time; results do not depend on it.")
    add_device(parser)
    return parser


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    metrics = list(dict.fromkeys(args.metrics))
    _check(args, metrics)
    size = (args.height, args.width) if args.height else None
    choice = Choice(args.frames, args.step, args.start, size, args.seed, args.samples, args.skip_unusable)
    compared = [name for name in metrics if METRICS[name].reference]
    folders = {"videos": Folder(args.videos, "videos", choice)}
    if compared:
        folders["reference"] = Folder(args.reference, "reference", choice)
    _check_folders(args, metrics, folders)
    captioned = any(METRICS[name].captions for name in metrics)
    captions = read_captions(folders["videos"], args.captions) if captioned else {}

    device = runtime.setup(args.device_target, args.mode)
    judge = args.judge or str(DIGITS / "judge.safetensors")
    setting = Setting(args.extractors, judge, device, args.splits or SPLITS)
    measures = {name: METRICS[name].set_up(setting) for name in metrics}
    found = {}
    log("the first clips compile the networks, once")
    for name, folder in folders.items():
        chosen = {metric: measures[metric] for metric in (metrics if name == "videos" else compared)}
        found[name] = gather(folder, chosen, captions if name == "videos" else {}, args.batch_size, Path(args.kept))
        if found[name].count < 2 and compared:
            raise ConfigError(_too_few(folder, found[name].count, compared[0]))
    results = {name: _result(name, measures[name], found, args.frames) for name in metrics}
    report = {
        "metrics": results,
        "clips": {"frames": args.frames, "step": args.step, "start": args.start, "seed": args.seed},
        "folders": {name: _describe(folder, found[name]) for name, folder in folders.items()},
        "options": args.as_dict(),
        "versions": {"svd": __version__, **runtime.describe(args.mode)},
    }
    write_text(args.out, json.dumps(report, indent=1, default=str) + "\n")
    chosen = args.clone()
    chosen.config = None
    facts = f"# Repeat this with: {parser.prog} --config THIS_FILE\n# command: {printable(shlex.join(sys.argv))}\n"
    beside = Path(args.out).with_suffix(".yaml")
    write_text(beside, facts + parser.dump(chosen))
    _show(results, report)
    print(args.out, beside, sep="\n")


def _check(args: Namespace, metrics: list[str]) -> None:
    """Raise ConfigError for options that cannot be used, or would not be."""
    compared = [name for name in metrics if METRICS[name].reference]
    if not args.videos:
        raise ConfigError("--videos is missing: the folder of videos to measure")
    if compared and not args.reference:
        raise ConfigError(f"--reference is missing: {compared[0]} compares the videos with those of a folder")
    if args.reference and not compared:
        raise ConfigError(f"--reference is given, but {', '.join(metrics)} are of the videos alone: leave it out")
    for option, metric in _OF.items():
        used = any(METRICS[name].captions for name in metrics) if option == "captions" else metric in metrics
        if args[option] is not None and not used:
            raise ConfigError(f"--{option} is for {metric}: leave it out, or add that to --metrics")
    if (args.height is None) != (args.width is None):
        raise ConfigError("--height and --width belong together: give both, or neither")
    for name in metrics:
        least, most = METRICS[name].frames
        if not least <= args.frames <= (most or args.frames):
            wanted = f"{least}" if least == most else f"{least} or more"
            raise ConfigError(f"{name} is of clips of {wanted} frames, and --frames is {args.frames}")
    if Path(args.out).suffix != ".json":
        raise ConfigError(f"--out {args.out}: give a name that ends in .json")
    check_folder(Path(args.out).parent, "--out")
    check_folder(args.kept, "--kept")
    for name in metrics:
        if METRICS[name].extractor and not Path(args.extractors, f"{METRICS[name].extractor}.safetensors").is_file():
            from svd.metrics.extractors import extractor_file  # MindSpore takes seconds to import

            extractor_file(args.extractors, METRICS[name].extractor)


def _check_folders(args: Namespace, metrics: list[str], folders: dict[str, Folder]) -> None:
    """Raise an error for folders that cannot be measured, before the networks are loaded."""
    compared = [name for name in metrics if METRICS[name].reference]
    for folder in folders.values():
        if folder.wanted < 2 and compared:
            raise ConfigError(_too_few(folder, folder.wanted, compared[0]))
    splits = args.splits or SPLITS
    if "is" in metrics and folders["videos"].wanted < splits:
        count = folders["videos"].wanted
        raise ConfigError(f"is averages over {splits} parts, and there are only {count} videos: give fewer --splits")
    sizes = {name: folder.probe() for name, folder in folders.items()}
    if len(set(sizes.values())) > 1:
        shown = " and those of ".join(f"{folders[name].path} {w} x {h}" for name, (h, w) in sizes.items())
        raise ConfigError(f"the videos of {shown} pixels do not compare: say which --height and --width all are "
                          "brought to")  # fmt: skip


def _too_few(folder: Folder, count: int, metric: str) -> str:
    videos = "1 video" if count == 1 else f"{count} videos"
    return f"{folder.path} has {videos} that can be measured, and {metric} needs 2 or more for a covariance"


def _result(name: str, measure: Measure, found: dict[str, Progress], frames: int) -> dict[str, Any]:
    """The values of a metric, and what they depend on."""
    sets = ("videos", "reference") if METRICS[name].reference else ("videos",)
    videos, reference = (found[key].gathered[name] if key in sets else None for key in ("videos", "reference"))
    try:
        values = measure.values(videos, reference)
    except ValueError as error:  # too few are left of those that could be used
        raise ConfigError(f"{name}: {error}") from error
    samples = {key: found[key].gathered[name].count if METRICS[name].reference else found[key].count for key in sets}
    notes = []
    if len(set(samples.values())) > 1:
        notes.append("the sets differ in size: the distance has a bias that falls with each, and compares only with "
                     "distances between sets of these sizes")  # fmt: skip
    if measure.width and min(samples.values()) <= measure.width:
        notes.append(f"{min(samples.values())} samples have a singular covariance of {measure.width} features: take "
                     "more before comparing with published numbers")  # fmt: skip
    facts = {"protocol": measure.protocol, "samples": samples, "frames": frames, "weights": dict(measure.facts)}
    return {**values, **facts, "notes": notes}


def _describe(folder: Folder, progress: Progress) -> dict[str, Any]:
    height, width = folder.size or (None, None)
    return {
        "path": folder.path,
        "videos": progress.count,
        "height": height,
        "width": width,
        "skipped": progress.skipped,
    }


def _show(results: dict[str, dict[str, Any]], report: dict[str, Any]) -> None:
    """Print the numbers, and how they came about."""
    for name, folder in report["folders"].items():
        size = f"{folder['width']} x {folder['height']} pixels"
        skipped = f", {len(folder['skipped'])} skipped" if folder["skipped"] else ""
        print(printable(f"{name}: {folder['videos']} of {folder['path']}, {size}{skipped}"))
    print("one clip of each: " + ", ".join(f"{key} {value}" for key, value in report["clips"].items()))
    for name, result in results.items():
        numbers = [value for value in result.values() if isinstance(value, float)]
        spread = f" +- {numbers[1]:.4g}" if len(numbers) > 1 else ""
        counts = " against ".join(str(count) for count in result["samples"].values())
        print(f"{name}: {numbers[0]:.6g}{spread}  ({counts} samples; {result['protocol']})")
    for note in dict.fromkeys(note for result in results.values() for note in result["notes"]):
        print(f"note: {note}")


def _of_digits(words: list[str]) -> bool:
    """Whether nothing is said of videos: then the arguments are those of `svd digits evaluate`, as they were when this
    measured models of digits alone.
    """
    names = {word.split("=")[0].lstrip("-") for word in words if word.startswith("-")}
    files = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    files += [after for word, after in zip(words, words[1:]) if word == "--config"]
    for file in files:
        try:
            content = load_yaml(read_yaml(find_file(file)))
        except (yaml.YAMLError, OSError):  # it is told of when it is read
            content = None
        names |= set(map(str, content)) if isinstance(content, dict) else set()
    return not names & (_OWN | {"help", "h", "print_config"})


def main(argv: Optional[list[str]] = None, program: str = "evaluate.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    words = sys.argv[1:] if argv is None else argv
    if _of_digits(words):
        log("no videos are given: a model of moving digits is measured, as by svd digits evaluate")
        return import_module(COMMANDS["digits evaluate"].module).main(argv, program)
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
