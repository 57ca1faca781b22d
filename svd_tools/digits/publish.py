"""Put what scripts/train_digits.sh has trained where the project ships it, with where it is from and how good it is.

svd digits publish

Writes assets/digits/ (weights, the configurations that they were trained with, provenance.json) and, into docs/, the
losses of every stage (digits_losses.csv, .png), the evaluations' numbers (digits_metrics.json; over the training
digits_curve.csv), contact sheet and GIF.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Optional

import pandas as pd
import yaml
from jsonargparse import ArgumentParser

from svd import cli, runtime
from svd.errors import UserError
from svd.files import atomic_write, sha256, write_text

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("autoencoder", "image_encoder", "image_model", "video_model", "whole_unet", "temporal_decoder")
EVALUATIONS = {
    "evaluation": "video model",
    "evaluation_image_model": "image model",
    "evaluation_natural": "video model, pictures as people draw",
}
"""Folders of svd_tools/evaluate.py's results, and what was evaluated: the weights that are shipped, or what they were
before the temporal layers, which is the image model."""
CURVE = "evaluation_update_*"
"""Folders of evaluations over the training."""


class PublishError(UserError, ValueError):
    """What was trained cannot be published as it is."""


def read_stage(run: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """How a stage was trained, and its metrics; raises PublishError if it is not at its end."""
    settings, metrics = yaml.safe_load((run / "config.yaml").read_text()), pd.read_csv(run / "metrics.csv")
    train, update = settings["train"], int(metrics["update"].iloc[-1])
    if update != train["updates"]:
        raise PublishError(f"{run} is at update {update} of {train['updates']}: train it to its end")
    updates = metrics["update"].diff().fillna(metrics["update"])
    facts = {
        "command": f"python train.py --config=configs/digits/{run.name}.yaml",
        "updates": update,
        "minutes": round(float((updates * train["batch_size"] / metrics["clips_per_second"]).sum() / 60), 1),
        "loss, mean of the last tenth": round(float(metrics["loss"].tail(max(len(metrics) // 10, 1)).mean()), 5),
        "settings": settings,
    }
    return facts, metrics[["update", "loss"]].assign(stage=run.name)[["stage", "update", "loss"]]


def read_evaluation(folder: Path, model: Path, judge: Path) -> dict[str, Any]:
    """What svd_tools/evaluate.py measured; raises PublishError if it was with other weights than these."""
    report = json.loads((folder / "metrics.json").read_text())
    if report["sha256"] != {"checkpoint": sha256(model), "judge": sha256(judge)}:
        raise PublishError(f"{folder} evaluates other weights than are to be published: run evaluate.py again")
    return report


def read_curve(trained: Path) -> pd.DataFrame:
    """The scores of the evaluations over the training, a row for each."""
    rows = []
    for folder in sorted(trained.glob(CURVE)):
        report = json.loads((folder / "metrics.json").read_text())
        rows.append({"update": int(folder.name.rpartition("_")[2]), **report["scores"]["generated"]})
    return pd.DataFrame(rows)


def plot(tables: list[pd.DataFrame], path: Path) -> None:
    """The losses of all stages over their updates, and their running means."""
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=(4 * len(tables), 3.2), layout="constrained")
    for axes, table in zip(figure.subplots(1, len(tables)), tables):
        axes.plot(table["update"], table["loss"], color="0.75", linewidth=0.8)
        axes.plot(table["update"], table["loss"].rolling(max(len(table) // 20, 1), min_periods=1).mean())
        axes.set(title=table["stage"].iloc[0], xlabel="update", yscale="log")
    figure.savefig(path, format="png", dpi=80)


def publish(trained: Path, to: Path) -> None:
    """Write into the folders assets/digits and docs of `to` what is in `trained`; raises PublishError, OSError."""
    assets, docs = to / "assets/digits", to / "docs"
    weights = {
        "model.safetensors": trained / "fp16/model.safetensors",
        "judge.safetensors": trained / "judge.safetensors",
    }
    sums = {name: sha256(source) for name, source in weights.items()}
    models = {"evaluation_image_model": trained / "fp16_image_model/model.safetensors"}
    evaluations = {
        name: read_evaluation(
            trained / folder, models.get(folder, weights["model.safetensors"]), weights["judge.safetensors"]
        )
        for folder, name in EVALUATIONS.items()
    }
    curve = read_curve(trained)
    stages, losses = zip(*(read_stage(trained / stage) for stage in STAGES))
    copies = {assets / name: source for name, source in weights.items()}
    copies |= {assets / f"{name}.yaml": to / f"configs/digits/{name}.yaml" for name in ("model", *STAGES)}
    copies |= {docs / "digits_contact_sheet.png": trained / "evaluation/contact_sheet.png"}
    copies |= {docs / "digits.gif": trained / "evaluation/samples.gif"}
    mode = stages[-1]["settings"]["environment"]["mode"]
    runtime.setup("CPU", mode)
    provenance = {"versions": runtime.describe(mode), "stages": dict(zip(STAGES, stages)), "sha256": sums}

    for target, source in copies.items():
        with atomic_write(target, source.stat().st_size) as aside:
            shutil.copyfile(source, aside)
    write_text(assets / "provenance.json", f"{json.dumps(provenance, indent=2)}\n")
    write_text(docs / "digits_metrics.json", f"{json.dumps(evaluations, indent=1)}\n")
    write_text(docs / "digits_curve.csv", curve.round(4).to_csv(index=False))
    write_text(docs / "digits_losses.csv", pd.concat(losses).round(5).to_csv(index=False))
    with atomic_write(docs / "digits_losses.png", need=0) as aside:
        plot(losses, aside)
    print(pd.DataFrame(stages, STAGES).drop(columns=["command", "settings"]).to_string())


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("--trained", default=str(ROOT / "outputs/digits"), type=str, help="What was trained.")
    return parser


def main(argv: Optional[list[str]] = None, program: str = "publish.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), lambda args: publish(Path(args.trained), ROOT), argv)
