"""Videos between two images against the published computation, with diffusers' UNet in PyTorch.

A UNet fine-tuned for videos backward in time takes the attention probabilities of the forward one, turned by 180
degrees; both predict v in every step, and the averages are one step of Euler's. Written from the papers' formulas.
"""

import copy
from dataclasses import replace
from functools import cache
from itertools import count

import numpy as np
import pytest
from comparison import CHAIN, NETWORK, assert_close, relative_error
from device import AMP_LEVEL, DEVICE
from mindspore import Tensor
from safetensors.numpy import load_file, save_file
from small_model import SMALL

from svd import load_pipeline
from svd.checkpoints.formats import REVERSAL_FORMAT
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import dump_config
from svd.diffusion.schedules import karras
from svd_tools.convert import convert

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

MODEL = replace(
    SMALL,
    unet=replace(SMALL.unet, attention_resolutions=[1]),  # as the published models, the first level has attention
    autoencoder=replace(SMALL.autoencoder, num_res_blocks=2),  # diffusers has no other
)
FRAMES = MODEL.sampling.num_frames


class SelfAttention:
    """diffusers' processor of a temporal self-attention, which keeps its probabilities or takes others."""

    def __init__(self, kept: dict, name: str, takes: bool):
        self.kept, self.name, self.takes = kept, name, takes

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None):
        q, k, v = (attn.head_to_batch_dim(layer(x)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        if self.takes:
            probabilities = self.kept[self.name].flip(-1, -2)
        else:
            probabilities = self.kept[self.name] = torch.softmax(q @ k.transpose(1, 2) * attn.scale, -1)
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ v))


def attentions(unet) -> dict:
    return {n: m for n, m in unet.named_modules() if n.endswith("temporal_transformer_blocks.0.attn1")}


class Models:
    """A small model, a UNet tuned from it for videos backward in time, and both in this project's files."""

    def __init__(self, folder):
        import torch_models

        pipeline = torch_models.torch_pipeline(MODEL)
        pipeline.unet = torch_models.with_one_epsilon(pipeline.unet)
        source, self.config = torch_models.save(pipeline, MODEL, folder)
        self.checkpoint = convert(source, self.config, folder / "converted")
        self.unet, self.tuned, kept = pipeline.unet, copy.deepcopy(pipeline.unet), {}
        generator = torch.Generator().manual_seed(5)
        for name, attention in attentions(self.tuned).items():
            for weight in (attention.to_v.weight, attention.to_out[0].weight):
                weight.data += 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
            attention.processor = SelfAttention(kept, name, takes=True)
        for name, attention in attentions(self.unet).items():
            attention.processor = SelfAttention(kept, name, takes=False)
        self.tuned.save_pretrained(folder / "tuned")
        self.tuned_folder = folder / "tuned"
        self.reversal = convert(self.tuned_folder, self.config, folder / "converted", reversal_of=self.checkpoint)
        self.load = cache(self._load)

    def _load(self, mode: int, reversal: bool):
        options = {"device_target": DEVICE, "mode": mode, "amp_level": AMP_LEVEL}
        return load_pipeline(self.config, self.checkpoint, **options, reversal=self.reversal if reversal else None)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    return Models(tmp_path_factory.mktemp("key_frames"))


def test_the_network_of_both_directions(mode, models):
    """Forward clips as by the original UNet, and backward ones as by the tuned one with its probabilities turned."""
    generator = np.random.default_rng(0)
    x, context = (generator.standard_normal(shape).astype(np.float32) for shape in ((4, FRAMES, 8, 8, 12), (4, 1, 16)))
    c_noise, numbers = np.float32([1.6, -0.4, 1.6, -0.4]), np.float32([[6, 127, 0.02], [24, 30, 0.3]] * 2)
    inputs = [torch.from_numpy(values) for values in (x, c_noise, context, numbers)]
    with torch.no_grad():
        forward, backward, plain = (
            unet(*(values[part] for values in inputs)).sample
            for unet, part in ((models.unet, slice(2)), (models.tuned, slice(2, 4)), (models.unet, slice(2, 4)))
        )
    assert relative_error(backward, plain) > 0.01
    pipe = models.load(mode, True)
    vector = pipe.conditioner.embed_numbers(4, *numbers.T)
    result = pipe.denoiser.network(Tensor(x), Tensor(c_noise), Tensor(context), vector, False)
    assert_close(result, torch.cat([forward, backward]), NETWORK)


SETTINGS = {
    "average": {"guidance": [1.0, 3.0]},
    "linear": {"guidance": [1.0, 3.0], "fusion": "linear"},
    "renoised": {"guidance": [1.0, 1.0], "renoise": 2, "renoise_part": 0.5},
}


@pytest.mark.parametrize("reversal", [False, True], ids=["as_published", "fine_tuned"])
@pytest.mark.parametrize("name", SETTINGS)
def test_sampling(eager, models, name, reversal):
    """Four steps, of which the first two are done three times in one of the settings."""
    pipe = models.load(1, reversal)
    settings = pipe.settings(sampling_steps=4, sigma_max=50.0, **SETTINGS[name])
    generator = np.random.default_rng(1)
    pixels = [generator.uniform(-1, 1, (1, 3, 16, 24)).astype(np.float32) for _ in range(2)]
    noise, aug_noise = (
        generator.standard_normal(s).astype(np.float32) for s in ((1, FRAMES, 4, 8, 12), (1, 3, 16, 24))
    )
    fresh = generator.standard_normal((4, *noise.shape)).astype(np.float32)
    pairs = [pipe.condition(image, aug_noise, settings, progress=False) for image in pixels]
    numbers = count()
    drawn = {"churn_noise": lambda shape: Tensor(fresh[next(numbers)]), "progress": False, "last": pairs[1]}
    result = pipe.sample(pairs[0], noise, settings, **drawn)
    assert_close(result, published(models, reversal, pairs, noise, fresh, settings), CHAIN)


@torch.no_grad()
def published(models: Models, reversal: bool, pairs, noise, fresh, settings) -> np.ndarray:
    """One video, by PyTorch."""
    scale = torch.linspace(*settings.guidance, FRAMES).reshape(1, -1, 1, 1, 1)
    weight = torch.linspace(1, 0, FRAMES).reshape(1, -1, 1, 1, 1)
    if settings.fusion == "average":
        scale, weight = (scale + scale.flip(1)) / 2, 0.5
    told = torch.tensor([[settings.fps - 1, settings.motion_bucket_id, settings.noise_aug_strength]]).repeat(2, 1)

    def v(unet, x, sigma, pair):
        context, concat = (torch.cat([torch.from_numpy(getattr(each, name).asnumpy()) for each in pair[::-1]])
                           for name in ("context", "concat"))  # fmt: skip
        both = torch.cat([torch.cat([x, x]) / (sigma**2 + 1) ** 0.5, concat], 2)
        uncond, cond = unet(both, torch.tensor([0.25 * np.log(sigma)] * 2).float(), context, told).sample.chunk(2)
        return uncond + scale * (cond - uncond)

    def step(x, sigma, sigma_next):
        forward = v(models.unet, x, sigma, pairs[0])
        backward = v(models.tuned if reversal else models.unet, x.flip(1), sigma, pairs[1]).flip(1)
        mean = weight * forward + (1 - weight) * backward
        x0 = x / (sigma**2 + 1) - mean * sigma / (sigma**2 + 1) ** 0.5
        return x + (x - x0) / sigma * (sigma_next - sigma)

    sigmas = karras(4, settings.sigma_max, settings.sigma_min, settings.rho).tolist()
    x, numbers = torch.from_numpy(noise) * (1 + sigmas[0] ** 2) ** 0.5, count()
    for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:])):
        x = step(x, sigma, sigma_next)
        for _ in range(settings.renoise if i < 4 * settings.renoise_part else 0):
            x = x + (sigma**2 - sigma_next**2) ** 0.5 * torch.from_numpy(fresh[next(numbers)])
            x = step(x, sigma, sigma_next)
    return x.numpy()


# --- the file ---


def test_the_file_holds_what_was_changed(models):
    """Values and output of each temporal self-attention; biases stayed as they were."""
    differences = load_file(models.reversal)
    assert len(differences) == 3 * len(attentions(models.unet)) and all(
        v.dtype == np.float32 for v in differences.values()
    )
    assert all((np.abs(value).max() > 0) == name.endswith("weight") for name, value in differences.items())


def test_matrices_alone(models, tmp_path):
    wanted = ("attn1.to_v.weight", "attn1.to_out.0.weight", "attn1.to_out.0.bias")
    state = {n: t.numpy() for n, t in models.tuned.state_dict().items() if ".temporal_" in n and n.endswith(wanted)}
    save_file(state, tmp_path / "matrices.safetensors")
    path = convert(tmp_path / "matrices.safetensors", models.config, tmp_path, reversal_of=models.checkpoint)
    assert path == tmp_path / "matrices_reversal.safetensors"
    for name, value in load_file(models.reversal).items():
        np.testing.assert_array_equal(load_file(path)[name], value)


def test_unets_that_are_no_such_fine_tuning_are_refused(models, tmp_path):
    other = copy.deepcopy(models.unet)
    other.save_pretrained(tmp_path / "same")
    with pytest.raises(CheckpointError, match="it was not fine-tuned"):
        convert(tmp_path / "same", models.config, tmp_path, reversal_of=models.checkpoint)
    next(iter(attentions(other).values())).to_q.weight.data += 1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="to_q.weight, which that leaves as it is, differs"):
        convert(tmp_path / "other", models.config, tmp_path, reversal_of=models.checkpoint)
    with pytest.raises(CheckpointError, match="goes without --to"):
        convert(models.tuned_folder, models.config, tmp_path, reversal_of=models.checkpoint, to="sgm")


def test_files_that_do_not_fit_are_refused(eager, models, tmp_path):
    def load(path, config=models.config):
        return load_pipeline(config, models.checkpoint, DEVICE, 1, reversal=path)

    with pytest.raises(CheckpointError, match="holds nothing for videos backward in time"):
        load(models.checkpoint)
    tensors = load_file(models.reversal)
    name = next(iter(tensors))
    metadata = {"format": REVERSAL_FORMAT, "config": dump_config(MODEL)}
    for changed, what in (
        ({name: tensors[name][1:]}, rf"{name.removeprefix('network.')} \["),
        ({"network.conv_in.weight": tensors[name]}, "conv_in.weight, which is no value or output"),
        ({name: tensors[name] * np.nan}, "not finite"),
    ):
        save_file(tensors | changed, tmp_path / "wrong.safetensors", metadata)
        with pytest.raises(CheckpointError, match=what):
            load(tmp_path / "wrong.safetensors")
    other = replace(MODEL, unet=replace(MODEL.unet, num_res_blocks=2))
    save_file(tensors, tmp_path / "other.safetensors", metadata | {"config": dump_config(other)})
    with pytest.raises(CheckpointError, match="of another model .* its unet.num_res_blocks is 2, not 1"):
        load(tmp_path / "other.safetensors")
