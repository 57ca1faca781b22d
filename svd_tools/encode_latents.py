"""Encode the videos of a training once, so that training needs neither the encoders nor the videos.

python svd_tools/encode_latents.py --out=latents --config=configs/svd_train.yaml --svd_config=configs/svd.yaml
       --train.pretrained=models/svd.safetensors --train.dataset.init_args.metadata=clips.csv
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("encode-latents")

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser, Namespace

from svd import cli
from svd.checkpoints.tensor_files import save_tensors
from svd.checkpoints.tensor_header import CheckpointError, read_header
from svd.cli.options import new_parser, parse
from svd.cli.training import add_training, instantiate_training
from svd.config import load_config
from svd.console import printable
from svd.data.dataset import BadItem, DatasetError, Unavailable, clip_place
from svd.data.latents_dataset import (
    COLUMNS,
    EMPTY_PROMPT,
    INDEX,
    NUMBERS,
    SETTINGS,
    SHARDS,
    EncodedClip,
    differences,
    read_settings,
)
from svd.data.video_dataset import VideoDataset
from svd.files import atomic_write, fsync, write_text
from svd.seeds import Purpose, SampleOrder, generator
from svd.training.config import TrainConfig
from svd_tools.jobs.journal import Journal, Row, report, write_csv
from svd_tools.jobs.work import Shard, check_all_done, process_pending, with_retries

VALUES = {"file": "TEXT", "entry": "INTEGER", **dict.fromkeys(NUMBERS[1:], "REAL")}
"""Columns of the journal, and their SQL types."""


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = new_parser(program, __doc__, "File of the options of train.py that follow.")
    add = parser.add_argument
    add("--out", required=True, type=str, help="Folder of latents to write.")
    add("--passes", default=1, type=int, help="How often every video is encoded: as many epochs are as if trained on "
        "the videos.")  # fmt: skip
    add("--shard", type=Optional[str], help="i/n: encode the i-th (from 0) of n parts of the videos.")
    add("--shard_mb", default=500, type=float, help="Megabytes of a file of latents, about.")
    add("--retry_failed", action="store_true", help="Try clips again that could not be encoded.")
    add_training(parser)
    return parser


class Plan:
    """Which clips are encoded, and into which folder.

    The key of a clip is its video's row in the CSV and its sample number in the training, both padded to one length. It
    is cut, and its conditioning frame gets noise, as for that sample.

    Args:
        arguments: of the command line, as strings or parsed.

    Raises:
        ArgumentError, ConfigError, DatasetError: an argument cannot be used.
    """

    def __init__(self, arguments: list[str] | Namespace):
        parser = build_parser("encode_latents.py")
        args = arguments if isinstance(arguments, Namespace) else parse(parser, arguments)
        self.options = instantiate_training(parser, args)
        self.train: TrainConfig = self.options.train
        self.out, self.dataset = Path(self.options.out), self.train.dataset
        if not isinstance(self.dataset, VideoDataset):
            raise DatasetError("--train.dataset must be a VideoDataset: latents are made of videos")
        for name in ("passes", "shard_mb"):
            if getattr(self.options, name) <= 0:
                raise DatasetError(f"--{name} must be positive, got {getattr(self.options, name)}")
        self.part = Shard.parse(self.options.shard) if self.options.shard is not None else None
        clips = args.train.dataset.init_args.as_dict()
        table = Path(clips.pop("metadata")).read_bytes()
        del clips["data_dir"]  # may differ on another machine
        numbers = {"videos": len(self.dataset), "passes": self.options.passes, "seed": self.train.seed}
        self.clips = {**clips, **numbers, "CSV file": blake2b(table, digest_size=16).hexdigest()}

    def clip_keys(self) -> Iterator[str]:
        """The keys of all clips of this shard, sorted by sample."""
        order = SampleOrder(self.train.seed, len(self.dataset))
        for sample in range(len(self.dataset) * self.options.passes):
            row = order.index(sample)
            if self.part is None or self.part.contains(str(row)):
                yield f"{row:012d}.{sample:012d}"

    def file(self, name: str) -> Path:
        """The path of a file in the folder; with the shard in its name, if there are shards."""
        return self.out / (self.part.name(name) if self.part else name)

    def index_row(self, row: Row) -> dict[str, Any]:
        """A row of the index from one of the journal."""
        video, sample = parse_key(row["path"])
        return {**row, "row": video, "sample": sample, "path": self.dataset.name(video)}


def parse_key(key: str) -> tuple[int, int]:
    """Row and sample from a clip's key."""
    row, sample = key.split(".")
    return int(row), int(sample)


def load_clip(dataset: VideoDataset, seed: int, key: str, _: str = "") -> Row:
    """Load the clip of a key, in a worker process: a row with `clip`, or with `why` it cannot be used.

    `why` is None if it cannot be read at the moment.
    """
    dataset.enter_worker()
    row, sample = parse_key(key)
    try:
        # with a new generator per attempt
        clip = with_retries(lambda: dataset.load(row, generator(seed, sample, Purpose.DATA)))
        return {"path": key, "why": "", "clip": clip}
    except BadItem as error:
        return {"path": key, "why": error.reason}
    except Unavailable:
        return {"path": key, "why": None}
    except Exception as error:  # one video in a million must not end the job
        return {"path": key, "why": " ".join(f"{type(error).__name__}: {error}".split())}


class LatentsWriter:
    """Encodes clips and writes them to the folder; the encoders stay loaded.

    An engine such as Ray Data can keep one in each of its processes and call it: a table with the column `key` becomes
    one file, and rows of the index. Clips that cannot be encoded have the reason in `why`.

    Args:
        plan: which clips, or the arguments of the command line.

    Raises:
        DatasetError: the folder has latents of other settings.
        RuntimeSetupError, ConfigError, CheckpointError: the model cannot be loaded.
    """

    def __init__(self, plan: Plan | list[str]):
        # imports MindSpore, which workers do not need
        from svd.build_training import check_task, latents_model, load_clip_encoder
        from svd.checkpoints.model_file import Checkpoint

        self.plan = plan if isinstance(plan, Plan) else Plan(plan)
        train, options = self.plan.train, self.plan.options
        checkpoint = Checkpoint(train.pretrained)
        model = load_config(options.svd_config) if options.svd_config else checkpoint.config
        check_task(train, model)
        model.check_size(self.plan.dataset.height, self.plan.dataset.width)
        _keep_settings(self.plan.out, {"clips": self.plan.clips, "model": latents_model(train, model, checkpoint)})
        self._encode = load_clip_encoder(train, options.environment, model, checkpoint)
        if self._encode.empty_prompt is not None:
            _save(self.plan.out / EMPTY_PROMPT, {"context": self._encode.empty_prompt})

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        name = blake2b("".join(batch["key"]).encode(), digest_size=16).hexdigest() + ".safetensors"
        clips, rows = [], []
        for key in batch["key"]:
            row, encoded = self.encode(load_clip(self.plan.dataset, self.plan.train.seed, key))
            place = {"file": ""}
            if encoded is not None:
                place = {"file": name, "entry": len(clips)}
                clips.append(encoded)
            rows.append(self.plan.index_row(row | place))
        if clips:
            self.write(name, clips)
        return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(NUMBERS, np.float64))

    def encode(self, row: Row) -> tuple[Row, Optional[EncodedClip]]:
        """A row of `load_clip` with numbers in place of the clip, and the encoded clip, or None."""
        if "clip" not in row:
            return row, None
        key = row["path"]
        _, sample = parse_key(key)
        try:
            clip = self._encode(row["clip"], sample)
        except BadItem as error:
            return {"path": key, "why": error.reason}, None
        place = clip_place(generator(self.plan.train.seed, sample, Purpose.DATA))
        numbers = place, clip.fps, clip.motion_bucket_id, clip.aug_strength
        return {"path": key, "why": "", **dict(zip(NUMBERS[1:], numbers))}, clip

    def write(self, name: str, clips: list[EncodedClip]) -> None:
        """Write a file of clips: the arrays of entry e are `e.moments`, ..."""
        _save(self.plan.out / SHARDS / name, {
            f"{e}.{tensor}": array for e, clip in enumerate(clips) for tensor, array in clip.arrays.items()
        })  # fmt: skip


class LatentsJournal(Journal):
    """A journal of clips, which are encoded, collected into files, and recorded once they are on the drive."""

    def __init__(self, plan: Plan, writer: LatentsWriter):
        super().__init__(plan.file("clips.journal"), VALUES, "clips of latents")
        self._writer, self._limit = writer, plan.options.shard_mb * 1e6
        self._stem = Path(plan.file("clips")).name
        self._rows: list[Row] = []
        self._clips: list[EncodedClip] = []
        self._bytes = 0

    def record(self, row: Row) -> None:
        row, clip = self._writer.encode(row)
        if clip is None:
            super().record(row)
            return
        self._rows.append(row | {"entry": len(self._clips)})
        self._clips.append(clip)
        self._bytes += sum(array.nbytes for array in clip.arrays.values())
        if self._bytes >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Write the collected clips to a file."""
        if self._clips:
            name = f"{self._stem}.{self._rows[0]['path']}.safetensors"
            self._writer.write(name, self._clips)
            for row in self._rows:
                super().record(row | {"file": name})
        self._rows, self._clips, self._bytes = [], [], 0

    def forget_lost(self) -> None:
        """Mark clips whose file is missing, truncated or damaged as pending, and remove it."""
        lost = []
        for file, _ in groupby(self.rows(order="file"), lambda row: row["file"]):
            try:
                read_header(self._writer.plan.out / SHARDS / file)
            except CheckpointError:
                lost.append(file)
        for file in lost:
            for row in list(self.rows(f"file = '{file}'")):
                super().record({"path": row["path"], "why": None})
            with suppress(OSError):  # where it cannot be removed, nothing refers to it any more
                (self._writer.plan.out / SHARDS / file).unlink()
        if lost:
            some = f"{len(lost)} files of latents are missing or damaged, such as {lost[0]}"
            print(printable(f"{some}: their clips are done again"))


def encode_videos(plan: Plan) -> None:
    """Encode all pending clips of a plan, and write the index; raises DatasetError if all fail."""
    writer = LatentsWriter(plan)
    with LatentsJournal(plan, writer) as journal:
        journal.register(((key, "") for key in plan.clip_keys()), plan.options.retry_failed)
        journal.forget_lost()
        try:
            load = partial(load_clip, plan.dataset, plan.train.seed)
            process_pending(journal, load, "", max(plan.train.workers, 1), "clip")
        finally:
            journal.flush()
        check_all_done(journal, "clips")
        rows = map(plan.index_row, journal.rows("why IS NOT NULL"))
        write_csv(plan.file(f"{INDEX}/clips.csv"), COLUMNS, rows)
        failures = map(plan.index_row, journal.failures())
        report(journal, plan.file("failed.csv"), ("path", "sample", "why"), failures, "clips", "encoded")


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to a file, which is on the drive before the journal records it."""
    arrays = {tensor: np.ascontiguousarray(array) for tensor, array in arrays.items()}
    with atomic_write(path, sum(array.nbytes for array in arrays.values())) as aside:
        save_tensors(aside, arrays)
        fsync(aside)


def _keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings; raises DatasetError if the folder has latents of other settings."""
    path = folder / SETTINGS
    text = json.dumps(settings, indent=2)
    if path.exists():
        if differing := differences(read_settings(str(folder)), json.loads(text)):
            raise DatasetError(f"--out {folder} has other latents: {'; '.join(differing[:3])}; choose another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def main(argv: Optional[list[str]] = None, program: str = "encode_latents.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), lambda args: encode_videos(Plan(args)), argv)
