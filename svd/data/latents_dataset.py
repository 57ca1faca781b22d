"""Clips for training whose latents were computed once, by svd_tools/encode_latents.py."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from glob import escape, glob
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from svd.data.dataset import BadItem, Dataset, DatasetError
from svd.data.strings import Strings

SETTINGS, INDEX, SHARDS = "settings.json", "index", "latents"
"""What a folder of latents holds: a file of what they depend on, and two folders."""
NUMBERS = ("entry", "place", "fps", "motion_bucket_id", "aug_strength")
COLUMNS = ("row", "sample", "path", "why", "file", *NUMBERS)
"""Of the CSV files in the index: which clip of which video, why it is missing (or empty), and where it is."""
TENSORS = ("moments", "context", "concat")
_MAKE = "make it with svd_tools/encode_latents.py"


@dataclass(frozen=True)
class EncodedClip:
    """What a model's encoders make of a clip; arrays are float16.

    `moments` are mean and log variance of its latents [t 2c h w], `context` is the embedding of its first frame [n d]
    and `concat` that frame's latents [c h w], with noise of `aug_strength` on it. The rest is as in `Clip`.
    """

    moments: np.ndarray
    context: np.ndarray
    concat: np.ndarray
    fps: float
    motion_bucket_id: float
    aug_strength: float
    path: str


class LatentsDataset(Dataset):
    """Latents of the videos in a CSV file, for one model, as svd_tools/encode_latents.py writes them.

    Its items are the videos, and every video has some encoded clips. A sample of training takes the clip that was made
    for it, if there is one. Otherwise it takes the clip of the same video that begins nearest to where its own would.

    Args:
        folder: The folder of latents; has to be given.
        drawn_frames: How many frames of a clip are drawn at random, for an image model, whose frames do not see each
            other: a batch of as many frames then shows more clips. 0 takes them all.

    Raises:
        DatasetError: the folder is not complete, or not of this kind. Latents are not looked at before they are loaded.
    """

    def __init__(self, folder: str = "", drawn_frames: int = 0):
        if not folder:
            raise DatasetError(f"folder is missing; give a folder of latents, or {_MAKE}")
        self._folder = os.path.abspath(folder)
        self.settings = read_settings(folder)
        clips = self.settings["clips"]
        self.frames, self.height, self.width = clips["frames"], clips["height"], clips["width"]
        if not 0 <= drawn_frames <= self.frames:
            raise DatasetError(f"drawn_frames must be 0 to {self.frames}, as many as clips have; got {drawn_frames}")
        self.drawn_frames = drawn_frames
        table = _read_index(folder, clips["videos"] * clips["passes"])
        videos = table.drop_duplicates("row")
        self._paths = Strings(videos["path"])
        usable = table[table["why"] == ""]
        self._starts = np.searchsorted(usable["row"].to_numpy(), np.arange(len(videos) + 1))
        unusable = videos[np.diff(self._starts) == 0]
        self._faults = dict(zip(unusable["row"].tolist(), unusable["why"]))
        files, self._files = pd.factorize(usable["file"])
        self._file, self._entry = files.astype(np.int32), usable["entry"].to_numpy(np.int32)
        self._places, *self._numbers = (usable[name].to_numpy(np.float64) for name in NUMBERS[1:])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def name(self, index: int) -> str:
        return self._paths[index]

    def load(self, index: int, rng: np.random.Generator) -> EncodedClip:
        """An encoded clip of a video; raises BadItem if it has none, or none that can be read."""
        first, last = self._starts[index], self._starts[index + 1]
        if first == last:
            raise BadItem(self.name(index), self._faults[index])
        # VideoDataset draws the same number first: it says where a clip begins, and is equal for equal samples alone.
        clip = first + int(np.argmin(np.abs(self._places[first:last] - rng.random())))
        path = os.path.join(self._folder, SHARDS, self._files[self._file[clip]])
        try:
            shard = _open_shard(path, os.stat(path).st_mtime_ns)
            arrays = [shard.get_tensor(f"{self._entry[clip]}.{name}") for name in TENSORS]
        except FileNotFoundError as error:
            raise BadItem(path, "no such file; copy it here, or run encode_latents.py again, which makes it") from error
        except (SafetensorError, OSError) as error:
            reason = f"truncated or damaged ({error}); run encode_latents.py again, which replaces it"
            raise BadItem(path, reason) from error
        if self.drawn_frames:
            arrays[0] = arrays[0][rng.choice(len(arrays[0]), self.drawn_frames, replace=False)]
        return EncodedClip(*arrays, *(float(numbers[clip]) for numbers in self._numbers), self.name(index))

    def check(self, model: dict[str, Any]) -> None:
        """Raise DatasetError, which names what differs, if the latents are of another model than this one."""
        if differing := differences(self.settings["model"], model):
            some = "; ".join(differing[:3])
            raise DatasetError(f"{self._folder}: its latents are not for this training: {some}; encode the videos anew")


@lru_cache(maxsize=16)
def _open_shard(path: str, changed: int) -> safe_open:
    """A shard as it was when its file last `changed`, kept open: its header, of thousands of clips, is long to read."""
    return safe_open(path, framework="np")


def read_settings(folder: str) -> dict[str, Any]:
    """What the latents in a folder depend on; raises DatasetError if it is no such folder."""
    path = os.path.join(folder, SETTINGS)
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
        if settings.keys() != {"clips", "model"}:
            raise ValueError(f"it has {', '.join(settings) or 'nothing'}, not clips and model")
        return settings
    except OSError as error:
        raise DatasetError(f"{folder}: not a folder of latents ({SETTINGS}: {error.strerror}); {_MAKE}") from error
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: damaged ({error}); {_MAKE}") from error


def differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """Which settings differ, one text for each."""
    lines = []
    for name in dict.fromkeys((*there, *here)):
        a, b = there.get(name), here.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            lines.append(f"{prefix}{name} is {a} there and {b} here")
    return lines


def _read_index(folder: str, count: int) -> pd.DataFrame:
    """The index's rows by video and sample; raises DatasetError if it is not one row for each of `count` clips."""
    kinds = {"row": np.int64, "sample": np.int64, **dict.fromkeys(("path", "why", "file"), str)}
    kinds |= dict.fromkeys(NUMBERS, np.float64)
    tables = []
    for path in sorted(glob(os.path.join(escape(folder), INDEX, "*.csv"))):
        try:
            nothing = dict.fromkeys(NUMBERS, ["", "nan"])
            tables.append(pd.read_csv(path, usecols=COLUMNS, dtype=kinds, keep_default_na=False, na_values=nothing))
        except (ValueError, OSError) as error:
            what = " ".join(str(error).split())
            raise DatasetError(f"{path}: not an index of latents ({what}); run encode_latents.py again") from error
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    twice = table["sample"].duplicated().sum()
    if twice:
        raise DatasetError(f"{folder}: {twice} clips are there twice; keep the files in {INDEX}/ that are of one run")
    if len(table) != count:
        missing = f"{count - len(table)} of {count} clips are missing"
        raise DatasetError(f"{folder}: {missing}; end the run of encode_latents.py, with --shard all of its parts")
    return table.sort_values(["row", "sample"], ignore_index=True)
