"""Training of models that are given text: what is drawn, what is given of captions, and what the loss is."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from small_model import fill
from small_text import SMALL_TEXT, small_tokenizer

from svd.autoencoder.encoder import Encoder
from svd.build_training import check_task
from svd.conditioning.text_encoder import TextEncoder
from svd.config import (
    AutoencoderConfig,
    ConfigError,
    ImageLDMConfig,
    ModelConfig,
    ScheduleConfig,
    TemporalConfig,
    UNetConfig,
    VideoLDMConfig,
)
from svd.config.temporal import MotionModules
from svd.data.latents_dataset import EncodedClip
from svd.data.video_dataset import Clip
from svd.diffusion.schedules import discrete_sigmas
from svd.networks.blocks.image import image_unet
from svd.training.config import LoRAConfig, LossConfig, TrainConfig
from svd.training.tasks import Plan, find_task
from svd.training.tasks.text import Captions, TextClipEncoder
from svd.training.tasks.video import draw

MODEL = ImageLDMConfig(
    unet=UNetConfig(
        in_channels=4,
        model_channels=32,
        channel_mult=[1],
        num_res_blocks=1,
        attention_resolutions=[],
        num_heads=2,
        context_dim=16,
        vector_dim=None,
    ),
    autoencoder=AutoencoderConfig(channels=32, channel_mult=[1], num_res_blocks=1, decoder="image"),
    text_encoder=SMALL_TEXT,
)
SHAPE = (3, 4, 8, 8)
CAPTIONS = ("a three", "the fast dog")


def clips(captions: tuple[str, ...] = CAPTIONS) -> list[Clip]:
    rng = np.random.default_rng(0)
    return [Clip(rng.integers(0, 256, (3, 8, 8, 3), np.uint8), 7.0, 0.0, "x", caption=text) for text in captions]


@pytest.fixture(scope="module")
def networks() -> dict:
    cells = {"network": image_unet(MODEL), "text_encoder": TextEncoder(SMALL_TEXT)}
    cells["autoencoder.encoder"] = Encoder(MODEL.autoencoder, quant_conv=True)
    return {name: fill(cell, seed) for seed, (name, cell) in enumerate(cells.items())}


def objective(networks: dict, model: ImageLDMConfig = MODEL, **options):
    train = TrainConfig(SimpleNamespace(captioned=True), task="text_to_image", **options)
    task = find_task(train.task)
    plan = Plan(train, model, networks, task.trained(train, networks), {"tokenizer": small_tokenizer().to_metadata()})
    return task.build(plan)


def test_timesteps_are_uniform():
    sigmas = discrete_sigmas(ScheduleConfig(timesteps=10))
    point = {"latents": (5, 1, 1, 1), "image": (0,), "sigmas": sigmas}
    of_clips = draw(LossConfig(), 5, list(range(4000)), **point).sigma
    of_frames = draw(LossConfig(), 5, list(range(800)), **point, by_frame=True).sigma
    for drawn, shape in ((of_clips, (4000,)), (of_frames, (800, 5))):
        values, counts = np.unique(drawn, return_counts=True)
        assert drawn.shape == shape and np.array_equal(values, sigmas)
        assert counts.min() > 330 and counts.max() < 470  # 400 each, deviation 19
    assert abs(np.corrcoef(of_frames[:, 0], of_frames[:, 1])[0, 1]) < 0.1
    np.testing.assert_array_equal(draw(LossConfig(), 5, [70, 3], **point).sigma, of_clips[[70, 3]])
    assert (draw(LossConfig(), 6, list(range(99)), **point).sigma != of_clips[:99]).any()


@pytest.mark.parametrize("preconditioning", ["vp_eps", "vp_v"])
def test_the_loss_is_the_mean_square_of_what_the_network_predicts(mode, networks, preconditioning):
    """Written in alpha_bar, as DDPM has it; frames have timesteps of their own."""
    task = objective(networks, replace(MODEL, preconditioning=preconditioning), loss=LossConfig(drop_context=0))
    inputs = task.inputs(clips(), [4, 9])
    latents, noise, coefficients, context = (x.asnumpy() for x in inputs)
    assert latents.shape == noise.shape == (2, *SHAPE) and coefficients.shape == (6, 2, 3)
    sigma = draw(task.config, 0, [4, 9], SHAPE, (0,), True, task.sigmas).sigma
    alpha_bar = (1 / (1 + sigma**2))[..., None, None, None]
    x = np.sqrt(alpha_bar) * latents + np.sqrt(1 - alpha_bar) * noise
    timesteps = np.searchsorted(task.sigmas, sigma).astype(np.float32)
    assert len(np.unique(timesteps)) > 3 and timesteps.max() < 1000
    predicted = networks["network"](Tensor(x.astype(np.float32)), Tensor(timesteps), Tensor(context), None, True)
    target = noise if preconditioning == "vp_eps" else np.sqrt(alpha_bar) * noise - np.sqrt(1 - alpha_bar) * latents
    assert_close(task.loss(*inputs), np.float32(np.mean((predicted.asnumpy() - target) ** 2)), 2e-5)


def test_captions_are_dropped_for_the_empty_prompt(eager, networks):
    tokenizer, encoder = small_tokenizer(), networks["text_encoder"]
    tokens, _ = tokenizer([CAPTIONS[0], "", CAPTIONS[1]])
    embedded = np.concatenate([encoder(Tensor(row[None])).asnumpy() for row in tokens])
    keep = np.array([True, False])
    given = Captions(tokenizer)(clips(), keep).asnumpy()
    assert given.dtype == np.int32
    np.testing.assert_array_equal(given, tokens[:2])
    np.testing.assert_array_equal(Captions(tokenizer, encoder)(clips(), keep).asnumpy(), embedded[:2])
    dropped = objective(networks, loss=LossConfig(drop_context=1)).inputs(clips(), [0, 1])[3].asnumpy()
    np.testing.assert_array_equal(dropped, embedded[[1, 1]])
    with pytest.warns(UserWarning, match="a prompt of 40 tokens is cut after 10: .*others are not told"):
        Captions(tokenizer)(clips(("a " * 40, "the " * 40)), np.array([True, True]))


def test_encoded_clips_say_the_same(eager, networks):
    """From embeddings, or from tokens, for a text encoder that is trained, and for one that is not."""
    tokenizer, encoder, keep = small_tokenizer(), networks["text_encoder"], np.array([True, False])
    of_image = networks["autoencoder.encoder"]
    tokens, embeddings = Captions(tokenizer), Captions(tokenizer, encoder)
    for captions in (tokens, embeddings):
        encode = TextClipEncoder(captions, of_image)
        cached: list[EncodedClip] = [encode(clip, sample) for sample, clip in enumerate(clips())]
        assert cached[0].moments.dtype == np.float16 and cached[0].moments.shape == (3, 8, 8, 8)
        assert cached[0].concat is None and (cached[0].context is None) == (captions is tokens)
        if captions is tokens:
            assert encode.empty_prompt is None and cached[0].tokens.dtype == np.int32
            np.testing.assert_array_equal(tokens(cached, keep).asnumpy(), tokens(clips(), keep).asnumpy())
            result = embeddings(cached, keep)
        else:
            result = Captions(None, empty_prompt=encode.empty_prompt)(cached, keep)
        assert_close(result, embeddings(clips(), keep), 1e-6 if captions is tokens else 1e-3)


def test_the_text_encoder_is_trained_along(eager, networks):
    """Then captions are tokens, and both networks' parameters have names of their own."""
    alone = objective(networks, loss=LossConfig(drop_context=0))
    cells = {"network": fill(image_unet(MODEL), 0), "text_encoder": fill(TextEncoder(SMALL_TEXT), 1)}
    cells["autoencoder.encoder"] = networks["autoencoder.encoder"]
    both = objective(cells, text_encoder=True, loss=LossConfig(drop_context=0))
    of_text = {f"text_encoder.{parameter.name}" for parameter in networks["text_encoder"].get_parameters()}
    assert set(both.trained) - set(alone.trained) == of_text
    assert [parameter.name for parameter in both.trained.values()] == list(both.trained)
    inputs = both.inputs(clips(), [4, 9])
    assert inputs[3].asnumpy().dtype == np.int32
    assert_close(both.loss(*inputs), alone.loss(*alone.inputs(clips(), [4, 9])), 1e-6)


@pytest.mark.parametrize(
    ("task", "model", "options", "message"),
    [
        ("text_to_image", ModelConfig(), {}, "is for models of the kind image_ldm or video_ldm, and this one is svd"),
        ("text_to_video", MODEL, {}, "is for models of the kind video_ldm, and this one is image_ldm"),
        ("image_to_video", MODEL, {}, "is for models of the kind svd, and this one is image_ldm"),
        ("text_to_image", MODEL, {"captioned": False}, "there are none: a CSV file needs a column caption"),
        ("text_to_image", MODEL, {"loss": LossConfig(p_mean=0)}, "for the task image_to_video or image_model, not"),
        (
            "text_to_image",
            MODEL,
            {"temporal_only": False},
            "prediction or interpolation or temporal_decoder or pixels or upsampling, ",
        ),
        ("text_to_video", VideoLDMConfig(), {"text_encoder": True}, "it is for the task text_to_image, not"),
        ("text_to_image", MODEL, {"text_encoder": True, "lora": LoRAConfig(rank=2)}, "adapters .* alone"),
        (
            "text_to_video",
            VideoLDMConfig(temporal=TemporalConfig(motion_modules=MotionModules(max_frames=24))),
            {"frames": 25},
            "clips of 25 frames are longer than the 24 that temporal layers have positions for",
        ),
    ],
)
def test_what_is_refused(task, model, options, message):
    data = SimpleNamespace(captioned=options.pop("captioned", True), frames=options.pop("frames", 16))
    with pytest.raises(ConfigError, match=message):
        check_task(TrainConfig(data, task=task, **options), model)
