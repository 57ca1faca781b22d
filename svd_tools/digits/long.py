"""Evaluate models of long videos of moving digits: given frames, frames between, guidance, and what lasts.

svd digits long --prediction outputs/long/prediction/model.safetensors
       --interpolation outputs/long/interpolation/model.safetensors --out_dir outputs/long/evaluation

Writes metrics.json, and identity.csv: how many frames show the digits of the first one, over time. Each measure is
kept in the folder when it is done: the same command continues what was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import pandas as pd
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from svd import __version__, cli, runtime
from svd.cli.options import add_device, new_parser
from svd.config import ConfigError
from svd.console import log
from svd.files import check_folder, sha256, write_text
from svd.records import RecordError, read_json
from svd.resources import DIGITS

MEASURES = ("given", "between", "guidance", "identity", "seams", "memory")


def build_parser(program: str) -> ArgumentParser:
    """The command line; sampling is as the models' configurations say."""
    parser = new_parser(program, __doc__, "File of these options.")
    add = parser.add_argument
    add("--prediction", required=True, help="Weights of the model for prediction.")
    add("--interpolation", required=True, help="Weights of the model for interpolation.")
    add("--judge", default=str(DIGITS / "judge.safetensors"), help="Network that judges videos, as "
        "`svd digits train-judge` writes it.")  # fmt: skip
    add("--out_dir", default="outputs/long_evaluation", help="Folder to write to.")
    add("--measures", nargs="+", choices=MEASURES, default=list(MEASURES), help="given: whether frames that are all "
        "given come back; between: interpolation against the true frames; guidance: distance of predictions to real "
        "clips over the scale of context guidance; identity: how long digits stay what they are; seams: steps where "
        "windows meet; memory: peak of a short and of a long video.")  # fmt: skip
    add("--clips", type=PositiveInt, default=128, help="Real clips of held-out handwriting, of `given`, `between` and "
        "`guidance`.")  # fmt: skip
    add("--pictures", type=PositiveInt, default=16, help="First frames of `identity`, of one digit each.")
    add("--seconds", type=float, default=120.0, help="Length of the videos of `identity` and `seams`.")
    add("--scales", nargs="+", type=float, default=[1.0, 1.25, 1.5, 2.0, 3.0], help="Of context guidance.")
    add("--context_guidance", type=float, default=1.0, help="Of the long videos.")
    add("--context_noise", type=NonNegativeInt, default=0, help="Of the long videos.")
    add("--speed", nargs=2, type=float, default=[0.25, 1.0], help="Slowest and fastest digits, in pixels per frame.")
    add("--seed", type=NonNegativeInt, default=0, help="Of the clips and of the noise.")
    add("--source", default="sklearn", help="Handwriting that the judge has learned: sklearn, or MNIST's folder.")
    add_device(parser)
    return parser


def run(args: Namespace) -> None:
    """The work of the command line."""
    if args.clips < 2:
        raise ConfigError(f"--clips must be 2 or more, got {args.clips}: one has no covariance")
    check_folder(args.out_dir, "--out_dir")
    from svd.build import load_pipeline  # MindSpore takes seconds to import
    from svd_tools.digits.judge import load_judge
    from svd_tools.digits.long_measures import LongMeasures

    device = runtime.setup(args.device_target, args.mode)
    pipes = [load_pipeline(None, args[name], args.device_target, args.mode) for name in ("prediction", "interpolation")]
    judge = load_judge(args.judge, device, pipes[0].config.sampling.height, args.source)
    measures = LongMeasures(*pipes, judge, args)
    folder, facts = Path(args.out_dir), facts_of(args)
    report: dict[str, Any] = {}
    for name in args.measures:
        log(f"measuring: {name}")
        report[name] = kept(folder / f"{name}.json", facts, getattr(measures, name))
    if "identity" in report:
        table = pd.DataFrame(report["identity"]["curves"])
        write_text(folder / "identity.csv", table.to_csv(index=False, float_format="%.4f"))
    report |= {"options": args.as_dict(), **facts}
    write_text(folder / "metrics.json", json.dumps(report, indent=1) + "\n")
    print(json.dumps({name: report[name] for name in args.measures}, indent=1))


def facts_of(args: Namespace) -> dict[str, Any]:
    """All that the measures depend on."""
    options = {name: value for name, value in args.as_dict().items() if name not in ("config", "out_dir", "measures")}
    files = {f"{name} sha256": sha256(args[name]) for name in ("prediction", "interpolation", "judge")}
    return {"made of": options, **files, "svd": __version__}


def kept(path: Path, facts: dict[str, Any], measure: Callable[[], dict]) -> dict[str, Any]:
    """A measure, or what the file says if it was made of the same."""
    try:
        stored = read_json(path)
        if isinstance(stored, dict) and stored.get("facts") == json.loads(json.dumps(facts)):
            return stored["result"]
    except (OSError, RecordError):
        pass
    result = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"facts": facts, "result": result}, indent=1) + "\n")
    return result


def main(argv: Optional[list[str]] = None, program: str = "svd digits long") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), run, argv)
