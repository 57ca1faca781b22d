"""Training steps of the golden model's temporal layers, against those of PyTorch (tests/golden/training.json)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import Tensor

from svd import runtime
from svd.build import fill_networks, stored_networks
from svd.checkpoints.model_file import Checkpoint
from svd.config import load_config
from svd.diffusion.denoiser import Denoise
from svd.diffusion.loss import DenoisingLoss, loss_coefficients
from svd.diffusion.preconditioning import PRECONDITIONINGS
from svd.layers.marks import temporal_parameters
from svd.training.config import OptimizerConfig
from svd.training.optimizer import AdamW
from svd.training.step import TrainStep, host_scalar
from svd_tools.device_checks import golden
from svd_tools.device_checks.outcome import AMP_LEVELS, Outcome, Settings

UPDATES = 4
MAX_NORM = 1.0
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, eps=1e-3, weight_decay=0.01, max_grad_norm=MAX_NORM)
"""A large eps: where a gradient is next to nothing, Adam would make an update of its rounding."""
LOSS_SCALE = 2.0**10
"""In float16: the gradients stay within its bounds."""


def reference_file() -> Path:
    """The loss before each update and the norm of its gradient, as PyTorch has them."""
    return golden.FOLDER / "training.json"


def inputs(scale_factor: float, preconditioning: str) -> tuple[Tensor, ...]:
    """What the loss takes: the golden clip, noise and conditioning, at the golden noise level."""
    values = golden.values()
    cond = golden.given_conditioning(values)
    latents, noise = values["frames_mode"] * np.float32(scale_factor), values["sampler_noise"]
    sigma = np.array([float(values["denoiser_sigma"])])
    coefficients = loss_coefficients(PRECONDITIONINGS[preconditioning], sigma)
    return Tensor(latents[None]), Tensor(noise[None]), coefficients, cond.context, cond.concat, cond.vector


class Run:
    """A training of the temporal layers alone; `limit` is of the network that it trains."""

    def __init__(self, settings: Settings):
        config = load_config(golden.FOLDER / "config.yaml")
        device = runtime.setup(settings.device, settings.mode)
        with golden.converted() as checkpoint:
            file = Checkpoint(checkpoint)
            self.network = stored_networks(config, file)["network"]
            trained = temporal_parameters(self.network)
            fill_networks(config, {"network": self.network}, file, device, AMP_LEVELS[settings.variant], trained)
        learned = {id(parameter) for parameter in trained}
        for parameter in self.network.get_parameters():
            parameter.requires_grad = id(parameter) in learned
        self.optimizer = AdamW(trained, OPTIMIZER)
        loss = DenoisingLoss(Denoise(self.network))
        self.step = TrainStep(loss, self.optimizer, trained, None, max_grad_norm=MAX_NORM)
        self.scale = LOSS_SCALE if settings.variant == "float16" else 1.0
        self.inputs = inputs(config.autoencoder.scale_factor, config.preconditioning)

    def update(self, number: int) -> tuple[float, float]:
        """The loss before the n-th update, n = 1, 2, ..., and the norm of its gradient."""
        coefficients = self.optimizer.coefficients(number, OPTIMIZER.learning_rate)
        scalars = host_scalar(self.scale), host_scalar(True), host_scalar(coefficients), host_scalar(0.0)
        loss, norm = self.step(*scalars, *self.inputs)
        return float(loss.asnumpy()), float(norm.asnumpy())


def checks(settings: Settings) -> dict[str, Callable[[], Outcome]]:
    """The loss and the gradient of the first step, and the losses of those that follow."""
    run, reference = Run(settings), json.loads(reference_file().read_text())

    def first_step() -> Outcome:
        found = run.update(1)
        errors = [abs(a / reference[name][0] - 1) for a, name in zip(found, ("loss", "gradient_norm"))]
        note = f"loss {found[0]:.6g}, norm of the gradient {found[1]:.6g}"
        return Outcome(max(errors), golden.limit([run.network]), note)

    def later_steps() -> Outcome:
        losses = [run.update(number)[0] for number in range(2, UPDATES + 1)]
        errors = [abs(a / b - 1) for a, b in zip(losses, reference["loss"][1:])]
        note = "loss " + ", ".join(f"{loss:.6g}" for loss in losses)
        return Outcome(max(errors), golden.limit([run.network], chain=True), note)

    found = {"first training step": first_step}
    return found if settings.quick else {**found, f"training steps 2 to {UPDATES}": later_steps}
