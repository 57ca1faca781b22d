"""The training loss and its gradients against PyTorch: its formula written out, with diffusers' networks."""

import re
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from comparison import NETWORK, assert_close, relative_error
from device import AMP_LEVEL, DEVICE
from mindspore import ParameterTuple, Tensor, nn
from PIL import Image

from svd import load_pipeline
from svd.config import AutoencoderConfig, ImageEncoderConfig, ModelConfig, SamplingConfig, UNetConfig
from svd.data.video_dataset import Clip
from svd.training.config import LossConfig
from svd.training.tasks.video import DenoisingObjective, draw, trained_parameters
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.layouts import DIFFUSERS
from svd_tools.checkpoints.tables import TRANSFORMS
from svd_tools.convert import convert

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

LOSS = 1e-6
WITHOUT_GRADIENT = re.compile(r"\.attentions\..*\.(attn2\.to_[qk]|norm2)\.(weight|bias)$")
"""Of a transformer: over a context of one token the softmax is one, whatever the queries and keys are."""

CONFIG = ModelConfig(
    unet=UNetConfig(
        model_channels=64,  # two channels per group: alone in its group, a convolution's bias would learn nothing
        channel_mult=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[1],
        num_head_channels=32,
        context_dim=24,
        vector_dim=48,
    ),
    autoencoder=AutoencoderConfig(channels=32, channel_mult=[1, 2]),
    image_encoder=ImageEncoderConfig(width=32, layers=1, heads=2, patch_size=56, output_dim=24),
    sampling=SamplingConfig(num_frames=3, height=16, width=24),
)
RNG = np.random.default_rng(5)
CLIPS = [
    Clip(RNG.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8), fps=fps, motion_bucket_id=bucket, path="")
    for fps, bucket in ((8, 127), (23.5, 30))
]
DRAWS = replace(
    draw(LossConfig(), 0, [0, 1], latents=(3, 4, 8, 12), image=(3, 16, 24)),
    keep_context=np.array([True, False]),
    keep_concat=np.array([False, True]),
)


class Reference:
    """PyTorch's side: what the network is given, the loss and the gradients."""

    def __init__(self, pipeline, unet):
        self.inputs = self._inputs(pipeline)
        self.loss = self._loss(unet, **self.inputs)
        self.loss.backward()
        self.gradients = {f"unet.{name}": parameter.grad for name, parameter in unet.named_parameters()}

    @staticmethod
    @torch.no_grad()
    def _inputs(pipeline) -> dict:
        video = torch.from_numpy(np.stack([clip.frames for clip in CLIPS])).permute(0, 1, 4, 2, 3) / 127.5 - 1
        posterior = pipeline.vae.encode(video.flatten(0, 1)).latent_dist
        latents = posterior.mean + posterior.std * torch.from_numpy(DRAWS.posterior_noise).flatten(0, 1)
        strength = torch.from_numpy(DRAWS.aug_strength).float()
        noisy = video[:, 0] + strength.view(2, 1, 1, 1) * torch.from_numpy(DRAWS.aug_noise)
        concat = pipeline.vae.encode(noisy).latent_dist.mode()
        concat[0] = 0  # as in DRAWS
        context = pipeline._encode_image([Image.fromarray(clip.frames[0]) for clip in CLIPS], "cpu", 1, False)
        context[1] = 0
        return {
            "latents": latents.unflatten(0, (2, 3)) * 0.18215,
            "concat": concat[:, None].repeat(1, 3, 1, 1, 1),
            "context": context,
            "ids": torch.tensor([[clip.fps - 1, clip.motion_bucket_id, s] for clip, s in zip(CLIPS, strength)]),
        }

    @staticmethod
    def _loss(unet, latents, concat, context, ids):
        sigma = torch.from_numpy(DRAWS.sigma)
        s = sigma.view(2, 1, 1, 1, 1)
        x = latents + s.float() * torch.from_numpy(DRAWS.noise)
        c_in, c_skip, c_out = 1 / (s**2 + 1).sqrt(), 1 / (s**2 + 1), -s / (s**2 + 1).sqrt()
        x_in = torch.cat([c_in.float() * x, concat], 2)
        f = unet(x_in, (0.25 * sigma.log()).float(), context, added_time_ids=ids).sample
        denoised = c_skip.float() * x + c_out.float() * f
        weight = (1 + s**2) / s**2
        return (weight.float() * (denoised - latents) ** 2).mean()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The reference's results, our config and our checkpoint of the same weights."""
    import torch_models  # needs torch

    folder = tmp_path_factory.mktemp("training")
    pipeline = torch_models.torch_pipeline(CONFIG)
    source, config = torch_models.save(pipeline, CONFIG, folder)
    reference = Reference(pipeline, torch_models.with_one_epsilon(pipeline.unet))
    return reference, config, convert(source, config, folder / "converted")


@pytest.fixture
def reference(files) -> Reference:
    return files[0]


@pytest.fixture
def task(request, mode, files) -> DenoisingObjective:
    """Ours, with the temporal layers to train or all of the UNet."""
    _, config, checkpoint = files
    pipe = load_pipeline(config, checkpoint, device_target=DEVICE, mode=mode, amp_level=AMP_LEVEL)
    trained = {f"network.{p.name}": p for p in trained_parameters(pipe.denoiser.network, request.param)}
    return DenoisingObjective(pipe.conditioner, pipe.autoencoder, pipe.denoiser, trained, LossConfig(), seed=0)


class Gradients(nn.Cell):
    """The task's loss and its gradients, compiled as one."""

    def __init__(self, task: DenoisingObjective):
        super().__init__(auto_prefix=False)
        self.run = ms.value_and_grad(task.loss, None, ParameterTuple(list(task.trained.values())))

    def construct(self, *inputs):
        return self.run(*inputs)


def loss_inputs(task: DenoisingObjective) -> tuple[Tensor, ...]:
    video = np.stack([clip.frames for clip in CLIPS]).transpose(0, 1, 4, 2, 3).astype(np.float32) / 127.5 - 1
    return task.loss_inputs(video, [clip.fps for clip in CLIPS], [clip.motion_bucket_id for clip in CLIPS], DRAWS)


@pytest.mark.parametrize(
    "_mode, task",
    [(0, False), (1, False), (1, True)],
    indirect=True,
    ids=["graph-all", "pynative-all", "pynative-temporal"],
)
def test_loss_and_gradients(task, reference):
    """Two clips that differ in everything; one is not given the image's embedding, the other not its latents."""
    inputs = loss_inputs(task)
    for index, name in ((0, "latents"), (3, "context"), (4, "concat")):
        assert_close(inputs[index], reference.inputs[name])
    loss, gradients = Gradients(task)(*inputs)
    assert_close(loss, reference.loss, LOSS)
    largest = max(float(gradient.abs().max()) for gradient in reference.gradients.values())
    for entry, gradient in zip(expand(DIFFUSERS, CONFIG, task.trained), gradients, strict=True):
        expected = TRANSFORMS[entry.transform].to_ours(reference.gradients[entry.theirs].numpy())
        if WITHOUT_GRADIENT.search(entry.ours):
            assert not gradient.asnumpy().any()
            assert np.abs(expected).max() < 1e-8 * largest  # PyTorch's is rounding
        else:
            assert relative_error(gradient, expected) < NETWORK, entry.ours
