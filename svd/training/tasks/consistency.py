"""The task consistency: a model is distilled to few steps without guidance (arXiv 2310.04378; of SVD: 2402.00769).

A student f, initialised with the model, learns to give the end of the ODE's path from any point of it:

    f(x, sigma_n)  ->  f-(x', sigma_n+k),    x' = the teacher's guided step from x, sigma_n to sigma_n+k

The teacher is the model as it was, f- the moving average of the student. f is the preconditioned denoiser D, for which
D(x, 0) = x holds by c_skip and c_out: the boundary condition, without which all could be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters

from svd.config import ModelConfig, SamplingConfig
from svd.data.latents_dataset import EncodedClip
from svd.data.video_dataset import Clip
from svd.diffusion.denoiser import Denoise
from svd.diffusion.guidance import linear_scale
from svd.diffusion.preconditioning import Preconditioning
from svd.diffusion.schedules import karras
from svd.errors import check
from svd.layers.lora import add_adapters
from svd.networks.blocks.svd import svd_unet
from svd.placement import place
from svd.seeds import Purpose, generator
from svd.training.config import ConsistencyConfig, TrainConfig
from svd.training.optimizer import WeightAverage
from svd.training.tasks import Plan
from svd.training.tasks.video import IMAGE_TO_VIDEO, DenoisingObjective, check_frames

STEPS = 4
"""Of the sampler, in the distilled model's configuration."""


def level_coefficients(preconditioning: Preconditioning, sigma: np.ndarray, lowest: float) -> np.ndarray:
    """c_skip, c_out, c_in and c_noise of noise levels from 0 up, [b]: float64 [4 b].

    At 0 the denoised is the input itself. What the network is then given does not count, but has to be finite: that of
    the lowest level.
    """
    coefficients = preconditioning.coefficients(np.maximum(sigma, lowest))
    coefficients[:3, sigma == 0] = [[1.0], [0.0], [1.0]]
    return coefficients


class ConsistencyLoss(nn.Cell):
    """The weighted distance of D(x; sigma) from its target, the mean over clips: squared, or pseudo-Huber's with c =
    `huber`, sqrt(d^2 + c^2) - c of each number (arXiv 2310.14189, section 3.3).
    """

    def __init__(self, denoise: Denoise, huber: Optional[float]):
        super().__init__(auto_prefix=False)
        self.denoise, self.huber = denoise, huber

    def construct(
        self, x: Tensor, target: Tensor, coefficients: Tensor, context: Tensor, concat: Tensor, vector, *others
    ) -> Tensor:
        """The loss of b clips, a float32 scalar.

        Args:
            x: noisy latents [b t c h w].
            target: of the same shape.
            coefficients: `level_coefficients` and the weights of the clips, [5 b].
            context, concat, vector, others: fields of the conditioning.
        """
        denoised = self.denoise(x, coefficients[:4], concat, context, vector, False, *others)
        distance = ops.square(denoised - target)
        if self.huber is not None:
            distance = ops.sqrt(distance + self.huber**2) - self.huber
        return ops.mean(ops.reshape(coefficients[4], (-1, 1, 1, 1, 1)) * distance)


class ConsistencyObjective:
    """Distil a model.

    Args:
        clips: makes latents and conditioning of clips; the network of its loss is the student.
        twin: twin(parameters, adapted) makes a network that shares the student's parameters, but for those that are
            given by name; with its adapters or without (`twins_of`).
        config: of the distillation.
        sampling: of the model; its noise levels are the ends of the distillation's.
    """

    def __init__(
        self,
        clips: DenoisingObjective,
        twin: Callable[[Mapping[str, Parameter], bool], nn.Cell],
        config: ConsistencyConfig,
        sampling: SamplingConfig,
    ):
        self.clips, self.twin, self.config, self.trained = clips, twin, config, clips.trained
        self.preconditioning, student = clips.preconditioning, clips.loss.denoise
        self.sigmas = karras(config.levels, sampling.sigma_max, sampling.sigma_min, sampling.rho)
        self.loss = ConsistencyLoss(student, config.huber if config.distance == "huber" else None)
        start = {p.name: _copy(p) for p in self.trained.values()}
        self.teacher, self.target = Denoise(twin(start, False)), student

    def follow(self, average: Optional[WeightAverage]) -> None:
        """Make this average of the trained parameters the target; without one it is the student itself."""
        if average is not None:
            names = [parameter.name for parameter in average.parameters]
            self.target = Denoise(self.twin(dict(zip(names, average.averages)), True))

    def inputs(self, clips: list[Clip] | list[EncodedClip], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for clips and their sample numbers: the target is computed here."""
        latents, noise, _, context, concat, *others = self.clips.inputs(clips, samples)
        sigma, ends, scale = self.draw(samples, latents.shape[1])
        x = latents + noise * _per_clip(sigma)
        given = context, concat, *others
        x_next = self.solve(x, sigma, ends, scale, given)
        target = self.target(x_next, self._coefficients(ends), concat, context, others[0], False, *others[1:])
        rows = level_coefficients(self.preconditioning, sigma, self.sigmas[-2])
        weight = (sigma - ends) ** -self.config.weighting
        return x, target, Tensor(np.vstack([rows, weight]).astype(np.float32)), *given

    def draw(self, samples: list[int], frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each sample, from its own generator: its noise level [b], that at which the solver ends [b], and the
        teacher's guidance [b t].
        """
        c, rows = self.config, []
        for sample in samples:
            rng = generator(self.clips.seed, sample, Purpose.TIMESTEPS)
            n = int(rng.integers(c.levels))
            bounds = [rng.uniform(*bounds) for bounds in (c.guidance_first, c.guidance_last)]
            rows.append((self.sigmas[n], self.sigmas[min(n + c.skip, c.levels)], linear_scale(*bounds, frames)))
        return tuple(map(np.stack, zip(*rows)))

    def solve(self, x: Tensor, sigma: np.ndarray, ends: np.ndarray, scale: np.ndarray, given: tuple) -> Tensor:
        """The teacher's step of the ODE from x [b t c h w] at sigma to `ends`, each [b]."""
        x0 = self._guided(x, sigma, scale, given)
        x_next = x0 + (x - x0) * _per_clip(ends / sigma)
        if self.config.solver == "euler":
            return x_next
        inner = np.maximum(ends, self.sigmas[-2])  # at 0 there is no slope: Euler's step stands
        slope = (x - x0) * _per_clip(1 / sigma)
        slope_next = (x_next - self._guided(x_next, inner, scale, given)) * _per_clip(1 / inner)
        return x_next + (slope_next - slope) * _per_clip((ends > 0) * (ends - sigma) / 2)

    def _guided(self, x: Tensor, sigma: np.ndarray, scale: np.ndarray, given: tuple) -> Tensor:
        """The teacher's D with classifier-free guidance of a scale per clip and frame, [b t]."""
        context, concat, vector, *others = given
        if self.config.unguided:
            return self.teacher(x, self._coefficients(sigma), concat, context, vector, False, *others)
        both = [_twice(tensor) for tensor in (x, vector, *others)]
        context, concat = (ops.cat((ops.zeros_like(tensor), tensor)) for tensor in (context, concat))
        coefficients = self._coefficients(np.concatenate([sigma, sigma]))
        x0 = self.teacher(both[0], coefficients, concat, context, both[1], False, *both[2:])
        x0_uncond, x0_cond = ops.chunk(x0, 2)
        return x0_uncond + (x0_cond - x0_uncond) * Tensor(scale.astype(np.float32)[:, :, None, None, None])

    def _coefficients(self, sigma: np.ndarray) -> Tensor:
        return Tensor(level_coefficients(self.preconditioning, sigma, self.sigmas[-2]).astype(np.float32))


def _per_clip(values: np.ndarray) -> Tensor:
    return Tensor(np.asarray(values, np.float32).reshape(-1, 1, 1, 1, 1))


def _twice(x: Any) -> Any:
    return x if x is None else ops.cat((x, x))


def _copy(parameter: Parameter) -> Parameter:
    return Parameter(Tensor(parameter.asnumpy().copy()), name=parameter.name, requires_grad=False)


def twins_of(network: nn.Cell, build: Callable[[bool], nn.Cell]) -> Callable[[Mapping[str, Parameter], bool], nn.Cell]:
    """twin(parameters, adapted): a network that shares the parameters of this one, but for those given by name.

    Args:
        build: build(adapted) makes a network of the same cells, with adapters or without.
    """
    shared = {parameter.name: parameter for parameter in network.get_parameters()}
    dtype = next(cell.compute_dtype for _, cell in network.cells_and_names() if hasattr(cell, "compute_dtype"))

    def twin(parameters: Mapping[str, Parameter], adapted: bool) -> nn.Cell:
        with no_init_parameters():
            other = build(adapted)
        place(other, ms.get_context("device_target"), dtype)
        other.set_train(False)
        for _, cell in other.cells_and_names():
            for attribute, parameter in list(cell._params.items()):
                setattr(cell, attribute, parameters.get(parameter.name, shared[parameter.name]))
        return other

    return twin


class ConsistencyTask:
    """Distils the UNet of Stable Video Diffusion: its temporal layers, adapters, or all of it."""

    kinds, complete = ("svd",), True
    settings = (
        "consistency",
        "loss.noise_aug_mean",
        "loss.noise_aug_std",
        "preview.images",
        "temporal_only",
        "lora",
    )
    needs, trained = IMAGE_TO_VIDEO.needs, IMAGE_TO_VIDEO.trained
    encoders, cached, clip_encoder = IMAGE_TO_VIDEO.encoders, IMAGE_TO_VIDEO.cached, IMAGE_TO_VIDEO.clip_encoder

    def check(self, train: TrainConfig, model: ModelConfig) -> None:
        check_frames(train, image_only=False)
        steps, levels = train.preview.sampling_steps, train.consistency.levels
        few = f"train.preview.sampling_steps must be at most train.consistency.levels {levels}, got {steps}"
        check(steps <= levels or not train.preview.sampled, few)
        again = "the model is a distilled one (its sampler is consistency): begin with the model that it was made of"
        check(model.sampling.sampler != "consistency", again)

    def result(self, train: TrainConfig, model: ModelConfig) -> ModelConfig:
        """The configuration of the distilled model."""
        own = {"sampler": "consistency", "consistency_levels": train.consistency.levels, "guidance": [1.0, 1.0]}
        steps = min(STEPS, train.consistency.levels)
        sampling = replace(model.sampling, **own, sampling_steps=steps, churn=0.0, eta=1.0, renoise=0, renoise_part=0.5)
        return replace(model, sampling=sampling)

    def build(self, plan: Plan) -> ConsistencyObjective:
        train, model, network = plan.train, plan.model, plan.networks["network"]
        whole = replace(plan, train=replace(train, loss=replace(train.loss, drop_context=0.0, drop_concat=0.0)))

        def alike(adapted: bool) -> nn.Cell:
            other, lora = svd_unet(model.unet), train.lora
            if adapted and lora.rank:
                add_adapters(other, lora.modules, lora.rank, lora.scaled_by, train.seed)
            return other

        clips = IMAGE_TO_VIDEO.build(whole)
        return ConsistencyObjective(clips, twins_of(network, alike), train.consistency, model.sampling)
