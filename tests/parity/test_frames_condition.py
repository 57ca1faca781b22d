"""A UNet that is given frames, and the losses of prediction and interpolation, against the formulas in PyTorch."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import ParameterTuple, Tensor, nn
from small_model import fill

from svd.config import (
    TemporalConfig,
    TextEncoderConfig,
    TextSamplingConfig,
    UNetConfig,
    VideoLDMConfig,
    VideoLDMLayers,
)
from svd.data.latents_dataset import EncodedClip, LatentsDataset
from svd.networks.blocks.video_ldm import video_unet
from svd.training.config import LossConfig, TrainConfig
from svd.training.tasks import Plan, find_task
from svd.training.tasks.given_frames import GivenFramesObjective

torch = pytest.importorskip("torch")

from torch_video_ldm import unet  # noqa: E402 (needs torch)

UNET = UNetConfig(
    in_channels=4,
    model_channels=32,
    channel_mult=[1, 2],
    num_res_blocks=1,
    attention_resolutions=[2],
    num_heads=2,
    context_dim=16,
    vector_dim=None,
)
MODEL = VideoLDMConfig(
    unet=UNET,
    text_encoder=TextEncoderConfig(width=16, heads=2, tokens=5),
    temporal=TemporalConfig(video_ldm=VideoLDMLayers(frames=True, fps=True, motion=True, rates=[2, 8])),
    sampling=TextSamplingConfig(num_frames=5),
)
TOLERANCE = 1e-4
CLIPS, FRAMES, HEIGHT, WIDTH = 2, 5, 4, 6


def inputs() -> dict[str, np.ndarray]:
    """Two clips: the first is given two frames, with different noise, the second none."""
    rng = np.random.default_rng(0)
    x, latents = rng.standard_normal((2, CLIPS, FRAMES, 4, HEIGHT, WIDTH)).astype(np.float32)
    mask = np.zeros((CLIPS, FRAMES, 1, 1, 1), np.float32)
    mask[0, [0, 3]] = 1
    noise = rng.standard_normal((CLIPS, FRAMES, 32)).astype(np.float32)
    return {
        "x": x,
        "c_noise": np.array([951, 17], np.float32),
        "context": rng.standard_normal((CLIPS, 5, 16)).astype(np.float32),
        "vector": rng.standard_normal((CLIPS, 96)).astype(np.float32),
        "frames": np.concatenate([latents * mask, np.broadcast_to(mask, (*x.shape[:2], 1, *x.shape[3:]))], 2),
        "frames_noise": noise * mask[..., 0, 0],
    }


def test_a_network_that_is_given_frames(mode):
    network, given = fill(video_unet(MODEL)), inputs()
    result = network(
        *(Tensor(given[name]) for name in ("x", "c_noise", "context", "vector")),
        frames=Tensor(given["frames"]),
        frames_noise=Tensor(given["frames_noise"]),
    )
    weights = {p.name: torch.from_numpy(p.asnumpy()) for p in network.get_parameters()}
    expected = unet(weights, UNET, **{name: torch.from_numpy(value) for name, value in given.items()})
    assert_close(result, expected)


class Gradients(nn.Cell):
    """The loss and its gradients, compiled as one."""

    def __init__(self, task: GivenFramesObjective):
        super().__init__(auto_prefix=False)
        self.run = ms.value_and_grad(task.loss, None, ParameterTuple(list(task.trained.values())))

    def construct(self, *inputs):
        return self.run(*inputs)


def clips(frames: int) -> list[EncodedClip]:
    rng = np.random.default_rng(0)
    moments, contexts = rng.standard_normal((2, frames, 8, HEIGHT, WIDTH)), rng.standard_normal((2, 5, 16))
    return [EncodedClip(8.0, 60.0, 0.0, "x", moments=m, context=c) for m, c in zip(moments, contexts)]


def objective(task: str, network: nn.Cell) -> GivenFramesObjective:
    """Trains the temporal layers of a network on latents that have embeddings."""
    data = LatentsDataset.__new__(LatentsDataset)  # as if it had been read
    data.has_tokens, data.empty_prompt = False, np.ones((5, 16), np.float32)
    train = TrainConfig(data, task=task, loss=LossConfig(drop_context=0.5, drop_concat=0.0, given_frames=[1, 0, 1]))
    found = find_task(task)
    return found.build(Plan(train, MODEL, {"network": network}, found.trained(train, {"network": network})))


@pytest.mark.parametrize(("task", "samples", "frames"), [("prediction", [2, 0], 5), ("interpolation", [1, 3], 17)])
def test_loss_and_gradients(eager, task, samples, frames):
    """Two clips with timesteps of their own; one of the predictions is given no frames."""
    objective_ = objective(task, fill(video_unet(MODEL)))
    inputs = objective_.inputs(clips(frames), samples)
    loss, gradients = Gradients(objective_)(*inputs)

    weights = {p.name: torch.from_numpy(p.asnumpy()) for p in objective_.loss.loss.denoise.network.get_parameters()}
    trained = {name.removeprefix("network."): weights[name.removeprefix("network.")] for name in objective_.trained}
    for weight in trained.values():
        weight.requires_grad = True
    latents, noise, coefficients, context, given, level, vector = (torch.from_numpy(x.asnumpy()) for x in inputs)
    masks = given[:, :, -1, 0, 0].tolist()
    assert masks == ([[1, 0, 0, 0, 1]] * 2 if task == "interpolation" else [[1, 1, 0, 0, 0], [0] * 5])
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    timesteps = torch.from_numpy(np.searchsorted(objective_.sigmas, coefficients[0].numpy().reshape(-1) - 1e-6))
    a = alpha_bar[timesteps].float().reshape(-1, 1, 1, 1, 1)
    noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
    expected = torch.nn.functional.mse_loss(
        unet(weights, UNET, noisy, timesteps.float(), context, vector, given, level), noise
    )
    expected.backward()
    assert_close(loss, expected, TOLERANCE)
    largest = max(float(weight.grad.abs().max()) for weight in trained.values())
    for (name, weight), gradient in zip(trained.items(), gradients, strict=True):
        allowed = TOLERANCE * max(float(weight.grad.abs().max()), 1e-2 * largest)
        assert np.abs(gradient.asnumpy() - weight.grad.numpy()).max() <= allowed, name
