"""Configurations: what the published ones state, how files build on each other, and what is refused."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from test_yaml_files import REFUSED

from svd.config import (
    AutoencoderConfig,
    ConfigError,
    ImageEncoderConfig,
    ImageLDMConfig,
    ModelConfig,
    SamplingConfig,
    ScheduleConfig,
    TrainedRange,
    UNetConfig,
    dump_config,
    load_config,
    parse_config,
)
from svd.config.models import KINDS
from svd.config.networks import about_parameters

CONFIGS = Path(__file__).parents[1] / "configs"
PUBLISHED = ["svd", "svd_image_decoder", "svd_xt", "svd_xt_image_decoder", "svd_xt_1_1", "svd_xt_1_1_image_decoder"]


@pytest.fixture
def write(tmp_path):
    """write("name.yaml", text) makes a file and returns its path."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def message(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the published models ---


def test_animatelcm_is_svd_xt_with_another_sampler():
    config, base = (load_config(CONFIGS / f"{name}.yaml") for name in ("animatelcm_svd_xt", "svd_xt"))
    sampling = replace(base.sampling, sampler="consistency", sampling_steps=4, guidance=[1.0, 1.0])
    assert config == replace(base, sampling=sampling)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_model(name):
    """Frames, steps and guidance of the published sampling script; the architecture is one for all."""
    config = load_config(CONFIGS / f"{name}.yaml")
    xt = "xt" in name
    assert config.sampling == SamplingConfig(
        num_frames=25 if xt else 14,
        height=576,
        width=1024,
        fps=7,
        motion_bucket_id=127,
        noise_aug_strength=0.02,
        sampling_steps=30 if xt else 25,
        guidance=[1.5, 3.0] if xt else [1.0, 2.5],
    )
    assert config.autoencoder.decoder == ("image" if "image_decoder" in name else "temporal")
    assert config.unet == UNetConfig() and config.image_encoder == ImageEncoderConfig()
    assert config.preconditioning == "v_scaling" and config.size_multiple == 64


@pytest.mark.parametrize("name", PUBLISHED)
def test_trained_range_of_a_published_model(name):
    """SVD-XT 1.1 was tuned at fps id 6, that is 7 frames per second, and motion bucket 127 alone."""
    trained = load_config(CONFIGS / f"{name}.yaml").trained_range
    assert trained.fps == ([7, 7] if "1_1" in name else [6, 31])
    assert trained.motion_bucket_id == ([127, 127] if "1_1" in name else [0, 255])
    assert trained.noise_aug_strength[0] < 0.02 < trained.noise_aug_strength[1]


def test_there_are_no_other_model_configs():
    """So that a new one is added to the tests above."""
    assert {path.stem for path in CONFIGS.glob("svd*.yaml")} - {"svd_train"} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_states_only_what_differs(name):
    stated = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    under = load_config(CONFIGS / stated.pop("base")) if "base" in stated else None
    for component, values in stated.items():
        for key, value in values.items():
            if under is not None:
                assert getattr(getattr(under, component), key) != value, f"{component}.{key} is that of the base"


# --- files that build on each other ---


def test_what_is_not_stated_is_the_default(write):
    config = load_config(write("a.yaml", "sampling: {fps: 9}"))
    assert config.sampling == SamplingConfig(fps=9) and config.unet == UNetConfig()
    assert load_config(write("empty.yaml", "")) == ModelConfig()


def test_a_base_lies_underneath_and_is_found_beside_its_file(write, monkeypatch, tmp_path):
    write("models/a.yaml", "sampling: {fps: 9, num_frames: 5, guidance: [2.0, 4.0]}")
    write("models/b.yaml", "base: a.yaml\nsampling: {num_frames: 6, guidance: [1.0, 3.0]}")
    path = write("c.yaml", "base: models/b.yaml\nautoencoder: {decoder: image}")
    monkeypatch.chdir("/")
    config = load_config(path)
    assert (config.sampling.fps, config.sampling.num_frames) == (9, 6)
    assert config.sampling.guidance == [1.0, 3.0], "a list is replaced, not continued"
    assert config.autoencoder.decoder == "image"
    assert load_config(str(path)) == config


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("base: nowhere.yaml", "nowhere.yaml is no file; the published models are in configs/"),
        ("base: 3", "base must be the path of another config, got 3"),
        ("base: [a.yaml]", r"base must be the path of another config, got \['a.yaml'\]"),
        ("base: loop.yaml", "loop.yaml has itself as a base"),
        ("base: deeper/../loop.yaml", "has itself as a base"),
    ],
)
def test_a_base_that_cannot_be_used(write, text, what):
    write("deeper/other.yaml", "")
    with pytest.raises(ConfigError, match=what) as error:
        load_config(write("loop.yaml", text))
    message(error)


# --- kinds of models ---


@dataclass
class Other:
    """Another kind's settings."""

    size: int = 1


def test_the_kind_says_which_settings_there_are(write, monkeypatch):
    monkeypatch.setitem(KINDS, "other", Other)
    assert load_config(write("svd.yaml", "kind: svd\nsampling: {fps: 9}")).sampling.fps == 9
    path = write("other.yaml", "kind: other\nsize: 2")
    assert load_config(path) == load_config(write("on_it.yaml", "base: other.yaml")) == Other(2)
    with pytest.raises(ConfigError, match="size: .*; known here: unet, "):
        load_config(write("no_kind.yaml", "size: 2"))
    with pytest.raises(ConfigError, match="unet: .*; known here: size$"):
        load_config(write("unet.yaml", "kind: other\nunet: {}"))


def test_a_dump_names_the_kind_but_for_the_first(monkeypatch):
    """What an earlier version reads has no `kind`, and what depends on a dump stays as it was."""
    monkeypatch.setitem(KINDS, "other", Other)
    assert dump_config(Other(2)) == "kind: other\nsize: 2\n" and parse_config(dump_config(Other(2))) == Other(2)
    assert "kind" not in yaml.safe_load(dump_config(ModelConfig()))


@pytest.mark.parametrize("kind", ["sdv", "3", "[svd]", "'${preconditioning}'", "'${nothing}'"])
def test_an_unknown_kind(write, kind):
    with pytest.raises(ConfigError, match="kind(:| must be one of svd, .*, got) ") as error:
        load_config(write("a.yaml", f"kind: {kind}"))
    message(error)


# --- files that cannot be used ---


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("sampling: {num_frame: 3}", "sampling.num_frame: .*; known here: num_frames, height, width, fps, "),
        ("samplin: {num_frames: 3}", "samplin: .*; known here: unet, autoencoder, image_encoder, preconditioning"),
        ("just text", "just text: Key 'just text' not in 'ModelConfig'; known here: unet, "),
        ("sampling: {num_frames: many}", "sampling.num_frames: .*'many'.*Integer"),
        ("sampling: {num_frames: 2.5}", "sampling.num_frames: .*2.5.*Integer"),
        ("sampling: {guidance: [a, b]}", r"sampling.guidance\[0\]: .*'a'.*Float"),
        ("sampling: {guidance: much}", "sampling.guidance: "),
        ("sampling: {sampler: ddim}", "sampling.sampler: .*'ddim'.*'euler', 'heun', 'dpmpp_2m'"),
        ("preconditioning: v", "preconditioning: .*'v_scaling', 'edm', 'vp_v'"),
        ("autoencoder: {decoder: fast}", "autoencoder.decoder: .*'temporal', 'image'"),
        ("unet: null", "unet: .*not Optional"),
        ("sampling: 3", ": Merge error: int is not a subclass of SamplingConfig"),
        ("sampling: [1, 2]", ": Merge error: list is not a subclass of SamplingConfig"),
        ("sampling: {guidance: {a: 1}}", ": Cannot merge incompatible container types"),
        ("sampling: {fps: '${speed}'}", "sampling.fps: Interpolation key 'speed' not found"),
        ("sampling: {fps: 0}", "a.yaml: fps must be positive, got 0"),
        ("a: [1\nb: {", "a.yaml is not valid YAML: "),
        ("\x00\x01", "a.yaml is not valid YAML: "),
        ("- a\n- b", "a.yaml is not a mapping of names to values"),
    ],
)
def test_the_message_names_the_file_the_key_and_the_choices(write, text, what):
    path = write("a.yaml", text)
    with pytest.raises(ConfigError, match=what) as error:
        load_config(path)
    assert message(error).startswith(f"config {path}")
    assert "None" not in message(error)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_config_that_is_no_file(tmp_path, name):
    with pytest.raises(ConfigError, match="is no file; the published models are in configs/"):
        load_config(tmp_path / name)


def test_a_config_that_is_no_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="not valid YAML") as error:
        load_config(tmp_path / "a.yaml")
    message(error)


# --- the checks of every component ---


@pytest.mark.parametrize(
    ("component", "values", "what"),
    [
        (UNetConfig, {"channel_mult": []}, "unet.channel_mult must name at least one level"),
        (UNetConfig, {"channel_mult": [1, 0]}, "unet: the 0 channels of a level are not a multiple of 32"),
        (UNetConfig, {"model_channels": 48, "num_head_channels": 16}, "unet: the 48 channels .* multiple of 32"),
        (UNetConfig, {"attention_resolutions": [1, 3]}, r"unet.attention_resolutions .*\[1, 2, 4, 8\], got \[1, 3\]"),
        (UNetConfig, {"num_res_blocks": 0}, "unet.num_res_blocks must be positive, got 0"),
        (UNetConfig, {"num_head_channels": 48}, "unet.num_head_channels 48 does not divide a level's 320 channels"),
        (UNetConfig, {"num_head_channels": 0}, "unet.num_head_channels must be positive, got 0"),
        (AutoencoderConfig, {"channels": 48}, "autoencoder: the 48 channels of a level are not a multiple of 32"),
        (AutoencoderConfig, {"channel_mult": []}, "autoencoder.channel_mult must name at least one level"),
        (AutoencoderConfig, {"num_res_blocks": 0}, "autoencoder.num_res_blocks must be positive, got 0"),
        (AutoencoderConfig, {"scale_factor": 0.0}, "autoencoder.scale_factor must be positive, got 0.0"),
        (ImageEncoderConfig, {"heads": 7}, "image_encoder.heads 7 does not divide image_encoder.width 1280"),
        (ImageEncoderConfig, {"heads": 0}, "image_encoder.heads must be positive, got 0"),
        (ImageEncoderConfig, {"layers": -1}, "image_encoder.layers must be positive, got -1"),
        (ImageEncoderConfig, {"patch_size": 15}, "image_encoder.patch_size 15 does not divide .*image_size 224"),
        (TrainedRange, {"fps": [6]}, r"trained_range.fps takes two numbers, .* got \[6\]"),
        (TrainedRange, {"motion_bucket_id": [255, 0]}, "trained_range.motion_bucket_id takes two numbers"),
        (SamplingConfig, {"num_frames": 0}, r"num_frames must be at least 2 \(a video\), got 0"),
        (SamplingConfig, {"num_frames": 1}, r"num_frames must be at least 2 \(a video\), got 1"),
        *[
            (SamplingConfig, {name: value}, f"{name} must be positive, got {value}")
            for name in ("height", "width", "fps", "sampling_steps", "sigma_min", "sigma_max", "rho")
            for value in (0, -1)
        ],
        (SamplingConfig, {"sigma_max": float("inf")}, "sigma_max must be at most 1e.06, got inf"),
        (SamplingConfig, {"rho": float("nan")}, "rho must be positive, got nan"),
        (SamplingConfig, {"motion_bucket_id": -1}, "motion_bucket_id must not be negative, got -1"),
        (SamplingConfig, {"noise_aug_strength": -0.1}, "noise_aug_strength must not be negative, got -0.1"),
        (SamplingConfig, {"churn": -1.0}, "churn must not be negative, got -1.0"),
        (SamplingConfig, {"churn": 1.0, "sampler": "dpmpp_2m"}, "churn is for .* euler and heun, got dpmpp_2m"),
        (SamplingConfig, {"eta": -0.5, "sampler": "dpmpp_2m_sde"}, "eta must not be negative, got -0.5"),
        (SamplingConfig, {"eta": 0.5}, "eta is for the sampler dpmpp_2m_sde, got euler: leave it at 1"),
        (SamplingConfig, {"consistency_levels": 20}, "consistency_levels is for the sampler consistency, got euler"),
        (
            SamplingConfig,
            {"sampler": "consistency", "sampling_steps": 41},
            r"sampling_steps must be at most 40 \(consistency_levels\), got 41",
        ),
        (SamplingConfig, {"window": 1}, "window must be at least 2, its first frame and another, got 1"),
        (SamplingConfig, {"window_overlap": 3}, "window_overlap 3 goes with a window: give one"),
        (SamplingConfig, {"window": 4, "window_overlap": 3}, "window_overlap 3 must be smaller than what window 4 has"),
        (SamplingConfig, {"renoise": -1}, "renoise must not be negative, got -1"),
        (SamplingConfig, {"renoise": 1, "sampler": "dpmpp_2m"}, "renoise is for .* euler and heun, got dpmpp_2m"),
        (SamplingConfig, {"renoise": 1, "renoise_part": 2.0}, "renoise_part must be from 0 to 1, got 2.0"),
        (SamplingConfig, {"renoise_part": 0.2}, "renoise_part 0.2 goes with renoise"),
        (SamplingConfig, {"decode_chunk_size": 0}, "decode_chunk_size must be positive, got 0"),
        (SamplingConfig, {"decode_tile_size": -8}, "decode_tile_size must be positive, got -8"),
        (SamplingConfig, {"decode_memory_gb": 0.0}, "decode_memory_gb must be positive, got 0.0"),
        (SamplingConfig, {"decode_overlap": -1}, "decode_overlap must not be negative, got -1"),
        (SamplingConfig, {"guidance": [1.0]}, r"guidance takes two numbers, .* got \[1.0\]"),
        (SamplingConfig, {"sigma_min": 3.0, "sigma_max": 3.0}, "sigma_min 3.0 must be below sigma_max 3.0"),
        (
            ModelConfig,
            {"unet": UNetConfig(context_dim=768)},
            "image_encoder.output_dim 1024 must equal unet.context_dim 768",
        ),
        (ModelConfig, {"unet": UNetConfig(in_channels=9)}, "unet.in_channels twice that"),
        (ModelConfig, {"unet": UNetConfig(vector_dim=64)}, "unet.vector_dim must be a multiple of 6, got 64"),
        (ModelConfig, {"unet": UNetConfig(vector_dim=None)}, "unet.vector_dim must be a multiple of 6, got None"),
        (ImageLDMConfig, {"unet": UNetConfig(context_dim=768)}, "unet.in_channels and unet.out_channels must be"),
        (ImageLDMConfig, {"schedule": ScheduleConfig(zero_terminal_snr=True)}, "needs preconditioning vp_v"),
        (
            ModelConfig,
            {"unet": UNetConfig(out_channels=8)},
            "unet.out_channels must be autoencoder.latent_channels 4",
        ),
    ],
)
def test_what_cannot_work_is_refused(component, values, what):
    with pytest.raises(ConfigError, match=what) as error:
        component(**values)
    message(error)


def test_the_smallest_settings_are_accepted():
    """The checks above refuse nothing that works."""
    settings = SamplingConfig(
        num_frames=2, motion_bucket_id=0, noise_aug_strength=0.0, churn=1.0, sampler="heun", sampling_steps=1,
        decode_chunk_size=1, decode_overlap=0, guidance=[0.0, 0.0],
    )  # fmt: skip
    assert settings.num_frames == 2
    assert UNetConfig(channel_mult=[1], attention_resolutions=[], num_res_blocks=1).channel_mult == [1]
    assert AutoencoderConfig(channels=32, channel_mult=[1]).downsampling == 1


# --- limits ---


@pytest.mark.parametrize(
    ("component", "values", "what"),
    [
        (UNetConfig, {"num_res_blocks": 10**6}, "unet.num_res_blocks must be at most 16, got 1000000"),
        (UNetConfig, {"model_channels": 32 * 10**9}, "unet.model_channels must be at most 8192, got 32000000000"),
        (UNetConfig, {"channel_mult": [1] * 9}, "unet.channel_mult must have at most 8 items, got 9"),
        (UNetConfig, {"channel_mult": [1, 65]}, "unet.channel_mult must be at most 64, got 65"),
        (UNetConfig, {"context_dim": 10**400}, "unet.context_dim must be at most 16384, got a number of 401 digits"),
        (AutoencoderConfig, {"channel_mult": [1, 10**9]}, "autoencoder.channel_mult must be at most 64"),
        (AutoencoderConfig, {"num_res_blocks": 17}, "autoencoder.num_res_blocks must be at most 16, got 17"),
        (ImageEncoderConfig, {"layers": 10**6}, "image_encoder.layers must be at most 256, got 1000000"),
        (ImageEncoderConfig, {"image_size": 4096, "patch_size": 1}, "an image of 16777216 patches; at most 65536"),
        (SamplingConfig, {"num_frames": 10**6}, "num_frames must be at most 1024, got 1000000"),
        (SamplingConfig, {"height": 2**20}, "height must be at most 8192"),
        (SamplingConfig, {"fps": 1e300}, r"fps must be at most 1000, got 1e\+300"),
        (SamplingConfig, {"motion_bucket_id": 1e300}, r"motion_bucket_id must be at most 10000, got 1e\+300"),
        (SamplingConfig, {"noise_aug_strength": 1e9}, "noise_aug_strength must be at most 100"),
        (SamplingConfig, {"sampling_steps": 10**9}, "sampling_steps must be at most 10000"),
        (SamplingConfig, {"guidance": 1e30}, r"guidance must be at most 1000, got 1e\+30"),
        (SamplingConfig, {"guidance": [1.0, -1e30]}, r"guidance must be at most 1000, got -1e\+30"),
        (SamplingConfig, {"guidance": [float("nan"), 1.0]}, "guidance must be at most 1000, got nan"),
        (SamplingConfig, {"sigma_max": 1e30}, "sigma_max must be at most"),
        (SamplingConfig, {"rho": 1e9}, "rho must be at most 1000"),
        (SamplingConfig, {"window": 10**6}, "window must be at most 1024, got 1000000"),
        (SamplingConfig, {"renoise": 10**6}, "renoise must be at most 1000, got 1000000"),
        (SamplingConfig, {"churn": 1e300}, "churn must be at most 100000"),
        (SamplingConfig, {"decode_tile_size": 10**9}, "decode_tile_size must be at most 8192"),
        (SamplingConfig, {"decode_chunk_size": 4, "decode_overlap": 4}, "decode_overlap 4 must be smaller than"),
        (SamplingConfig, {"decode_chunk_size": 4, "decode_memory_gb": 1.0}, "decode_memory_gb is what .*: give one"),
    ],
)  # fmt: skip
def test_what_nobody_means_is_refused(component, values, what):
    with pytest.raises(ConfigError, match=what) as error:
        component(**values)
    message(error)


def test_a_model_that_no_computer_holds(write):
    """Each of its numbers would be possible by itself."""
    start = time.perf_counter()
    for text in (
        "unet: {model_channels: 8192, num_res_blocks: 16}",
        "autoencoder: {channels: 4096, channel_mult: [1, 32, 64, 64]}",
        "image_encoder: {width: 16384, layers: 256, heads: 64}",
    ):
        with pytest.raises(ConfigError, match=r"networks of \d+ billion parameters; at most 20 are built"):
            load_config(write("a.yaml", text))
    assert time.perf_counter() - start < 5


def test_the_number_of_parameters_is_about_right():
    """1,524,623,082 of the UNet, 632,076,800 of the image encoder, 97,742,847 of the temporal autoencoder."""
    model = ModelConfig()
    about = about_parameters(model.unet, model.autoencoder, model.image_encoder)
    assert 0.5 < about / 2.25e9 < 2


def test_one_number_is_both_ends_of_the_guidance(write):
    assert SamplingConfig(guidance=3).guidance == [3.0, 3.0]
    assert replace(SamplingConfig(), guidance=7.5).guidance == [7.5, 7.5]
    config = load_config(write("a.yaml", "sampling: {guidance: 7.5}"))
    assert config.sampling.guidance == [7.5, 7.5] and parse_config(dump_config(config)) == config
    write("b.yaml", "base: a.yaml\nsampling: {guidance: 2}")
    assert load_config(write("c.yaml", "base: b.yaml")).sampling.guidance == [2.0, 2.0]


# --- hostile files ---


@pytest.mark.parametrize("name", REFUSED)
def test_yaml_that_may_not_be_loaded(write, name):
    text, _ = REFUSED[name]
    with pytest.raises(ConfigError, match="is not valid YAML: ") as error:
        load_config(write("a.yaml", text))
    message(error)
    with pytest.raises(ConfigError, match="the config in the checkpoint is not valid YAML: ") as error:
        parse_config(text)
    message(error)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("base: '${a}'", "base: Interpolation key 'a' not found"),
        ("preconditioning: '${autoencoder.decoder}'\nautoencoder: {decoder: '${preconditioning}'}", "[Rr]ecurs"),
        ("preconditioning: '" + "${autoencoder.decoder}" * 20 + "'", "more than 16 interpolations"),
        ("unet:", "unet: .*not Optional"),
        ("sampling: [1]", "Merge error: list is not a subclass of SamplingConfig"),
        ("unet: {channel_mult: null}", "unet.channel_mult: .*not Optional"),
        ("unet: {channel_mult: {0: 1}}", "Cannot merge incompatible container types"),
        ("unet: {num_res_blocks: true}", "num_res_blocks"),
        ("sampling: {guidance: []}", "guidance takes two numbers"),
        ("sampling: {churn: .nan}", "churn must not be negative, got nan"),
        ("unet: {model_channels: !!binary aGk=}", "unet.model_channels: "),
        ("1: 2", "Key '1' not in 'ModelConfig'|1: "),
    ],
)
def test_odd_values(write, text, what):
    with pytest.raises(ConfigError, match=what) as error:
        load_config(write("a.yaml", text))
    message(error)


# --- sizes ---


def test_sizes_are_multiples_of_all_halvings():
    """Three in the UNet and three in the autoencoder; two and one; none."""
    small = ModelConfig(UNetConfig(channel_mult=[1, 2, 2]), AutoencoderConfig(channel_mult=[1, 2]))
    flat = ModelConfig(
        UNetConfig(channel_mult=[1], attention_resolutions=[1]),
        AutoencoderConfig(channel_mult=[1]),
    )
    assert [config.size_multiple for config in (ModelConfig(), small, flat)] == [64, 8, 1]
    small.check_size(72, 104)
    for height, width in ((72, 100), (68, 104)):
        with pytest.raises(ConfigError, match=f"must be multiples of 8, got {height} x {width}"):
            small.check_size(height, width)


# --- the config in a checkpoint ---


@pytest.mark.parametrize("name", PUBLISHED)
def test_dump_and_parse_give_the_config_back(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert parse_config(dump_config(config)) == config


def test_a_dump_states_every_default():
    """A checkpoint says what it is even to a version with other defaults."""
    stated = yaml.safe_load(dump_config(ModelConfig()))
    assert stated.keys() == vars(ModelConfig()).keys()
    for component in ("unet", "autoencoder", "image_encoder", "sampling", "trained_range"):
        assert stated[component].keys() == vars(getattr(ModelConfig(), component)).keys()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [1", "is not valid YAML"),
        ("- 1", "is not a mapping of names to values"),
        ("sampling: {num_frame: 3}", "sampling.num_frame: .*; known here: num_frames"),
        ("sampling: {num_frames: 1}", "num_frames must be at least 2"),
    ],
)
def test_a_damaged_config_in_a_checkpoint(text, what):
    with pytest.raises(ConfigError, match=f"^the config in the checkpoint.*{what}") as error:
        parse_config(text)
    message(error)
