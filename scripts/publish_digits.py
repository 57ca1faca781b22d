"""Put what scripts/train_digits.sh has trained where the project ships it: weights, where they are from, loss curves.

python scripts/publish_digits.py

Writes assets/digits/ (the weights, provenance.json) and docs/digits_losses.csv and .png. Where a stage was trained
again, beginning with what it had learned, the folders of its earlier rounds are expected in round1/, round2/ and so on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import yaml
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure

from svd import runtime
from svd.data.videos import write_text
from svd_tools.tensor_files import written_whole

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("autoencoder", "image_encoder", "image_model", "video_model", "temporal_decoder")


def rounds(stage: Path) -> list[Path]:
    """The folders of a stage's trainings, in the order in which they were."""
    return [*sorted(stage.parent.glob(f"round*/{stage.name}")), stage]


def facts(run: Path) -> dict:
    """How a stage was trained, in one of its rounds."""
    settings, table = yaml.safe_load((run / "config.yaml").read_text()), metrics(run)
    updates = table["update"].diff().fillna(table["update"])
    return {
        "command": f"python train.py --config=configs/digits/{run.name}.yaml",
        "updates": int(table["update"].iloc[-1]),
        "clips per update": settings["train"]["batch_size"],
        "learning rate": settings["train"]["optimizer"]["learning_rate"],
        "seed": settings["train"]["seed"],
        "minutes": round(float((updates * settings["train"]["batch_size"] / table["clips_per_second"]).sum() / 60), 1),
        "loss, mean of the last tenth": round(float(table["loss"].tail(len(table) // 10 + 1).mean()), 5),
    }


def metrics(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv")


def losses(stage: Path) -> pd.DataFrame:
    """The losses of a stage over the updates of all its rounds."""
    tables, updates = [], 0
    for number, run in enumerate(rounds(stage), 1):
        table = metrics(run)[["update", "loss"]].assign(stage=stage.name, round=number)
        table["update"] += updates
        updates = table["update"].iloc[-1]
        tables.append(table)
    return pd.concat(tables)[["stage", "round", "update", "loss"]]


def plot(tables: list[pd.DataFrame], path: Path) -> None:
    """The losses of all stages, each over its updates; a round's mean curve has a colour of its own."""
    figure = Figure(figsize=(4 * len(tables), 3.2), layout="constrained")
    for axes, table in zip(figure.subplots(1, len(tables)), tables):
        for _, part in table.groupby("round"):
            axes.plot(part["update"], part["loss"], color="0.75", linewidth=0.8)
            axes.plot(part["update"], part["loss"].rolling(max(len(part) // 20, 1), min_periods=1).mean())
        axes.set(title=table["stage"].iloc[0], xlabel="update", yscale="log")
    figure.savefig(path, format="png", dpi=80)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trained", default=str(ROOT / "outputs/digits"), type=str, help="What was trained.")
    parser.add_argument("--remarks", default=[], nargs="*", type=str, help="What the stages' own files do not say.")
    options = parser.parse_args()
    trained = Path(options.trained)
    stages = [trained / stage for stage in STAGES]
    files = {
        "model.safetensors": trained / "fp16/model.safetensors",
        "judge.safetensors": trained / "judge.safetensors",
    }
    for name, source in files.items():
        with written_whole(ROOT / "assets/digits" / name, source.stat().st_size) as aside:
            shutil.copyfile(source, aside)
    runtime.setup("CPU", 1)
    provenance = {
        "versions": runtime.describe(1),
        "stages": {stage.name: [facts(run) for run in rounds(stage)] for stage in stages},
        "remarks": options.remarks,
        "sha256": {name: hashlib.sha256(source.read_bytes()).hexdigest() for name, source in files.items()},
    }
    text = json.dumps(provenance, indent=2)
    write_text(ROOT / "assets/digits/provenance.json", f"{text}\n")
    tables = [losses(stage) for stage in stages]
    write_text(ROOT / "docs/digits_losses.csv", pd.concat(tables).round(5).to_csv(index=False))
    with written_whole(ROOT / "docs/digits_losses.png", need=0) as aside:
        plot(tables, aside)
    print(text)


if __name__ == "__main__":
    main()
