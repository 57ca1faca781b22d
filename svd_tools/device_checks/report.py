"""The report, made to be posted: report.md to read, report.json to compare."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Optional

from svd.files import write_text
from svd_tools.device_checks.outcome import LIMITS, Result


@dataclasses.dataclass
class Report:
    """Results so far."""

    facts: dict[str, str]
    options: dict[str, object]
    results: list[Result] = dataclasses.field(default_factory=list)
    complete: bool = False

    @property
    def summary(self) -> str:
        counts = Counter(result.verdict for result in self.results)
        parts = [f"{counts[verdict]} {verdict}" for verdict in ("passed", "failed", "skipped") if counts[verdict]]
        return ", ".join(parts) + ("" if self.complete else "; not all were done")

    def write(self, folder: Path) -> None:
        """Write both files, each atomically."""
        write_text(folder / "report.json", json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        write_text(folder / "report.md", self.markdown())

    def markdown(self) -> str:
        """The report in Markdown."""
        head = ["# Device report", "", f"**{self.summary}**", ""]
        facts = {**self.facts, "options": ", ".join(f"{name} {value}" for name, value in self.options.items())}
        lines = [*head, "| | |", "|---|---|", *(f"| {name} | {_cell(fact)} |" for name, fact in facts.items()), ""]
        lines += ["| check | precision | largest difference | limit | verdict | seconds | memory | |"]
        lines += ["|---|---|---|---|---|---|---|---|", *map(_row, self.results), "", "## Limits", "", LIMITS]
        for result in self.results:
            if result.error:
                title = f"{result.check}, {result.precision}" if result.precision else result.check
                lines += [f"## Failed: {title}", "", "```", result.error.replace("```", "'''"), "```", ""]
        return "\n".join(lines)


def _row(result: Result) -> str:
    verdict = "**failed**" if result.verdict == "failed" else result.verdict
    cells = [f"{result.check}", result.precision, number(result.difference), number(result.limit), verdict]
    cells += ["" if result.seconds is None else f"{result.seconds:.1f}"]
    cells += ["" if result.memory is None else f"{result.memory / 1e9:.2f} GB", result.note]
    return f"| {' | '.join(map(_cell, cells))} |"


def number(value: Optional[float]) -> str:
    """Format a difference or a limit with two digits."""
    return "" if value is None else f"{value:.1e}" if value else "0"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def line(result: Result) -> str:
    """A result as one line for the terminal."""
    parts = [result.verdict]
    if result.difference is not None:
        parts.append(f"{number(result.difference)} of {number(result.limit)}")
    if result.seconds is not None:
        parts.append(f"{result.seconds:.1f} s")
    if result.note:
        parts.append(result.note)
    return ", ".join(parts)
