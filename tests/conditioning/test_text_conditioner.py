"""The conditioning of text: which prompt, which encoder, and what stands for none."""

import numpy as np
import pytest
from mindspore import Tensor
from small_text import VOCABULARY, small_tokenizer

from svd.conditioning.conditioning import Labels
from svd.conditioning.text_conditioner import TextConditioner
from svd.config import ConfigError, TemporalConfig, UNetConfig, VideoLDMConfig, VideoLDMLayers

PROMPTS = ["a cat", "the dog"]


def encoder(sign: int):
    """A stand-in: tokens [1 n] -> [1 n 1], the tokens themselves."""

    def encode(tokens: Tensor) -> Tensor:
        assert tokens.shape[0] == 1
        return Tensor(sign * tokens.asnumpy()[..., None].astype(np.float32))

    return encode


@pytest.fixture
def conditioner() -> TextConditioner:
    return TextConditioner(encoder(1), small_tokenizer())


def second(context: Tensor) -> list[int]:
    """The tokens after the starts."""
    return context.asnumpy()[:, 1, 0].astype(int).tolist()


def test_every_clip_has_its_prompt(conditioner):
    conditioning = conditioner(PROMPTS)
    assert conditioning.context.shape == (2, 12, 1)
    assert second(conditioning.context) == [VOCABULARY["a</w>"], VOCABULARY["the</w>"]]
    assert conditioning.vector is conditioning.concat is conditioning.temporal_context is None


def test_without_a_negative_prompt_the_empty_one_is_encoded(conditioner):
    cond, uncond = conditioner.pair(PROMPTS)
    assert second(cond.context) == second(conditioner(PROMPTS).context)
    np.testing.assert_array_equal(uncond.context.asnumpy(), conditioner(["", ""]).context.asnumpy())


def test_negative_prompts(conditioner):
    _, uncond = conditioner.pair(PROMPTS, ["fast", ""])
    np.testing.assert_array_equal(uncond.context.asnumpy(), conditioner(["fast", ""]).context.asnumpy())
    with pytest.raises(ConfigError, match="negative_prompts must be as many as prompts, got 1 for 2"):
        conditioner.pair(PROMPTS, ["fast"])


def test_temporal_layers_may_have_an_encoder_of_their_own():
    cond, uncond = TextConditioner(encoder(1), small_tokenizer(), encoder(-1)).pair(PROMPTS)
    for conditioning in (cond, uncond):
        np.testing.assert_array_equal(conditioning.temporal_context.asnumpy(), -conditioning.context.asnumpy())


def labels(layers: VideoLDMLayers) -> Labels:
    """Of four sinusoids each: a configuration has at least 32."""
    unet = UNetConfig(in_channels=4, context_dim=768, vector_dim=None)
    result = Labels(VideoLDMConfig(unet=unet, temporal=TemporalConfig(video_ldm=layers)))
    result.dim = 4
    return result


def sinusoids(*numbers: float) -> np.ndarray:
    """Cosines first; [n 4]"""
    angles = np.array(numbers)[:, None] / [1, 100]
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


def test_frame_rates():
    """As sinusoids; one for all, or one for each clip."""
    conditioner = TextConditioner(encoder(1), small_tokenizer(), labels=labels(VideoLDMLayers(fps=True)))
    expected = sinusoids(8, 25)
    np.testing.assert_allclose(conditioner(PROMPTS, [8, 25]).vector.asnumpy(), expected, atol=1e-6)
    for conditioning in conditioner.pair(PROMPTS, fps=8):
        np.testing.assert_allclose(conditioning.vector.asnumpy(), expected[[0, 0]], atol=1e-6)


def test_labels():
    """Frame rate, motion bucket, and the number of the nearest rate by ratio: 4 is nearer to 2 than to 9."""
    told = labels(VideoLDMLayers(fps=True, motion=True, rates=[2, 9]))
    result = told(3, [2, 4, 9], [100, 0, 255]).asnumpy()
    expected = np.concatenate([sinusoids(2, 4, 9), sinusoids(100, 0, 255), sinusoids(0, 0, 1)], 1)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert labels(VideoLDMLayers())(3, 2, 100) is None


def test_cut_prompts_are_warned_of(conditioner):
    with pytest.warns(UserWarning, match="a prompt of 20 tokens is cut after 10"):
        conditioner(["a " * 20])
