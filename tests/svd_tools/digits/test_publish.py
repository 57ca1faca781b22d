"""Publishing the trained model of moving digits: all of one training, evaluated, or nothing."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from device import cpu_only
from PIL import Image

from svd_tools.digits import publish as script

pytestmark = cpu_only("the script computes on CPU")


@pytest.fixture
def trained(tmp_path) -> Path:
    """What scripts/train_digits.sh leaves behind, as far as it is published."""
    folder = tmp_path / "trained"
    for stage in script.STAGES:
        (folder / stage).mkdir(parents=True)
        settings = {"environment": {"mode": 0}, "train": {"updates": 40, "batch_size": 6, "seed": 3}}
        (folder / stage / "config.yaml").write_text(yaml.safe_dump(settings))
        rows = {"update": range(1, 41), "loss": np.linspace(1, 0.22, 40), "clips_per_second": 0.5}
        pd.DataFrame(rows).to_csv(folder / stage / "metrics.csv", index=False)
    weights = {"checkpoint": folder / "fp16/model.safetensors", "judge": folder / "judge.safetensors"}
    weights["image model"] = folder / "fp16_image_model/model.safetensors"
    for name, path in weights.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in weights.items()}
    for name in (*script.EVALUATIONS, "evaluation_update_00000010", "evaluation_update_00000020"):
        (folder / name).mkdir()
        checkpoint = sums["image model" if name == "evaluation_image_model" else "checkpoint"]
        report = {"sha256": {"checkpoint": checkpoint, "judge": sums["judge"]}, "scores": {"generated": {"of": name}}}
        (folder / name / "metrics.json").write_text(json.dumps(report))
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(folder / name / "contact_sheet.png")
        (folder / name / "samples.gif").write_bytes(name.encode())
    return folder


@pytest.fixture
def project(tmp_path) -> Path:
    for name in ("assets/digits", "docs", "configs/digits"):
        (tmp_path / "project" / name).mkdir(parents=True)
    for name in ("model", *script.STAGES):
        (tmp_path / f"project/configs/digits/{name}.yaml").write_text(f"# {name}")
    return tmp_path / "project"


def test_weights_their_making_and_their_numbers_go_together(trained, project):
    script.publish(trained, project)
    assets, docs = project / "assets/digits", project / "docs"
    assert (assets / "model.safetensors").read_bytes() == b"checkpoint"
    assert (assets / "judge.safetensors").read_bytes() == b"judge"
    provenance = json.loads((assets / "provenance.json").read_text())
    assert provenance["sha256"]["model.safetensors"] == hashlib.sha256(b"checkpoint").hexdigest()
    assert provenance["versions"]["mode"] == "0 (graph)"
    facts = provenance["stages"]["video_model"]
    assert facts["command"] == "python train.py --config=configs/digits/video_model.yaml"
    assert facts["updates"] == 40 and facts["settings"]["train"]["seed"] == 3
    assert facts["minutes"] == 8.0, "40 updates of 6 clips, half a clip per second"
    assert facts["loss, mean of the last tenth"] == 0.25, "of 0.28, 0.26, 0.24, 0.22"
    losses = pd.read_csv(docs / "digits_losses.csv")
    assert losses.groupby("stage")["update"].max().to_dict() == dict.fromkeys(script.STAGES, 40)
    metrics = json.loads((docs / "digits_metrics.json").read_text())
    assert {name: report["scores"]["generated"]["of"] for name, report in metrics.items()} == {
        "video model": "evaluation",
        "image model": "evaluation_image_model",
        "video model, pictures as people draw": "evaluation_natural",
    }
    curve = pd.read_csv(docs / "digits_curve.csv")
    assert curve["update"].tolist() == [10, 20] and curve["of"].tolist()[1] == "evaluation_update_00000020"
    assert (assets / "whole_unet.yaml").read_text() == "# whole_unet" and (assets / "model.yaml").exists()
    assert (docs / "digits.gif").read_bytes() == b"evaluation"
    assert all(Image.open(docs / name).size for name in ("digits_losses.png", "digits_contact_sheet.png"))


def test_what_is_not_complete_is_not_published(trained, project):
    (trained / "fp16/model.safetensors").write_bytes(b"trained further")
    with pytest.raises(script.PublishError, match="evaluation evaluates other weights"):
        script.publish(trained, project)
    (trained / "fp16/model.safetensors").write_bytes(b"checkpoint")
    metrics = trained / "video_model/metrics.csv"
    pd.read_csv(metrics).head(30).to_csv(metrics, index=False)
    with pytest.raises(script.PublishError, match="video_model is at update 30 of 40: train it to its end"):
        script.publish(trained, project)
    assert not [path for path in project.rglob("*") if path.is_file() and path.suffix != ".yaml"]
    assert not list((project / "assets").rglob("*.yaml"))
