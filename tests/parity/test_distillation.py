"""Consistency distillation against PyTorch: target, loss and gradients, with diffusers' UNet as student, teacher and
target, which all have weights of their own."""

import copy

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close, relative_error
from device import AMP_LEVEL, DEVICE
from mindspore import ParameterTuple, Tensor, nn

from svd import load_pipeline
from svd.config import AutoencoderConfig, ImageEncoderConfig, ModelConfig, SamplingConfig, UNetConfig
from svd.data.video_dataset import Clip, VideoDataset
from svd.training.config import ConsistencyConfig, OptimizerConfig, TrainConfig
from svd.training.optimizer import WeightAverage
from svd.training.tasks import Plan, find_task
from svd.training.tasks.video import draw
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.layouts import DIFFUSERS
from svd_tools.checkpoints.tables import TRANSFORMS
from svd_tools.convert import convert

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

TOLERANCE = 1e-4
CONFIG = ModelConfig(
    unet=UNetConfig(
        model_channels=64,
        channel_mult=[1],
        num_res_blocks=1,
        attention_resolutions=[1],
        num_head_channels=32,
        context_dim=24,
        vector_dim=48,
    ),
    autoencoder=AutoencoderConfig(channels=32, channel_mult=[1, 2]),
    image_encoder=ImageEncoderConfig(width=32, layers=1, heads=2, patch_size=56, output_dim=24),
    sampling=SamplingConfig(num_frames=3, height=16, width=24, sigma_max=80.0),
)
RNG = np.random.default_rng(5)
CLIPS = [
    Clip(RNG.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8), fps=fps, motion_bucket_id=bucket, path="")
    for fps, bucket in ((8, 127), (23.5, 30), (7, 200))
]
SAMPLES = [3, 8, 5]
SIGMAS = [((80 ** (1 / 7)) + i / 5 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(6)] + [0.0]
"""Six levels, and 0."""
CASES = {
    "default": (0, ConsistencyConfig(levels=6)),
    "heun": (1, ConsistencyConfig(levels=6, skip=2, solver="heun", guidance_first=[1.5, 1.5])),
    "l2 without guidance": (
        1,
        ConsistencyConfig(levels=6, distance="l2", weighting=1.0, guidance_first=[1, 1], guidance_last=[1, 1]),
    ),
}


def denoised(unet, x, sigma, context, concat, ids):
    """D(x; sigma) of SVD at each clip's level; at 0 it is x."""
    s = torch.from_numpy(sigma).view(-1, 1, 1, 1, 1)
    safe = s.clamp(min=0.002)
    x_in = torch.cat([(x / (safe**2 + 1).sqrt()).float(), concat], 2)
    f = unet(x_in, (0.25 * safe.flatten().log()).float(), context, added_time_ids=ids).sample
    return (x / (s**2 + 1) - s / (s**2 + 1).sqrt() * f).float()


@torch.no_grad()
def target_of(c, unets, x, sigma, ends, scale, context, concat, ids):
    """The teacher's solver with guidance, and the average at its end."""
    s, e = (torch.from_numpy(level).view(-1, 1, 1, 1, 1) for level in (sigma, ends))
    w = torch.from_numpy(scale)[:, :, None, None, None]

    def slope(x, sigma):
        cond = denoised(unets["teacher"], x, sigma, context, concat, ids)
        without = torch.zeros_like(context), torch.zeros_like(concat)
        uncond = denoised(unets["teacher"], x, sigma, *without, ids)
        return (x - (uncond + w * (cond - uncond))) / torch.from_numpy(sigma).view(-1, 1, 1, 1, 1)

    first = slope(x, sigma)
    x_next = x + first * (e - s)
    if c.solver == "heun":
        second = slope(x_next.float(), np.maximum(ends, 0.002))
        x_next = torch.where(e > 0, x + (first + second) / 2 * (e - s), x_next)
    return denoised(unets["target"], x_next.float(), ends, context, concat, ids)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """PyTorch's three UNets, our config, and our checkpoint of the teacher's weights."""
    import torch_models  # needs torch

    folder = tmp_path_factory.mktemp("consistency")
    pipeline = torch_models.torch_pipeline(CONFIG)
    source, config = torch_models.save(pipeline, CONFIG, folder)
    teacher = torch_models.with_one_epsilon(pipeline.unet)
    unets = {"teacher": teacher, "student": copy.deepcopy(teacher), "target": copy.deepcopy(teacher)}
    return unets, config, convert(source, config, folder / "converted")


class Gradients(nn.Cell):
    """The task's loss and its gradients, compiled as one."""

    def __init__(self, objective):
        super().__init__(auto_prefix=False)
        self.run = ms.value_and_grad(objective.loss, None, ParameterTuple(list(objective.trained.values())))

    def construct(self, *inputs):
        return self.run(*inputs)


def build(files, mode: int, c: ConsistencyConfig):
    """The objective of the temporal layers; student and average have other weights than the teacher, in both."""
    unets, config, checkpoint = files
    pipe = load_pipeline(config, checkpoint, device_target=DEVICE, mode=mode, amp_level=AMP_LEVEL)
    networks = {
        "network": pipe.denoiser.network,
        "conditioner.image_encoder": pipe.conditioner.image_encoder,
        "conditioner.autoencoder.encoder": pipe.conditioner.encoder,
        "autoencoder.encoder": pipe.autoencoder.encoder,
    }
    train = TrainConfig(VideoDataset, task="consistency", consistency=c, seed=2)
    task = find_task(train.task)
    plan = Plan(train, CONFIG, networks, task.trained(train, networks))
    objective = task.build(plan)
    parameters = list(objective.trained.values())
    average = WeightAverage(parameters, OptimizerConfig().ema_decay)
    generator = torch.Generator().manual_seed(1)
    for which, kept in (("student", parameters), ("target", average.averages)):
        start, values = dict(unets["teacher"].named_parameters()), dict(unets[which].named_parameters())
        for entry, parameter in zip(expand(DIFFUSERS, CONFIG, objective.trained), kept, strict=True):
            name = entry.theirs.removeprefix("unet.")
            noise = torch.randn(start[name].shape, generator=generator)
            values[name].data = start[name].data + 0.05 * noise
            parameter.set_data(Tensor(TRANSFORMS[entry.transform].to_ours(values[name].detach().numpy().copy())))
    objective.follow(average)
    return objective, unets


@pytest.mark.parametrize("case", CASES)
def test_target_loss_and_gradients(files, case):
    mode, c = CASES[case]
    objective, unets = build(files, mode, c)
    sigma, ends, scale = objective.draw(SAMPLES, 3)
    indices = [int(np.argmin(np.abs(np.array(SIGMAS) - value))) for value in sigma]
    np.testing.assert_allclose(sigma, [SIGMAS[i] for i in indices], rtol=1e-9)
    np.testing.assert_allclose(ends, [SIGMAS[min(i + c.skip, 6)] for i in indices], rtol=1e-9)
    assert 0 in ends and len(set(indices)) == 3, "a clip whose solver ends at 0, and two others"

    inputs = objective.inputs(CLIPS, SAMPLES)
    latents, noise, _, context, concat, _ = (
        torch.from_numpy(tensor.asnumpy()) for tensor in objective.clips.inputs(CLIPS, SAMPLES)
    )
    assert context.flatten(1).any(1).all() and concat.flatten(1).any(1).all(), "nothing is left out"
    strength = draw(objective.clips.config, 2, SAMPLES, (3, 4, 8, 12), (3, 16, 24)).aug_strength
    ids = torch.tensor([[clip.fps - 1, clip.motion_bucket_id, s] for clip, s in zip(CLIPS, strength)]).float()
    x = latents + noise * torch.from_numpy(sigma).view(-1, 1, 1, 1, 1).float()
    target = target_of(c, unets, x, sigma, ends, scale, context, concat, ids)
    assert_close(inputs[0], x, 1e-6)
    assert_close(inputs[1], target, TOLERANCE)

    student = unets["student"]
    student.zero_grad()
    difference = denoised(student, x, sigma, context, concat, ids) - target
    weight = torch.from_numpy((sigma - ends) ** -c.weighting).view(-1, 1, 1, 1, 1)
    distance = difference**2 if c.distance == "l2" else (difference**2 + 0.001**2).sqrt() - 0.001
    expected = (weight * distance).mean()
    expected.backward()

    loss, gradients = Gradients(objective)(*inputs)
    assert_close(loss, expected.float(), TOLERANCE)
    found = dict(student.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in student.parameters())
    compared, blends = 0, []
    for entry, gradient in zip(expand(DIFFUSERS, CONFIG, objective.trained), gradients, strict=True):
        value = TRANSFORMS[entry.transform].to_ours(found[entry.theirs.removeprefix("unet.")].grad.numpy())
        if value.size == 1:  # a sum over the whole feature map, most of which cancels out
            blends.append((gradient.asnumpy(), value))
        elif np.abs(value).max() > 1e-6 * largest:  # others are rounding: queries and keys over one token
            assert relative_error(gradient, value) < TOLERANCE, entry.ours
            compared += 1
    assert compared > 0.8 * (len(gradients) - len(blends)) and len(blends) > 5
    assert_close(*np.stack(blends, 1), TOLERANCE)
