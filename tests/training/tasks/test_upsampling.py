"""The task of upsamplers: patches, their noise, what is trained, and runs that continue."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparison import assert_close
from device import eagerly
from mindspore import Tensor
from safetensors.numpy import load_file
from small_model import fill
from small_upsampler import SMALL_IMAGES, SMALL_UPSAMPLER, write_upsampler
from training_runs import assert_same, checkpoint, options, tensors, train_here
from training_videos import write_training_videos

from svd.build import build_networks
from svd.config import AutoencoderConfig, LowResolutionConfig, dump_config
from svd.data.video_dataset import Clip
from svd.diffusion.schedules import discrete_sigmas
from svd.layers.marks import temporal_parameters
from svd.training.config import TrainConfig
from svd.training.tasks import Plan
from svd.training.tasks.upsampling import UPSAMPLING, draw_patch, in_range, lowered

RNG = np.random.default_rng(0)
CLIPS = [Clip(RNG.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8), 8, 0, f"clip {i}") for i in range(3)]
LATENT = replace(
    SMALL_UPSAMPLER,
    unet=replace(SMALL_UPSAMPLER.unet, in_channels=7, out_channels=4),
    autoencoder=AutoencoderConfig(channels=32, channel_mult=[1, 1], num_res_blocks=1, decoder="image"),
)
QUIET = replace(SMALL_UPSAMPLER, low_resolution=LowResolutionConfig(2, max_noise_level=1))
MODELS = {"video": SMALL_UPSAMPLER, "images": SMALL_IMAGES, "latents": LATENT}


def build(name: str, **settings):
    """(objective, plan) of a model."""
    train = TrainConfig(dataset=None, **settings)
    networks = build_networks(MODELS[name])
    for network in networks.values():
        fill(network)
    plan = Plan(train, MODELS[name], networks, UPSAMPLING.trained(train, networks))
    return UPSAMPLING.build(plan), plan


def test_patches_are_anywhere_on_the_grid_of_low_resolution_pixels():
    """So that a patch's low-resolution version is a patch of the whole frame's."""
    train, places = TrainConfig(dataset=None), set()
    whole = lowered(CLIPS[0].frames, 2)
    for sample in range(200):
        patch = draw_patch(CLIPS[0], sample, 8, SMALL_UPSAMPLER, train)
        assert patch.frames.shape == (3, 8, 8, 3) and patch.noise.shape == (3, 3, 8, 8)
        found = [
            (y, x)
            for y in range(5)
            for x in range(9)
            if np.array_equal(CLIPS[0].frames[:, 2 * y : 2 * y + 8, 2 * x : 2 * x + 8], patch.frames)
        ]
        ((y, x),) = found
        assert np.array_equal(lowered(patch.frames, 2), whole[:, y : y + 4, x : x + 4])
        places.add((y, x))
        assert not draw_patch(CLIPS[0], sample, 8, QUIET, train).levels.any()
        assert patch.levels.min() >= 0 and patch.levels.max() < 350 and patch.timesteps.max() < 1000
    assert {y for y, _ in places} == set(range(5)) and {x for _, x in places} == set(range(9))


@pytest.mark.parametrize("name", MODELS)
def test_inputs_are_of_their_sample_alone(eager, name):
    objective, _ = build(name, patch_size=8)
    together = objective.inputs(CLIPS, [4, 5, 6])
    alone = [objective.inputs([clip], [sample]) for clip, sample in zip(CLIPS, (4, 5, 6))]
    for i, value in enumerate(together):
        axis = 1 if i == 2 else 0  # coefficients are [6 b]
        joined = np.concatenate([inputs[i].asnumpy() for inputs in alone], axis)
        np.testing.assert_allclose(value.asnumpy(), joined, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_v_given_what_the_pipeline_gives(mode, name):
    """|F - v|^2 of the network at x = sqrt(a) x0 + sqrt(1 - a) n, and the noisy low-resolution frames beside it."""
    if mode == 0 and name != "video":
        pytest.skip("compiles nothing that the video model's does not")
    objective, plan = build(name, patch_size=8)
    model, samples = plan.model, [7, 8]
    inputs = objective.inputs(CLIPS[:2], samples)
    latents, _, _, context, concat, vector = inputs
    patches = [draw_patch(*pair, 8, model, plan.train) for pair in zip(CLIPS, samples)]
    images = model.temporal is None
    steps = np.stack([patch.timesteps if images else patch.timesteps[:1] for patch in patches]).reshape(-1)
    alpha_bar = 1 / (1 + discrete_sigmas(model.schedule) ** 2)
    a = alpha_bar[steps].reshape(-1, 1, 1, 1, 1)
    noise = np.stack([patch.noise for patch in patches]).reshape(latents.shape)
    x0 = latents.asnumpy()
    if name != "latents":
        assert np.array_equal(x0.reshape(2, 3, 3, 8, 8), np.stack([in_range(patch.frames) for patch in patches]))
    x = np.sqrt(a) * x0 + np.sqrt(1 - a) * noise
    given = np.concatenate([x, concat.asnumpy()], 2).astype(np.float32)
    loss = objective.loss(*inputs)
    with eagerly():
        network = plan.networks["network"]
        predicted = network(Tensor(given), Tensor(steps.astype(np.float32)), context, vector, images).asnumpy()
    expected = np.mean((predicted - (np.sqrt(a) * noise - np.sqrt(1 - a) * x0)) ** 2)
    assert_close(loss, np.float32(expected), 1e-4)
    low = in_range(lowered(patches[1].frames, 2))
    seen = objective.conditioner.noised(low[:1], patches[1].low_noise[:1], patches[1].levels[0])
    assert np.array_equal(concat.asnumpy().reshape(2, 3, 3, *seen.shape[2:])[1, 0], seen[0])


def test_temporal_layers_are_trained_or_all(eager):
    for name, settings, alone in (
        ("video", {}, True),
        ("video", {"temporal_only": False}, False),
        ("images", {}, False),
    ):
        objective, plan = build(name, **settings)
        network = plan.networks["network"]
        expected = temporal_parameters(network) if alone else list(network.get_parameters())
        assert [id(p) for p in objective.trained.values()] == [id(p) for p in expected]
        learned = {id(p) for p in expected}
        assert all(p.requires_grad == (id(p) in learned) for p in network.get_parameters())


# --- by the program ---


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_upsampler(folder / "tiny.safetensors")
    (folder / "tiny.yaml").write_text(dump_config(SMALL_UPSAMPLER))
    (folder / "videos").mkdir()
    write_training_videos(folder / "videos")
    return folder


def flags(inputs: Path, run: Path, *more: str) -> list[str]:
    return [
        *options(inputs, run),
        "--train.task=upsampling",
        "--train.patch_size=4",
        "--train.checkpoint_every=2",
        *more,
    ]


def test_a_run_that_was_stopped_continues_to_the_same_weights(inputs, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    outcome = train_here(*flags(inputs, whole, "--train.updates=4"))
    assert outcome.code == 0 and outcome.err[-1].startswith("svd upsample --model.checkpoint=")
    assert train_here(*flags(inputs, parts, "--train.updates=2")).code == 0
    assert train_here(*flags(inputs, parts, "--train.updates=4", "--train.resume=auto")).code == 0
    assert_same(tensors(checkpoint(whole, 4)), tensors(checkpoint(parts, 4)))
    before, after = load_file(inputs / "tiny.safetensors"), load_file(whole / "model.safetensors")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed and all(".temporal." in name or ".blend." in name for name in changed)


@pytest.mark.parametrize(
    "more, message",
    [
        ("--train.patch_size=5", "train.patch_size must be a multiple of 2, got 5"),
        ("--train.patch_size=16", "train.patch_size 16 is larger than the clips, 8 x 8"),
        ("--train.patch_size=0", "train.patch_size must be positive"),
        ("--train.loss.drop_context=0.5", "train.loss.drop_context is of models that are given text"),
        ("--train.loss.p_mean=0", "is for the task"),
        ("--train.task=image_to_video", "this one is upsampler"),
    ],
)
def test_what_is_refused(inputs, tmp_path, more, message):
    outcome = train_here(*flags(inputs, tmp_path / "run", more))
    assert outcome.code == 2 and message in outcome.error and not (tmp_path / "run").exists()
