"""Measures of long videos of moving digits, by the models that make them."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from PIL import Image
from tqdm import tqdm

from svd.conditioning.given_frames import every_fourth
from svd.config import ConfigError
from svd.config.temporal import INTERPOLATION
from svd.data.moving_digits import DigitsClip, MovingDigits
from svd.metrics.frechet import frechet_distance
from svd.pipelines.given_frames import FramesSampler
from svd.pipelines.long_video import CONTEXT, PASSES, Label, LongVideo, labels_at
from svd.pipelines.streaming import Stage, stream
from svd.pipelines.text_to_video import TextToVideo
from svd_tools.digits.judge import MIN_FRAMES, DigitJudge, classes_present, judge_videos

BETWEEN_KEYS = INTERPOLATION**PASSES
"""Frames from a key frame to the next."""
BINS = 20
"""Points of a curve over time."""
TURN = 0.05
"""Pixels by which a step differs from the one before where a digit touches a wall, at least."""
SHORT, LONG = 300, 3000
"""Frames of the videos whose memory is compared."""
WAYS = {"two_frames": CONTEXT, "restarted": 1}
"""How many key frames the next ones continue from: two, or the last alone, as when a model is started again from it."""


def decibels(error: float) -> float:
    """PSNR of a mean square error of 8-bit pixels; of rounding, if it is smaller."""
    return 10 * math.log10(255**2 / max(error, 1 / 12))


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A small process in between: the peak of one that is started includes that of the process which starts it."""


def peak_memory(argv: list[str]) -> int:
    """Largest resident set of a program, bytes; raises CalledProcessError if it fails."""
    done = subprocess.run([sys.executable, "-c", PEAK, *argv], stdout=subprocess.PIPE, check=True, text=True)
    return int(done.stdout) * 1024


class LongMeasures:
    """A method for each measure of `svd digits long`, whose options `args` are; each returns numbers for a report."""

    def __init__(self, prediction: TextToVideo, interpolation: TextToVideo, judge: DigitJudge, args: Namespace):
        self.prediction, self.interpolation, self.judge, self.args = prediction, interpolation, judge, args
        self.settings = prediction.config.sampling
        if self.settings.num_frames < MIN_FRAMES:
            raise ConfigError(f"the judge needs windows of {MIN_FRAMES} frames, and predictions have fewer")
        self.fps, self.window = interpolation.config.sampling.fps, interpolation.config.sampling.num_frames

    # --- clips ---

    def data(self, frames: int, seed: int, digits: tuple[int, ...] = (1, 2)) -> Iterator[DigitsClip]:
        """Held-out clips of so many frames at the full frame rate."""
        args = self.args
        options = {"digits": list(digits), "speed": args.speed, "fps": self.fps, "size": self.settings.height}
        clips = MovingDigits(
            args.clips, frames=frames, part="test", seed=args.seed + seed, source=args.source, **options
        )
        return (clips.load(index) for index in range(args.clips))

    def key_clips(self, seed: int) -> Iterator[DigitsClip]:
        """Every so many-th frame: clips of key frames."""
        for clip in self.data((self.settings.num_frames - 1) * BETWEEN_KEYS + 1, seed):
            yield DigitsClip(**vars(clip) | {"frames": clip.frames[::BETWEEN_KEYS]})

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [t h w 3] -> latents [t c h w]"""
        video = frames.transpose(0, 3, 1, 2)[None].astype(np.float32) / 127.5 - 1
        return self.prediction.autoencoder.encode(video).asnumpy()[0]

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """[t c h w] -> uint8 [t h w 3]"""
        video = self.interpolation.autoencoder.decode(latents[None])[0].transpose(0, 2, 3, 1)
        return np.round(np.clip((video + 1) / 2, 0, 1) * 255).astype(np.uint8)

    # --- measures ---

    def given(self) -> dict[str, Any]:
        """PSNR of frames that are all given, and of what the autoencoder makes of them, dB."""
        sampler = FramesSampler(self.prediction, self.settings)
        errors = {"given": [], "autoencoder": []}
        for number, clip in enumerate(self.bar(self.key_clips(0), "given")):
            latents = self.encode(clip.frames)
            told = "", self.key_fps, clip.motion_bucket_id
            made = sampler(latents, np.ones(len(latents), np.float32), (self.args.seed, number), *told)
            for name, result in (("given", made), ("autoencoder", latents)):
                errors[name].append(np.mean((self.decode(result).astype(np.float32) - clip.frames) ** 2))
        return {f"psnr_{name}": decibels(float(np.mean(values))) for name, values in errors.items()}

    def between(self) -> dict[str, Any]:
        """PSNR of frames between given ones, dB: of the model, of a cross-fade and of repetition; for each frame rate,
        of all intervals and of those in which a digit touches a wall.
        """
        rates = self.interpolation.config.own_layers.rates or [float(self.fps)]
        return {f"{rate:g}": self._between(round(self.fps / rate), rate) for rate in rates}

    def _between(self, step: int, rate: float) -> dict[str, Any]:
        sampler = FramesSampler(self.interpolation, self.interpolation.config.sampling)
        mask, errors, turns = every_fourth(self.window), [], []
        inner = mask == 0
        for number, clip in enumerate(self.bar(self.data((self.window - 1) * step + 1, 0), f"{rate:g} fps")):
            true, centres = clip.frames[::step].astype(np.float32), clip.centres[::step]
            latents = self.encode(clip.frames[::step])
            made = sampler(latents, mask, (self.args.seed, number), "", rate, clip.motion_bucket_id)
            made[mask > 0] = latents[mask > 0]
            ends = true[::INTERPOLATION]
            weights = (np.arange(self.window)[inner] % INTERPOLATION / INTERPOLATION).reshape(-1, 1, 1, 1)
            before, after = (ends[np.arange(self.window)[inner] // INTERPOLATION + i] for i in (0, 1))
            candidates = {
                "model": self.decode(made)[inner],
                "cross_fade": before + weights * (after - before),
                "repeated": before,
                "autoencoder": self.decode(latents)[inner],
            }
            squares = [np.mean((frames - true[inner]) ** 2, (1, 2, 3)) for frames in candidates.values()]
            errors.append(np.stack(squares, 1).reshape(-1, INTERPOLATION - 1, len(candidates)))
            turned = np.abs(np.diff(clip.centres, 2, axis=0)).max((1, 2)) > TURN
            spans = np.arange(len(centres) - 1)[::INTERPOLATION] * step
            turns += [bool(turned[start : start + INTERPOLATION * step - 1].any()) for start in spans]
        table, bounces = np.concatenate(errors), np.array(turns)
        result: dict[str, Any] = {"share_of_bounces": float(bounces.mean())}
        for name, rows in (("all", table), ("bounces", table[bounces]), ("straight", table[~bounces])):
            means = rows.mean((0, 1)) if len(rows) else np.full(len(candidates), np.nan)
            result[name] = {key: decibels(float(mean)) for key, mean in zip(candidates, means)} if len(rows) else None
        return result

    def guidance(self) -> dict[str, Any]:
        """Frechet distance of the judge's features from predictions of two given key frames to other real clips, over
        the scale of context guidance; and that of the real clips.
        """
        real = [clip.frames for clip in self.key_clips(1)]
        reference = judge_videos(self.judge, np.stack(real)).features
        clips = list(self.key_clips(0))
        own = judge_videos(self.judge, np.stack([clip.frames for clip in clips])).features
        mask = (np.arange(self.settings.num_frames) < CONTEXT).astype(np.float32)
        result: dict[str, Any] = {"real": frechet_distance(own, reference)}
        for scale in self.args.scales:
            sampler = FramesSampler(self.prediction, self.settings, scale, self.args.context_noise)
            videos = []
            for number, clip in enumerate(self.bar(clips, f"guidance {scale:g}")):
                told = "", self.key_fps, clip.motion_bucket_id
                made = sampler(self.encode(clip.frames), mask, (self.args.seed, number), *told)
                videos.append(self.decode(made))
            result[f"{scale:g}"] = frechet_distance(judge_videos(self.judge, np.stack(videos)).features, reference)
        return result

    def identity(self) -> dict[str, Any]:
        """Shares of key frames in which the judge sees the digit of the first frame and no other, over time and in the
        last quarter: continued from two frames, and from the last one alone.
        """
        keys = max(math.ceil(self.args.seconds * self.key_fps), 2 * BINS)
        clips = list(islice(self.data(2, 2, digits=(1,)), self.args.pictures))
        present = classes_present([clip.digits for clip in clips])
        curves: dict[str, Any] = {"seconds": ((np.arange(BINS) + 0.5) * keys / BINS / self.key_fps).tolist()}
        result: dict[str, Any] = {}
        for way, context in WAYS.items():
            shown = []
            for number, clip in enumerate(self.bar(clips, way)):
                stages = self._stages(clip, number, context)[:1]
                made = np.concatenate(list(islice(stream(stages), math.ceil(keys / (self.settings.num_frames - 2)))))
                video = np.concatenate([self.decode(latents[None]) for latents in made[:keys]])
                digits = judge_videos(self.judge, video[None], 1).digits[0]
                shown.append((digits == present[number]).all(-1))
            seen = np.array(shown)
            result[f"{way}_last_quarter"] = float(seen[:, -(keys // 4) :].mean())
            curves[way] = [float(part.mean()) for part in np.array_split(seen, BINS, axis=1)]
        return result | {"curves": curves}

    def seams(self) -> dict[str, Any]:
        """The largest step from a frame to the next where windows meet, as a multiple of the largest elsewhere; and the
        share of all frames of the last quarter that show the first one's digit.
        """
        (clip,) = islice(self.data(2, 2, digits=(1,)), 1)
        total, frames, steps, shown, last = round(self.args.seconds * self.fps), 0, [], [], None
        present = classes_present([clip.digits])[0]
        with tqdm(total=total, desc="seams", unit="frame") as bar:
            for made in stream(self._stages(clip, 0, CONTEXT)):
                if made is None:
                    continue
                judged = judge_videos(self.judge, made[None], 1).digits[0]
                shown += (judged == present).all(-1).tolist()
                joined = made if last is None else np.concatenate([last, made])
                steps += np.abs(np.diff(joined.astype(np.float32), axis=0)).mean((1, 2, 3)).tolist()
                last, frames = made[-1:], frames + len(made)
                bar.update(len(made))
                if frames >= total:
                    break
        sizes, after = np.array(steps), np.arange(len(steps)) + 1
        meet = (after % BETWEEN_KEYS == 0) | (after % BETWEEN_KEYS == 1)
        return {
            "largest_at_seams": float(sizes[meet].max()),
            "largest_elsewhere": float(sizes[~meet].max()),
            "ratio": float(sizes[meet].max() / max(sizes[~meet].max(), 1e-9)),
            "last_quarter": float(np.mean(shown[-(len(shown) // 4) :])),
        }

    def memory(self) -> dict[str, Any]:
        """Peak memory of the program for a short and a long video, bytes."""
        peaks = {}
        (clip,) = islice(self.data(2, 2, digits=(1,)), 1)
        with tempfile.TemporaryDirectory(dir=self.args.out_dir) as folder:
            picture = Path(folder) / "picture.png"
            Image.fromarray(clip.frames[0]).save(picture)
            for frames in (SHORT, LONG):
                argv = [sys.executable, "-m", "svd", "long-video", f"--image={picture}", f"--output_dir={folder}"]
                argv += [f"--model.{name}={self.args[name]}" for name in ("prediction", "interpolation")]
                argv += [f"--seconds={frames / self.fps}", f"--mode={self.args.mode}"]
                argv += [f"--device_target={self.args.device_target}"]
                peaks[f"frames_{frames}"] = peak_memory(argv)
        return peaks | {"ratio": peaks[f"frames_{LONG}"] / peaks[f"frames_{SHORT}"]}

    # --- helpers ---

    @property
    def key_fps(self) -> float:
        return self.fps / BETWEEN_KEYS

    def _stages(self, clip: DigitsClip, number: int, context: int) -> list[Stage]:
        """What makes a long video of a clip's first frame."""
        pipes = self.prediction, self.interpolation
        guidance = self.args.context_guidance, self.args.context_noise
        long = LongVideo(*pipes, tuple(pipe.config.sampling for pipe in pipes), *guidance)
        labels = labels_at([Label(0.0, "", clip.motion_bucket_id)])
        return long.stages(long.encoded(clip.frames[0]), self.args.seed + number, self.fps, labels, context)

    def bar(self, clips, what: str) -> tqdm:
        return tqdm(clips, what, unit="clip", total=len(clips) if isinstance(clips, list) else self.args.clips)
