"""Losses of a decoder: reconstruction, with a perceptual term or without, and against discriminators."""

from __future__ import annotations

from typing import Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from svd.layers.axes import fold_frames
from svd.networks.discriminator import Discriminators, deceiving_loss, hinge_loss

LARGEST_WEIGHT = 1e4
"""Limit of the adaptive weight, and what keeps it finite: those of latent diffusion models."""
SMALL = 1e-4


class ReconstructionLoss(nn.Cell):
    """error(decoder(z), x) + weight * KL(q(z | x) || N(0, 1)) / latents, z ~ q (Kingma and Welling 2013; LDM, G).

    The error is mean |decoder(z) - x| over all numbers + perceptual_weight * the mean of a perceptual difference of
    frames (arXiv 2112.10752, appendix G, divided by the numbers of a frame).

    Args:
        encoder: images [n 3 h w] -> mean and log-variance of latents [n 2c h' w'].
        decoder: of videos or of images, see svd.autoencoder.decoder.
        kl_weight: of the divergence.
        perceptual: images, twice -> their difference [n]; or None.
    """

    def __init__(
        self,
        encoder: nn.Cell,
        decoder: nn.Cell,
        kl_weight: float,
        perceptual: Optional[nn.Cell] = None,
        perceptual_weight: float = 1.0,
    ):
        super().__init__(auto_prefix=False)
        self.encoder, self.decoder, self.kl_weight = encoder, decoder, kl_weight
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight

    def construct(self, video: Tensor, noise: Tensor, alone: Optional[Tensor] = None) -> Tensor:
        """-> a float32 scalar

        Args:
            video: [b t 3 h w] in [-1, 1].
            noise: of its latents, unit variance, [b t c h' w'].
            alone: int32 [m], which of the b x t frames are decoded alone, too.
        """
        latents, divergence = self.latents(video, noise)
        decoded = self.frames(self.features(latents, alone))
        return self.error(decoded, frames_of(video, alone)) + self.penalty(divergence)

    def latents(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Samples of the latents [b t c h' w'], and their mean divergence, twice."""
        moments = ops.reshape(self.encoder(fold_frames(video)), noise.shape[:2] + (-1,) + noise.shape[3:])
        mean, log_variance = ops.chunk(moments, 2, 2)
        log_variance = ops.minimum(ops.maximum(log_variance, -30.0), 20.0)
        variance = ops.exp(log_variance)
        divergence = ops.mean(ops.square(mean) + variance - 1.0 - log_variance)
        return mean + ops.sqrt(variance) * noise, divergence

    def penalty(self, divergence: Tensor) -> Tensor:
        return ops.mul(divergence, 0.5 * self.kl_weight)

    def features(self, latents: Tensor, alone: Optional[Tensor]) -> tuple[Tensor, ...]:
        """What the decoder's last layer is given, for clips and for frames that are alone."""
        if not self.decoder.temporal:
            return (self.decoder.features(fold_frames(latents)),)
        if alone is None:
            return (self.decoder.features(latents),)
        single = ops.expand_dims(ops.gather(fold_frames(latents), alone, 0), 1)
        return self.decoder.features(latents), self.decoder.features(single)

    def frames(self, features: tuple[Tensor, ...]) -> Tensor:
        """The last layer: frames [n 3 h w], those of clips before those that are alone."""
        frames = ()
        for x in features:
            y = ops.cast(self.decoder.last_layer(x), ms.float32)
            frames = frames + (ops.reshape(y, (-1,) + y.shape[-3:]),)
        if len(frames) == 1:
            return frames[0]
        return ops.cat(frames, 0)

    def error(self, decoded: Tensor, frames: Tensor) -> Tensor:
        """Of decoded frames [n 3 h w]."""
        error = ops.mean(ops.abs(decoded - frames))
        if self.perceptual is not None:
            error = error + ops.mul(ops.mean(self.perceptual(decoded, frames)), self.perceptual_weight)
        return error


def frames_of(video: Tensor, alone: Optional[Tensor]) -> Tensor:
    """[b t ...] -> [(b t) + m ...], followed by the frames that are alone."""
    frames = fold_frames(video)
    if alone is None:
        return frames
    return ops.cat((frames, ops.gather(frames, alone, 0)), 0)


class AdversarialLoss(nn.Cell):
    """A decoder's loss against discriminators: error + adaptive weight * minus the mean logit of what it decoded.

    As in latent diffusion models (arXiv 2112.10752, equation 25), the adversarial term is weighted so that it has as
    large a gradient in the decoder's last layer as the error: with the error as a sum over the numbers of a frame,
    `weight` * min(|d error| / (|d adversarial| + 1e-4), 1e4), of each micro-batch and card by itself. All of it is then
    divided by the numbers of a frame, as the error without discriminators is.

    Both gradients are taken at the decoded frames, by `judge`; their weighted sum goes back through the decoder once.

    Args:
        reconstruction: of the same decoder.
        discriminators: what it plays against.
        weight: factor of the adaptive weight.
    """

    shown = ("reconstruction", "adversarial", "adversarial_weight")
    """What `judge` shows after the loss."""

    def __init__(self, reconstruction: ReconstructionLoss, discriminators: Discriminators, weight: float):
        super().__init__(auto_prefix=False)
        self.reconstruction, self.discriminators, self.weight = reconstruction, discriminators, weight
        last: Parameter = reconstruction.decoder.last_weight()
        self.error_gradient = ms.value_and_grad(self._error, 0)
        self.adversarial_gradient = ms.value_and_grad(self._adversarial, 0)
        self.last_gradient = ms.grad(self._projection, None, last)

    def construct(self, gradient: Tensor, video: Tensor, noise: Tensor, alone: Optional[Tensor] = None) -> Tensor:
        """What has the gradient of the loss, given that with respect to the decoded frames [n 3 h w], from `judge`."""
        latents, divergence = self.reconstruction.latents(video, noise)
        decoded = self.reconstruction.frames(self.reconstruction.features(latents, alone))
        return ops.reduce_sum(decoded * gradient) + self.reconstruction.penalty(divergence)

    def judge(self, playing: bool, video: Tensor, noise: Tensor, alone: Optional[Tensor] = None) -> tuple[Tensor, ...]:
        """-> the loss' gradient with respect to decoded frames; [loss, *shown]; and the discriminators' inputs: the
        frames, and how they were decoded, all [n 3 h w]

        Not within the loss: the compiler would differentiate these gradients, too, and kernels' cannot be.
        """
        latents, divergence = self.reconstruction.latents(video, noise)
        features = self.reconstruction.features(latents, alone)
        decoded, frames = self.reconstruction.frames(features), frames_of(video, alone)
        numbers = float(frames.shape[1] * frames.shape[2] * frames.shape[3])
        error, gradient = self.error_gradient(decoded, frames)
        adversarial, weight = ops.zeros((), ms.float32), ops.zeros((), ms.float32)
        if playing:
            adversarial, other = self.adversarial_gradient(decoded)
            weight = self.adaptive_weight(features, ops.mul(gradient, numbers), other)
            gradient = gradient + other * ops.mul(weight, 1 / numbers)
        loss = error + adversarial * ops.mul(weight, 1 / numbers) + self.reconstruction.penalty(divergence)
        return gradient, ops.stack((loss, error, adversarial, weight)), frames, decoded

    def adaptive_weight(self, features: tuple[Tensor, ...], error: Tensor, adversarial: Tensor) -> Tensor:
        """From the gradients with respect to decoded frames [n 3 h w]."""
        fixed = ()
        for x in features:  # in float32: gradients of single numbers are too small for 16 bits
            fixed = fixed + (ops.cast(x, ms.float32),)
        of_error, of_adversarial = self._last_norm(fixed, error), self._last_norm(fixed, adversarial)
        return ops.mul(ops.minimum(of_error / (of_adversarial + SMALL), LARGEST_WEIGHT), self.weight)

    def _last_norm(self, features: tuple[Tensor, ...], gradient: Tensor) -> Tensor:
        return ops.sqrt(ops.reduce_sum(ops.square(self.last_gradient(features, gradient))))

    def _projection(self, features: tuple[Tensor, ...], gradient: Tensor) -> Tensor:
        """Its gradient with respect to the last layer's weight is that of what has this gradient."""
        return ops.reduce_sum(self.reconstruction.frames(features) * gradient)

    def _error(self, decoded: Tensor, frames: Tensor) -> Tensor:
        return self.reconstruction.error(decoded, frames)

    def _adversarial(self, decoded: Tensor) -> Tensor:
        return deceiving_loss(self.discriminators(decoded))


class DiscriminatorLoss(nn.Cell):
    """The discriminators' loss of frames and of how they were decoded, [n 3 h w]."""

    def __init__(self, discriminators: Discriminators):
        super().__init__(auto_prefix=False)
        self.discriminators = discriminators

    def construct(self, frames: Tensor, decoded: Tensor) -> Tensor:
        return hinge_loss(self.discriminators(frames), self.discriminators(decoded))
