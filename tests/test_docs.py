"""What README and docs/ say: programs, files and links that exist, and numbers as they were measured."""

import itertools
import json
import re
from pathlib import Path

import pandas as pd
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
    missing = {name for name in (*programs, *files) if not (ROOT / name).is_file()}
    assert {name for name in missing if "NAME" not in name} == set()


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
    video, image = (reports[f"{name} model"]["scores"]["generated"] for name in ("video", "image"))
    real = reports["video model"]["scores"]["real"]
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


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def table(page: str, beginning: str) -> list[list[str]]:
    """The cells of the table on a page whose head begins so, row by row."""
    lines = (ROOT / page).read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(beginning))
    return [cells(row) for row in itertools.takewhile(lambda line: line.startswith("|"), lines[first + 2 :])]


def test_the_evaluation_is_the_one_that_was_measured():
    """The table of docs/digits.md, whose columns are the video model, the image model, still and real clips."""
    reports = json.loads((ROOT / "docs/digits_metrics.json").read_text())
    video, image = (reports[f"{name} model"] for name in ("video", "image"))
    columns = [video["scores"]["generated"], image["scores"]["generated"], *map(video["scores"].get, ("still", "real"))]
    control = [report["motion_control"]["rank_correlation"]["centres_each_picture"] for report in (video, image)]
    scores = {
        "first frame: PSNR to the picture, dB": ("psnr_mean", "{:.1f}"),
        "last frame shows what the judge sees in the first, clips of one digit": ("kept_1", "{:.0%}"),
        "last frame shows the picture's digits, clips of one": ("right_1", "{:.0%}"),
        "last frame shows what the judge sees in the first, clips of two": ("kept_2", "{:.0%}"),
        "last frame shows the picture's digits, clips of two": ("right_2", "{:.0%}"),
        "rank correlation of motion bucket and speed, clips of one digit": ("bucket_correlation_centres", "{:.2f}"),
        "error of the speed, one digit, mean, pixels per frame": ("speed_error_centres", "{:.2f}"),
        "deviation from a bouncing path, one digit, median, pixels": ("deviation_median", "{:.2f}"),
        "the same, mean": ("deviation_mean", "{:.2f}"),
        "Frechet distance of the judge's features to other real clips": ("frechet", "{:.2f}"),
    }
    wanted = {name: [form.format(column[key]) for column in columns] for name, (key, form) in scores.items()}
    wanted["first frame: PSNR to the picture, dB"][2:] = "", ""  # still and real clips begin with the picture itself
    pictures = [report["options"]["control_pictures"] for report in (video, image)]
    mean = f"mean over pictures of one digit (of {pictures[0]}; of {pictures[1]} for the image model)"
    wanted[f"the same, one picture at nine buckets, {mean}"] = [f"{value:.2f}" for value in control] + ["", ""]
    found = {name: row for name, *row in table("docs/digits.md", "| | video model |")}
    assert found == {name: [cell.replace("%", " %") for cell in row] for name, row in wanted.items()}


def test_the_stages_are_those_that_were_trained():
    """Their updates, minutes and losses in docs/digits.md: those of provenance.json and digits_losses.csv."""
    stages = json.loads((ROOT / "assets/digits/provenance.json").read_text())["stages"]
    losses = pd.read_csv(ROOT / "docs/digits_losses.csv").groupby("stage")["loss"]
    found = table("docs/digits.md", "| stage | trained |")
    assert [row[0] for row in found] == [f"{number}. `{stage}`" for number, stage in enumerate(stages, 1)]
    for (stage, facts), (_, _, _, updates, minutes, loss) in zip(stages.items(), found):
        batch = facts["settings"]["train"]["batch_size"]
        assert re.match(rf"{facts['updates']:,} x {batch}\b", updates), stage
        assert minutes == f"{facts['minutes']:.{int(facts['minutes'] < 20)}f}", stage
        last = losses.get_group(stage)
        assert float(loss) == pytest.approx(facts["loss, mean of the last tenth"], abs=5.1e-4), stage
        assert float(loss) == pytest.approx(last.iloc[-len(last) // 10 :].mean(), abs=1e-3), stage


def test_the_memory_of_a_training_is_the_one_computed():
    """The peaks in docs/training.md: those of docs/memory.md, which scripts/costs prints, at 576 x 1024."""
    peaks = {}
    for clip, trained, *numbers in table("docs/memory.md", "| clip | trained |"):
        peaks[clip, trained] = f"{float(numbers[3]):.0f} / {float(numbers[5]):.0f}"
    found = table("docs/training.md", "| frames | temporal layers |")
    assert len(found) == 3
    for frames, *row in found:
        assert row == [peaks[f"{frames} x 576 x 1024", trained] for trained in ("temporal", "all")]
