"""The networks whose features metrics are of: what they are called, where people get their weights, loading them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mindspore import float32, nn

from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_header import CheckpointError
from svd.metrics.c3d import C3D
from svd.metrics.clip_similarity import Clip
from svd.metrics.i3d import I3D
from svd.metrics.inception import Inception
from svd.placement import place

FORMAT = "svd-mindspore-extractor"
"""Format name in the metadata of a file."""
ROOT = "extractor"
"""Prefix of the names in a file."""


@dataclass(frozen=True)
class Extractor:
    """A network of published weights."""

    title: str
    published: str
    """The files that hold its weights, by their published names, and who publishes them."""
    build: Callable[..., nn.Cell]
    """C3D's is told the number of classes; the others take nothing."""


EXTRACTORS = {
    "i3d": Extractor(
        "I3D trained on Kinetics-400",
        "i3d_pretrained_400.pt of VideoGPT (wilson1yan/VideoGPT, also in JunyaoHu/common_metrics_on_video_quality)",
        I3D,
    ),
    "inception": Extractor(
        "FID's Inception-v3",
        "pt_inception-2015-12-05-6726825d.pth of pytorch-fid (a release of mseitzer/pytorch-fid)",
        Inception,
    ),
    "c3d": Extractor(
        "C3D fine-tuned on UCF101",
        "conv3d_deepnetA_ucf.npz and, beside it, mean2.npz of TGANv2 (a release of mitmul/tgan2)",
        C3D,
    ),
    "clip": Extractor(
        "CLIP ViT-B/32",
        "ViT-B-32.pt of OpenAI (with bpe_simple_vocab_16e6.txt.gz), or openai/clip-vit-base-patch32 on Hugging Face",
        Clip,
    ),
}
"""By the names of their files."""


def extractor_file(folder: str | Path, name: str) -> Path:
    """The file of an extractor; raises CheckpointError, which says where people get it, if it is not there."""
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        extractor = EXTRACTORS[name]
        raise CheckpointError(
            f"{path} is missing, the weights of {extractor.title}: get {extractor.published}, and convert it with "
            "`svd convert-extractor`",
            setting="extractors",
        )
    return path


def load_extractor(folder: str | Path, name: str, device: str) -> tuple[nn.Cell, Mapping[str, str]]:
    """A network in float32 on a device that is set up, and the metadata of its file.

    Raises:
        CheckpointError: the file is missing, damaged, or of something else.
    """
    file = Checkpoint(extractor_file(folder, name))
    if (file.metadata.get("format"), file.metadata.get("extractor")) != (FORMAT, name):
        problem = f"holds no weights of {EXTRACTORS[name].title} that `svd convert-extractor` has written"
        raise CheckpointError(f"{file.path} {problem}", setting="extractors")
    settings = {"classes": file.shapes[f"{ROOT}.fc8.bias"][0]} if f"{ROOT}.fc8.bias" in file.shapes else {}
    network = place(EXTRACTORS[name].build(**settings).set_train(False), device, float32)
    file.load({ROOT: network})
    return network, file.metadata
