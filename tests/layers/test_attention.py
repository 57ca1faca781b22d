"""Attention against its formula, and the checks in front of Ascend's operator."""

import math

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE
from mindspore import Tensor, ops
from small_model import fill
from weighted import Weighted

from svd.layers.attention import Attention, FeedForward, TransformerBlock
from svd.operators import ascend, cpu, portable
from svd.operators.ascend import check_flash_attention, flash_attention
from svd.operators.library import library
from svd.placement import place

RNG = np.random.default_rng(0)


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[b l c] -> float64 [b heads l d]"""
    return x.astype(np.float64).reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def softmax_weights(q: np.ndarray, k: np.ndarray, heads: int, bias: np.ndarray | None = None) -> np.ndarray:
    """softmax(q k^T / sqrt(d) + bias), float64 [b heads l n]; a Boolean bias is a mask."""
    q, k = split_heads(q, heads), split_heads(k, heads)
    scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    if bias is not None:
        scores = np.where(bias, -np.inf, scores) if bias.dtype == bool else scores + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def softmax_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, bias=None) -> np.ndarray:
    """softmax(q k^T / sqrt(d) + bias) v in float64."""
    y = softmax_weights(q, k, heads, bias) @ split_heads(v, heads)
    return y.swapaxes(1, 2).reshape(q.shape)


def attention_gradients(dy, q, k, v, heads: int, bias: np.ndarray) -> list[np.ndarray]:
    """Of q, k and v, and of the scores [b heads l n], from that of the result."""
    shapes = [x.shape for x in (q, k, v)]
    weights = softmax_weights(q, k, heads, bias)
    dy, q, k, v = (split_heads(x, heads) for x in (dy, q, k, v))
    of_weights = dy @ v.swapaxes(2, 3)
    of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdims=True))
    scaled = of_scores / np.sqrt(q.shape[-1])
    gradients = scaled @ k, scaled.swapaxes(2, 3) @ q, weights.swapaxes(2, 3) @ dy
    return [x.swapaxes(1, 2).reshape(shape) for x, shape in zip(gradients, shapes)] + [of_scores]


def linear(layer, x: np.ndarray) -> np.ndarray:
    y = x @ layer.weight.asnumpy().astype(np.float64).T
    return y if layer.bias is None else y + layer.bias.asnumpy()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_portable_attention_is_the_formula(heads):
    q = 3 * RNG.standard_normal((2, 5, 16)).astype(np.float32)
    k, v = (RNG.standard_normal((2, 7, 16)).astype(np.float32) for _ in range(2))
    result = portable.Attention(heads)(*map(Tensor, (q, k, v)))
    assert_close(result, softmax_attention(q, k, v, heads), 2e-6)


@pytest.mark.parametrize("_mode, biased", [(0, True), (1, False), (1, True)], indirect=["_mode"])
def test_portable_attention_in_blocks_of_queries(mode, monkeypatch, biased):
    """Forward and backward, where no more than 2 of the 5 queries have room for their scores."""
    shapes = [(2, 5, 16), (2, 7, 16), (2, 7, 16)] + [(1, 2, 5, 7)] * biased
    inputs = [Tensor(RNG.standard_normal(shape).astype(np.float32)) for shape in shapes]
    weight = Tensor(RNG.standard_normal((2, 5, 16)).astype(np.float32))
    results = []
    for limit in (portable.MAX_SCORES, 2 * 2 * 2 * 7):
        monkeypatch.setattr(portable, "MAX_SCORES", limit)
        layer = portable.Attention(2)
        gradient = ms.grad(Weighted(layer), tuple(range(1, 1 + len(inputs))))
        results.append([layer(*inputs), *gradient(weight, *inputs)])
    for whole, in_blocks in zip(*results):
        assert_close(in_blocks, whole, 2e-6)


OPERATORS = {"portable": portable.Attention, "ascend": ascend.Attention}
if DEVICE == "CPU" and library() is not None:
    OPERATORS["cpu"] = cpu.Attention
BIASES = {"heads": (1, 2, 5, 7), "clips": (3, 1, 5, 7), "both": (3, 2, 5, 7), "none": (1, 1, 5, 7)}
"""What has a bias of its own."""


# In graph mode those of one kind alone: test_operators has the others.
@pytest.mark.parametrize("_mode, of", [(0, "both"), *((1, of) for of in BIASES)], indirect=["_mode"])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("masks", [False, True])
def test_attention_with_a_bias_is_the_formula(mode, operator, of, masks):
    """And its gradients; a head has more channels than there are tokens, and nothing is fused on Ascend either."""
    heads, shape = 2, BIASES[of]
    q, k, v, dy = (RNG.standard_normal((3, n, 2 * 8)).astype(np.float32) for n in (5, 7, 7, 5))
    bias = 2 * RNG.standard_normal(shape).astype(np.float32)
    if masks:
        bias = (bias > 0.5) & (np.arange(7) > 0)  # the first key is seen by all
    layer, inputs = OPERATORS[operator](heads), [Tensor(x) for x in (q, k, v, bias)]
    assert_close(layer(*inputs), softmax_attention(q, k, v, heads, bias), 2e-6)
    *expected, of_scores = attention_gradients(dy, q, k, v, heads, bias)
    if not masks:
        expected.append(of_scores.sum(tuple(i for i in range(4) if shape[i] == 1), keepdims=True))
    gradients = ms.grad(Weighted(layer), tuple(range(1, 1 + len(expected))))(Tensor(dy), *inputs)
    for result, value in zip(gradients, expected, strict=True):
        assert_close(result, value, 5e-6)


def test_nothing_masked_is_as_without_a_mask(eager):
    """Bit for bit."""
    q, k, v = (Tensor(RNG.standard_normal((2, n, 16)).astype(np.float32)) for n in (5, 7, 7))
    layer = portable.Attention(2)
    masked = layer(q, k, v, Tensor(np.zeros((1, 1, 5, 7), bool)))
    np.testing.assert_array_equal(masked.asnumpy(), layer(q, k, v).asnumpy())


def test_a_layer_with_a_causal_mask(eager):
    """No token sees those after it."""
    layer, n = fill(Attention(32, 2)), 6
    mask = Tensor(np.triu(np.ones((1, 1, n, n), bool), 1))
    x = RNG.standard_normal((2, n, 32)).astype(np.float32)
    q, k, v = (linear(part, x) for part in (layer.to_q, layer.to_k, layer.to_v))
    y = layer(Tensor(x), None, mask)
    assert_close(y, linear(layer.to_out, softmax_attention(q, k, v, 2, mask.asnumpy())), 2e-6)
    x[:, 4:] += 1
    assert_close(layer(Tensor(x), None, mask)[:, :4], y[:, :4], 1e-6)


def test_float16_attention_takes_its_softmax_in_float32(monkeypatch):
    """Seen at the operator: on CPU its float16 kernel is as exact, elsewhere it is not."""
    seen, softmax = [], ops.softmax

    def spy(scores, axis):
        seen.append(scores.dtype)
        return softmax(scores, axis)

    monkeypatch.setattr(ops, "softmax", spy)
    q, k, v = (RNG.standard_normal((2, 5, 16)).astype(np.float16) for _ in range(3))
    result = portable.Attention(2)(*map(Tensor, (q, k, v)))
    assert seen == [ms.float32] and result.dtype == ms.float16
    assert_close(result, softmax_attention(q, k, v, 2), 2e-3)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_attention_over_itself_and_over_a_context(eager, qkv_bias):
    x, context = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 32), (2, 3, 8)))
    for layer, other in (
        (Attention(32, 2, qkv_bias=qkv_bias), None),
        (Attention(32, 2, context_dim=8, qkv_bias=qkv_bias), context),
    ):
        fill(layer)
        assert (layer.to_q.bias is not None) == qkv_bias
        source = x if other is None else other
        q, k, v = linear(layer.to_q, x), linear(layer.to_k, source), linear(layer.to_v, source)
        expected = linear(layer.to_out, softmax_attention(q, k, v, 2))
        assert_close(layer(Tensor(x), None if other is None else Tensor(other)), expected, 2e-6)


def test_feed_forward_gates_by_the_exact_gelu_of_the_second_half():
    erf = np.vectorize(math.erf)
    layer = fill(FeedForward(8))
    x, h = RNG.standard_normal((2, 2, 3, 8)).astype(np.float32)
    value, gate = np.split(linear(layer.proj_in, h), 2, -1)
    expected = x + linear(layer.proj_out, value * gate * (1 + erf(gate / np.sqrt(2))) / 2)
    assert_close(layer(Tensor(x), Tensor(h)), expected, 2e-6)


@pytest.mark.parametrize("tokens", [1, 3])
def test_groups_of_a_transformer_block_attend_separately(eager, tokens):
    """Every group alone gives what all groups of both clips give together."""
    block = fill(TransformerBlock(32, 2, 8, temporal=True))
    x, context = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 4, 32), (2, tokens, 8)))

    def run(x: np.ndarray, context: np.ndarray) -> np.ndarray:
        return block(Tensor(x), block.constant(Tensor(context))).asnumpy()

    together = run(x, context)
    alone = [[run(x[b : b + 1, g : g + 1], context[b : b + 1]) for g in range(3)] for b in range(2)]
    assert_close(together, np.block([[[[y]] for y in row] for row in alone]).reshape(x.shape), 2e-6)
    assert np.abs(run(x, context[::-1].copy()) - together).max() > 0.1


def test_a_context_of_one_token_is_as_good_as_of_two_equal_ones(eager):
    """Over a single token nothing is asked of queries and keys: the result is that of attention all the same."""
    block = fill(TransformerBlock(32, 2, 8))
    x, context = (Tensor(RNG.standard_normal(shape).astype(np.float32)) for shape in ((2, 3, 4, 32), (2, 1, 8)))
    twice = ops.cat((context, context), 1)
    assert_close(block(x, block.constant(context)), block(x, block.constant(twice)), 2e-6)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
@pytest.mark.parametrize("head_dim", [16, 40, 64, 512])
def test_flash_attention_takes_16_bit_types(dtype, head_dim):
    check_flash_attention(dtype, head_dim)


@pytest.mark.parametrize(
    "dtype, head_dim, error, message",
    [
        (ms.float32, 64, TypeError, "float16 or bfloat16, got Float32"),
        (ms.float16, 528, ValueError, "head dimensions up to 512, got 528"),
    ],
)
def test_what_flash_attention_cannot_take_is_refused(dtype, head_dim, error, message):
    """By the check, and by the wrapper before it calls an operator that this device may not have."""
    with pytest.raises(error, match=message):
        check_flash_attention(dtype, head_dim)
    x = Tensor(np.zeros((1, 2, 2 * head_dim)), dtype)
    with pytest.raises(error, match=message):
        flash_attention(x, x, x, heads=2)


def test_flash_attention_is_for_ascend_in_16_bits():
    """The operator's check is the first to fail here: the choice has led to it."""
    x = Tensor(np.zeros((1, 515, 1028), np.float16))
    layer = place(fill(Attention(1028, 2)), "Ascend", ms.float16)
    with pytest.raises(ValueError, match="flash attention"):
        layer(x)
    assert place(layer, "Ascend", ms.float32)(x.astype(ms.float32)).shape == x.shape
    assert place(layer, "GPU", ms.float16)(x).shape == x.shape


@pytest.mark.parametrize(
    "shape, dtype, fused",
    [
        ((1, 1, 41, 41), bool, True),
        ((2, 1, 41, 41), bool, True),
        ((2, 2, 41, 41), bool, True),
        ((1, 2, 41, 41), bool, False),  # FlashAttentionScore takes none of heads alone
        ((2, 2, 41, 41), np.float16, False),  # a bias
    ],
)
def test_masks_go_to_flash_attention_and_biases_do_not(monkeypatch, shape, dtype, fused):
    x, seen = Tensor(RNG.standard_normal((2, 41, 64)).astype(np.float16)), []
    monkeypatch.setattr(ops, "flash_attention_score", lambda q, *_, attn_mask, **__: seen.append(attn_mask.shape) or q)
    bias = np.zeros(shape, dtype)
    ascend.Attention(2)(x, x, x, Tensor(bias))
    assert seen == ([shape[2:] if shape[:2] == (1, 1) else shape] if fused else [])
    if not fused:
        with pytest.raises(TypeError, match="no bias and no mask of its heads alone"):
            flash_attention(x, x, x, 2, Tensor(bias))


@pytest.mark.parametrize("head_dim, padded", [(40, 48), (64, 64), (160, 256)])
def test_heads_are_padded_to_what_flash_attention_takes(monkeypatch, eager, head_dim, padded):
    """The operator sees zeros behind each head and the scale of the true dimension; the result is that of attention."""
    heads, seen = 3, []

    def fused(q: Tensor, k: Tensor, v: Tensor, heads: int, attn_mask, scalar_value: float, input_layout: str) -> Tensor:
        seen.append(q.shape[-1] // heads)
        root = math.sqrt(q.shape[-1] // heads)  # the formula divides by it
        q, k, v = (x.asnumpy() for x in (q * scalar_value * root, k, v))
        return Tensor(softmax_attention(q, k, v, heads).astype(np.float16))

    monkeypatch.setattr(ops, "flash_attention_score", fused)
    q, k, v = (RNG.standard_normal((2, n, heads * head_dim)).astype(np.float16) for n in (5, 7, 7))
    result = flash_attention(*map(Tensor, (q, k, v)), heads)
    assert seen == [padded]
    assert_close(result.asnumpy(), softmax_attention(q, k, v, heads), 2e-3)


def test_scores_beyond_float16(mode):
    """They are infinite, unless they are computed in float32; on Ascend as well where attention is not fused."""
    q, v = (
        RNG.choice([-200.0, 200.0], (1, 4, 64)).astype(np.float16),
        RNG.standard_normal((1, 4, 64)).astype(np.float16),
    )
    inputs = [Tensor(x) for x in (q, q, v)]
    assert not np.isfinite(portable.Attention(1)(*inputs).asnumpy()).all()
    for upcast in (portable.Attention(1, upcast=True), ascend.Attention(1, upcast=True)):
        assert_close(upcast(*inputs), softmax_attention(q, q, v, 1), 2e-3)
