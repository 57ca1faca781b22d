"""Every setting of training: one documented dataclass per part, which `train.py` makes flags of."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal, Optional

from svd.config.checks import check_most
from svd.data.dataset import Dataset
from svd.data.workers import ITEM_SECONDS
from svd.errors import check
from svd.runtime import AmpLevel, DeviceTarget, Mode

MOST_UPDATES = 10**8 - 1
"""The names of checkpoints have eight figures."""
LARGEST = 3e38
"""About the largest number of float32."""


@dataclass
class EnvironmentConfig:
    """Where and how the program runs."""

    mode: Mode = 0
    """0: compiled graph, 1: pynative."""
    device_target: DeviceTarget = "auto"
    """Where to run; auto takes the best device that is there."""
    amp_level: AmpLevel = "auto"
    """O0: float32. O2: float16 inside the networks, with a dynamic loss scale. bf16: bfloat16 (Ascend). auto: O2 on
    Ascend, O0 elsewhere. The trained weights are float32 always."""
    compile_cache: str = "auto"
    """Folder in which compiled graphs are kept, so that the next start is faster; off keeps none; auto keeps them in
    the user's cache folder, on CPU, of a run of one process."""

    def __post_init__(self):
        check(
            self.mode == 0 or self.compile_cache in ("auto", "off"),
            "compile_cache keeps compiled graphs, and mode 1 compiles none: leave one of them out",
        )


@dataclass
class LossConfig:
    """What the network is trained on (SVD, appendix D; the defaults are the published image-to-video models')."""

    p_mean: float = 1.0
    """Mean of ln sigma, the noise level, which is drawn once per clip."""
    p_std: float = 1.6
    """Standard deviation of ln sigma."""
    noise_aug_mean: float = -3.0
    """Mean of ln sigma of the noise that is added to the conditioning frame; the network is given sigma."""
    noise_aug_std: float = 0.5
    """Standard deviation of it."""
    drop_context: float = 0.1
    """How often the image embedding, or the caption, is left out, for guidance (SVD's rate is not published)."""
    drop_concat: float = 0.1
    """How often the conditioning frame's latents are left out, independently of the embedding; of interpolation, how
    often no frames are given."""
    given_frames: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    """Of the task prediction: how often the first 0, 1, 2, ... frames are given, in proportion; 0 is for guidance."""
    all_frames: float = 0.0
    """Of the tasks prediction and interpolation: how often all frames are given, from which the network learns that
    given ones stay as they are."""
    frames_noise: int = 250
    """Of these tasks: the largest timestep of the noise on given frames, which is drawn from 0, none, up; the network
    is told it."""
    kl_weight: float = 1e-6
    """Of the task autoencoder: weight of the latents' divergence from unit Gaussian noise."""
    perceptual: Literal["none", "ssim", "lpips"] = "none"
    """Of the tasks autoencoder and temporal_decoder: what is added to the absolute error of each frame. ssim: 1 minus
    structural similarity, which needs no weights. lpips: the distance of VGG16's features."""
    perceptual_weight: float = 1.0
    """Weight of it."""
    lpips: Optional[str] = None
    """File of LPIPS, as `svd convert-lpips` writes it."""
    single_frames: int = 0
    """Of the task temporal_decoder: frames of each clip that are decoded alone, too, as videos of one frame; as many as
    a clip has make an even mix of images and videos."""

    def __post_init__(self):
        for name in ("p_std", "noise_aug_std", "kl_weight", "perceptual_weight", "single_frames"):
            check(0 <= getattr(self, name) < inf, f"loss.{name} must not be negative, got {getattr(self, name)}")
        for name in ("drop_context", "drop_concat", "all_frames"):
            check(0 <= getattr(self, name) <= 1, f"loss.{name} is a rate from 0 to 1, got {getattr(self, name)}")
        for name in ("p_mean", "noise_aug_mean"):
            check(abs(getattr(self, name)) <= 40, f"loss.{name} must be -40 to 40, got {getattr(self, name)}")
        weights = self.given_frames
        check(
            bool(weights) and all(0 <= weight < inf for weight in weights) and sum(weights) > 0,
            f"loss.given_frames are proportions, at least one of them positive, got {weights}",
        )
        check(self.frames_noise >= 0, f"loss.frames_noise must not be negative, got {self.frames_noise}")
        check("\0" not in (self.lpips or ""), "loss.lpips has a zero byte, which no path has")
        check_most(self, "loss", p_std=10, noise_aug_std=10)  # exp(80) is near the end of float32
        check_most(self, "loss", kl_weight=LARGEST, perceptual_weight=LARGEST, single_frames=65_536, given_frames=1e6)


@dataclass
class ConsistencyConfig:
    """Of the task consistency: how a model is distilled to few steps without guidance (arXiv 2310.04378)."""

    levels: int = 40
    """Noise levels, of the Karras schedule between those of the model's sampling."""
    skip: int = 1
    """Levels from a point to the one that it is made consistent with: more are learned faster, and less exactly."""
    solver: Literal["euler", "heun"] = "euler"
    """The teacher's step between the two; heun calls it twice."""
    guidance_first: list[float] = field(default_factory=lambda: [1.0, 1.5])
    """The teacher's guidance in the first frame, drawn between these two scales for each clip; the same twice fixes
    it."""
    guidance_last: list[float] = field(default_factory=lambda: [2.0, 2.5])
    """The same in the last frame; between them it rises linearly. 1 and 1 in both leave guidance out."""
    distance: Literal["huber", "l2"] = "huber"
    """The distance from the target: pseudo-Huber's, or squared."""
    huber: float = 0.001
    """Where pseudo-Huber's distance turns from squared to absolute."""
    weighting: float = 0.1
    """The loss is weighted by the difference of the two noise levels to the power of minus this."""

    def __post_init__(self):
        check(self.levels >= 2, f"consistency.levels must be at least 2, got {self.levels}")
        check(1 <= self.skip <= self.levels, f"consistency.skip must be 1 to the {self.levels} levels, got {self.skip}")
        for name in ("guidance_first", "guidance_last"):
            bounds = getattr(self, name)
            ordered = len(bounds) == 2 and 0 <= bounds[0] <= bounds[1]
            check(ordered, f"consistency.{name} takes two scales, the smaller first, got {bounds}")
        check(0 < self.huber < inf, f"consistency.huber must be positive, got {self.huber}")
        check(0 <= self.weighting <= 4, f"consistency.weighting must be 0 to 4, got {self.weighting}")
        check_most(self, "consistency", levels=10_000, huber=1000, guidance_first=1000, guidance_last=1000)

    @property
    def unguided(self) -> bool:
        """Whether guidance is 1 in all frames."""
        return all(scale == 1 for scale in (*self.guidance_first, *self.guidance_last))


@dataclass
class DiscriminatorConfig:
    """Networks that learn to tell decoded videos from real ones, while the decoder learns to deceive them: of the tasks
    autoencoder and temporal_decoder. Their loss is the hinge loss; both sides learn from the same decoded clips, with
    the same optimizer settings.
    """

    kind: Literal["none", "temporal", "image", "both"] = "none"
    """temporal: of clips, by convolutions over space and time (VideoLDM, section 3.1.1). image: of single frames."""
    weight: float = 1.0
    """Weight of the decoder's adversarial loss, once that has as large a gradient in the decoder's last layer as the
    reconstruction."""
    start: int = 0
    """Updates by reconstruction alone before the discriminators play."""
    learning_rate: Optional[float] = None
    """Learning rate of the discriminators; that of the optimizer if not given."""
    channels: int = 64
    """Channels of the first layer; further ones have twice, four and eight times as many."""
    layers: int = 3
    """Layers that halve the resolution."""

    def __post_init__(self):
        for name in ("weight", "learning_rate"):
            value = getattr(self, name)
            check(value is None or 0 < value < inf, f"discriminator.{name} must be positive, got {value}")
        check(self.start >= 0, f"discriminator.start must not be negative, got {self.start}")
        check(1 <= self.layers <= 8, f"discriminator.layers must be 1 to 8, got {self.layers}")
        channels = self.channels
        check(channels in (8, 16) or (channels > 0 and channels % 32 == 0),
              f"discriminator.channels must be 8, 16 or a multiple of 32, got {channels}")  # fmt: skip
        check_most(self, "discriminator", weight=LARGEST, learning_rate=LARGEST, channels=4096, start=MOST_UPDATES)


@dataclass
class LoRAConfig:
    """Low-rank adapters (LoRA), which are then trained alone: a small file that changes a model (SVD, D.4.2)."""

    rank: int = 0
    """Rank of the adapters (SVD's for camera motion have 16); 0 for none."""
    alpha: Optional[float] = None
    """What an adapter adds is scaled by alpha / rank; the rank, and so a scale of 1, if not given."""
    modules: list[str] = field(
        default_factory=lambda: ["temporal.attn1", "temporal.attn2.to_v", "temporal.attn2.to_out"]
    )
    """Parts of the names of the linear layers that get one; by default those of the attention over time, but queries
    and keys of its cross-attention, which do not matter over the single token of an image."""

    def __post_init__(self):
        check(self.rank >= 0, f"lora.rank must not be negative, got {self.rank}")
        check(self.alpha is None or 0 < self.alpha < inf, f"lora.alpha must be positive, got {self.alpha}")
        check_most(self, "lora", rank=4096, alpha=LARGEST)
        check(bool(self.modules) and all(self.modules), f"lora.modules needs names of layers, got {self.modules}")

    @property
    def scaled_by(self) -> float:
        """alpha, or what takes its place."""
        return self.rank if self.alpha is None else self.alpha


@dataclass
class OptimizerConfig:
    """AdamW, its learning rate over the updates, and the average of the weights."""

    learning_rate: float = 1e-5
    """The learning rate after the warm-up (the published models were trained with 3e-5 at batches of 768 clips)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: `constant`, or `cosine` down to zero at the last update."""
    warmup_updates: int = 100
    """Updates over which the learning rate rises from zero."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the root of the averaged square."""
    weight_decay: float = 0.01
    """Decoupled weight decay, per update and learning rate."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    ema_decay: float = 0.9999
    """Decay of the weights' moving average, which previews and the final model use; 0 keeps none."""

    def __post_init__(self):
        for name in ("learning_rate", "eps", "max_grad_norm"):
            check(0 < getattr(self, name) < inf, f"optimizer.{name} must be positive, got {getattr(self, name)}")
        # Nearer to 1 than float32 resolves, nothing would be learned; a smaller eps would be zero.
        check(
            all(0 < beta < 1 - 1e-7 for beta in self.betas),
            f"optimizer.betas must lie between 0 and 1, got {self.betas}",
        )
        check(self.eps >= 1e-30, f"optimizer.eps must be at least 1e-30, got {self.eps}")
        check(self.warmup_updates >= 0, f"optimizer.warmup_updates must not be negative, got {self.warmup_updates}")
        check(self.weight_decay >= 0, f"optimizer.weight_decay must not be negative, got {self.weight_decay}")
        check(0 <= self.ema_decay < 1, f"optimizer.ema_decay must be in [0, 1), got {self.ema_decay}")
        check_most(self, "optimizer", learning_rate=LARGEST, eps=LARGEST, weight_decay=LARGEST, max_grad_norm=LARGEST)
        check_most(self, "optimizer", warmup_updates=MOST_UPDATES)


@dataclass
class PreviewConfig:
    """Videos that are made while training, to look at."""

    images: list[str] = field(default_factory=list)
    """Image files, or folders of them; none make no videos. With latents as data, previews alone need the encoders and
    the decoder, which are then loaded."""
    prompts: list[str] = field(default_factory=list)
    """The same for models that are given text."""
    clips: int = 0
    """Clips of the data set that the tasks autoencoder and temporal_decoder show: as they are, and as decoded."""
    every: int = 1000
    """Updates from one preview to the next."""
    format: Literal["gif", "mp4"] = "mp4"
    """What to write."""
    sampling_steps: int = 25
    """Steps of the sampler."""
    seed: int = 0
    """Of the noise, or of where clips are cut: the same for every preview, so that they compare."""

    def __post_init__(self):
        for name in ("every", "sampling_steps"):
            check(getattr(self, name) > 0, f"preview.{name} must be positive, got {getattr(self, name)}")
        for name in ("seed", "clips"):
            check(getattr(self, name) >= 0, f"preview.{name} must not be negative, got {getattr(self, name)}")
        check(len(self.prompts) <= 1000, f"preview.prompts must be 1000 at most, got {len(self.prompts)}")
        check_most(self, "preview", every=MOST_UPDATES, sampling_steps=10_000, seed=2**63, clips=1000)

    @property
    def sampled(self) -> bool:
        """Whether videos or images are to be sampled, which needs the whole model."""
        return bool(self.images or self.prompts)

    @property
    def wanted(self) -> bool:
        """Whether there are to be any."""
        return self.sampled or self.clips > 0


@dataclass
class TrainConfig:
    """What is trained, on what, and how long."""

    dataset: Dataset
    """The clips: `class_path` and `init_args` of VideoDataset, LatentsDataset or MovingDigits."""
    task: str = "image_to_video"
    """What is learned. image_to_video: by the UNet, a video from its first frame, as Stable Video Diffusion.
    image_model: by its spatial layers alone, each frame from the first one, as VideoLDM's image model. text_to_image:
    by the spatial layers of a model that is given text, single frames from captions. text_to_video: by the temporal
    layers between them, videos from captions, as VideoLDM and AnimateDiff. prediction: by temporal layers that are
    given frames, videos from their first frames. interpolation: the same, three frames between two. pixels: by a model
    in pixel space, videos, images, or both. upsampling: by an upsampler, patches of videos from low-resolution ones.
    image_encoder: by the image encoder, what is seen. autoencoder: by encoder and decoder, to give frames back.
    temporal_decoder: by the decoder's temporal layers, to give videos back. consistency: by the UNet, which already
    makes videos, to make them in few steps without guidance. Or the path of a class (svd/training/tasks)."""
    pretrained: Optional[str] = None
    """The checkpoint to start from, as svd_tools/convert.py writes it."""
    output_dir: str = "outputs/train"
    """Folder for checkpoints, previews, metrics and the final model."""
    temporal_only: bool = True
    """Train the temporal layers and blends alone, as VideoLDM does; otherwise all of the UNet, or of the decoder. Of
    the tasks image_to_video, consistency and text_to_video without `lora.rank`, with which the adapters alone are
    trained, and of prediction, interpolation, upsampling and temporal_decoder."""
    dropout: float = 0.0
    """Of the task pixels: how often activations of residual blocks and of attention are left out."""
    embeddings: Optional[str] = None
    """Of the task pixels, for models that are given text: a .safetensors file of embeddings [n d] by their captions,
    the empty one among them."""
    text_encoder: bool = False
    """Train the text encoder along with the spatial layers (text_to_image), as for a model from scratch. Cached latents
    are then of tokens, not of their embeddings."""
    patch_size: Optional[int] = None
    """Pixels of the square that is cut out of each clip at random (upsampling); whole frames if not given."""
    scale_clips: int = 0
    """Of the task autoencoder: clips whose latents' deviation is measured at the end, with the trained encoder. One
    over it is the autoencoder.scale_factor of the model that is written; with 0 that is what it was. Trainings after it
    take it from there, unless svd_config is given, which has to agree."""
    epochs: float = 10
    """Passes over the data; `updates` replaces it."""
    updates: Optional[int] = None
    """Updates of the weights in all."""
    batch_size: int = 1
    """Clips per card and micro-batch."""
    gradient_accumulation: int = 1
    """Micro-batches per update."""
    recompute: bool = False
    """Compute activations again on the way back instead of keeping them: slower, less memory (on CPU: mode 1 only)."""
    shard_optimizer: bool = False
    """Shard the optimizer's states over the cards (ZeRO-1) instead of keeping all of them on each."""
    seed: int = 0
    """Of the order of the data and of all noise; results do not depend on workers, cards or interruptions."""
    workers: int = 2
    """Processes per card that load clips; 0 loads in the training process."""
    item_seconds: float = ITEM_SECONDS
    """How long one of these processes may be at work on a clip without reading anything more of its file (and ten times
    as long in all) before it is ended. A video that this happens to twice is left out. Without processes: no limit."""
    resume: str = "never"
    """`auto` continues from the newest checkpoint in output_dir, if there is one; `never` starts anew and refuses a
    folder that has checkpoints; a folder of a checkpoint continues from that one."""
    checkpoint_every: int = 500
    """Updates from one checkpoint to the next; one is also written at the end, and at SIGTERM and Ctrl-C."""
    keep_checkpoints: int = 3
    """Older checkpoints are deleted."""
    log_every: int = 10
    """Updates from one line of the metrics to the next."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)

    def __post_init__(self):
        for name in ("epochs", "batch_size", "gradient_accumulation", "checkpoint_every", "keep_checkpoints"):
            check(0 < getattr(self, name) < inf, f"train.{name} must be positive, got {getattr(self, name)}")
        check(0 <= self.dropout < 1, f"train.dropout is a rate from 0 to below 1, got {self.dropout}")
        check(
            self.patch_size is None or self.patch_size > 0, f"train.patch_size must be positive, got {self.patch_size}"
        )
        check(self.log_every > 0, f"train.log_every must be positive, got {self.log_every}")
        check(self.updates is None or self.updates > 0, f"train.updates must be positive, got {self.updates}")
        for name in ("workers", "seed", "scale_clips"):
            check(getattr(self, name) >= 0, f"train.{name} must not be negative, got {getattr(self, name)}")
        for name in ("pretrained", "output_dir", "resume"):
            check("\0" not in (getattr(self, name) or ""), f"train.{name} has a zero byte, which no path has")
        check(self.item_seconds >= 1, f"train.item_seconds must be at least 1, got {self.item_seconds}")
        counts = dict.fromkeys(
            ("updates", "scale_clips", "checkpoint_every", "keep_checkpoints", "log_every"), MOST_UPDATES
        )
        check_most(self, "train", epochs=1e9, gradient_accumulation=1e6, batch_size=65_536, **counts)
        check_most(self, "train", workers=1024, seed=2**63, item_seconds=1e6)
