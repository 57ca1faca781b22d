"""The tasks of models that are given text: single frames, or clips, from their captions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from typing import Any, Optional

import numpy as np
from mindspore import Parameter, Tensor, nn

from svd.autoencoder.autoencoder import Autoencoder
from svd.checkpoints.formats import TOKENIZER
from svd.conditioning.conditioning import Labels
from svd.conditioning.text_conditioner import encode
from svd.conditioning.tokenizer import Tokenizer
from svd.config import ImageLDMConfig
from svd.data.latents_dataset import EncodedClip, LatentsDataset
from svd.data.video_dataset import Clip, pixels
from svd.diffusion.denoiser import Denoise
from svd.diffusion.loss import DenoisingLoss, loss_coefficients
from svd.diffusion.preconditioning import DISCRETE_PRECONDITIONINGS
from svd.diffusion.schedules import discrete_sigmas
from svd.errors import check
from svd.layers.marks import spatial_parameters, temporal_parameters
from svd.training.config import LossConfig, TrainConfig
from svd.training.tasks import Plan
from svd.training.tasks.video import (
    check_frames,
    draw,
    encode_frames,
    encoded,
    frames_and_shape,
    freeze_others,
    trained_parameters,
    training_autoencoder,
)


class TextLoss(nn.Cell):
    """`DenoisingLoss` given tokens for a text encoder that is trained along, or else embeddings."""

    def __init__(self, loss: DenoisingLoss, text_encoder: Optional[nn.Cell]):
        super().__init__(auto_prefix=False)
        self.loss, self.text_encoder = loss, text_encoder

    def construct(self, latents: Tensor, noise: Tensor, coefficients: Tensor, text: Tensor, *vector) -> Tensor:
        """As in `DenoisingLoss`, with text as tokens [b n] or embeddings [b n d]; and a vector if the model has one."""
        context = text if self.text_encoder is None else self.text_encoder(text)
        return self.loss(latents, noise, coefficients, context, None, vector[0] if vector else None)


class Captions:
    """What is made of captions: tokens, or their embeddings if there is a text encoder, which is frozen.

    Args:
        tokenizer: None if clips have embeddings already.
        text_encoder: tokens [b n] -> embeddings [b n d].
        empty_prompt: the embedding of the empty prompt [n d], if clips have embeddings already.
    """

    def __init__(
        self,
        tokenizer: Optional[Tokenizer],
        text_encoder: Optional[nn.Cell] = None,
        empty_prompt: Optional[np.ndarray] = None,
    ):
        self.tokenizer, self.text_encoder, self._warned = tokenizer, text_encoder, False
        self.empty_prompt = self.of_prompts([""]).asnumpy()[0] if empty_prompt is None else empty_prompt

    def of_prompts(self, prompts: list[str]) -> Tensor:
        """Tokens [b n], or embeddings [b n d]; the first prompt that is cut is warned of."""
        tokens, cut = self.tokenizer(prompts)
        if cut and not self._warned:
            self._warned = True
            warnings.warn(f"{cut[0]}; others are not told", stacklevel=2)
        return self._embedded(tokens)

    def __call__(self, clips: list[Clip] | list[EncodedClip], keep: np.ndarray) -> Tensor:
        """Of clips: tokens [b n], or embeddings [b n d]; those of the empty prompt for clips that are not kept, [b]."""
        if isinstance(clips[0], Clip):
            return self.of_prompts([clip.caption if kept else "" for clip, kept in zip(clips, keep)])
        if clips[0].tokens is not None:
            empty, _ = self.tokenizer([""])
            return self._embedded(np.stack([clip.tokens if kept else empty[0] for clip, kept in zip(clips, keep)]))
        contexts = [clip.context if kept else self.empty_prompt for clip, kept in zip(clips, keep)]
        return Tensor(np.stack(contexts).astype(np.float32))

    def _embedded(self, tokens: np.ndarray) -> Tensor:
        return Tensor(tokens) if self.text_encoder is None else encode(self.text_encoder, Tensor(tokens))


class TextClipEncoder:
    """Encodes clips for cached latents, as `TextObjective` would.

    Args:
        encoder: of the autoencoder.
    """

    def __init__(self, captions: Captions, encoder: nn.Cell):
        self.captions, self.encoder = captions, encoder
        embedded = captions.text_encoder is not None
        self._name = "context" if embedded else "tokens"
        self.empty_prompt = captions.empty_prompt.astype(np.float16) if embedded else None

    def __call__(self, clip: Clip, sample: int) -> EncodedClip:
        text = self.captions([clip], np.array([True])).asnumpy()[0]
        return encoded(clip, moments=encode_frames(self.encoder, pixels([clip])[0]), **{self._name: text})


class TextObjective:
    """Denoise a clip given its caption; or, with `image_only`, its frames as independent images, as VideoLDM tunes its
    image model on videos (section 3.1). Timesteps are uniform, and the loss is plain |F - target|^2, of noise or v
    (DDPM, arXiv 2006.11239, equation 14; arXiv 2202.00512).

    Args:
        captions, autoencoder: make the inputs; for encoded clips the autoencoder is given moments instead of frames.
        network: it is trained, or a part of it.
        text_encoder: it too, given tokens; None if captions are embeddings.
        model: its preconditioning and its schedule.
        trained: the parameters to train by their names in a checkpoint; all others are frozen.
        seed: of the noise.
        image_only: whether frames are images, with a timestep each.
    """

    def __init__(
        self,
        captions: Captions,
        autoencoder: Autoencoder,
        network: nn.Cell,
        text_encoder: Optional[nn.Cell],
        model: ImageLDMConfig,
        trained: dict[str, Parameter],
        config: LossConfig,
        seed: int,
        image_only: bool,
    ):
        self.captions, self.autoencoder, self.config, self.seed = captions, autoencoder, config, seed
        self.trained, self.image_only, self.labels = trained, image_only, Labels(model)
        self.sigmas = discrete_sigmas(model.schedule)
        self.preconditioning = DISCRETE_PRECONDITIONINGS[model.preconditioning](self.sigmas)
        self.loss = TextLoss(DenoisingLoss(Denoise(network), image_only), text_encoder)
        freeze_others(network, trained)
        if text_encoder is not None:  # both networks have a norm_out.weight, which no tuple can hold
            for name, parameter in trained.items():
                parameter.name = name

    def inputs(self, clips: list[Clip] | list[EncodedClip], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for clips and their sample numbers."""
        frames, shape = frames_and_shape(clips, self.autoencoder.config)
        draws = draw(self.config, self.seed, samples, shape, (0,), self.image_only, self.sigmas)
        latents = self.autoencoder.encode(frames, draws.posterior_noise)
        coefficients = loss_coefficients(self.preconditioning, draws.sigma)
        inputs = latents, Tensor(draws.noise), coefficients, self.captions(clips, draws.keep_context)
        numbers = [clip.fps for clip in clips], [clip.motion_bucket_id for clip in clips]
        vector = self.labels(len(clips), *numbers)
        return inputs if vector is None else (*inputs, vector)


class TextTask:
    """Trains the UNet on captions: its temporal layers, adapters, or all of it. With `image_only` its spatial layers on
    single frames, and the text encoder with them where a model is trained from scratch.
    """

    complete = True

    def __init__(self, image_only: bool):
        self.image_only = image_only
        self.kinds = ("image_ldm", "video_ldm") if image_only else ("video_ldm",)
        self.settings = ("loss.drop_context", "preview.prompts", "lora")
        self.settings += ("text_encoder",) if image_only else ("temporal_only",)

    def check(self, train: TrainConfig, model: ImageLDMConfig) -> None:
        check_frames(train, self.image_only)
        missing = f"train.task={train.task} learns from captions, and there are none: a CSV file needs a column caption"
        check(train.dataset.captioned, missing)
        most = None if self.image_only else getattr(model.temporal.layers, "max_frames", None)
        frames = getattr(train.dataset, "frames", 0)
        positions = f"clips of {frames} frames are longer than the {most} that temporal layers have positions for"
        check(most is None or frames <= most, positions)

    def needs(self, train: TrainConfig) -> Optional[tuple[str, ...]]:
        if not isinstance(train.dataset, LatentsDataset):
            return None
        return ("network", "text_encoder") if train.dataset.has_tokens else ("network",)

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        network = networks["network"]
        if self.image_only and not train.lora.rank:
            chosen = {"network": spatial_parameters(network)}
        else:
            chosen = {"network": trained_parameters(network, train.temporal_only)}
            of_time = {id(parameter) for parameter in temporal_parameters(network)} if self.image_only else set()
            silent = f"train.lora.modules {train.lora.modules} are temporal layers, which single frames do not pass"
            check(not any(id(parameter) in of_time for parameter in chosen["network"]), silent)
        if train.text_encoder:
            chosen["text_encoder"] = list(networks["text_encoder"].get_parameters())
        return chosen

    def encoders(self, train: TrainConfig) -> tuple[str, ...]:
        return ("autoencoder.encoder",) if _of_tokens(train) else ("autoencoder.encoder", "text_encoder")

    def cached(self, train: TrainConfig, model: ImageLDMConfig, metadata: Mapping[str, str]) -> dict[str, Any]:
        return {
            "text_encoder": asdict(model.text_encoder),
            "tokenizer": blake2b(metadata.get(TOKENIZER, "").encode(), digest_size=16).hexdigest(),
            "captions": "tokens" if _of_tokens(train) else "embeddings",
        }

    def clip_encoder(self, plan: Plan) -> TextClipEncoder:
        captions = Captions(_tokenizer(plan), plan.networks.get("text_encoder"))
        return TextClipEncoder(captions, plan.networks["autoencoder.encoder"])

    def build(self, plan: Plan) -> TextObjective:
        train, model, networks = plan.train, plan.model, plan.networks
        learned = networks["text_encoder"] if train.text_encoder else None
        autoencoder = training_autoencoder(plan)
        inputs = captions_of(plan), autoencoder, networks["network"], learned, model, plan.trained
        return TextObjective(*inputs, train.loss, train.seed, self.image_only)


def captions_of(plan: Plan) -> Captions:
    """What makes context of captions, given loaded networks; tokens, if the text encoder is trained."""
    train = plan.train
    if isinstance(train.dataset, LatentsDataset) and not train.dataset.has_tokens:
        return Captions(None, empty_prompt=train.dataset.empty_prompt)
    return Captions(_tokenizer(plan), None if train.text_encoder else plan.networks["text_encoder"])


def _of_tokens(train: TrainConfig) -> bool:
    """Whether captions are cached as tokens: for a text encoder that is trained, and where they are so already."""
    return train.text_encoder or (isinstance(train.dataset, LatentsDataset) and train.dataset.has_tokens)


def _tokenizer(plan: Plan) -> Tokenizer:
    return Tokenizer.of_checkpoint(plan.metadata, plan.model.text_encoder)


TEXT_TO_IMAGE, TEXT_TO_VIDEO = TextTask(image_only=True), TextTask(image_only=False)
