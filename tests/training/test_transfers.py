"""What crosses between host and device while videos are drawn and networks trained."""

from collections import Counter

import numpy as np
import pytest
from mindspore import Tensor
from small_model import SMALL, build_small_pipe

from svd.autoencoder.autoencoder import Autoencoder
from svd.training.config import LossConfig
from svd.training.tasks.video import DenoisingObjective, draw

FRAMES = 3


@pytest.fixture
def crossings(monkeypatch) -> Counter:
    """How many arrays have become tensors, and tensors arrays."""
    counts, to_tensor, to_array = Counter(), Tensor.__init__, Tensor.asnumpy

    def init(self, input_data=None, *args, **kwargs):
        counts["to the device"] += isinstance(input_data, np.ndarray)
        to_tensor(self, input_data, *args, **kwargs)

    def asnumpy(self):
        counts["from the device"] += 1
        return to_array(self)

    monkeypatch.setattr(Tensor, "__init__", init)
    monkeypatch.setattr(Tensor, "asnumpy", asnumpy)
    assert (Tensor(np.ones(2)) + 1).asnumpy().tolist() == [2, 2]
    assert counts == {"to the device": 1, "from the device": 1}
    counts.clear()
    return counts


def image_and_settings(steps: int) -> tuple[np.ndarray, dict]:
    image = np.linspace(0, 1, 16 * 24 * 3, dtype=np.float32).reshape(16, 24, 3)
    return image, {"sampling_steps": steps, "progress": False, "output": "latents"}


@pytest.mark.parametrize("settings", [{}, {"sampler": "heun"}, {"reuse_every": 2}], ids=str)
def test_a_step_of_the_sampler_sends_its_noise_level_alone(eager, crossings, settings):
    """And takes nothing: latents and guidance stay where they are."""
    pipe, found = build_small_pipe(), []
    crossings.clear()
    for steps in (2, 6):
        image, options = image_and_settings(steps)
        pipe(image, **options, **settings)
        found.append(dict(crossings))
        crossings.clear()
    evaluations = 8 if settings.get("sampler") == "heun" else 4  # more than in two steps
    assert found[1]["to the device"] - found[0]["to the device"] == evaluations
    assert found[1].get("from the device") == found[0].get("from the device")


@pytest.mark.parametrize("frames", [3, 6])
def test_the_inputs_of_a_training_step_are_made_without_waiting_for_the_device(eager, crossings, frames):
    """However many frames there are, as much is sent, and nothing comes back."""
    pipe = build_small_pipe()
    objective = DenoisingObjective(pipe.conditioner, pipe.autoencoder, pipe.denoiser, {}, LossConfig(), 0)
    video = np.random.default_rng(0).uniform(-1, 1, (2, frames, 3, 16, 24)).astype(np.float32)
    draws = draw(LossConfig(), 0, [0, 1], (frames, 4, 8, 12), video.shape[2:])
    crossings.clear()
    objective.loss_inputs(video, [7, 7], [127, 127], draws)
    # the image for either encoder, three numbers; video, posterior noise, noise, its levels; and what is dropped of two
    assert crossings["from the device"] == 0 and crossings["to the device"] == 9


def test_an_encoder_runs_once_a_frame(eager, crossings):
    """All clips of a batch at once, between one transfer to the device of all of them and one of the noise."""
    encoder, sizes = build_small_pipe().autoencoder.encoder, []
    autoencoder = Autoencoder(lambda frame: sizes.append(frame.shape) or encoder(frame), None, SMALL.autoencoder)
    video, noise = np.zeros((2, FRAMES, 3, 16, 24), np.float32), np.ones((2, FRAMES, 4, 8, 12), np.float32)
    crossings.clear()
    autoencoder.encode(video, noise)
    assert sizes == [(2, 3, 16, 24)] * FRAMES
    assert crossings["to the device"] == 2 and crossings["from the device"] == 0
