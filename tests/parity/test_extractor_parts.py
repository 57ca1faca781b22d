"""What the extractors are made of, and CLIP's similarity, against PyTorch and transformers."""

import math

import numpy as np
import pytest
from comparison import assert_close
from foreign_weights import load_foreign
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters
from small_text import SMALL_TEXT, small_tokenizer

from svd.checkpoints.formats import TOKENIZER
from svd.config import ImageEncoderConfig
from svd.metrics.clip_similarity import Clip, ClipSimilarity, prepared
from svd.metrics.i3d import cropped
from svd.metrics.inception import AveragePool
from svd.metrics.resizing import bilinear
from svd.metrics.volumes import Conv3d, MaxPool3d, same_padding
from svd_tools.checkpoints.names.extractors import CLIP_TOWERS
from svd_tools.checkpoints.tables import TRANSFORMS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
F = torch.nn.functional
RNG = np.random.default_rng(0)


def volume(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def padded(x, kernel, stride):
    """TensorFlow's SAME around [b c t h w], axis by axis."""
    sides = [same_padding(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride)]
    return F.pad(x, [side for axis in sides[::-1] for side in axis])


@pytest.mark.parametrize("kernel, stride, size", [(7, 2, (7, 10, 13)), (3, 1, (4, 5, 6)), (1, 1, (2, 3, 3))])
def test_a_convolution_over_volumes(mode, kernel, stride, size):
    layer, x = Conv3d(3, 4, kernel, stride), volume(2, size[0], 3, *size[1:])
    weights, bias = volume(4, 3, kernel, kernel, kernel), volume(4)
    layer.conv.weight.set_data(Tensor(np.ascontiguousarray(TRANSFORMS["over_time"].to_ours(weights))))
    layer.conv.bias.set_data(Tensor(bias))
    expected = F.conv3d(padded(torch.tensor(x).transpose(1, 2), (kernel,) * 3, (stride,) * 3), torch.tensor(weights),
                        torch.tensor(bias), stride)  # fmt: skip
    assert_close(layer(Tensor(x)), expected.transpose(1, 2))


@pytest.mark.parametrize("kernel, stride, at_end", [
    ((1, 3), (1, 2), False), ((3, 3), (2, 2), False), ((2, 2), (2, 2), False), ((3, 3), (1, 1), False),
    ((2, 2), (2, 2), True), ((1, 2), (1, 2), True),
])  # fmt: skip
def test_a_pool_over_volumes(mode, kernel, stride, at_end):
    x = np.abs(volume(2, 5, 3, 7, 9))
    kernels, strides = ((of[0], of[1], of[1]) for of in (kernel, stride))
    value = torch.tensor(x).transpose(1, 2)
    if not at_end:
        value = padded(value, kernels, strides)
    expected = F.max_pool3d(value, kernels, strides, ceil_mode=at_end).transpose(1, 2)
    assert_close(MaxPool3d(kernel, stride, at_end)(Tensor(x)), expected, 1e-7)


def test_an_average_without_the_padding(mode):
    x = volume(2, 3, 5, 4)
    assert_close(AveragePool()(Tensor(x)), F.avg_pool2d(torch.tensor(x), 3, 1, 1, count_include_pad=False), 1e-6)


@pytest.mark.parametrize("size", [(224, 224), (30, 71), (299, 5), (8, 8)])
@pytest.mark.parametrize("corners", [False, True])
def test_bilinear_is_pytorchs(size, corners):
    x = volume(2, 3, 48, 61)
    expected = F.interpolate(torch.tensor(x), size, mode="bilinear", align_corners=corners)
    assert_close(bilinear(x, *size, corners), expected, 2e-5)


@pytest.mark.parametrize("height, width", [(96, 128), (130, 81), (64, 64), (49, 49)])
def test_the_crop_is_videogpts(height, width):
    """49 pixels: 49 x (224 / 49) is more than 224 by rounding, and so it resizes to 225."""
    frames = RNG.integers(0, 256, (1, 2, height, width, 3), dtype=np.uint8)
    x, scale = torch.tensor(frames[0]).permute(0, 3, 1, 2).float() / 255, 224 / min(height, width)
    size = (224, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), 224)
    x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    top, left = (x.shape[2] - 224) // 2, (x.shape[3] - 224) // 2
    assert_close(cropped(frames)[0], (x[:, :, top : top + 224, left : left + 224] - 0.5) * 2, 2e-5)


@pytest.fixture(scope="module")
def reference():
    text = {
        "vocab_size": SMALL_TEXT.vocabulary, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 12, "eos_token_id": SMALL_TEXT.vocabulary - 1,
        "bos_token_id": SMALL_TEXT.vocabulary - 2, "pad_token_id": SMALL_TEXT.vocabulary - 1,
    }  # fmt: skip
    vision = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


IMAGE = ImageEncoderConfig(width=24, layers=2, heads=3, patch_size=8, image_size=32, output_dim=20)


def clip_names(name: str) -> tuple[str, str]:
    theirs, transform = CLIP_TOWERS.translate(name, "diffusers", None)
    return theirs.removeprefix("."), transform


def test_similarity_of_clips_and_texts(mode, reference):
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    clip = load_foreign(Clip(IMAGE, SMALL_TEXT), state, clip_names, unused="logit_scale|position_ids")
    metadata = {TOKENIZER: small_tokenizer().to_metadata()}
    clips, texts = RNG.integers(0, 256, (2, 3, 40, 52, 3), dtype=np.uint8), ["a cat and the dog", "seven"]
    result = ClipSimilarity(clip, metadata, SMALL_TEXT, 32)(clips, texts)
    tokens, _ = small_tokenizer()(texts)
    pixels = torch.tensor(prepared(clips.reshape(6, 40, 52, 3), 32))
    with torch.no_grad():
        output = reference(input_ids=torch.tensor(tokens).long(), pixel_values=pixels)
        cosines = output.logits_per_image / reference.logit_scale.exp()
    expected = [cosines[:3, 0].mean(), cosines[3:, 1].mean()]
    assert result == pytest.approx(np.array(expected), abs=2e-5)


def test_all_names_of_the_published_clip_are_placed():
    with torch.device("meta"):
        state = transformers.CLIPModel(transformers.CLIPConfig()).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    with no_init_parameters():
        clip = Clip()
    ours = {}
    for parameter in clip.get_parameters():
        theirs, transform = clip_names(parameter.name)
        ours[theirs] = TRANSFORMS[transform].shape(tuple(parameter.shape))
    others = {"logit_scale", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"}
    assert {name: shape for name, shape in shapes.items() if name not in others} == ours
