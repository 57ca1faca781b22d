"""The metrics: a row each. What is imported to compute one takes seconds, and is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import numpy as np

from svd.metrics.frechet import Moments, distance

Values = dict[str, float]


_PROTOCOLS = {
    "fvd": "VideoGPT's: I3D Kinetics-400, 400 logits; shorter side to 224 pixels, bilinear, centre crop; covariance by "
    "n - 1",
    "fvd_stylegan_v": "StyleGAN-V's: I3D Kinetics-400, 400 logits; whole frame to 224 x 224 pixels, bilinear; "
    "covariance by n",
    "fid": "pytorch-fid's: Inception of 2015, 2048 features of every frame; 299 x 299 pixels, bilinear; covariance by "
    "n - 1",
    "is": "TGANv2's: C3D of {classes} classes; 112 x 112 pixels, bilinear; mean and deviation over {splits} parts",
    "clipsim": "CLIP ViT-B/32: cosine of text and frame, mean over frames, then over videos; 224 pixels, bicubic, "
    "centre crop",
    "fvd_digits": "the network that judges moving digits, 64 features; 64 x 64 pixels; covariance by n - 1",
}
"""What the numbers depend on beside the clips."""


class Rows:
    """Numbers of all samples, [n d]: a few for each."""

    def __init__(self, state: Optional[Mapping[str, np.ndarray]] = None):
        self._parts = [] if state is None else [state["rows"]]

    def add(self, rows: np.ndarray) -> None:
        self._parts.append(np.asarray(rows, np.float64))

    @property
    def rows(self) -> np.ndarray:
        return np.concatenate(self._parts)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """What another one goes on from."""
        return {"rows": self.rows}


Gathered = Moments | Rows


class Setting(NamedTuple):
    """What metrics are set up with."""

    extractors: str
    """Folder of converted weights."""
    judge: str
    """File of the network that judges digits."""
    device: str
    splits: int


@dataclass(frozen=True)
class Measure:
    """A metric that is set up."""

    features: Callable[[np.ndarray, Sequence[str]], np.ndarray]
    """(clips uint8 [b t h w 3], their captions) -> numbers of the clips, or of all their frames, [n d]"""
    values: Callable[[Any, Any], Values]
    """(what is gathered of the videos, and of the reference if there is one) -> results, the main one first."""
    protocol: str
    """What the numbers depend on beside the clips."""
    gather: type[Gathered] = Moments
    width: int = 0
    """Features of a sample where their covariance counts; fewer samples have a singular one."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """About its weights."""


@dataclass(frozen=True)
class Metric:
    """A metric by its name."""

    title: str
    set_up: Callable[[Setting], Measure]
    reference: bool = False
    """Whether the videos are compared with others."""
    captions: bool = False
    """Whether it is given what the videos should show."""
    frames: tuple[int, Optional[int]] = (1, None)
    """Least and most frames of a clip."""
    extractor: str = ""
    """Name of the weights that it needs."""


def _load(setting: Setting, name: str):
    from svd.metrics.extractors import load_extractor

    network, metadata = load_extractor(setting.extractors, name, setting.device)
    return network, metadata, {key: metadata[key] for key in ("source", "sha256") if key in metadata}


def _frechet(name: str, unbiased: bool = True) -> Callable[[Moments, Moments], Values]:
    return lambda videos, reference: {name: distance(videos.gaussian(unbiased), reference.gaussian(unbiased))}


def _fvd(setting: Setting) -> Measure:
    from mindspore import Tensor

    from svd.metrics.i3d import CLASSES, cropped

    network, _, facts = _load(setting, "i3d")
    protocol = _PROTOCOLS["fvd"]
    return Measure(
        lambda clips, _: network(Tensor(cropped(clips))).asnumpy(),
        _frechet("fvd"),
        protocol,
        width=CLASSES,
        facts=facts,
    )


def _fvd_stylegan_v(setting: Setting) -> Measure:
    from mindspore import Tensor

    from svd.metrics.i3d import CLASSES, squeezed

    network, _, facts = _load(setting, "i3d")
    protocol = _PROTOCOLS["fvd_stylegan_v"]
    values = _frechet("fvd_stylegan_v", unbiased=False)
    return Measure(
        lambda clips, _: network(Tensor(squeezed(clips))).asnumpy(), values, protocol, width=CLASSES, facts=facts
    )


def _fid(setting: Setting) -> Measure:
    from mindspore import Tensor

    from svd.metrics.inception import FEATURES, prepared

    network, _, facts = _load(setting, "inception")
    protocol = _PROTOCOLS["fid"]

    def features(clips: np.ndarray, _) -> np.ndarray:
        return np.concatenate([network(Tensor(prepared(clip))).asnumpy() for clip in clips])

    return Measure(features, _frechet("fid"), protocol, width=FEATURES, facts=facts)


def _is(setting: Setting) -> Measure:
    from mindspore import Tensor

    from svd.metrics.c3d import prepared
    from svd.metrics.inception_score import inception_score, softmax

    network, _, facts = _load(setting, "c3d")
    mean, classes = network.mean.asnumpy(), network.fc8.weight.shape[0]
    protocol = _PROTOCOLS["is"].format(classes=classes, splits=setting.splits)

    def values(videos: Rows, _) -> Values:
        score, deviation = inception_score(videos.rows, setting.splits)
        return {"is": score, "is_deviation": deviation}

    return Measure(
        lambda clips, _: softmax(network(Tensor(prepared(clips, mean))).asnumpy()), values, protocol, Rows, facts=facts
    )


def _clipsim(setting: Setting) -> Measure:
    from svd.metrics.clip_similarity import ClipSimilarity

    network, metadata, facts = _load(setting, "clip")
    similarity = ClipSimilarity(network, metadata)
    protocol = _PROTOCOLS["clipsim"]

    def values(videos: Rows, _) -> Values:
        return {"clipsim": float(videos.rows.mean()), "clipsim_deviation": float(videos.rows.std())}

    return Measure(lambda clips, captions: similarity(clips, captions)[:, None], values, protocol, Rows, facts=facts)


DIGIT_SIDE = 64
"""Pixels of the frames that the network which judges digits is given."""


def _fvd_digits(setting: Setting) -> Measure:
    from svd.data.pictures import cover
    from svd.files import sha256
    from svd_tools.digits.judge import FEATURES, judge_videos, load_judge

    judge = load_judge(setting.judge, setting.device, DIGIT_SIDE)
    protocol = _PROTOCOLS["fvd_digits"]

    def features(clips: np.ndarray, _) -> np.ndarray:
        small = np.stack([[cover(frame, DIGIT_SIDE, DIGIT_SIDE) for frame in clip] for clip in clips])
        return judge_videos(judge, small, len(small)).features

    return Measure(features, _frechet("fvd_digits"), protocol, width=FEATURES, facts={"sha256": sha256(setting.judge)})


METRICS = {
    "fvd": Metric("Frechet video distance, as VideoGPT computes it", _fvd, True, frames=(10, None), extractor="i3d"),
    "fvd_stylegan_v": Metric("the same, as StyleGAN-V does", _fvd_stylegan_v, True, frames=(10, None), extractor="i3d"),
    "fid": Metric("Frechet distance of single frames", _fid, True, extractor="inception"),
    "is": Metric("Inception Score of videos", _is, frames=(16, 16), extractor="c3d"),
    "clipsim": Metric("similarity of frames and their text", _clipsim, captions=True, extractor="clip"),
    "fvd_digits": Metric(
        "Frechet distance of the features of a small network that judges moving digits, which comes with the project",
        _fvd_digits, True, frames=(5, None),
    ),
}  # fmt: skip
"""By name; a further metric is a row here, and its computation in svd/metrics."""
