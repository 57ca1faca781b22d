"""The loss of text to video, and the gradients of its temporal layers, against AnimateDiff in diffusers and PyTorch."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from foreign_weights import diffusers_names, load_foreign
from mindspore import ParameterTuple, nn

from svd.autoencoder.autoencoder import Autoencoder
from svd.config import ScheduleConfig, TemporalConfig, TextEncoderConfig, VideoLDMConfig
from svd.config.temporal import MotionModules
from svd.data.latents_dataset import EncodedClip
from svd.layers.marks import temporal_parameters
from svd.networks.blocks.video_ldm import video_unet
from svd.training.config import LossConfig
from svd.training.tasks.text import Captions, TextObjective
from svd.training.tasks.video import draw
from svd_tools.checkpoints.names.text_unet import MOTION_MODULES

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from test_video_unets import FRAMES, UNET, motion_unet  # noqa: E402 (needs torch)

MODEL = VideoLDMConfig(
    unet=UNET,
    text_encoder=TextEncoderConfig(width=UNET.context_dim, heads=2, tokens=7),
    temporal=TemporalConfig(motion_modules=MotionModules(heads=2, max_frames=8, norm="clip")),
    schedule=ScheduleConfig(betas="linear"),
)
TOLERANCE = 1e-4
SAMPLES = [3, 2]


def clips() -> list[EncodedClip]:
    rng = np.random.default_rng(0)
    moments, contexts = rng.standard_normal((2, FRAMES, 8, 4, 6)), rng.standard_normal((2, 7, UNET.context_dim))
    return [EncodedClip(7.0, 0.0, 0.0, "x", moments=m, context=c) for m, c in zip(moments, contexts)]


class Gradients(nn.Cell):
    """The loss and its gradients, compiled as one."""

    def __init__(self, task: TextObjective):
        super().__init__(auto_prefix=False)
        self.run = ms.value_and_grad(task.loss, None, ParameterTuple(list(task.trained.values())))

    def construct(self, *inputs):
        return self.run(*inputs)


def test_loss_and_gradients(eager):
    """Two clips with timesteps of their own; one is not given its caption."""
    from diffusers import DDPMScheduler

    reference = motion_unet(middle=False)
    state = {name: value.detach().numpy() for name, value in reference.state_dict().items()}
    names = diffusers_names(MOTION_MODULES, MODEL)
    network = load_foreign(video_unet(MODEL), state, names, unused=".pos_embed.")
    captions = Captions(None, empty_prompt=np.ones((7, UNET.context_dim), np.float32))
    trained = {parameter.name: parameter for parameter in temporal_parameters(network)}
    config, autoencoder = LossConfig(drop_context=0.5), Autoencoder(lambda moments: moments, None, MODEL.autoencoder)
    task = TextObjective(captions, autoencoder, network, None, MODEL, trained, config, 0, False)
    inputs = task.inputs(clips(), SAMPLES)
    loss, gradients = Gradients(task)(*inputs)

    latents, noise, _, context = (torch.from_numpy(x.asnumpy()) for x in inputs)
    assert sorted((context == 1).all(-1).all(-1).tolist()) == [False, True]
    sigma = draw(config, 0, SAMPLES, latents.shape[1:], (0,), False, task.sigmas).sigma
    timesteps = torch.from_numpy(np.searchsorted(task.sigmas, sigma))
    schedule = DDPMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012)
    x = schedule.add_noise(latents, noise, timesteps).transpose(1, 2)
    predicted = reference(x, timesteps, context.repeat_interleave(FRAMES, 0)).sample.transpose(1, 2)
    expected = torch.nn.functional.mse_loss(predicted, noise)
    expected.backward()

    assert_close(loss, expected, TOLERANCE)
    of_torch = {name: p.grad.numpy() for name, p in reference.named_parameters() if "pos_embed" not in name}
    of_torch = load_foreign(video_unet(MODEL), of_torch, names).parameters_dict()
    largest = max(float(np.abs(of_torch[name].asnumpy()).max()) for name in trained)
    for name, gradient in zip(trained, gradients, strict=True):
        expected = of_torch[name].asnumpy()
        allowed = TOLERANCE * max(np.abs(expected).max(), 1e-2 * largest)  # some are zero, but for rounding
        assert np.abs(gradient.asnumpy() - expected).max() <= allowed, name
