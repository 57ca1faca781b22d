"""Check what works on a device, and write a report: golden values, training, conversion, full size, several cards.

python svd_tools/check_device.py    (writes report.md and report.json into outputs/check_device)
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("check-device")

from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveFloat

from svd import cli
from svd.cli.options import add_device
from svd.console import log
from svd.files import check_folder
from svd_tools.device_checks.isolation import run_group
from svd_tools.device_checks.outcome import AMP_LEVELS, NETWORKS, Result, Settings
from svd_tools.device_checks.report import Report, line

GROUPS = {
    "golden": tuple(AMP_LEVELS),
    "training": tuple(AMP_LEVELS),
    "conversion": ("",),
    "full_size": tuple(NETWORKS),
    "collective": ("",),
}
"""The modules of device_checks, and the variants that each is run for."""


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_device(parser, "What to check")
    add("--out", type=str, default="outputs/check_device", help="Folder of the report; an earlier one is replaced.")
    add("--quick", action="store_true", help="Leave out the networks of full size, and what takes long in 16 bits.")
    add("--checks", nargs="+", choices=tuple(GROUPS), default=list(GROUPS), help="Only these groups of checks.")
    add("--time_limit", type=PositiveFloat, default=1800.0, help="Seconds for one check; what takes longer has failed.")
    return parser


def run(args: Namespace) -> int:
    """Run the checks, and write the report after each group; returns 0 if all passed, 1 if something failed.

    Raises:
        RuntimeSetupError: the device is not available.
        FileError: the report cannot be written.
    """
    check_folder(args.out, "--out")
    log("versions and device ...")
    first = run_group(Settings(args.device_target, args.mode, "environment"), args.time_limit, _log_result)
    facts, folder = first.facts, Path(args.out)
    report = Report(facts, {"quick": args.quick, "checks": " ".join(args.checks)}, first.results)
    if "device" in facts:  # if not, it could not be set up
        log("\n".join(f"  {name}: {fact}" for name, fact in facts.items()))
        for group in args.checks:
            for variant in GROUPS[group]:
                report.write(folder)
                settings = Settings(facts["device"], args.mode, group, variant, args.quick)
                report.results += _results(settings, args.time_limit)
    report.complete = "device" in facts
    report.write(folder)
    log(report.summary)
    print(folder / "report.md")
    return int(not report.complete or any(result.verdict == "failed" for result in report.results))


def _results(settings: Settings, time_limit: float) -> list[Result]:
    """The results of a group, or why it is skipped."""
    log(f"{_title(settings)}{f', {settings.precision}' if settings.precision else ''} ...")
    reason = _skipped(settings)
    if reason:
        log(f"  skipped: {reason}")
        return [Result(settings.group, _title(settings), settings.precision, "skipped", note=reason)]
    return run_group(settings, time_limit, _log_result).results


def _skipped(settings: Settings) -> str:
    """Why a group is skipped, or empty."""
    if settings.variant == "bfloat16" and settings.device != "Ascend":
        return f"MindSpore lacks bfloat16 operators on {settings.device}"
    if settings.quick and settings.group == "full_size":
        return "--quick"
    if settings.quick and settings.group == "training" and settings.variant == "float16" and settings.device == "CPU":
        return "--quick"
    return ""


def _title(settings: Settings) -> str:
    """Title of a group."""
    if settings.group == "full_size":
        return f"{NETWORKS[settings.variant]}, full size"
    names = {"golden": "golden values", "training": "training steps", "collective": "sum over the cards"}
    return names.get(settings.group, settings.group)


def _log_result(check: str, result: Optional[Result]) -> None:
    """Log the result of a check."""
    if result is not None:
        log(f"  {check or result.check}: {line(result)}")


def main(argv: Optional[list[str]] = None, program: str = "check_device.py") -> int:
    """The command line; returns 0, 1 after a failed check, or 2 after one error line."""
    return cli.run(build_parser(program), run, argv)
