"""What metrics gather of a folder's videos, batch by batch, kept on the drive: a run that was stopped goes on, and the
same reference is not measured twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from svd.console import log, one_line
from svd.errors import NumericalError
from svd.files import atomic_write
from svd_tools.measures.clips import Clip, Folder
from svd_tools.measures.metrics import Gathered, Measure

SECONDS = 60
"""Between two writes of what is gathered."""


@dataclass
class Progress:
    """How far a folder's videos are measured."""

    place: int = 0
    """The next one in the folder's order."""
    count: int = 0
    """Videos that were measured."""
    skipped: list[str] = field(default_factory=list)
    gathered: dict[str, Gathered] = field(default_factory=dict)
    """By the names of metrics."""


def gather(
    folder: Folder,
    measures: Mapping[str, Measure],
    captions: Mapping[str, str],
    batch_size: int,
    kept: Path,
) -> Progress:
    """Measure the videos of a folder, or what is left of them.

    Args:
        measures: by name.
        captions: by the names of videos; may be empty.
        batch_size: clips at a time; results do not depend on it.
        kept: folder in which what is gathered is kept.

    Raises:
        DatasetError: a video cannot be used.
        NumericalError: a network has computed NaN or infinity.
    """
    file = kept / f"{_key(folder, measures, captions)}.npz"
    progress = _read(file, measures) or Progress(gathered={name: m.gather() for name, m in measures.items()})
    if progress.count:
        log(f"{folder.path}: {progress.count} of {folder.wanted} videos are measured already ({file})")
    written, batch = time.monotonic(), []
    # disable=None: no bar unless the output is a terminal
    with tqdm(total=folder.wanted, initial=progress.count, unit="video", desc=folder.setting, disable=None) as bar:
        for clip in folder.clips(progress.place, progress.count, progress.skipped):
            batch.append(clip)
            if len(batch) == batch_size:
                _add(progress, batch, measures, captions, batch_size)
                bar.update(len(batch))
                batch = []
                if time.monotonic() - written > SECONDS:
                    _write(file, progress)
                    written = time.monotonic()
        if batch:
            _add(progress, batch, measures, captions, batch_size)
            bar.update(len(batch))
            batch = []
    _write(file, progress)
    return progress


def _add(
    progress: Progress, batch: list[Clip], measures: Mapping[str, Measure], captions: Mapping[str, str], size: int
) -> None:
    """Add a batch; one that is not full is filled by repetition, so that all share a graph, and cut again."""
    filled = [batch[place % len(batch)] for place in range(size)]
    clips, texts = np.stack([clip.frames for clip in filled]), [captions.get(clip.name, "") for clip in filled]
    for name, measure in measures.items():
        features = measure.features(clips, texts)
        features = features[: len(features) // size * len(batch)]
        if not np.isfinite(features).all():
            raise NumericalError(f"{name}: features of {batch[0].name} or one of the next are not finite")
        progress.gathered[name].add(features)
    progress.place, progress.count = batch[-1].place + 1, progress.count + len(batch)


def _key(folder: Folder, measures: Mapping[str, Measure], captions: Mapping[str, str]) -> str:
    """Name of all that the result depends on."""
    choice = folder.choice._replace(skip_unusable=False)  # what is done stays when the rest is skipped
    facts = {
        "videos": folder.identity(),
        "choice": choice,
        "measures": {name: [measure.protocol, dict(measure.facts)] for name, measure in measures.items()},
        "captions": {name: captions[name] for name in sorted(captions)},
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _write(file: Path, progress: Progress) -> None:
    arrays = {
        f"{name}.{key}": array for name, gathered in progress.gathered.items() for key, array in gathered.state.items()
    }
    about = json.dumps({"place": progress.place, "count": progress.count, "skipped": progress.skipped})
    with atomic_write(file, need=sum(array.nbytes for array in arrays.values())) as aside:
        np.savez(aside, about=np.array(about), **arrays)


def _read(file: Path, measures: Mapping[str, Measure]) -> Progress | None:
    """What an earlier run has kept; None if there is nothing."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            about: dict[str, Any] = json.loads(str(arrays["about"]))
            states = {
                name: {key.removeprefix(f"{name}."): arrays[key] for key in arrays if key.startswith(f"{name}.")}
                for name in measures
            }
        gathered = {name: measure.gather(states[name]) for name, measure in measures.items()}
        return Progress(about["place"], about["count"], about["skipped"], gathered)
    except Exception as error:  # of a damaged archive, almost any
        log(f"{file} is damaged ({one_line(error)}): its videos are measured again")
        return None
