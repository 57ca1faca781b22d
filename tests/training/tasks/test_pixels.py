"""Training of models in pixel space: what is drawn, what the loss is, what dropout leaves out, what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE
from mindspore import Tensor
from safetensors.numpy import save_file
from small_model import fill

from svd import runtime
from svd.build_training import check_task
from svd.config import VideoDiffusionConfig
from svd.config.pixel_networks import FactorisedAttention, LucidrainsConfig, PixelTemporalConfig, PixelUNetConfig
from svd.config.pixel_networks import PixelVideoLDMLayers as VideoLDM
from svd.data.clips_with_images import ClipsWithImages
from svd.data.latents_dataset import LatentsDataset
from svd.data.video_dataset import Clip
from svd.diffusion.ancestral import cosine_beta_sigmas
from svd.errors import ConfigError
from svd.models.video_diffusion import build_network
from svd.training.config import TrainConfig
from svd.training.tasks.pixels import Embeddings, PixelObjective

UNET = PixelUNetConfig(1, 32, [1, 2], 1, [2], num_head_channels=16)
VIDEO = VideoDiffusionConfig(UNET, PixelTemporalConfig(FactorisedAttention(distance=3)))
IMAGE = replace(VIDEO, temporal=PixelTemporalConfig())
LUCIDRAINS = VideoDiffusionConfig(
    lucidrains=LucidrainsConfig(1, 8, [1, 2], 2, 8), preconditioning="cosine_eps", timesteps=10
)
RNG = np.random.default_rng(0)
CLIPS = [Clip(RNG.integers(0, 256, (3, 8, 8, 3), np.uint8), 8.0, 0.0, "") for _ in range(2)]


def objective(model: VideoDiffusionConfig, network=None, **options) -> PixelObjective:
    network = fill(build_network(model)) if network is None else network
    return PixelObjective(network, model, {p.name: p for p in network.get_parameters()}, **options)


@pytest.mark.parametrize("model", [VIDEO, LUCIDRAINS], ids=["continuous", "discrete"])
def test_times_are_uniform(model):
    task = objective(model, fill(build_network(IMAGE)))
    drawn = np.array([task.sigma(sample, 3) for sample in range(2000)])
    assert drawn.shape == (2000,)
    if model is VIDEO:
        assert abs(np.log(drawn)).max() < 10.001
        counts, _ = np.histogram(2 / np.pi * np.arctan(drawn), 10, (0, 1))
    else:
        levels, counts = np.unique(drawn, return_counts=True)
        np.testing.assert_allclose(levels, cosine_beta_sigmas(10))
    assert counts.min() > 150 and counts.max() < 250  # 200 each, deviation 13


def test_images_have_times_of_their_own():
    network = fill(build_network(VIDEO))
    joint = objective(VIDEO, network, images=2).sigma(7, 5)
    assert (joint[:3] == joint[0]).all() and len(np.unique(joint)) == 3
    assert len(np.unique(objective(IMAGE, network).sigma(7, 5))) == 5
    assert objective(VIDEO, network).sigma(7, 5) == joint[0]
    assert objective(VIDEO, network, seed=1).sigma(7, 5) != joint[0]


def test_inputs_do_not_depend_on_the_batch():
    task = objective(VIDEO, dropout=0.5)
    both, alone = task.inputs(CLIPS, [4, 9]), task.inputs(CLIPS[1:], [9])
    for whole, part in zip(both, alone):
        array = whole.asnumpy()
        np.testing.assert_array_equal(array[:, 1:] if array.shape[0] == 6 else array[1:], part.asnumpy())
    grey = np.stack([clip.frames for clip in CLIPS]).mean(-1) / 127.5 - 1
    np.testing.assert_allclose(both[0].asnumpy()[:, :, 0], grey, atol=1e-5)


@pytest.mark.parametrize(
    "model", [replace(IMAGE, preconditioning="log_snr_eps"), LUCIDRAINS], ids=["images", "lucidrains"]
)
def test_the_loss_is_the_mean_square_of_the_noise(eager, model):
    """That of v is compared with PyTorch's."""
    task = objective(model)
    frames, noise, coefficients = (x.asnumpy() for x in task.inputs(CLIPS, [4, 9]))
    sigma, c_noise = coefficients[0].astype(np.float64), coefficients[4]
    assert sigma.shape == ((2, 3) if model is not LUCIDRAINS else (2,))
    by_frame = sigma.reshape(2, -1, 1, 1, 1)
    z = (frames + by_frame * noise) / np.sqrt(1 + by_frame**2)
    predicted = task.network(Tensor(z.astype(np.float32)), Tensor(c_noise)).asnumpy()
    loss = task.loss(*task.inputs(CLIPS, [4, 9]))
    assert_close(loss, np.float32(np.mean((predicted - noise) ** 2)), 1e-4)
    if model is LUCIDRAINS:
        np.testing.assert_allclose(cosine_beta_sigmas(10)[np.round(c_noise).astype(int)], sigma, rtol=1e-5)


def test_text_is_given_as_the_embeddings_of_captions(eager, tmp_path):
    model = replace(VIDEO, unet=replace(UNET, context_dim=8))
    stored = {name: RNG.standard_normal((2, 8)).astype(np.float16) for name in ("", "three and 7")}
    save_file(stored, tmp_path / "embeddings.safetensors")
    path = str(tmp_path / "embeddings.safetensors")
    clips = [replace(clip, caption="three and 7") for clip in CLIPS]
    task = objective(model, embeddings=Embeddings(path, 8), drop_context=0.5)
    shares = [task.inputs(clips[:1], [sample])[3].asnumpy()[0] for sample in range(40)]
    given = [np.array_equal(text, stored["three and 7"].astype(np.float32)) for text in shares]
    assert 10 < sum(given) < 30
    assert all(known or np.array_equal(text, stored[""].astype(np.float32)) for known, text in zip(given, shares))
    inputs = objective(model, task.network, embeddings=Embeddings(path, 8)).inputs(clips, [4, 9])
    without = objective(model, task.network, embeddings=Embeddings(path, 8), drop_context=1).inputs(clips, [4, 9])
    assert abs(task.loss(*inputs).asnumpy() - task.loss(*without).asnumpy()) > 1e-5
    with pytest.raises(ConfigError, match=r"takes \[n 9\]"):
        Embeddings(path, 9)
    with pytest.raises(ConfigError, match="has none of the caption 'four'"):
        task.inputs([replace(CLIPS[0], caption="four")], [given.index(True)])


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    """A graph drops the same; what is told that all is kept is the network itself."""
    runtime.setup(DEVICE, 1)
    network = fill(build_network(VIDEO))
    plain = objective(VIDEO, network)
    inputs = plain.inputs(CLIPS, [4, 9])
    without = plain.loss(*inputs).asnumpy()
    dropping = objective(VIDEO, network, dropout=0.25)
    *others, kept = dropping.inputs(CLIPS, [4, 9])
    assert abs(kept.asnumpy().mean() - 0.75) < 0.01
    x, c_noise = others[0], Tensor(np.array([100.0, 500.0], np.float32))
    m = network.kept_size(3, 8, 8)
    assert kept.shape == (2, m) and m > 3 * 32 * 64
    run = [network(x, c_noise, None, None, False, None, Tensor(k)).asnumpy() for k in (
        np.ones((2, m), np.float32), np.zeros((2, m), np.float32), kept.asnumpy() / np.float32(0.75)
    )]  # fmt: skip
    assert np.abs(run[0] - run[1]).max() > 0.01 and np.abs(run[0] - run[2]).max() > 0.01
    dropped = dropping.loss(*others, kept).asnumpy()
    assert abs(dropped - without) > 1e-4
    starts = sorted(cell.start for _, cell in network.cells_and_names() if hasattr(cell, "STRIDE"))
    assert len(starts) == 8 + 2 * 4 == len(set(starts))  # residual blocks, and attention of either kind
    runtime.setup(DEVICE, 0)
    assert_close(dropping.loss(*others, kept), dropped, 1e-5)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (IMAGE, {}, "no temporal layers: give train.temporal_only=false"),
        (replace(VIDEO, unet=replace(UNET, context_dim=8)), {}, "give train.embeddings"),
        (VIDEO, {"embeddings": "x"}, "train.embeddings is for models that are given text"),
        (VIDEO, {"loss": {"drop_context": 0.3}}, "train.loss.drop_context is for models that are given text"),
        (replace(LUCIDRAINS, lucidrains=replace(LUCIDRAINS.lucidrains, cond_dim=4)), {}, "lucidrains.cond_dim"),
        (replace(VIDEO, unet=replace(UNET, channels=4)), {}, "those of the model have 4"),
        (LUCIDRAINS, {"dropout": 0.1}, "not for lucidrains"),
        (VIDEO, {"dropout": 1.0}, "train.dropout is a rate"),
        (VIDEO, {"task": "text_to_video"}, "is for models of the kind video_ldm"),
        (VIDEO, {"loss": {"p_mean": 3}}, "train.loss.p_mean"),
    ],
)
def test_what_cannot_be_trained_is_refused(model, settings, message):
    from svd.training.config import LossConfig

    if "loss" in settings:
        settings = {"loss": LossConfig(**settings["loss"])}
    with pytest.raises(ConfigError, match=message):
        check_task(TrainConfig(SimpleNamespace(frames=3), **{"task": "pixels", **settings}), model)


def test_data_that_a_model_cannot_learn_from_are_refused():
    images, latents = ClipsWithImages.__new__(ClipsWithImages), LatentsDataset.__new__(LatentsDataset)
    reference = replace(VIDEO, temporal=PixelTemporalConfig(FactorisedAttention(distance=3, reference=True)))
    for model, data, message in (
        (replace(VIDEO, temporal=PixelTemporalConfig(video_ldm=VideoLDM())), images, "which can hide images"),
        (LUCIDRAINS, images, "which can hide images"),
        (VIDEO, latents, "learns from videos, not from latents"),
        (reference, SimpleNamespace(frames=3), "clips must have 4 frames"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_task(TrainConfig(data, task="pixels"), model)
    check_task(TrainConfig(images, task="pixels", dropout=0.1), VIDEO)
