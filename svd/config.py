"""Every setting of the model and of sampling: one documented dataclass per component, and `load_config`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal, Optional

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from svd.console import one_line
from svd.errors import UserError
from svd.limits import MOST_PARAMETERS, MOST_TOKENS, about_parameters, beyond
from svd.resources import find_file
from svd.yaml_files import checked_yaml, read_yaml

MOST_INTERPOLATIONS = 16
"""In a file of YAML."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used; the message is one line that says what to change."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_positive(component, name: str) -> None:
    """Sizes and counts are positive; `component` is one of the dataclasses below."""
    for key, value in vars(component).items():
        _check(not isinstance(value, (int, float)) or 0 < value < inf, f"{name}.{key} must be positive, got {value}")
    too_large = beyond(component)
    _check(too_large is None, f"{name}.{too_large}")


def _check_levels(name: str, channels: int, channel_mult: list[int]) -> None:
    _check(len(channel_mult) > 0, f"{name}.channel_mult must name at least one level")
    for level in (1, *channel_mult):
        _check(
            level > 0 and level * channels % 32 == 0,
            f"{name}: the {level * channels} channels of a level are not a multiple of 32 (of the groups they are "
            "normalised in)",
        )


@dataclass
class UNetConfig:
    """The spatio-temporal UNet (SVD, appendix D; the defaults are the published model: 1,524,623,082 parameters)."""

    in_channels: int = 8
    """Channels of the input: noisy latents and the latents of the conditioning image."""
    out_channels: int = 4
    """Channels of the output."""
    model_channels: int = 320
    """Channels of the first level."""
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 4])
    """Channels of each level, as multiples of model_channels; each level halves the resolution."""
    num_res_blocks: int = 2
    """Residual blocks per level (the way up has one more)."""
    attention_resolutions: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Down-sampling factors of the levels that have transformers."""
    num_head_channels: int = 64
    """Channels of each attention head."""
    context_dim: int = 1024
    """Channels of the cross-attention context."""
    vector_dim: int = 768
    """Channels of the vector condition: three embeddings of equal size (fps, motion bucket, augmentation)."""

    def __post_init__(self):
        _check_positive(self, "unet")
        _check_levels("unet", self.model_channels, self.channel_mult)
        levels = [2**i for i in range(len(self.channel_mult))]
        _check(
            set(self.attention_resolutions) <= set(levels),
            f"unet.attention_resolutions must be among the levels' factors {levels}, got {self.attention_resolutions}",
        )
        _check(self.vector_dim % 6 == 0, f"unet.vector_dim must be a multiple of 6, got {self.vector_dim}")
        for mult in self.channel_mult:
            channels = mult * self.model_channels
            _check(
                channels % self.num_head_channels == 0,
                f"unet.num_head_channels {self.num_head_channels} does not divide a level's {channels} channels",
            )


@dataclass
class AutoencoderConfig:
    """The autoencoder of Stable Diffusion, with the decoder of choice."""

    channels: int = 128
    """Channels of the first level."""
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 4])
    """Channels of each level, as multiples of channels; each level but the last halves the resolution."""
    num_res_blocks: int = 2
    """Residual blocks per level of the encoder (the decoder has one more)."""
    latent_channels: int = 4
    """Channels of the latents."""
    scale_factor: float = 0.18215
    """Latents are multiplied by it before diffusion and divided by it before decoding."""
    decoder: Literal["temporal", "image"] = "temporal"
    """`temporal` decodes a clip at once; `image` decodes every frame by itself (the svd_image_decoder files)."""

    def __post_init__(self):
        _check_positive(self, "autoencoder")
        _check_levels("autoencoder", self.channels, self.channel_mult)

    @property
    def downsampling(self) -> int:
        """Pixels of the image per pixel of the latents, on each axis."""
        return 2 ** (len(self.channel_mult) - 1)


@dataclass
class ImageEncoderConfig:
    """The image tower of CLIP (the defaults are OpenCLIP's ViT-H/14: 632,076,800 parameters)."""

    width: int = 1280
    """Channels of the tokens."""
    layers: int = 32
    """Transformer layers."""
    heads: int = 16
    """Attention heads."""
    patch_size: int = 14
    """Pixels of a patch, on each axis."""
    image_size: int = 224
    """Pixels of the input, on each axis; any image is resized to it."""
    output_dim: int = 1024
    """Channels of the embedding."""

    def __post_init__(self):
        _check_positive(self, "image_encoder")
        _check(
            self.width % self.heads == 0,
            f"image_encoder.heads {self.heads} does not divide image_encoder.width {self.width}",
        )
        _check(
            self.image_size % self.patch_size == 0,
            f"image_encoder.patch_size {self.patch_size} does not divide image_encoder.image_size {self.image_size}",
        )
        patches = (self.image_size // self.patch_size) ** 2
        _check(patches <= MOST_TOKENS, f"image_encoder: an image of {patches} patches; at most {MOST_TOKENS} are seen")


@dataclass
class TrainedRange:
    """What the model saw in training; outside of it the pipeline warns."""

    fps: list[float] = field(default_factory=lambda: [6, 31])
    """Frames per second (the reference warns outside the ids 5 to 30; the id is fps - 1)."""
    motion_bucket_id: list[float] = field(default_factory=lambda: [0, 255])
    """Motion bucket."""
    noise_aug_strength: list[float] = field(default_factory=lambda: [0.011, 0.223])
    """Standard deviation of the noise on the image: ln sigma ~ N(-3, 0.5^2), three deviations either side."""

    def __post_init__(self):
        for name, bounds in vars(self).items():
            _check(
                len(bounds) == 2 and bounds[0] <= bounds[1],
                f"trained_range.{name} takes two numbers, the smallest and the largest, got {bounds}",
            )


@dataclass
class SamplingConfig:
    """How a video is drawn; each field is also an argument of the pipeline and a flag `--SVD.<field>`."""

    num_frames: int = 14
    """Frames of the video."""
    height: int = 576
    """Pixels of the video's height."""
    width: int = 1024
    """Pixels of the video's width."""
    fps: int = 7
    """Frames per second: told to the network (as fps - 1) and written to the file."""
    motion_bucket_id: float = 127
    """How much motion is wanted: 0 (none) to 255 (most)."""
    noise_aug_strength: float = 0.02
    """Standard deviation of the noise added to the image (in [-1, 1]); more lets the video leave it further."""
    sampling_steps: int = 25
    """Steps of the sampler."""
    sampler: Literal["euler", "heun", "dpmpp_2m"] = "euler"
    """Solver; euler is the reference, heun calls the network twice a step."""
    churn: float = 0.0
    """S_churn of EDM's algorithm 2: fresh noise per step (euler and heun)."""
    guidance: list[float] = field(default_factory=lambda: [1.0, 2.5])
    """Smallest and largest guidance scale over the frames; one number is both."""
    guidance_shape: Literal["linear", "triangular"] = "linear"
    """`linear` rises from the first frame to the last; `triangular` rises to the middle and falls (SV3D)."""
    guidance_interval: list[float] = field(default_factory=lambda: [0.0, inf])
    """Noise levels low < sigma <= high at which guidance acts, all by default: [0, .inf] (arXiv 2404.07724). At the
    others the network runs without the unconditional half of the batch, at half the cost. The half batch is a graph
    of its own: when guidance first begins or ends in the middle of sampling, one is compiled there."""
    sigma_min: float = 0.002
    """Smallest noise level of the Karras schedule."""
    sigma_max: float = 700.0
    """Largest noise level of the Karras schedule."""
    rho: float = 7.0
    """Curvature of the Karras schedule."""
    decode_chunk_size: Optional[int] = None
    """Frames decoded at a time; chosen from decode_memory_gb when it is not given."""
    decode_overlap: Optional[int] = None
    """Frames that neighbouring chunks share and cross-fade over; a third of a chunk when it is not given."""
    decode_tile_size: Optional[int] = None
    """Pixels of the square tiles that frames are decoded in, overlapping by a quarter; not tiled when not given. Tiles
    are normalised by themselves and their colours can drift apart: a last resort against running out of memory."""
    decode_memory_gb: Optional[float] = None
    """Memory limit (10^9 bytes) for decoding; half of what is free when it is not given."""

    def __post_init__(self):
        if isinstance(self.guidance, (int, float)):
            self.guidance = [float(self.guidance)] * 2
        _check(self.num_frames >= 2, f"num_frames must be at least 2 (a video), got {self.num_frames}")
        for name in ("height", "width", "fps", "sampling_steps", "sigma_min", "sigma_max", "rho"):
            _check(0 < getattr(self, name) < inf, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("motion_bucket_id", "noise_aug_strength", "churn"):
            _check(0 <= getattr(self, name) < inf, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("decode_chunk_size", "decode_tile_size", "decode_memory_gb"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"{name} must be positive, got {value}")
        overlap = self.decode_overlap
        _check(overlap is None or overlap >= 0, f"decode_overlap must not be negative, got {overlap}")
        _check(
            len(self.guidance) == 2,
            f"guidance takes two numbers, the smallest and the largest scale, got {self.guidance}",
        )
        too_large = beyond(self)
        _check(too_large is None, str(too_large))
        interval = self.guidance_interval
        _check(
            len(interval) == 2 and 0 <= interval[0] < interval[1],
            f"guidance_interval takes two noise levels from 0 up, the lower first, got {interval}",
        )
        _check(
            self.churn == 0 or self.sampler != "dpmpp_2m",
            f"churn is for the samplers euler and heun, got {self.sampler}: give churn 0 with it",
        )
        _check(
            overlap is None or self.decode_chunk_size is None or overlap < self.decode_chunk_size,
            f"decode_overlap {overlap} must be smaller than decode_chunk_size {self.decode_chunk_size}",
        )
        _check(
            self.decode_chunk_size is None or self.decode_memory_gb is None,
            "decode_memory_gb is what decode_chunk_size is chosen from: give one of them",
        )
        _check(self.sigma_min < self.sigma_max, f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")


@dataclass
class ModelConfig:
    """A whole image-to-video model: its networks, its noise model and how it is sampled by default."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    preconditioning: Literal["v_scaling", "edm", "vp_v"] = "v_scaling"
    """Noise model: SVD's v-scaling with EDM's c_noise, EDM, or variance-preserving v-prediction."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    trained_range: TrainedRange = field(default_factory=TrainedRange)

    def __post_init__(self):
        _check(
            self.image_encoder.output_dim == self.unet.context_dim,
            f"image_encoder.output_dim {self.image_encoder.output_dim} must equal "
            f"unet.context_dim {self.unet.context_dim}",
        )
        latents = self.autoencoder.latent_channels
        _check(
            self.unet.out_channels == latents and self.unet.in_channels == 2 * latents,
            f"unet.out_channels must be autoencoder.latent_channels {latents} and unet.in_channels twice that",
        )
        parameters = about_parameters(self.unet, self.autoencoder, self.image_encoder)
        _check(
            parameters <= MOST_PARAMETERS,
            f"networks of {parameters / 1e9:.0f} billion parameters; at most {MOST_PARAMETERS / 1e9:.0f} are built",
        )

    @property
    def size_multiple(self) -> int:
        """What the height and the width of a video must be multiples of, in pixels."""
        return self.autoencoder.downsampling * 2 ** (len(self.unet.channel_mult) - 1)

    def check_size(self, height: int, width: int) -> None:
        """Raise ConfigError for a video of a size that the networks cannot halve evenly."""
        multiple = self.size_multiple
        _check(
            height % multiple == 0 and width % multiple == 0,
            f"height and width must be multiples of {multiple}, got {height} x {width}",
        )

    def different_networks(self, other: ModelConfig) -> list[str]:
        """What the networks of another model have otherwise, a text each. Which decoder does not count: a checkpoint
        may hold both.
        """
        different = []
        for part in ("unet", "autoencoder", "image_encoder"):
            theirs = vars(getattr(other, part))
            for key, value in vars(getattr(self, part)).items():
                if value != theirs[key] and (part, key) != ("autoencoder", "decoder"):
                    different.append(f"its {part}.{key} is {value}, not {theirs[key]}")
        return different


def _read(path: Path, readers: tuple[Path, ...] = ()) -> list:
    """What the YAML file says, after what its `base` says (a path relative to it); `readers` have it as a base."""
    _check(path.resolve() not in readers, f"config {path} has itself as a base")
    _check(path.is_file(), f"config {path} is no file; the published models are in configs/")
    config = _parse(read_yaml, path, f"config {path}")
    try:
        base = config.pop("base", None)
    except OmegaConfBaseException as error:
        raise ConfigError(f"config {path}: base: {one_line(error)}") from error
    if base is None:
        return [config]
    _check(isinstance(base, str), f"config {path}: base must be the path of another config, got {base}")
    return [*_read(path.parent / base, (*readers, path.resolve())), config]


def _parse(reader, source, where: str):
    """The mapping in YAML text that `reader` gives of the source, looked through."""
    try:
        text = reader(source)
        config = OmegaConf.create(text)
    except Exception as error:  # the YAML reader's errors share no class
        raise ConfigError(f"{where} is not valid YAML: {one_line(error)}") from error
    _check(config is not None and OmegaConf.is_dict(config), f"{where} is not a mapping of names to values")
    # texts that stand for one another can grow without bounds
    _check(text.count("${") <= MOST_INTERPOLATIONS, f"{where} has more than {MOST_INTERPOLATIONS} interpolations")
    return config


def load_config(source: str | Path) -> ModelConfig:
    """Read a model's configuration: a YAML file that states only what differs from the defaults. `configs/...` are
    found from everywhere.

    Raises:
        ConfigError: the file does not exist, is not YAML, has an unknown key, or a value of the wrong type.
    """
    return _structured(_read(Path(find_file(source))), f"config {source}")


def parse_config(text: str) -> ModelConfig:
    """The configuration that `dump_config` wrote."""
    where = "the config in the checkpoint"
    return _structured([_parse(checked_yaml, text, where)], where)


def dump_config(config: ModelConfig) -> str:
    """The whole configuration as YAML, every default stated."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _structured(configs: list, where: str) -> ModelConfig:
    """The defaults with what the configs say, one after the other."""
    try:
        for config in configs:
            sampling = config.get("sampling")
            if OmegaConf.is_dict(sampling) and isinstance(sampling.get("guidance"), (int, float)):
                sampling.guidance = [sampling.guidance] * 2
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), *configs))
    except (OmegaConfBaseException, TypeError, OverflowError, RecursionError) as error:
        # TypeError: names where a list is expected; RecursionError: interpolations of one another
        key = getattr(error, "full_key", None)
        known = _known_keys(key)
        reason = str(getattr(error, "msg", None) or error).splitlines()[0]
        hint = f"; known here: {', '.join(known)}" if known and "not in" in reason else ""
        raise ConfigError(f"{where}: {f'{key}: ' if key else ''}{reason}{hint}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _known_keys(full_key: str | None) -> list[str]:
    """The names that exist where `full_key` was looked for."""
    node = ModelConfig()
    for part in (full_key or "").split(".")[:-1]:
        node = getattr(node, part, None)
    return [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
