"""The tasks of the UNet: a clip, or single frames, from the clip's first frame (SVD, appendix D)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Optional

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from svd.autoencoder.autoencoder import Autoencoder, autoencoder_part
from svd.conditioning.conditioner import Conditioner
from svd.conditioning.conditioning import Conditioning
from svd.config import AutoencoderConfig, ModelConfig
from svd.data.dataset import BadItem
from svd.data.latents_dataset import EncodedClip, LatentsDataset
from svd.data.video_dataset import Clip, pixels
from svd.diffusion.denoiser import Denoise, Denoiser
from svd.diffusion.loss import DenoisingLoss, log_normal, loss_coefficients
from svd.diffusion.preconditioning import PRECONDITIONINGS
from svd.errors import check
from svd.layers.lora import adapters
from svd.layers.marks import spatial_parameters, temporal_parameters
from svd.seeds import Purpose, generator
from svd.training.config import LossConfig, TrainConfig
from svd.training.tasks import Plan


@dataclass(frozen=True)
class Draws:
    """All random numbers of the loss of b clips."""

    sigma: np.ndarray
    """Noise level, [b], or of each frame [b t]."""
    noise: np.ndarray
    """Added to the latents, unit variance, [b t c h w]."""
    posterior_noise: np.ndarray
    """For samples of the posterior of the latents, unit variance, [b t c h w]."""
    aug_strength: np.ndarray
    """Standard deviation of the noise on the conditioning frame, [b]."""
    aug_noise: np.ndarray
    """That noise, unit variance, [b 3 H W]."""
    keep_context: np.ndarray
    """Whether the image embedding is given, [b]."""
    keep_concat: np.ndarray
    """Whether the conditioning frame's latents are given, [b]."""


def draw(
    config: LossConfig,
    seed: int,
    samples: list[int],
    latents: tuple,
    image: tuple,
    by_frame: bool = False,
    sigmas: Optional[np.ndarray] = None,
) -> Draws:
    """Draw for each sample from its own generator, independently of its batch.

    Args:
        samples: numbers of the samples in the stream, b of them.
        latents: shape of a clip's latents, [t c h w].
        image: shape of its conditioning frame, [3 H W].
        by_frame: whether each frame of a clip has a noise level of its own.
        sigmas: the noise levels, all equally likely; log-normal ones if None.
    """
    rows = []
    for sample in samples:
        rng = generator(seed, sample, Purpose.LOSS)
        sigma, strength = rng.standard_normal(2)
        context, concat = rng.random(2)
        noise, posterior_noise = (rng.standard_normal(latents, dtype=np.float32) for _ in range(2))
        aug_noise = rng.standard_normal(image, dtype=np.float32)
        if by_frame:  # not by `rng`: from latents, which have it already, no aug_noise is drawn
            sigma = generator(seed, sample, Purpose.FRAMES).standard_normal(latents[0])
        if sigmas is None:
            sigma = log_normal(sigma, config.p_mean, config.p_std)
        else:
            chosen = generator(seed, sample, Purpose.TIMESTEPS).integers(len(sigmas), size=latents[0])
            sigma = sigmas[chosen if by_frame else chosen[0]]
        strength = log_normal(strength, config.noise_aug_mean, config.noise_aug_std)
        kept = context >= config.drop_context, concat >= config.drop_concat
        rows.append((sigma, noise, posterior_noise, strength, aug_noise, *kept))
    return Draws(*(np.stack(column) for column in zip(*rows)))


class ClipEncoder:
    """Encodes clips of the training stream for cached latents, as `DenoisingObjective` would.

    Args:
        conditioner: of a pipeline; its encoders are used.
        encoder: of the autoencoder.
        config, seed: of the training; they determine the noise on the conditioning frame.
    """

    empty_prompt = None

    def __init__(self, conditioner: Conditioner, encoder: nn.Cell, config: LossConfig, seed: int):
        self.conditioner, self.encoder, self.config, self.seed = conditioner, encoder, config, seed

    def __call__(self, clip: Clip, sample: int) -> EncodedClip:
        """Encode the clip of a sample; raises BadItem if the result overflows float16."""
        video = pixels([clip])
        moments = encode_frames(self.encoder, video[0])
        draws = draw(self.config, self.seed, [sample], latent_shape(moments), video.shape[2:])
        numbers = clip.fps, clip.motion_bucket_id, draws.aug_strength
        cond = self.conditioner(video[:, 0], 1, *numbers, draws.aug_noise)
        arrays = {"moments": moments, "context": cond.context.asnumpy()[0], "concat": cond.concat.asnumpy()[0, 0]}
        return encoded(clip, float(draws.aug_strength[0]), **arrays)


def encode_frames(encoder: nn.Cell, video: np.ndarray) -> np.ndarray:
    """The moments of a clip's latents, one frame at a time: [t 3 h w] in [-1, 1] -> [t 2c h/8 w/8]."""
    frames = ops.Split(0, len(video))(Tensor(np.ascontiguousarray(video)))
    return ops.cat([encoder(frame) for frame in frames]).asnumpy()


def latent_shape(moments: np.ndarray) -> tuple[int, ...]:
    """The shape of the latents with these moments, [t 2c h w] -> (t, c, h, w)."""
    t, channels, *size = moments.shape
    return t, channels // 2, *size


def frames_and_shape(
    clips: list[Clip] | list[EncodedClip], config: AutoencoderConfig
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The frames of clips in [-1, 1], or the moments of encoded ones [b t ...]; and the shape of a clip's latents."""
    if isinstance(clips[0], EncodedClip):
        moments = np.stack([clip.moments for clip in clips])
        return moments, latent_shape(moments[0])
    video, scale = pixels(clips), config.downsampling
    t, _, height, width = video.shape[1:]
    return video, (t, config.latent_channels, height // scale, width // scale)


def encoded(clip: Clip, aug_strength: float = 0.0, **arrays: np.ndarray) -> EncodedClip:
    """The encoded clip, its arrays in float16 but for integers; raises BadItem if one overflows."""
    with np.errstate(over="ignore"):
        arrays = {name: x if x.dtype.kind == "i" else x.astype(np.float16) for name, x in arrays.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise BadItem(clip.path, "its latents are not finite in float16; check the model")
    return EncodedClip(clip.fps, clip.motion_bucket_id, aug_strength, clip.path, **arrays)


class DenoisingObjective:
    """Denoise a clip given its first frame; or, with `image_only`, its frames as independent images given the first
    one, as VideoLDM's image model is trained (section 3.1).

    Args:
        conditioner, autoencoder, denoiser: of a pipeline; the denoiser's network is trained, the others are frozen. For
            encoded clips the conditioner needs no encoders, and the autoencoder is given moments instead of frames.
        trained: the parameters to train by their names in a checkpoint; all others are frozen.
        seed: of the noise.
        image_only: whether frames are images, with a noise level each.
    """

    def __init__(
        self,
        conditioner: Conditioner,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        trained: dict[str, Parameter],
        config: LossConfig,
        seed: int,
        image_only: bool = False,
    ):
        self.conditioner, self.autoencoder = conditioner, autoencoder
        self.preconditioning, self.config, self.seed = denoiser.preconditioning, config, seed
        self.trained, self.image_only = trained, image_only
        self.loss = DenoisingLoss(Denoise(denoiser.network), image_only)
        freeze_others(denoiser.network, trained)

    def inputs(self, clips: list[Clip] | list[EncodedClip], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for clips and their sample numbers."""
        frames, shape = frames_and_shape(clips, self.autoencoder.config)
        are_encoded = isinstance(clips[0], EncodedClip)
        image = (0,) if are_encoded else frames.shape[2:]  # an encoded one has its noise already
        draws = draw(self.config, self.seed, samples, shape, image, self.image_only)
        if are_encoded:
            return self._inputs(frames, self._encoded_conditioning(clips, shape[0]), draws)
        return self.loss_inputs(frames, [clip.fps for clip in clips], [clip.motion_bucket_id for clip in clips], draws)

    def loss_inputs(
        self, video: np.ndarray, fps: list[float], motion_bucket_id: list[float], draws: Draws
    ) -> tuple[Tensor, ...]:
        """The inputs of `loss` from a video [b t 3 h w] in [-1, 1], its fps and bucket [b], and random numbers."""
        strength, noise = draws.aug_strength, draws.aug_noise
        cond = self.conditioner(video[:, 0], video.shape[1], fps, motion_bucket_id, strength, noise)
        return self._inputs(video, cond, draws)

    def _encoded_conditioning(self, clips: list[EncodedClip], frames: int) -> Conditioning:
        context, concat = (np.stack([getattr(clip, name) for clip in clips]) for name in ("context", "concat"))
        numbers = [(clip.fps - 1, clip.motion_bucket_id, clip.aug_strength) for clip in clips]
        vector = self.conditioner.embed_numbers(len(clips), *zip(*numbers))
        concat = np.repeat(concat[:, None], frames, 1)
        return Conditioning(Tensor(context.astype(np.float32)), Tensor(concat.astype(np.float32)), vector)

    def _inputs(self, frames: np.ndarray, cond: Conditioning, draws: Draws) -> tuple[Tensor, ...]:
        latents = self.autoencoder.encode(frames, draws.posterior_noise)
        context = cond.context * _mask(draws.keep_context, cond.context)
        concat = cond.concat * _mask(draws.keep_concat, cond.concat)
        coefficients = loss_coefficients(self.preconditioning, draws.sigma)
        return latents, Tensor(draws.noise), coefficients, context, concat, *cond.inputs[1:]


def _mask(keep: np.ndarray, x: Tensor) -> Tensor:
    """[b] -> [b 1 ...] float32, to multiply x [b ...] by."""
    return Tensor(keep.astype(np.float32).reshape((-1,) + (1,) * (x.ndim - 1)))


def freeze_others(network: nn.Cell, trained: Mapping[str, Parameter]) -> None:
    """Freeze all parameters of a network but the trained ones."""
    learned = {id(parameter) for parameter in trained.values()}
    for parameter in network.get_parameters():
        parameter.requires_grad = id(parameter) in learned


NOISE = ("p_mean", "p_std", "noise_aug_mean", "noise_aug_std", "drop_context", "drop_concat")


class VideoTask:
    """Trains the UNet on videos given their first frame (SVD, appendix D): temporal layers, adapters, or all of it.

    With `image_only` its spatial layers are trained on single frames, as VideoLDM's image model.
    """

    def __init__(self, image_only: bool):
        self.kinds, self.image_only, self.complete = ("svd",), image_only, not image_only
        self.settings = (*(f"loss.{name}" for name in NOISE), "preview.images")
        self.settings += () if image_only else ("temporal_only", "lora")

    def check(self, train: TrainConfig, model: ModelConfig) -> None:
        check_frames(train, self.image_only)

    def needs(self, train: TrainConfig) -> Optional[tuple[str, ...]]:
        return ("network",) if isinstance(train.dataset, LatentsDataset) else None

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        network = networks["network"]
        chosen = spatial_parameters(network) if self.image_only else trained_parameters(network, train.temporal_only)
        return {"network": chosen}

    def encoders(self, train: TrainConfig) -> tuple[str, ...]:
        return "conditioner.image_encoder", "conditioner.autoencoder.encoder", "autoencoder.encoder"

    def cached(self, train: TrainConfig, model: ModelConfig, metadata: Mapping[str, str]) -> dict[str, Any]:
        noise = {name: getattr(train.loss, name) for name in ("noise_aug_mean", "noise_aug_std")}
        return {"image_encoder": asdict(model.image_encoder), "loss": noise}

    def clip_encoder(self, plan: Plan) -> ClipEncoder:
        encoder = plan.networks[autoencoder_part(plan.networks, "encoder")]
        return ClipEncoder(_conditioner(plan), encoder, plan.train.loss, plan.train.seed)

    def build(self, plan: Plan) -> DenoisingObjective:
        denoiser = Denoiser(plan.networks["network"], PRECONDITIONINGS[plan.model.preconditioning])
        parts, train = (_conditioner(plan), training_autoencoder(plan), denoiser), plan.train
        return DenoisingObjective(*parts, plan.trained, train.loss, train.seed, self.image_only)


def _conditioner(plan: Plan) -> Conditioner:
    """The conditioner, with the encoders that are loaded: for cached latents, none."""
    names = "conditioner.image_encoder", "conditioner.autoencoder.encoder"
    return Conditioner(*map(plan.networks.get, names), plan.model.image_encoder.image_size, plan.model.unet.vector_dim)


def check_frames(train: TrainConfig, image_only: bool) -> None:
    """Raise ConfigError for single frames where a task learns from whole clips."""
    single = isinstance(train.dataset, LatentsDataset) and train.dataset.drawn_frames > 0
    of_images = "drawn_frames is for the tasks image_model and text_to_image: others learn from whole clips"
    check(image_only or not single, of_images)


def training_autoencoder(plan: Plan) -> Autoencoder:
    """The autoencoder as objectives need it: without its decoder, and for cached latents given moments, not frames."""
    cached = isinstance(plan.train.dataset, LatentsDataset)
    encoder = (lambda moments: moments) if cached else plan.networks[autoencoder_part(plan.networks, "encoder")]
    return Autoencoder(encoder, None, plan.model.autoencoder)


IMAGE_TO_VIDEO, IMAGE_MODEL = VideoTask(image_only=False), VideoTask(image_only=True)


def trained_parameters(network: nn.Cell, temporal_only: bool) -> list[Parameter]:
    """The parameters to train: the adapters of a network, if it has any."""
    return adapters(network) or (temporal_parameters(network) if temporal_only else list(network.get_parameters()))
