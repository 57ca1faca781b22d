"""Random networks of transformers and diffusers against Stable Diffusion's of both generations, and the tokenizer.

Nothing of the references is touched: where diffusers' UNet of images has an epsilon, it is that of the authors' code.
"""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from comparison import assert_close
from foreign_weights import diffusers_names, load_foreign
from mindspore import Tensor, nn
from small_text import vocabulary_of

from svd.conditioning.text_encoder import TextEncoder
from svd.conditioning.tokenizer import Tokenizer, byte_pair_encoding
from svd.config import ImageLDMConfig, TextEncoderConfig, UNetConfig
from svd.networks.blocks.image import image_unet
from svd.networks.split import Split
from svd_tools.checkpoints.names.clip import TEXT_ENCODER
from svd_tools.checkpoints.names.text_unet import IMAGE

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

RNG = np.random.default_rng(0)


@torch.no_grad()
def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """What starts as a constant, so that it could be left out unnoticed, is spread out."""
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


# --- text towers ---

TEXT = TextEncoderConfig(vocabulary=99, tokens=11, width=32, layers=3, heads=2)


def torch_text_encoder(config: TextEncoderConfig, layers: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return randomised(
        transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=config.vocabulary,
                max_position_embeddings=config.tokens,
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=layers,
                num_attention_heads=config.heads,
                hidden_act=config.activation,
                initializer_factor=5.0,  # so that attention is not all but uniform
            )
        )
    )


@pytest.mark.parametrize("last_layers", [0, 1], ids=["all_layers", "without_the_last"])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text_encoder(mode, activation, last_layers):
    """All layers, as Stable Diffusion 1 uses them, or all but the last, as 2, with the final normalisation."""
    config = replace(TEXT, activation=activation)
    reference = torch_text_encoder(config, config.layers + last_layers)
    weights = {name.removeprefix("text_model."): value.numpy() for name, value in reference.state_dict().items()}
    weights = {f"text_model.{name}": value for name, value in weights.items()}
    unused = rf"position_ids|layers\.{config.layers}\."
    ours = load_foreign(TextEncoder(config), weights, diffusers_names(TEXT_ENCODER, config), unused)
    tokens = RNG.integers(0, config.vocabulary, (2, config.tokens)).astype(np.int32)
    with torch.no_grad():
        of_layers = reference(torch.from_numpy(tokens).long(), output_hidden_states=True).hidden_states
        expected = getattr(reference, "text_model", reference).final_layer_norm(of_layers[config.layers])
    assert_close(ours(Tensor(tokens)), expected)


# --- UNets ---

UNETS = {
    "sd1": UNetConfig(
        in_channels=4,
        model_channels=32,
        channel_mult=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[1],
        num_heads=4,
        context_dim=24,
        vector_dim=None,
        convolution_projection=True,
    ),
    "sd2": UNetConfig(
        in_channels=4,
        model_channels=32,
        channel_mult=[1, 2],
        attention_resolutions=[1, 2],
        num_head_channels=16,
        context_dim=16,
        vector_dim=None,
        upcast_attention=True,
    ),
}


def torch_unet(unet: UNetConfig) -> torch.nn.Module:
    """diffusers' UNet of these sizes; its `attention_head_dim` is the number of heads."""
    widths = tuple(mult * unet.model_channels for mult in unet.channel_mult)
    kinds = ["CrossAttn" if 2**i in unet.attention_resolutions else "" for i in range(len(widths))]
    torch.manual_seed(0)
    return randomised(
        diffusers.UNet2DConditionModel(
            in_channels=unet.in_channels,
            out_channels=unet.out_channels,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            block_out_channels=widths,
            layers_per_block=unet.num_res_blocks,
            cross_attention_dim=unet.context_dim,
            attention_head_dim=unet.num_heads or tuple(width // unet.num_head_channels for width in widths),
            use_linear_projection=not unet.convolution_projection,
            upcast_attention=unet.upcast_attention,
        )
    )


def our_unet(unet: UNetConfig, reference: torch.nn.Module) -> nn.Cell:
    config = ImageLDMConfig(unet=unet, text_encoder=TextEncoderConfig(width=unet.context_dim, heads=2))
    weights = {name: value.numpy() for name, value in reference.state_dict().items()}
    return load_foreign(image_unet(config), weights, diffusers_names(IMAGE, config))


@pytest.mark.parametrize("name", UNETS)
def test_unet(mode, name):
    """Two clips of two frames, which are images of one prompt and noise level; as a whole, or in two steps."""
    unet = UNETS[name]
    reference = torch_unet(unet)
    x, context = (
        RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 2, 4, 8, 12), (2, 7, unet.context_dim))
    )
    timesteps = np.array([3, 761], np.float32)
    repeated = [torch.from_numpy(value.repeat(2, 0)) for value in (timesteps, context)]
    with torch.no_grad():
        expected = reference(torch.from_numpy(x.reshape(4, 4, 8, 12)), *repeated).sample.numpy().reshape(x.shape)
    network, inputs = our_unet(unet, reference), [Tensor(value) for value in (x, timesteps, context)]
    if name == "sd1":
        result = network(*inputs)
    else:
        split = Split(network)
        result = split.evaluate(*inputs[:2], *split.prepare((inputs[2], None), 2, False))
    assert_close(result, expected)


# --- tokenizer ---

TEXTS = [
    "a photo of a café, naïve Ünïcode",
    "e\u0301 and n\u0303 combine",
    "日本語のテキスト 한국어 中文",
    "👩‍👩‍👧‍👦 a family 😀🏳️‍🌈",
    "control \x00\x01\x07\x1b characters\t\n\r\x85",
    "&amp;&lt;b&gt; &amp;amp; &#39; &eacute;",
    "<|startoftext|> in <|endoftext|>it <|ENDOFTEXT|>",
    "  leading and   trailing  ",
    "it's WE'LL they'd i'Ve don't 'tis",
    "1234567890 12.5% ½ Ⅷ ٣",
    "ﬁ ß ẞ İ ǅ ς Σ",
    "a\u200bb\u200d\ufeff\xa0c\u3000ＡＢＣ",
    "! !! !!! wow!!! #$%^&*()_+",
    "привет мир مرحبا हिन्दी ไทย",
    "word " * 300,
    "x" * 400,
    "",
    " ",
]


def texts(count: int) -> list[str]:
    """The texts above, mixtures of their parts, and random characters."""
    generator = random.Random(0)
    words = " ".join(TEXTS).split(" ")
    result = list(TEXTS)
    while len(result) < count:
        if len(result) % 2:
            result.append(" ".join(generator.choices(words, k=generator.randrange(1, 40))))
        else:
            codes = [generator.choice([*range(0x20, 0x250), *range(0x2000, 0x3200)]) for _ in range(40)]
            result.append("".join(map(chr, codes)))
    return result


def learned_merges(vocabulary: int) -> list[str]:
    """Merges that byte-pair encoding learns from the texts."""
    from tokenizers import trainers

    bare = vocabulary_of([])
    tokenizer = byte_pair_encoding(bare, [])
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=vocabulary, end_of_word_suffix="</w>", show_progress=False)
    )
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


@pytest.mark.skipif(not hasattr(transformers, "TokenizersBackend"), reason="transformers 4 takes files alone")
def test_tokenizer():
    merges = learned_merges(600)
    vocabulary = vocabulary_of(merges)
    assert len(merges) > 100 and len(vocabulary) == 514 + len(merges)
    ours = Tokenizer(vocabulary, merges, TextEncoderConfig(vocabulary=len(vocabulary)))
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges])
    given = texts(1000)
    expected = theirs(given, padding="max_length", truncation=True, max_length=77).input_ids
    tokens, warnings = ours(given)
    np.testing.assert_array_equal(tokens, expected)
    lengths = [len(ids) - 2 for ids in theirs(given).input_ids]
    assert len(warnings) == sum(length > 75 for length in lengths) > 10
