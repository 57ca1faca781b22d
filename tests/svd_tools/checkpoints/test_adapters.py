"""Adapters (LoRA) of other programs: every style of names, the values of a merge, and what is refused."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_text_model import SMALL_IMAGE, SMALL_VIDEO, write_text_checkpoint

from svd import build
from svd.checkpoints.lora import LoRA, merging, read_lora
from svd.config import MotionModules, TemporalConfig, dump_config
from svd_tools.convert import main


@dataclass(frozen=True)
class Layer:
    """A layer of the small model by our name, and by its dotted names in diffusers and in single files."""

    ours: str
    diffusers: str
    single: str
    shape: tuple[int, ...]
    rank: int = 2
    alpha: float = 1.0

    @property
    def text(self) -> bool:
        return self.ours.startswith("text_encoder.")


OURS, BLOCK, SINGLE = "network.down_blocks.1", "down_blocks.1.attentions.0", "input_blocks.3.1"
TEXT, CLIP = "text_encoder.layers.0", "text_model.encoder.layers.0"
WIDTH = SMALL_IMAGE.text_encoder.width
ATTENTION = [
    Layer(f"{OURS}.attentions.0.spatial.{attention}.{ours}", f"{BLOCK}.transformer_blocks.0.{attention}.{theirs}",
          f"{SINGLE}.transformer_blocks.0.{attention}.{theirs}", (64, context), rank, rank / 2)
    for attention, ours, theirs, context, rank in (
        ("attn1", "to_q", "to_q", 64, 2), ("attn1", "to_out", "to_out.0", 64, 4), ("attn2", "to_k", "to_k", WIDTH, 3)
    )
]  # fmt: skip
TEXT_ATTENTION = [
    Layer(f"{TEXT}.attn.to_v", f"{CLIP}.self_attn.v_proj", f"{CLIP}.self_attn.v_proj", (WIDTH, WIDTH)),
    Layer(f"{TEXT}.attn.to_out", f"{CLIP}.self_attn.out_proj", f"{CLIP}.self_attn.out_proj", (WIDTH, WIDTH)),
]
OTHERS = [
    Layer(f"{OURS}.attentions.0.spatial.ff.proj_in", f"{BLOCK}.transformer_blocks.0.ff.net.0.proj",
          f"{SINGLE}.transformer_blocks.0.ff.net.0.proj", (512, 64)),
    Layer(f"{OURS}.attentions.0.proj_in", f"{BLOCK}.proj_in", f"{SINGLE}.proj_in", (64, 64)),
    Layer(f"{OURS}.resnets.0.spatial.conv1", "down_blocks.1.resnets.0.conv1", "input_blocks.3.0.in_layers.2",
          (64, 32, 3, 3), 4, 3.0),
    Layer(f"{OURS}.resnets.0.spatial.shortcut", "down_blocks.1.resnets.0.conv_shortcut",
          "input_blocks.3.0.skip_connection", (64, 32, 1, 1)),
    Layer("network.up_blocks.0.upsample.conv", "up_blocks.0.upsamplers.0.conv", "output_blocks.1.2.conv",
          (64, 64, 3, 3)),
    Layer(f"{TEXT}.mlp.fc1", f"{CLIP}.mlp.fc1", f"{CLIP}.mlp.fc1", (4 * WIDTH, WIDTH)),
]  # fmt: skip
ALL = [*ATTENTION, *TEXT_ATTENTION, *OTHERS]


def matrices(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """down [r i ...] and up [o r (1 1)], as other programs have them, of which convolutions have four axes."""
    generator = np.random.default_rng(ALL.index(layer))
    convolution = (1, 1) if len(layer.shape) == 4 or layer.ours.endswith("attentions.0.proj_in") else ()
    inside = layer.shape[2:] or convolution
    down = generator.standard_normal((layer.rank, layer.shape[1], *inside))
    up = generator.standard_normal((layer.shape[0], layer.rank, *convolution))
    return down.astype(np.float32), up.astype(np.float32)


def kohya(layer: Layer, name: str, prefix: str = "lora_te_") -> dict[str, np.ndarray]:
    down, up = matrices(layer)
    front = (prefix if layer.text else "lora_unet_") + name.replace(".", "_")
    return {f"{front}.lora_down.weight": down, f"{front}.lora_up.weight": up,
            f"{front}.alpha": np.array(layer.alpha, np.float32)}  # fmt: skip


def pair(layer: Layer, name: str, ends: tuple[str, str]) -> dict[str, np.ndarray]:
    return {f"{name}.{end}.weight": value for end, value in zip(ends, matrices(layer))}


def component(layer: Layer) -> str:
    return f"{'text_encoder' if layer.text else 'unet'}.{layer.diffusers}"


def before_peft(layer: Layer) -> dict[str, np.ndarray]:
    form = "lora_linear_layer" if layer.text else "lora"
    return pair(layer, component(layer), (f"{form}.down", f"{form}.up"))


def first_releases(layer: Layer, prefix: str = "") -> dict[str, np.ndarray]:
    """Of attention alone: `attn1.processor.to_out_lora`, and in text encoders `self_attn.to_out_lora`."""
    attention, projection = layer.diffusers.removesuffix(".0").rsplit(".", 1)
    name = f"to_{projection.removesuffix('_proj')}" if layer.text else projection
    front = f"text_encoder.{attention}" if layer.text else f"{prefix}{attention}.processor"
    return pair(layer, f"{front}.{name}_lora", ("down", "up"))


STYLES = {
    "kohya": (ALL, lambda layer: kohya(layer, layer.diffusers)),
    "kohya, names of single files": (ALL, lambda layer: kohya(layer, layer.single, "lora_te1_")),
    "diffusers": (ALL, lambda layer: pair(layer, component(layer), ("lora_A", "lora_B"))),
    "diffusers before peft": (ALL, before_peft),
    "first releases of diffusers": ([*ATTENTION, *TEXT_ATTENTION], first_releases),
    "AnimateDiff's domain adapter": (ATTENTION, lambda layer: first_releases(layer, "module.")),
    "peft": (
        ALL, lambda layer: pair(layer, f"base_model.model.{layer.diffusers}", ("lora_A.default", "lora_B.default"))
    ),
    "ComfyUI": (ATTENTION, lambda layer: pair(layer, f"diffusion_model.{layer.single}", ("lora_down", "lora_up"))),
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes():
    return build.parameter_shapes(SMALL_IMAGE)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "image.yaml"
    path.write_text(dump_config(SMALL_IMAGE))
    return path


@pytest.fixture
def converted(config, tmp_path, capsys):
    """Run the converter on tensors or a path; returns the adapters and what was printed."""

    def run(source, *flags: str) -> tuple[LoRA, str]:
        if isinstance(source, dict):
            save_file(source, tmp_path / "x.safetensors")
            source = tmp_path / "x.safetensors"
        out = tmp_path / "out"
        assert main([f"--pt_weights_file={source}", f"--config={config}", f"--out_dir={out}", *flags]) == 0
        (written,) = out.iterdir()
        return read_lora(written), capsys.readouterr().out

    return run


@pytest.fixture
def refused(config, tmp_path, capsys):
    """Run the converter, which refuses; returns the error line."""

    def run(source, *flags: str) -> str:
        if isinstance(source, dict):
            save_file(source, tmp_path / "x.safetensors")
            source = tmp_path / "x.safetensors"
        assert main([f"--pt_weights_file={source}", f"--config={config}", f"--out_dir={tmp_path / 'out'}", *flags]) == 2
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def assert_merged(lora: LoRA, layers: list[Layer], shapes, alphas=lambda layer: layer.alpha) -> None:
    """Merged at scale 0.7: the product of the two matrices, and nothing else changes."""
    assert set(lora.weights) == {f"{layer.ours}.weight" for layer in layers}
    merge, generator = merging([(lora, 0.7)]), np.random.default_rng(99)
    for layer in layers:
        weight = generator.standard_normal(shapes[f"{layer.ours}.weight"]).astype(np.float32)
        down, up = (value.astype(np.float64) for value in matrices(layer))
        change = np.einsum("or,r...->o...", up.reshape(up.shape[:2]), down).reshape(weight.shape)
        merged = merge(f"{layer.ours}.weight", weight)
        wanted = weight + 0.7 * alphas(layer) / layer.rank * change
        assert merged.dtype == np.float32 and np.abs(merged - wanted).max() < 1e-6 * np.abs(wanted).max(), layer.ours
    assert merge("network.conv_in.weight", weight) is weight


@pytest.mark.parametrize("style", STYLES)
def test_every_style(style, converted, shapes):
    layers, write = STYLES[style]
    tensors = {name: value for layer in layers for name, value in write(layer).items()}
    lora, printed = converted(tensors)
    without_alpha = (lambda layer: layer.alpha) if "kohya" in style else (lambda layer: layer.rank)
    assert_merged(lora, layers, shapes, without_alpha)
    assert "fit, ranks 2 to 4" in printed and "NOTE" not in printed


def test_products_of_three_matrices(converted, shapes):
    """LoCon's convolutions with a core between the two: folded into the first."""
    layer = next(layer for layer in ALL if layer.ours.endswith("conv1"))
    generator = np.random.default_rng(0)
    down, mid, up = (
        generator.standard_normal(shape).astype(np.float32) for shape in ((4, 32, 1, 1), (4, 4, 3, 3), (64, 4, 1, 1))
    )
    front = f"lora_unet_{layer.diffusers.replace('.', '_')}"
    tensors = {f"{front}.lora_{role}.weight": value for role, value in zip(("down", "mid", "up"), (down, mid, up))}
    lora, _ = converted(tensors | {f"{front}.alpha": np.array(2, np.float32)})
    merged = merging([(lora, 1.0)])(f"{layer.ours}.weight", np.zeros(layer.shape, np.float32))
    wanted = 0.5 * np.einsum("os,srkl,ri->oikl", up[..., 0, 0], mid, down[..., 0, 0])
    np.testing.assert_allclose(merged, wanted, atol=1e-6 * np.abs(wanted).max())


def test_convolutions_are_those_of_pytorch(converted):
    """conv(x, W) + alpha / r * conv1x1(conv(x, down), up), with a stride too: the merge of a layer is the layer."""
    torch = pytest.importorskip("torch")
    layer = next(layer for layer in ALL if layer.ours.endswith("conv1"))
    lora, _ = converted(kohya(layer, layer.diffusers))
    generator = np.random.default_rng(0)
    weight, x = (generator.standard_normal(shape).astype(np.float32) for shape in (layer.shape, (1, 32, 6, 6)))
    merged = merging([(lora, 1.0)])(f"{layer.ours}.weight", weight)
    down, up = map(torch.from_numpy, matrices(layer))
    x, conv = torch.from_numpy(x), torch.nn.functional.conv2d
    for stride in (1, 2):
        added = conv(conv(x, down, stride=stride, padding=1), up) * layer.alpha / layer.rank
        wanted = (conv(x, torch.from_numpy(weight), stride=stride, padding=1) + added).numpy()
        found = conv(x, torch.from_numpy(merged), stride=stride, padding=1).numpy()
        assert np.abs(found - wanted).max() < 2e-6 * np.abs(wanted).max()


PEFT = {"r": 8, "lora_alpha": 5, "alpha_pattern": {"attn1.to_q": 7}, "use_rslora": False, "bias": "none"}


def by_peft(layer: Layer) -> float:
    return 7.0 if layer.ours.endswith("attn1.to_q") else 5.0


def test_settings_of_peft(converted, shapes, tmp_path):
    """A folder with its settings, and one that has a folder for each network."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    names = {name: v for layer in ATTENTION for name, v in STYLES["peft"][1](layer).items()}
    save_file(names, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(PEFT))
    lora, _ = converted(folder)
    assert_merged(lora, ATTENTION, shapes, by_peft)


def test_a_folder_for_each_network(converted, shapes, tmp_path):
    for component, layers in {"unet": ATTENTION, "text_encoder": TEXT_ATTENTION}.items():
        folder = tmp_path / "adapters" / component
        folder.mkdir(parents=True)
        names = {name: v for layer in layers for name, v in STYLES["peft"][1](layer).items()}
        save_file(names, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(PEFT | {"use_rslora": component == "unet"}))
    lora, _ = converted(tmp_path / "adapters")
    scaled = lambda layer: by_peft(layer) * (1 if layer.text else layer.rank**0.5)  # noqa: E731
    assert_merged(lora, [*ATTENTION, *TEXT_ATTENTION], shapes, scaled)


def test_settings_in_the_metadata_of_diffusers(shapes, tmp_path):
    """For the model of a converted checkpoint, in place of a config."""
    config = write_text_checkpoint(tmp_path / "model.safetensors", SMALL_IMAGE)
    tensors = {name: v for layer in ATTENTION for name, v in STYLES["diffusers"][1](layer).items()}
    settings = json.dumps({f"unet.{key}": value for key, value in PEFT.items()})
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", {"lora_adapter_metadata": settings})
    flags = [f"--config={config}", f"--out_dir={tmp_path / 'out'}", "--dtype=fp16"]
    assert main([f"--pt_weights_file={tmp_path / 'pytorch_lora_weights.safetensors'}", *flags]) == 0
    written = tmp_path / "out" / "pytorch_lora_weights.safetensors"
    assert all(value.dtype == np.float16 for value in load_file(written).values())
    assert read_lora(written).alphas == {layer.ours: by_peft(layer) for layer in ATTENTION}


def test_a_file_of_pytorch(converted, shapes, tmp_path):
    """As AnimateDiff's domain adapter is published: tensors in a dictionary inside another one."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(v) for layer in ATTENTION for name, v in first_releases(layer, "module.").items()}
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "adapter.ckpt")
    lora, _ = converted(tmp_path / "adapter.ckpt")
    assert_merged(lora, ATTENTION, shapes, lambda layer: layer.rank)


@pytest.mark.parametrize("style", ["original", "diffusers"])
def test_motion_adapters(style, tmp_path, capsys):
    """MotionLoRA: adapters of AnimateDiff's motion modules, by the authors' names and those of diffusers' folders."""
    model = replace(SMALL_VIDEO, temporal=TemporalConfig(motion_modules=MotionModules(heads=2, max_frames=4)))
    (tmp_path / "video.yaml").write_text(dump_config(model))
    down, up = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((2, 64), (64, 2)))
    front, block = "down_blocks.1.motion_modules.0.", "transformer_blocks.0."
    original = f"{front}temporal_transformer.{block}attention_blocks.1."
    name = f"unet.{front}{block}attn2." if style == "diffusers" else original
    (tmp_path / "motion").mkdir()
    path = tmp_path / "motion" / "diffusion_pytorch_model.safetensors"
    save_file({f"{name}processor.to_out_lora.down.weight": down, f"{name}processor.to_out_lora.up.weight": up}, path)
    source = path.parent if style == "diffusers" else path
    flags = [f"--pt_weights_file={source}", f"--out_dir={tmp_path / 'out'}"]
    assert main([*flags, f"--config={tmp_path / 'video.yaml'}"]) == 0
    (written,) = (tmp_path / "out").iterdir()
    lora, (layer,) = read_lora(written), parameters_of_motion_modules(model)
    merged = merging([(lora, 1.0)])(f"{layer}.weight", np.zeros((64, 64), np.float32))
    np.testing.assert_allclose(merged, up @ down, atol=1e-5)
    capsys.readouterr()
    (tmp_path / "image.yaml").write_text(dump_config(SMALL_IMAGE))
    assert main([*flags, f"--config={tmp_path / 'image.yaml'}", "--overwrite"]) == 2
    assert "is a LoRA of AnimateDiff's motion modules, not of the model of the config" in capsys.readouterr().err


def parameters_of_motion_modules(model) -> list[str]:
    """The layer that these adapters are of: the output of the second attention over frames."""
    end = ".attn2.to_out.weight"
    return [name.removesuffix(".weight") for name in build.parameter_shapes(model)
            if name.startswith("network.down_blocks.1.attentions.0.temporal.") and name.endswith(end)]  # fmt: skip


# --- what does not fit ---


def test_names_that_do_not_fit_are_told(converted, shapes):
    strange = {"lora_unet_some_layer.lora_down.weight": np.ones((2, 8), np.float32),
               "lora_unet_some_layer.lora_up.weight": np.ones((8, 2), np.float32),
               "bundle_emb.cat.string_to_param": np.ones((3, 8), np.float32)}  # fmt: skip
    tensors = {name: v for layer in ATTENTION for name, v in kohya(layer, layer.diffusers).items()}
    lora, printed = converted(tensors | strange, "--report")
    assert_merged(lora, ATTENTION, shapes)
    assert "NOTE: 2 names did not fit the model and are left out (bundle_emb.cat.string_to_param, " in printed
    assert "ignored | lora_unet_some_layer" in printed and "| rank 4 | alpha 2" in printed


def of_base(context: int) -> dict[str, np.ndarray]:
    """Adapters of a full-size base, in which cross-attention sees so many channels."""
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    return {f"{name}.lora_down.weight": np.ones((4, context), np.float16),
            f"{name}.lora_up.weight": np.ones((640, 4), np.float16)}  # fmt: skip


def named(name: str) -> dict[str, np.ndarray]:
    shapes = {"down": (4, 8), "up": (8, 4)}
    return {f"{name}.lora_{role}.weight": np.ones(shape, np.float32) for role, shape in shapes.items()}


GOOD = kohya(ALL[0], ALL[0].diffusers)
FRONT = next(iter(GOOD)).partition(".")[0]
WRONG = {
    "SD 1": (of_base(768), "is a LoRA of Stable Diffusion 1, not of the model of the config: lora_unet_down_blocks_1"),
    "SD 2": (of_base(1024), "is a LoRA of Stable Diffusion 2, not of the model"),
    "SDXL": (of_base(2048), "is a LoRA of Stable Diffusion XL, not of the model"),
    "SDXL's text": (named("lora_te2_text_model_encoder_layers_0_mlp_fc1"), "is a LoRA of Stable Diffusion XL"),
    "FLUX": (named("lora_unet_double_blocks_0_img_attn_proj"), "is a LoRA of FLUX, not of the model"),
    "nothing fits": (named("lora_unet_other"), "is a LoRA of another model: that has none of its layers"),
    "DoRA": (GOOD | {f"{FRONT}.dora_scale": np.ones((1, 64), np.float32)}, "more than a product of two matrices"),
    "LoHa": ({f"{FRONT}.hada_w1_a": np.ones((64, 2), np.float32), f"{FRONT}.hada_w1_b": np.ones((2, 64), np.float32)},
             "more than a product of two matrices"),
    "half": ({name: v for name, v in GOOD.items() if "lora_up" not in name}, "is damaged: the adapter of"),
    "ranks": (GOOD | {f"{FRONT}.lora_up.weight": np.ones((64, 3), np.float32)}, "does not fit weights of [64, 64]"),
    "integers": ({name: v.astype(np.int32) for name, v in GOOD.items()}, "is not of a floating type"),
    "NaN": (GOOD | {f"{FRONT}.lora_up.weight": np.full((64, 2), np.nan, np.float32)}, "NaN"),
}  # fmt: skip


@pytest.mark.parametrize("tensors, problem", WRONG.values(), ids=WRONG)
def test_adapters_that_do_not_fit(tensors, problem, refused):
    assert problem in refused(tensors)


def test_both_names_of_a_layer(refused):
    layer = ALL[0]
    line = refused(kohya(layer, layer.diffusers) | kohya(layer, layer.single))
    assert "are both in the file, but mean the same" in line


def test_options_that_adapters_do_not_have(refused):
    assert "holds adapters (LoRA): they are converted without --to" in refused(GOOD, "--weights=plain")


def test_settings_that_cannot_be_used(refused, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(STYLES["peft"][1](ALL[0]), folder / "adapter_model.safetensors")
    for settings, problem in {"[]": "no mapping of names", '{"use_dora": true}': "more than a product",
                              '{"lora_alpha": "four"}': "lora_alpha has to be of type float"}.items():  # fmt: skip
        (folder / "adapter_config.json").write_text(settings)
        assert problem in refused(folder)
