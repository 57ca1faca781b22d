"""What README and docs/ say: programs, files and links that exist, and numbers as they were measured."""

import itertools
import json
import re
from pathlib import Path

import pytest

from svd.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "assets/README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "svd|svd_tools|scripts|configs|tests|assets|docs"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    text = page.read_text()
    programs = re.findall(r"(?:python|bash) ([\w/]+\.(?:py|sh))", text)
    programs += [name.replace(".", "/") + "/__main__.py" for name in re.findall(r"python -m (scripts[\w.]*)", text)]
    files = re.findall(rf"(?<![\w/.])(?:{FOLDERS})/[\w/]+\.(?:py|sh|yaml|md|json|csv|png|gif)\b", text)
    modules = re.findall(r"^from (svd[\w.]*\.\w+) import", text, re.MULTILINE)
    files += [module.replace(".", "/") + ".py" for module in modules]
    assert [name for name in {*programs, *files} if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_exist(page):
    found = re.findall(r"^(?:python -m )?svd ([a-z].*)|`(?:python -m )?svd ([a-z].*?)`", page.read_text(), re.MULTILINE)
    commands = [" ".join(itertools.takewhile(re.compile("[a-z][a-z-]+$").match, (a or b).split())) for a, b in found]
    assert [command for command in commands if command not in COMMANDS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        if "://" not in target:
            other = page.parent / name if name else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


def test_readme_is_a_front_door():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_numbers_of_quality_are_those_measured():
    """README's table, row by row, against docs/digits_metrics.json."""
    reports = json.loads((ROOT / "docs/digits_metrics.json").read_text())
    video, image = (report["scores"]["generated"] for report in reports.values())
    real = next(iter(reports.values()))["scores"]["real"]
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    for name, form in (
        ("psnr_mean", "{:.1f} dB"),
        ("bucket_correlation_centres", "{:.2f}"),
        ("deviation_median", "{:.2f}"),
        ("frechet", "{:.2f}"),
        ("kept_1", "{:.0%}"),
        ("kept_2", "{:.0%}"),
    ):
        cells = [form.format(scores[name]).replace("%", " %") for scores in (video, image, real)]
        wanted = cells[:2] + ["" if name == "psnr_mean" else cells[2]]  # a real clip begins with the picture itself
        assert any([cell.strip() for cell in row.split("|")[2:5]] == wanted for row in rows), (name, wanted)
