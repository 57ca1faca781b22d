"""Cached latents of training clips, as svd_tools/encode_latents.py writes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from glob import escape, glob
from typing import Any, Optional

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from svd.console import one_line
from svd.data.dataset import BadItem, Dataset, DatasetError, PackedStrings, Unavailable, clip_place
from svd.data.item_file import open_item
from svd.records import RecordError, differing, read_json

SETTINGS, INDEX, SHARDS = "settings.json", "index", "latents"
"""Contents of a folder of latents: the settings they depend on, and two folders."""
EMPTY_PROMPT = "empty_prompt.safetensors"
"""A file beside them, if captions are embedded: the embedding of the empty one, `context` [n d]."""
NUMBERS = ("entry", "place", "fps", "motion_bucket_id", "aug_strength")
COLUMNS = ("row", "sample", "path", "why", "file", *NUMBERS)
"""Of the CSV files in the index: which clip of which video, why it is missing (or empty), and where it is stored."""
_CLIPS = {"frames": 100_000, "height": 2**16, "width": 2**16, "videos": 2**40, "passes": 2**20}
"""The settings of clips that are needed here, and the most that each can be."""
TENSORS = ("moments", "context", "concat", "tokens")
_MAKE = "make it with svd_tools/encode_latents.py"


@dataclass(frozen=True)
class EncodedClip:
    """An encoded clip; arrays are float16, and None where a model has no use for them.

    `moments` are mean and log variance of its latents [t 2c h w], `context` is the embedding of its first frame, or of
    its caption [n d], `concat` are the latents [c h w] of the first frame with noise of `aug_strength`, and `tokens`
    are those of the caption, int32 [n], for a text encoder that is trained. The rest is as in `Clip`.
    """

    fps: float
    motion_bucket_id: float
    aug_strength: float
    path: str
    moments: np.ndarray
    context: Optional[np.ndarray] = None
    concat: Optional[np.ndarray] = None
    tokens: Optional[np.ndarray] = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Those that there are, by name."""
        return {name: array for name in TENSORS if (array := getattr(self, name)) is not None}


class LatentsDataset(Dataset):
    """Latents of the videos in a CSV file, for one model, as svd_tools/encode_latents.py writes them.

    Its items are the videos, each of which has one or more encoded clips. A training sample takes the clip that was
    encoded for it, if there is one, or else the clip of the same video that begins nearest to where its own would.

    Args:
        folder: The folder of latents; required.
        drawn_frames: Number of frames drawn at random from a clip, for an image model, whose frames are independent: a
            batch of as many frames then covers more clips. 0 takes all frames.

    Raises:
        DatasetError: the folder is incomplete, or no folder of latents. Latents are not checked before they are loaded.
    """

    def __init__(self, folder: str = "", drawn_frames: int = 0):
        if not folder:
            raise DatasetError(f"folder is missing; give a folder of latents, or {_MAKE}")
        self._folder = os.path.abspath(folder)
        self._shards_exist = os.path.isdir(os.path.join(self._folder, SHARDS))
        self.settings = read_settings(folder)
        clips, self._shapes = _clips_and_shapes(self.settings, os.path.join(folder, SETTINGS))
        self.captioned, self.has_tokens = "text_encoder" in self.settings["model"], "tokens" in self._shapes
        embedded = self.captioned and not self.has_tokens
        self.empty_prompt = _read_empty_prompt(folder, self._shapes["context"]) if embedded else None
        self.frames, self.height, self.width = clips["frames"], clips["height"], clips["width"]
        if not 0 <= drawn_frames <= self.frames:
            raise DatasetError(f"drawn_frames must be 0 to {self.frames}, as many as clips have; got {drawn_frames}")
        self.drawn_frames = drawn_frames
        table = _read_index(folder, clips["videos"], clips["passes"])
        videos = table.drop_duplicates("row")
        self._paths = PackedStrings(videos["path"])
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
        """Load an encoded clip of a video; raises BadItem if it has none, or none that can be read."""
        first, last = self._starts[index], self._starts[index + 1]
        if first == last:
            raise BadItem(self.name(index), self._faults[index])
        clip = first + int(np.argmin(np.abs(self._places[first:last] - clip_place(rng))))
        path = os.path.join(self._folder, SHARDS, self._files[self._file[clip]])
        if not self._shards_exist and not os.path.exists(path):  # otherwise the whole disk may be away
            raise BadItem(path, "no such file; copy it here, or run encode_latents.py again, which makes it")
        try:
            with open_item(path) as file:
                shard = _open_shard(path, os.fstat(file.fileno()).st_mtime_ns)
                arrays = {
                    name: _tensor(path, shard, f"{self._entry[clip]}.{name}", shape)
                    for name, shape in self._shapes.items()
                }
        except SafetensorError as error:
            reason = f"truncated or damaged ({one_line(error)}); run encode_latents.py again, which replaces it"
            raise BadItem(path, reason) from error
        if self.drawn_frames:
            frames = rng.choice(self.frames, self.drawn_frames, replace=False)
            arrays["moments"] = arrays["moments"][frames]
        return EncodedClip(*(float(numbers[clip]) for numbers in self._numbers), self.name(index), **arrays)

    def check(self, model: dict[str, Any]) -> None:
        """Raise DatasetError, which names the differences, if the latents are of another model than this one."""
        if differing := differences(self.settings["model"], model):
            some = "; ".join(differing[:3])
            raise DatasetError(f"{self._folder}: its latents are not for this training: {some}; encode the videos anew")


def _tensor(path: str, shard: safe_open, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a shard; raises BadItem where it is not finite float16, or int32 for tokens, of this shape."""
    found, kind = shard.get_slice(name), "I32" if name.endswith(".tokens") else "F16"
    if found.get_dtype() != kind or found.get_shape() != list(shape):
        what = f"{name} is {found.get_dtype()} {found.get_shape()}, not {kind} {list(shape)}"
        raise BadItem(path, f"{what}; run encode_latents.py again in a new folder")
    array = shard.get_tensor(name)
    if not np.isfinite(array).all():
        raise BadItem(path, f"{name} is not finite; run encode_latents.py again in a new folder")
    return array


def _read_empty_prompt(folder: str, shape: tuple[int, ...]) -> np.ndarray:
    """The embedding of the empty prompt [n d]; raises DatasetError."""
    path = os.path.join(folder, EMPTY_PROMPT)
    try:
        with open_item(path), safe_open(path, framework="np") as file:
            return _tensor(path, file, "context", shape)
    except (SafetensorError, BadItem, Unavailable) as error:
        raise DatasetError(f"{path}: missing or damaged ({one_line(error)}); run encode_latents.py again") from error


@lru_cache(maxsize=16)
def _open_shard(path: str, changed: int) -> safe_open:
    """A shard at the time its file was last `changed`, kept open: its header of thousands of clips is slow to read."""
    return safe_open(path, framework="np")


def read_settings(folder: str) -> dict[str, Any]:
    """The settings that a folder of latents depends on: clips and model; raises DatasetError if it is none."""
    path = os.path.join(folder, SETTINGS)
    try:
        settings = read_json(path)
        _clips_and_shapes(settings, path)
        return settings
    except OSError as error:
        raise DatasetError(f"{folder}: not a folder of latents ({SETTINGS}: {error.strerror}); {_MAKE}") from error
    except RecordError as error:
        raise DatasetError(f"{path}: damaged ({one_line(error)}); {_MAKE}") from error


def _clips_and_shapes(settings: Any, where: str) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """The settings of the clips in _CLIPS, and the shapes of the tensors; raises RecordError."""
    if not isinstance(settings, Mapping) or settings.keys() != {"clips", "model"}:
        raise RecordError(f"{where} has to be a mapping of clips and model alone")
    clips = {name: _number(settings, f"clips.{name}", where, most) for name, most in _CLIPS.items()}
    channels, model = _number(settings, "model.autoencoder.latent_channels", where), settings["model"]
    levels = model["autoencoder"].get("channel_mult")
    if not isinstance(levels, list) or not 1 <= len(levels) <= 16:
        raise RecordError(f"{where}: model.autoencoder.channel_mult has to be a list of 1 to 16 levels")
    size = [clips[side] // 2 ** (len(levels) - 1) for side in ("height", "width")]
    shapes = {"moments": (clips["frames"], 2 * channels, *size)}
    if "text_encoder" in model:
        tokens, width = (_number(settings, f"model.text_encoder.{name}", where) for name in ("tokens", "width"))
        embedded = model.get("captions") != "tokens"
        return clips, shapes | ({"context": (tokens, width)} if embedded else {"tokens": (tokens,)})
    width = _number(settings, "model.image_encoder.output_dim", where)
    return clips, shapes | {"context": (1, width), "concat": (channels, *size)}


def _number(settings: Any, name: str, where: str, most: int = 2**16) -> int:
    """The number, 1 to `most`, with a name such as model.text_encoder.width; raises RecordError."""
    value, parts = settings, name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping):
            raise RecordError(f"{where}: {'.'.join(parts[:depth])} has to be a mapping, not {value!r:.40}")
        value = value.get(part)
    if type(value) is not int:
        raise RecordError(f"{where}: {name} has to be of type int, not {value!r:.40}")
    if not 1 <= value <= most:
        raise RecordError(f"{where}: {name} has to be 1 to {most}, not {value}")
    return value


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """The settings that differ, a line for each."""
    return [f"{name} is {a} there and {b} here" for name, a, b in differing(there, here)]


def _read_index(folder: str, videos: int, passes: int) -> pd.DataFrame:
    """The index sorted by video and sample; raises DatasetError unless it has one row for each clip of each video."""
    tables = [_read_part(path) for path in sorted(glob(os.path.join(escape(folder), INDEX, "*.csv")))]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    twice = table["sample"].duplicated().sum()
    if twice:
        raise DatasetError(f"{folder}: {twice} clips are there twice; keep the files in {INDEX}/ that are of one run")
    if len(table) != videos * passes:
        missing = f"{videos * passes - len(table)} of {videos * passes} clips are missing"
        raise DatasetError(f"{folder}: {missing}; end the run of encode_latents.py, with all of its shards")
    table = table.sort_values(["row", "sample"], ignore_index=True)
    if not np.array_equal(table["row"].to_numpy(), np.repeat(np.arange(videos), passes)):
        raise DatasetError(f"{folder}: its index has not {passes} clips of each video; {_MAKE}")
    return table


def _read_part(path: str) -> pd.DataFrame:
    """Read and check a file of the index; raises DatasetError."""
    kinds = {"row": np.int64, "sample": np.int64, **dict.fromkeys(("path", "why", "file"), str)}
    kinds |= dict.fromkeys(NUMBERS, np.float64)
    nothing = dict.fromkeys(NUMBERS, ["", "nan"])
    try:
        if not os.path.isfile(path):
            raise ValueError("no ordinary file")
        table = pd.read_csv(path, usecols=COLUMNS, dtype=kinds, keep_default_na=False, na_values=nothing)
    except (ValueError, OverflowError, OSError) as error:
        raise DatasetError(
            f"{path}: not an index of latents ({one_line(error)}); run encode_latents.py again"
        ) from error
    usable = table[table["why"] == ""]
    entry, fps = usable["entry"], usable["fps"]
    rules = {
        "sample": table["sample"] >= 0,
        "entry": (entry >= 0) & (entry < 2**31) & (entry % 1 == 0),
        "place": (usable["place"] >= 0) & (usable["place"] < 1),
        "fps": (fps > 0) & (fps < np.inf),
        "motion_bucket_id": (usable["motion_bucket_id"] >= 0) & (usable["motion_bucket_id"] < np.inf),
        "aug_strength": (usable["aug_strength"] >= 0) & (usable["aug_strength"] < np.inf),
        "file": usable["file"].str.fullmatch(r"[^/\0]+\.safetensors"),
    }
    for name, right in rules.items():
        if len(right) and not right.all():
            wrong = table[name][right.index[~right.astype(bool)][0]]
            raise DatasetError(f"{path}: {name} cannot be {str(wrong)[:40]!r}; run encode_latents.py again")
    return table
