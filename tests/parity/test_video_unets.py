"""Random text-to-video UNets of diffusers against ours: AnimateDiff's motion modules and ModelScope's layers.

AnimateDiff's authors normalise every frame by itself, and in v1 residual blocks over all frames: diffusers' modules
with their normalisations replaced stand for that code.
"""

from dataclasses import replace

import numpy as np
import pytest
from comparison import assert_close
from foreign_weights import diffusers_names, load_foreign
from mindspore import Tensor

from svd.config import (
    ModelScopeLayers,
    MotionModules,
    TemporalConfig,
    TextEncoderConfig,
    UNetConfig,
    VideoLDMConfig,
)
from svd.networks.blocks.video_ldm import video_unet
from svd_tools.checkpoints.names.text_unet import MODELSCOPE, MOTION_MODULES
from svd_tools.checkpoints.tables import Table

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

CLIPS, FRAMES, HEIGHT, WIDTH = 2, 3, 4, 6
UNET = UNetConfig(
    in_channels=4,
    model_channels=32,
    channel_mult=[1, 2],
    num_res_blocks=1,
    attention_resolutions=[1],
    num_heads=4,
    context_dim=24,
    vector_dim=None,
    convolution_projection=True,
)
WIDTHS = tuple(mult * UNET.model_channels for mult in UNET.channel_mult)


@pytest.fixture
def inputs() -> tuple[np.ndarray, ...]:
    """Two clips that differ in all: latents [b t c h w], timesteps [b], text [b n d]."""
    rng = np.random.default_rng(0)
    shapes = (CLIPS, FRAMES, 4, HEIGHT, WIDTH), (CLIPS, 7, UNET.context_dim)
    x, text = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return x, np.array([951, 17], np.float32), text


@torch.no_grad()
def randomise(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """What starts as a constant is spread out: norms, biases, and layers that end a branch."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
        elif not parameter.any():
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    return network.eval()


@torch.no_grad()
def run(network: torch.nn.Module, x: np.ndarray, timesteps: np.ndarray, text: np.ndarray) -> np.ndarray:
    """A network of diffusers, which takes x as [b c t h w]."""
    x = torch.from_numpy(x.transpose(0, 2, 1, 3, 4))
    return network(x, torch.from_numpy(timesteps), torch.from_numpy(text)).sample.numpy().transpose(0, 2, 1, 3, 4)


def ours(temporal: TemporalConfig, reference: torch.nn.Module, table: Table, unet: UNetConfig = UNET):
    config = VideoLDMConfig(unet=unet, text_encoder=TextEncoderConfig(width=24, heads=2), temporal=temporal)
    weights = {name: value.numpy() for name, value in reference.state_dict().items()}
    return load_foreign(video_unet(config), weights, diffusers_names(table, config), unused=r"\.pos_embed\.")


# --- motion modules ---


class OfFrames(torch.nn.Module):
    """A normalisation of every frame of x [b c t h w] by itself."""

    def __init__(self, norm: torch.nn.GroupNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return torch.stack([self.norm(frame) for frame in x.unbind(2)], 2)


class OfClips(torch.nn.Module):
    """A normalisation over all frames of x [(b t) c h w]."""

    def __init__(self, norm: torch.nn.GroupNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        clips = x.unflatten(0, (CLIPS, FRAMES)).transpose(1, 2)
        return self.norm(clips).transpose(1, 2).flatten(0, 1)


def motion_unet(middle: bool) -> torch.nn.Module:
    from diffusers import UNetMotionModel

    network = UNetMotionModel(
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        block_out_channels=WIDTHS,
        layers_per_block=UNET.num_res_blocks,
        cross_attention_dim=UNET.context_dim,
        num_attention_heads=UNET.num_heads,
        motion_num_attention_heads=2,
        motion_max_seq_length=8,
        use_motion_mid_block=middle,
    )
    return randomise(network, seed=1)


def replace_norms(network: torch.nn.Module, ending: str, kind: type[torch.nn.Module]) -> None:
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.GroupNorm) and name.endswith(ending):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, kind(module))


VERSIONS = {
    "diffusers": MotionModules(heads=2, max_frames=8, middle=True, norm="clip"),
    "v1": MotionModules(heads=2, max_frames=8, joint_resnet_norm=True),
    "v2": MotionModules(heads=2, max_frames=8, middle=True),
    "v3": MotionModules(heads=2, max_frames=8),
}


@pytest.mark.parametrize("version", ["diffusers", "v1"])
def test_motion_modules(mode, inputs, version):
    compare_motion_modules(version, inputs)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_combinations_of_their_parts(eager, inputs, version):
    compare_motion_modules(version, inputs)


def compare_motion_modules(version: str, inputs: tuple[np.ndarray, ...]) -> None:
    layers = VERSIONS[version]
    reference = motion_unet(layers.middle)
    network = ours(TemporalConfig(motion_modules=layers), reference, MOTION_MODULES)
    if layers.norm == "frame":
        for block in [*reference.down_blocks, *reference.up_blocks, reference.mid_block]:
            for module in getattr(block, "motion_modules", []):
                module.norm = OfFrames(module.norm)
    if layers.joint_resnet_norm:
        for ending in ("norm1", "norm2", "conv_norm_out"):
            replace_norms(reference, ending, OfClips)
    x, timesteps, text = inputs
    expected = run(reference, x, timesteps, text.repeat(FRAMES, 0))  # that network takes a text for each frame
    assert_close(network(*map(Tensor, inputs)), expected)


# --- ModelScope ---


def test_modelscope(mode, inputs):
    from diffusers import UNet3DConditionModel

    reference = UNet3DConditionModel(
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=WIDTHS,
        layers_per_block=UNET.num_res_blocks,
        cross_attention_dim=UNET.context_dim,
        attention_head_dim=16,
    )
    unet = replace(UNET, num_heads=None, num_head_channels=16, convolution_projection=False)
    layers = ModelScopeLayers(num_head_channels=16, entry_heads=8)
    network = ours(TemporalConfig(modelscope=layers), randomise(reference, seed=2), MODELSCOPE, unet)
    assert_close(network(*map(Tensor, inputs)), run(reference, *inputs))
